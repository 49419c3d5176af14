"""Placement groups: bundles of resources that are reserved together, or not at all.

A group is *at home* at the node of whoever made it (a detached one at the head). There it waits in the scheduler like
any other demand. When all its bundles fit (``arrange``), each is asked for at its node (``PrepareBundles``); once all
nodes hold theirs (PREPARED) they are told that work may run there (CREATED). If one refuses, cannot be reached or takes
too long, all give back what they hold and the group waits again: its *try* has failed. Nodes with bundles, and those
where somebody asks for the group, have a copy of it (``group_copies.py``).

A bundle's share is resources of its own (``pool``), out of which leases take. A removed group keeps a bundle's share
until the last worker in it is gone. When a node dies, the bundles that were there are arranged again, and work in the
others goes on.

Invariants: a bundle has a pool while it is open or tried on this node, or while a lease is in it; its pool's total is
its share of the node; a name leads to a group that is not REMOVED.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from obsray.core.node.arranging import Offer, arrange, offer_of
from obsray.core.node.bundles import (
    TEXT_CHARACTERS_MAX,
    Bundle,
    Group,
    describe_group,
    group_facts,
    holds,
    listed,
    read_group,
    shown_amounts,
    unknown_facts,
)
from obsray.core.node.gpu_shares import tell_bundle_holds, tell_bundle_lets_go
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.resources import Amounts, Resources
from obsray.core.node.step import ReportGroup, Step, require
from obsray.core.protocol.lifecycle import GroupState, advance
from obsray.core.protocol.messages import (
    BundlesPrepared,
    CommitGroup,
    GroupChanged,
    GroupDescribed,
    PrepareBundles,
    ReleaseBundles,
    Reply,
)
from obsray.ids import short
from obsray.telemetry.events import Reason

GROUPS_MAX = 100_000
#: The removed are remembered, so that those who ask late learn what became of them.
REMOVED_REMEMBERED_MAX = 10_000
#: Nodes answer at once; one that does not is as good as one that refuses.
#: A group that has waited long lets full nodes take so long to make room; what others hold for it is idle meanwhile.
PATIENCE_SECONDS = 10.0
#: If that was in vain, the pause before the next time grows up to this.
PATIENT_PAUSE_SECONDS_MAX = 120.0
PREPARE_SECONDS_MAX = 5.0
#: After a try that failed; doubles with each.
PAUSE_SECONDS_MIN = 0.05
PAUSE_SECONDS_MAX = 1.0
_U32 = 0xFFFFFFFF


class GroupTable:
    """The groups that are at home here, and copies of others. ``peers`` are the nodes that bundles can go to."""

    def __init__(
        self, node: bytes, node_labels: Mapping[str, str], resources: Resources, peers: PeerTable | None = None
    ) -> None:
        self.node = node
        self.labels = node_labels
        self.resources = resources
        self.peers = peers or PeerTable(node)
        self.groups: dict[bytes, Group] = {}
        self.names: dict[tuple[str, str], Group] = {}
        #: Groups at home here that look for a place (again), for the scheduler to let them wait.
        self.homeless: list[Group] = []
        self._trying: dict[bytes, Group] = {}
        self._removed: deque[bytes] = deque()
        self._shares = 0
        self._offered: list[Offer] | None = None
        self._nodes: dict[bytes, Amounts] = {}

    def at_home(self, group: Group) -> bool:
        """Whether it is arranged by this node."""
        return group.home == self.node

    # --- beginning ---------------------------------------------------------------------------------------

    def create(self, step: Step, client: bytes, request: int, spec: dict[str, Any]) -> Group | None:
        """Register a group; None if it is refused. Raises KeyError, TypeError or ValueError for a malformed spec."""
        group = read_group(spec, client, self.node)
        group.label = step.emit.intern(f"placement group {spec['strategy']}")
        group.asked_at = group.waiting_since = step.now
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
            len(group.bundles), group.detached, group.job & _U32, intern(listed(group)),
        )  # fmt: skip
        step.send(client, Reply(request, None))
        self.homeless.append(group)
        return group

    # --- what nodes offer --------------------------------------------------------------------------------

    def look_again(self) -> None:
        """What nodes have to spare may have changed."""
        self._offered = None

    def offers(self) -> list[Offer]:
        """The nodes that bundles can go to, this one first, with what they have to spare."""
        if self._offered is None:
            self._offered = [Offer(self.node, self.labels, self.resources)]
            self._offered += map(offer_of, self.peers.usable())
        return self._offered

    def nodes_changed(self) -> bool:
        """Whether there are other nodes, or others have more in all, than when this was asked last."""
        if not self.peers.peers and not self._nodes:
            return False
        nodes = {peer.id: peer.total for peer in self.peers.peers.values() if peer.alive and not peer.draining}
        changed = nodes != self._nodes
        self._nodes = nodes
        return changed

    def infeasible(self, group: Group) -> str:
        """Why the group could not be placed even if nothing else ran; empty if it could."""
        empty = [Offer(self.node, self.labels, self.resources.emptied())]
        empty += [offer_of(peer, empty=True) for peer in self.peers.living() if not peer.draining]
        found = arrange(group.lost, group.strategy, empty, group.taken, group.target)
        return found if isinstance(found, str) else ""

    def arranged(self, group: Group, need: Amounts, keep: Amounts | None = None) -> list[tuple[Bundle, Offer]] | str:
        """Where its bundles could go now, leaving ``keep`` of this node untouched, or which bundle lacks what.

        ``need`` is what they are in all. An empty text: they cannot, and it costs too much to say why at each look.
        """
        offers = self.offers()
        # Most that cannot are told from the sum alone.
        for name, amount in need.items():
            free = sum(max(0, offer.resources.free.get(name, 0)) for offer in offers)
            if free - (keep.get(name, 0) if keep else 0) < amount:
                return ""
        if keep and len(offers) > 1:
            left = offers[0].resources.trial()
            left.free = {name: amount - keep.get(name, 0) for name, amount in left.free.items()}
            offers = [offers[0]._replace(resources=left), *offers[1:]]
        lost = group.lost
        found = arrange(lost, group.strategy, offers, group.taken, group.target)
        if isinstance(found, str):
            return found
        return [(bundle, offers[number]) for bundle, number in zip(lost, found, strict=True)]

    def arranged_patiently(self, group: Group, keep: Amounts | None) -> list[tuple[Bundle, Offer]]:
        """Where its bundles could go once it has had its turn at other nodes; here only what is free now counts."""
        here = self.resources.trial()
        here.free = {name: amount - (keep.get(name, 0) if keep else 0) for name, amount in here.free.items()}
        offers = [Offer(self.node, self.labels, here)]
        offers += [offer_of(peer, empty=True) for peer in self.peers.usable() if peer.id not in group.avoided]
        lost = group.lost
        found = arrange(lost, group.strategy, offers, group.taken, group.target)
        if isinstance(found, str):
            group.avoided.clear()
            return []
        return [(bundle, offers[number]) for bundle, number in zip(lost, found, strict=True)]

    def lacks(self, group: Group) -> str:
        """Which bundle lacks what now; empty if none does."""
        found = arrange(group.lost, group.strategy, self.offers(), group.taken, group.target)
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

    def place(self, step: Step, group: Group, found: list[tuple[Bundle, Offer]], patient: bool = False) -> None:
        """Have all these bundles held where they shall be, then open them. ``patient``: nodes may take their time."""
        group.attempts += 1
        group.trying, group.promised, group.patient = True, {}, patient
        group.until = step.now + (PATIENCE_SECONDS if patient else PREPARE_SECONDS_MAX)
        self._trying[group.id] = group
        away: dict[bytes, list[Bundle]] = {}
        for bundle, offer in found:
            bundle.node, bundle.attempt = offer.node, group.attempts
            if offer.node == self.node:
                self.hold(step, group, bundle)
            else:
                away.setdefault(offer.node, []).append(bundle)
        group.asked = set(away)
        for node, bundles in away.items():
            self._promise(group, self.peers.peers[node], bundles)
            indices = [bundle.index for bundle in bundles]
            # It will have a copy, whatever becomes of this try, and must hear of the group's end.
            group.followers[node] = None
            step.tell_node(node, PrepareBundles(group_facts(group), group.attempts, indices, patient))
        self.look_again()
        if group.asked:
            step.wake(group.until)
        else:
            self._open(step, group)

    def hold(self, step: Step, group: Group, bundle: Bundle) -> None:
        """Take a bundle's share of this node; it must fit."""
        self._shares -= 1
        bundle.share, bundle.node = self._shares, self.node
        self.resources.take(bundle.share, bundle.amounts)
        share = self.resources.shares[bundle.share]
        bundle.pool = Resources(share.amounts, devices=share.devices)
        if share.devices:
            tell_bundle_holds(step, self.resources, group, bundle)

    def let_go(self, step: Step, group: Group, bundle: Bundle) -> None:
        """Give the share of a bundle back that nothing has run in."""
        self._give(step, group, bundle)
        bundle.pool, bundle.node, bundle.attempt = None, b"", 0

    def _give(self, step: Step, group: Group, bundle: Bundle) -> None:
        tell_bundle_lets_go(step, self.resources, group, bundle)
        self.resources.give(bundle.share)

    def _promise(self, group: Group, peer: Peer, bundles: list[Bundle]) -> None:
        """Count on less of what a node has to spare until it reports again."""
        amounts: Amounts = {}
        for bundle in bundles:
            for name, amount in bundle.amounts.items():
                amounts[name] = amounts.get(name, 0) + amount
        for name, amount in amounts.items():
            left = max(0, peer.spare.get(name, 0) - amount)
            amounts[name] = peer.spare.get(name, 0) - left
            peer.spare[name] = left
        group.promised[peer.id] = peer.report, amounts

    def prepared(self, step: Step, peer: Peer, message: BundlesPrepared) -> None:
        """A node holds its bundles, or refuses."""
        group = self.groups.get(message.group)
        stale = group is None or not group.trying or group.attempts != message.attempt or peer.id not in group.asked
        if stale or group is None:
            if not message.error:
                over = group is None or group.state is GroupState.REMOVED
                step.tell_node(peer.id, ReleaseBundles(message.group, message.attempt, over, "its try was over"))
            return
        if message.error:
            self._fail(step, group, peer.id, f"node {peer.id.hex()[:8]} refused: {message.error}")
            return
        group.asked.discard(peer.id)
        if not group.asked:
            self._open(step, group)

    def _open(self, step: Step, group: Group) -> None:
        """All nodes hold their bundles: work may run there."""
        found = group.lost
        self._end_try(group)
        group.pending_seconds = step.now - group.waiting_since
        group.failures, group.not_before = 0, 0.0
        group.patient_failures, group.patient_not_before, group.patient = 0, 0.0, False
        group.avoided.clear()
        for bundle in found:
            bundle.open = True
            amounts = step.emit.intern(shown_amounts(bundle.amounts)[:TEXT_CHARACTERS_MAX])
            step.emit.bundle_placed(step.time_ns, group.id, bundle.index, bundle.node, amounts)
        advance(group, GroupState.PREPARED)
        step.emit.group_prepared(step.time_ns, group.id, group.attempts, group.pending_seconds)
        advance(group, GroupState.CREATED)
        group.reason, group.deficit, group.told = Reason.NONE, "", ""
        step.emit.group_created(step.time_ns, group.id, group.pending_seconds, group.attempts)
        self._report(step, group)
        facts = group_facts(group)
        nodes = group.taken
        for node in nodes:
            if node != self.node:
                step.tell_node(node, CommitGroup(facts))
                group.followers[node] = None
        self._tell_followers(step, group, but=nodes)
        self.tell_watchers(step, group)

    def _report(self, step: Step, group: Group) -> None:
        nodes = [bundle.node if bundle.open else b"" for bundle in group.bundles]
        step.effects.append(ReportGroup(group.id, group.state, nodes, group.ended))

    def _end_try(self, group: Group) -> None:
        group.trying = False
        group.asked.clear()
        self._trying.pop(group.id, None)

    def _fail(self, step: Step, group: Group, node: bytes, why: str) -> None:
        """The try is over: what is held for it is given back everywhere, and the group waits again."""
        self._give_back(step, group, why)
        for peer_id, (report, amounts) in group.promised.items():
            peer = self.peers.peers[peer_id]
            if peer.alive and peer.report == report:
                for name, amount in amounts.items():
                    peer.spare[name] = peer.spare.get(name, 0) + amount
        if group.patient:
            group.patient = False
            group.avoided.add(node)
            wait = min(PATIENT_PAUSE_SECONDS_MAX, PATIENCE_SECONDS * 2 ** min(group.patient_failures, 10))
            group.patient_failures += 1
            group.patient_not_before = step.now + wait
        pause = min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2 ** min(group.failures, 10))
        group.failures += 1
        group.not_before = step.now + pause
        step.emit.group_attempt_failed(
            step.time_ns, group.id, group.attempts, node, step.emit.intern(why[:TEXT_CHARACTERS_MAX])
        )
        group.reason, group.deficit = Reason.NO_CAPACITY, why
        self.homeless.append(group)
        self.look_again()
        step.wake(group.not_before)

    def _give_back(self, step: Step, group: Group, why: str) -> None:
        nodes = {bundle.node for bundle in group.lost if bundle.node} - {self.node}
        attempt = group.attempts
        self._end_try(group)
        for bundle in group.lost:
            if bundle.pool is not None:
                self.let_go(step, group, bundle)
            bundle.node = b""
        for node in sorted(nodes):
            step.tell_node(node, ReleaseBundles(group.id, attempt, False, why))

    # --- nodes come and go -------------------------------------------------------------------------------

    def tick(self, step: Step) -> None:
        """Tries that take too long are over."""
        for group in list(self._trying.values()):
            if group.until <= step.now:
                late = min(group.asked)
                within = PATIENCE_SECONDS if group.patient else PREPARE_SECONDS_MAX
                what = "had no room" if group.patient else "did not answer"
                self._fail(step, group, late, f"node {late.hex()[:8]} {what} in {within:g} s")
            else:
                step.wake(group.until)

    def unlinked(self, step: Step, peer: Peer) -> None:
        """A node cannot be reached now: what was to be held there may be, or not."""
        for group in list(self._trying.values()):
            if any(bundle.node == peer.id for bundle in group.lost):
                self._fail(step, group, peer.id, f"the link to node {peer.id.hex()[:8]} broke")

    def node_died(self, step: Step, peer: Peer) -> None:
        """The bundles that were there look for another node."""
        for group in list(self.groups.values()):
            group.followers.pop(peer.id, None)
            if not self.at_home(group) or group.state is GroupState.REMOVED:
                continue
            lost = [bundle for bundle in group.bundles if bundle.node == peer.id]
            if group.trying and lost:
                self._fail(step, group, peer.id, f"node {peer.id.hex()[:8]} died")
            opened = [bundle for bundle in lost if bundle.open]
            if not opened:
                continue
            for bundle in opened:
                bundle.open, bundle.node = False, b""
            if group.state is GroupState.CREATED:
                advance(group, GroupState.RESCHEDULING)
                group.waiting_since = step.now
            # What it needs has changed also if it waits already.
            self.homeless.append(group)
            step.emit.group_rescheduling(step.time_ns, group.id, peer.id, len(opened))
            self._report(step, group)
            self._tell_followers(step, group)

    def follow(self, step: Step, peer: Peer, identifier: bytes) -> None:
        """A node wants to know what a group is, now and whenever that changes."""
        group = self.groups.get(identifier)
        if group is None or not self.at_home(group):
            gone = f"its home knows no placement group {short(identifier)} (it was removed long ago, or never was)"
            step.tell_node(peer.id, GroupDescribed(unknown_facts(identifier, gone)))
            return
        if group.state is not GroupState.REMOVED:
            group.followers[peer.id] = None
        step.tell_node(peer.id, GroupDescribed(group_facts(group)))

    def _tell_followers(self, step: Step, group: Group, but: Mapping[bytes, int] | None = None) -> None:
        facts = group_facts(group) if group.followers else {}
        for node in group.followers:
            if not but or node not in but:
                step.tell_node(node, GroupDescribed(facts))

    def nodes_of(self, identifier: bytes, index: int, need: Amounts | None = None) -> list[bytes]:
        """The other living nodes whose bundles could serve work for bundle ``index`` (-1: any) that needs ``need``."""
        group = self.groups.get(identifier)
        if group is None or not group.placed:
            return []
        found: dict[bytes, None] = {}
        for bundle in group.chosen(index):
            if bundle.open and bundle.node != self.node and (need is None or holds(bundle, need)):
                found[bundle.node] = None
        return [node for node in found if node in self.peers.peers and self.peers.peers[node].alive]

    # --- the end -----------------------------------------------------------------------------------------

    def remove(self, step: Step, group: Group, why: str, reason: Reason, workers: int) -> None:
        """The group ends. Bundles are released one by one, when nothing is left in them."""
        if self.at_home(group):
            self._end_everywhere(step, group, why)
            step.emit.group_removed(
                step.time_ns, group.id, reason, workers, step.now - group.asked_at, step.emit.intern(why)
            )
        if self.names.get((group.namespace, group.name)) is group:
            del self.names[group.namespace, group.name]
        advance(group, GroupState.REMOVED)
        group.ended, group.reason, group.deficit = why, reason, ""
        if self.at_home(group):
            self._report(step, group)
        self._tell_followers(step, group)
        group.followers.clear()
        self.tell_watchers(step, group)
        for bundle in group.bundles:
            if bundle.pool is not None and not bundle.open:
                self.let_go(step, group, bundle)
            self.release(step, group, bundle)
        self._removed.append(group.id)
        while len(self._removed) > REMOVED_REMEMBERED_MAX:
            oldest = self.groups[self._removed[0]]
            if any(bundle.pool is not None for bundle in oldest.bundles):
                break
            del self.groups[self._removed.popleft()]

    def _end_everywhere(self, step: Step, group: Group, why: str) -> None:
        if group.trying:
            self._give_back(step, group, why)
        self.homeless = [each for each in self.homeless if each is not group]
        for node in group.taken:
            if node != self.node:
                step.tell_node(node, ReleaseBundles(group.id, group.attempts, True, why))
                group.followers.pop(node, None)

    def release(self, step: Step, group: Group, bundle: Bundle) -> None:
        """Give a removed group's share back if nothing is left in it."""
        pool = bundle.pool
        if group.state is GroupState.REMOVED and pool is not None and not pool.shares:
            bundle.pool = None
            self._give(step, group, bundle)
            self.look_again()
            step.emit.bundle_released(step.time_ns, group.id, bundle.index, bundle.node)

    def client_gone(self, client: bytes) -> None:
        """It watches nothing any more."""
        for group in self.groups.values():
            group.watchers.pop(client, None)

    def of_job(self, job: int) -> list[Group]:
        """The groups at home here that end with a job."""
        return [
            group
            for group in self.groups.values()
            if group.job == job and not group.detached and group.state is not GroupState.REMOVED and self.at_home(group)
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

    def tell_watchers(self, step: Step, group: Group) -> None:
        """Those who wait for the group hear that it is there, or gone."""
        watchers, group.watchers = group.watchers, {}
        for client in watchers:
            step.send(client, GroupChanged(group.id, group.state, group.ended))

    def find(self, name: str, namespace: str) -> dict[str, Any] | None:
        """The group of that name that has not been removed."""
        group = self.names.get((namespace, name))
        return None if group is None else describe_group(group)

    def described(self, identifier: bytes | None) -> list[dict[str, Any]]:
        """One group, or all that are at home here and remembered."""
        if identifier is None:
            return [describe_group(group) for group in self.groups.values() if self.at_home(group)]
        group = self.groups.get(identifier)
        return [] if group is None else [describe_group(group)]

    def check_invariants(self) -> None:
        for group in self.groups.values():
            ended = group.state is GroupState.REMOVED
            require(group.trying == (group.id in self._trying), f"{group.id.hex()} is tried and is not")
            require(bool(group.asked) == group.trying, f"{group.id.hex()} waits for nobody's answer")
            for bundle in group.bundles:
                self._check_bundle(group, bundle, ended)
            complete = all(bundle.open for bundle in group.bundles)
            require(complete or group.state is not GroupState.CREATED, f"{group.id.hex()} is not all there")
        for (namespace, name), group in self.names.items():
            require((group.namespace, group.name) == (namespace, name), "a name that leads elsewhere")
            require(group.state is not GroupState.REMOVED, f"the name {name} leads to a removed group")

    def _check_bundle(self, group: Group, bundle: Bundle, ended: bool) -> None:
        pool, here = bundle.pool, bundle.node == self.node
        what = f"bundle {bundle.index} of {group.id.hex()}"
        require(not bundle.open or bool(bundle.node), f"{what} is open nowhere")
        require(ended or (pool is not None) == here, f"{what} has no share where it is, or one where it is not")
        if pool is None:
            return
        require(not ended or bool(pool.shares), f"{what} is empty and its group gone")
        require(bundle.open or not pool.shares, f"work in {what}, which is not open")
        require(bundle.open or group.trying or not self.at_home(group), f"{what} is held for nothing")
        pool.check_invariants()
        share = self.resources.shares[bundle.share]
        require(share.amounts == pool.whole() and not share.lent, f"{what} is not what its node gave it")
        require(share.devices == pool.capacity, f"the devices of {what} are not those its node gave it")
