"""Where the inputs of the control machine are kept, so that a new process can become the old one.

The journal holds the *inputs* that changed something (``JournalEntry``), in order; replaying them through a fresh
machine gives the same tables, changes and answers. Telemetry is the machine's *output*, and no substitute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Journal(Protocol):
    """What the shell needs of a durable log."""

    def append(self, entry: bytes) -> None:
        """Keep ``entry``; it survives a crash once this returns. Raises OSError if it cannot be kept."""

    def replay(self) -> Iterator[bytes]:
        """All entries that were kept, oldest first."""


class MemoryJournal:
    """Keeps entries as long as the object lives: for simulations, and to check that replay gives the same state."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def append(self, entry: bytes) -> None:
        self.entries.append(entry)

    def replay(self) -> Iterator[bytes]:
        return iter(list(self.entries))


class NoJournal:
    """Keeps nothing: the control store of a single machine ends with its node, and nobody could read what it kept."""

    def append(self, entry: bytes) -> None:
        pass

    def replay(self) -> Iterator[bytes]:
        return iter(())
