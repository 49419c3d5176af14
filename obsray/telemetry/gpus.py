"""Table: the GPUs of all nodes: what they are, how they fare, who holds their memory, and which are out of service."""

from __future__ import annotations

import math
from typing import Any

from obsray.gpu.words import Health
from obsray.telemetry.columns import Batch, Texts, in_order
from obsray.telemetry.explain import size

Row = dict[str, Any]
_EVENTS = ("gpu_found", "gpu_sample", "gpu_process_sample", "gpu_health_changed", "gpu_watch_failed")
#: What a sample says of a GPU.
SAMPLED = (
    "utilization", "bus_utilization", "used_bytes", "power_watts", "power_limit_watts", "temperature_celsius",
    "clock_mhz", "energy_joules", "slowdown", "processes", "foreign_processes", "foreign_bytes",
)  # fmt: skip
#: A process that was not seen in the newest sample of its GPU, give or take, holds nothing any more.
HELD_NS = 500_000_000
#: The GPU of a failure that concerns all of a node.
ALL = 255


class GpusTable:
    """Folds what is known of GPUs. ``rows``: (node, gpu) -> the GPU."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[tuple[bytes, int], Row] = {}
        #: (node, gpu) -> pid -> its newest sample.
        self.holders: dict[tuple[bytes, int], dict[int, Row]] = {}
        #: Node -> what cannot be learned there: (gpu, call) -> why.
        self.failures: dict[bytes, dict[tuple[int, str], str]] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for time_ns, event, record in in_order(batch, _EVENTS, self.texts):
            getattr(self, "_" + event)(time_ns, record)

    def _row(self, record: Row) -> Row:
        key = (record["node"], record["gpu"])
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = {
                "node_id": record["node"].hex(), "gpu": record["gpu"], "bus_index": None, "uuid": None, "model": None,
                "accelerator_type": None, "memory_bytes": None, "mig": False, "note": None,
                "state": Health.IN_SERVICE.name, "reason": None, "xid": None, "health_changed_at_ns": None,
                "sampled_at_ns": None, **dict.fromkeys(SAMPLED),
            }  # fmt: skip
        return row

    def _gpu_found(self, time_ns: int, record: Row) -> None:
        self._row(record).update(
            bus_index=record["bus_index"], uuid=record["uuid"] or None, model=record["model"] or None,
            accelerator_type=record["accelerator"] or None, memory_bytes=record["memory_bytes"] or None,
            mig=bool(record["mig"]), note=record["note"] or None,
        )  # fmt: skip

    def _gpu_sample(self, time_ns: int, record: Row) -> None:
        row = self._row(record)
        row["sampled_at_ns"] = time_ns
        row["memory_bytes"] = record["memory_bytes"] or row["memory_bytes"]
        row.update({name: sampled(record[name]) for name in SAMPLED})

    def _gpu_process_sample(self, time_ns: int, record: Row) -> None:
        held = self.holders.setdefault((record["node"], record["gpu"]), {})
        held[record["pid"]] = {
            "worker_id": record["worker"].hex(), "pid": record["pid"], "host_pid": record["host_pid"],
            "task_id": record["task"].hex() if any(record["task"]) else None, "used_bytes": record["used_bytes"],
            "at_ns": time_ns,
        }  # fmt: skip
        for pid in [pid for pid, holder in held.items() if holder["at_ns"] < time_ns - 10 * HELD_NS]:
            del held[pid]

    def _gpu_health_changed(self, time_ns: int, record: Row) -> None:
        health = str(record["health"]).upper()
        out = health == Health.OUT_OF_SERVICE.name
        self._row(record).update(
            state=health, reason=record["error"] if out else None, xid=(record["xid"] or None) if out else None,
            health_changed_at_ns=time_ns,
        )  # fmt: skip

    def _gpu_watch_failed(self, time_ns: int, record: Row) -> None:
        self.failures.setdefault(record["node"], {})[record["gpu"], record["call"]] = record["error"]

    def holding(self, key: tuple[bytes, int], sampled_at_ns: int | None) -> list[Row]:
        """The processes of the newest sample of a GPU, those that hold most first."""
        since = (sampled_at_ns or 0) - HELD_NS
        found = [holder for holder in self.holders.get(key, {}).values() if holder["at_ns"] >= since]
        return sorted(found, key=lambda holder: -holder["used_bytes"])

    def notices(self, key: tuple[bytes, int]) -> list[str]:
        """What cannot be learned about a GPU, each with the reason."""
        node, gpu = key
        failures = self.failures.get(node, {})
        return [f"{call}: {why}" for (of, call), why in failures.items() if of in (gpu, ALL)]


def sampled(value: Any) -> Any:
    """None for what the driver does not say."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if value == "" else value


def told(row: Row, holders: list[Row], notices: list[str]) -> str:
    """What is known of a GPU besides that it is there, for people."""
    if not (row["model"] or row["reason"] or notices):
        return ""
    parts = [row["model"] or "unknown model"]
    if row["reason"]:
        parts.append(f"out of service: {row['reason']}")
    if row["utilization"] is not None:
        parts.append(f"kernels ran {row['utilization']:.0%} of the time")
    if row["used_bytes"] is not None and row["memory_bytes"]:
        parts.append(f"{size(row['used_bytes'])} of {size(row['memory_bytes'])} in use")
    for holder in holders:
        parts.append(f"{size(holder['used_bytes'])} by {holder['function'] or 'a worker'} (pid {holder['pid']})")
    if row["foreign_bytes"]:
        parts.append(f"{size(row['foreign_bytes'])} by other programs")
    if row["power_watts"] is not None:
        parts.append(f"{row['power_watts']:.0f} W")
    if row["temperature_celsius"] is not None:
        parts.append(f"{row['temperature_celsius']:.0f} °C")
    if row["slowdown"]:
        parts.append(f"slowed down by {row['slowdown']}")
    # Which; why is in ``notices``.
    unknown = dict.fromkeys(notice.partition(":")[0].replace("_", " ") for notice in notices)
    return ", ".join(parts) + (f"; its driver does not tell: {', '.join(unknown)}" if unknown else "")
