"""Nodes as bins: those that are there, those that start, and those that could be started. Pure.

What goes where is decided first come, first served, over bins in one fixed order, so that the same things find the same
places once the nodes that were started for them are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from obsray.autoscaler.demand import Seen, shown
from obsray.autoscaler.settings import NodeType, Settings
from obsray.core.node.resources import CPU, GPU, MEMORY, UNIT, Amounts, Resources
from obsray.core.protocol import labels
from obsray.core.protocol.labels import ACCELERATOR, NODE_ID, Selector
from obsray.telemetry.events import ScalingVerdict

#: How many nodes may start at once, however few are running.
STARTING_AT_LEAST = 5
#: Of so many kinds of needs it is asked how well a type would be used.
LOOKED_AHEAD_MAX = 50


@dataclass(slots=True, eq=False)
class Bin:
    """A node. ``seen``: it is there; else it starts (``fresh``: it is started by this plan).

    ``left`` is what is free of it, ``whole`` what would be if nothing ran there. ``served`` counts what was put into
    it, ``kept`` whether a wish needs it.
    """

    node: bytes
    type: str
    labels: Mapping[str, str]
    left: Resources
    whole: Resources
    seen: Seen | None = None
    fresh: bool = False
    served: int = 0
    kept: bool = False
    members: int = 0
    keys: int = 0

    def fits(self, need: Amounts, selectors: Sequence[Selector]) -> bool:
        return self.left.fits(need) and allows(selectors, self.labels)

    def put(self, need: Amounts) -> None:
        self.keys += 1
        self.left.take(self.keys, need)
        self.served += 1


@dataclass(slots=True)
class Refusal:
    """Why no node is started for something, and which type it would have been."""

    verdict: ScalingVerdict
    why: str
    type: str = ""


@dataclass(slots=True)
class Fleet:
    """All bins, in order, and what may still be started.

    ``counts``: how many nodes of each type there are, those that leave included. ``barred``: types that are not started
    now, and why.
    """

    settings: Settings
    bins: list[Bin]
    counts: dict[str, int]
    barred: Mapping[str, str]
    running: int
    starting: int
    opened: list[Bin] = field(default_factory=list)

    # --- which type ------------------------------------------------------------------------------------------

    def choose(
        self, need: Amounts, selectors: Sequence[Selector], ahead: Sequence[tuple[Amounts, int]]
    ) -> tuple[NodeType, str] | Refusal:
        """The type to start for ``need``, and why it rather than others; or why none. ``ahead``: what else waits."""
        able, lacks = [], []
        for kind in self.settings.types.values():
            lack = lacking(kind, need, selectors)
            if lack:
                lacks.append(f"{kind.name}: {lack}")
            else:
                able.append(kind)
        if not able:
            return Refusal(ScalingVerdict.INFEASIBLE, f"no node type can hold it ({'; '.join(lacks)})")
        free = []
        full, barred = [], []
        total = sum(self.counts.values())
        for kind in able:
            if self.counts.get(kind.name, 0) >= kind.max_workers:
                full.append(f"there are {kind.max_workers} of {kind.name}, its max_workers")
            elif total >= self.settings.max_workers:
                full.append(f"there are {total} nodes, which is max_workers")
            elif kind.name in self.barred:
                barred.append(f"{kind.name}: {self.barred[kind.name]}")
            else:
                free.append(kind)
        if not free:
            verdict = ScalingVerdict.BACKING_OFF if barred else ScalingVerdict.AT_MAX
            return Refusal(verdict, "; ".join(dict.fromkeys(barred + full)), able[0].name)
        scored = sorted((_score(kind, need, ahead), kind) for kind in free)
        best = scored[0]
        others = [f"{kind.name} {_worse(score, best[0])}" for score, kind in scored[1:3]]
        return best[1], "; ".join([f"{best[1].name} rather than {each}" for each in others] + full[:1] + barred[:1])

    def may_start(self) -> bool:
        """Whether another node may start now: not too many do so at once."""
        most = max(STARTING_AT_LEAST, int(self.settings.upscaling_speed * self.running))
        return self.starting < most

    def open(self, kind: NodeType) -> Bin:
        """A node of this type is started."""
        new = fresh_bin(kind)
        self.bins.append(new)
        self.opened.append(new)
        self.counts[kind.name] = self.counts.get(kind.name, 0) + 1
        self.starting += 1
        return new


def lacking(kind: NodeType, need: Amounts, selectors: Sequence[Selector]) -> str:
    """Why a node of this type could never hold ``need``; empty if it could."""
    lack = Resources(kind.resources).infeasible(need).replace("node has", "it has")
    return lack or ("" if allows(selectors, kind.all_labels) else _unlabelled(selectors, kind.all_labels))


def allows(selectors: Sequence[Selector], has: Mapping[str, str]) -> bool:
    """Whether one of the selectors holds; none at all asks for nothing."""
    return not selectors or any(not labels.unmet(selector, has) for selector in selectors)


def _unlabelled(selectors: Sequence[Selector], has: Mapping[str, str]) -> str:
    return "; nor ".join(labels.unmet(selector, has) for selector in selectors)


_Score = tuple[int, int, float, int, int, str]


def _score(kind: NodeType, need: Amounts, ahead: Sequence[tuple[Amounts, int]]) -> _Score:
    """Least is best: priority, resources nobody asked for, how much stays unused, how much of what waits it takes."""
    spare = sum(1 for name in kind.resources if name not in (CPU, MEMORY) and name not in need)
    trial = Resources(kind.resources)
    taken = 0
    for amounts, units in ((need, 1), *ahead[:LOOKED_AHEAD_MAX]):
        for _ in range(units):
            if not amounts or not trial.fits(amounts):
                break
            taken += 1
            trial.take(taken, amounts)
    used = [1 - trial.free[name] / total for name, total in kind.resources.items() if total and name != MEMORY]
    fill = sum(used) / len(used) if used else 0.0
    return -kind.priority, spare, -round(fill, 3), -taken, kind.resources.get(CPU, 0), kind.name


def _worse(score: _Score, best: _Score) -> str:
    if score[0] != best[0]:
        return "(of lower priority)"
    if score[1] != best[1]:
        return "(which has what nobody asked for)"
    if score[2] != best[2]:
        return f"(which would be {-score[2]:.0%} used, this one {-best[2]:.0%})"
    return "(which would do as well)"


# --- bins ------------------------------------------------------------------------------------------------------


def fresh_bin(kind: NodeType, node: bytes = b"") -> Bin:
    """A node of this type with nothing in it; ``node``: it was asked for before."""
    return Bin(
        node, kind.name, _labels_of(kind, node), Resources(kind.resources), Resources(kind.resources), fresh=not node
    )


def _labels_of(kind: NodeType, node: bytes) -> dict[str, str]:
    found = kind.all_labels
    kinds = [name.partition(":")[2] for name in kind.resources if name.startswith("accelerator_type:")]
    if len(kinds) == 1:
        found = {ACCELERATOR: kinds[0], **found}
    return {NODE_ID: node.hex(), **found} if node else found


def bin_of(seen: Seen, kind: str) -> Bin:
    """A node that is there."""
    free, whole = _resources(seen.total, seen.free), _resources(seen.total, seen.total)
    return Bin(seen.node, kind, seen.labels, free, whole, seen)


def _resources(total: Amounts, free: Amounts) -> Resources:
    """What is free of a node. Which of its GPUs are free only the node knows: as few of them as possible are shared."""
    count = total.get(GPU, 0) // UNIT
    found = Resources({**total, GPU: count * UNIT} if GPU in total else total)
    found.free = {name: min(amount, free.get(name, 0)) for name, amount in found.total.items()}
    whole, rest = divmod(found.free.get(GPU, 0), UNIT)
    found.devices = {number: UNIT if number < whole else rest if number == whole else 0 for number in range(count)}
    return found


def size_key(need: Amounts, selectors: Sequence[Selector]) -> tuple[object, ...]:
    """What is hard to place comes first: labels, GPUs, other special resources, then the large."""
    special = sum(1 for name in need if name not in (CPU, GPU, MEMORY))
    return (
        not selectors, -need.get(GPU, 0), -special, -need.get(CPU, 0), -need.get(MEMORY, 0), shown(need),
        repr(selectors),
    )  # fmt: skip
