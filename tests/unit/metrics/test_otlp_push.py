"""Metrics reach a receiver that speaks the real protocol: the same as are scraped, cumulative, also when it is away."""

from __future__ import annotations

import gzip
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from obsray.cli import command
from obsray.export import unsent
from obsray.export.receivers import SettingError, Settings, receiver, rejected
from obsray.metrics import otlp, push
from obsray.metrics.catalog import METRICS
from obsray.metrics.exporter import Families
from obsray.telemetry import session_file
from obsray.telemetry.collector import Collector
from obsray.testing.recorded_session import record_session
from tests.monitoring.live import wait_for

NS = 1_000_000_000


class Collected(metrics_service_pb2_grpc.MetricsServiceServicer):
    """What came, over either protocol. ``away``: requests are turned away. ``reject``: points that are not kept."""

    def __init__(self) -> None:
        self.requests = []
        self.headers = {}
        self.away = False
        self.reject = 0
        self.asked = 0

    def answer(self, request):
        self.requests.append(request)
        answer = metrics_service_pb2.ExportMetricsServiceResponse()
        if self.reject:
            answer.partial_success.rejected_data_points = self.reject
            answer.partial_success.error_message = "too old"
        return answer

    def Export(self, request, context):
        self.asked += 1
        self.headers = dict(context.invocation_metadata())
        if self.away:
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        return self.answer(request)

    def metrics(self):
        """Name -> what was said of it last."""
        return {
            metric.name: metric
            for request in self.requests for of in request.resource_metrics for scope in of.scope_metrics
            for metric in scope.metrics
        }  # fmt: skip

    def value(self, name, **labels):
        metric = self.metrics()[name]
        points = (metric.sum if metric.HasField("sum") else metric.gauge).data_points
        return sum(
            point.as_int if point.HasField("as_int") else point.as_double for point in points
            if labels.items() <= attributes(point.attributes).items()
        )  # fmt: skip


def attributes(found):
    return {each.key: each.value.string_value or each.value.int_value for each in found}


@pytest.fixture
def collected():
    return Collected()


@pytest.fixture
def grpc_endpoint(collected):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collected, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def http_endpoint(collected):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            collected.asked += 1
            body = self.rfile.read(int(self.headers["content-length"]))
            collected.headers = {key.lower(): value for key, value in self.headers.items()}
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status, said = 200, b""
            if collected.away:
                status = 503
            elif self.path != "/v1/metrics":
                status = 404
            else:
                request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
                said = collected.answer(request).SerializeToString()
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def recorded(tmp_path):
    made = record_session(tmp_path, tasks=60)
    session_file.update(made.directory, node="ab" * 8, control_address_tcp="10.0.0.1:6379", head=True)
    return made


@pytest.fixture
def families(recorded):
    collector = Collector(recorded.directory, 1 << 30)
    made = Families(collector, "n0")
    collector.folds.append(made.update)
    while collector.poll():
        pass
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(push, "RETRY_SECONDS", (0.01, 0.05))
    monkeypatch.setattr(push, "FAREWELL_SECONDS", 1.0)


def settings_of(**environment):
    return Settings.read({f"OTEL_{name}": value for name, value in environment.items()}, "metrics")


def pusher_for(recorded, families, **environment):
    settings = settings_of(**environment)
    source = push.Source(recorded.directory, "node", families.collect)
    source.counted_since_ns = 1_600_000_000 * NS
    return push.Pusher(source, settings, receiver(settings))


def test_over_grpc_what_is_scraped_is_pushed(recorded, families, collected, grpc_endpoint, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    pusher = pusher_for(
        recorded, families, EXPORTER_OTLP_ENDPOINT=grpc_endpoint, EXPORTER_OTLP_PROTOCOL="grpc",
        EXPORTER_OTLP_METRICS_HEADERS="x-key=a%20b", EXPORTER_OTLP_COMPRESSION="gzip",
    )  # fmt: skip
    pusher.close()
    assert collected.headers["x-key"] == "a b"
    facts = attributes(collected.requests[0].resource_metrics[0].resource.attributes)
    assert facts["service.name"] == "obsray-node" and facts["service.namespace"] == "10.0.0.1:6379"
    assert facts["service.instance.id"] == "ab" * 8 and facts["deployment.environment.name"] == "test"
    scraped = {family.name: family for family in families.collect() if family.samples}
    build = scraped.pop("obsray_build")
    assert collected.value("obsray_build_info", **build.samples[0].labels) == 1
    pushed = collected.metrics()
    assert pushed.keys() - {"obsray_build_info"} == scraped.keys()
    for name, family in scraped.items():
        metric = pushed[name]
        kind = {"counter": "sum", "histogram": "histogram"}.get(family.type, "gauge")
        assert metric.WhichOneof("data") == kind, name
        assert metric.description == METRICS[name].help
        points = getattr(metric, kind).data_points
        for point in points:
            said = attributes(point.attributes)
            assert said.pop("cluster") == "10.0.0.1:6379" and said.pop("role") == "head"
            assert set(said) == set(METRICS[name].labels)
            assert point.time_unix_nano > 1_600_000_000 * NS
        if kind != "gauge":
            data = getattr(metric, kind)
            assert data.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
            assert all(0 < point.start_time_unix_nano <= point.time_unix_nano for point in points), name
        if kind == "sum":
            assert metric.sum.is_monotonic
    assert collected.value("obsray_tasks_submitted") == families.series.submitted.sum() > 0
    assert {pushed[name].unit for name in pushed if name.endswith("_seconds")} == {"s"}
    assert {pushed[name].unit for name in pushed if name.endswith("_bytes")} == {"By"}
    assert push.states(recorded.directory)["node"]["delivered"] == 1


def test_histograms_have_their_buckets_and_the_trace_of_a_task(recorded, families, collected, http_endpoint):
    pusher_for(recorded, families, EXPORTER_OTLP_ENDPOINT=http_endpoint).close()
    histogram = families.series.task_histograms["duration"]
    points = collected.metrics()["obsray_task_duration_seconds"].histogram.data_points
    by_function = {attributes(point.attributes)["fn"]: point for point in points}
    slots = [slot for slot in range(len(histogram.sums)) if histogram.counts[slot].sum()]
    assert len(by_function) == len(slots) > 0
    for slot in slots:
        point = by_function[families.series.functions.name(slot)]
        assert list(point.bucket_counts) == histogram.counts[slot].tolist()
        assert point.count == histogram.counts[slot].sum() and point.sum == pytest.approx(histogram.sums[slot])
        assert len(point.explicit_bounds) == len(point.bucket_counts) - 1
    exemplars = [exemplar for point in points for exemplar in point.exemplars]
    assert exemplars and all(len(each.trace_id) == 16 and len(each.span_id) == 8 for each in exemplars)
    collected.requests.clear()
    pusher_for(recorded, families, EXPORTER_OTLP_ENDPOINT=http_endpoint, METRICS_EXEMPLAR_FILTER="always_off").close()
    assert not [
        e for p in collected.metrics()["obsray_task_duration_seconds"].histogram.data_points for e in p.exemplars
    ]


def test_a_receiver_that_is_away_misses_nothing_of_what_was_counted(recorded, families, collected, http_endpoint):
    collected.away = True
    pusher = pusher_for(
        recorded, families, EXPORTER_OTLP_ENDPOINT=http_endpoint, METRIC_EXPORT_INTERVAL="20"
    )  # fmt: skip
    wait_for("several tries", lambda: collected.asked > 3)
    assert not collected.requests and pusher.outcomes["delayed"] >= 3
    assert push.states(recorded.directory)["node"]["error"]
    families.series.submitted[0] += 1000
    collected.away = False
    wait_for("what was missed", lambda: collected.requests)
    assert collected.value("obsray_tasks_submitted") == families.series.submitted.sum() >= 1000
    wait_for("that it is well again", lambda: not push.states(recorded.directory)["node"]["error"])
    assert pusher.late_seconds() < 60
    pusher.close()


def test_numbers_that_nobody_took_to_the_end_are_sent_later(recorded, families, collected, http_endpoint, capsys):
    collected.away = True
    pusher_for(recorded, families, EXPORTER_OTLP_ENDPOINT=http_endpoint).close()
    wait_for("the last numbers to be kept", lambda: unsent.kept(recorded.directory))
    collected.away = False
    target = receiver(settings_of(EXPORTER_OTLP_ENDPOINT=http_endpoint))
    assert unsent.send(recorded.directory, target) == 1 and not unsent.kept(recorded.directory)
    assert collected.value("obsray_tasks_submitted") == families.series.submitted.sum() > 0


def test_points_that_the_receiver_throws_away_are_said(recorded, families, collected, http_endpoint, capsys):
    collected.reject = 7
    pusher_for(recorded, families, EXPORTER_OTLP_ENDPOINT=http_endpoint).close()
    state = push.states(recorded.directory)["node"]
    assert state["refused"] == 1 and "too old" in state["error"]
    assert command.main(["status", "--session", str(recorded.directory)]) == 0
    assert "1 refused" in capsys.readouterr().out


def test_many_series_are_cut_into_requests_that_a_receiver_takes(families, monkeypatch):
    monkeypatch.setattr(otlp, "REQUEST_BYTES", 2000)
    made = list(otlp.requests(families.collect(), b"", {}, lambda _: 1, 2))
    parsed = [metrics_service_pb2.ExportMetricsServiceRequest.FromString(data) for data, _ in made]
    assert len(made) > 5 and max(len(data) for data, _ in made) < 10_000
    points = sum(
        len(getattr(metric, metric.WhichOneof("data")).data_points)
        for request in parsed for of in request.resource_metrics for scope in of.scope_metrics
        for metric in scope.metrics
    )  # fmt: skip
    assert points == sum(count for _, count in made)


@pytest.mark.parametrize(
    "environment",
    [
        {"EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, {"METRICS_EXEMPLAR_FILTER": "some"},
        {"EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
        {"METRIC_EXPORT_INTERVAL": "-1"}, {"METRIC_EXPORT_INTERVAL": "inf"}, {"EXPORTER_OTLP_PROTOCOL": "http/json"},
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_followed_says_what_it_may_be(environment):
    with pytest.raises(SettingError, match="must be"):
        settings_of(EXPORTER_OTLP_ENDPOINT="http://localhost:4318", **environment)


def test_each_signal_goes_where_its_own_variables_say():
    here = {"EXPORTER_OTLP_ENDPOINT": "http://a:4318", "EXPORTER_OTLP_METRICS_ENDPOINT": "http://b:9/otlp"}
    assert settings_of(**here).endpoint == "http://b:9/otlp"
    assert Settings.read({f"OTEL_{k}": v for k, v in here.items()}).endpoint == "http://a:4318/v1/traces"
    assert settings_of(EXPORTER_OTLP_ENDPOINT="http://a:4318").endpoint == "http://a:4318/v1/metrics"
    assert settings_of(EXPORTER_OTLP_ENDPOINT="http://a:4318", METRICS_EXPORTER="none").endpoint == ""
    assert settings_of(EXPORTER_OTLP_ENDPOINT="http://a:4318", METRICS_EXPORTER="prometheus,otlp").endpoint
    assert settings_of(EXPORTER_OTLP_ENDPOINT="http://a:4318", METRIC_EXPORT_INTERVAL="5000").interval_seconds == 5


@pytest.mark.parametrize("answer", [b"", b"\x0a", b"\xff" * 20, b"\x0a\x02\x08", b"{}", b"\x0d\x00\x00\x00\x00"])
def test_an_answer_that_makes_no_sense_rejects_nothing(answer):
    assert rejected(answer) == (0, "")
