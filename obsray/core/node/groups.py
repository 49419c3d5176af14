"""Placement groups: bundles of resources that are reserved together, or not at all.

A group waits in the scheduler like any other demand. When all its bundles fit (``arrange``), each takes its share of a
node (PREPARED), and once all have theirs work may run there (CREATED). A bundle's share is resources of its own
(``pool``), out of which leases take. A removed group keeps a bundle's share until the last worker in it is gone.

Invariants: a bundle has a pool while its group is PREPARED or CREATED, or while a lease is in it; its pool's total is
its share of the node; a name leads to a group that is not REMOVED.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from obsray.core.node.resources import Amounts, Resources, amounts_of
from obsray.core.node.step import InvariantViolated, Step, require
from obsray.core.protocol import labels
from obsray.core.protocol.labels import Selector
from obsray.core.protocol.lifecycle import GroupState, advance
from obsray.core.protocol.messages import GROUP_STRATEGIES, GroupChanged, Reply
from obsray.ids import TASK_ID_BYTES, short
from obsray.telemetry.events import Reason

BUNDLES_MAX = 10_000
GROUPS_MAX = 100_000
#: The removed are remembered, so that those who ask late learn what became of them.
REMOVED_REMEMBERED_MAX = 10_000
TEXT_CHARACTERS_MAX = 500
_U32 = 0xFFFFFFFF


class Offer(NamedTuple):
    """A node that bundles could go to."""

    node: bytes
    labels: Mapping[str, str]
    resources: Resources


@dataclass(slots=True, eq=False)
class Bundle:
    """``share`` is the key of its share of the node's resources, ``pool`` what work in it takes from."""

    index: int
    amounts: Amounts
    selector: Selector
    node: bytes = b""
    share: int = 0
    pool: Resources | None = None


@dataclass(slots=True, eq=False)
class Group:
    """One group. ``reason`` and ``deficit`` say why it waits, ``ended`` why it was removed.

    ``told`` is the deficit that was recorded last.
    """

    id: bytes
    owner: bytes
    job: int
    name: str
    namespace: str
    strategy: str
    bundles: list[Bundle]
    detached: bool
    target: bytes
    label: int
    asked_at: float
    asked_ns: int
    state: GroupState = GroupState.PENDING
    attempts: int = 0
    pending_seconds: float = 0.0
    reason: Reason = Reason.NONE
    deficit: str = ""
    told: str = ""
    ended: str = ""
    watchers: dict[bytes, None] = field(default_factory=dict)

    @property
    def need(self) -> Amounts:
        """What all bundles are in sum."""
        found: Amounts = {}
        for bundle in self.bundles:
            for name, amount in bundle.amounts.items():
                found[name] = found.get(name, 0) + amount
        return found

    def pools(self, index: int) -> list[Resources]:
        """What work for bundle ``index`` (-1: any) may take from."""
        chosen = self.bundles if index < 0 else self.bundles[index : index + 1]
        return [bundle.pool for bundle in chosen if bundle.pool is not None]

    def refusal(self, index: int, need: Amounts) -> str:
        """Why ``need`` can never be met by bundle ``index`` (-1: any); empty if it can."""
        if index >= len(self.bundles):
            return f"the group has no bundle {index}, only {len(self.bundles)}"
        chosen = self.bundles if index < 0 else [self.bundles[index]]
        for bundle in chosen:
            if all(amount <= bundle.amounts.get(name, 0) for name, amount in need.items()):
                return ""
        where = "no bundle" if index < 0 else f"bundle {index} never"
        return f"{where} of its placement group has room for it"


def arrange(bundles: Sequence[Bundle], strategy: str, offers: Sequence[Offer]) -> list[int] | str:
    """The offer that each bundle goes to, or which bundle lacks what.

    PACK fills nodes that have bundles already before it takes another, SPREAD takes others first; STRICT_PACK uses one
    node, STRICT_SPREAD one for each bundle.
    """
    if strategy == "STRICT_SPREAD" and len(bundles) > len(offers):
        there = f"there is {len(offers)}" if len(offers) == 1 else f"there are {len(offers)}"
        return f"STRICT_SPREAD needs {len(bundles)} nodes, one for each bundle, and {there}"
    if strategy != "STRICT_PACK" or len(offers) == 1:
        return _arranged(bundles, strategy, offers, range(len(offers)))
    lack: list[int] | str = "there is no node"
    for number in range(len(offers)):
        lack = _arranged(bundles, strategy, offers, [number])
        if not isinstance(lack, str):
            break
    return lack


def _arranged(
    bundles: Sequence[Bundle], strategy: str, offers: Sequence[Offer], usable: Sequence[int]
) -> list[int] | str:
    left = [offer.resources.trial() for offer in offers]
    used = [0] * len(offers)
    found: list[int] = []
    spread = strategy in ("SPREAD", "STRICT_SPREAD")
    for bundle in bundles:
        order = sorted(usable, key=(lambda n: (used[n], n)) if spread else (lambda n: (-used[n], n)))
        lacks = []
        for number in order:
            if strategy == "STRICT_SPREAD" and used[number]:
                continue
            unlabelled = labels.unmet(bundle.selector, offers[number].labels)
            if unlabelled:
                lacks.append(unlabelled)
            elif not left[number].fits(bundle.amounts):
                lacks.append(left[number].explain(left[number].deficit(bundle.amounts)))
            else:
                left[number].take(len(found), bundle.amounts)
                used[number] += 1
                found.append(number)
                break
        else:
            before = f", once bundle{'s 0 to' if bundle.index > 1 else ''} {bundle.index - 1} had room" if found else ""
            return f"bundle {bundle.index} lacks {lacks[0] if lacks else 'a node of its own'}{before}"
    return found


class GroupTable:
    """The groups of this node, whose labels and resources they are made of."""

    def __init__(self, node: bytes, node_labels: Mapping[str, str], resources: Resources) -> None:
        self.node = node
        self.labels = node_labels
        self.resources = resources
        self.groups: dict[bytes, Group] = {}
        self.names: dict[tuple[str, str], Group] = {}
        self._removed: deque[bytes] = deque()
        self._shares = 0

    # --- beginning ---------------------------------------------------------------------------------------

    def create(self, step: Step, client: bytes, request: int, spec: dict[str, Any]) -> Group | None:
        """Register a group; None if it is refused. Raises KeyError, TypeError or ValueError for a malformed spec."""
        group = self._read(step, client, spec)
        if group.id in self.groups:
            step.send(client, Reply(request, None, "a group with this id exists", "duplicate"))
            return None
        if len(self.groups) - len(self._removed) >= GROUPS_MAX:
            step.send(client, Reply(request, None, f"there are {GROUPS_MAX} groups; remove some", "too_many"))
            return None
        key = (group.namespace, group.name)
        if group.name and key in self.names:
            text = f"a placement group called {group.name!r} exists in namespace {group.namespace!r}"
            step.send(client, Reply(request, None, text, "name_taken"))
            return None
        self.groups[group.id] = group
        if group.name:
            self.names[key] = group
        intern = step.emit.intern
        step.emit.group_requested(
            step.time_ns, group.id, client, intern(group.name), intern(group.namespace), intern(group.strategy),
            len(group.bundles), group.detached, group.job & _U32, intern(_listed(group)),
        )  # fmt: skip
        step.send(client, Reply(request, None))
        return group

    def _read(self, step: Step, client: bytes, spec: dict[str, Any]) -> Group:
        identifier, target, job = spec["group"], spec["target"], spec["job"]
        if not isinstance(identifier, bytes) or len(identifier) != TASK_ID_BYTES or not isinstance(target, bytes):
            raise ValueError("an id of the wrong size")
        if spec["strategy"] not in GROUP_STRATEGIES or not isinstance(job, int) or job < 0:
            raise ValueError("not a strategy, or not a job")
        amounts = [amounts_of(bundle) for bundle in spec["bundles"]]
        selectors = [labels.received(selector) for selector in spec["selectors"]] or [()] * len(amounts)
        if not 0 < len(amounts) <= BUNDLES_MAX or len(selectors) != len(amounts) or not all(amounts):
            raise ValueError("not bundles")
        bundles = [Bundle(index, amount, selectors[index]) for index, amount in enumerate(amounts)]
        name, namespace = str(spec["name"])[:TEXT_CHARACTERS_MAX], str(spec["namespace"])[:TEXT_CHARACTERS_MAX]
        label = step.emit.intern(f"placement group {spec['strategy']}")
        return Group(
            identifier, client, job, name, namespace, spec["strategy"], bundles, bool(spec["detached"]), target,
            label, step.now, step.time_ns,
        )  # fmt: skip

    def offers(self) -> list[Offer]:
        """The nodes that bundles can go to."""
        return [Offer(self.node, self.labels, self.resources)]

    def infeasible(self, group: Group) -> str:
        """Why the group could not be placed even if nothing else ran; empty if it could."""
        empty = [Offer(offer.node, offer.labels, offer.resources.emptied()) for offer in self.offers()]
        found = arrange(group.bundles, group.strategy, empty)
        return found if isinstance(found, str) else ""

    def fits(self, group: Group, need: Amounts, keep: Amounts | None) -> bool:
        """Whether the group, which needs ``need`` in all, can be placed now, leaving ``keep`` untouched."""
        # Most that cannot are told from the sum alone.
        free = self.resources.free
        for name, amount in need.items():
            if free.get(name, 0) - (keep.get(name, 0) if keep else 0) < amount:
                return False
        return not self.lacks(group)

    def lacks(self, group: Group) -> str:
        """Which bundle lacks what now; empty if none does."""
        found = arrange(group.bundles, group.strategy, self.offers())
        return found if isinstance(found, str) else ""

    def waits(self, step: Step, group: Group, reason: Reason, deficit: str) -> None:
        """The group is not placed yet, and why; told at once if the reason is another, else at a slow pace."""
        changed = reason is not group.reason
        group.reason, group.deficit = reason, deficit
        if changed:
            self.tell_waiting(step, group)

    def tell_waiting(self, step: Step, group: Group) -> None:
        """Record why a group waits, unless that was said before."""
        if group.told != group.deficit:
            group.told = group.deficit
            text = step.emit.intern(group.deficit[:TEXT_CHARACTERS_MAX])
            step.emit.group_waiting(step.time_ns, group.id, group.reason, group.attempts, text)

    # --- two phases --------------------------------------------------------------------------------------

    def place(self, step: Step, group: Group) -> None:
        """Reserve all bundles, then open them. They must fit."""
        group.attempts += 1
        offers = self.offers()
        chosen = arrange(group.bundles, group.strategy, offers)
        if isinstance(chosen, str):
            raise InvariantViolated(f"{group.id.hex()} does not fit: {chosen}")
        group.pending_seconds = step.now - group.asked_at
        for bundle, number in zip(group.bundles, chosen, strict=True):
            self._prepare(step, group, bundle, offers[number])
        advance(group, GroupState.PREPARED)
        step.emit.group_prepared(step.time_ns, group.id, group.attempts, group.pending_seconds)
        # Here every node has answered; with others away this waits for their answers.
        self._commit(step, group)

    def _prepare(self, step: Step, group: Group, bundle: Bundle, offer: Offer) -> None:
        self._shares -= 1
        bundle.share, bundle.node = self._shares, offer.node
        offer.resources.take(bundle.share, bundle.amounts)
        share = offer.resources.shares[bundle.share]
        bundle.pool = Resources(share.amounts, devices=share.devices)
        amounts = step.emit.intern(_amounts(bundle.amounts)[:TEXT_CHARACTERS_MAX])
        step.emit.bundle_placed(step.time_ns, group.id, bundle.index, bundle.node, amounts)

    def _commit(self, step: Step, group: Group) -> None:
        advance(group, GroupState.CREATED)
        group.reason, group.deficit = Reason.NONE, ""
        step.emit.group_created(step.time_ns, group.id, group.pending_seconds, group.attempts)
        self._tell(step, group)

    # --- the end -----------------------------------------------------------------------------------------

    def remove(self, step: Step, group: Group, why: str, reason: Reason, workers: int) -> None:
        """The group ends. Bundles are released one by one, when nothing is left in them."""
        advance(group, GroupState.REMOVED)
        group.ended, group.reason, group.deficit = why, reason, ""
        if self.names.get((group.namespace, group.name)) is group:
            del self.names[group.namespace, group.name]
        step.emit.group_removed(
            step.time_ns, group.id, reason, workers, step.now - group.asked_at, step.emit.intern(why)
        )
        self._tell(step, group)
        for bundle in group.bundles:
            self.release(step, group, bundle)
        self._removed.append(group.id)
        while len(self._removed) > REMOVED_REMEMBERED_MAX:
            oldest = self.groups[self._removed[0]]
            if any(bundle.pool is not None for bundle in oldest.bundles):
                break
            del self.groups[self._removed.popleft()]

    def release(self, step: Step, group: Group, bundle: Bundle) -> None:
        """Give a removed group's share back if nothing is left in it."""
        pool = bundle.pool
        if group.state is GroupState.REMOVED and pool is not None and not pool.shares:
            bundle.pool = None
            self.resources.give(bundle.share)
            step.emit.bundle_released(step.time_ns, group.id, bundle.index, bundle.node)

    def client_gone(self, client: bytes) -> None:
        """It watches nothing any more."""
        for group in self.groups.values():
            group.watchers.pop(client, None)

    def of_job(self, job: int) -> list[Group]:
        """The groups that end with a job."""
        return [
            group
            for group in self.groups.values()
            if group.job == job and not group.detached and group.state is not GroupState.REMOVED
        ]

    # --- telling -----------------------------------------------------------------------------------------

    def watch(self, step: Step, client: bytes, identifier: bytes) -> None:
        """Tell the client when the group is there, or gone."""
        group = self.groups.get(identifier)
        if group is None:
            gone = f"this node knows no placement group {short(identifier)} (it was removed long ago, or never was)"
            step.send(client, GroupChanged(identifier, GroupState.REMOVED, gone))
        elif group.state in (GroupState.CREATED, GroupState.REMOVED):
            step.send(client, GroupChanged(identifier, group.state, group.ended))
        else:
            group.watchers[client] = None

    def _tell(self, step: Step, group: Group) -> None:
        watchers, group.watchers = group.watchers, {}
        for client in watchers:
            step.send(client, GroupChanged(group.id, group.state, group.ended))

    def find(self, name: str, namespace: str) -> dict[str, Any] | None:
        """The group of that name that has not been removed."""
        group = self.names.get((namespace, name))
        return None if group is None else describe_group(group)

    def described(self, identifier: bytes | None) -> list[dict[str, Any]]:
        """One group, or all that are remembered."""
        if identifier is None:
            return [describe_group(group) for group in self.groups.values()]
        group = self.groups.get(identifier)
        return [] if group is None else [describe_group(group)]

    def check_invariants(self) -> None:
        for group in self.groups.values():
            placed = group.state in (GroupState.PREPARED, GroupState.CREATED)
            for bundle in group.bundles:
                pool = bundle.pool
                require(pool is not None or not placed, f"bundle {bundle.index} of {group.id.hex()} has no share")
                if pool is None:
                    continue
                require(placed or bool(pool.shares), f"an empty bundle of {group.id.hex()}, which is gone")
                pool.check_invariants()
                share = self.resources.shares[bundle.share]
                require(share.amounts == pool.total and not share.lent, "a bundle is not what its node gave it")
                require(share.devices == pool.capacity, "a bundle's devices are not those its node gave it")
        for (namespace, name), group in self.names.items():
            require((group.namespace, group.name) == (namespace, name), "a name that leads elsewhere")
            require(group.state is not GroupState.REMOVED, f"the name {name} leads to a removed group")


def describe_group(group: Group) -> dict[str, Any]:
    """A group as ``Request`` answers it."""
    return {
        "group": group.id,
        "owner": group.owner,
        "job": group.job,
        "name": group.name,
        "namespace": group.namespace,
        "strategy": group.strategy,
        "state": group.state.name,
        "detached": group.detached,
        "bundles": [bundle.amounts for bundle in group.bundles],
        "nodes": [bundle.node for bundle in group.bundles],
        "attempts": group.attempts,
        "pending_seconds": group.pending_seconds,
        "reason": group.reason.name,
        "deficit": group.deficit or group.ended,
    }


def _amounts(amounts: Amounts) -> str:
    return " ".join(f"{name}:{amount}" for name, amount in sorted(amounts.items()))


def _listed(group: Group) -> str:
    """All bundles in fixed point, for records; cut between bundles if there are very many."""
    text = ""
    for bundle in group.bundles:
        one = _amounts(bundle.amounts)
        if len(text) + len(one) > 2000:
            return f"{text}|..."
        text += f"|{one}" if text else one
    return text
