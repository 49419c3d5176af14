"""Spans of objects that go to disk and come back: beneath the task that wanted the room, or the object.

An object goes to disk because somebody waits for room: what its node said of that last before. It comes back because
somebody wants to read it: whoever is the next to map it. Made by whom it was is a link.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from obsray.export.askers import NOBODY, Askers
from obsray.export.span import Kind, Link, Span
from obsray.telemetry import span_ids
from obsray.telemetry.columns import Batch
from obsray.telemetry.views import Views

_NS = 1_000_000_000
STORE_EVENTS = ("object_spilled", "object_restored")
#: Of each node so many instants at which somebody waited for room are remembered.
_WAITS_MAX = 10_000
_NAMES = {"spill_seconds": "object spill", "restore_seconds": "object restore"}

Row = dict[str, Any]


class StoreSpans:
    """Keeps what went to disk and came back until it is known whose it is. The two functions are about tasks."""

    def __init__(
        self, views: Views, trace_of: Callable[[bytes], bytes], made_by: Callable[[bytes], tuple[bytes, list[Link]]]
    ) -> None:
        self.views = views
        self._made_by = made_by
        self._askers: Askers[Row] = Askers(views, trace_of)
        #: Node -> when somebody waited for room, and who.
        self._short: dict[bytes, list[tuple[int, bytes]]] = {}
        #: (node, object) -> what came back and was not read yet.
        self._back: dict[tuple[bytes, bytes], Row] = {}

    def note(self, batch: Batch) -> None:
        """Remember who waited for room. Every record goes here first, also those already exported."""
        if "object_allocation_waiting" in batch:
            for row in batch["object_allocation_waiting"].rows(self.views.store.texts):
                self._short.setdefault(row["process"], []).append((row["time_ns"], row["worker"]))
            for short in self._short.values():
                short.sort()
                del short[:-_WAITS_MAX]

    def of(self, batch: Batch) -> Iterator[Span]:
        """The spans that new records complete."""
        texts = self.views.store.texts
        if "object_spilled" in batch:
            for row in batch["object_spilled"].rows(texts):
                began = row["time_ns"] - int(row["spill_seconds"] * _NS)
                short = self._short.get(row["process"], [])
                at = bisect_right(short, (began + _NS // 1000, b"\xff" * 8)) - 1
                asker = short[at][1] if at >= 0 else NOBODY
                yield from self._tell(self._askers.add(asker, began, row))
        if "object_restored" in batch:
            for row in batch["object_restored"].rows(texts):
                self._back[row["process"], row["object"]] = row
        if self._back and "object_pinned" in batch:
            yield from self._read(batch)
        yield from self._tell(self._askers.of(batch))

    def rest(self) -> Iterator[Span]:
        """What is left: whose it was will not be known any more."""
        yield from self._tell((row, 0, b"") for row in self._back.values())
        self._back.clear()
        yield from self._tell(self._askers.rest())

    def _read(self, batch: Batch) -> Iterator[Span]:
        columns = batch["object_pinned"]
        wanted = np.frombuffer(b"".join(identifier for _, identifier in self._back), "V20")
        for at in np.flatnonzero(np.isin(np.ascontiguousarray(columns["object"]).view("S20"), wanted.view("S20"))):
            key = columns["process"][at].tobytes(), columns["object"][at].tobytes()
            row = self._back.get(key)
            if row is not None and row["time_ns"] <= int(columns["time_ns"][at]):
                del self._back[key]
                began = row["time_ns"] - int(row["restore_seconds"] * _NS)
                yield from self._tell(self._askers.add(columns["worker"][at].tobytes(), began, row))

    def _tell(self, told: Any) -> Iterator[Span]:
        for row, parent, trace in told:
            part = next(name for name in _NAMES if name in row)
            maker, links = self._made_by(row["object"])
            yield Span(
                row["process"], trace or maker, span_ids.of_record(row["process"], row["sequence"]), parent,
                _NAMES[part], Kind.INTERNAL, row["time_ns"] - int(row[part] * _NS), row["time_ns"],
                [("obsray.object.id", row["object"].hex()), ("obsray.object.bytes", row["object_bytes"])], links=links,
            )  # fmt: skip
