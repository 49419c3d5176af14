"""Objects on several nodes: moved when they are wanted, told, and lost only with their last copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.experimental.locations import get_object_locations
from obsray.util.state import ask, list_objects
from tests.integration.programs import eventually
from tests.reliability.oracle import Oracle

pytestmark = pytest.mark.timeout(120)
MB = 1_000_000


@obsray.remote(num_cpus=0)
def make(size: int, value: int = 1) -> Any:
    return np.full(size, value, dtype=np.uint8)


@obsray.remote(num_cpus=0)
def last(array: Any) -> int:
    return int(array[-1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and four nodes with 100 MB of store each. Connections to idle processes end soon: the oracle counts."""
    soon = {"worker_idle_seconds": 1.0}
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200 * MB, "_system_config": soon}
    )
    for number in range(4):
        found.add_node(num_cpus=1, resources={f"n{number}": 1}, object_store_memory=100 * MB)
    try:
        obsray.init(address=found.address)
        oracle = Oracle(Path(found.head_node.session_dir))
        yield found
        oracle.check()
    finally:
        obsray.shutdown()
        found.shutdown()


def on(number: int, function: Any) -> Any:
    return function.options(resources={f"n{number}": 0.01})


def events(name: str, ref: Any) -> list[dict[str, Any]]:
    """Records of one kind about an object, of all nodes, as a story tells them."""
    return [row["fields"] for row in ask(None, lambda views: views.story(ref.hex())) if row["event"] == name]


def test_a_value_for_all_nodes_is_read_from_its_maker_by_a_few(cluster):
    ref = obsray.put(np.full(40 * MB, 7, dtype=np.uint8))
    assert obsray.get([on(number, last).remote(ref) for number in range(4)]) == [7] * 4
    assert len(get_object_locations([ref])[ref]["node_ids"]) == 5
    done = eventually(lambda: len(rows := events("transfer_done", ref)) == 4 and rows)
    head = obsray.get_runtime_context().get_node_id()
    from_maker = [row for row in done if row["source"] == head]
    assert 1 <= len(from_maker) < 4
    for row in done:
        assert row["object_bytes"] >= 40 * MB and row["source"] != row["destination"]
        assert row["wire_seconds"] > 0 and row["queue_seconds"] >= 0
    served = eventually(lambda: len(rows := events("transfer_served", ref)) >= 4 and rows)
    assert sum(row["sent_bytes"] for row in served) == sum(row["object_bytes"] for row in done)


def test_who_waits_before_there_are_values_gets_them_fetched_and_all_that_were_asked_for(cluster):
    refs = [on(number % 4, make).remote(MB, number) for number in range(8)]
    ready, rest = obsray.wait(refs, num_returns=8, timeout=60)
    assert len(ready) == 8 and not rest


def test_lists_say_where_copies_are_and_that_they_go(cluster):
    ref = obsray.put(np.ones(10 * MB, dtype=np.uint8))
    obsray.get(on(1, last).remote(ref))

    identifier = ref.hex()

    def nodes() -> list[str]:
        (row,) = list_objects(filters=[("object_id", "=", identifier)], detail=True)
        return row.node_ids or []

    eventually(lambda: len(nodes()) == 2)
    del ref
    gone = [("object_id", "=", identifier), ("state", "=", "FREED")]
    eventually(lambda: [row.node_ids for row in list_objects(filters=gone, detail=True)] == [[]])


def test_more_than_a_store_holds_passes_through_it(cluster):
    refs = [on(number % 4, make).remote(25 * MB, number) for number in range(12)]
    assert obsray.get([on(0, last).remote(ref) for ref in refs]) == list(range(12))
    assert [int(obsray.get(ref)[-1]) for ref in refs] == list(range(12))


def test_what_is_lost_with_a_node_is_told_and_a_copy_elsewhere_is_no_loss(cluster):
    node = cluster.add_node(num_cpus=1, resources={"brief": 1}, object_store_memory=100 * MB)
    there = make.options(resources={"brief": 0.1}, max_retries=0)
    copied, alone = there.remote(5 * MB, 3), there.remote(5 * MB, 4)
    assert obsray.get(on(2, last).remote(copied)) == 3
    obsray.wait([alone], fetch_local=False)
    eventually(lambda: get_object_locations([alone])[alone]["node_ids"])
    cluster.remove_node(node, allow_graceful=False)
    assert int(obsray.get(copied, timeout=30)[-1]) == 3
    with pytest.raises(obsray.exceptions.ObjectLostError):
        obsray.get(alone, timeout=30)
    assert events("object_lost", alone) and not events("object_lost", copied)
