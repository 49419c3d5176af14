"""Several actors of one class that are called together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from obsray.core import api
from obsray.core.actors import ActorClass
from obsray.core.remote import remote


@dataclass(frozen=True)
class ActorMetadata:
    """Where an actor of a group runs."""

    node_id: str
    node_ip: str
    hostname: str
    pid: int


@dataclass(frozen=True)
class ActorWrapper:
    """One actor of a group."""

    actor: Any
    metadata: Any


class ActorGroup:
    """``num_actors`` actors of ``actor_cls``: ``group.method.remote(...)`` calls all and returns a list of references.

    ``init_args`` and ``init_kwargs`` go to each constructor. Waits until all of them live. Raises ValueError for
    numbers that make no group, TypeError for a class that is none.
    """

    def __init__(
        self,
        actor_cls: type | ActorClass[Any],
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: dict[str, float] | None = None,
        init_args: Sequence[Any] | None = None,
        init_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(num_actors, int) or num_actors < 1:
            raise ValueError(f"num_actors={num_actors!r}: must be a number >= 1")
        if num_cpus_per_actor < 0 or num_gpus_per_actor < 0:
            raise ValueError("num_cpus_per_actor and num_gpus_per_actor must be >= 0")
        if not isinstance(actor_cls, (type, ActorClass)):
            raise TypeError(f"actor_cls must be a class, got {type(actor_cls).__name__}")
        made: Any = actor_cls if isinstance(actor_cls, ActorClass) else remote(actor_cls)
        self._class = made.options(
            num_cpus=num_cpus_per_actor, num_gpus=num_gpus_per_actor, resources=resources_per_actor or {}
        )
        self._arguments = (tuple(init_args or ()), dict(init_kwargs or {}))
        self.actors: list[ActorWrapper] = []
        self.num_actors = num_actors
        self.start()

    def start(self) -> None:
        """Make the actors again after ``shutdown``. Raises RuntimeError while there are some."""
        if self.actors:
            raise RuntimeError("the actors have been started already; shut the group down first")
        self.add_actors(self.num_actors)

    def add_actors(self, num_actors: int) -> None:
        """Make more actors."""
        args, kwargs = self._arguments
        new = [self._class.remote(*args, **kwargs) for _ in range(num_actors)]
        found = api.get([actor.__ray_call__.remote(_metadata) for actor in new])
        self.actors += [ActorWrapper(actor, facts) for actor, facts in zip(new, found, strict=True)]

    def remove_actors(self, actor_indexes: Sequence[int]) -> None:
        """End some of the actors, by their place in the group."""
        doomed = set(actor_indexes)
        if not doomed <= set(range(len(self.actors))):
            raise IndexError(f"actor_indexes={list(actor_indexes)}: the group has {len(self.actors)} actors")
        for index in doomed:
            api.kill(self.actors[index].actor)
        self.actors = [each for index, each in enumerate(self.actors) if index not in doomed]

    def shutdown(self, patience_s: float = 5) -> None:
        """End all actors: after what they are doing, at the latest ``patience_s`` seconds from now."""
        ended = [each.actor.__ray_terminate__.remote() for each in self.actors] if patience_s > 0 else []
        if ended:
            api.wait(ended, num_returns=len(ended), timeout=patience_s)
        for each in self.actors:
            api.kill(each.actor)
        self.actors = []

    @property
    def actor_metadata(self) -> list[Any]:
        """Where each of them runs, an ``ActorMetadata``, or what ``get_actor_metadata`` of its class has returned."""
        return [each.metadata for each in self.actors]

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, index: int) -> Any:
        return self.actors[index].actor

    def __getattr__(self, name: str) -> ActorGroupMethod:
        actors = self.__dict__.get("actors")
        if actors is None or name.startswith("_"):
            raise AttributeError(name)
        if not actors:
            raise RuntimeError("the group was shut down; start() it again")
        getattr(actors[0].actor, name)  # says which methods there are
        return ActorGroupMethod(self, name)


class ActorGroupMethod:
    """A method of all actors of a group."""

    def __init__(self, group: ActorGroup, name: str) -> None:
        self._group, self._name = group, name

    def remote(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Call it; one reference for each actor."""
        return [getattr(each.actor, self._name).remote(*args, **kwargs) for each in self._group.actors]


def _metadata(actor: Any) -> Any:
    if hasattr(actor, "get_actor_metadata"):
        return actor.get_actor_metadata()
    import os
    import socket

    node = api.get_runtime_context().get_node_id()
    return ActorMetadata(node, "127.0.0.1", socket.gethostname(), os.getpid())


__all__ = ["ActorGroup", "ActorGroupMethod", "ActorMetadata", "ActorWrapper"]
