"""The head's store holds the records of all nodes, also of those that are gone."""

from __future__ import annotations

import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.telemetry.store import Store
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster():
    obsray.shutdown()
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    obsray.shutdown()
    made.shutdown()


def store() -> Store:
    return Store.open(obsray.get_runtime_context()._session.directory)


def ran_on(opened: Store, node: str) -> set[bytes]:
    """The tasks that processes of a node have recorded as ended."""
    opened.refresh()
    found = opened.events("task_ended")
    mark = bytes.fromhex(node)[:4]
    rows = zip(found["process"].to_pylist(), found["task"].to_pylist(), strict=True)
    return {task for process, task in rows if process[4:] == mark}


@pytest.mark.parametrize("graceful", [True, False])
def test_what_other_nodes_recorded_is_at_the_head_and_stays_when_they_are_gone(cluster, graceful):
    node = cluster.add_node(num_cpus=2)

    @obsray.remote
    def work():
        return obsray.get_runtime_context().get_node_id()

    assert set(obsray.get([work.remote() for _ in range(10)])) == {node.node_id}
    opened = store()
    eventually(lambda: len(ran_on(opened, node.node_id)) == 10)
    opened.refresh()
    states = {state.process: alive for state, alive in opened.ring_states() if state.node.hex() == node.node_id}
    assert states and any(states.values())
    cluster.remove_node(node, allow_graceful=graceful)
    eventually(lambda: opened.rows("node_records_ended"))
    (ended,) = opened.rows("node_records_ended")
    assert ended["node"].hex() == node.node_id and (ended["complete"] or not graceful)
    opened.refresh()
    assert not any(alive for state, alive in opened.ring_states() if state.node.hex() == node.node_id)
    assert len(ran_on(store(), node.node_id)) == 10
