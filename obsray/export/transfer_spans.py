"""Spans of objects between nodes: a pull beneath the task that asked for the object, pushes beneath their pull.

A pull is kept until it is known which task asked for it, and pushes until their pull is told.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from obsray.export.askers import NOBODY, Askers
from obsray.export.span import Kind, Link, Span
from obsray.telemetry import span_ids
from obsray.telemetry.columns import Batch
from obsray.telemetry.views import Views

_NS = 1_000_000_000
TRANSFER_EVENTS = ("transfer_served", "transfer_done", "transfer_failed")
#: Pulls that were told and are remembered for pushes that are told late.
_TOLD_MAX = 10_000
#: How far the times of two nodes may be apart, in ns.
_APART = 100_000_000
#: The kind of ``span_ids.of_record``.
_PULL = 7

Key = tuple[bytes, bytes]


@dataclass(slots=True)
class _Pull:
    """One pull: its record, when it was asked for, and pushes that are told with it."""

    row: dict[str, Any]
    asked_at: int
    span: int
    trace: bytes = b""
    pushes: list[dict[str, Any]] = field(default_factory=list)


class TransferSpans:
    """Keeps transfers until whose they are is known. ``trace_of`` and ``links_to`` are those of tasks."""

    def __init__(
        self, views: Views, trace_of: Callable[[bytes], bytes], made_by: Callable[[bytes], tuple[bytes, list[Link]]]
    ) -> None:
        self.views = views
        self._made_by = made_by
        self._askers: Askers[_Pull] = Askers(views, trace_of)
        self._asked: dict[Key, list[tuple[int, bytes]]] = {}
        self._early: dict[Key, list[dict[str, Any]]] = {}
        self._told: OrderedDict[Key, _Pull] = OrderedDict()

    def note(self, batch: Batch) -> None:
        """Remember who asked for what. Every record goes here first, also those already exported."""
        if "transfer_asked" in batch:
            for row in batch["transfer_asked"].rows(self.views.store.texts):
                self._asked.setdefault((row["process"], row["object"]), []).append((row["time_ns"], row["worker"]))

    def of(self, batch: Batch) -> Iterator[Span]:
        """The spans that new records complete."""
        texts = self.views.store.texts
        if "transfer_served" in batch:
            for row in batch["transfer_served"].rows(texts):
                yield from self._served(row)
        for event in ("transfer_done", "transfer_failed"):
            if event in batch:
                for row in batch[event].rows(texts):
                    yield from self._over(row)
        for told in self._askers.of(batch):
            yield from self._told_of(*told)

    def rest(self) -> Iterator[Span]:
        """What is left: whose it was will not be known any more."""
        for told in self._askers.rest():
            yield from self._told_of(*told)
        for rows in self._early.values():
            for row in rows:
                yield self._push(row, 0, self._made_by(row["object"])[0])
        self._early.clear()

    def _over(self, row: dict[str, Any]) -> Iterator[Span]:
        """A pull is over, well or not."""
        key = row["destination"], row["object"]
        asked = self._asked.pop(key, [])
        began = row["time_ns"] - int((row["wire_seconds"] + row["queue_seconds"]) * _NS)
        at, asker = asked[0] if asked else (began, NOBODY)
        pull = _Pull(row, at, span_ids.of_record(row["process"], row["sequence"], _PULL))
        pull.pushes = self._early.pop(key, [])
        for whose in self._askers.add(asker, at, pull):
            yield from self._told_of(*whose)

    def _served(self, row: dict[str, Any]) -> Iterator[Span]:
        key = row["destination"], row["object"]
        told = self._told.get(key)
        began = row["time_ns"] - int(row["wire_seconds"] * _NS)
        # Who gives may say so after who takes has said that all has come; their clocks agree as far as is measured.
        if told is not None and told.asked_at - _APART <= row["time_ns"] and began - _APART <= told.row["time_ns"]:
            yield self._push(row, told.span, told.trace)
            return
        for pull in self._askers.kept():
            if (pull.row["destination"], pull.row["object"]) == key:
                pull.pushes.append(row)
                return
        self._early.setdefault(key, []).append(row)

    def _told_of(self, pull: _Pull, parent: int, trace: bytes) -> Iterator[Span]:
        """A pull whose asker is known; a driver's is in the trace of what it asked for."""
        row = pull.row
        key = row["destination"], row["object"]
        maker, links = self._made_by(row["object"])
        pull.trace = trace or maker
        yield Span(
            row["process"], pull.trace, pull.span, parent, "object pull", Kind.CLIENT,
            min(pull.asked_at, row["time_ns"]), row["time_ns"],
            [("obsray.object.id", row["object"].hex()), ("obsray.object.bytes", row["object_bytes"]),
             ("obsray.transfer.source", row["source"].hex()), ("obsray.transfer.destination", row["destination"].hex()),
             ("obsray.transfer.queue_seconds", row["queue_seconds"]),
             ("obsray.transfer.wire_seconds", row["wire_seconds"]), ("obsray.transfer.attempts", row["attempts"])],
            links=links, error=row.get("error") or None,
        )  # fmt: skip
        for push in pull.pushes:
            yield self._push(push, pull.span, pull.trace)
        pull.pushes = []
        self._told[key] = pull
        self._told.move_to_end(key)
        if len(self._told) > _TOLD_MAX:
            self._told.popitem(last=False)

    def _push(self, row: dict[str, Any], parent: int, trace: bytes) -> Span:
        start = row["time_ns"] - int(row["wire_seconds"] * _NS)
        return Span(
            row["process"], trace, span_ids.of_record(row["process"], row["sequence"]), parent, "object push",
            Kind.SERVER, start, row["time_ns"],
            [("obsray.object.id", row["object"].hex()), ("obsray.object.bytes", row["sent_bytes"]),
             ("obsray.transfer.destination", row["destination"].hex())], error=row["error"] or None,
        )  # fmt: skip
