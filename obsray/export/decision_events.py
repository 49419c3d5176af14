"""What the scheduler decided while a task waited, as events of its span."""

from __future__ import annotations

import bisect
from typing import Any

from obsray.export.span import Attributes, Span
from obsray.telemetry.views import Views

#: The bound of the specification's defaults; what is beyond is counted.
EVENTS_MAX = 128
_CANDIDATES_MAX = 8


class Decisions:
    """The decisions of the scheduler for each owner and shape, in order of time."""

    def __init__(self, views: Views) -> None:
        self._table = views.lease_table
        self._of: dict[tuple[bytes, str], tuple[list[int], list[dict[str, Any]]]] | None = None
        self._candidates: dict[tuple[bytes, int], list[dict[str, Any]]] = {}

    def add_to(self, span: Span, owner: bytes, shape: str) -> None:
        """What was decided while a task waited, as events of its queue span."""
        if self._of is None:
            self._of = {}
            for decision in sorted(self._table.decisions, key=lambda row: int(row["time_ns"])):
                times, rows = self._of.setdefault((decision["owner"], decision["shape"]), ([], []))
                times.append(decision["time_ns"])
                rows.append(decision)
            for row in self._table.candidates:
                self._candidates.setdefault((row["process"], row["decision"]), []).append(row)
        times, rows = self._of.get((owner, shape), ([], []))
        low, high = bisect.bisect_left(times, span.start), bisect.bisect_right(times, span.end)
        span.dropped_events = max(0, high - low - EVENTS_MAX)
        for decision in rows[low : min(high, low + EVENTS_MAX)]:
            span.events.append((decision["time_ns"], "obsray.sched.decision", self._facts(decision)))

    def _facts(self, decision: dict[str, Any]) -> Attributes:
        facts: Attributes = [
            ("obsray.sched.outcome", decision["outcome"]), ("obsray.sched.reason", decision["reason"]),
            ("obsray.sched.queue_depth", decision["queue_depth"]),
        ]  # fmt: skip
        if any(decision["chosen_node"]):
            facts.append(("obsray.sched.node", decision["chosen_node"].hex()))
        if decision["deficit"]:
            facts.append(("obsray.sched.deficit", decision["deficit"]))
        candidates = self._candidates.get((decision["process"], decision["decision"]), [])[:_CANDIDATES_MAX]
        facts += [
            (
                f"obsray.sched.candidate.{at}",
                f"{row['node'].hex()} {row['reject'] if not row['feasible'] else 'feasible'}",
            )
            for at, row in enumerate(candidates)
        ]
        return facts
