"""Placement groups over several real nodes: used, found and removed from any, moved when one dies."""

from __future__ import annotations

import pytest

import obsray
from obsray import exceptions, util
from obsray.cluster_utils import Cluster
from obsray.util import state
from obsray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as InGroup
from tests.integration.programs import eventually


@pytest.fixture
def cluster():
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    obsray.shutdown()
    made.shutdown()


@obsray.remote
def node_id() -> str:
    return obsray.get_runtime_context().get_node_id()


def test_a_group_is_used_found_and_removed_from_any_node_and_survives_the_death_of_one(cluster):
    far = cluster.add_node(num_cpus=1, resources={"far": 1})
    group = util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD", name="both")
    assert group.wait(20)
    where = [node_id.options(scheduling_strategy=InGroup(group, index)).remote() for index in range(2)]
    placed = util.placement_group_table(group)["bundles_to_node_id"]
    assert obsray.get(where, timeout=20) == list(placed.values()) and len(set(placed.values())) == 2

    @obsray.remote(num_cpus=0, resources={"far": 1})
    def there() -> tuple[bool, list[str]]:
        found = util.get_placement_group("both")
        asked = [node_id.options(scheduling_strategy=InGroup(found, index)).remote() for index in range(2)]
        return found.wait(10), obsray.get(asked, timeout=10)

    assert obsray.get(there.remote(), timeout=30) == (True, list(placed.values()))
    cluster.remove_node(far, allow_graceful=False)
    cluster.add_node(num_cpus=1, resources={"far": 1})
    moved = node_id.options(scheduling_strategy=InGroup(group, 1)).remote()
    assert obsray.get(moved, timeout=40) not in placed.values()

    @obsray.remote(num_cpus=0, resources={"far": 1})
    def remove() -> None:
        util.remove_placement_group(util.get_placement_group("both"))

    obsray.get(remove.remote(), timeout=20)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        obsray.get(node_id.options(scheduling_strategy=InGroup(group)).remote(), timeout=20)


def test_a_group_by_label_is_on_nodes_that_share_its_value(cluster):
    for rack in ("a", "b", "b"):
        cluster.add_node(num_cpus=1, labels={"rack": rack})
    group = util.placement_group([{"CPU": 1}] * 2, topology_strategy={"rack": "STRICT_PACK"})
    assert group.wait(30)
    placed = set(util.placement_group_table(group)["bundles_to_node_id"].values())
    racks = {node["NodeID"]: node["Labels"].get("rack") for node in obsray.nodes()}
    assert [racks[node] for node in placed] == ["b", "b"]
    nowhere = util.placement_group([{"CPU": 1}], topology_strategy={"room": "STRICT_PACK"})
    eventually(lambda: "no node has the label room" in (state.get_placement_group(nowhere.id.hex()).reason or ""))
    assert state.get_placement_group(nowhere.id.hex()).topology_strategy == {"room": "STRICT_PACK"}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"topology_strategy": "rack"}, TypeError),
        ({"topology_strategy": {}}, ValueError),
        ({"topology_strategy": {"rack": "PACK"}}, ValueError),
        ({"topology_strategy": {"a b": "STRICT_PACK"}}, ValueError),
        ({"topology_strategy": {"a": "STRICT_PACK", "b": "STRICT_PACK"}}, ValueError),
        ({"topology_strategy": {"rack": "STRICT_PACK"}, "strategy": "SPREAD"}, ValueError),
    ],
)
def test_a_label_that_bundles_shall_share_is_checked_at_the_call(given, error):
    with pytest.raises(error, match="topology_strategy"):
        util.placement_group([{"CPU": 1}], **given)
