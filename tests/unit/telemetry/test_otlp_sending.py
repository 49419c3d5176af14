"""Spans reach a receiver that speaks the real protocol, each one, also when it is away for a while."""

from __future__ import annotations

import gzip
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto

from obsray.cli import command
from obsray.export import sending
from obsray.export.gpu_spans import whole
from obsray.export.receivers import SettingError, Settings, receiver
from obsray.export.sending import GivenUp, Sender, state_of
from obsray.telemetry import span_ids
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session


class Collected(trace_service_pb2_grpc.TraceServiceServicer):
    """What came, over either protocol. ``away`` counts the requests that are turned away first."""

    def __init__(self) -> None:
        self.requests = []
        self.away = 0
        self.headers = {}

    def Export(self, request, context):
        self.headers = dict(context.invocation_metadata())
        if self.away:
            self.away -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self):
        return [
            span for request in self.requests for of in request.resource_spans for scope in of.scope_spans
            for span in scope.spans
        ]  # fmt: skip


@pytest.fixture
def collected():
    return Collected()


@pytest.fixture
def grpc_endpoint(collected):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collected, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def http_endpoint(collected):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            collected.headers = {key.lower(): value for key, value in self.headers.items()}
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status = 200
            if collected.away:
                collected.away -= 1
                status = 503
            elif self.path != "/v1/traces":
                status = 404
            else:
                collected.requests.append(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def recorded(tmp_path):
    return record_session(tmp_path, tasks=60, live=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sending, "RETRY_SECONDS", (0.01, 0.05))


def sender_for(directory, **environment):
    settings = Settings.read({f"OTEL_{name}": value for name, value in environment.items()})
    return Sender(Views(Store.open(directory)), receiver(settings), settings.ratio, settings.batch_spans)


def ids_of(spans):
    return sorted((span.trace_id, span.span_id) for span in spans)


def expected(directory):
    views = Views(Store.open(directory))
    views.refresh()
    return sorted((span.trace, span.span.to_bytes(8, "big")) for span in whole(views))


def test_over_grpc_every_span_arrives_once_although_the_receiver_was_away(recorded, collected, grpc_endpoint):
    collected.away = 3
    sender = sender_for(
        recorded.directory, EXPORTER_OTLP_ENDPOINT=grpc_endpoint, EXPORTER_OTLP_PROTOCOL="grpc",
        EXPORTER_OTLP_HEADERS="x-key=a%20b", BSP_MAX_EXPORT_BATCH_SIZE="50", EXPORTER_OTLP_COMPRESSION="gzip",
    )  # fmt: skip
    sender.finish()
    assert ids_of(collected.spans()) == expected(recorded.directory)
    assert collected.headers["x-key"] == "a b" and len(collected.requests) > 3
    state = state_of(recorded.directory)
    assert state["complete"] and state["sent"] == len(collected.spans()) and state["error"] == ""


def test_over_http_a_receiver_that_stays_away_loses_nothing_and_the_next_sender_goes_on(
    recorded, collected, http_endpoint
):
    collected.away = 1 << 30
    first = sender_for(recorded.directory, EXPORTER_OTLP_ENDPOINT=http_endpoint, BSP_MAX_EXPORT_BATCH_SIZE="100")
    with pytest.raises(GivenUp):
        first.finish(deadline=0)
    assert state_of(recorded.directory)["error"] and not collected.requests
    collected.away = 0
    second = sender_for(
        recorded.directory, EXPORTER_OTLP_ENDPOINT=http_endpoint, BSP_MAX_EXPORT_BATCH_SIZE="100",
        EXPORTER_OTLP_COMPRESSION="gzip", EXPORTER_OTLP_TRACES_HEADERS="authorization=Bearer%20t",
    )  # fmt: skip
    second.finish()
    assert ids_of(collected.spans()) == expected(recorded.directory)
    assert collected.headers["authorization"] == "Bearer t"
    third = sender_for(recorded.directory, EXPORTER_OTLP_ENDPOINT=http_endpoint)
    before = len(collected.spans())
    third.finish()
    # What never ended is told again, as it is now; what was over is not.
    again = {span.name for request in collected.requests[-1:] for span in collected.spans()[before:]}
    assert len(collected.spans()) - before < before / 2 and again


def test_what_the_receiver_refuses_is_counted_and_the_rest_goes_on(recorded, collected, http_endpoint, capsys):
    sender = sender_for(recorded.directory, EXPORTER_OTLP_TRACES_ENDPOINT=http_endpoint + "/elsewhere")
    sender.finish()
    assert sender.refused == len(expected(recorded.directory)) and "404" in str(state_of(recorded.directory)["error"])
    assert command.main(["status", "--session", str(recorded.directory)]) == 0
    assert f"{sender.refused} refused" in capsys.readouterr().out


def test_parents_are_control_flow_and_links_data_flow_and_retries(recorded, collected, grpc_endpoint):
    sender_for(recorded.directory, EXPORTER_OTLP_ENDPOINT=grpc_endpoint, EXPORTER_OTLP_PROTOCOL="grpc").finish()
    spans = {span.span_id: span for span in collected.spans()}

    def of(task, attempt=0, part=span_ids.Part.RUN):
        return spans[span_ids.of_task(task, attempt, part).to_bytes(8, "big")]

    first, second = of(recorded.killed_task), of(recorded.killed_task, 1)
    submit = of(recorded.killed_task, 0, span_ids.Part.SUBMIT)
    assert first.parent_span_id == second.parent_span_id == submit.span_id and submit.kind == Proto.SPAN_KIND_PRODUCER
    assert second.links[0].span_id == first.span_id and first.status.code == 2 and second.status.code == 0
    assert of(recorded.killed_task, 0, span_ids.Part.QUEUE).parent_span_id == submit.span_id
    waiting = of(recorded.waiting_task, 0, span_ids.Part.SUBMIT)
    assert waiting.trace_id and waiting.name.endswith(" submit")
    failed = of(recorded.failed_task)
    assert failed.status.code == 2 and any(a.key == "error.type" for a in failed.attributes)
    names = {span.name for span in spans.values()}
    assert {"fetch arguments", "deserialize", "store results", "object spill", "worker start"} <= names
    for span in spans.values():
        parent = spans.get(span.parent_span_id)
        assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
        assert parent is None or parent.trace_id == span.trace_id, span.name


def test_each_process_is_a_resource_by_the_conventions(recorded, collected, grpc_endpoint, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    sender_for(recorded.directory, EXPORTER_OTLP_ENDPOINT=grpc_endpoint, EXPORTER_OTLP_PROTOCOL="grpc").finish()
    found = [
        {a.key: a.value.string_value or a.value.int_value for a in of.resource.attributes}
        for of in collected.requests[0].resource_spans
    ]
    assert {"obsray-driver", "obsray-worker"} <= {each["service.name"] for each in found}
    for each in found:
        assert each["service.namespace"] and each["service.instance.id"] and each["telemetry.sdk.name"] == "obsray"
        assert each["deployment.environment.name"] == "test"


def test_sampling_keeps_whole_traces(recorded, collected, grpc_endpoint):
    common = {"EXPORTER_OTLP_ENDPOINT": grpc_endpoint, "EXPORTER_OTLP_PROTOCOL": "grpc"}
    sender_for(recorded.directory, **common, TRACES_SAMPLER="traceidratio", TRACES_SAMPLER_ARG="0").finish()
    assert not collected.spans()


@pytest.mark.parametrize(
    "environment",
    [
        {"EXPORTER_OTLP_PROTOCOL": "http/json"}, {"EXPORTER_OTLP_ENDPOINT": "localhost:4318"},
        {"EXPORTER_OTLP_COMPRESSION": "zip"}, {"EXPORTER_OTLP_TIMEOUT": "soon"}, {"TRACES_SAMPLER": "coin"},
        {"TRACES_SAMPLER": "traceidratio", "TRACES_SAMPLER_ARG": "2"},
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_followed_says_what_it_may_be(environment):
    with pytest.raises(SettingError, match=r"must|no endpoint"):
        receiver(Settings.read({f"OTEL_{name}": value for name, value in environment.items()}))


def test_nothing_is_sent_where_the_variables_say_so():
    here = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
    assert Settings.read(here).endpoint == "http://localhost:4318/v1/traces"
    assert Settings.read({**here, "OTEL_SDK_DISABLED": "true"}).endpoint == ""
    assert Settings.read({**here, "OTEL_TRACES_EXPORTER": "none"}).endpoint == ""
