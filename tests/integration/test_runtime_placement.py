"""Placement groups, strategies and labels as programs use them, on a node with four CPUs and two GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obsray
from obsray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
    state,
)
from obsray.util.placement_group import PlacementGroup
from obsray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from tests.integration.programs import eventually, views

pytestmark = pytest.mark.timeout(120)
NOWHERE = "ab" * 8


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(
        num_cpus=4, num_gpus=2, resources={"accelerator_type:A100": 1}, labels={"side": "left"}, namespace="here",
        include_dashboard=False,
    )  # fmt: skip
    yield Path(context.address_info["session_dir"])
    obsray.shutdown()


@pytest.fixture
def group(session: Path) -> Iterator[Any]:
    made: list[PlacementGroup] = []

    def make(*arguments: Any, **options: Any) -> PlacementGroup:
        made.append(placement_group(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        remove_placement_group(each)
    eventually(lambda: obsray.available_resources().get("CPU") == 4)


@obsray.remote
def where() -> Any:
    return obsray.get_runtime_context().get_placement_group_id()


@obsray.remote
def where_child_is() -> Any:
    inside = obsray.get_runtime_context().should_capture_child_tasks_in_placement_group
    return inside, obsray.get(where.options(num_cpus=0).remote()), os.getpid()


@obsray.remote
class Place:
    def where(self) -> Any:
        return obsray.get_runtime_context().get_placement_group_id()

    def child(self) -> Any:
        return obsray.get(where.options(num_cpus=0).remote())

    def die(self) -> None:
        os._exit(1)


def test_a_group_is_what_its_reference_becomes_and_can_be_waited_for(group):
    made = group([{"CPU": 1, "memory": 1 << 20}, {"CPU": 0.5}])
    assert obsray.get(made.ready(), timeout=20) == made
    assert made.wait(0) is True and made.bundle_count == 2
    assert made.bundle_specs == [{"CPU": 1, "memory": 1 << 20}, {"CPU": 0.5}]
    row = placement_group_table(made)
    assert row["bundles_to_node_id"] == dict.fromkeys((0, 1), obsray.nodes()[0]["NodeID"])
    assert row["stats"]["scheduling_state"] == "FINISHED" and made.id.hex() in placement_group_table()
    reference = made.ready()
    assert obsray.get(where.options(name="takes it").remote(), timeout=20) is None
    assert obsray.get(obsray.remote(lambda ready: ready == made).remote(reference), timeout=20)


def test_who_waits_for_a_group_that_is_removed_hears_of_it(group):
    made = group([{"CPU": 5}])
    waits = made.ready()
    assert made.wait(0.05) is False
    assert "bundle 0 lacks CPU 1 more" in placement_group_table(made)["reason"]
    remove_placement_group(made)
    with pytest.raises(obsray.exceptions.TaskPlacementGroupRemoved, match="somebody removed it"):
        obsray.get(waits, timeout=20)
    assert made.wait(5) is False
    with pytest.raises(obsray.exceptions.TaskPlacementGroupRemoved):
        obsray.get(where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(made)).remote(), timeout=20)
    actor = Place.options(scheduling_strategy=PlacementGroupSchedulingStrategy(made)).remote()
    with pytest.raises(obsray.exceptions.ActorPlacementGroupRemoved):
        obsray.get(actor.where.remote(), timeout=20)


def test_the_same_function_is_captured_or_not_by_the_task_that_calls_it_in_one_worker(group):
    made = group([{"CPU": 1}])
    captured = PlacementGroupSchedulingStrategy(made, placement_group_capture_child_tasks=True)
    plain = where_child_is.options(num_cpus=0.25)
    inside = where_child_is.options(num_cpus=0.25, scheduling_strategy=captured)
    seen: dict[int, set[Any]] = {}
    for _ in range(4):
        for one, expected in ((plain, (False, None)), (inside, (True, made.id.hex()))):
            *answer, pid = obsray.get(one.remote(), timeout=20)
            assert tuple(answer) == expected
            seen.setdefault(pid, set()).add(expected)
        # What was leased goes back, so that the next one may get the same process.
        obsray.available_resources()
    out = captured.placement_group_capture_child_tasks
    assert out and seen


def test_what_is_captured_may_leave(group):
    made = group([{"CPU": 2}])

    @obsray.remote(num_cpus=1)
    def parent() -> Any:
        current = get_current_placement_group()
        ways = (
            where,
            where.options(scheduling_strategy="DEFAULT"),
            where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(None)),
            where.options(placement_group=PlacementGroup.empty()),
        )
        return current, current.bundle_specs, obsray.get([way.options(num_cpus=0.5).remote() for way in ways])

    captured = PlacementGroupSchedulingStrategy(made, placement_group_capture_child_tasks=True)
    current, bundles, children = obsray.get(parent.options(scheduling_strategy=captured).remote(), timeout=20)
    assert current == made and bundles == [{"CPU": 2}]
    assert children == [made.id.hex(), None, None, None]


def test_actors_in_a_group_start_again_in_it_and_take_their_children_along(group):
    made = group([{"CPU": 1}])
    actor = Place.options(
        placement_group=made, placement_group_bundle_index=0, placement_group_capture_child_tasks=True, max_restarts=1,
        max_task_retries=-1,
    ).remote()  # fmt: skip
    assert obsray.get([actor.where.remote(), actor.child.remote()], timeout=20) == [made.id.hex()] * 2
    actor.die.options(max_task_retries=0).remote()
    eventually(
        lambda: state.list_actors(filters=[("actor_id", "=", actor._actor_id.hex())], detail=True)[0].num_restarts
    )
    assert obsray.get(actor.where.remote(), timeout=20) == made.id.hex()
    row = eventually(lambda: state.get_actor(actor._actor_id.hex()))
    assert row.placement_group_id == made.id.hex()
    remove_placement_group(made)
    # Calls go straight to the actor and may overtake the news.
    eventually(lambda: state.get_actor(actor._actor_id.hex()).state == "DEAD")
    with pytest.raises(obsray.exceptions.ActorPlacementGroupRemoved) as caught:
        obsray.get(actor.where.remote(), timeout=20)
    assert isinstance(caught.value, obsray.exceptions.RayActorError)


def test_the_context_names_devices_by_strings_as_the_environment_does(session):
    assert obsray.get_gpu_ids() == [] and obsray.get_runtime_context().get_accelerator_ids() == {"GPU": []}
    named = obsray.remote(num_gpus=2)(lambda: obsray.get_runtime_context().get_accelerator_ids())
    assert obsray.get(named.remote(), timeout=30) == {"GPU": ["0", "1"]}


def test_bundles_have_gpus_of_their_own(group):
    made = group([{"GPU": 1, "CPU": 1}, {"GPU": 1, "CPU": 1}])
    ids = obsray.remote(num_gpus=1)(lambda: (obsray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]))
    found = obsray.get(
        [ids.options(scheduling_strategy=PlacementGroupSchedulingStrategy(made, index)).remote() for index in (0, 1)],
        timeout=30,
    )
    assert sorted(found) == [([0], "0"), ([1], "1")]


def test_a_name_leads_to_a_group_until_it_is_removed(group):
    made = group([{"CPU": 1}], name="called", lifetime="detached")
    assert get_placement_group("called") == made
    with pytest.raises(obsray.exceptions.RaySystemError, match="called"):
        placement_group([{"CPU": 1}], name="called")
    found = obsray.get(obsray.remote(lambda: get_placement_group("called").bundle_specs).remote(), timeout=20)
    assert found == [{"CPU": 1}]
    remove_placement_group(made)
    eventually(lambda: placement_group_table(made)["state"] == "REMOVED")
    with pytest.raises(ValueError, match="list placement-groups"):
        get_placement_group("called")


def test_a_group_tells_its_story(session, group):
    made = group([{"CPU": 1}], name="told")
    task = where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(made)).remote()
    obsray.get(task, timeout=20)
    remove_placement_group(made)
    row = eventually(lambda: state.get_placement_group(made.id.hex()).state == "REMOVED" and made.id.hex())
    told = [event["event"] for event in views(session).story(row)]
    assert told[0] == "group_requested" and {"group_created", "lease_decided", "group_removed"} <= set(told)
    assert state.get_task(task).placement_group_id == made.id.hex()
    assert views(session).placement_group(row)["resources"] == "CPU:1"


def test_a_task_is_pinned_to_its_node_or_refused_for_ever(session):
    here = obsray.nodes()[0]["NodeID"]
    hard = NodeAffinitySchedulingStrategy(here, soft=False)
    assert obsray.get(where.options(scheduling_strategy=hard).remote(), timeout=20) is None
    lost = NodeAffinitySchedulingStrategy(NOWHERE, soft=False)
    for _ in range(2):
        with pytest.raises(obsray.exceptions.TaskUnschedulableError, match=NOWHERE):
            obsray.get(where.options(scheduling_strategy=lost).remote(), timeout=20)
    with pytest.raises(obsray.exceptions.ActorUnschedulableError, match=NOWHERE):
        obsray.get(Place.options(scheduling_strategy=lost).remote().where.remote(), timeout=20)
    with pytest.raises(obsray.exceptions.TaskUnschedulableError, match="can never hold it: CPU 100"):
        obsray.get(where.options(scheduling_strategy=hard, num_cpus=100).remote(), timeout=20)
    with pytest.raises(obsray.exceptions.ActorUnschedulableError, match="can never hold it: nowhere 1"):
        obsray.get(
            Place.options(scheduling_strategy=hard, resources={"nowhere": 1}).remote().where.remote(), timeout=20
        )
    soft = NodeAffinitySchedulingStrategy(NOWHERE, soft=True)
    assert obsray.get(Place.options(scheduling_strategy=soft).remote().where.remote(), timeout=20) is None


def test_labels_choose_and_what_no_node_has_is_named(session):
    assert obsray.nodes()[0]["Labels"] == obsray.get_runtime_context().get_node_labels()
    assert obsray.nodes()[0]["Labels"] == {
        "ray.io/node-id": obsray.nodes()[0]["NodeID"], "ray.io/accelerator-type": "A100", "side": "left",
    }  # fmt: skip
    fine = [
        where.options(label_selector={"side": "in(left,right)", "zone": "!east"}),
        where.options(scheduling_strategy="SPREAD", accelerator_type="A100"),
        where.options(label_selector={"side": "right"}, fallback_strategy=[{"label_selector": {"side": "left"}}]),
        where.options(
            scheduling_strategy=NodeLabelSchedulingStrategy(
                {"side": In("left"), "zone": DoesNotExist()}, soft={"side": NotIn("left")}
            )
        ),
    ]
    assert obsray.get([one.remote() for one in fine], timeout=20) == [None] * len(fine)
    stuck = where.options(scheduling_strategy=NodeLabelSchedulingStrategy({"zone": Exists()})).remote()
    reason = eventually(lambda: _infeasible(views(session).task(stuck.task_id().hex())))
    assert "no node has label zone" in reason
    actor = Place.options(label_selector={"side": "right"}).remote()
    call = actor.where.remote()
    assert obsray.wait([stuck, call], timeout=0.1)[0] == []
    obsray.cancel(stuck)
    obsray.kill(actor)


def _infeasible(task: dict[str, Any] | None) -> str:
    reason = str((task or {}).get("pending_reason") or "")
    return reason if "infeasible" in reason else ""


@pytest.mark.parametrize(
    "options",
    [
        {"scheduling_strategy": "NOWHERE"},
        {"scheduling_strategy": 7},
        {"placement_group": "mine"},
        {"placement_group_bundle_index": 1},
        {"placement_group_bundle_index": "1"},
        {"placement_group_capture_child_tasks": 1},
        {"label_selector": "side=left"},
        {"label_selector": {"side": "in()"}},
        {"fallback_strategy": [{"num_cpus": 1}]},
        {"fallback_strategy": {"label_selector": {}}},
        {"accelerator_type": 5},
    ],
    ids=str,
)
def test_wrong_options_are_refused_where_they_are_given(options):
    for remote in (where, Place):
        with pytest.raises((ValueError, TypeError)):
            remote.options(**options)  # type: ignore[attr-defined]


def test_wrong_values_are_refused_where_they_are_given(group):
    made = group([{"CPU": 1}])
    wrong = [
        lambda: PlacementGroupSchedulingStrategy(made, 1),
        lambda: PlacementGroupSchedulingStrategy(made, -2),
        lambda: PlacementGroupSchedulingStrategy("group"),  # type: ignore[arg-type]
        lambda: NodeAffinitySchedulingStrategy("xyz", soft=False),
        lambda: NodeAffinitySchedulingStrategy(NOWHERE, soft=1),  # type: ignore[arg-type]
        lambda: NodeLabelSchedulingStrategy({}),
        lambda: NodeLabelSchedulingStrategy({"k": "v"}),  # type: ignore[dict-item]
        lambda: In(),
        lambda: placement_group([{"CPU": -1}]),
        lambda: placement_group([{"CPU": True}]),
        lambda: placement_group([{"object_store_memory": 1}]),
        lambda: placement_group([{"GPU": 1.5}]),
        lambda: placement_group([{"CPU": 1}], bundle_label_selector=[{}, {}]),
        lambda: placement_group([{"CPU": 1}], _soft_target_node_id=NOWHERE),
        lambda: placement_group([{"CPU": 1}], name=3),  # type: ignore[arg-type]
        lambda: made.wait(-1),
        lambda: PlacementGroup.empty().ready(),
        lambda: remove_placement_group("called"),  # type: ignore[arg-type]
        lambda: get_placement_group(""),
        lambda: where.options(num_cpus=2, scheduling_strategy=PlacementGroupSchedulingStrategy(made)).remote(),
        lambda: Place.options(num_gpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(made)).remote(),
    ]
    for number, one in enumerate(wrong):
        with pytest.raises((ValueError, TypeError)):
            one()
            pytest.fail(f"number {number} was accepted")


@pytest.mark.parametrize(
    "labels", [{"ray.io/node-id": "x"}, {"ray.io/what": "x"}, {"a b": "x"}, {"a": 1}, ["a"]], ids=str
)
def test_wrong_labels_of_a_node_are_refused(labels, session):
    obsray.shutdown()
    with pytest.raises((ValueError, TypeError), match="label"):
        obsray.init(labels=labels, include_dashboard=False)
    assert not obsray.is_initialized()
