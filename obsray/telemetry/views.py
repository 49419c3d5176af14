"""Answers to questions about a session: what the dashboard, the command line and the state API show.

``Views(store)`` folds the records once and keeps tables; each method refreshes the store, folds what is new, and
returns plain dicts and lists: ids as hex, ``*_ns`` integers since the epoch, ``*_seconds`` floats, None for what is
not known or not yet. Filters are ``(column, operator, value)``; a bad one raises ``QueryError``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from obsray import ids
from obsray.telemetry import explain, ledger, story
from obsray.telemetry.answer_views import AnswerViews
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.objects import SPILLED
from obsray.telemetry.sentences import sentence
from obsray.telemetry.table import Filter, QueryError
from obsray.telemetry.tables import NS, Row, public
from obsray.telemetry.tasks import STATES

__all__ = ["Filter", "QueryError", "Views"]


class Views(AnswerViews):
    """All views of one session."""

    def leases(self, limit: int = 100, refresh: bool = True) -> dict[str, Any]:
        """``decisions`` (newest first, with their candidates), ``demand`` per owner and shape, ``held`` leases."""
        if refresh:
            self.refresh()
        table = self.lease_table
        newest = [table.decisions[-1 - index] for index in range(min(limit, len(table.decisions)))]
        decisions = []
        for decision in newest:
            values = public(decision)
            values["text"] = explain.decision_text(decision)
            values["candidates"] = [public(row) for row in table.candidates_of(decision)]
            decisions.append(values)
        return {
            "decisions": decisions,
            "demand": [self._demand(key) for key in table.demand],
            "held": [
                {**public(row), "held_seconds": max(0, self.now_ns() - row["time_ns"]) / NS}
                for row in table.held.values()
            ],
            "decided": table.decided,
            "returned": table.returned,
        }

    def _demand(self, key: tuple[bytes, str]) -> Row:
        demand, decision = self.lease_table.demand[key], self.lease_table.latest.get(key)
        return {
            "owner": key[0].hex(),
            "owner_label": self.process_label(key[0]),
            "shape": key[1],
            "wanted": demand["wanted"],
            "backlog": demand["backlog_tasks"],
            "at_ns": demand["time_ns"],
            "outcome": decision["outcome"] if decision else None,
            "reason": decision["reason"] if decision else None,
            "text": explain.decision_text(decision) if decision else "not answered yet",
        }

    # --- the whole ----------------------------------------------------------------------------------------

    def overview(self, refresh: bool = True) -> dict[str, Any]:
        """The first page: what runs, how fast, how full, and whether telemetry is complete."""
        if refresh:
            self.refresh()
        facts, now = self.store.session(), self.now_ns()
        started = facts.get("started_at_ns") or self.samples.first_at_ns
        states = np.bincount(self.task_table["state"], minlength=len(STATES))
        living = self.living_nodes()
        store = self.samples.totals("store_sample", living)
        collector = self.samples.newest("collector_sample")
        book = self.ledger(refresh=False)
        second = now // NS
        submitted, finished = self.samples.submitted, self.samples.finished
        return {
            "session": {**facts, "live": self.store.is_live(), "directory": str(self.store.session_dir)},
            "uptime_seconds": max(0, now - started) / NS if started else 0.0,
            "now_ns": now,
            "nodes": self.nodes(refresh=False),
            "resources": self.samples.resources(living),
            "tasks": {name: int(states[number]) for number, name in enumerate(STATES)},
            "tasks_total": len(self.task_table),
            "rates": {
                "submitted_per_second": sum(submitted.series(second, 10)) / 10,
                "finished_per_second": sum(finished.series(second, 10)) / 10,
                "series": {
                    "from_ns": (second - 60) * NS,
                    "submitted": submitted.series(second, 60),
                    "finished": finished.series(second, 60),
                    "events": self.samples.events.series(second, 60),
                },
            },
            "workers": dict(Counter(
                row["state"] for row in self.workers(refresh=False) if row["kind"] == "worker"
            )),
            "actors": dict(Counter(row["state"] for row in self.actor_table.rows.values())),
            "store": {
                "capacity_bytes": store.get("capacity_bytes", 0),
                "used_bytes": store.get("used_bytes", 0),
                "pinned_bytes": store.get("pinned_bytes", 0),
                "spilled_bytes": store.get("spilled_bytes", 0),
                "fallback_bytes": store.get("fallback_bytes", 0),
                "objects": store.get("objects", 0),
                "objects_spilled": int(np.count_nonzero(self.object_table.states() == SPILLED)),
            },
            "events_total": self.samples.events_total,
            "events_per_second": sum(self.samples.events.series(second, 10)) / 10,
            "bytes_stored": book["totals"]["bytes_stored"],
            "ledger": {**book["totals"], **book["tasks"]},
            "telemetry_lag_seconds": collector.get("lag_seconds", 0.0),
            "collectors": book["collectors"],
            "gpu": self.gpu_summary(),
            "gpu_devices": self.gpu_devices(refresh=False),
            "chaos": self.fault_table.summary(),
            "halts": self.halts(refresh=False),
            "recent_errors": self._recent_errors(),
        }  # fmt: skip

    def ledger(self, refresh: bool = True) -> dict[str, Any]:
        """Per ring, per node that is gone, and in all: recorded, stored, lost; tasks submitted against what became of
        them."""
        if refresh:
            self.refresh()
        catalog = self.store.catalog
        rings = ledger.ring_ledger(self.store.ring_states(), catalog, self.store.dropping)
        nodes = list(self.cluster_table.records_ended.values())
        totals = ledger.totals(rings, nodes, catalog)
        missing = totals["events_folded"] + totals["events_lost"] + totals["events_lost_with_nodes"]
        return {
            "rings": rings,
            "nodes": nodes,
            "totals": totals,
            "tasks": ledger.task_ledger(self.task_table, missing),
            "collectors": self._collectors(),
        }

    def _collectors(self) -> list[Row]:
        """What each collector costs, and whether it can store what it reads; those that live first."""
        found = []
        for state, alive in self.store.ring_states():
            if state.kind == ProcessKind.COLLECTOR:
                row = self.samples.collector(state.process)
                # One that has ended cannot store, but nothing waits for it.
                failing = row.pop("failing") if alive else {**row.pop("failing"), "since_ns": None}
                found.append({"process": state.process.hex(), "node_id": state.node.hex(), "pid": state.pid,
                              "alive": alive, **row, "unstored_since_ns": failing["since_ns"],
                              "unstored_why": failing["why"] if failing["since_ns"] else None})  # fmt: skip
        return sorted(found, key=lambda row: (not row["alive"], row["process"]))

    def troubles(self, limit: int = 100, refresh: bool = True) -> list[Row]:
        """What went wrong anywhere, as in stories, newest first."""
        if refresh:
            self.refresh()
        return story.troubles(self, limit)

    def instances(self, refresh: bool = True) -> list[Row]:
        """Nodes that an autoscaler asked for, newest first."""
        if refresh:
            self.refresh()
        return sorted(self.scaling_table.instances.values(), key=lambda row: -(row["requested_at_ns"] or 0))

    def scaling(self, limit: int = 20, refresh: bool = True) -> dict[str, Any] | None:
        """What an autoscaler knows and did; None if there was none.

        ``types``: node types with how many nodes there are; ``instances``: nodes asked for, newest first; ``demands``:
        what waits and what becomes of it; ``wish``: what programs asked for; ``decisions``: newest first, as stories.
        """
        if refresh:
            self.refresh()
        table = self.scaling_table
        if not table.types:
            return None
        return {
            "types": [table.types[name] for name in sorted(table.types)],
            "instances": self.instances(refresh=False),
            "demands": list(table.demands.values()),
            "wish": table.wish,
            "decisions": [{**public(row), "text": sentence(row, self)} for row in list(table.decisions)[::-1][:limit]],
        }

    def name_of(self, id_hex: str, refresh: bool = True) -> str:
        """How people call what an id names: processes and tasks have names, of others the id is shortened."""
        if refresh:
            self.refresh()
        known = bytes.fromhex(id_hex) if len(id_hex) in (16, 32) else b""
        if len(known) == 8:
            return self.process_label(known)
        if known and not id_hex[16:18].strip("0"):
            return self.task_label(known)
        return ids.short(bytes.fromhex(id_hex)) if len(id_hex) in (32, 40) else id_hex[:16]

    def story(self, id_hex: str, refresh: bool = True) -> list[Row]:
        """What happened to a task, actor, object, worker, node or lease, in order of time."""
        if refresh:
            self.refresh()
        return story.tell(self, id_hex)
