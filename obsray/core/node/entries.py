"""The nouns of the object table: an object, a wait for room, and how both are told to people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from obsray.core.node.step import Step
from obsray.core.protocol.lifecycle import ObjectState
from obsray.ids import WORKER_ID_BYTES, short

HOLDERS_NAMED_MAX = 5


@dataclass(slots=True, eq=False)
class Entry:
    """One object of this node.

    ``offset`` is where its range begins, -1 while it has none; from ``FALLBACK`` on, it lies in its file.
    ``stored_path`` names its complete file on disk, "" if there is none. ``doomed``: its owner freed it, and it goes as
    soon as nobody writes or reads it.
    ``copy``: it was fetched from another node and can be fetched again. ``replaces``: what was lost here before.
    """

    id: bytes
    size: int
    creator: bytes
    created_at: float
    state: ObjectState = ObjectState.CREATED
    offset: int = -1
    pins: dict[bytes, int] = field(default_factory=dict)
    waiting: list[Reader] = field(default_factory=list)
    stored_path: str = ""
    token: int = 0
    doomed: bool = False
    wants_room: bool = False
    error: str = ""
    copy: bool = False
    replaces: Entry | None = None

    @property
    def owner(self) -> bytes:
        return self.id[:WORKER_ID_BYTES]


@dataclass(slots=True, eq=False)
class Reader:
    """A client that waits to pin an object, or (``serves``) another node: ``request`` is then a transfer's token.

    ``keeps``: the object, if it is to stay on this node because it leaves another and nobody reads it.
    """

    client: bytes
    request: int
    asked_at: float
    serves: bool = False
    keeps: bytes = b""


@dataclass(slots=True, eq=False)
class Wait:
    """Somebody waits for room: a writer (``request`` of ``client``), or a spilled object that is wanted again."""

    entry: Entry
    asked_at: float
    client: bytes = b""
    request: int = 0
    told: bool = False

    @property
    def restores(self) -> bool:
        return not self.client


class Sharer(Protocol):
    """What an object table tells of its objects where there are other nodes (``sharing.py``)."""

    def wanted(self, step: Step, reader: Reader, object_id: bytes) -> bool:
        """Somebody wants what is not here. False: it is nowhere else either."""

    def sealed(self, step: Step, entry: Entry) -> None:
        """An object is complete here."""

    def room(self, step: Step, entry: Entry) -> None:
        """There is room for the copy that was asked for."""

    def no_room(self, step: Step, object_id: bytes, error: str, detail: str) -> None:
        """There is none; ``error`` as in ``ObjectRefused``."""

    def dropped(self, step: Step, entry: Entry) -> None:
        """A copy is gone from here."""

    def lost(self, step: Step, entry: Entry) -> None:
        """An object that was here cannot be read any more."""

    def taken(self, step: Step, object_id: bytes, error: str) -> None:
        """What was to be taken over from another node is here to stay, or (``error``) cannot be had."""

    def owner_gone(self, step: Step, owner: bytes) -> None:
        """A client ended: what it owned goes everywhere."""

    def freed(self, step: Step, owner: bytes, objects: tuple[bytes, ...]) -> None:
        """An owner wants these to go everywhere."""

    def items_ended(self, step: Step, owner: bytes, task: bytes, kept: Iterable[bytes]) -> Iterable[bytes]:
        """Of what a streaming task has stored only ``kept`` is to stay: what is known of it elsewhere."""


@dataclass(frozen=True, slots=True)
class StoreNumbers:
    """The numbers of a ``store_sample`` (bytes and counts)."""

    capacity_bytes: int
    used_bytes: int
    pinned_bytes: int
    spilled_bytes: int
    objects: int
    objects_spilled: int
    allocations_waiting: int
    largest_free_bytes: int
    fallback_bytes: int


def show_bytes(size: int) -> str:
    """``1.5 MiB``"""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def explain_full(
    size: int, numbers: StoreNumbers, holders: list[Entry], owners: list[tuple[bytes, int, int]], spill_error: str
) -> str:
    """Why there is no room for ``size`` bytes: the sizes, who holds what, and why spilling did not help.

    ``holders`` are the largest pinned objects, ``owners`` the processes with the most bytes: id, objects, bytes.
    """
    free = numbers.capacity_bytes - numbers.used_bytes
    largest = numbers.largest_free_bytes
    show = show_bytes if show_bytes(size) != show_bytes(largest) else "{:,} bytes".format
    text = (
        f"no room for {show(size)}: {show_bytes(free)} of {show_bytes(numbers.capacity_bytes)} free "
        f"(largest range {show(largest)}), {show_bytes(numbers.pinned_bytes)} pinned by readers"
    )
    if holders:
        named = ", ".join(
            f"{short(entry.id)} {show_bytes(entry.size)} by {' '.join(client.hex()[:8] for client in entry.pins)}"
            for entry in holders[:HOLDERS_NAMED_MAX]
        )
        text += f": {named}"
    if numbers.spilled_bytes:
        text += f"; {show_bytes(numbers.spilled_bytes)} are on disk"
    if numbers.fallback_bytes:
        text += f"; {show_bytes(numbers.fallback_bytes)} are in files beside the store"
    if owners:
        named = ", ".join(
            f"{owner.hex()[:8]} {show_bytes(size)} in {count} object{'s' * (count > 1)}"
            for owner, count, size in owners
        )
        text += f"; most belongs to {named}"
    if spill_error:
        text += f"; writing to disk failed: {spill_error}"
    return text
