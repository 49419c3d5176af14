"""From what waits to which nodes start and leave."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from obsray.autoscaler.demand import Seen, View, Waiting, WaitingGroup
from obsray.autoscaler.planning import Owned, Plan, plan
from obsray.autoscaler.settings import NODE_GROUP, Settings, parse
from obsray.core.node.resources import MEMORY, UNIT, Amounts
from obsray.core.protocol import labels
from obsray.core.protocol.labels import NODE_ID
from obsray.telemetry.events import ScalingCause, ScalingVerdict


def configured(types: dict[str, dict[str, Any]], **top: Any) -> Settings:
    return parse({"available_node_types": types, **top}, "the test")


def cpus(count: float, most: int = 10, **more: Any) -> dict[str, Any]:
    return {"resources": {"CPU": count}, "max_workers": most, **more}


def units(**amounts: float) -> Amounts:
    return {name: round(amount if name == MEMORY else amount * UNIT) for name, amount in amounts.items()}


def named(number: int) -> bytes:
    return b"N%03d...." % number


def node(number: int, free: float = 0, total: float = 4, **changes: Any) -> Seen:
    own = {"labels": {}, "busy": "in use by 1 worker", **changes}
    return Seen(named(number), units(CPU=total), units(CPU=free), **own)


def task(amount: float = 1, count: int = 1, **more: Any) -> Waiting:
    selector = more.pop("selector", None)
    selectors = (labels.parse(selector, "the test"),) if selector else ()
    return Waiting(units(CPU=amount, **more), count, selectors, name="f")


def group(strategy: str, *bundles: Amounts, taken: dict[bytes, int] | None = None) -> WaitingGroup:
    return WaitingGroup(b"g" * 16, strategy, tuple((bundle, ()) for bundle in bundles), "train", taken or {})


def started(found: Plan) -> dict[str, int]:
    return dict(Counter(launch.type for launch in found.launches))


def verdicts(found: Plan) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for each in found.judgements:
        counted[each.verdict.name] += each.units
    return dict(counted)


def test_a_task_that_fits_nowhere_gets_a_node_and_the_node_says_for_whom_it_is():
    found = plan(configured({"small": cpus(4)}), View([node(0, free=1)], [task(4)]), [])
    (launch,) = found.launches
    assert (launch.type, launch.cause, launch.units) == ("small", ScalingCause.DEMAND, 1)
    assert "for f (CPU:4)" in launch.why
    assert verdicts(found) == {"NODE_COMES": 1}


def test_what_fits_into_what_is_free_starts_nothing():
    found = plan(configured({"small": cpus(4)}), View([node(0, free=2)], [task(1, 2)]), [])
    assert started(found) == {} and verdicts(found) == {"ROOM": 2}


def test_tasks_share_a_node_and_nodes_that_start_already_count():
    kinds = configured({"small": cpus(4)})
    waiting = View([node(0)], [task(1, 10)])
    assert started(plan(kinds, waiting, [])) == {"small": 3}
    assert started(plan(kinds, waiting, [Owned(named(1), "small"), Owned(named(2), "small")])) == {"small": 1}
    assert started(plan(kinds, waiting, [Owned(named(n), "small") for n in range(1, 4)])) == {}


def test_of_several_types_the_one_that_is_used_best_is_taken_and_the_others_are_explained():
    kinds = configured(
        {"small": cpus(2), "large": cpus(16), "gpu": {"resources": {"CPU": 2, "GPU": 1}, "max_workers": 5}}
    )
    (launch,) = plan(kinds, View([], [task(2)]), []).launches
    assert launch.type == "small"
    assert "small rather than large (which would be 12% used, this one 100%)" in launch.why
    assert "gpu (which has what nobody asked for)" in launch.why
    assert started(plan(kinds, View([], [task(1, 16)]), [])) == {"large": 1}
    assert started(plan(kinds, View([], [task(1, 1, GPU=1)]), [])) == {"gpu": 1}


def test_a_type_of_higher_priority_comes_first():
    kinds = configured({"cheap": cpus(16, priority=1), "exact": cpus(2)})
    (launch,) = plan(kinds, View([], [task(2)]), []).launches
    assert launch.type == "cheap" and "exact (of lower priority)" in launch.why


def test_labels_decide_which_type_can_serve():
    kinds = configured({"a": cpus(4, labels={"zone": "a"}), "b": cpus(4, labels={"zone": "b"})})
    assert started(plan(kinds, View([node(0, free=4)], [task(1, selector={"zone": "b"})]), [])) == {"b": 1}
    by_group = task(1, selector={NODE_GROUP: "a"})
    assert started(plan(kinds, View([], [by_group]), [])) == {"a": 1}
    found = plan(kinds, View([], [task(1, selector={"zone": "c"})]), [])
    (judged,) = found.judgements
    assert started(found) == {} and judged.verdict is ScalingVerdict.INFEASIBLE
    assert "a: label zone=c (the node has zone=a)" in judged.why and "b: " in judged.why


def test_what_no_type_can_hold_is_named_with_what_each_lacks():
    found = plan(configured({"small": cpus(4), "large": cpus(16)}), View([node(0)], [task(64, 3)]), [])
    (judged,) = found.judgements
    assert started(found) == {} and judged.verdict is ScalingVerdict.INFEASIBLE and judged.units == 3
    assert "small: CPU 64 (it has 4)" in judged.why and "large: CPU 64 (it has 16)" in judged.why


def test_what_only_a_busy_node_can_hold_waits_for_it_and_is_not_called_infeasible():
    found = plan(configured({"small": cpus(4)}), View([node(0, free=1, total=32)], [task(32)]), [])
    (judged,) = found.judgements
    assert judged.verdict is ScalingVerdict.ROOM and "it waits for what runs on node" in judged.why


def test_no_more_nodes_than_allowed_of_a_type_and_in_all():
    kinds = configured({"small": cpus(1, most=3), "large": cpus(8, most=9)}, max_workers=4)
    found = plan(kinds, View([], [task(8, 9)]), [])
    assert started(found) == {"large": 4} and verdicts(found) == {"NODE_COMES": 4, "AT_MAX": 5}
    assert any("4 nodes, which is max_workers" in each.why for each in found.judgements)
    leaving = [Owned(named(n), "small", running=True, leaving=True) for n in range(3)]
    assert started(plan(kinds, View([], [task(8, 9)]), leaving)) == {"large": 1}


def test_growth_is_bounded_by_the_number_that_runs():
    kinds = configured({"small": cpus(1, most=1000)}, upscaling_speed=2.0)
    found = plan(kinds, View([], [task(1, 100)]), [])
    assert started(found) == {"small": 5} and verdicts(found) == {"NODE_COMES": 5, "SPEED": 95}
    running = [Owned(named(n), "small", running=True) for n in range(10)]
    seen = [node(n, total=1) for n in range(10)]
    assert started(plan(kinds, View(seen, [task(1, 100)]), running)) == {"small": 20}


def test_a_type_that_does_not_start_is_left_alone_and_another_serves_if_it_can():
    kinds = configured({"exact": cpus(2), "large": cpus(8)})
    barred = {"exact": "it failed twice, next try in 3 s"}
    (launch,) = plan(kinds, View([], [task(2)]), [], barred).launches
    assert launch.type == "large" and "it failed twice" in launch.why
    only = configured({"exact": cpus(2, min_workers=1)})
    found = plan(only, View([], [task(2)]), [], barred)
    assert started(found) == {} and verdicts(found) == {"BACKING_OFF": 1}


def test_the_minimum_is_started_without_demand_and_kept_when_idle():
    kinds = configured({"small": cpus(4, min_workers=2, idle_timeout_s=1)})
    found = plan(kinds, View([node(0)]), [])
    assert started(found) == {"small": 2} and {launch.cause for launch in found.launches} == {ScalingCause.MIN_WORKERS}
    idle = [Owned(named(n), "small", running=True, idle_seconds=10 + n) for n in (1, 2, 3)]
    seen = [node(n, free=4, busy="") for n in (1, 2, 3)]
    found = plan(kinds, View(seen), idle)
    assert started(found) == {} and [each.node for each in found.releases] == [named(3)]


def test_an_idle_node_leaves_after_its_time_and_one_in_use_never():
    kinds = configured({"small": cpus(4, idle_timeout_s=60)})
    owned = [
        Owned(named(1), "small", running=True, idle_seconds=59),
        Owned(named(2), "small", running=True, idle_seconds=61),
    ]
    seen = [node(1, free=4, busy=""), node(2, free=4, busy="")]
    (release,) = plan(kinds, View(seen), owned).releases
    assert release.node == named(2) and "nothing has run there for 61.0 s" in release.why
    assert plan(kinds, View([node(1, free=4), node(2, free=4, busy="objects lie there")]), owned).releases == ()
    stranger = View([node(7, free=4, busy="")])
    assert plan(kinds, stranger, []).releases == ()


def test_an_idle_node_that_what_waits_is_about_to_use_stays():
    kinds = configured({"small": cpus(4, idle_timeout_s=1)})
    owned = [Owned(named(1), "small", running=True, idle_seconds=9)]
    found = plan(kinds, View([node(1, free=4, busy="")], [task(1)]), owned)
    assert found.releases == () and found.launches == ()


def test_a_wish_is_a_floor_for_the_whole_cluster_whatever_runs():
    kinds = configured({"small": cpus(4, idle_timeout_s=1)})
    wished = [(units(CPU=1), ())] * 10
    assert started(plan(kinds, View([node(0, free=0, total=4)], wished=wished), [])) == {"small": 2}
    idle = [Owned(named(n), "small", running=True, idle_seconds=99) for n in (1, 2, 3)]
    seen = [node(n, free=4, busy="") for n in (0, 1, 2, 3)]
    assert [each.node for each in plan(kinds, View(seen, wished=wished), idle).releases] == [named(3)]
    assert len(plan(kinds, View(seen), idle).releases) == 3
    marked = [(units(CPU=1), labels.parse({NODE_GROUP: "small"}, "the test"))]
    assert started(plan(kinds, View([node(0, free=4)], wished=marked), [])) == {"small": 1}


def test_a_group_is_started_for_whole_or_not_at_all():
    kinds = configured({"small": cpus(2, most=3)})
    spread = group("STRICT_SPREAD", *[units(CPU=2)] * 3)
    assert started(plan(kinds, View([], groups=[spread]), [])) == {"small": 3}
    four = group("STRICT_SPREAD", *[units(CPU=2)] * 4)
    found = plan(kinds, View([], groups=[four]), [])
    assert started(found) == {} and verdicts(found) == {"AT_MAX": 1}
    packed = group("STRICT_PACK", *[units(CPU=1)] * 3)
    found = plan(kinds, View([], groups=[packed]), [])
    assert started(found) == {} and verdicts(found) == {"INFEASIBLE": 1}
    assert started(plan(kinds, View([], groups=[group("PACK", *[units(CPU=1)] * 3)]), [])) == {"small": 2}


def test_a_strict_pack_that_fits_on_one_node_gets_one():
    kinds = configured({"small": cpus(2), "large": cpus(8)})
    found = plan(kinds, View([node(0, free=2)], groups=[group("STRICT_PACK", *[units(CPU=1)] * 6)]), [])
    assert started(found) == {"large": 1}


def test_a_group_by_label_gets_nodes_of_one_value():
    kinds = configured(
        {"a": cpus(2, most=1, labels={"zone": "a"}), "b": cpus(2, labels={"zone": "b"}), "none": cpus(8)}
    )
    by_zone = group("STRICT_PACK by zone", *[units(CPU=2)] * 3)
    assert started(plan(kinds, View([], groups=[by_zone]), [])) == {"b": 3}
    here = node(0, free=2, total=2, labels={"zone": "b"})
    assert started(plan(kinds, View([here], groups=[by_zone]), [])) == {"b": 2}
    bound = group("STRICT_PACK by zone", *[units(CPU=2)] * 2, taken={named(0): 1})
    there = node(0, free=0, total=2, labels={"zone": "a"})
    found = plan(kinds, View([there], groups=[bound]), [])
    assert started(found) == {} and verdicts(found) == {"AT_MAX": 1} and "zone is a" in found.judgements[0].why
    nowhere = plan(kinds, View([], groups=[group("STRICT_PACK by rack", units(CPU=1))]), [])
    assert verdicts(nowhere) == {"INFEASIBLE": 1} and "label rack" in nowhere.judgements[0].why


def test_a_group_that_lost_a_node_keeps_away_from_those_it_has():
    kinds = configured({"small": cpus(2)})
    lost = group("STRICT_SPREAD", units(CPU=1), taken={named(0): 1})
    assert started(plan(kinds, View([node(0, free=2, total=4)], groups=[lost]), [])) == {"small": 1}


def test_a_task_tied_to_a_node_starts_no_other():
    tied = Waiting(units(CPU=1), 1, node=named(0))
    found = plan(configured({"small": cpus(4)}), View([node(0)], [tied]), [])
    assert started(found) == {} and "may run on node" in found.judgements[0].why


def test_a_task_that_needs_nothing_but_a_label_gets_one_node():
    kinds = configured({"a": cpus(4, labels={"zone": "a"})})
    selector = labels.parse({"zone": "a"}, "the test")
    assert started(plan(kinds, View([node(0)], [Waiting({}, 50, (selector,))]), [])) == {"a": 1}


# --- whatever waits --------------------------------------------------------------------------------------------

_AMOUNTS = st.fixed_dictionaries(
    {"CPU": st.sampled_from([1, 2, 3, 5, 9])}, optional={"GPU": st.sampled_from([0.5, 1, 2]), "disk": st.just(1)}
).map(lambda amounts: units(**amounts))
_SELECTORS = st.sampled_from([(), (), (labels.parse({"zone": "a"}, "x"),), (labels.parse({"zone": "!a"}, "x"),)])
_DEMANDS = st.lists(st.builds(Waiting, _AMOUNTS, st.integers(1, 12), _SELECTORS), max_size=5)
_GROUPS = st.lists(
    st.builds(
        WaitingGroup, st.binary(min_size=16, max_size=16),
        st.sampled_from(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD", "STRICT_PACK by zone"]),
        st.lists(st.tuples(_AMOUNTS, st.just(())), min_size=1, max_size=4).map(tuple),
    ), max_size=2,
)  # fmt: skip
_TYPES = st.dictionaries(
    st.sampled_from(["one", "two", "three"]),
    st.fixed_dictionaries({
        "resources": st.fixed_dictionaries(
            {"CPU": st.sampled_from([1, 2, 4, 8])}, optional={"GPU": st.integers(1, 4), "disk": st.just(2)}
        ),
        "min_workers": st.integers(0, 1), "max_workers": st.integers(1, 5), "idle_timeout_s": st.just(10),
        "labels": st.sampled_from([{}, {"zone": "a"}, {"zone": "b"}]),
    }), min_size=1,
)  # fmt: skip
_SEEN = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 20)), max_size=4)


@settings(max_examples=150, deadline=None)
@given(_TYPES, _DEMANDS, _GROUPS, st.lists(st.tuples(_AMOUNTS, st.just(())), max_size=4), _SEEN, st.integers(3, 9))
def test_whatever_waits_the_limits_hold_each_node_has_a_reason_and_the_second_plan_is_empty(
    types: dict[str, Any],
    demands: list[Waiting],
    groups: list[WaitingGroup],
    wished: list[Any],
    seen: list[Any],
    most: int,
) -> None:
    kinds = configured(types, max_workers=most, upscaling_speed=0.5)
    names = sorted(kinds.types)
    owned, nodes = [], [Seen(named(0), units(CPU=2), units(CPU=1), {NODE_ID: named(0).hex()}, head=True)]
    for number, (free, busy, idle) in enumerate(seen[:most], 1):
        kind = kinds.types[names[number % len(names)]]
        if sum(each.type == kind.name for each in owned) >= kind.max_workers:
            continue
        left = {name: amount * free // 4 for name, amount in kind.resources.items()}
        text = "in use by 1 worker" if busy or free < 4 else ""
        owned.append(Owned(named(number), kind.name, running=True, idle_seconds=0.0 if text else idle))
        nodes.append(Seen(named(number), kind.resources, left, kind.all_labels, busy=text))
    view = View(nodes, demands, groups, wished)
    found = plan(kinds, view, owned)
    assert found == plan(kinds, view, owned), "the same input gave another plan"

    counts = Counter([*(each.type for each in owned), *(each.type for each in found.launches)])
    assert sum(counts.values()) <= max(most, len(owned))
    for name, kind in kinds.types.items():
        assert counts[name] <= kind.max_workers
    assert all(each.units > 0 and each.why for each in found.launches), "a node that nobody asked for"
    released = {each.node for each in found.releases}
    assert all(not each.busy for each in nodes if each.node in released)
    for name, kind in kinds.types.items():
        left_over = sum(each.type == name and each.node not in released for each in owned)
        assert not any(each.type == name and each.node in released for each in owned) or left_over >= kind.min_workers

    # Everything that waits is accounted for, and whatever got no node is said to have got none.
    judged = Counter()
    for each in found.judgements:
        assert each.why
        judged[each.demand] += each.units
    wanted = Counter()
    for each in (*demands, *groups):
        wanted[each.text] += each.units if isinstance(each, Waiting) else 1
    assert {text: count for text, count in judged.items() if not text.startswith("request_resources")} == dict(wanted)

    # Once these nodes start, and those have left, nothing more is to be done.
    coming = [Owned(named(100 + number), launch.type) for number, launch in enumerate(found.launches)]
    staying = [each for each in owned if each.node not in released]
    after = View([each for each in nodes if each.node not in released], demands, groups, wished)
    again = plan(kinds, after, staying + coming)
    at_max = any(each.verdict is ScalingVerdict.AT_MAX for each in found.judgements)
    # What was at its maximum may start once others have left.
    assert again.launches == () or (released and at_max), f"flapping: {again.launches} after {found.launches}"
