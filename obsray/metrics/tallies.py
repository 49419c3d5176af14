"""Metrics that only count events, sum a field, or show the newest sample: a table, and the fold that works it off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from prometheus_client.core import Metric

from obsray.metrics import exposed
from obsray.metrics.catalog import METRICS, NAMES_MAX
from obsray.metrics.series import Histogram, Labels
from obsray.telemetry.columns import Array, Batch, Columns, Texts
from obsray.telemetry.events import BY_NAME


@dataclass(frozen=True, slots=True)
class Tally:
    """``metric`` counts the records of ``event``, or sums (of a histogram: observes) their ``field``.

    ``label``: the field of the event that is the metric's label. ``where``: only records whose field has that value.
    ``zero``: values of the label that have a series from the start: a rate does not see what a series begins with.
    ``named_by``: another event with that label, whose values have a series from then on. ``fixed``: the label's value
    where it is always the same.
    """

    metric: str
    event: str
    field: str = ""
    label: str = ""
    where: tuple[str, int] | None = None
    zero: tuple[str, ...] = ()
    named_by: str = ""
    fixed: str = ""


#: What every node says of itself.
OF_NODES: tuple[Tally, ...] = (
    Tally("obsray_scheduler_lease_wait_seconds", "lease_decided", "queue_seconds", where=("outcome", 0)),
    Tally("obsray_environment_setup_seconds", "environment_ready", "setup_seconds"),
    Tally("obsray_environment_failures", "environment_failed"),
    Tally("obsray_logs_dropped_bytes", "logs_dropped", "bytes"),
    Tally("obsray_output_dropped_bytes", "output_dropped", "bytes"),
    Tally("obsray_job_output_dropped_bytes", "job_output_dropped", "bytes"),
    Tally("obsray_object_allocation_failures", "object_allocation_failed"),
    Tally("obsray_object_fallbacks", "object_fallback"),
    Tally("obsray_object_spill_seconds", "object_spilled", "spill_seconds"),
    Tally("obsray_object_restore_seconds", "object_restored", "restore_seconds"),
    Tally("obsray_object_transfer_retries", "transfer_retried"),
    Tally("obsray_object_rebuilds", "object_rebuilding"),
    Tally("obsray_object_rebuild_failures", "object_rebuild_failed"),
    Tally("obsray_gpu_capture_refusals", "gpu_capture_refused"),
    Tally("obsray_gpu_capture_reductions", "gpu_capture_changed"),
    Tally("obsray_gpu_watch_failures", "gpu_watch_failed"),
    # Of the node that takes over, which serves 0 until then; the head that is gone can count nothing.
    Tally("obsray_control_takeovers", "control_took_over"),
    # Of recorded samples, not of what the process knows: the collector after it counts on.
    Tally("obsray_telemetry_events", "collector_sample", "events"),
    Tally("obsray_telemetry_bytes", "collector_sample", "bytes_written"),
    Tally("obsray_telemetry_cpu_seconds", "collector_sample", "cpu_seconds", fixed="collector"),
)
#: What the head says of the cluster.
OF_THE_CLUSTER: tuple[Tally, ...] = (
    Tally("obsray_node_changes", "node_changed", label="state", zero=("alive", "suspected", "dead")),
    Tally("obsray_node_drains", "node_drains"),
    Tally("obsray_actor_start_seconds", "actor_alive", "start_seconds"),
    Tally("obsray_jobs_started", "job_started"),
    Tally("obsray_jobs_ended", "job_ended", label="cause", zero=("intended",)),
    Tally("obsray_gcs_rpc_failures", "control_rpc", label="method", where=("ok", 0)),
    Tally(
        "obsray_autoscaler_launches",
        "instance_requested",
        label="cause",
        zero=("demand", "group", "wish", "min_workers"),
    ),
    Tally("obsray_autoscaler_launch_failures", "instance_failed", label="node_type", named_by="node_type_sample"),
    Tally("obsray_autoscaler_releases", "instance_released", label="node_type", named_by="node_type_sample"),
    Tally("obsray_autoscaler_start_seconds", "instance_joined", "start_seconds"),
    Tally("obsray_telemetry_incomplete_nodes", "node_records_ended", where=("complete", 0)),
)
#: Gauges that show a field of the newest sample: metric -> (event, field).
NEWEST: dict[str, tuple[str, str]] = {
    "obsray_scheduler_demands_infeasible": ("node_sample", "demands_infeasible"),
    "obsray_object_store_largest_free_bytes": ("store_sample", "largest_free_bytes"),
    "obsray_object_allocations_waiting": ("store_sample", "allocations_waiting"),
    "obsray_telemetry_rings": ("collector_sample", "rings"),
}


class Tallies:
    """The numbers of some tallies. ``update`` folds a batch."""

    def __init__(self, tallies: tuple[Tally, ...], texts: Texts) -> None:
        self._tallies = tallies
        self._values = {tally.metric: np.zeros(1) for tally in tallies}
        self._histograms = {t.metric: Histogram() for t in tallies if METRICS[t.metric].type == "histogram"}
        self.names = {t.metric: Labels(texts, NAMES_MAX) for t in tallies if _is_text(t)}

    def update(self, batch: Batch) -> None:
        """Fold the new records."""
        for tally in self._tallies:
            if tally.named_by in batch:
                self.names[tally.metric].of(batch[tally.named_by][tally.label])
            columns = batch.get(tally.event)
            if columns is None or not len(columns):
                continue
            if tally.metric in self.names:
                # What was seen has a series from then on, whether it was counted or not.
                self.names[tally.metric].of(columns[tally.label])
            if tally.where is not None:
                columns = columns.take(columns[tally.where[0]] == tally.where[1])
            if len(columns):
                self._add(tally, columns)

    def _add(self, tally: Tally, columns: Columns) -> None:
        if tally.metric in self._histograms:
            self._histograms[tally.metric].add(np.zeros(len(columns), np.int64), columns[tally.field])
            return
        slots = self._slots(tally, columns)
        weights = columns[tally.field].astype(np.float64) if tally.field else None
        found = np.bincount(slots, weights=weights).astype(np.float64)
        known = self._values[tally.metric]
        if len(found) > len(known):
            known = np.append(known, np.zeros(len(found) - len(known)))
        known[: len(found)] += found
        self._values[tally.metric] = known

    def _slots(self, tally: Tally, columns: Columns) -> Array:
        if tally.metric in self.names:
            return self.names[tally.metric].of(columns[tally.label]).astype(np.int64)
        if tally.label:
            return columns[tally.label].astype(np.int64)
        return np.zeros(len(columns), np.int64)

    def families(self, node: str) -> Iterator[Metric]:
        """The families, for the exposition of ``node``."""
        for tally in self._tallies:
            name = tally.metric
            of_node = [node] if "node" in METRICS[name].labels else []
            if name in self._histograms:
                histogram = exposed.histogram(name)
                if len(self._histograms[name].sums):
                    exposed.add_histogram(histogram, of_node, self._histograms[name], 0)
                yield histogram
                continue
            counter = exposed.counter(name)
            seen = self.names[name].names if name in self.names else []
            fixed = [tally.fixed] if tally.fixed else []
            values = dict.fromkeys((*tally.zero, *seen), 0.0)
            for slot, value in enumerate(self._values[name].tolist()):
                if value or not tally.label:
                    values[self._label(tally, slot)] = value
            for label, value in values.items():
                counter.add_metric([*of_node, *([label] if tally.label else fixed)], value)
            yield counter

    def _label(self, tally: Tally, slot: int) -> str:
        if not tally.label:
            return ""
        if tally.metric in self.names:
            return self.names[tally.metric].name(slot)
        labels = next(field.labels for field in BY_NAME[tally.event].fields if field.name == tally.label)
        assert labels is not None
        try:
            return labels(slot).name.lower()
        except ValueError:
            return "unknown"


def newest(samples: dict[str, dict[str, float]], node: str) -> Iterator[Metric]:
    """The gauges of ``NEWEST``."""
    for name, (event, field) in NEWEST.items():
        gauge = exposed.gauge(name)
        if event in samples:
            gauge.add_metric([node], samples[event][field])
        yield gauge


def _is_text(tally: Tally) -> bool:
    fields = {field.name: field for field in BY_NAME[tally.event].fields}
    return bool(tally.label) and fields[tally.label].labels is None
