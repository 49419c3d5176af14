"""What the autoscaler did and why: node types, the nodes asked for, and what is made of what waits."""

from __future__ import annotations

from collections import deque
from typing import Any

from obsray.telemetry.columns import Batch, Texts, in_order

Row = dict[str, Any]
_EVENTS = (
    "instance_requested", "instance_joined", "instance_failed", "instance_released", "instance_ended",
    "node_type_sample", "demand_judged", "resources_requested",
)  # fmt: skip
#: What was decided, and what came of it.
_DECISIONS = frozenset(_EVENTS) - {"node_type_sample", "demand_judged"}
#: Ended instances are remembered, the newest; likewise decisions.
ENDED_REMEMBERED_MAX = 1000
DECISIONS_REMEMBERED_MAX = 200


class ScalingTable:
    """Folds the events of an autoscaler."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.types: dict[str, Row] = {}
        self.instances: dict[bytes, Row] = {}
        #: What waits and how it is judged -> units and why.
        self.demands: dict[tuple[str, str], Row] = {}
        self.wish: Row | None = None
        self._autoscaler = b""
        #: The newest records of what was decided, oldest first.
        self.decisions: deque[Row] = deque(maxlen=DECISIONS_REMEMBERED_MAX)

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for time_ns, event, record in in_order(batch, _EVENTS, self.texts):
            getattr(self, "_" + event)(time_ns, record)
            if event in _DECISIONS:
                self.decisions.append({**record, "event": event, "time_ns": time_ns})

    def _instance(self, record: Row) -> Row:
        row = self.instances.get(record["node"])
        if row is None:
            row = self.instances[record["node"]] = {
                "node_id": record["node"].hex(), "node_type": record["node_type"], "state": "STARTING", "cause": None,
                "requested_at_ns": None, "joined_at_ns": None, "ended_at_ns": None, "start_seconds": None, "why": "",
                "error": None,
            }  # fmt: skip
        return row

    def _instance_requested(self, time_ns: int, record: Row) -> None:
        self._instance(record).update(requested_at_ns=time_ns, cause=record["cause"], why=record["why"])

    def _instance_joined(self, time_ns: int, record: Row) -> None:
        self._instance(record).update(state="RUNNING", joined_at_ns=time_ns, start_seconds=record["start_seconds"])

    def _instance_failed(self, time_ns: int, record: Row) -> None:
        self._over(record, state="FAILED", ended_at_ns=time_ns, error=record["error"])

    def _instance_released(self, time_ns: int, record: Row) -> None:
        self._instance(record).update(state="LEAVING", error=record["why"])

    def _instance_ended(self, time_ns: int, record: Row) -> None:
        self._over(record, state="ENDED", ended_at_ns=time_ns, error=record["error"])

    def _over(self, record: Row, **changes: Any) -> None:
        self._instance(record).update(changes)
        ended = [node for node, row in self.instances.items() if row["ended_at_ns"] is not None]
        for node in ended[:-ENDED_REMEMBERED_MAX]:
            del self.instances[node]

    def _told_by(self, process: bytes) -> None:
        """An autoscaler that is started again judges everything anew."""
        if process != self._autoscaler:
            self._autoscaler = process
            self.demands.clear()

    def _node_type_sample(self, time_ns: int, record: Row) -> None:
        self._told_by(record["process"])
        self.types[record["node_type"]] = {
            **{name: value for name, value in record.items() if name not in ("process", "sequence", "event")},
            "at_ns": time_ns, "error": record["error"] or None,
        }  # fmt: skip
        self.types[record["node_type"]].pop("time_ns", None)

    def _demand_judged(self, time_ns: int, record: Row) -> None:
        self._told_by(record["process"])
        key = (record["demand"], record["verdict"])
        if not record["units"]:
            self.demands.pop(key, None)
            return
        since = self.demands[key]["since_ns"] if key in self.demands else time_ns
        self.demands[key] = {
            "demand": record["demand"], "units": record["units"], "verdict": record["verdict"],
            "node_type": record["node_type"] or None, "why": record["why"], "since_ns": since,
        }  # fmt: skip

    def _resources_requested(self, time_ns: int, record: Row) -> None:
        self.wish = {
            "bundles": record["bundles"], "resources": record["resources"], "requested_at_ns": time_ns,
            "by": record["worker"].hex(),
        }  # fmt: skip
