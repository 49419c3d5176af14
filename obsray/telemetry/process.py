"""The collector's process: ``python -m obsray.telemetry.process --session-dir DIR``.

Drains, samples, serves ``/metrics``, and ends when its node does (its parent changes, ``session.json`` says stopped,
or SIGTERM), after a last drain: from then on the session directory holds everything.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from obsray.config import Config
from obsray.telemetry import hang_watch, live_stacks, session_file
from obsray.telemetry.collector import Collector, own_ring
from obsray.telemetry.events import OutputStream
from obsray.telemetry.log_bounds import LogBounds
from obsray.telemetry.pids import process_alive
from obsray.telemetry.spine import NO_ROOM
from obsray.telemetry.store import Store

#: What serves /metrics. Named, not imported: this layer knows nothing of the ones above, and works without them.
EXPORTER = "obsray.metrics.exporter"
#: What gives records to the head of a cluster, and what takes those of the other nodes.
SERVING = "obsray.federation.serving"
GATHERING = "obsray.federation.gathering"
#: What sends spans to an OpenTelemetry receiver, as a process of its own, and the variables that name one.
SENDING = "obsray.export.process"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_NICE = 5
#: How often ``session.json`` is looked at for the word that the session is over.
_STOPPED_CHECK_SECONDS = 1.0
#: How long after a failure /metrics are tried again.
_EXPORT_AGAIN_SECONDS = 5.0
#: How long processes that outlive their node for a moment are waited for before the last drain.
_FAREWELL_SECONDS = 1.0
#: How often the output of workers is looked at for being longer than what is kept.
_BOUND_SECONDS = 2.0

log = logging.getLogger("obsray.collector")


class Exporter(Protocol):
    """What ``EXPORTER.start`` returns."""

    url: str

    def look(self) -> None: ...

    def close(self) -> None: ...

    def finish(self) -> None: ...


class Process:
    """The loop around a ``Collector``."""

    def __init__(self, session_dir: Path, config: Config, parent: int | None = None) -> None:
        self.session_dir = session_dir
        self.config = config
        self.parent = os.getppid() if parent is None else parent
        facts = session_file.read(session_dir)
        node = bytes.fromhex(facts.get("node") or "00" * 8)
        self.collector = Collector(session_dir, config.telemetry_bytes_max, own_ring(session_dir, node))
        if self.collector.ring is not None:
            live_stacks.listen(self.collector.ring.directory, self.collector.ring.process)
        self.exporter: Exporter | None = None
        self.serving: Any = None
        self.gathering: Any = None
        waits = hang_watch.Waits(resumed=bool(self.collector.rings.readers))
        self.collector.folds.append(waits.update)
        self.collector.gathered_folds.append(waits.update)
        self.hang_watching = hang_watch.Watching(session_dir, waits, config.hang_seconds)
        self._log_bounds = LogBounds(session_dir / "logs", config.worker_log_bytes_max)
        self._bounded_at = 0.0
        self._federated = False
        self._sending: subprocess.Popen[bytes] | None = None
        self._stop = False
        #: Ends the wait for the next look. Unlike an event, a signal that comes in the middle of the wait may use it.
        self._stopped: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._checked_at = 0.0
        #: When /metrics that could not be served are tried again.
        self._export_at = math.inf

    def stop(self, *_: Any) -> None:
        """End after a last drain."""
        self._stop = True
        self._stopped.put(None)

    def export(self) -> None:
        """Serve /metrics and say where in ``session.json``. Telemetry goes on without it if that fails."""
        again, self._export_at = self._export_at < math.inf, math.inf
        folds, gathered_folds = list(self.collector.folds), list(self.collector.gathered_folds)
        try:
            if self.exporter is None:
                self.exporter = importlib.import_module(EXPORTER).start(self.collector, self.session_dir)
            assert self.exporter is not None
            session_file.update(self.session_dir, metrics_url=self.exporter.url)
        except Exception as error:
            if self.exporter is None:
                self.collector.folds[:], self.collector.gathered_folds[:] = folds, gathered_folds
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                self._export_at = time.monotonic() + _EXPORT_AGAIN_SECONDS
                if not again:
                    log.error("no /metrics until there is room: %s", error)
            else:
                log.exception("no /metrics")

    def federate(self, facts: dict[str, Any]) -> None:
        """In a cluster: serve the head, or be its collector. Telemetry goes on here if that fails."""
        self._federated = True
        try:
            token = (self.session_dir / "token").read_bytes()
            chaos = (self.config.chaos, self.collector.ring)
            if facts.get("head"):
                self.gathering = importlib.import_module(GATHERING).Gathering(
                    self.session_dir, facts["node"], token, *chaos, self.config.logs_bytes_max, self._nodes_over()
                )
            else:
                self.serving = importlib.import_module(SERVING).Serving(
                    self.session_dir, facts["node"], token, *chaos, self.collector.recorded
                )
                self.collector.shared = True
        except Exception:
            log.exception("no telemetry across nodes")

    def _nodes_over(self) -> set[bytes]:
        """The nodes of which an earlier collector of this session has taken all that there was."""
        return {row["node"] for row in Store(self.session_dir).rows("node_records_ended")}

    def send_spans(self) -> None:
        """Have the spans of the session sent, if the environment says where. Telemetry goes on if that fails."""
        if not any(os.environ.get(name) for name in _ENDPOINTS):
            return
        try:
            command = [sys.executable, "-m", SENDING, "--session-dir", str(self.session_dir)]
            self._sending = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError:
            log.exception("no spans are sent")

    def _gather(self) -> None:
        """Store what has come from other nodes."""
        while self.gathering is not None and not self.gathering.snapshots.empty():
            snapshot = self.gathering.snapshots.get()
            self.collector.gather(snapshot.node, snapshot.parts, snapshot.rings)
            if snapshot.last:
                self.collector.node_over(snapshot.node, snapshot.complete, snapshot.recorded, snapshot.unheard)

    def run(self) -> None:
        """Drain until the session is over."""
        config, collector = self.config, self.collector
        sampled_at = 0.0
        while not self._over():
            began = time.monotonic()
            try:
                more = collector.poll() >= 65_536
                self._gather()
                if collector.due():
                    collector.flush()
                if began > self._export_at:
                    self.export()
                if self.exporter is not None:
                    self.exporter.look()
            except OSError as error:
                if not collector.failing_since:  # otherwise that was said when it began
                    log.error("something of telemetry failed, going on: %s", error)
                more = False
            if began - sampled_at >= config.sample_interval_seconds:
                sampled_at = began
                collector.sample()
                self._bound_output(began)
            if not more:
                with contextlib.suppress(queue.Empty):
                    self._stopped.get(timeout=max(0.0, config.collect_interval_seconds - (time.monotonic() - began)))
        self.hang_watching.close()
        facts = {} if self._federated else session_file.read(self.session_dir)
        if facts.get("node_address") and not facts.get("head"):
            # It ended before it had been looked at whether it is one of a cluster.
            self.federate(facts)
        self._farewell()
        if self.gathering is not None:
            self.gathering.close()
            self._gather()
        if self.exporter is not None:
            self.exporter.close()
        collector.close()
        if self.serving is not None:
            self.serving.close()
        if self.exporter is not None:
            self.exporter.finish()

    def _bound_output(self, now: float) -> None:
        """Give back what workers and jobs printed beyond what is kept."""
        if now < self._bounded_at + _BOUND_SECONDS:
            return
        self._bounded_at = now
        ring = self.collector.ring
        for whose, stream, first, count in self._log_bounds.look():
            if stream:
                log.warning("worker %s printed more than is kept: %d bytes of std%s are gone", whose, count, stream)
            else:
                log.warning("job %s printed more than is kept: %d bytes are gone", whose, count)
            if ring is not None and stream:
                number = int(OutputStream[stream.upper()])
                ring.output_dropped(time.time_ns(), bytes.fromhex(whose), number, first, count)
            elif ring is not None:
                ring.job_output_dropped(time.time_ns(), ring.intern(whose), first, count)

    def _farewell(self) -> None:
        """Workers notice the end of their node a little later than this process does, and still record it."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while not self.collector.quiet() and time.monotonic() < deadline:
            self.collector.poll()
            time.sleep(0.02)

    def _over(self) -> bool:
        if self._stop or os.getppid() != self.parent:
            return True
        now = time.monotonic()
        if now - self._checked_at > _STOPPED_CHECK_SECONDS:
            self._checked_at = now
            facts = session_file.read(self.session_dir)
            if facts.get("node_address") and not self._federated:
                self.federate(facts)
            node = int(facts.get("node_pid") or 0)
            if self._sending is not None:
                self._sending.poll()
            if self.serving is None:  # otherwise the head looks
                self.hang_watching.look(facts)
            if facts.get("stopped_at_ns") or (node and not process_alive(node)):
                return True
        return False


def main(arguments: list[str] | None = None) -> int:
    """Run the collector of one session until its node ends. Exit code 2 if there is no such session."""
    parser = argparse.ArgumentParser(prog="python -m obsray.telemetry.process", description=__doc__)
    parser.add_argument("--session-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not (options.session_dir / "rings").is_dir():
        print(f"{options.session_dir} is not a session directory: it has no rings", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.nice(max(0, _NICE - os.nice(0)))  # whoever started this process may have seen to it already
    # Measured: as fast as Arrow's own allocator here, and 17 MB less kept for later.
    pa.set_memory_pool(pa.system_memory_pool())
    process = Process(options.session_dir, Config.from_environment())
    signal.signal(signal.SIGTERM, process.stop)
    # It may have come before: a short session is over when this process has just started.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    # Ctrl-C goes to the whole group; the collector still has the last drain to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.export()
    process.send_spans()
    process.run()
    return 0


if __name__ == "__main__":
    ended = main()
    logging.shutdown()
    # All is stored, and the node waits: what the interpreter would tidy up, the kernel does in a fraction of the time.
    os._exit(ended)
