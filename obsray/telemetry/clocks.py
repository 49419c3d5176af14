"""Records of several nodes on one clock, that of the head.

The head measures how far the clock of each other node is from its own (event ``clock_measured``). What is stored keeps
the times its writers saw; readers take the difference off whenever records of several nodes are shown together. A
measurement counts from its instant on, by the node's own clock, and the first one also for what came before.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

import numpy as np

from obsray.ids import mark_of_node
from obsray.telemetry.columns import Array, Batch, Columns
from obsray.telemetry.events import BY_NAME

_INSTANT_MAX = 1 << 62
_SECONDS_MAX = 1e9
#: Fields that are instants on the clock of whoever wrote the record.
_INSTANTS = frozenset({"first_at", "arrived_at", "started_at", "ended_at", "launched_at"})
#: Those on the clock of the owner of the record's task.
_OWNERS_INSTANTS = frozenset({"dispatched_at"})
#: Event -> its fields of both kinds.
_FIELDS = {
    name: (
        ["time_ns", *(field.name for field in event.fields if field.name in _INSTANTS)],
        [field.name for field in event.fields if field.name in _OWNERS_INSTANTS],
    )
    for name, event in BY_NAME.items()
}


class Clocks:
    """``node_of`` says whose process wrote a record (``bytes(8)`` or None: of the node that all is shown on)."""

    def __init__(self, node_of: Callable[[bytes], bytes | None]) -> None:
        self._node_of = node_of
        #: Node -> when (its own clock, ns), how far ahead of the head's (ns), how wrong that may be (ns).
        self._measured: dict[bytes, list[tuple[int, int, int]]] = {}
        self._steps: dict[bytes, tuple[Array, Array]] = {}
        self._by_mark: dict[int, bytes] = {}

    def __bool__(self) -> bool:
        """Whether any other clock is known."""
        return bool(self._measured)

    def learn(self, columns: Columns) -> None:
        """Take in ``clock_measured`` records; those known already change nothing."""
        for node, at, *seconds in zip(
            columns["node"], columns["node_time"].tolist(), columns["offset_seconds"].tolist(),
            columns["uncertainty_seconds"].tolist(), strict=True,
        ):  # fmt: skip
            if at > _INSTANT_MAX or not all(abs(each) < _SECONDS_MAX for each in seconds):
                continue  # no clock says that
            known = self._measured.setdefault(node.tobytes(), [])
            sample = at, round(seconds[0] * 1e9), round(seconds[1] * 1e9)
            if sample in known:
                continue
            insort(known, sample)
            self._steps[node.tobytes()] = (
                np.array([at for at, _, _ in known], np.int64), np.array([offset for _, offset, _ in known], np.int64)
            )  # fmt: skip
            self._by_mark[int.from_bytes(mark_of_node(node.tobytes()), "little")] = node.tobytes()

    def uncertainty_ns(self, process: bytes) -> int:
        """How wrong the corrected times of one process may be."""
        node = self._node_of(process)
        known = self._measured.get(node) if node else None
        return known[-1][2] if known else 0

    def corrected(self, columns: Columns) -> Columns:
        """The same records with the times of other nodes on the head's clock."""
        if not self._measured or not len(columns):
            return columns
        own, owners = _FIELDS[columns.event.name]
        changed: dict[str, Array] = {}
        for node, rows in self._by_writer(columns["process"]):
            self._shift(columns, own, node, rows, changed)
        if owners:
            marks = np.ascontiguousarray(columns["task"]).view("<u4").reshape(-1, 4)[:, 1]
            for mark, node in self._by_mark.items():
                rows = np.flatnonzero(marks == mark)
                if len(rows):
                    self._shift(columns, owners, node, rows, changed)
        return Columns(columns.event, {**columns.arrays, **changed}) if changed else columns

    def corrected_all(self, batch: Batch) -> Batch:
        """A batch of several kinds. Measurements in it are learnt first."""
        measured = batch.get("clock_measured")
        if measured is not None:
            self.learn(measured)
        if not self._measured:
            return batch
        return {name: self.corrected(columns) for name, columns in batch.items()}

    def _by_writer(self, process: Array) -> list[tuple[bytes, Array]]:
        """Nodes with a known clock, and the rows that their processes wrote."""
        words = np.ascontiguousarray(process).view("<u8")
        starts = np.concatenate([[0], np.flatnonzero(words[1:] != words[:-1]) + 1])
        numbers: dict[bytes, int] = {}
        owners = np.full(len(starts), -1, np.int64)
        known: dict[int, int] = {}
        for index, word in enumerate(words[starts].tolist()):
            number = known.get(word)
            if number is None:
                node = self._node_of(word.to_bytes(8, "little"))
                number = numbers.setdefault(node, len(numbers)) if node in self._measured else -1
                known[word] = number
            owners[index] = number
        if not numbers:
            return []
        rows = np.repeat(owners, np.diff(np.append(starts, len(words))))
        return [(node, np.flatnonzero(rows == number)) for node, number in numbers.items()]

    def _shift(self, columns: Columns, fields: list[str], node: bytes, rows: Array, changed: dict[str, Array]) -> None:
        instants, offsets = self._steps[node]
        for name in fields:
            if name not in columns.arrays:
                continue
            values = changed.get(name)
            if values is None:
                values = changed[name] = columns[name].copy()
            theirs = values[rows].astype(np.int64)
            at = np.maximum(np.searchsorted(instants, theirs, side="right") - 1, 0)
            # 0 stands for "never".
            values[rows] = np.where(theirs == 0, 0, theirs - offsets[at]).astype(values.dtype)
