"""Placement groups by their id: what was asked for, where the bundles are, why a group waits."""

from __future__ import annotations

from typing import Any

from obsray.telemetry.columns import Batch, Texts, in_order

Row = dict[str, Any]
#: In the order in which they can follow one another at one instant.
_EVENTS = (
    "group_requested", "group_waiting", "group_attempt_failed", "bundle_placed", "group_prepared", "group_created",
    "group_rescheduling", "group_removed", "bundle_released",
)  # fmt: skip


class GroupTable:
    """Folds the events of placement groups."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[bytes, Row] = {}

    def _row(self, group: bytes) -> Row:
        row = self.rows.get(group)
        if row is None:
            row = self.rows[group] = {
                "group_id": group.hex(), "name": "", "namespace": "", "state": "PENDING", "strategy": "",
                "bundles": 0, "resources": "", "bundle_nodes": {}, "job_id": None, "owner": None, "detached": False,
                "requested_at_ns": None, "created_at_ns": None, "removed_at_ns": None, "pending_seconds": None,
                "attempts": 0, "reason": None, "deficit": None, "workers_killed": None, "ended": None,
            }  # fmt: skip
        return row

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for time_ns, event, record in in_order(batch, _EVENTS, self.texts):
            getattr(self, "_" + event)(self._row(record["group"]), time_ns, record)

    def _group_requested(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            name=record["group_name"], namespace=record["namespace"], strategy=record["strategy"],
            bundles=record["bundles"], resources=record["resources"], job_id=f"{record['job']:08x}",
            owner=record["owner"].hex(), detached=bool(record["detached"]), requested_at_ns=time_ns,
        )  # fmt: skip

    def _group_waiting(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(reason=record["reason"], deficit=record["deficit"], attempts=record["attempts"])

    def _bundle_placed(self, row: Row, time_ns: int, record: Row) -> None:
        row["bundle_nodes"][record["bundle"]] = record["node"].hex()

    def _group_prepared(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(state="PREPARED", attempts=record["attempts"], pending_seconds=record["pending_seconds"])

    def _group_created(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            state="CREATED", created_at_ns=time_ns, pending_seconds=record["pending_seconds"],
            attempts=record["attempts"], reason=None, deficit=None,
        )  # fmt: skip

    def _group_rescheduling(self, row: Row, time_ns: int, record: Row) -> None:
        lost = record["node"].hex()
        kept = {bundle: node for bundle, node in row["bundle_nodes"].items() if node != lost}
        row.update(
            state="RESCHEDULING", bundle_nodes=kept, reason="node_died",
            deficit=f"it lost {record['bundles']} of its bundles with node {lost[:8]}",
        )  # fmt: skip

    def _group_attempt_failed(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(attempts=record["attempts"], reason="no_capacity", deficit=record["error"])

    def _group_removed(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            state="REMOVED", removed_at_ns=time_ns, workers_killed=record["workers"], ended=record["error"],
            reason=record["reason"], deficit=None,
        )  # fmt: skip

    def _bundle_released(self, row: Row, time_ns: int, record: Row) -> None:
        row["bundle_nodes"].pop(record["bundle"], None)


_UNIT = 10_000
_BYTES = frozenset({"memory", "object_store_memory"})


def shown(bundles: list[dict[str, int]]) -> str:
    """Bundles for people: ``CPU:1 GPU:0.5 | CPU:2``; memory in bytes."""
    return " | ".join(
        " ".join(f"{name}:{amount if name in _BYTES else amount / _UNIT:g}" for name, amount in bundle.items())
        for bundle in bundles
    )


def bundle_amounts(resources: str) -> list[dict[str, int]]:
    """Bundles in fixed point out of what ``group_requested`` says of them; those that were cut off are left out."""
    found = []
    for bundle in resources.split("|"):
        amounts = {}
        for part in bundle.split():
            name, _, amount = part.rpartition(":")
            if name and amount.isdigit():
                amounts[name] = int(amount)
        if amounts:
            found.append(amounts)
    return found
