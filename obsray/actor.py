"""What code inside an actor may ask for."""

from __future__ import annotations

from typing import NoReturn

from obsray.core.remote import ActorClass, ActorHandle


def exit_actor() -> NoReturn:
    """End the actor this is called in, after this call; it is not restarted. Raises TypeError outside actors."""
    from obsray.core.runtime.session import current_or_none

    session = current_or_none()
    executor = session.executor if session is not None else None
    if executor is None or executor.actor is None:
        raise TypeError("exit_actor() can only be called inside an actor")
    from obsray.core.runtime.actor import ActorExit

    raise ActorExit


__all__ = ["ActorClass", "ActorHandle", "exit_actor"]
