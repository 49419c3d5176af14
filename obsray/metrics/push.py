"""Metrics pushed with OTLP, for those who do not scrape: what ``/metrics`` serves, every so often, to where the
standard ``OTEL_*`` variables say.

Every request says everything since counting began. So nothing is queued, one that did not arrive is made up for by the
next, and one that arrived twice counts once. How it fares stands in ``telemetry/otlp_metrics.<who>.json``.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.core import Metric

from obsray.export import unsent
from obsray.export.otlp import resource_of
from obsray.export.receivers import Receiver, Refused, SettingError, Settings, Unavailable, receiver, rejected
from obsray.metrics import otlp
from obsray.metrics.catalog import METRICS
from obsray.metrics.targets import cluster_of
from obsray.telemetry import session_file
from obsray.telemetry.small_files import write_whole

#: Waits between tries, growing from the first to the last, while a receiver is away.
RETRY_SECONDS = (0.5, 30.0)
#: How long the last numbers of a process are tried to be sent.
FAREWELL_SECONDS = 4.0
OUTCOMES = ("delivered", "delayed", "refused")
#: What counts since the machine was started.
_OF_THE_MACHINE = ("obsray_node_cpu_seconds", "obsray_node_network_bytes")
_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")

log = logging.getLogger("obsray.push")


class Source:
    """Whose metrics are pushed. ``collect`` gives the families, ``counted_since_ns`` says since when they count."""

    def __init__(self, session: Path, who: str, collect: Callable[[], Iterable[Metric]]) -> None:
        self.session = session
        self.who = who
        self.collect = collect
        self.began_ns = self.counted_since_ns = time.time_ns()

    def started(self, family: str) -> int:
        """Since when a counter counts."""
        metric = METRICS.get(family)
        if metric is None or metric.events:
            return self.counted_since_ns
        return int(psutil.boot_time() * 1e9) if family in _OF_THE_MACHINE else self.began_ns

    def described(self) -> tuple[bytes, dict[str, str]]:
        """The resource, and what every point carries as scraped ones have it from their target."""
        facts = session_file.read(self.session)
        cluster, node = cluster_of(facts), str(facts.get("node") or "")
        role = "dashboard" if self.who == "dashboard" else "node" if facts.get("head") is False else "head"
        more: dict[str, Any] = {"service.instance.id": f"{node}-dashboard" if role == "dashboard" else node}
        resource = resource_of(f"obsray-{self.who}", cluster, more)
        return resource, {"cluster": cluster, "role": role}


class Pusher:
    """Pushes from a thread of its own until it is closed."""

    def __init__(self, source: Source, settings: Settings, target: Receiver) -> None:
        self.source = source
        self.settings = settings
        self.receiver = target
        self.error = ""
        self.outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._path = source.session / "telemetry" / f"otlp_metrics.{source.who}.json"
        self._delivered_at = time.monotonic()
        self._delivered_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)
        self._thread.start()

    def late_seconds(self) -> float:
        """By how much the newest numbers at the receiver are older than they should be."""
        return max(0.0, time.monotonic() - self._delivered_at - self.settings.interval_seconds)

    def push(self) -> bool:
        """Send everything once, as it is now. False if the receiver is away."""
        for data, points in self._requests():
            try:
                lost, told = rejected(self.receiver.send(data))
                self._note("refused" if lost else "delivered", told and f"{lost} of {points} points: {told}")
            except Refused as error:
                self._note("refused", str(error))
            except Unavailable as error:
                self._note("delayed", str(error))
                return False
        self._delivered_at, self._delivered_ns = time.monotonic(), time.time_ns()
        self._write()
        return True

    def close(self) -> None:
        """Send the last numbers, for ``FAREWELL_SECONDS`` at most, and end."""
        self._stop.set()
        self._thread.join(FAREWELL_SECONDS)

    def _run(self) -> None:
        wait, retry = self.settings.interval_seconds, RETRY_SECONDS[0]
        while not self._stop.wait(wait):
            if self._tried():
                wait, retry = self.settings.interval_seconds, RETRY_SECONDS[0]
            else:
                wait, retry = min(retry, self.settings.interval_seconds), min(retry * 2, RETRY_SECONDS[1])
        deadline = time.monotonic() + FAREWELL_SECONDS / 2
        while not self._tried():
            if time.monotonic() > deadline:
                self._keep()
                break
            time.sleep(RETRY_SECONDS[0])
        self.receiver.close()

    def _keep(self) -> None:
        """Nobody took the last numbers: ``obsray export --otlp`` sends them later."""
        try:
            unsent.keep(self.source.session, self.source.who, [data for data, _ in self._requests()])
        except OSError as error:
            log.error("the last metrics could not be kept: %s", error)

    def _requests(self) -> Iterator[tuple[bytes, int]]:
        resource, common = self.source.described()
        return otlp.requests(
            self.source.collect(), resource, common, self.source.started, time.time_ns(), self.settings.exemplars
        )

    def _tried(self) -> bool:
        try:
            return self.push()
        except Exception:
            # Whatever is wrong with one push must not end all of them.
            log.exception("metrics could not be pushed")
            return False

    def _note(self, outcome: str, error: str) -> None:
        self.outcomes[outcome] += 1
        if error and error != self.error:
            log.warning("metrics are %s: %s", outcome, error)
        elif self.error and not error:
            log.info("metrics are taken again by %s", self.receiver.name)
        if error != self.error:
            self.error = error
            self._write()

    def _write(self) -> None:
        values = {
            "receiver": self.receiver.name, "error": self.error, "delivered_at_ns": self._delivered_ns,
            "interval_seconds": self.settings.interval_seconds, **self.outcomes,
        }  # fmt: skip
        try:
            write_whole(self._path, json.dumps(values))
        except OSError as error:
            log.error("how pushing fares is not written down: %s", error)


def start(source: Source) -> Pusher | None:
    """Push if the environment says where; what it says wrongly is logged, and nothing is pushed."""
    if not any(os.environ.get(name) for name in _VARIABLES):
        return None
    try:
        settings = Settings.read(signal="metrics")
        if not settings.endpoint:
            return None
        target = receiver(settings)
    except (SettingError, OSError) as error:
        log.error("no metrics are pushed: %s", error)
        return None
    log.info("metrics go to %s over %s every %g s", target.name, settings.protocol, settings.interval_seconds)
    return Pusher(source, settings, target)


def states(session: Path) -> dict[str, dict[str, Any]]:
    """How pushing fares, by who pushes; empty if nobody does."""
    found = {}
    for path in sorted((session / "telemetry").glob("otlp_metrics.*.json")):
        try:
            found[path.name.split(".")[1]] = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            continue
    return found
