"""Demand for workers and what the scheduler made of it: the newest decisions, who holds what, who waits and why."""

from __future__ import annotations

from collections import deque
from typing import Any

from obsray.telemetry.columns import Batch, Texts

#: Decisions kept for display and explanation; older ones are in the store.
DECISIONS_MAX = 10_000

Row = dict[str, Any]


class LeaseTable:
    """Folds lease events; ``decisions`` are the newest ones, oldest first."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.decisions: deque[Row] = deque(maxlen=DECISIONS_MAX)
        self.candidates: deque[Row] = deque(maxlen=DECISIONS_MAX)
        self.demand: dict[tuple[bytes, str], Row] = {}
        self.latest: dict[tuple[bytes, str], Row] = {}
        #: The newest decision that was neither a grant nor the end of a demand.
        self.waiting: dict[tuple[bytes, str], Row] = {}
        self.held: dict[int, Row] = {}
        self.returned = 0
        self.decided = 0
        self._over: set[int] = set()

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        if "lease_requested" in batch:
            for record in batch["lease_requested"].rows(self.texts):
                key = (record["worker"], record["shape"])
                known = self.demand.get(key)
                if known is None or record["time_ns"] >= known["time_ns"]:
                    self.demand[key] = record
        if "lease_decided" in batch:
            columns = batch["lease_decided"]
            self.decided += len(columns)
            for record in columns.rows(self.texts):
                self._decided(record)
        if "lease_candidate" in batch:
            columns = batch["lease_candidate"]
            tail = columns.take(slice(-DECISIONS_MAX, None))  # type: ignore[arg-type]
            self.candidates.extend(tail.rows(self.texts))
        if "lease_returned" in batch:
            for lease in batch["lease_returned"]["lease"].tolist():
                self.returned += 1
                if self.held.pop(lease, None) is None:
                    self._over.add(lease)
        if "worker_died" in batch:
            dead = {value.tobytes() for value in batch["worker_died"]["worker"]}
            self.held = {lease: row for lease, row in self.held.items() if row["worker"] not in dead}

    def _decided(self, record: Row) -> None:
        self.decisions.append(record)
        key = (record["owner"], record["shape"])
        known = self.latest.get(key)
        if known is None or record["time_ns"] >= known["time_ns"]:
            self.latest[key] = record
        if record["outcome"] in ("queued", "infeasible"):
            waited = self.waiting.get(key)
            if waited is None or record["time_ns"] >= waited["time_ns"]:
                self.waiting[key] = record
        if record["outcome"] == "granted" and record["lease"]:
            if record["lease"] in self._over:
                self._over.discard(record["lease"])
            else:
                self.held[record["lease"]] = record

    def candidates_of(self, decision: Row) -> list[Row]:
        """The nodes one decision considered."""
        return [
            row
            for row in self.candidates
            if row["decision"] == decision["decision"] and row["process"] == decision["process"]
        ]
