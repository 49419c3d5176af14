"""Where the members of a group find one another: one actor for all groups of a session. No data passes through it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any

from obsray.core.api import session
from obsray.core.remote import remote

NAME, NAMESPACE = "rendezvous", "_obsray_collective"

Key = tuple[str, str]


@dataclass
class _Forming:
    """A group that waits for members."""

    members: int
    backend: str
    identifier: bytes = field(default_factory=lambda: os.urandom(16))
    addresses: dict[int, str] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    #: What went wrong: the name of an error, and its text.
    failure: tuple[str, str] | None = None

    def fail(self, kind: str, text: str) -> None:
        self.failure = self.failure or (kind, text)
        self.over.set()


class _Rendezvous:
    """Says in its results, not by errors, what went wrong: it is the same for all who wait."""

    def __init__(self) -> None:
        self.forming: dict[Key, _Forming] = {}
        self.declared: dict[Key, dict[str, Any]] = {}

    async def join(self, key: Key, rank: int, members: int, backend: str, address: str, seconds: float) -> Any:
        """``(group id, addresses by rank)`` once all are here, or ``(name of an error, text)``."""
        group = self.forming.get(key)
        if group is None:
            group = self.forming[key] = _Forming(members, backend)
        if (group.members, group.backend) != (members, backend):
            group.fail(
                "CollectiveMismatchError",
                f"group {key[1]!r}: one member says {group.members} members over {group.backend}, "
                f"rank {rank} says {members} over {backend}",
            )
        elif rank in group.addresses:
            group.fail("CollectiveMismatchError", f"group {key[1]!r}: two members say they are rank {rank}")
        else:
            group.addresses[rank] = address
            if len(group.addresses) == members:
                group.over.set()
        try:
            await asyncio.wait_for(group.over.wait(), seconds)
        except TimeoutError:
            missing = [each for each in range(members) if each not in group.addresses]
            group.fail("CollectiveTimeoutError", f"group {key[1]!r}: ranks {missing} did not join within {seconds:g} s")
        if self.forming.get(key) is group:
            del self.forming[key]
        if group.failure is not None:
            return group.failure
        return group.identifier, [group.addresses[each] for each in range(members)]

    async def declare(self, key: Key, facts: dict[str, Any]) -> bool:
        """Write down who is to be which rank; False if that was done already."""
        if key in self.declared:
            return False
        self.declared[key] = facts
        return True

    async def declaration(self, key: Key) -> dict[str, Any] | None:
        return self.declared.get(key)

    async def withdraw(self, key: Key) -> None:
        self.declared.pop(key, None)


def rendezvous() -> Any:
    """The handle of the session's actor, which is made by whoever needs it first."""
    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached", "num_cpus": 0}
    return remote(_Rendezvous).options(**options, max_concurrency=100_000).remote()


def key_of(group_name: str) -> Key:
    """A group's name is known within its namespace."""
    return session().namespace, group_name
