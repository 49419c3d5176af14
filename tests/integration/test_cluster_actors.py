"""Actors of a real cluster: they are found by name from every node, move when theirs dies, and keep what they saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import obsray
from obsray import exceptions, util
from obsray.cluster_utils import Cluster
from obsray.util import collective
from obsray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.integration.programs import eventually


@obsray.remote(num_cpus=0)
class Counter:
    def __init__(self, n: int = 0) -> None:
        self.n = n

    def inc(self) -> int:
        self.n += 1
        return self.n

    def where(self) -> tuple[str, int]:
        return obsray.get_runtime_context().get_node_id(), os.getpid()

    def child(self) -> Any:
        # Kept here, so that it lives as long as this actor.
        self.kid = Counter.options(resources={"right": 1}).remote()
        return self.kid


@obsray.remote(num_cpus=0)
def shared(name: str, **options: Any) -> int:
    return obsray.get(Counter.options(name=name, get_if_exists=True, **options).remote().inc.remote())


@obsray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, checkpoint_every=3)
class Saved:
    def __init__(self) -> None:
        self.n = 0

    def inc(self) -> int:
        self.n += 1
        return self.n

    def where(self) -> tuple[str, int]:
        return obsray.get_runtime_context().get_node_id(), os.getpid()

    def __obsray_save__(self) -> int:
        return self.n

    def __obsray_restore__(self, n: int) -> None:
        self.n = n


@obsray.remote(num_cpus=0, scheduling_strategy="SPREAD")
class Member:
    def sum(self, rank: int, members: int) -> tuple[list[float], str]:
        collective.init_collective_group(members, rank, group_name="sums")
        array = np.full(100_000, float(rank + 1))
        collective.allreduce(array, "sums")
        return [array[0], array[-1]], obsray.get_runtime_context().get_node_id()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for name in ("left", "right"):
            made.add_node(num_cpus=1, resources={name: 8, "either": 8})
        obsray.init(address=made.address, namespace="space")
        yield made
    finally:
        obsray.shutdown()
        made.shutdown()


def test_of_tasks_on_two_nodes_that_make_the_same_actor_one_does_and_the_others_find_it(cluster):
    sides = ["left", "right"] * 4
    refs = [shared.options(resources={side: 1}).remote("one", lifetime="detached") for side in sides]
    assert sorted(obsray.get(refs, timeout=60)) == list(range(1, 9))
    assert util.list_named_actors() == ["one"]
    obsray.shutdown()
    obsray.init(address=cluster.address, namespace="space")
    found = obsray.get_actor("one")
    assert obsray.get(found.inc.remote(), timeout=30) == 9
    obsray.kill(found)
    with pytest.raises(exceptions.RayActorError):
        obsray.get(found.inc.remote(), timeout=30)


def test_an_actor_goes_on_where_it_was_when_its_process_and_then_its_node_die(cluster):
    actor = Saved.options(resources={"either": 1}).remote()
    assert [obsray.get(actor.inc.remote(), timeout=30) for _ in range(4)] == [1, 2, 3, 4]
    node, pid = obsray.get(actor.where.remote())
    os.kill(pid, signal.SIGKILL)
    assert obsray.get(actor.inc.remote(), timeout=30) == 5
    (lost,) = [each for each in cluster.worker_nodes if each.node_id == obsray.get(actor.where.remote())[0]]
    cluster.remove_node(lost, allow_graceful=False)
    assert obsray.get(actor.inc.remote(), timeout=60) == 6
    assert obsray.get(actor.where.remote())[0] not in (lost.node_id, "")
    assert node


def test_an_actor_dies_with_the_node_of_its_owner_and_says_so(cluster):
    owner = Counter.options(resources={"left": 1}).remote()
    child = obsray.get(owner.child.remote(), timeout=30)
    node, _ = obsray.get(child.where.remote(), timeout=30)
    (left,) = [each for each in cluster.worker_nodes if each.node_id == obsray.get(owner.where.remote())[0]]
    assert node != left.node_id
    cluster.remove_node(left, allow_graceful=False)
    with pytest.raises(exceptions.RayActorError, match="the node of its owner died"):
        # Until the death is known its process still answers.
        while True:
            obsray.get(child.inc.remote(), timeout=60)


def test_work_that_may_spill_runs_on_its_node_while_there_is_room_and_elsewhere_otherwise(cluster: Cluster) -> None:
    wanted = min(node.node_id for node in cluster.worker_nodes)
    there = NodeAffinitySchedulingStrategy(wanted, soft=True, _spill_on_unavailable=True)
    first = Counter.options(num_cpus=1, scheduling_strategy=there).remote()
    assert obsray.get(first.where.remote(), timeout=30)[0] == wanted
    # Until the node has said that it is full, work would be sent there.
    assert eventually(lambda: obsray.available_resources().get("CPU") == 2)
    second = Counter.options(num_cpus=1, scheduling_strategy=there).remote()
    assert obsray.get(second.where.remote(), timeout=60)[0] not in ("", wanted)


def test_members_of_a_collective_group_may_be_on_any_node(cluster: Cluster) -> None:
    members = [Member.remote() for _ in range(4)]
    found = obsray.get([member.sum.remote(rank, 4) for rank, member in enumerate(members)], timeout=60)
    assert [values for values, _ in found] == [[10.0, 10.0]] * 4
    assert len({node for _, node in found}) > 1
