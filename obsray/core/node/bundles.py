"""Placement groups and their bundles: the nouns of ``groups.py``, and how nodes describe them to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from obsray.core.node.resources import Amounts, Resources, amounts_of
from obsray.core.protocol import labels
from obsray.core.protocol.labels import Selector
from obsray.core.protocol.lifecycle import GroupState
from obsray.core.protocol.messages import GROUP_STRATEGIES, PACK_BY_LABEL
from obsray.ids import TASK_ID_BYTES
from obsray.telemetry.events import Reason

BUNDLES_MAX = 10_000
TEXT_CHARACTERS_MAX = 500


@dataclass(slots=True, eq=False)
class Bundle:
    """``share`` is the key of its share of the node's resources, ``pool`` what work in it takes from.

    ``node`` is where it is or, while it is not ``open``, where it is tried; work runs in open ones only. ``attempt``
    is the try that gave it its place.
    """

    index: int
    amounts: Amounts
    selector: Selector
    node: bytes = b""
    share: int = 0
    pool: Resources | None = None
    open: bool = False
    attempt: int = 0
    held_at: float = 0.0


@dataclass(slots=True, eq=False)
class Group:
    """One group. ``reason`` and ``deficit`` say why it waits, ``ended`` why it was removed.

    ``told`` is the deficit that was recorded last. ``home`` is the node that arranges it; elsewhere this is a copy,
    whose ``bundles`` are known once ``known``. ``watchers`` are clients that wait for it, ``followers`` the nodes that
    are told what it is.
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
    home: bytes
    label: int = 0
    asked_at: float = 0.0
    state: GroupState = GroupState.PENDING
    known: bool = True
    attempts: int = 0
    pending_seconds: float = 0.0
    reason: Reason = Reason.NONE
    deficit: str = ""
    told: str = ""
    ended: str = ""
    watchers: dict[bytes, None] = field(default_factory=dict)
    followers: dict[bytes, None] = field(default_factory=dict)
    #: Since when it waits for a place: since it was asked for, or lost a node.
    waiting_since: float = 0.0
    #: The try that is under way: the nodes whose answers are missing, until when they may come.
    trying: bool = False
    asked: set[bytes] = field(default_factory=set)
    until: float = 0.0
    #: Node -> number of its report and what was promised to be used there since.
    promised: dict[bytes, tuple[int, Amounts]] = field(default_factory=dict)
    #: Tries in a row that failed, and when the next may be.
    failures: int = 0
    not_before: float = 0.0
    #: When it may ask full nodes for a turn again, how often that was in vain, and which of them cannot give one.
    patient_not_before: float = 0.0
    patient_failures: int = 0
    patient: bool = False
    avoided: set[bytes] = field(default_factory=set)

    @property
    def lost(self) -> list[Bundle]:
        """The bundles that have no place yet, or none any more."""
        return [bundle for bundle in self.bundles if not bundle.open]

    @property
    def need(self) -> Amounts:
        """What the bundles without a place are in sum."""
        found: Amounts = {}
        for bundle in self.bundles:
            if not bundle.open:
                for name, amount in bundle.amounts.items():
                    found[name] = found.get(name, 0) + amount
        return found

    @property
    def taken(self) -> dict[bytes, int]:
        """How many bundles each node has."""
        found: dict[bytes, int] = {}
        for bundle in self.bundles:
            if bundle.open:
                found[bundle.node] = found.get(bundle.node, 0) + 1
        return found

    @property
    def placed(self) -> bool:
        """Whether work may run in it: all of it is there, or what a node's death has left of it."""
        return self.state in (GroupState.CREATED, GroupState.RESCHEDULING)

    def chosen(self, index: int) -> list[Bundle]:
        """Bundle ``index``, or all of them (-1)."""
        return self.bundles if index < 0 else self.bundles[index : index + 1]

    def pools(self, index: int) -> list[Resources]:
        """What work for bundle ``index`` (-1: any) may take from on this node."""
        return [bundle.pool for bundle in self.chosen(index) if bundle.pool is not None and bundle.open]

    def refusal(self, index: int, need: Amounts) -> str:
        """Why ``need`` can never be met by bundle ``index`` (-1: any); empty if it can."""
        if not self.known:
            return ""
        if index >= len(self.bundles):
            return f"the group has no bundle {index}, only {len(self.bundles)}"
        for bundle in self.chosen(index):
            if holds(bundle, need):
                return ""
        where = "no bundle" if index < 0 else f"bundle {index} never"
        return f"{where} of its placement group has room for it"


def holds(bundle: Bundle, need: Amounts) -> bool:
    """Whether ``need`` could be met by a bundle with nothing in it."""
    return all(amount <= bundle.amounts.get(name, 0) for name, amount in need.items())


def read_group(spec: dict[str, Any], owner: bytes, home: bytes) -> Group:
    """The group that ``CreateGroup.spec`` asks for. Raises KeyError, TypeError or ValueError for a malformed one."""
    identifier, target, job = spec["group"], spec["target"], spec["job"]
    if not isinstance(identifier, bytes) or len(identifier) != TASK_ID_BYTES or not isinstance(target, bytes):
        raise ValueError("an id of the wrong size")
    if not _is_strategy(spec["strategy"]) or not isinstance(job, int) or job < 0:
        raise ValueError("not a strategy, or not a job")
    bundles = _read_bundles(spec["bundles"], spec["selectors"])
    if not bundles:
        raise ValueError("not bundles")
    name, namespace = str(spec["name"])[:TEXT_CHARACTERS_MAX], str(spec["namespace"])[:TEXT_CHARACTERS_MAX]
    return Group(
        identifier, owner, job, name, namespace, spec["strategy"], bundles, bool(spec["detached"]), target, home
    )


def _is_strategy(strategy: Any) -> bool:
    if isinstance(strategy, str) and strategy.startswith(PACK_BY_LABEL):
        labels.check_key(strategy[len(PACK_BY_LABEL) :], "strategy")
        return True
    return strategy in GROUP_STRATEGIES


def _read_bundles(bundles: Any, selectors: Any) -> list[Bundle]:
    amounts = [amounts_of(bundle) for bundle in bundles]
    wanted = [labels.received(selector) for selector in selectors] or [()] * len(amounts)
    if len(amounts) > BUNDLES_MAX or len(wanted) != len(amounts) or not all(amounts):
        raise ValueError("not bundles")
    return [Bundle(index, amount, wanted[index]) for index, amount in enumerate(amounts)]


def group_facts(group: Group) -> dict[str, Any]:
    """A group as its home describes it to other nodes (``GroupDescribed``), without the bundles that are tried."""
    return {
        "group": group.id,
        "owner": group.owner,
        "job": group.job,
        "name": group.name,
        "namespace": group.namespace,
        "strategy": group.strategy,
        "detached": group.detached,
        "state": int(group.state),
        "bundles": [bundle.amounts for bundle in group.bundles],
        "selectors": [bundle.selector for bundle in group.bundles],
        "nodes": [bundle.node if bundle.open else b"" for bundle in group.bundles],
        "attempt": group.attempts if group.trying else 0,
        "detail": group.ended or group.deficit,
    }


def unknown_facts(identifier: bytes, detail: str) -> dict[str, Any]:
    """What a home says of a group that it does not know (any more)."""
    return {
        "group": identifier, "owner": identifier[:8], "job": 0, "name": "", "namespace": "", "strategy": "PACK",
        "detached": False, "state": int(GroupState.REMOVED), "bundles": [], "selectors": [], "nodes": [], "attempt": 0,
        "detail": detail,
    }  # fmt: skip


def read_facts(group: Group, facts: dict[str, Any]) -> None:
    """Learn from its home what a group is, but for its state and where its bundles are.

    Raises KeyError, TypeError or ValueError for a malformed description.
    """
    group.deficit = str(facts["detail"])[:TEXT_CHARACTERS_MAX]
    if group.known:
        return
    group.bundles = _read_bundles(facts["bundles"], facts["selectors"])
    group.owner, group.job = bytes(facts["owner"]), int(facts["job"])
    group.name, group.namespace = str(facts["name"]), str(facts["namespace"])
    group.strategy, group.detached = str(facts["strategy"]), bool(facts["detached"])
    group.known = True


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
        "nodes": [bundle.node if bundle.open else b"" for bundle in group.bundles],
        "attempts": group.attempts,
        "pending_seconds": group.pending_seconds,
        "reason": group.reason.name,
        "deficit": group.deficit or group.ended,
    }


def shown_amounts(amounts: Amounts) -> str:
    """Amounts in fixed point, for records."""
    return " ".join(f"{name}:{amount}" for name, amount in sorted(amounts.items()))


def listed(group: Group) -> str:
    """All bundles in fixed point, for records; cut between bundles if there are very many."""
    text = ""
    for bundle in group.bundles:
        one = shown_amounts(bundle.amounts)
        if len(text) + len(one) > 2000:
            return f"{text}|..."
        text += f"|{one}" if text else one
    return text
