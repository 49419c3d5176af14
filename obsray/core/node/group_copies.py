"""Machine: copies of placement groups that are at home at other nodes.

A node that has bundles of a group holds them for its home, and does what that says: holds, opens, gives back. A node
where somebody asks for a group asks its home what it is; until that is known, what is asked for in the group waits.
After a broken link a node asks again for all it has copies of, and gives back what its home does not know of any more.

Invariants: a copy's bundle has a share here only if its home asked for it and has not taken that back, as far as this
node has heard; a copy ends with its home.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obsray.core.node.bundles import TEXT_CHARACTERS_MAX, Bundle, Group, read_facts
from obsray.core.node.groups import GroupTable
from obsray.core.node.peers import Peer
from obsray.core.node.resources import Amounts
from obsray.core.node.step import Step
from obsray.core.protocol.lifecycle import GroupState, advance
from obsray.core.protocol.messages import BundlesPrepared, PrepareBundles, ReleaseBundles, WatchGroup
from obsray.ids import owner_of


@dataclass(slots=True)
class Turn:
    """Bundles of a group that shall be held here in one try of its home."""

    group: Group
    home: bytes
    attempt: int
    bundles: list[Bundle]

    @property
    def need(self) -> Amounts:
        """What they are in all."""
        found: Amounts = {}
        for bundle in self.bundles:
            for name, amount in bundle.amounts.items():
                found[name] = found.get(name, 0) + amount
        return found


class GroupCopies:
    """What this node knows and holds of groups at home elsewhere; the copies lie in ``table``, as all groups do."""

    def __init__(self, table: GroupTable) -> None:
        self.table = table
        #: Groups to ask the home of, as soon as something may be sent.
        self._to_ask: list[Group] = []

    # --- getting to know ---------------------------------------------------------------------------------

    def meet(self, identifier: bytes) -> Group | None:
        """The group, asked for at its home if this node has never heard of it; None if nobody can know it."""
        group = self.table.groups.get(identifier)
        if group is not None:
            return group
        peer = self.table.peers.home_of(identifier)
        if peer is None or not peer.alive:
            return None
        group = self._new(identifier, peer)
        self._to_ask.append(group)
        return group

    def ask(self, step: Step) -> None:
        """Have the homes asked for what ``meet`` has met."""
        while self._to_ask:
            group = self._to_ask.pop()
            step.tell_node(group.home, WatchGroup(group.id))

    def _new(self, identifier: bytes, peer: Peer) -> Group:
        group = Group(identifier, owner_of(identifier), 0, "", "", "PACK", [], False, b"", peer.id, known=False)
        group.deficit = f"node {peer.id.hex()[:8]} has not said yet what it is"
        self.table.groups[identifier] = group
        return group

    def watch(self, step: Step, client: bytes, identifier: bytes) -> None:
        """Tell the client when the group is there, or gone, wherever it is at home."""
        self.meet(identifier)
        self.ask(step)
        self.table.watch(step, client, identifier)

    # --- what its home says ------------------------------------------------------------------------------

    def _copy(self, peer: Peer, facts: dict[str, Any]) -> Group | None:
        """The copy of a group that its home describes; None if it is not at home there."""
        identifier = facts["group"]
        if self.table.peers.home_of(identifier) is not peer:
            return None
        group = self.table.groups.get(identifier) or self._new(identifier, peer)
        if group.state is not GroupState.REMOVED and (facts["bundles"] or not group.known):
            read_facts(group, facts)
        return group

    def prepare(self, step: Step, peer: Peer, message: PrepareBundles, refused: str) -> Turn | None:
        """Hold these bundles, all or none, and say which; none if the node takes no work (``refused``).

        Returns what is to wait for its turn here, if its home is patient. Raises ValueError and the like for a
        malformed message.
        """
        group = self._copy(peer, message.group)
        if group is None:
            return None
        if group.state is not GroupState.REMOVED:
            self._follow(step, group, message.group)
        turn = Turn(group, peer.id, message.attempt, [group.bundles[index] for index in message.bundles])
        error = refused or self.hold(step, turn)
        if error and message.patient and not refused and self._can_have_turn(turn):
            return turn
        if error:
            self.answer(step, turn, error)
        return None

    def _can_have_turn(self, turn: Turn) -> bool:
        ended = turn.group.state is GroupState.REMOVED or any(bundle.pool is not None for bundle in turn.bundles)
        return not ended and not self.table.resources.infeasible(turn.need)

    def hold(self, step: Step, turn: Turn) -> str:
        """Hold all bundles of a turn and say so to their home; else none. Returns what they lack."""
        held: list[Bundle] = []
        for bundle in turn.bundles:
            error = self._refusal(turn.group, bundle)
            if error:
                for each in held:
                    self.table.let_go(step, turn.group, each)
                return error
            self.table.hold(step, turn.group, bundle)
            bundle.attempt = turn.attempt
            held.append(bundle)
        self.answer(step, turn, "")
        return ""

    def answer(self, step: Step, turn: Turn, error: str) -> None:
        """Tell the home of a group whether its bundles are held here, or why not."""
        self.table.look_again()
        text = step.emit.intern(error[:TEXT_CHARACTERS_MAX])
        step.emit.bundles_prepared(
            step.time_ns, turn.group.id, turn.attempt, self.table.node, len(turn.bundles), text
        )  # fmt: skip
        step.tell_node(turn.home, BundlesPrepared(turn.group.id, turn.attempt, error))

    def _refusal(self, group: Group, bundle: Bundle) -> str:
        if group.state is GroupState.REMOVED:
            return f"the group has ended here: {group.ended}"
        if bundle.pool is not None:
            return f"bundle {bundle.index} is here already"
        resources = self.table.resources
        if not resources.fits(bundle.amounts):
            return f"bundle {bundle.index} lacks {resources.explain(resources.deficit(bundle.amounts))}"
        return ""

    def learn(self, step: Step, peer: Peer, facts: dict[str, Any]) -> tuple[Group | None, str]:
        """What a group is now, as its home says. Returns it if it is news here, and why it has ended ("" if not)."""
        group = self._copy(peer, facts)
        if group is None or group.state is GroupState.REMOVED:
            return None, ""
        if facts["state"] == GroupState.REMOVED:
            return group, str(facts["detail"]) or "its placement group was removed"
        self._follow(step, group, facts)
        if group.state is GroupState.CREATED:
            self.table.tell_watchers(step, group)
        return group, ""

    def _follow(self, step: Step, group: Group, facts: dict[str, Any]) -> None:
        for bundle, node in zip(group.bundles, facts["nodes"], strict=True):
            self._settle(step, group, bundle, node, facts["attempt"])
        self._move(group, GroupState(facts["state"]))

    def _settle(self, step: Step, group: Group, bundle: Bundle, node: bytes, attempt: int) -> None:
        """A bundle is open at ``node`` now, or (empty) nowhere; of tries only ``attempt`` is under way."""
        if node == self.table.node:
            bundle.open = bundle.pool is not None
            return
        if bundle.pool is not None:
            if bundle.open or bundle.attempt == attempt:
                return
            self.table.let_go(step, group, bundle)
            self.table.look_again()
        bundle.node, bundle.open = node, bool(node)

    def _move(self, group: Group, state: GroupState) -> None:
        if state is GroupState.CREATED and not all(bundle.open for bundle in group.bundles):
            # A bundle that this node should have is not here; its home will hear of that, or end.
            state = GroupState.RESCHEDULING
        if state is group.state or state is GroupState.PENDING:
            return
        if group.state is not GroupState.CREATED:
            advance(group, GroupState.PREPARED)
        advance(group, state)

    def release(self, step: Step, peer: Peer, message: ReleaseBundles) -> Group | None:
        """A try is over and what was held for it free. Returns the group if it is removed and has to end here."""
        group = self.table.groups.get(message.group)
        if group is None or group.home != peer.id or group.state is GroupState.REMOVED:
            return None
        if message.removed:
            return group
        for bundle in group.bundles:
            if bundle.pool is not None and not bundle.open and bundle.attempt == message.attempt:
                self.table.let_go(step, group, bundle)
        self.table.look_again()
        return None

    # --- nodes come and go -------------------------------------------------------------------------------

    def of(self, peer: Peer) -> list[Group]:
        """The copies of groups that are at home at a node and have not ended."""
        return [
            group
            for group in self.table.groups.values()
            if group.home == peer.id and group.state is not GroupState.REMOVED
        ]

    def linked(self, step: Step, peer: Peer) -> None:
        """A node can be reached (again): what was said meanwhile is asked for."""
        for group in self.of(peer):
            step.tell_node(peer.id, WatchGroup(group.id))

    def ended_with(self, peer: Peer) -> str:
        """Why copies end with their home."""
        why = f" ({peer.reason})" if peer.reason else ""
        return f"the node that kept its placement group ({peer.id.hex()[:8]}) died{why}"
