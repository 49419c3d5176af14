"""What code inside an actor may ask for."""

from __future__ import annotations

from typing import NoReturn

from obsray.core.actors import ActorClass, ActorClassInheritanceException
from obsray.core.handles import ActorHandle, ActorMethod
from obsray.core.remote import method
from obsray.errors import AsyncioActorExit


def exit_actor() -> NoReturn:
    """End the actor this is called in, after this call; it is not restarted. Raises TypeError outside actors.

    In an async actor what else runs on its loops is cancelled; actors with threads wait for calls that run. May be
    called by code that no call waits for, too: a task of the loop, a thread. Raises what ends the call: SystemExit,
    and in async actors ``AsyncioActorExit``; whoever catches that does not keep the actor alive.
    """
    from obsray.core.runtime.session import current_or_none

    session = current_or_none()
    executor = session.executor if session is not None else None
    if executor is None or executor.actor is None:
        raise TypeError("exit_actor() can only be called inside an actor")
    from obsray.core.runtime.actor import ActorExit

    executor.actor.asked_to_leave()
    if executor.actor.loops:
        # Anything derived from SystemExit would end the loop itself.
        raise AsyncioActorExit("exit_actor() was called")
    raise ActorExit


def save_checkpoint() -> None:
    """Have the actor's state saved as soon as the call that asks has ended.

    Raises TypeError outside actors, and in an actor whose class has no ``__obsray_save__`` or that is not to be started
    again (``max_restarts``).
    """
    from obsray.core.runtime.session import current_or_none

    session = current_or_none()
    executor = session.executor if session is not None else None
    if executor is None or executor.actor is None:
        raise TypeError("save_checkpoint() can only be called inside an actor")
    if executor.checkpoints is None:
        raise TypeError(
            "save_checkpoint() needs an actor with __obsray_save__, __obsray_restore__ and max_restarts, and is not "
            "for its constructor"
        )
    executor.checkpoints.requested = True


__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
    "method",
    "save_checkpoint",
]
