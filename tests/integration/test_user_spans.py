"""Spans that user code makes with OpenTelemetry's own API lie under their task, in one store and one export."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from obsray.cli import command

PROGRAM = """
import json
import obsray
obsray.init(num_cpus=2, include_dashboard=False)

@obsray.remote
def child():
    from opentelemetry import baggage, trace
    context = obsray.get_runtime_context()
    return {"span": context.get_span_id(), "trace": context.get_trace_id(),
            "current": f"{trace.get_current_span().get_span_context().span_id:016x}",
            "baggage": baggage.get_baggage("customer")}

@obsray.remote
def parent():
    from opentelemetry import trace
    context = obsray.get_runtime_context()
    tracer = trace.get_tracer("mine")
    with tracer.start_as_current_span("work", attributes={"rows": 3}) as work:
        work.add_event("half way")
        with tracer.start_as_current_span("inner"):
            found = obsray.get(child.remote())
    try:
        with tracer.start_as_current_span("broken"):
            raise ValueError("no")
    except ValueError:
        pass
    told = {"span": context.get_span_id(), "trace": context.get_trace_id(), "child": found}
    return told

@obsray.remote
class Asynchronous:
    async def call(self):
        from opentelemetry import trace
        with trace.get_tracer("mine").start_as_current_span("awaited"):
            return obsray.get_runtime_context().get_span_id()

@obsray.remote
def items():
    from opentelemetry import trace
    for number in range(2):
        with trace.get_tracer("mine").start_as_current_span(f"item {number}"):
            pass
        yield obsray.get_runtime_context().get_span_id()

plain = obsray.get(child.remote())
from opentelemetry import baggage, context, trace
with trace.get_tracer("driver").start_as_current_span("main") as main:
    context.attach(baggage.set_baggage("customer", "7"))
    told = obsray.get(parent.remote())
    main_span = f"{main.get_span_context().span_id:016x}"
a = Asynchronous.remote()
generated = [obsray.get(ref) for ref in items.remote()]
import obsray.telemetry, time
deadline = time.monotonic() + 80
names = set()
while "main" not in names and time.monotonic() < deadline:
    names = {row["name"] for row in obsray.telemetry.sql("FROM spans", format="rows")}
from obsray.export.sending import state_of
from obsray.telemetry import session_file
while not state_of(session_file.current).get("sent") and time.monotonic() < deadline:
    time.sleep(0.1)
sent = state_of(session_file.current).get("sent")
print(json.dumps({"directory": str(session_file.current), "sent": sent, "plain": plain, "told": told, "main": main_span,
                  "awaited": obsray.get(a.call.remote()),
                  "items": generated, "sql": sorted(names)}))
"""


pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the program printed, and the spans that its runtime sent, by id."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            came.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    def spans():
        return {
            span.span_id.hex(): span
            for request in list(came) for of in request.resource_spans for scope in of.scope_spans
            for span in scope.spans
        }  # fmt: skip

    # What the sender of the runtime has not sent yet, the command sends.
    endpoint = f"http://127.0.0.1:{server.server_port}"
    assert command.main(["export", "--otlp", "--endpoint", endpoint, "--session", told["directory"]]) == 0
    server.shutdown()
    server.server_close()
    return told, spans()


def named(spans, name):
    (found,) = [span for span in spans.values() if span.name == name]
    return found


def test_a_task_knows_its_span_and_the_api_gives_it_out_as_the_current_one(run):
    told, spans = run
    for known in (told["plain"], told["told"]):
        assert spans[known["span"]].trace_id.hex() == known["trace"]
    assert told["plain"]["current"] == told["plain"]["span"] and told["plain"]["baggage"] is None


def test_user_spans_nest_under_their_task_and_tasks_under_user_spans(run):
    told, spans = run
    work, inner = named(spans, "work"), named(spans, "inner")
    assert work.parent_span_id.hex() == told["told"]["span"] and inner.parent_span_id == work.span_id
    child = spans[told["told"]["child"]["span"]]
    assert spans[child.parent_span_id.hex()].parent_span_id == inner.span_id
    parent = spans[told["told"]["span"]]
    assert spans[parent.parent_span_id.hex()].parent_span_id.hex() == told["main"]
    assert {span.trace_id for span in (work, inner, child, parent)} == {spans[told["main"]].trace_id}


def test_events_attributes_errors_and_baggage_arrive(run):
    told, spans = run
    work, broken = named(spans, "work"), named(spans, "broken")
    assert [event.name for event in work.events] == ["half way"]
    assert ("rows", 3) in {(each.key, each.value.int_value) for each in work.attributes}
    assert broken.status.code == 2 and broken.events[0].name == "exception"
    assert told["told"]["child"]["baggage"] == "7"


def test_async_actors_and_generators_have_their_spans(run):
    told, spans = run
    assert named(spans, "awaited").parent_span_id.hex() == told["awaited"]
    assert {named(spans, f"item {number}").parent_span_id.hex() for number in range(2)} == set(told["items"])
    assert [event.name for event in spans[told["items"][0]].events].count("item") == 2


def test_the_runtime_itself_sends_spans_while_it_runs(run):
    told, _ = run
    assert told["sent"] > 0


def test_the_same_spans_are_in_the_store(run):
    told, _ = run
    assert {"main", "work", "inner", "broken"} <= set(told["sql"])


def test_the_spans_of_a_program_that_is_over_at_once_are_sent():
    came: queue.Queue[str] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            if self.path.endswith("/v1/traces"):
                for of in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in of.scope_spans:
                        for span in scope.spans:
                            came.put(span.name)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        program = (
            "import obsray; obsray.init(num_cpus=1, include_dashboard=False)\n"
            "@obsray.remote\ndef at_once(): return 1\n"
            "assert obsray.get(at_once.remote()) == 1"
        )
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
        while "at_once" not in came.get(timeout=90):
            pass
    finally:
        server.shutdown()
        server.server_close()
