"""The node as its clients meet it: what it accepts, what it answers, what it records about itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import MIB, NODE, Bench, put_id

from obsray.core.node.intake import Malformed, accept
from obsray.core.node.resources import UNIT
from obsray.core.node.step import Shutdown
from obsray.core.protocol import messages as m
from obsray.telemetry.events import DeathCause, ProcessKind

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats() | st.text(max_size=8)
    | st.binary(max_size=24) | st.binary(min_size=20, max_size=20) | st.binary(min_size=16, max_size=16),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=500, deadline=None, print_blob=True)
@given(st.integers(-1, 90) | st.sampled_from(sorted(m.MESSAGES)), st.lists(values, max_size=5))
def test_whatever_a_client_sends_is_handled_or_refused(tag, fields):
    bench = Bench(cpus=1, prestart=1)
    bench.do(bench.machine.start)
    (worker,) = bench.workers_join()
    driver = bench.driver()
    for client in (driver, worker):
        try:
            bench.do(bench.machine.client_messages, client, [(tag, *fields)])
        except Malformed:
            pass
    bench.tick(1)


@pytest.mark.parametrize("message", [(), ("x",), (None,), ((1,),), ({},), (9999,), (1,), (1, 2, 3)])
def test_what_is_no_message_is_refused(message):
    with pytest.raises(Malformed):
        accept(message)


def test_messages_before_a_malformed_one_count():
    bench = Bench(cpus=1)
    driver = bench.driver()
    good = m.encode(m.DefineShape(1, "f", {"CPU": UNIT}))
    with pytest.raises(Malformed):
        bench.do(bench.machine.client_messages, driver, [good, (2, 9, 1, 1)])
    assert (driver, 1) in bench.scheduler.demands


def test_resources_are_told_in_fixed_point_and_bytes():
    bench = Bench(cpus=2, custom={"slot": 0.5}, store=4 * MIB)
    driver = bench.driver()
    bench.send(driver, m.CreateObject(1, put_id(driver, 1), MIB), m.Request(2, "resources", {}))
    (reply,) = bench.take(driver, m.Reply)
    assert reply.value["total"] == {"CPU": 20000, "memory": 1 << 30, "slot": 5000, "object_store_memory": 4 * MIB}
    assert reply.value["available"]["object_store_memory"] == 3 * MIB


def test_unknown_methods_and_strange_arguments_are_answered_or_refused():
    bench = Bench()
    driver = bench.driver()
    bench.send(driver, m.Request(1, "format_disk", {}))
    assert bench.take(driver)[0].kind == "unknown_method"
    with pytest.raises(Malformed):
        bench.send(driver, m.Request(1, "get_actor", {"name": 5}))


def test_the_store_names_its_largest_pinned_objects():
    bench = Bench(store=8 * MIB)
    driver = bench.driver()
    for number in (1, 2):
        identifier = put_id(driver, number)
        bench.send(
            driver, m.CreateObject(1, identifier, number * MIB), m.SealObject(identifier), m.PinObject(2, identifier)
        )
    bench.take(driver)
    bench.send(driver, m.Request(3, "store", {}))
    value = bench.take(driver)[0].value
    assert value["pinned_bytes"] == 3 * MIB
    assert [each["bytes"] for each in value["largest_pinned"]] == [2 * MIB, MIB]


def test_only_the_first_driver_may_end_the_runtime():
    bench = Bench()
    first, second = bench.driver(b"driver_1"), bench.driver(b"driver_2")
    bench.send(second, m.Request(1, "shutdown", {}))
    assert bench.take(second)[0].kind == "not_allowed"
    assert bench.take_effects(Shutdown) == []
    bench.send(first, m.Request(1, "shutdown", {}))
    assert len(bench.take_effects(Shutdown)) == 1


def test_jobs_are_numbered_and_their_end_is_told_with_its_cause():
    bench = Bench()
    first, second = bench.driver(b"driver_1"), bench.driver(b"driver_2")
    for driver in (first, second):
        bench.send(driver, m.DescribeJob({"entrypoint": "program.py", "namespace": "space"}))
    bench.send(first, m.Goodbye())
    bench.leave(first)
    bench.leave(second)
    assert [each["job"] for each in bench.records.named("job_started")] == [1, 2]
    ended = bench.records.named("job_ended")
    assert [(each["job"], each["cause"]) for each in ended] == [(1, DeathCause.INTENDED), (2, DeathCause.UNKNOWN)]


def test_a_second_client_of_the_same_name_is_refused():
    bench = Bench()
    driver = bench.driver()
    assert bench.do(bench.machine.client_joined, driver, ProcessKind.DRIVER, 2) is None


def test_samples_cover_the_node_its_store_and_every_resource():
    bench = Bench(cpus=2, gpus=1, custom={"slot": 3})
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    bench.workers_join()
    bench.do(bench.machine.sample, 0.001)
    (node,) = bench.records.named("node_sample")
    assert (node["workers"], node["workers_leased"]) == (1, 1)
    assert len(bench.records.named("store_sample")) == 1
    samples = {each["resource"]: (each["total"], each["used"]) for each in bench.records.named("resource_sample")}
    assert samples["CPU"] == (2, 1)
    assert set(samples) == {"CPU", "GPU", "memory", "slot", "object_store_memory"}


def test_a_node_describes_itself():
    bench = Bench()
    driver = bench.driver()
    bench.send(driver, m.Request(1, "nodes", {}))
    (row,) = bench.take(driver)[0].value
    assert row["node"] == NODE and row["labels"] == {"ray.io/node-id": NODE.hex()} and not row["draining"]
    assert row["available"]["CPU"] == bench.machine.resources.free["CPU"]
