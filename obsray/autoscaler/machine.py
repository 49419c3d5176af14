"""Machine: one look after the other at the cluster, what is to be done, and what is told about it.

Keeps what a single look cannot show: which nodes were asked for and when, since when they are idle, which types did not
start lately. An *instance* is a node asked for; its id is the node's, given before it exists.

Invariants: an instance is in one state and ends once; a type whose instances failed is not started before its back-off
is over; nothing but an idle node that this autoscaler has asked for is told to leave.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from obsray.autoscaler.demand import Provided, Seen, View, shown
from obsray.autoscaler.planning import Judgement, Owned, Plan, plan
from obsray.autoscaler.settings import NodeType, Settings
from obsray.core.protocol.lifecycle import InstanceState, advance
from obsray.telemetry.events import ScalingVerdict

BACKOFF_SECONDS_MIN = 1.0
BACKOFF_SECONDS_MAX = 300.0
#: A node that ends by itself sooner than this counts as one that did not start.
STEADY_SECONDS = 30.0
#: A node that was asked to leave and does not, because it is in use after all, is not asked again for this long.
ASK_AGAIN_SECONDS = 5.0
#: One that has gone within this time after it was asked to leave has done so because of that.
LEAVE_SECONDS_MAX = 30.0
#: A machine that is of no use and still there is ended again after this time.
END_AGAIN_SECONDS = 30.0
SAMPLE_SECONDS = 10.0
JUDGEMENTS_TOLD_MAX = 100
TEXT_CHARACTERS_MAX = 1000
_U16, _U32 = 0xFFFF, 0xFFFFFFFF


class Start(NamedTuple):
    """Ask the provider for a node."""

    node: bytes
    kind: NodeType


class Leave(NamedTuple):
    """Tell a node to leave if it is idle."""

    node: bytes
    why: str


class End(NamedTuple):
    """Have the provider end a machine that is of no use any more."""

    node: bytes


Action = Start | Leave | End


class Recorder(Protocol):
    """Records events (``telemetry.spine.Emitter``)."""

    def __getattr__(self, name: str) -> Callable[..., None]: ...
    def intern(self, text: str) -> int: ...


@dataclass(slots=True, eq=False)
class Instance:
    """A node asked for. ``known``: the provider has had it in its list."""

    node: bytes
    type: str
    asked_at: float
    state: InstanceState = InstanceState.STARTING
    joined_at: float = 0.0
    idle_since: float = 0.0
    leases: int = -1
    known: bool = False
    leave_asked_at: float = float("-inf")
    why: str = ""


@dataclass(slots=True)
class _Budget:
    """How starting a type went lately."""

    failures: int = 0
    not_before: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Autoscaler:
    """``new_id`` gives ids for nodes (8 bytes). ``emit`` records what is decided."""

    settings: Settings
    emit: Recorder
    new_id: Callable[[], bytes]
    instances: dict[bytes, Instance] = field(default_factory=dict)
    #: Instances that are over and may still be in the provider's list, and when to ask again for their end.
    _over: dict[bytes, float] = field(default_factory=dict)
    _budgets: dict[str, _Budget] = field(default_factory=dict)
    _told: dict[tuple[str, ScalingVerdict], tuple[int, str, str]] = field(default_factory=dict)
    _sampled: dict[str, tuple[tuple[Any, ...], float]] = field(default_factory=dict)

    def look(self, now: float, time_ns: int, view: View, provided: Sequence[Provided]) -> list[Action]:
        """Decide once more. ``now`` is monotonic seconds, ``time_ns`` the wall clock for records."""
        actions: list[Action] = []
        by_node = {each.node: each for each in provided}
        seen = {each.node: each for each in view.nodes}
        for node in [node for node in self._over if node not in by_node]:
            del self._over[node]
        for each in provided:
            if each.node in self._over:
                # Its machine is still there; it may not have heard that it shall end.
                if now >= self._over[each.node]:
                    self._have_ended(now, each.node, actions)
            elif each.node not in self.instances:
                # Asked for by an autoscaler before this one.
                self.instances[each.node] = Instance(each.node, each.type, now, known=True)
        for instance in list(self.instances.values()):
            self._follow(now, time_ns, instance, seen.get(instance.node), by_node.get(instance.node), actions)
        found = plan(self.settings, view, self._owned(now), self.barred(now))
        self._carry_out(now, time_ns, found, actions)
        self._tell(time_ns, found.judgements)
        return actions

    # --- what became of instances ----------------------------------------------------------------------------

    def _follow(
        self, now: float, time_ns: int, instance: Instance, seen: Seen | None, provided: Provided | None,
        actions: list[Action],
    ) -> None:  # fmt: skip
        instance.known = instance.known or provided is not None
        if instance.state is InstanceState.STARTING:
            self._follow_start(now, time_ns, instance, seen, provided, actions)
        elif seen is None:
            if instance.state is InstanceState.RUNNING and now - instance.leave_asked_at < LEAVE_SECONDS_MAX:
                # It was idle, so it left at once.
                self._leaves(now, time_ns, instance)
            gone = "its machine is gone" if provided is None else "its node has ended"
            self._end(now, time_ns, instance, instance.why or gone, actions)
        elif instance.state is InstanceState.RUNNING:
            if seen.busy or seen.leases != instance.leases:
                instance.idle_since, instance.leases = now, seen.leases
            if now - instance.joined_at >= STEADY_SECONDS:
                # Its type starts well again.
                self._budgets.pop(instance.type, None)
            if seen.draining:
                if now - instance.leave_asked_at >= LEAVE_SECONDS_MAX:
                    instance.why = "somebody drained it"
                self._leaves(now, time_ns, instance)

    def _leaves(self, now: float, time_ns: int, instance: Instance) -> None:
        advance(instance, InstanceState.LEAVING)
        idle = now - instance.idle_since
        self.emit.instance_released(time_ns, instance.node, self._text(instance.type), idle, self._text(instance.why))

    def _follow_start(
        self, now: float, time_ns: int, instance: Instance, seen: Seen | None, provided: Provided | None,
        actions: list[Action],
    ) -> None:  # fmt: skip
        kind = self.settings.types.get(instance.type)
        if seen is not None:
            advance(instance, InstanceState.RUNNING)
            instance.joined_at = instance.idle_since = now
            instance.leases = seen.leases
            self.emit.instance_joined(time_ns, instance.node, self._text(instance.type), now - instance.asked_at)
        elif provided is not None and provided.failed:
            self._fail(now, time_ns, instance, provided.failed, actions)
        elif provided is None and instance.known:
            self._fail(now, time_ns, instance, "its machine ended before it joined", actions)
        elif kind is not None and now - instance.asked_at > kind.start_seconds_max:
            self._fail(now, time_ns, instance, f"it did not join within {kind.start_seconds_max:g} s", actions)

    def _fail(self, now: float, time_ns: int, instance: Instance, error: str, actions: list[Action]) -> None:
        del self.instances[instance.node]
        advance(instance, InstanceState.FAILED)
        self._have_ended(now, instance.node, actions)
        budget = self._blame(now, instance.type, error)
        self.emit.instance_failed(
            time_ns, instance.node, self._text(instance.type), min(budget.failures, _U16), budget.not_before - now,
            self._text(error),
        )  # fmt: skip

    def _blame(self, now: float, kind: str, error: str) -> _Budget:
        budget = self._budgets.setdefault(kind, _Budget())
        # Those that were asked for together fail together, and count once.
        if now >= budget.not_before:
            budget.failures += 1
        pause = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** min(budget.failures - 1, 20))
        budget.not_before, budget.error = now + pause, error
        return budget

    def _end(self, now: float, time_ns: int, instance: Instance, why: str, actions: list[Action]) -> None:
        del self.instances[instance.node]
        lived = now - instance.joined_at
        if instance.state is InstanceState.RUNNING and lived < STEADY_SECONDS:
            self._blame(now, instance.type, f"the last one ended {lived:.0f} s after it had joined: {why}")
        advance(instance, InstanceState.ENDED)
        self._have_ended(now, instance.node, actions)
        self.emit.instance_ended(time_ns, instance.node, self._text(instance.type), lived, self._text(why))

    def _have_ended(self, now: float, node: bytes, actions: list[Action]) -> None:
        self._over[node] = now + END_AGAIN_SECONDS
        actions.append(End(node))

    def barred(self, now: float) -> dict[str, str]:
        """Types that are not started now, and why."""
        return {
            kind: f"{_times(budget.failures)} in a row no such node came ({budget.error}); next try in "
            f"{budget.not_before - now:.0f} s"
            for kind, budget in self._budgets.items()
            if now < budget.not_before
        }

    def _owned(self, now: float) -> list[Owned]:
        return [
            Owned(
                each.node, each.type, each.state is InstanceState.RUNNING,
                now - each.idle_since if each.state is InstanceState.RUNNING else 0.0,
                each.state is InstanceState.LEAVING,
            )
            for each in self.instances.values()
        ]  # fmt: skip

    # --- doing and telling -----------------------------------------------------------------------------------

    def _carry_out(self, now: float, time_ns: int, found: Plan, actions: list[Action]) -> None:
        for launch in found.launches:
            node = self.new_id()
            self.instances[node] = Instance(node, launch.type, now)
            self.emit.instance_requested(
                time_ns, node, self._text(launch.type), launch.cause, min(launch.units, _U32), self._text(launch.why)
            )
            actions.append(Start(node, self.settings.types[launch.type]))
        for release in found.releases:
            instance = self.instances[release.node]
            if now - instance.leave_asked_at >= ASK_AGAIN_SECONDS:
                instance.leave_asked_at, instance.why = now, release.why
                actions.append(Leave(release.node, release.why))

    def _tell(self, time_ns: int, judgements: Sequence[Judgement]) -> None:
        """Record what is judged otherwise than at the last look."""
        found: dict[tuple[str, ScalingVerdict], tuple[int, str, str]] = {}
        for each in judgements:
            units, kind, why = found.get((each.demand, each.verdict), (0, each.type, each.why))
            found[each.demand, each.verdict] = units + each.units, kind, why
        changed = {key: value for key, value in found.items() if _steady(self._told.get(key)) != _steady(value)}
        changed |= {key: (0, value[1], "") for key, value in self._told.items() if key not in found}
        for key, (units, kind, why) in list(changed.items())[:JUDGEMENTS_TOLD_MAX]:
            self.emit.demand_judged(
                time_ns, self._text(key[0]), key[1], min(units, _U32), self._text(kind), self._text(why)
            )
            if units:
                self._told[key] = units, kind, why
            else:
                del self._told[key]

    def sample(self, now: float, time_ns: int, decide_seconds: float) -> None:
        """Record how many nodes of each type there are, if that has changed or was not told for a while."""
        counts = Counter((each.type, each.state) for each in self.instances.values())
        barred = self.barred(now)
        for kind in self.settings.types.values():
            budget = self._budgets.get(kind.name)
            values = (
                *(min(counts[kind.name, state], _U16)
                  for state in (InstanceState.RUNNING, InstanceState.STARTING, InstanceState.LEAVING)),
                kind.min_workers, kind.max_workers, min(budget.failures, _U16) if budget else 0,
            )  # fmt: skip
            error = budget.error if budget is not None and kind.name in barred else ""
            before, at = self._sampled.get(kind.name, ((), float("-inf")))
            if before == (*values, error) and now - at < SAMPLE_SECONDS:
                continue
            self._sampled[kind.name] = (*values, error), now
            self.emit.node_type_sample(
                time_ns, self._text(kind.name), *values, decide_seconds, self._text(shown(kind.resources)),
                self._text(error),
            )  # fmt: skip

    def _text(self, text: str) -> int:
        return self.emit.intern(text[:TEXT_CHARACTERS_MAX])


def _steady(told: tuple[int, str, str] | None) -> tuple[int, str] | None:
    """What of a judgement is worth telling again: not that the time to the next try is shorter."""
    return None if told is None else told[:2]


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
