"""What Prometheus asks the dashboard: where the metrics of all nodes are, and how the dashboard itself fares."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from obsray.metrics import exposed
from obsray.metrics.series import Histogram
from obsray.metrics.targets import FILE

from .source import Source


def routes() -> list[BaseRoute]:
    return [Route("/metrics", metrics), Route("/api/prometheus/sd", targets)]


async def targets(request: Request) -> Response:
    """The targets of HTTP service discovery; none before the head's collector knows any."""
    source: Source = request.app.state.source
    try:
        return JSONResponse(json.loads((source.directory / FILE).read_bytes()))
    except FileNotFoundError:
        return JSONResponse([])


async def metrics(request: Request) -> Response:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(request.app.state.measured)
    shares = await request.app.state.source.ask(lambda view: view.gpu_shares(refresh=False), key="gpu_shares")
    registry.register(GpuShares(shares))
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return Response(text, media_type=openmetrics.CONTENT_TYPE_LATEST)


class GpuShares(Collector):
    """What each GPU spent the last minute on."""

    def __init__(self, shares: list[tuple[str, int, str, float]]) -> None:
        self._shares = shares

    def collect(self) -> Iterator[Metric]:
        """The family that the catalogue says the dashboard serves."""
        found = exposed.gauge("obsray_gpu_time_ratio")
        for node, gpu, activity, share in self._shares:
            found.add_metric([node, str(gpu), activity], share)
        yield found


class Measured(Collector):
    """How many requests of each route were answered how, and how long that took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._routes: dict[str, int] = {}
        self._seconds = Histogram()
        self._lock = threading.Lock()
        self._process = psutil.Process()

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count one answer. ``route`` names a function, never what somebody asked for."""
        with self._lock:
            self._requests[route, str(status)] += 1
            slot = self._routes.setdefault(route, len(self._routes))
            self._seconds.add(np.array([slot]), np.array([seconds]))

    def collect(self) -> Iterator[Metric]:
        """The families that the catalogue says the dashboard serves."""
        requests = exposed.counter("obsray_dashboard_requests")
        # Without labels it is there from the start: a rate does not see what a series begins with.
        errors = exposed.counter("obsray_dashboard_errors")
        seconds = exposed.histogram("obsray_dashboard_request_seconds")
        with self._lock:
            for labels, count in sorted(self._requests.items()):
                requests.add_metric(labels, count)
            errors.add_metric([], sum(count for (_, status), count in self._requests.items() if status >= "500"))
            for route, slot in self._routes.items():
                exposed.add_histogram(seconds, [route], self._seconds, slot)
        cpu = exposed.counter("obsray_dashboard_cpu_seconds")
        cpu.add_metric([], time.process_time())
        memory = exposed.gauge("obsray_dashboard_resident_memory_bytes")
        memory.add_metric([], self._process.memory_info().rss)
        yield from (requests, errors, seconds, cpu, memory)


class Measuring:
    """ASGI middleware inside the guard: what is turned away there is not measured."""

    def __init__(self, app: ASGIApp, measured: Measured) -> None:
        self._app = app
        self._measured = measured

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._measured.add(_route(scope), status, time.perf_counter() - began)


def _route(scope: Scope) -> str:
    """What answered, by the name of its function: bounded, whatever is asked for."""
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return "none"
    module, name = getattr(endpoint, "__module__", ""), getattr(endpoint, "__name__", "")
    return f"{module.rpartition('.')[2]}.{name}" if name else "static"
