"""Where the inputs of the control machine are kept, so that a new process can become the old one.

A storage holds the *inputs* that changed something (``JournalEntry``), in order, and now and then the state that they
led to (``Snapshot``), which takes the place of all entries before it. Replaying the rest through a machine in that
state gives the same tables and answers. Telemetry is the machine's *output*, and no substitute.

Of several processes with one storage at most one writes: it has *claimed* the storage under an epoch greater than all
before, and what shows an older epoch is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from zlib import crc32

CHECKSUM_BYTES = 4


class Held(OSError):
    """Another process writes here; the sentence names it."""


class Fenced(OSError):
    """Another process has taken over since: this one must not answer anybody any more."""


class NoRoom(OSError):
    """The storage keeps nothing more for now, and what it has can be read: a full disk, or one that is read-only."""


def sealed(data: bytes) -> bytes:
    """``data`` with a checksum before it."""
    return crc32(data).to_bytes(CHECKSUM_BYTES, "big") + data


def unsealed(data: bytes) -> bytes:
    """What ``sealed`` was given. Raises ValueError if it is damaged."""
    kept, found = int.from_bytes(data[:CHECKSUM_BYTES], "big"), crc32(memoryview(data)[CHECKSUM_BYTES:])
    if len(data) < CHECKSUM_BYTES or kept != found:
        raise ValueError(f"damaged: its checksum says {kept:08x} and its {len(data)} bytes have {found:08x}")
    return data[CHECKSUM_BYTES:]


class Storage(Protocol):
    """What the shell needs of a durable log. ``durable``: whether what it keeps outlives the process."""

    durable: bool
    #: Of the claim; 0 before.
    epoch: int

    @property
    def place(self) -> str:
        """Where it is, for people."""

    def acquire(self) -> None:
        """Become the one that writes. Raises Held if there is one."""

    def stand_by(self, stopped: Callable[[], bool], follow: Callable[[], None]) -> str:
        """Wait until the one that writes is gone, and become it. Returns why, or "" if ``stopped`` came first.

        ``follow`` is called in this thread again and again, if what is kept by then is kept for good and may be loaded.
        """

    def load(self, more: bool = False) -> tuple[bytes | None, Iterator[bytes]]:
        """The newest snapshot (b"": none) and all entries after it. Raises ValueError if some are damaged or lack.

        ``more``: only what came after the last call, and None for the snapshot, if that can be told from the rest.
        """

    def append(self, entries: list[bytes]) -> None:
        """Keep entries; they survive a crash once this returns.

        Raises Fenced, NoRoom if there is none at the moment, OSError for everything else.
        """

    def compact(self, state: bytes) -> None:
        """``state`` is where all entries so far lead to: they need not be kept any longer. Raises as ``append``."""

    @property
    def compaction_due(self) -> bool:
        """Whether the entries take so much room that a snapshot is worth it."""

    def try_to_write(self) -> None:
        """Write something that changes nothing. Raises as ``append``."""

    def renew(self) -> None:
        """Say that this process lives, and make sure that it may still answer. Raises Fenced."""

    def announce(self, address: str) -> None:
        """This process may be found at ``host:port``, now or once it is its turn."""

    def places(self) -> list[str]:
        """Where the processes of this storage may be found."""

    def close(self) -> None:
        """Let go: another process may write at once."""


class MemoryJournal:
    """Keeps entries as long as the object lives: for simulations, and to check that replay gives the same state."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def append(self, entry: bytes) -> None:
        self.entries.append(entry)

    def replay(self) -> Iterator[bytes]:
        return iter(list(self.entries))


class NoStorage:
    """Keeps nothing: the control store of a single machine ends with its node, and nobody could read what it kept."""

    durable = False
    place = "memory"
    compaction_due = False

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def acquire(self) -> None:
        pass

    def stand_by(self, stopped: Callable[[], bool], follow: Callable[[], None]) -> str:
        raise ValueError("a standby needs a storage that it shares with the one it stands by for: use --storage")

    def load(self, more: bool = False) -> tuple[bytes, Iterator[bytes]]:
        return b"", iter(())

    def append(self, entries: Iterable[bytes]) -> None:
        pass

    def compact(self, state: bytes) -> None:
        pass

    def try_to_write(self) -> None:
        pass

    def renew(self) -> None:
        pass

    def announce(self, address: str) -> None:
        pass

    def places(self) -> list[str]:
        return []

    def close(self) -> None:
        pass
