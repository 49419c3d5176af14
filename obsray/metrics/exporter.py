"""``/metrics``: the catalogue's families out of the folded series, in OpenMetrics, for those who hold the token."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.registry import Collector as Exposed

from obsray.chaos import Fault
from obsray.config import Config
from obsray.core.protocol.addresses import is_loopback, parse
from obsray.metrics import exposed, host, push, replay, tallies
from obsray.metrics.catalog import FUNCTIONS_MAX, METRICS, NAMES_MAX, OPERATIONS, OTHER, SHAPES_MAX
from obsray.metrics.cluster import ClusterSeries
from obsray.metrics.gpu import GpuSeries
from obsray.metrics.gpu_devices import GpuDeviceSeries
from obsray.metrics.gpu_jobs import GpuJobs
from obsray.metrics.jobs import JobSeries
from obsray.metrics.processes import ProcessSeries, Runs, by_state
from obsray.metrics.pulls import Pulls
from obsray.metrics.scaling import ScalingSeries
from obsray.metrics.series import METHODS_MAX, OPERATIONS_MAX, PEERS_MAX, Series
from obsray.metrics.server import Server, start_server
from obsray.metrics.targets import Targets
from obsray.metrics.user import FAMILIES_MAX, UserSeries
from obsray.telemetry import credential, session_file
from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import Batch, Columns, concat
from obsray.telemetry.events import DeathCause, LeaseOutcome, Outcome, Reason
from obsray.telemetry.spine import read_now

_DECISIONS = {
    LeaseOutcome.GRANTED: "local",
    LeaseOutcome.QUEUED: "queue",
    LeaseOutcome.INFEASIBLE: "infeasible",
    LeaseOutcome.SPILLED: "spillback",
    LeaseOutcome.WITHDRAWN: "withdrawn",
}
#: How often the head looks which nodes are there.
_LOOK_SECONDS = 1.0
#: Records are folded when somebody asks, when there are so many, or when the oldest were taken so long ago: a fold
#: costs by the kinds in a batch, and by what it finds in no cache, and nobody asks every second.
FOLD_ROWS, FOLD_SECONDS = 16_384, 5.0

log = logging.getLogger("obsray.collector")


class Families(Exposed):
    """What prometheus_client asks for the families; ``take`` is a fold of the collector."""

    def __init__(self, collector: Collector, node: str, head: bool = True) -> None:
        self.collector = collector
        self.node = node
        #: Only the head says what is so in the whole cluster.
        self.head = head
        texts = collector.texts
        self.series = Series(texts)
        self.gpu = GpuSeries(self.series.functions)
        self.gpu_devices = GpuDeviceSeries(texts, collector.session_dir)
        self.processes, self.pulls = ProcessSeries(texts), Pulls()
        self.tallies = tallies.Tallies(tallies.OF_NODES, texts)
        self.user = UserSeries(texts)
        self.host = host.Host()
        self.cluster, self.jobs, self.scaling = ClusterSeries(texts), JobSeries(), ScalingSeries(texts)
        self.cluster_tallies = tallies.Tallies(tallies.OF_THE_CLUSTER, texts)
        self._lock = threading.RLock()
        #: What was taken and is not folded, by kind, and when the oldest of it was taken.
        self._taken: dict[str, list[Columns]] = {}
        self._taken_rows, self._taken_at = 0, 0.0
        #: Whether a fold has failed: nothing is folded any more.
        self._failed = False
        self._dropped = 0
        #: Whether what comes is what an earlier collector has stored.
        self.replaying = False
        #: Pushes the same families; None if nobody asked for that.
        self.pusher: push.Pusher | None = None

    def update(self, batch: Batch) -> None:
        """Fold a batch of this node now."""
        self.take(batch)
        self.fold()

    def take(self, batch: Batch) -> None:
        """Take a batch of this node. It is folded at the latest when somebody asks."""
        runs = self._runs() if "node_sample" in batch else None
        with self._lock:
            # What is recorded of processes depends on what they do at this moment.
            self.processes.update(batch)
            if runs is not None:
                self._spend(batch["node_sample"], runs)
            self._taken_at = self._taken_at or time.monotonic()
            for event, columns in batch.items():
                self._taken.setdefault(event, []).append(columns)
                self._taken_rows += len(columns)
            if self._taken_rows >= FOLD_ROWS or time.monotonic() - self._taken_at >= FOLD_SECONDS:
                self.fold()

    def fold(self) -> None:
        """Fold what was taken."""
        with self._lock:
            taken, self._taken, self._taken_rows, self._taken_at = self._taken, {}, 0, 0.0
            if self._failed:
                return
            self._failed = True
            self._fold({event: concat(parts) for event, parts in taken.items()})
            self._failed = False

    def _fold(self, batch: Batch) -> None:
        self.series.waiting.everywhere = self.head
        self.series.update(batch)
        self.gpu.update(batch)
        self.gpu_devices.update(batch)
        self.pulls.update(batch)
        self.tallies.update(batch)
        if "user_metric" in batch:
            self.user.update(batch["user_metric"])
        self._fold_cluster(batch)

    def _spend(self, samples: Columns, runs: Runs) -> None:
        """Record what workers did. Of records of the past nobody knows any more, and it is recorded already."""
        ring = self.collector.ring
        for time_ns, seconds in self.processes.spend(samples, runs):
            if not self.replaying and ring is not None:
                ring.worker_time_sample(time_ns, *seconds)

    def update_gathered(self, batch: Batch) -> None:
        """Fold a batch of another node, on the head."""
        with self._lock:
            self.fold()
            self.series.gathered(batch)
            self._fold_cluster(batch)

    def _fold_cluster(self, batch: Batch) -> None:
        self.cluster.update(batch)
        self.cluster_tallies.update(batch)
        self.jobs.update(batch)
        self.scaling.update(batch)

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the catalogue, then those of user code."""
        try:
            self.fold()
        except Exception:
            # Whoever asks is given what was counted until now.
            log.exception("metrics failed and are given no more records")
        runs = self._runs()
        with self._lock:
            made = [*self._tasks(runs.tasks), *self._node(runs), *self.gpu.families(self.node)]
            made += [*self.gpu_devices.families(self.node), *self._telemetry()]
            made += [*self.processes.families(self.node), *self.tallies.families(self.node), *self._bounds()]
            made += [*tallies.newest(self.series.samples, self.node), *self.host.families(self.node, self._directory)]
            if self.head:
                made += [*self.cluster.families(), *self.cluster_tallies.families(self.node), *self.jobs.families()]
                made += self.scaling.families()
            users = list(self.user.families())
        by_name = {family.name: family for family in made}
        for name in METRICS:
            if name in by_name:
                yield exposed.fitted(by_name[name])
        yield from map(exposed.fitted, users)

    @property
    def _directory(self) -> Path:
        return self.collector.session_dir

    def _runs(self) -> Runs:
        rings = self.collector.rings
        now = {
            process: [task for task, *_ in read_now(rings.directory, process)]
            for process, reader in list(rings.readers.items())
            if reader.state.pid and rings.alive(process)
        }
        with self._lock:
            return self.processes.runs(now, self.replaying)

    # --- families -----------------------------------------------------------------------------------------

    def _tasks(self, running: int) -> list[Metric]:
        s = self.series
        submitted, finished = exposed.counter("obsray_tasks_submitted"), exposed.counter("obsray_tasks_finished")
        unfinished, blocked = exposed.gauge("obsray_tasks_unfinished"), exposed.counter("obsray_task_blocked_seconds")
        cpu, retries = exposed.counter("obsray_task_cpu_seconds"), exposed.counter("obsray_task_retries")
        outcomes, open_ = [outcome.name.lower() for outcome in Outcome], s.unfinished()
        for slot in np.flatnonzero(s.submitted + s.finished.sum(axis=1) + (s.cpu_seconds > 0)).tolist():
            fn = s.functions.name(slot)
            submitted.add_metric([fn], int(s.submitted[slot]))
            cpu.add_metric([fn], float(s.cpu_seconds[slot]))
            blocked.add_metric([fn], float(s.blocked_seconds[slot]))
            if s.submitted[slot]:
                unfinished.add_metric([fn], int(open_[slot]))
            for outcome, text in enumerate(outcomes):
                # From zero on, where that is affordable: a rate does not see what a series begins with.
                if s.finished[slot, outcome] or outcome in (Outcome.OK, Outcome.APP_ERROR):
                    finished.add_metric([fn, text], int(s.finished[slot, outcome]))
                if s.retries[slot, outcome]:
                    retries.add_metric([fn, text], int(s.retries[slot, outcome]))
        ends = exposed.counter("obsray_task_outcomes")
        for outcome, text in enumerate(outcomes):
            # Of those that nobody is left to tell of only the owner's end is recorded.
            left = s.abandoned.sum() if outcome == Outcome.OWNER_DIED else 0
            ends.add_metric([text], int(s.finished[:, outcome].sum() + left))
        pending = exposed.gauge("obsray_tasks_pending")
        for (reason, shape), count in s.pending(running).items():
            pending.add_metric([reason, shape], count)
        now = exposed.gauge("obsray_tasks_running")
        now.add_metric([], running)
        found = [submitted, finished, ends, unfinished, pending, now, cpu, blocked, retries]
        for name, histogram in s.task_histograms.items():
            family = exposed.histogram(f"obsray_task_{name}_seconds")
            if name == "queue":
                # From submission on: those that wait long are to be seen by a rate when they begin.
                histogram.reserve(int(np.flatnonzero(s.submitted).max(initial=-1)) + 1)
                used = histogram.counts.sum(axis=1) + s.submitted[: len(histogram.sums)]
            else:
                used = histogram.counts.sum(axis=1)
            for slot in np.flatnonzero(used).tolist():
                exposed.add_histogram(family, [s.functions.name(slot)], histogram, slot)
            found.append(family)
        return found

    def _node(self, runs: Runs) -> list[Metric]:
        s, node = self.series, self.node
        decisions, deaths = exposed.counter("obsray_scheduler_decisions"), exposed.counter("obsray_worker_deaths")
        for outcome in LeaseOutcome:
            for reason in Reason:
                if s.decisions[outcome, reason]:
                    labels = [node, _DECISIONS[outcome], reason.name.lower()]
                    decisions.add_metric(labels, int(s.decisions[outcome, reason]))
        for cause in DeathCause:
            deaths.add_metric([node, cause.name.lower()], int(s.deaths[cause]))
        found: list[Metric] = [decisions, deaths, *self._store(), *self._workers(runs)]
        for name, count in (
            ("checkpoints", s.checkpoints), ("checkpoint_bytes", s.checkpoint_bytes),
            ("checkpoint_seconds", s.checkpoint_seconds), ("calls_replayed", s.calls_replayed),
        ):  # fmt: skip
            family = exposed.counter(f"obsray_actor_{name}")
            family.add_metric([], count)
            found.append(family)
        for name in s.object_bytes:
            family = exposed.counter(f"obsray_object_{name}_bytes")
            family.add_metric([node], s.object_bytes[name])
            found.append(family)
        lost = exposed.counter("obsray_objects_lost")
        lost.add_metric([node], s.objects_lost)
        failed, seconds = (
            exposed.counter("obsray_object_transfers_failed"),
            exposed.histogram("obsray_object_transfer_seconds"),
        )
        failed.add_metric([node], s.transfers_failed)
        if len(s.transfer_seconds.sums):
            exposed.add_histogram(seconds, [node], s.transfer_seconds, 0)
        found += [failed, seconds]
        for name, by_peer in (("received", s.received), ("sent", s.sent)):
            moved = exposed.counter(f"obsray_object_{name}_bytes")
            for peer, count in by_peer.items():
                moved.add_metric([node, peer], count)
            found.append(moved)
        offset, uncertainty = (
            exposed.gauge("obsray_clock_offset_seconds"),
            exposed.gauge("obsray_clock_uncertainty_seconds"),
        )
        for peer, measured in s.clocks.items():
            offset.add_metric([node, peer], measured[0])
            uncertainty.add_metric([node, peer], measured[1])
        found += [offset, uncertainty]
        groups, waited = (
            exposed.gauge("obsray_placement_groups"),
            exposed.histogram("obsray_placement_group_pending_seconds"),
        )
        states = Counter(s.groups.values())
        for state in ("pending", "created", "rescheduling"):
            groups.add_metric([state], states[state])
        groups.add_metric(["removed"], s.groups_removed)
        if len(s.group_pending.sums):
            exposed.add_histogram(waited, [], s.group_pending, 0)
        found += [groups, waited]
        total, used = exposed.gauge("obsray_resource_total"), exposed.gauge("obsray_resource_used")
        for at, amounts in enumerate((total, used)):
            named = list(s.resources.items())
            for resource, known in named[:NAMES_MAX]:
                amounts.add_metric([node, resource], known[at])
            if len(named) > NAMES_MAX:
                amounts.add_metric([node, OTHER], sum(known[at] for _, known in named[NAMES_MAX:]))
        lag, start = (
            exposed.histogram("obsray_scheduler_loop_lag_seconds"),
            exposed.histogram("obsray_worker_start_seconds"),
        )
        for family_, histogram in ((lag, s.loop_lag), (start, s.worker_start)):
            if len(histogram.sums):
                exposed.add_histogram(family_, [node], histogram, 0)
        rpc = exposed.histogram("obsray_gcs_rpc_duration_seconds")
        for slot in np.flatnonzero(s.rpc.counts.sum(axis=1)).tolist():
            exposed.add_histogram(rpc, [s.rpc_methods.name(slot)], s.rpc, slot)
        stored = exposed.histogram("obsray_control_write_seconds")
        if len(s.stored.counts) and s.stored.counts[0].sum():
            exposed.add_histogram(stored, [], s.stored, 0)
        return [*found, lost, total, used, lag, start, rpc, stored, self._faults(), *self._collectives()]

    def _faults(self) -> Metric:
        s, faults = self.series, exposed.counter("obsray_faults_injected")
        for slot, fault in zip(*map(np.ndarray.tolist, np.nonzero(s.faults)), strict=True):
            faults.add_metric([s.fault_methods.name(slot), Fault(fault).name.lower()], int(s.faults[slot, fault]))
        return faults

    def _collectives(self) -> list[Metric]:
        s = self.series
        took = exposed.histogram("obsray_collective_seconds")
        waited, sent = (
            exposed.counter("obsray_collective_wait_seconds"),
            exposed.counter("obsray_collective_sent_bytes"),
        )
        failed = exposed.counter("obsray_collective_failures")
        for name in OPERATIONS:
            if name not in s.operations.names:
                failed.add_metric([name], 0)
        for slot in range(len(s.operations.names)):
            name = s.operations.name(slot)
            if slot < len(s.collectives.sums):
                exposed.add_histogram(took, [name], s.collectives, slot)
            waited.add_metric([name], float(s.collective_wait_seconds[slot]))
            sent.add_metric([name], float(s.collective_sent_bytes[slot]))
            failed.add_metric([name], int(s.collective_failures[slot]))
        return [took, waited, sent, failed]

    def _store(self) -> list[Metric]:
        sample = self.series.samples.get("store_sample")
        found: list[Metric] = []
        for name in ("capacity", "used", "pinned", "spilled", "fallback"):
            family = exposed.gauge(f"obsray_object_store_{name}_bytes")
            if sample is not None:
                family.add_metric([self.node], sample[f"{name}_bytes"])
            found.append(family)
        objects = exposed.gauge("obsray_objects")
        if sample is not None:
            objects.add_metric([self.node, "memory"], sample["objects"])
            objects.add_metric([self.node, "spilled"], sample["objects_spilled"])
        return [*found, objects]

    def _workers(self, runs: Runs) -> list[Metric]:
        s, node = self.series, self.node
        workers, queue = exposed.gauge("obsray_workers"), exposed.gauge("obsray_scheduler_queue_depth")
        sample = s.samples.get("node_sample")
        if sample is not None:
            for state, count in by_state(sample, runs).items():
                workers.add_metric([node, state], count)
            queue.add_metric([node], sample["demands_queued"])
        pulls = exposed.gauge("obsray_object_pulls_inflight")
        pulls.add_metric([node], len(self.pulls.begun))
        return [workers, queue, pulls]

    def _bounds(self) -> list[Metric]:
        """How many values of each label there are, and may be: what is beyond is not hidden."""
        s = self.series
        used = {
            "fn": (len(s.functions.names), FUNCTIONS_MAX),
            "shape": (len(s.shapes.names), SHAPES_MAX),
            "operation": (len(s.operations.names), OPERATIONS_MAX),
            "method": (len(s.rpc_methods.names), METHODS_MAX),
            "peer": (len(s.received.keys() | s.sent.keys()), PEERS_MAX),
            "actor_class": (len(self.cluster.classes), NAMES_MAX),
            "resource": (min(len(s.resources), NAMES_MAX), NAMES_MAX),
            "user_family": (len(self.user), FAMILIES_MAX),
        }
        values = exposed.gauge("obsray_metric_label_values")
        limits = exposed.gauge("obsray_metric_label_values_limit")
        for label, (count, limit) in used.items():
            values.add_metric([self.node, label], count)
            limits.add_metric([self.node, label], limit)
        return [values, limits]

    def _telemetry(self) -> list[Metric]:
        c, node = self.collector, self.node
        dropped = exposed.counter("obsray_telemetry_events_dropped")
        # What is being dropped just now counts too, but no counter goes back.
        self._dropped = max(self._dropped, self.series.dropped, c.dropped())
        dropped.add_metric([node, "ring"], self._dropped)
        dropped.add_metric([node, "gap"], sum(reader.state.gaps for reader in list(c.rings.readers.values())))
        fill, lag = (
            exposed.gauge("obsray_telemetry_ring_fill_ratio"),
            exposed.gauge("obsray_telemetry_export_lag_seconds"),
        )
        sample = self.series.samples.get("collector_sample")
        if sample is not None:
            fill.add_metric([node], sample["ring_fill_ratio"])
        lag.add_metric([node, "store"], c.lag_seconds())
        pushes = exposed.counter("obsray_telemetry_pushes")
        for outcome in push.OUTCOMES:
            pushes.add_metric([node, outcome], self.pusher.outcomes[outcome] if self.pusher is not None else 0)
        if self.pusher is not None:
            lag.add_metric([node, "push"], self.pusher.late_seconds())
        failures = exposed.counter("obsray_telemetry_store_failures")
        failures.add_metric([node], c.store_errors)
        build = InfoMetricFamily("obsray_build", METRICS["obsray_build"].help)
        build.add_metric([], {"version": version(), "node": node})
        return [dropped, failures, fill, lag, pushes, build]


def version() -> str:
    """The installed version of the runtime."""
    try:
        return metadata.version("obsray")
    except metadata.PackageNotFoundError:
        return "unknown"


class Exporter:
    """The running server; ``url`` is where it answers."""

    def __init__(self, families: Families, session_dir: Path, address: str, token: bytes) -> None:
        self.families = families
        self._session = session_dir
        registry = CollectorRegistry(auto_describe=False)
        registry.register(families)
        self._server: Server = start_server(address, registry, token)
        self.url = self._server.url
        self.targets = Targets(session_dir, families.collector.texts)
        directory = Config.from_environment().gpu_jobs_directory
        self.gpu_jobs = GpuJobs(session_dir, Path(directory)) if directory else None
        self._looked_at = 0.0
        self._announced = False
        self.source = push.Source(session_dir, "node", families.collect)

    def push(self) -> None:
        """Push the metrics as well, if the environment says where."""
        self.families.pusher = push.start(self.source)

    def look(self) -> None:
        """Call now and then: the head writes down where the metrics of all nodes are."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        facts = session_file.read(self._session)
        self.families.head = facts.get("head") is not False
        if not self._announced and facts.get("node"):
            self._announce(str(facts["node"]))
        if self.families.head:
            self.targets.write(facts)
        if self.gpu_jobs is not None:
            try:
                self.gpu_jobs.write(time.time_ns())
            except OSError as error:
                log.error("which job uses which GPU is not written down any more: %s", error)
                self.gpu_jobs = None

    def _announce(self, node: str) -> None:
        """Say where the metrics are. The node may be known only some time after its collector has started."""
        self._announced = True
        self.families.node = node[:8]
        self.targets.add(node, self.url)
        ring = self.families.collector.ring
        if ring is not None:
            ring.metrics_served(time.time_ns(), bytes.fromhex(node), ring.intern(self.url))

    def close(self) -> None:
        """Stop answering."""
        self._server.close()

    def finish(self) -> None:
        """Everything was folded: the last numbers are pushed."""
        if self.families.pusher is not None:
            self.families.pusher.close()


def resume(families: Families) -> bool:
    """Count on from where an earlier collector of the session was. False if that cannot be: then from 0."""
    families.replaying = True
    try:
        return replay.replay(families.collector)
    finally:
        families.replaying = False


def start(collector: Collector, session_dir: Path) -> Exporter:
    """Serve the metrics of a collector. Raises FileNotFoundError if the session has no token (nothing is served without
    one), ValueError or OSError if the address of the settings cannot be listened at."""
    session_dir = Path(session_dir)
    token = (session_dir / "token").read_bytes()
    if len(token) < 16:
        raise ValueError(f"the token of {session_dir} is too short")
    credential.write(session_dir, token)
    facts = session_file.read(session_dir)
    node = str(facts.get("node") or "")
    began_ns = int(facts.get("started_at_ns") or 0)
    families = Families(collector, node[:8], facts.get("head") is not False)
    collector.folds.append(families.take)
    collector.gathered_folds.append(families.update_gathered)
    # Before anybody can ask: what was said once is never taken back.
    complete = resume(families)
    exporter = Exporter(families, session_dir, _address(Config.from_environment()), token)
    collector.folds.append(exporter.targets.update)
    if exporter.gpu_jobs is not None:
        collector.folds.append(exporter.gpu_jobs.update)
    collector.gathered_folds.append(exporter.targets.update)
    if complete and began_ns:
        exporter.source.counted_since_ns = began_ns
    exporter.push()
    exporter.look()
    log.info("metrics at %s", exporter.url)
    return exporter


def _address(config: Config) -> str:
    """Where to listen. Raises ValueError for an address that others could reach unasked."""
    host_, _ = parse(config.metrics_address, "metrics_address")
    if not is_loopback(host_) and config.unsafe_network != "1":
        raise ValueError(
            f"metrics_address={config.metrics_address!r}: what is served there is not encrypted, so it is for this "
            "machine alone unless the setting unsafe_network=1 says that everybody who can read the network is trusted"
        )
    return config.metrics_address
