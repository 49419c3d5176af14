"""``/metrics``: the catalogue's families out of the folded series, in OpenMetrics, for those who hold the token."""

from __future__ import annotations

import hmac
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector as Exposed
from prometheus_client.samples import Exemplar

from obsray.metrics.catalog import BUCKETS, METRICS
from obsray.metrics.gpu import GpuSeries
from obsray.metrics.series import Histogram, Series
from obsray.metrics.user import UserSeries
from obsray.telemetry import session_file
from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import Batch
from obsray.telemetry.events import DeathCause, LeaseOutcome, Outcome, Reason
from obsray.telemetry.spine import read_now

_DECISIONS = {
    LeaseOutcome.GRANTED: "local",
    LeaseOutcome.QUEUED: "queue",
    LeaseOutcome.INFEASIBLE: "infeasible",
    LeaseOutcome.SPILLED: "spillback",
    LeaseOutcome.WITHDRAWN: "withdrawn",
}
#: A client that does not read or send for this long is dropped.
_CLIENT_SECONDS = 10


class Families(Exposed):
    """What prometheus_client asks for the families; ``update`` is a fold of the collector."""

    def __init__(self, collector: Collector, node: str) -> None:
        self.collector = collector
        self.series = Series(collector.texts)
        self.gpu = GpuSeries(self.series.functions)
        self.user = UserSeries(collector.texts)
        self.node = node
        self._lock = threading.Lock()

    def update(self, batch: Batch) -> None:
        """Fold a batch."""
        with self._lock:
            self.series.update(batch)
            self.gpu.update(batch)
            if "user_metric" in batch:
                self.user.update(batch["user_metric"])

    def collect(self) -> Iterator[Metric]:
        """All families, in the order of the catalogue, then those of user code."""
        running = self._running()
        with self._lock:
            made = [*self._tasks(running), *self._node(running), *self.gpu.families(self.node), *self._telemetry()]
            users = list(self.user.families())
        by_name = {family.name: family for family in made}
        for name in METRICS:
            if name in by_name:
                yield by_name[name]
        yield from users

    def _running(self) -> int:
        rings = self.collector.rings
        return sum(
            len(read_now(rings.directory, process))
            for process, reader in list(rings.readers.items())
            if reader.state.pid and rings.alive(process)
        )

    # --- families -----------------------------------------------------------------------------------------

    def _tasks(self, running: int) -> list[Metric]:
        s = self.series
        submitted, finished = _counter("obsray_tasks_submitted"), _counter("obsray_tasks_finished")
        cpu, retries = _counter("obsray_task_cpu_seconds"), _counter("obsray_task_retries")
        outcomes = [outcome.name.lower() for outcome in Outcome]
        for slot in np.flatnonzero(s.submitted + s.finished.sum(axis=1) + (s.cpu_seconds > 0)).tolist():
            fn = s.functions.name(slot)
            submitted.add_metric([fn], int(s.submitted[slot]))
            cpu.add_metric([fn], float(s.cpu_seconds[slot]))
            for outcome, text in enumerate(outcomes):
                if s.finished[slot, outcome]:
                    finished.add_metric([fn, text], int(s.finished[slot, outcome]))
                if s.retries[slot, outcome]:
                    retries.add_metric([fn, text], int(s.retries[slot, outcome]))
        pending = _gauge("obsray_tasks_pending")
        for (reason, shape), count in s.pending(running).items():
            pending.add_metric([reason, shape], count)
        now = _gauge("obsray_tasks_running")
        now.add_metric([], running)
        found = [submitted, finished, pending, now, cpu, retries]
        for name, histogram in s.task_histograms.items():
            family = _histogram(f"obsray_task_{name}_seconds")
            for slot in np.flatnonzero(histogram.counts.sum(axis=1)).tolist():
                _add_histogram(family, [s.functions.name(slot)], histogram, slot)
            found.append(family)
        return found

    def _node(self, running: int) -> list[Metric]:
        s, node = self.series, self.node
        decisions, deaths = _counter("obsray_scheduler_decisions"), _counter("obsray_worker_deaths")
        restarts = _counter("obsray_actor_restarts")
        for outcome in LeaseOutcome:
            for reason in Reason:
                if s.decisions[outcome, reason]:
                    labels = [node, _DECISIONS[outcome], reason.name.lower()]
                    decisions.add_metric(labels, int(s.decisions[outcome, reason]))
        for cause in DeathCause:
            deaths.add_metric([node, cause.name.lower()], int(s.deaths[cause]))
            if s.restarts[cause]:
                restarts.add_metric([cause.name.lower()], int(s.restarts[cause]))
        found: list[Metric] = [decisions, deaths, restarts, *self._store(), *self._processes(running)]
        for name, count in (
            ("checkpoints", s.checkpoints), ("checkpoint_bytes", s.checkpoint_bytes),
            ("checkpoint_seconds", s.checkpoint_seconds), ("calls_replayed", s.calls_replayed),
        ):  # fmt: skip
            family = _counter(f"obsray_actor_{name}")
            family.add_metric([], count)
            found.append(family)
        for name in s.object_bytes:
            family = _counter(f"obsray_object_{name}_bytes")
            family.add_metric([node], s.object_bytes[name])
            found.append(family)
        lost = _counter("obsray_objects_lost")
        lost.add_metric([node], s.objects_lost)
        failed, seconds = _counter("obsray_object_transfers_failed"), _histogram("obsray_object_transfer_seconds")
        failed.add_metric([node], s.transfers_failed)
        if len(s.transfer_seconds.sums):
            _add_histogram(seconds, [node], s.transfer_seconds, 0)
        found += [failed, seconds]
        for name, by_peer in (("received", s.received), ("sent", s.sent)):
            moved = _counter(f"obsray_object_{name}_bytes")
            for peer, count in by_peer.items():
                moved.add_metric([node, peer], count)
            found.append(moved)
        groups, waited = _gauge("obsray_placement_groups"), _histogram("obsray_placement_group_pending_seconds")
        states = Counter(s.groups.values())
        for state in ("pending", "created"):
            groups.add_metric([state], states[state])
        groups.add_metric(["removed"], s.groups_removed)
        if len(s.group_pending.sums):
            _add_histogram(waited, [], s.group_pending, 0)
        found += [groups, waited]
        total, used = _gauge("obsray_resource_total"), _gauge("obsray_resource_used")
        for resource, (all_, taken) in s.resources.items():
            total.add_metric([node, resource], all_)
            used.add_metric([node, resource], taken)
        lag, start = _histogram("obsray_scheduler_loop_lag_seconds"), _histogram("obsray_worker_start_seconds")
        for exposed, histogram in ((lag, s.loop_lag), (start, s.worker_start)):
            if len(histogram.sums):
                _add_histogram(exposed, [node], histogram, 0)
        rpc = _histogram("obsray_gcs_rpc_duration_seconds")
        for slot in np.flatnonzero(s.rpc.counts.sum(axis=1)).tolist():
            _add_histogram(rpc, [s.rpc_methods.name(slot)], s.rpc, slot)
        stored = _histogram("obsray_control_write_seconds")
        if len(s.stored.counts) and s.stored.counts[0].sum():
            _add_histogram(stored, [], s.stored, 0)
        return [*found, lost, total, used, lag, start, rpc, stored, *self._collectives()]

    def _collectives(self) -> list[Metric]:
        s = self.series
        took = _histogram("obsray_collective_seconds")
        waited, sent = _counter("obsray_collective_wait_seconds"), _counter("obsray_collective_sent_bytes")
        failed = _counter("obsray_collective_failures")
        for slot in range(len(s.operations.names)):
            name = s.operations.name(slot)
            if slot < len(s.collectives.sums):
                _add_histogram(took, [name], s.collectives, slot)
            waited.add_metric([name], float(s.collective_wait_seconds[slot]))
            sent.add_metric([name], float(s.collective_sent_bytes[slot]))
            failed.add_metric([name], int(s.collective_failures[slot]))
        return [took, waited, sent, failed]

    def _store(self) -> list[Metric]:
        sample = self.series.samples.get("store_sample")
        found: list[Metric] = []
        for name in ("capacity", "used", "pinned", "spilled"):
            family = _gauge(f"obsray_object_store_{name}_bytes")
            if sample is not None:
                family.add_metric([self.node], sample[f"{name}_bytes"])
            found.append(family)
        objects = _gauge("obsray_objects")
        if sample is not None:
            objects.add_metric([self.node, "memory"], sample["objects"])
            objects.add_metric([self.node, "spilled"], sample["objects_spilled"])
        return [*found, objects]

    def _processes(self, running: int) -> list[Metric]:
        s, node = self.series, self.node
        workers, queue = _gauge("obsray_workers"), _gauge("obsray_scheduler_queue_depth")
        sample = s.samples.get("node_sample")
        if sample is not None:
            blocked = sample["workers_blocked"]
            busy = max(0, min(running, sample["workers"]) - blocked)
            states = {
                "starting": sample["workers_starting"], "idle": sample["workers_idle"], "busy": busy,
                "blocked_in_get": blocked,
                "leased": max(0, sample["workers_leased"] + sample["workers_actor"] - busy - blocked),
            }  # fmt: skip
            for state, count in states.items():
                workers.add_metric([node, state], count)
            queue.add_metric([node], sample["demands_queued"])
        resident = _gauge("obsray_process_resident_memory_bytes")
        unique = _gauge("obsray_process_unique_memory_bytes")
        sums: dict[str, list[int]] = {}
        for kind, rss, uss in s.processes.values():
            entry = sums.setdefault(kind.name.lower(), [0, 0])
            entry[0] += rss
            entry[1] += uss
        for kind_name, (rss, uss) in sums.items():
            resident.add_metric([node, kind_name], rss)
            unique.add_metric([node, kind_name], uss)
        return [workers, queue, resident, unique]

    def _telemetry(self) -> list[Metric]:
        c, node = self.collector, self.node
        events, written = _counter("obsray_telemetry_events"), _counter("obsray_telemetry_bytes")
        events.add_metric([node], c.events_total)
        written.add_metric([node], c.bytes_total)
        dropped = _counter("obsray_telemetry_events_dropped")
        dropped.add_metric([node, "ring"], self.series.dropped)
        dropped.add_metric([node, "gap"], sum(reader.state.gaps for reader in list(c.rings.readers.values())))
        fill, lag = _gauge("obsray_telemetry_ring_fill_ratio"), _gauge("obsray_telemetry_export_lag_seconds")
        sample = self.series.samples.get("collector_sample")
        if sample is not None:
            fill.add_metric([node], sample["ring_fill_ratio"])
        lag.add_metric([node, "store"], c.lag_seconds())
        cpu = _counter("obsray_telemetry_cpu_seconds")
        cpu.add_metric([node, "collector"], c.cpu_seconds())
        build = InfoMetricFamily("obsray_build", METRICS["obsray_build"].help)
        build.add_metric([], {"version": version(), "node": node})
        return [events, written, dropped, fill, lag, cpu, build]


def _counter(name: str) -> CounterMetricFamily:
    metric = METRICS[name]
    return CounterMetricFamily(name, metric.help, labels=metric.labels)


def _gauge(name: str) -> GaugeMetricFamily:
    metric = METRICS[name]
    return GaugeMetricFamily(name, metric.help, labels=metric.labels)


def _histogram(name: str) -> HistogramMetricFamily:
    metric = METRICS[name]
    return HistogramMetricFamily(name, metric.help, labels=metric.labels)


def _add_histogram(family: HistogramMetricFamily, labels: list[str], histogram: Histogram, slot: int) -> None:
    buckets: list[Any] = []
    counts = np.cumsum(histogram.counts[slot])
    for index, count in enumerate(counts.tolist()):
        bound = str(BUCKETS[index]) if index < len(BUCKETS) else "+Inf"
        known = histogram.exemplars.get((slot, index))
        if known is None:
            buckets.append((bound, count))
        else:
            buckets.append((bound, count, Exemplar(known[0], known[1], known[2] / 1e9)))
    family.add_metric(labels, buckets=buckets, sum_value=float(histogram.sums[slot]))


def version() -> str:
    """The installed version of the runtime."""
    try:
        return metadata.version("obsray")
    except metadata.PackageNotFoundError:
        return "unknown"


# --- http ------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if not self._host_is_ours():
            return self._say(421, "this server answers to its loopback address only\n")
        if self.path.partition("?")[0] != "/metrics":
            return self._say(404, "there is only /metrics\n")
        if not self._authorized():
            return self._say(401, "send 'Authorization: Bearer <token>'; the token is in the session directory\n")
        body: bytes = openmetrics.generate_latest(self.server.registry)  # type: ignore[no-untyped-call]
        self.send_response(200)
        self.send_header("Content-Type", openmetrics.CONTENT_TYPE_LATEST)
        self._send(body)

    def _host_is_ours(self) -> bool:
        port = self.server.server_address[1]
        return self.headers.get("Host", "") in {f"127.0.0.1:{port}", f"localhost:{port}"}

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not given:
            for part in self.headers.get("Cookie", "").split(";"):
                name, _, value = part.strip().partition("=")
                if name == "obsray_token":
                    given = value
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token)

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self._send(text.encode())

    def _send(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Scrapes are not worth a line."""

    def version_string(self) -> str:
        return "obsray"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: CollectorRegistry
    token: bytes


class Exporter:
    """The running server; ``url`` is where it answers."""

    def __init__(self, families: Families, token: bytes) -> None:
        self.families = families
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.registry = CollectorRegistry(auto_describe=False)
        self._server.registry.register(families)
        self._server.token = token.hex().encode()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


def start(collector: Collector, session_dir: Path) -> Exporter:
    """Serve the metrics of a collector. Raises FileNotFoundError if the session has no token: nothing is served
    without one."""
    token = (Path(session_dir) / "token").read_bytes()
    if len(token) < 16:
        raise ValueError(f"the token of {session_dir} is too short")
    node = session_file.read(session_dir).get("node") or ""
    families = Families(collector, node[:8])
    collector.folds.append(families.update)
    return Exporter(families, token)
