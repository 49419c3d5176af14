"""The numbers behind the metrics, folded from batches of events with array operations only.

Owners say which task ended, workers say how long it took, and neither repeats the function's name or the time of
submission; so a small window per owner remembers both for tasks that are not long over (``waiting.py``).
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import numpy as np

from obsray.chaos import Fault
from obsray.metrics.catalog import BUCKETS, FUNCTIONS_KEPT, FUNCTIONS_MAX, OTHER, SHAPES_MAX, USES_MIN
from obsray.metrics.waiting import TaskWindow, Waiting
from obsray.telemetry.columns import Array, Batch, Columns, Texts
from obsray.telemetry.events import DeathCause, LeaseOutcome, Outcome, ProcessKind, Reason
from obsray.telemetry.runs import each, expand
from obsray.telemetry.table import same_id

#: Reasons have gaps in their numbers.
_REASONS = max(Reason) + 1

_NS = 1_000_000_000
_EDGES = np.array(BUCKETS)
#: A bucket gets a new exemplar this often at most.
_EXEMPLAR_NS = 10 * _NS
_TRACES_KEPT = 200_000

_HISTOGRAMS = ("duration", "queue", "fetch", "deserialize", "store")


#: Kinds of collective operations that are told apart.
OPERATIONS_MAX = 20


#: Methods of the control store that are told apart.
METHODS_MAX = 100
#: Calls and messages that are told apart when faults are injected into them.
FAULTED_MAX = 200


#: For so long, and so many, processes are remembered to be gone: their last records may come after the news of that.
OWNERS_GONE_NS = 30 * _NS
OWNERS_GONE_MAX = 64
#: Peers with a label of their own.
PEERS_MAX = 64


def _add_by_peer(sums: dict[str, int], peers: Array, sizes: Array) -> None:
    for node in np.unique(peers):
        peer = node.tobytes().hex()[:8]
        if peer not in sums and len(sums) >= PEERS_MAX:
            peer = OTHER
        sums[peer] = sums.get(peer, 0) + int(sizes[peers == node].sum())


class Histogram:
    """Bucket counts and sums for a growing number of label values."""

    def __init__(self) -> None:
        self.counts = np.zeros((0, len(BUCKETS) + 1), np.int64)
        self.sums = np.zeros(0)
        self.exemplars: dict[tuple[int, int], tuple[dict[str, str], float, int]] = {}

    def reserve(self, need: int) -> None:
        """Have so many slots at least."""
        if need > len(self.sums):
            self.counts = np.vstack([self.counts, np.zeros((need - len(self.sums), len(BUCKETS) + 1), np.int64)])
            self.sums = np.append(self.sums, np.zeros(need - len(self.sums)))

    def add(self, slots: Array, values: Array) -> Array:
        """Count ``values`` (seconds) under their slots; returns the bucket of each."""
        # Of short tasks nearly all parts but one lie in the first bucket, and comparing is cheaper than searching.
        beyond = np.flatnonzero(values > _EDGES[0])
        buckets = np.zeros(len(values), np.int64)
        if len(beyond):
            buckets[beyond] = np.searchsorted(_EDGES, values[beyond], side="left")
        if not len(slots):
            return buckets
        self.reserve(int(slots.max()) + 1)
        width = len(BUCKETS) + 1
        flat = np.bincount(slots.astype(np.int64) * width + buckets, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)
        self.sums += np.bincount(slots, weights=values, minlength=len(self.sums))
        return buckets


class Labels:
    """Texts -> a bounded number of slots; the last slot is ``other``.

    The first texts get the slots, but ``kept`` of them, which go to texts that turn up ``USES_MIN`` times as ``other``.
    A text that has a slot never loses it, so that no counter goes back; what was counted as other stays there.
    """

    def __init__(self, texts: Texts, most: int, kept: int = 0) -> None:
        self.texts = texts
        self.most = most
        self.names: list[str] = []
        self._free = most - kept
        self._slots = np.full(1, -1, np.int16)
        self._uses: dict[int, int] = {}

    def of(self, codes: Array) -> Array:
        """The slot of each text code."""
        if len(self._slots) < len(self.texts):
            self._slots = np.append(self._slots, np.full(len(self.texts) - len(self._slots), -1, np.int16))
        slots = self._slots[codes]
        if (slots < 0).any():
            for code in np.unique(codes[slots < 0]).tolist():
                if len(self.names) < self._free:
                    self._name(code)
                else:
                    self._slots[code] = self.most
            slots = self._slots[codes]
        if len(self.names) < self.most:
            others = codes[slots == self.most]
            if len(others):
                self._promote(others)
        return slots

    def _name(self, code: int) -> None:
        self._slots[code] = len(self.names)
        self.names.append(self.texts[code] or "unnamed")

    def _promote(self, codes: Array) -> None:
        for code, uses in zip(*map(np.ndarray.tolist, np.unique(codes, return_counts=True)), strict=True):
            self._uses[code] = self._uses.get(code, 0) + uses
            if self._uses[code] >= USES_MIN and len(self.names) < self.most:
                self._name(code)
                del self._uses[code]

    def name(self, slot: int) -> str:
        return self.names[slot] if slot < len(self.names) else OTHER


class Series:
    """All numbers of one node's metrics. ``update`` folds a batch; the exporter reads the attributes."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.functions = Labels(texts, FUNCTIONS_MAX, FUNCTIONS_KEPT)
        self.shapes = Labels(texts, SHAPES_MAX)
        slots = FUNCTIONS_MAX + 1
        self.submitted = np.zeros(slots, np.int64)
        self.finished = np.zeros((slots, len(Outcome)), np.int64)
        #: Tasks whose owner is gone: nobody tells how they ended, and they do not wait any more.
        self.abandoned = np.zeros(slots, np.int64)
        self._gone: deque[tuple[bytes, int]] = deque(maxlen=OWNERS_GONE_MAX)
        self.retries = np.zeros((slots, len(Outcome)), np.int64)
        self.cpu_seconds = np.zeros(slots)
        self.blocked_seconds = np.zeros(slots)
        self.unready = 0
        self.task_histograms = {name: Histogram() for name in _HISTOGRAMS}
        self.decisions = np.zeros((len(LeaseOutcome), _REASONS), np.int64)
        self.loop_lag = Histogram()
        self.worker_start = Histogram()
        self.rpc_methods = Labels(texts, METHODS_MAX)
        self.rpc = Histogram()
        self.stored = Histogram()
        self.fault_methods = Labels(texts, FAULTED_MAX)
        self.faults = np.zeros((FAULTED_MAX + 1, len(Fault)), np.int64)
        self.operations = Labels(texts, OPERATIONS_MAX)
        self.collectives = Histogram()
        self.collective_wait_seconds = np.zeros(OPERATIONS_MAX + 1)
        self.collective_sent_bytes = np.zeros(OPERATIONS_MAX + 1)
        self.collective_failures = np.zeros(OPERATIONS_MAX + 1, np.int64)
        self.deaths = np.zeros(len(DeathCause), np.int64)
        self.checkpoints = 0
        self.checkpoint_bytes = 0
        self.checkpoint_seconds = 0.0
        self.calls_replayed = 0
        #: Placement group -> the state it is in; removed ones are only counted.
        self.groups: dict[bytes, str] = {}
        self.groups_removed = 0
        self.group_pending = Histogram()
        self.object_bytes = dict.fromkeys(("created", "freed", "spilled", "restored"), 0)
        self.objects_lost = 0
        #: Peer -> bytes; beyond so many, all others together.
        self.received: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.transfer_seconds = Histogram()
        self.transfers_failed = 0
        #: Peer -> how far its clock is ahead, and how wrong that may be.
        self.clocks: dict[str, tuple[float, float]] = {}
        self.dropped = 0
        self.resources: dict[str, tuple[float, float]] = {}
        self.samples: dict[str, dict[str, Any]] = {}
        self.demand: dict[tuple[bytes, int], int] = {}
        self.answers: dict[tuple[bytes, int], tuple[int | None, int]] = {}
        self._tasks = TaskWindow()
        self.waiting = Waiting(self._tasks)
        self._traces: deque[tuple[Array, Array]] = deque()
        self._traces_kept = 0
        self._folds = {
            "task_submitted": self._submitted, "task_ready": self._ready, "task_retried": self._retried,
            "task_ended": self._ended, "task_finished": self._finished, "tasks_finished": self._finished_run,
            "lease_requested": self._requested, "lease_decided": self._decided, "node_sample": self._node_sample,
            "store_sample": self._newest, "collector_sample": self._newest, "resource_sample": self._resources,
            "worker_registered": self._registered, "worker_died": self._died, "job_ended": self._owners_gone,
            "actor_checkpoint_saved": self._saved, "actor_restored": self._restored,
            "control_rpc": self._rpc, "control_stored": self._stored,
            "events_dropped": self._dropped, "fault_injected": self._fault, "delay_injected": self._fault,
            "transfer_done": self._transferred, "transfer_served": self._served,
            "clock_measured": self._clock,
            "collective_ended": self._collective, "collective_failed": self._collective_failed,
        }  # fmt: skip

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        batch = each(batch)
        for event, fold in self._folds.items():
            columns = batch.get(event)
            if columns is not None and len(columns):
                fold(columns)
        if "task_ended" not in batch:
            self._waited(None, own=True)
        if self._gone:
            self._abandon(batch)
        self._groups(batch)
        for name in self.object_bytes:
            columns = batch.get(f"object_{name}")
            if columns is not None:
                self.object_bytes[name] += int(columns["object_bytes"].sum())
        if "object_lost" in batch:
            self.objects_lost += len(batch["object_lost"])
        if "transfer_failed" in batch:
            self.transfers_failed += len(batch["transfer_failed"])

    # --- transfers ----------------------------------------------------------------------------------------

    def _transferred(self, columns: Columns) -> None:
        _add_by_peer(self.received, columns["source"], columns["object_bytes"])
        self.transfer_seconds.add(np.zeros(len(columns), np.int64), columns["wire_seconds"])

    def _served(self, columns: Columns) -> None:
        _add_by_peer(self.sent, columns["destination"], columns["sent_bytes"])

    def _clock(self, columns: Columns) -> None:
        for index, node in enumerate(columns["node"]):
            peer = node.tobytes().hex()
            if peer in self.clocks or len(self.clocks) < PEERS_MAX:
                measured = float(columns["offset_seconds"][index]), float(columns["uncertainty_seconds"][index])
                self.clocks[peer] = measured

    # --- tasks --------------------------------------------------------------------------------------------

    def _submitted(self, columns: Columns) -> None:
        slots = self.functions.of(columns["name"])
        self.submitted += np.bincount(slots, minlength=len(self.submitted))
        self._tasks.submit(columns["task"], slots, columns["time_ns"])
        self.unready += int(np.count_nonzero(columns["unready_arguments"]))
        self._remember_traces(columns)

    def _remember_traces(self, columns: Columns) -> None:
        self._traces.append((columns["task"], columns["trace"]))
        self._traces_kept += len(columns)
        while self._traces_kept > _TRACES_KEPT and len(self._traces) > 1:
            self._traces_kept -= len(self._traces.popleft()[0])

    def _ready(self, columns: Columns) -> None:
        self.unready = max(0, self.unready - len(columns))
        self._tasks.ready(columns["task"], columns["time_ns"])

    def _finished(self, columns: Columns) -> None:
        self._count_finished(self._tasks.finish(columns["task"], FUNCTIONS_MAX), columns["outcome"])

    def _finished_run(self, columns: Columns) -> None:
        ids, _ = expand(columns["first_task"], columns["tasks"])
        self._count_finished(self._tasks.finish(ids, FUNCTIONS_MAX), np.zeros(len(ids), np.uint8))

    def _count_finished(self, slots: Array, outcomes: Array) -> None:
        outcomes = np.minimum(outcomes, len(Outcome) - 1)
        flat = np.bincount(slots * len(Outcome) + outcomes, minlength=self.finished.size)
        self.finished += flat.reshape(self.finished.shape)

    def _retried(self, columns: Columns) -> None:
        self.waiting.retried(columns)
        slots = self._tasks.slots(columns["task"], FUNCTIONS_MAX)
        outcomes = np.minimum(columns["outcome"], len(Outcome) - 1)
        flat = np.bincount(slots * len(Outcome) + outcomes, minlength=self.retries.size)
        self.retries += flat.reshape(self.retries.shape)

    def _ended(self, columns: Columns) -> None:
        slots = self.functions.of(columns["name"])
        self.cpu_seconds += np.bincount(slots, weights=columns["cpu_seconds"], minlength=len(self.cpu_seconds))
        blocked = self.blocked_seconds
        blocked += np.bincount(slots, weights=columns["blocked_seconds"], minlength=len(blocked))
        for name, field in (
            ("duration", "run_seconds"), ("fetch", "fetch_seconds"), ("deserialize", "deserialize_seconds"),
            ("store", "store_seconds"),
        ):  # fmt: skip
            self._observe(name, slots, columns[field], columns)
        self._waited(columns, own=True)

    def _waited(self, ended: Columns | None, own: bool) -> None:
        for columns, seconds in self.waiting.ended(ended, own):
            self._observe("queue", self.functions.of(columns["name"]), seconds, columns)

    def gathered(self, batch: Batch) -> None:
        """Fold records of another node, on the head: who waited for a worker of a node other than its owner's."""
        batch = each(batch)
        if "task_submitted" in batch:
            columns = batch["task_submitted"]
            self._tasks.submit(columns["task"], np.full(len(columns), FUNCTIONS_MAX), columns["time_ns"])
            self._remember_traces(columns)
        if "task_ready" in batch:
            self._tasks.ready(batch["task_ready"]["task"], batch["task_ready"]["time_ns"])
        if "task_retried" in batch:
            self.waiting.retried(batch["task_retried"])
        self._waited(batch.get("task_ended"), own=False)
        if "task_finished" in batch:
            self._tasks.finish(batch["task_finished"]["task"], FUNCTIONS_MAX)
        if "tasks_finished" in batch:
            runs = batch["tasks_finished"]
            self._tasks.finish(expand(runs["first_task"], runs["tasks"])[0], FUNCTIONS_MAX)

    def _observe(self, name: str, slots: Array, values: Array, columns: Columns) -> None:
        histogram = self.task_histograms[name]
        buckets = histogram.add(slots, values)
        keys = slots.astype(np.int64) * (len(BUCKETS) + 1) + buckets
        present = np.flatnonzero(np.bincount(keys))
        for key in present.tolist():
            at = divmod(key, len(BUCKETS) + 1)
            known = histogram.exemplars.get(at)
            if known is not None and int(columns["time_ns"][-1]) - known[2] < _EXEMPLAR_NS:
                continue
            index = int(np.argmax(keys == key))
            trace = self._trace(columns["task"][index].tobytes())
            if trace is None:
                continue
            span = span_id(columns["task"][index].tobytes(), int(columns["attempt"][index]))
            labels = {"trace_id": trace.hex(), "span_id": span.hex()}
            histogram.exemplars[at] = (labels, float(values[index]), int(columns["time_ns"][index]))

    def _trace(self, task: bytes) -> bytes | None:
        for ids, traces in reversed(self._traces):
            found = np.flatnonzero(same_id(ids, task))
            if len(found):
                trace: bytes = traces[found[0]].tobytes()
                return trace if any(trace) else None
        return None

    def unfinished(self) -> Array:
        """Tasks that are not over, by slot of their function."""
        open_: Array = np.maximum(self.submitted - self.finished.sum(axis=1) - self.abandoned, 0)
        return open_

    def pending(self, running: int) -> dict[tuple[str, str], int]:
        """Tasks that do not run, by (reason, shape)."""
        found: dict[tuple[str, str], int] = {}
        left = max(0, int(self.unfinished().sum()) - running)
        waiting = min(self.unready, left)
        if waiting:
            found["arguments", ""] = waiting
            left -= waiting
        for key, backlog in self.demand.items():
            outcome, reason = self.answers.get(key, (None, Reason.NONE))
            # What was granted is on its way; a demand is not repeated when it shrinks.
            count = 0 if outcome == LeaseOutcome.GRANTED else min(backlog, left)
            if count:
                text = "not_answered" if outcome is None else Reason(reason).name.lower()
                label = (text, self.shapes.name(key[1]))
                found[label] = found.get(label, 0) + count
                left -= count
        if left:
            found["dispatched", ""] = left
        return found

    # --- scheduler, processes -----------------------------------------------------------------------------

    def _requested(self, columns: Columns) -> None:
        slots = self.shapes.of(columns["shape"])
        backlogs = np.where(columns["wanted"] > 0, columns["backlog_tasks"], 0)
        for worker, slot, backlog in zip(columns["worker"], slots.tolist(), backlogs.tolist(), strict=True):
            self.demand[worker.tobytes(), slot] = backlog

    def _decided(self, columns: Columns) -> None:
        outcomes = np.minimum(columns["outcome"], len(LeaseOutcome) - 1).astype(np.int64)
        reasons = np.minimum(columns["reason"], _REASONS - 1)
        flat = np.bincount(outcomes * _REASONS + reasons, minlength=self.decisions.size)
        self.decisions += flat.reshape(self.decisions.shape)
        slots = self.shapes.of(columns["shape"])
        for owner, slot, outcome, reason in zip(
            columns["owner"], slots.tolist(), outcomes.tolist(), reasons.tolist(), strict=True
        ):
            self.answers[owner.tobytes(), slot] = (outcome, reason)

    def _node_sample(self, columns: Columns) -> None:
        self.loop_lag.add(np.zeros(len(columns), np.int64), columns["loop_lag_seconds"])
        self._newest(columns)

    def _newest(self, columns: Columns) -> None:
        newest = np.array([int(np.argmax(columns["time_ns"]))])
        self.samples[columns.event.name] = columns.take(newest).rows(self.texts)[0]

    def _resources(self, columns: Columns) -> None:
        _, index = np.unique(columns["resource"][::-1], return_index=True)
        for at in len(columns) - 1 - index:
            name = self.texts[int(columns["resource"][at])]
            self.resources[name] = (float(columns["total"][at]), float(columns["used"][at]))

    def _registered(self, columns: Columns) -> None:
        workers = columns["start_seconds"][columns["process_kind"] == ProcessKind.WORKER]
        self.worker_start.add(np.zeros(len(workers), np.int64), workers)

    def _died(self, columns: Columns) -> None:
        causes = np.minimum(columns["cause"], len(DeathCause) - 1)
        self.deaths += np.bincount(causes, minlength=len(self.deaths))
        self._owners_gone(columns)

    def _abandon(self, batch: Batch) -> None:
        """What processes that are gone have submitted and what had not ended is over."""
        for process, _ in self._gone:
            slots = self._tasks.abandon(process, FUNCTIONS_MAX)
            self.abandoned += np.bincount(slots, minlength=len(self.abandoned))
        newest = max((int(columns["time_ns"].max()) for columns in batch.values()), default=0)
        while self._gone and self._gone[0][1] < newest - OWNERS_GONE_NS:
            self._gone.popleft()

    def _owners_gone(self, columns: Columns) -> None:
        gone = {worker.tobytes() for worker in columns["worker"]}
        at = int(columns["time_ns"].max())
        self._gone += [(process, at) for process in gone]
        self.demand = {key: backlog for key, backlog in self.demand.items() if key[0] not in gone}
        self.answers = {key: answer for key, answer in self.answers.items() if key[0] not in gone}

    def _groups(self, batch: Batch) -> None:
        """What became of placement groups, in the order in which it happened."""
        found = []
        for event in ("group_requested", "group_created", "group_rescheduling", "group_removed"):
            if event in batch:
                columns = batch[event]
                times = columns["time_ns"].tolist()
                found += [(at, event, group.tobytes()) for at, group in zip(times, columns["group"], strict=True)]
        if "group_created" in batch:
            waited = batch["group_created"]["pending_seconds"]
            self.group_pending.add(np.zeros(len(waited), np.int64), waited)
        for _, event, group in sorted(found, key=lambda each: each[0]):
            if event == "group_removed":
                self.groups_removed += 1
                self.groups.pop(group, None)
            elif event == "group_requested":
                self.groups.setdefault(group, "pending")
            else:
                self.groups[group] = event.removeprefix("group_")

    def _saved(self, columns: Columns) -> None:
        self.checkpoints += len(columns["state_bytes"])
        self.checkpoint_bytes += int(columns["state_bytes"].sum())
        self.checkpoint_seconds += float(columns["save_seconds"].sum())

    def _restored(self, columns: Columns) -> None:
        self.calls_replayed += int(columns["calls"].sum())

    def _collective(self, columns: Columns) -> None:
        slots = self.operations.of(columns["operation"])
        self.collectives.add(slots, columns["seconds"])
        for total, field in (
            (self.collective_wait_seconds, "wait_seconds"), (self.collective_sent_bytes, "sent_bytes"),
        ):  # fmt: skip
            total += np.bincount(slots, weights=columns[field].astype(np.float64), minlength=len(total))

    def _collective_failed(self, columns: Columns) -> None:
        failures = self.collective_failures
        failures += np.bincount(self.operations.of(columns["operation"]), minlength=len(failures))

    def _rpc(self, columns: Columns) -> None:
        self.rpc.add(self.rpc_methods.of(columns["method"]), columns["rpc_seconds"])

    def _stored(self, columns: Columns) -> None:
        self.stored.add(np.zeros(len(columns["write_seconds"]), np.int64), columns["write_seconds"])

    def _fault(self, columns: Columns) -> None:
        np.add.at(self.faults, (self.fault_methods.of(columns["method"]), columns["fault"]), 1)

    def _dropped(self, columns: Columns) -> None:
        self.dropped += int(columns["events"].sum())


def span_id(task: bytes, attempt: int) -> bytes:
    """The id (8 bytes) of the span of one attempt; anybody who knows both can derive it."""
    return hashlib.blake2b(task + attempt.to_bytes(2, "big"), digest_size=8).digest()
