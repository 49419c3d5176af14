"""From what waits to which nodes are started and which leave: a pure function, with a reason for each decision.

Bins are filled in a fixed order: what programs wished for and ``min_workers`` first, then placement groups, then tasks
and actors, the hard to place before the easy. A node is started only for something that fits nowhere else. An idle node
leaves only if nothing was put into it, so what leaves is never started again for the same demand, and what was started
finds its place as soon as it is there: with the same demand a second plan is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from obsray.autoscaler.demand import Seen, View, Waiting, WaitingGroup, shown
from obsray.autoscaler.packing import Bin, Fleet, Refusal, allows, bin_of, fresh_bin, size_key
from obsray.autoscaler.settings import NodeType, Settings
from obsray.core.node.arranging import Offer, arrange
from obsray.core.node.bundles import Bundle
from obsray.core.node.resources import Amounts
from obsray.core.protocol import labels
from obsray.core.protocol.labels import Selector, Term
from obsray.core.protocol.messages import PACK_BY_LABEL
from obsray.telemetry.events import ScalingCause, ScalingVerdict

#: Most words about one decision.
REASONS_TOLD_MAX = 5


@dataclass(frozen=True, slots=True)
class Owned:
    """A node that this autoscaler has asked for: of which type, whether it is there, since when it is idle (seconds).

    Those that are asked to leave are ``leaving``.
    """

    node: bytes
    type: str
    running: bool = False
    idle_seconds: float = 0.0
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a node of ``type``. ``units``: how many tasks, actors, groups or bundles it is for."""

    type: str
    cause: ScalingCause
    units: int
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    """Have an idle node leave."""

    node: bytes
    idle_seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What becomes of ``units`` of something that waits."""

    demand: str
    units: int
    verdict: ScalingVerdict
    type: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done now, in order, and what is made of everything that waits."""

    launches: tuple[Launch, ...] = ()
    releases: tuple[Release, ...] = ()
    judgements: tuple[Judgement, ...] = ()


@dataclass(slots=True)
class _Purpose:
    """What a node of this plan is started for."""

    cause: ScalingCause
    choice: str
    units: int = 0
    whom: dict[str, int] = field(default_factory=dict)

    def add(self, text: str, units: int = 1) -> None:
        self.units += units
        self.whom[text] = self.whom.get(text, 0) + units

    def told(self) -> str:
        named = [f"{count} × {text}" if count > 1 else text for text, count in self.whom.items()]
        more = f" and {len(named) - REASONS_TOLD_MAX} other needs" if len(named) > REASONS_TOLD_MAX else ""
        return f"for {', '.join(named[:REASONS_TOLD_MAX])}{more}" + (f"; {self.choice}" if self.choice else "")


def plan(settings: Settings, view: View, owned: Sequence[Owned], barred: Mapping[str, str] | None = None) -> Plan:
    """Which nodes to start and which to let go.

    ``owned``: the nodes asked for and not gone, in the order in which they were asked for. ``barred``: types that are
    not started now, and why.
    """
    return _Planner(settings, view, owned, barred or {}).plan()


class _Planner:
    def __init__(self, settings: Settings, view: View, owned: Sequence[Owned], barred: Mapping[str, str]) -> None:
        self.settings, self.view = settings, view
        self.owned = {each.node: each for each in owned}
        self.purposes: dict[int, _Purpose] = {}
        self.judged: dict[tuple[str, ScalingVerdict, str, str], int] = {}
        seen = {each.node: each for each in view.nodes}
        usable = {node: each for node, each in seen.items() if not each.draining}
        # Strangers first, then ours in the order of their birth, whether they are there or start.
        bins = [bin_of(each, "") for node, each in sorted(usable.items()) if node not in self.owned]
        counts: dict[str, int] = {}
        running = starting = 0
        for each in owned:
            counts[each.type] = counts.get(each.type, 0) + 1
            kind = settings.types.get(each.type)
            if each.node in usable and not each.leaving:
                bins.append(bin_of(usable[each.node], each.type))
                running += 1
            elif not each.running and not each.leaving and each.node not in seen and kind is not None:
                bins.append(fresh_bin(kind, each.node))
                starting += 1
        self.fleet = Fleet(settings, bins, counts, barred, running, starting)

    def plan(self) -> Plan:
        self._keep_minimum()
        self._grant_wish()
        for group in sorted(self.view.groups, key=lambda group: group.group):
            self._place_group(group)
        demands = sorted(self.view.demands, key=lambda each: (*size_key(each.need, each.selectors), each.text))
        for number, demand in enumerate(demands):
            self._place_demand(demand, demands[number + 1 :])
        launches = []
        for opened in self.fleet.opened:
            purpose = self.purposes[id(opened)]
            launches.append(Launch(opened.type, purpose.cause, purpose.units, purpose.told()))
        judgements = [
            Judgement(text, units, verdict, kind, why) for (text, verdict, kind, why), units in self.judged.items()
        ]
        return Plan(tuple(launches), tuple(self._releases()), tuple(judgements))

    def _open(self, kind: NodeType, cause: ScalingCause, choice: str) -> Bin:
        opened = self.fleet.open(kind)
        self.purposes[id(opened)] = _Purpose(cause, choice)
        return opened

    def _judge(self, text: str, units: int, verdict: ScalingVerdict, kind: str, why: str) -> None:
        key = (text, verdict, kind, why)
        self.judged[key] = self.judged.get(key, 0) + units

    def _put(self, bin_: Bin, need: Amounts, text: str, units: int = 1) -> None:
        bin_.put(need)
        if bin_.fresh:
            self.purposes[id(bin_)].add(text, units)

    # --- what there is to be at least ------------------------------------------------------------------------

    def _keep_minimum(self) -> None:
        for kind in self.settings.types.values():
            there = sum(1 for each in self.fleet.bins if each.type == kind.name)
            while there < kind.min_workers and kind.name not in self.fleet.barred:
                if self.fleet.counts.get(kind.name, 0) >= kind.max_workers:
                    break
                if sum(self.fleet.counts.values()) >= self.settings.max_workers:
                    break
                there += 1
                opened = self._open(kind, ScalingCause.MIN_WORKERS, "")
                self.purposes[id(opened)].add(f"min_workers={kind.min_workers} of {kind.name}")

    def _grant_wish(self) -> None:
        """Room for all that was wished, as if nothing else ran."""
        wished = sorted(self.view.wished, key=lambda each: size_key(each[0], (each[1],) if each[1] else ()))
        trials = {id(each): each.whole.trial() for each in self.fleet.bins}
        for number, (need, selector) in enumerate(wished):
            selectors = (selector,) if selector else ()
            text = f"request_resources ({shown(need)}{' with ' + labels.describe(selector) if selector else ''})"
            found = next(
                (each for each in self.fleet.bins if trials[id(each)].fits(need) and allows(selectors, each.labels)),
                None,
            )
            if found is None:
                ahead = [(amounts, 1) for amounts, other in wished[number + 1 :] if other == selector]
                choice = self.fleet.choose(need, selectors, ahead)
                if isinstance(choice, Refusal):
                    self._judge(text, 1, choice.verdict, choice.type, choice.why)
                    continue
                found = self._open(choice[0], ScalingCause.WISH, choice[1])
                trials[id(found)] = found.whole.trial()
            trials[id(found)].take(number, need)
            found.kept = True
            if found.fresh:
                self.purposes[id(found)].add(text)
            if found.seen is None:
                self._judge(text, 1, ScalingVerdict.NODE_COMES, found.type, f"a node of type {found.type} starts")
            else:
                self._judge(text, 1, ScalingVerdict.ROOM, found.type, "there is room for it")

    # --- placement groups ------------------------------------------------------------------------------------

    def _place_group(self, group: WaitingGroup) -> None:
        """All bundles or none, first on nodes that are there as the scheduler would arrange them."""
        there = [each for each in self.fleet.bins if each.seen is not None]
        bundles = [Bundle(index, amounts, selector) for index, (amounts, selector) in enumerate(group.bundles)]
        offers = [Offer(each.node, each.labels, each.left) for each in there]
        found = arrange(bundles, group.strategy, offers, group.taken)
        if not isinstance(found, str):
            for bundle, number in zip(bundles, found, strict=True):
                self._put(there[number], bundle.amounts, group.text, 0)
            self._judge(group.text, 1, ScalingVerdict.ROOM, "", "there is room for it")
            return
        if group.strategy == "STRICT_PACK":
            placed = self._on_one_node(group)
        elif group.strategy.startswith(PACK_BY_LABEL):
            placed = self._in_one_domain(group, bundles)
        else:
            placed = self._one_by_one(group, bundles)
        if isinstance(placed, Refusal):
            why = placed.why
            if placed.verdict is ScalingVerdict.INFEASIBLE and self._fits_when_empty(group, bundles):
                why, placed.verdict = f"it waits for what runs where it fits; {why}", ScalingVerdict.ROOM
            self._judge(group.text, 1, placed.verdict, placed.type, why)
            return
        types = sorted({each.type for each in placed if each.seen is None})
        if types:
            told = f"nodes of type {', '.join(types)} start"
            self._judge(group.text, 1, ScalingVerdict.NODE_COMES, ", ".join(types), told)
        else:
            self._judge(group.text, 1, ScalingVerdict.ROOM, "", "there is room for it")

    def _fits_when_empty(self, group: WaitingGroup, bundles: Sequence[Bundle]) -> bool:
        whole = [Offer(each.node, each.labels, each.whole) for each in self.fleet.bins if each.seen is not None]
        return not isinstance(arrange(bundles, group.strategy, whole, group.taken), str)

    def _on_one_node(self, group: WaitingGroup) -> list[Bin] | Refusal:
        need: Amounts = {}
        selector: Selector = ()
        for amounts, asked in group.bundles:
            selector = tuple(sorted({*selector, *asked}))
            for name, amount in amounts.items():
                need[name] = need.get(name, 0) + amount
        selectors = (selector,) if selector else ()
        found = next((each for each in self.fleet.bins if each.seen is None and self._takes_all(each, group)), None)
        if found is None:
            choice = self.fleet.choose(need, selectors, ())
            if isinstance(choice, Refusal):
                return choice
            if not self._takes_all(fresh_bin(choice[0]), group):
                return Refusal(ScalingVerdict.INFEASIBLE, f"{choice[0].name}: its GPUs cannot be divided like that")
            if not self.fleet.may_start():
                return _too_fast(choice[0])
            found = self._open(choice[0], ScalingCause.GROUP, choice[1])
            self.purposes[id(found)].add(group.text)
        for amounts, _ in group.bundles:
            self._put(found, amounts, group.text, 0)
        return [found]

    def _takes_all(self, bin_: Bin, group: WaitingGroup) -> bool:
        trial = bin_.left.trial()
        for number, (amounts, selector) in enumerate(group.bundles):
            if not trial.fits(amounts) or labels.unmet(selector, bin_.labels):
                return False
            trial.take(number, amounts)
        return True

    def _in_one_domain(self, group: WaitingGroup, bundles: Sequence[Bundle]) -> list[Bin] | Refusal:
        """All on nodes with one value of a label: the first value, of nodes and of their types, with which it works."""
        key = group.strategy[len(PACK_BY_LABEL) :]
        bins = self.fleet.bins
        found = [each.labels for each in bins] + [kind.all_labels for kind in self.settings.types.values()]
        there = {each.labels.get(key, "") for each in bins if each.node in group.taken}
        values = there or {has[key] for has in found if key in has}
        refusal = Refusal(ScalingVerdict.INFEASIBLE, f"no node and no type of nodes has the label {key}")
        for value in sorted(values):
            term: Term = (key, labels.IN, (value,))
            placed = self._one_by_one(group, [replace(each, selector=(*each.selector, term)) for each in bundles])
            if not isinstance(placed, Refusal):
                return placed
            refusal = Refusal(placed.verdict, f"where {key} is {value}: {placed.why}", placed.type)
        return refusal

    def _one_by_one(self, group: WaitingGroup, bundles: Sequence[Bundle]) -> list[Bin] | Refusal:
        """Bundles in order of difficulty into the first bin with room; a new one if there is none. All or none."""
        strict = group.strategy == "STRICT_SPREAD"
        fleet = self.fleet
        before = replace(fleet, bins=list(fleet.bins), counts=dict(fleet.counts), opened=list(fleet.opened))
        trials = {id(each): each.left.trial() for each in fleet.bins}
        used = {id(each) for each in fleet.bins if each.node in group.taken}
        order = sorted(bundles, key=lambda each: (*size_key(each.amounts, _selectors(each)), each.index))
        placed: list[tuple[Bin, Bundle]] = []
        opened = False
        for number, bundle in enumerate(order):
            selectors = _selectors(bundle)
            found = next(
                (
                    each for each in fleet.bins
                    if not (strict and id(each) in used)
                    and trials[id(each)].fits(bundle.amounts) and allows(selectors, each.labels)
                ), None,
            )  # fmt: skip
            if found is None:
                ahead = [] if strict else [(each.amounts, 1) for each in order[number + 1 :]]
                choice = fleet.choose(bundle.amounts, selectors, ahead)
                if isinstance(choice, Refusal):
                    self._undo(before)
                    why = f"bundle {bundle.index} ({shown(bundle.amounts)}): {choice.why}"
                    return Refusal(choice.verdict, why, choice.type)
                if not opened and not fleet.may_start():
                    return _too_fast(choice[0])
                # The others may start with it: half of a group would be of no use.
                opened = True
                found = self._open(choice[0], ScalingCause.GROUP, choice[1])
                trials[id(found)] = found.left.trial()
            trials[id(found)].take(bundle.index, bundle.amounts)
            used.add(id(found))
            placed.append((found, bundle))
        for found, bundle in placed:
            found.put(bundle.amounts)
        for fresh in {id(found): found for found, _ in placed if found.fresh}.values():
            self.purposes[id(fresh)].add(group.text)
        return [found for found, _ in placed]

    def _undo(self, before: Fleet) -> None:
        for opened in self.fleet.opened[len(before.opened) :]:
            del self.purposes[id(opened)]
        self.fleet = before

    # --- tasks and actors ------------------------------------------------------------------------------------

    def _place_demand(self, demand: Waiting, ahead: Sequence[Waiting]) -> None:
        if demand.node:
            why = f"it may run on node {demand.node.hex()[:8]} only"
            self._judge(demand.text, demand.units, ScalingVerdict.ROOM, "", why)
            return
        left = demand.units
        for each in self.fleet.bins:
            if not left:
                return
            left -= self._fill(each, demand, left)
        while left:
            later = [(other.need, other.units) for other in ahead if other.selectors == demand.selectors]
            choice = self.fleet.choose(demand.need, demand.selectors, [(demand.need, left - 1), *later])
            if isinstance(choice, Refusal):
                self._refuse(demand, left, choice)
                return
            if not self.fleet.may_start():
                self._judge(demand.text, left, ScalingVerdict.SPEED, choice[0].name, _too_fast(choice[0]).why)
                return
            opened = self._open(choice[0], ScalingCause.DEMAND, choice[1])
            left -= self._fill(opened, demand, left)

    def _refuse(self, demand: Waiting, units: int, refusal: Refusal) -> None:
        """It gets no node: it waits for one that is busy, or is named as what nothing can hold."""
        verdict, why = refusal.verdict, refusal.why
        if verdict is ScalingVerdict.INFEASIBLE:
            for each in self.fleet.bins:
                able = each.seen is not None and not each.whole.infeasible(demand.need)
                if each.seen is not None and able and allows(demand.selectors, each.labels):
                    verdict, why = ScalingVerdict.ROOM, f"it waits for what runs on {each.seen.called}; {why}"
                    break
        self._judge(demand.text, units, verdict, refusal.type, why)

    def _fill(self, bin_: Bin, demand: Waiting, units: int) -> int:
        """As many units as there is room for; returns how many."""
        count = 0
        if not demand.need and allows(demand.selectors, bin_.labels):
            # It takes nothing, but it needs a node.
            count = units
            self._put(bin_, {}, demand.text, units)
        while count < units and bin_.fits(demand.need, demand.selectors):
            self._put(bin_, demand.need, demand.text)
            count += 1
        if count and bin_.seen is None:
            why = f"a node of type {bin_.type} starts"
            self._judge(demand.text, count, ScalingVerdict.NODE_COMES, bin_.type, why)
        elif count:
            self._judge(demand.text, count, ScalingVerdict.ROOM, bin_.type, "there is room for it")
        return count

    # --- who may leave ---------------------------------------------------------------------------------------

    def _releases(self) -> list[Release]:
        found = []
        there = {kind: sum(1 for each in self.fleet.bins if each.type == kind and each.seen) for kind in self._types()}
        mine = [each for each in self.fleet.bins if each.node in self.owned and each.seen is not None]
        mine.sort(key=lambda each: (-self.owned[each.node].idle_seconds, each.node))
        for each in mine:
            idle = self.owned[each.node].idle_seconds
            kind = self.settings.types.get(each.type)
            patience = 0.0 if kind is None else kind.idle_seconds
            assert each.seen is not None
            if each.served or each.kept or each.seen.busy or idle < patience or idle <= 0:
                continue
            if kind is not None and there[each.type] <= kind.min_workers:
                continue
            there[each.type] -= 1
            gone = "its type is not in the settings any more, and " if kind is None else ""
            found.append(Release(each.node, idle, f"{gone}nothing has run there for {idle:.1f} s"))
        return found

    def _types(self) -> set[str]:
        return {each.type for each in self.fleet.bins}


def _selectors(bundle: Bundle) -> tuple[Selector, ...]:
    return (bundle.selector,) if bundle.selector else ()


def _too_fast(kind: NodeType) -> Refusal:
    return Refusal(ScalingVerdict.SPEED, "as many nodes start already as upscaling_speed allows at once", kind.name)


__all__ = ["Judgement", "Launch", "Owned", "Plan", "Release", "Seen", "plan"]
