"""Options that say where work may run: what users write, checked, and what the scheduler gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obsray.core import options as opts
from obsray.core.groups import PlacementGroup, get_current_placement_group, node_id_of
from obsray.core.protocol import labels
from obsray.core.protocol.labels import Selector, Term
from obsray.core.runtime.session import Session
from obsray.ids import short
from obsray.typed_ids import NodeID

FALLBACKS_MAX = 32


class PlacementGroupSchedulingStrategy:
    """Run in a placement group: in one of its bundles (``placement_group_bundle_index``), or in any (-1).

    ``placement_group_capture_child_tasks``: what the task or actor submits runs in the group too (None: as its parent).
    ``placement_group=None`` is the way out of a captured group.
    """

    def __init__(
        self,
        placement_group: PlacementGroup | None,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        _check_group(placement_group, placement_group_bundle_index, placement_group_capture_child_tasks)
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks


class NodeAffinitySchedulingStrategy:
    """Run on the node of this id; ``soft``: elsewhere if it does not exist or is dead.

    ``_spill_on_unavailable``, with ``soft``: elsewhere as well while it has no room. A hard affinity to a node that
    does not exist ends in TaskUnschedulableError or ActorUnschedulableError.
    """

    def __init__(
        self,
        node_id: str | NodeID,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        if isinstance(node_id, NodeID):
            node_id = node_id.hex()
        node_id_of(node_id, "node_id")
        if not isinstance(soft, bool):
            raise TypeError(f"soft={soft!r}: must be True or False")
        if _spill_on_unavailable and not soft:
            raise ValueError(
                "_spill_on_unavailable=True with soft=False: what may run elsewhere is soft; say soft=True"
            )
        if _fail_on_unavailable:
            raise ValueError(
                "_fail_on_unavailable is not there: work waits until its node has room. Leave it out, and cancel what "
                "waits too long (wait(timeout=...), then cancel or kill), or let it go elsewhere: soft=True, "
                "_spill_on_unavailable=True"
            )
        self.node_id = node_id
        self.soft = soft
        self._spill_on_unavailable = bool(_spill_on_unavailable)
        self._fail_on_unavailable = False


class _Values:
    """A condition on the value of a label."""

    operator = labels.IN

    def __init__(self, *values: str) -> None:
        what = type(self).__name__
        if not values:
            raise ValueError(f"{what} needs at least one value, for example {what}('value1', 'value2')")
        for value in values:
            if not isinstance(value, str):
                raise ValueError(f"{what}: the value of a label must be a string, got {value!r}")
        self.values = [labels.check_value(value, what) for value in values]


class In(_Values):
    """The label has one of these values."""


class NotIn(_Values):
    """The label is absent or has none of these values."""

    operator = labels.NOT_IN


class Exists:
    """The node has the label."""

    operator = labels.EXISTS


class DoesNotExist:
    """The node does not have the label."""

    operator = labels.ABSENT


Condition = In | NotIn | Exists | DoesNotExist


class NodeLabelSchedulingStrategy:
    """Run on a node whose labels meet all of ``hard``; among those, one that meets ``soft`` is preferred."""

    def __init__(self, hard: Mapping[str, Condition], *, soft: Mapping[str, Condition] | None = None) -> None:
        if not hard and not soft:
            raise ValueError("NodeLabelSchedulingStrategy needs a condition: hard or soft")
        self.hard = hard
        self.soft = soft or {}
        self.terms = _terms(self.hard, "hard")
        self.preferred = _terms(self.soft, "soft")


def _terms(conditions: Any, what: str) -> Selector:
    if not isinstance(conditions, Mapping):
        raise ValueError(f"{what} must be a dict of label to In, NotIn, Exists or DoesNotExist, got {conditions!r}")
    found: list[Term] = []
    for key, condition in conditions.items():
        if not isinstance(key, str):
            raise ValueError(f"{what}: the key of a label must be a string, got {key!r}")
        labels.check_key(key, what)
        if not isinstance(condition, (In, NotIn, Exists, DoesNotExist)):
            raise ValueError(f"{what}[{key!r}]={condition!r}: must be In(...), NotIn(...), Exists() or DoesNotExist()")
        found.append((key, condition.operator, tuple(getattr(condition, "values", ()))))
    return tuple(sorted(found))


_STRATEGIES = (PlacementGroupSchedulingStrategy, NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy)


def check(options: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for options of placement that contradict themselves or mean nothing."""
    strategy = options.get("scheduling_strategy")
    if isinstance(strategy, str):
        if strategy not in ("DEFAULT", "SPREAD"):
            raise ValueError(
                f'scheduling_strategy={strategy!r}: must be "DEFAULT", "SPREAD" or a strategy object '
                "(obsray.util.scheduling_strategies)"
            )
    elif strategy is not None and not isinstance(strategy, _STRATEGIES):
        raise TypeError(
            f"scheduling_strategy={strategy!r}: must be a string or a strategy object "
            "(obsray.util.scheduling_strategies)"
        )
    group = options.get("placement_group", "default")
    index = options.get("placement_group_bundle_index")
    capture = options.get("placement_group_capture_child_tasks")
    if group != "default" and strategy is not None:
        raise ValueError("give placement_group inside scheduling_strategy, or leave scheduling_strategy out")
    if isinstance(group, str) and group != "default":
        raise TypeError(f"placement_group={group!r}: must be a PlacementGroup")
    _check_group(None if isinstance(group, str) else group, -1 if index is None else index, capture)
    selectors(options)
    accelerator = options.get("accelerator_type")
    if accelerator is not None and (not isinstance(accelerator, str) or not accelerator):
        raise TypeError(f"accelerator_type={accelerator!r}: must be a name, such as 'A100'")


def _check_group(group: Any, index: Any, capture: Any) -> None:
    if group is not None and not isinstance(group, PlacementGroup):
        raise TypeError(f"placement_group={group!r}: must be a PlacementGroup or None")
    if not isinstance(index, int) or isinstance(index, bool):
        raise TypeError(f"placement_group_bundle_index={index!r}: must be a whole number")
    if capture is not None and not isinstance(capture, bool):
        raise TypeError(f"placement_group_capture_child_tasks={capture!r}: must be True, False or None")
    if index < -1:
        raise ValueError(f"placement_group_bundle_index={index}: must be -1 (any bundle) or the index of a bundle")
    if index != -1 and (group is None or group.is_empty):
        raise ValueError(f"placement_group_bundle_index={index} without a placement group")
    if group is not None and not group.is_empty and index >= group.bundle_count:
        raise ValueError(f"placement_group_bundle_index={index}: the group has {group.bundle_count} bundles")


def selectors(options: Mapping[str, Any]) -> tuple[Selector, ...]:
    """What of a node's labels must hold: alternatives, in the order in which they are tried."""
    first, fallbacks = options.get("label_selector"), options.get("fallback_strategy")
    found = [labels.parse(first, "label_selector")] if first else []
    if first is not None and not isinstance(first, Mapping):
        raise TypeError(f"label_selector must be a dict of label to condition, got {type(first).__name__}")
    if fallbacks is None:
        return tuple(found)
    if not isinstance(fallbacks, list) or len(fallbacks) > FALLBACKS_MAX:
        raise TypeError(f"fallback_strategy={fallbacks!r}: must be a list of at most {FALLBACKS_MAX} dicts of options")
    for index, fallback in enumerate(fallbacks):
        what = f"fallback_strategy[{index}]"
        if not isinstance(fallback, Mapping) or set(fallback) != {"label_selector"}:
            raise ValueError(f"{what}={fallback!r}: must be a dict with label_selector and nothing else")
        found.append(labels.parse(fallback["label_selector"], f"{what}['label_selector']"))
    # Fallbacks to nothing would never be reached.
    return tuple(found) if first else ()


class Placed:
    """Where a task or actor may run: ``wire`` for the node (None: anywhere), ``inherited`` for the process it runs in,
    ``name`` for people."""

    __slots__ = ("inherited", "key", "name", "wire")

    def __init__(self) -> None:
        self.wire: dict[str, Any] | None = None
        self.inherited: dict[str, Any] | None = None
        self.name = ""
        self.key: tuple[Any, ...] = ()

    def add(self, text: str, **fields: Any) -> None:
        """One more condition."""
        self.wire = {**(self.wire or {}), **fields}
        self.name = f"{self.name} {text}"
        self.key = (*self.key, *sorted((name, repr(value)) for name, value in fields.items()))


def placed(session: Session, options: Mapping[str, Any], *needs: dict[str, int], what: str) -> Placed:
    """Where these options place something that needs each of ``needs``. Raises ValueError if it can never fit there."""
    found = Placed()
    strategy = options.get("scheduling_strategy")
    group, index, capture = _group_of(session, options, strategy)
    if group is not None:
        for need in needs:
            _check_fits(group, index, need, what)
        where = (
            f"in {short(group.id.binary())}" + ("" if index < 0 else f"[{index}]") + (" captured" if capture else "")
        )
        found.add(where, group=group.id.binary(), bundle=index)
        bundles = [{name: opts.fixed(name, amount) for name, amount in b.items()} for b in group.bundle_specs]
        found.inherited = {"group": group.id.binary(), "capture": capture, "bundles": bundles}
    elif strategy == "SPREAD":
        found.add("spread", spread=True)
    elif isinstance(strategy, NodeAffinitySchedulingStrategy) and strategy._spill_on_unavailable:
        here: Selector = ((labels.NODE_ID, labels.IN, (strategy.node_id,)),)
        found.add(f"on {strategy.node_id[:8]} if it has room", preferred=here)
    elif isinstance(strategy, NodeAffinitySchedulingStrategy):
        soft = "preferably " if strategy.soft else ""
        found.add(f"{soft}on {strategy.node_id[:8]}", node=bytes.fromhex(strategy.node_id), soft=strategy.soft)
    must = selectors(options)
    if isinstance(strategy, NodeLabelSchedulingStrategy):
        if strategy.preferred:
            found.add(f"preferably {labels.describe(strategy.preferred)}", preferred=strategy.preferred)
        if strategy.terms:
            must = tuple((*alternative, *strategy.terms) for alternative in must) or (strategy.terms,)
    if must:
        found.add("where " + " or ".join(labels.describe(one) for one in must), selectors=must)
    return found


def _group_of(session: Session, options: Mapping[str, Any], strategy: Any) -> tuple[PlacementGroup | None, int, bool]:
    """The group that these options mean here, the bundle, and whether children go there too."""
    running = session.running()
    captured = running is not None and bool(running.context.get("capture"))
    group, index, capture = options.get("placement_group", "default"), options.get("placement_group_bundle_index"), None
    if isinstance(strategy, PlacementGroupSchedulingStrategy):
        group, index = strategy.placement_group, strategy.placement_group_bundle_index
        capture = strategy.placement_group_capture_child_tasks
    elif strategy is not None:
        return None, -1, False
    else:
        capture = options.get("placement_group_capture_child_tasks")
        if isinstance(group, str):
            group = get_current_placement_group() if captured else None
    if group is None or group.is_empty:
        return None, -1, False
    return group, -1 if index is None else index, captured if capture is None else capture


def _check_fits(group: PlacementGroup, index: int, need: dict[str, int], what: str) -> None:
    bundles = group.bundle_specs
    for bundle in bundles if index < 0 else bundles[index : index + 1]:
        if all(amount <= opts.fixed(name, bundle.get(name, 0)) for name, amount in need.items()):
            return
    where = f"any bundle of its placement group: {bundles}" if index < 0 else f"bundle {index}: {bundles[index]}"
    raise ValueError(f"{what} needs {opts.describe(need)}, which does not fit into {where}")
