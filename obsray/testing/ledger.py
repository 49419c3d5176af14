"""What really happened in a simulated run, written down by the simulator itself and not by the machines."""

from __future__ import annotations

from typing import Any

from obsray.ids import owner_of, sequence_of


class Broken(AssertionError):
    """Something happened that must never happen."""


class Ledger:
    """Counts attempts as virtual workers begin them, and the order in which actors run calls."""

    def __init__(self) -> None:
        #: task -> attempts begun by any worker; task -> how often it may begin (0: without bound).
        self.begun: dict[bytes, int] = {}
        self.allowed: dict[bytes, int] = {}
        self.names: dict[bytes, str] = {}
        #: Creation tasks of actors: restarts are the actor's, not theirs.
        self.creations: set[bytes] = set()
        self.submitted = 0
        self.ended = 0
        #: Deaths and orderly ends of processes, requests to cancel or to remove a group: what may excuse an error.
        self.deaths = 0
        self.exits = 0
        self.cancels = 0
        self.groups_removed = 0
        #: Files of spilled objects that vanished.
        self.files_lost = 0
        #: Connections that broke or may have.
        self.cuts = 0
        #: task -> tasks whose errors it may fail with: those it takes results of, those it submitted.
        self._causes: dict[bytes, list[bytes]] = {}
        #: object -> the mark of the value that was read first; objects that may have been made again.
        self._read: dict[bytes, int] = {}
        self._remade: set[bytes] = set()
        self._marks = 0
        #: Line of tasks that wait for older ones -> numbers of those that have run.
        self.ran_in_line: dict[int, set[int]] = {}
        #: (actor process, caller) -> sequence of the call that began last.
        self._last_call: dict[tuple[bytes, bytes], int] = {}

    def submit(self, task: bytes, name: str, retries: int, parent: bytes, arguments: list[bytes]) -> None:
        """A process submitted a task. ``arguments``: tasks whose results it takes."""
        self.submitted += 1
        self._causes[task] = arguments
        self._causes.setdefault(parent, []).append(task)
        self.allowed[task] = retries + 1 if retries >= 0 else 0
        self.names[task] = name

    def begin(self, worker: bytes, running: Any, is_actor: bool) -> None:
        """A worker begins an attempt. Raises Broken if that is one too many or out of order."""
        task = running.task
        count = self.begun[task] = self.begun.get(task, 0) + 1
        if task not in self.allowed:
            self.creations.add(task)
            return
        allowed = self.allowed[task]
        if allowed and count > allowed:
            raise Broken(f"{self.names[task]} {task.hex()} begins for the {count}th time, {allowed} are allowed")
        if is_actor:
            key, sequence = (worker, owner_of(task)), sequence_of(task)
            if self._last_call.get(key, -1) >= sequence:
                raise Broken(f"call {sequence} of {key[1].hex()} begins after its call {self._last_call[key]}")
            self._last_call[key] = sequence

    def next_made(self) -> int:
        """The mark of a value that somebody is about to store."""
        self._marks += 1
        return self._marks

    def read(self, identifier: bytes, made: int) -> None:
        """Somebody reads an object. Raises Broken if another one has read what another attempt had made."""
        known = self._read.setdefault(identifier, made)
        if known != made and identifier not in self._remade:
            raise Broken(f"object {identifier.hex()} has two values: some have read what another attempt made")

    def lost(self, identifier: bytes) -> None:
        """An object is lost, or was let go because it can be made again: it may be another one then."""
        self._remade.add(identifier)

    def crashed_too_often(self, task: bytes) -> bool:
        """Whether a task, or one whose error it may have got, has used up its attempts."""
        looked: set[bytes] = set()
        to_look = [task]
        while to_look:
            task = to_look.pop()
            if task in looked:
                continue
            looked.add(task)
            if task in self.allowed and self.begun.get(task, 0) >= self.allowed[task] > 0:
                return True
            to_look += self._causes.get(task, ())
        return False
