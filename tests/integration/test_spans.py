"""Every kind of span, out of one run that has them all: on two nodes, with what fails, streams, spills and is moved."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.export.gpu_spans import whole
from obsray.export.sending import Sender
from obsray.export.spans import Kind
from obsray.telemetry import span_ids
from obsray.telemetry.log_search import LogQuery, LogSearch
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(300)
MB = 1_000_000
TASKS = 12


def run(flags: Path) -> tuple[Path, dict[str, str]]:
    """The run; its session, and the ids of some of its tasks."""

    @obsray.remote(resources={"far": 0.1})
    def make():
        return np.ones(20 * MB, dtype=np.uint8)

    @obsray.remote(resources={"near": 0.1})
    def last(array):
        return int(array[-1])

    @obsray.remote
    def dies_once(flag):
        if not os.path.exists(flag):
            open(flag, "w").close()
            os._exit(3)
        print("second life")

    @obsray.remote
    def inner():
        obsray.get_runtime_context()
        return np.linalg.svd(np.ones((400, 400)))[0][0, 0]

    @obsray.remote
    def outer():
        return obsray.get(inner.remote())

    @obsray.remote
    def items():
        yield from range(3)

    @obsray.remote(max_restarts=1, max_task_retries=1)
    class Fragile:
        def __init__(self, argument):
            pass

        def die_once(self, flag):
            if not os.path.exists(flag):
                open(flag, "w").close()
                os._exit(4)

    @obsray.remote
    class Asynchronous:
        async def call(self, value):
            return value

    near = obsray.get(inner.remote())
    taken, died = last.remote(make.remote()), dies_once.remote(str(flags / "task"))
    obsray.get([taken, died, outer.remote()])
    assert [obsray.get(ref) for ref in items.remote()] == [0, 1, 2]
    fragile = Fragile.remote(inner.remote())
    call = fragile.die_once.remote(str(flags / "call"))
    obsray.get(call)
    awaited = Asynchronous.remote().call.remote(obsray.put(near))
    obsray.get(awaited)
    # More than the head's store holds.
    many = [obsray.put(np.full(20 * MB, number, dtype=np.uint8)) for number in range(4)]
    assert [int(obsray.get(ref)[-1]) for ref in many] == [0, 1, 2, 3]
    names = {"last": taken, "dies_once": died, "call": call, "awaited": awaited}
    directory = Path(obsray.get_runtime_context()._session.directory)
    views = Views(Store.open(directory))

    def is_all_here() -> bool:
        """What the other node recorded is at the head too."""
        views.refresh()
        ended = views.task_table["ended_attempt"]
        return len(ended) == TASKS and (ended >= 0).all() and bool(views.store.rows("transfer_served"))

    eventually(is_all_here, 120.0)
    return directory, {name: ref.task_id().hex() for name, ref in names.items()}


class Recorded:
    """The spans of the run, by id and by name."""

    def __init__(self, directory: Path, tasks: dict[str, str]) -> None:
        self.directory, self.tasks = directory, tasks
        views = Views(Store.open(directory))
        views.refresh()
        found = list(whole(views))
        self.by_id = {span.span: span for span in found}
        assert len(self.by_id) == len(found), "two spans have one id"
        self.named = defaultdict(list)
        for span in sorted(found, key=lambda span: span.start):
            self.named[span.name].append(span)

    def one(self, name):
        (found,) = self.named[name]
        return found

    def parent(self, span):
        return self.by_id[span.parent]

    def linked(self, span, kind):
        return [self.by_id[to] for _, to, facts in span.links if dict(facts)["obsray.link"] == kind]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    obsray.shutdown()
    head = {"num_cpus": 2, "object_store_memory": 60 * MB, "include_dashboard": False, "resources": {"near": 1}}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=100 * MB)
        directory, tasks = run(tmp_path_factory.mktemp("flags"))
    finally:
        obsray.shutdown()
        cluster.shutdown()
    return Recorded(directory, tasks)


def test_each_part_of_a_call_is_a_span_below_its_submit_or_run(recorded):
    submit, queue, made = (recorded.one(name) for name in ("last submit", "last queue", "last"))
    assert submit.kind is Kind.PRODUCER and made.kind is Kind.CONSUMER and not submit.parent
    assert recorded.parent(queue) is submit and recorded.parent(made) is submit
    below = {span.name for span in recorded.by_id.values() if span.parent == made.span}
    assert {"fetch arguments", "deserialize", "store results"} <= below
    decisions = [dict(facts) for _, name, facts in queue.events if name == "obsray.sched.decision"]
    assert decisions and any("obsray.sched.candidate.0" in facts for facts in decisions)
    assert submit.start <= queue.start <= queue.end <= made.end


def test_who_called_is_the_parent_and_whose_result_was_taken_is_linked(recorded):
    outer, within = recorded.one("outer"), recorded.one("outer").span
    (inner,) = [span for span in recorded.named["inner submit"] if span.parent == within]
    assert inner.trace == outer.trace
    assert recorded.linked(recorded.one("last"), "data") == [recorded.one("make")]


def test_waiting_in_get_is_a_span_of_the_task_and_of_the_driver(recorded):
    waits = recorded.named["obsray.get"]
    (within,) = [span for span in waits if span.parent == recorded.one("outer").span]
    assert [span.name for span in recorded.linked(within, "data")] == ["inner"]
    mine = [span for span in waits if not span.parent]
    assert mine and any(recorded.linked(span, "data") for span in mine)


def test_an_object_of_another_node_comes_below_the_task_that_asked_and_is_linked_to_its_maker(recorded):
    pull, push = recorded.one("object pull"), recorded.one("object push")
    assert recorded.parent(pull) is recorded.one("last") and recorded.parent(push) is pull
    assert recorded.linked(pull, "data") == [recorded.one("make")]
    assert (
        pull.kind is Kind.CLIENT and push.kind is Kind.SERVER and push.trace == pull.trace == recorded.one("last").trace
    )
    assert push.process != pull.process and dict(pull.attributes)["obsray.object.bytes"] >= 20 * MB


def test_each_attempt_has_its_wait_and_its_run_and_links_to_the_one_before(recorded):
    first, second = recorded.named["dies_once"]
    assert first.error and "code 3" in first.error and second.error is None
    assert recorded.linked(second, "retry of") == [first]
    waits = recorded.named["dies_once queue"]
    assert [dict(span.attributes)["obsray.task.attempt"] for span in waits] == [0, 1]
    assert waits[0].end <= first.start + 1_000_000 and first.start < first.end <= waits[1].start


def test_an_actor_has_its_starts_its_restart_and_each_run_of_its_constructor(recorded):
    starts, runs = recorded.named["Fragile start"], recorded.named["Fragile.__init__"]
    restart, submit = recorded.one("Fragile restart"), recorded.one("Fragile.__init__ submit")
    assert len(starts) == len(runs) == 2
    for span in (*starts, *runs, restart):
        assert recorded.parent(span) is submit
    assert recorded.linked(starts[1], "retry of") == [starts[0]]
    assert recorded.linked(restart, "retry of") == [starts[0]] and recorded.linked(runs[1], "retry of") == [runs[0]]
    assert all([span.name for span in recorded.linked(one, "data")] == ["inner"] for one in runs)
    assert restart.start < restart.end >= starts[1].start and "code 4" in str(dict(restart.attributes))
    one, again = recorded.named["Fragile.die_once"]
    assert one.error and recorded.linked(again, "retry of") == [one]
    assert any(name == "obsray.sched.decision" for _, name, _ in recorded.one("Fragile.__init__ queue").events)


def test_every_item_of_a_generator_is_a_span_and_so_is_every_async_call(recorded):
    items = recorded.named["items item"]
    assert [dict(span.attributes)["obsray.item"] for span in items] == [0, 1, 2]
    assert all(recorded.parent(span) is recorded.one("items") for span in items)
    assert all(before.end <= after.start for before, after in pairwise(items))
    assert recorded.parent(recorded.one("Asynchronous.call")) is recorded.one("Asynchronous.call submit")


def test_disk_processes_and_the_control_store_have_their_spans(recorded):
    for name in ("object spill", "object restore", "worker start"):
        assert any(span.end > span.start for span in recorded.named[name]), name
    calls = {name: spans for name, spans in recorded.named.items() if name.startswith("control/")}
    assert {"control/RegisterNode", "control/StartJob", "control/RegisterActor"} <= set(calls)
    assert all(span.kind is Kind.CLIENT for spans in calls.values() for span in spans)


def test_parents_are_in_the_trace_of_their_children_and_begin_before_them(recorded):
    for span in recorded.by_id.values():
        assert span.end >= span.start > 0
        if span.parent:
            assert recorded.parent(span).trace == span.trace, span.name
            assert recorded.parent(span).start <= span.start + 50_000_000, span.name


def test_a_log_line_carries_the_ids_of_its_attempts_span(recorded):
    views = Views(Store.open(recorded.directory))
    views.refresh()
    (line,) = LogSearch(views, LogQuery.read(views.now_ns(), grep="second life")).newest()
    _, second = recorded.named["dies_once"]
    assert (line["trace_id"], line["span_id"]) == (second.trace.hex(), f"{second.span:016x}")
    assert second.span == span_ids.of_task(bytes.fromhex(recorded.tasks["dies_once"]), 1)


def test_a_sender_that_reads_on_and_on_makes_the_same_spans(recorded, monkeypatch):
    class Kept:
        name = "kept"

        def send(self, data):
            return b""

    sender = Sender(Views(Store.open(recorded.directory)), Kept(), resume=False)
    made = []
    monkeypatch.setattr(sender, "_requests", lambda spans: iter([made.extend(spans)][:0]))
    monkeypatch.setattr(sender, "_write", lambda complete=False: None)
    sender.finish()
    told = {span.span: (span.trace, span.name, span.parent, span.start, span.end) for span in made}
    assert told == {
        number: (span.trace, span.name, span.parent, span.start, span.end) for number, span in recorded.by_id.items()
    }
