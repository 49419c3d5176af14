"""A cluster, a real Prometheus that scrapes it, and an exporter of GPU metrics with values that a test sets."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2

from obsray.monitoring import prometheus_files, yaml_text
from obsray.telemetry import session_file

PATIENCE_SECONDS = 180.0
#: By how much the rules' durations are divided, and the shortest range: it must hold several scrapes, some of which may
#: be too late on a machine that has much else to do.
FASTER, RANGE_SECONDS_MIN, SCRAPE_SECONDS = 120, 12, 2
#: And the longest one: what fires must be over some time.
RANGE_SECONDS_MAX = 20
#: Bounds of rules that a machine like this reaches only with all of its memory, or in minutes: (what it is, what it is
#: in this test). All else of a rule is as it is.
LOWERED = {
    "ObsraySpillThrash": ("> 5e7", "> 5e5"),
    "ObsraySpillbackStorm": ("> 50", "> 0.2"),
    "ObsrayTelemetryLag": ("> 30", "> 3"),
    "ObsrayTelemetryRingFilling": ("> 0.8", "> 0.06"),
    "ObsrayScrapeLarge": ("> 20000", "> 4000"),
}
RECORDED = Path(__file__).parent / "dcgm_sample.txt"
#: What a node with a GPU exposes of it besides, as a session on one did.
GPU_METRICS = Path(__file__).parent / "gpu_metrics_sample.txt"


def wait_for(what: str, question: Callable[[], Any], meanwhile: Callable[[], Any] = lambda: None) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := question()):
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:g} s in vain for {what}"
        meanwhile()
        time.sleep(0.2)
    return answer


def lowered(text: str) -> str:
    """Rules with bounds that a test can reach."""
    for name, (bound, instead) in LOWERED.items():
        before, mark, rest = text.partition(f"- alert: {name}\n")
        rule, following, after = rest.partition("- alert: ")
        assert mark and rule.count(bound), (name, rule)
        text = before + mark + rule.replace(bound, instead) + following + after
    return text


def process_of(module: str, session: str) -> psutil.Process:
    """The process of a node that runs a module."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if module in words and session in words:
            return process
    raise AssertionError(f"{module} does not run")


class Gpus:
    """Serves recorded metrics of dcgm-exporter; ``values`` takes the place of what was recorded."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._recorded = RECORDED.read_text() + GPU_METRICS.read_text()
        gpus = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = gpus.text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def text(self) -> str:
        lines = []
        for line in self._recorded.splitlines():
            name = line.partition("{")[0]
            if name in self.values and not line.startswith("#"):
                line = f"{line.rpartition(' ')[0]} {self.values[name]}"
            lines.append(line)
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Pushed:
    """An OTLP receiver over HTTP that keeps the newest point of every series."""

    def __init__(self) -> None:
        #: Instance -> metric -> labels -> value (of a histogram, its count).
        self.values: dict[str, dict[str, dict[tuple[tuple[str, str], ...], float]]] = {}
        #: Whether it takes nothing for now.
        self.away = False
        pushed = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not pushed.away:
                    pushed.take(body)
                self.send_response(503 if pushed.away else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}/v1/metrics"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, data: bytes) -> None:
        request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(data)
        for of in request.resource_metrics:
            facts = {each.key: each.value.string_value for each in of.resource.attributes}
            mine = self.values.setdefault(facts["service.instance.id"], {})
            for metric in of.scope_metrics[0].metrics:
                for point in getattr(metric, metric.WhichOneof("data")).data_points:
                    labels = tuple(sorted((each.key, each.value.string_value) for each in point.attributes))
                    value = point.count if metric.HasField("histogram") else point.as_int or point.as_double
                    mine.setdefault(metric.name, {})[labels] = value

    def total(self, metric: str, **labels: str) -> float:
        """The sum over all instances and series with these labels."""
        return sum(
            value for mine in list(self.values.values()) for said, value in list(mine.get(metric, {}).items())
            if labels.items() <= dict(said).items()
        )  # fmt: skip

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Prometheus:
    """The real one, asked over HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.url = wait_for("prometheus to listen", self._listening)
        wait_for("prometheus to be ready", self._ready)

    def _listening(self) -> str:
        assert self.process.poll() is None, self.log.read_text()
        for connection in psutil.Process(self.process.pid).net_connections():
            if connection.status == psutil.CONN_LISTEN:
                return f"http://127.0.0.1:{connection.laddr.port}"
        return ""

    def _ready(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/-/ready", timeout=30).status == 200
        except (urllib.error.HTTPError, ConnectionError):
            return False

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{query}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        found: list[dict[str, Any]] = self.get("/api/v1/query", query=query)["result"]
        return found

    def troubles(self) -> list[str]:
        """What Prometheus says of targets that it cannot read."""
        targets = self.get("/api/v1/targets")["activeTargets"]
        return [f"{each['scrapeUrl']}: {each['lastError']}" for each in targets if each["lastError"]]

    def fired(self) -> set[str]:
        """What has ever fired."""
        found = self.ask('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')
        return {sample["metric"]["alertname"] for sample in found}

    def firing(self) -> set[str]:
        """What fires now."""
        return {sample["metric"]["alertname"] for sample in self.ask('ALERTS{alertstate="firing"}')}


@contextmanager
def prometheus(directory: Path, session: Path, gpus: Gpus) -> Iterator[Prometheus]:
    """Scrapes the cluster whose head has that session directory, found through the dashboard's service discovery."""
    program = shutil.which("prometheus")
    assert program, "prometheus is missing: apt-get install prometheus"
    dashboard = wait_for("the dashboard", lambda: session_file.read(session).get("dashboard_url"))
    rules = prometheus_files.shortened(prometheus_files.rules(), FASTER, RANGE_SECONDS_MIN, RANGE_SECONDS_MAX)
    (directory / "obsray.rules.yml").write_text(lowered(rules))
    config = prometheus_files.config(
        ["obsray.rules.yml"], "", str(session / "metrics_token"), dashboard, SCRAPE_SECONDS
    )
    config["global"]["evaluation_interval"] = "1s"
    config["scrape_configs"].append({"job_name": "dcgm", "static_configs": [{"targets": [gpus.address]}]})
    (directory / "prometheus.yml").write_text(yaml_text.dump(config))
    command = [
        program, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
        "--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage", "--log.level=warn",
    ]  # fmt: skip
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield Prometheus(process, log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
