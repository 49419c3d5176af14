"""Machine: actors that are at home at other nodes and have, or shall have, their processes here (docs/adr/0019).

Their home asks for a worker (``WantActor``), hears when there is one (``ActorPlaced``), and is the only one to end it
(``EndWorker``); how the process ends it hears like everybody (``WorkerDied``). An attempt's number tells the answers to
different tries of a home apart: what was found for a try that is over, the home has ended.

Invariants: a guest waits in the scheduler exactly until it has a worker; its home is linked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from obsray.core.node.demands import Demand, Lease
from obsray.core.node.environments import Runtime, of_job, runtime_of
from obsray.core.node.intake import Malformed
from obsray.core.node.peers import Peer
from obsray.core.node.placement import placement_of
from obsray.core.node.resources import amounts_of
from obsray.core.node.scheduler import Scheduler
from obsray.core.node.step import RemoveCheckpoints, Step, require
from obsray.core.node.workers import WorkerPool
from obsray.core.protocol.messages import ActorPlaced, EndWorker, WantActor, WithdrawActor
from obsray.ids import NIL_WORKER, is_detached
from obsray.telemetry.events import DeathCause

TEXT_CHARACTERS_MAX = 500


@dataclass(slots=True, eq=False)
class Guest:
    """``home`` is the id of the node that asked."""

    actor: bytes
    attempt: int
    home: bytes
    demand: Demand
    worker: bytes = NIL_WORKER


class GuestTable:
    """The actors of other nodes at this one."""

    def __init__(self, scheduler: Scheduler, pool: WorkerPool) -> None:
        #: Those without a worker, by actor.
        self.waiting: dict[bytes, Guest] = {}
        self.by_worker: dict[bytes, Guest] = {}
        self._scheduler = scheduler
        self._pool = pool

    # --- what homes ask for --------------------------------------------------------------------------------

    def want(self, step: Step, peer: Peer, message: WantActor) -> None:
        """A home looks for a worker for one of its actors. Raises Malformed."""
        known = self.waiting.get(message.actor)
        if known is not None:
            if known.attempt >= message.attempt:
                return
            self._forget(step, known)
        try:
            demand = self._read(step, message)
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"WantActor: {error!r}") from None
        guest = Guest(message.actor, message.attempt, peer.id, demand)
        kind, why = self._scheduler.refusal(demand.placement, demand.need)
        if kind:
            self._refuse(step, guest, kind, why)
            return
        self.waiting[guest.actor] = guest
        self._scheduler.want_actor(step, demand)

    def _read(self, step: Step, message: WantActor) -> Demand:
        described: dict[str, Any] = message.demand
        owner, job = described["owner"], int(described["job"])
        if not isinstance(owner, bytes) or len(owner) != 8:
            raise ValueError("an owner that is no id")
        runtime: Runtime = replace(of_job(runtime_of(described["runtime"]), job), fresh=True)
        self._pool.environments.define(runtime, described["runtime"], job)
        label = step.emit.intern(str(described["label"])[:TEXT_CHARACTERS_MAX])
        return Demand(
            owner, -1, str(described["name"])[:TEXT_CHARACTERS_MAX], amounts_of(described["need"]),
            amounts_of(described["hold"]), runtime, actor=message.actor, label=label,
            placement=placement_of(described.get("placement")), foreign=True,
        )  # fmt: skip

    def withdraw(self, step: Step, peer: Peer, message: WithdrawActor) -> None:
        """A home looks no longer; nothing happens if a worker was found before: it has been told of that."""
        guest = self.waiting.get(message.actor)
        if guest is not None and guest.home == peer.id and guest.attempt == message.attempt:
            self._forget(step, guest)
            self._refuse(step, guest, "", "")

    def end_worker(self, step: Step, peer: Peer, message: EndWorker) -> None:
        """A home ends the process of one of its actors; nothing happens to those of others."""
        guest, worker = self.by_worker.get(message.worker), self._pool.workers.get(message.worker)
        if guest is None or guest.home != peer.id or worker is None:
            return
        try:
            cause = DeathCause(message.cause)
        except ValueError:
            cause = DeathCause.KILLED_BY_REQUEST
        if message.graceful:
            self._pool.retire(step, worker, cause, message.detail, message.patient)
        else:
            self._pool.kill(step, worker, cause, message.detail)

    # --- what becomes of them ------------------------------------------------------------------------------

    def placed(self, step: Step, lease: Lease) -> None:
        """The scheduler found a worker: its home says what shall become of it."""
        guest = self.waiting.pop(lease.demand.actor)
        guest.worker = lease.worker.id
        self.by_worker[guest.worker] = guest
        step.tell_node(
            guest.home,
            ActorPlaced(guest.actor, guest.attempt, guest.worker, lease.key, lease.devices, "", ""),
        )

    def environment_failed(self, step: Step, actor: bytes, error: str) -> None:
        """What the process must be cannot be made here."""
        guest = self.waiting.pop(actor, None)
        if guest is not None:
            self._refuse(step, guest, "environment", error)

    def unplaceable(self, step: Step, actor: bytes, cause: DeathCause, why: str) -> None:
        """It can never run where it shall be."""
        guest = self.waiting.get(actor)
        if guest is not None:
            self._forget(step, guest)
            self._refuse(step, guest, "unschedulable", why)

    def group_removed(self, step: Step, group: bytes, why: str) -> None:
        """What waits for bundles that are gone gets none; the processes in them are the scheduler's to name."""
        for guest in [guest for guest in self.waiting.values() if guest.demand.placement.group == group]:
            self._forget(step, guest)
            self._refuse(step, guest, "group_removed", why)

    def worker_ended(self, step: Step, worker: bytes) -> None:
        """The process is gone; its home hears it from ``WorkerDied``, and has what it saved."""
        guest = self.by_worker.pop(worker, None)
        if guest is not None:
            step.effects.append(RemoveCheckpoints(guest.actor))

    def home_lost(self, step: Step, home: bytes, why: str) -> None:
        """Nobody keeps these actors any more: they end."""
        for guest in [guest for guest in self.waiting.values() if guest.home == home]:
            self._forget(step, guest)
        for guest in [guest for guest in self.by_worker.values() if guest.home == home]:
            worker = self._pool.workers.get(guest.worker)
            if worker is not None:
                self._pool.kill(step, worker, DeathCause.OWNER_DIED, f"nobody keeps the actor any more: {why}")

    def detached_workers(self) -> set[bytes]:
        """The processes of detached actors."""
        return {worker for worker, guest in self.by_worker.items() if is_detached(guest.actor)}

    def _forget(self, step: Step, guest: Guest) -> None:
        del self.waiting[guest.actor]
        self._scheduler.withdraw_actor(step, guest.actor)

    def _refuse(self, step: Step, guest: Guest, kind: str, why: str) -> None:
        answer = ActorPlaced(guest.actor, guest.attempt, NIL_WORKER, 0, {}, kind, why[:TEXT_CHARACTERS_MAX])
        step.tell_node(guest.home, answer)

    def check_invariants(self) -> None:
        for actor, guest in self.waiting.items():
            require(guest.actor == actor and guest.worker == NIL_WORKER, "a guest that waits although it has a worker")
            require(self._scheduler.actor_demands.get(actor) is guest.demand, "a guest that waits nowhere")
        for worker, guest in self.by_worker.items():
            require(guest.worker == worker, "a guest under another's worker")
