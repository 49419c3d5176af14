"""What each message means to a driver or worker.

Called with the session's lock held, by whoever drives the sockets.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState, TaskState
from obsray.core.runtime.calls import death_error
from obsray.core.runtime.ownership import NODE, Task
from obsray.core.runtime.recovery import Recovery
from obsray.core.runtime.serialization import KIND_ERROR, dump_error
from obsray.core.runtime.verdicts import tasks_begun
from obsray.core.transport.handshake import UnknownTarget
from obsray.core.transport.links import Link
from obsray.errors import (
    LocalRayletDiedError,
    ObjectFetchTimedOutError,
    ObjectFreedError,
    OwnerDiedError,
    RuntimeEnvSetupError,
)
from obsray.ids import SEQUENCE_ACTOR, mark_of
from obsray.telemetry.events import DeathCause, Outcome

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session

#: How long the news of the death of a worker elsewhere may take after its connection broke.
BROKEN_SECONDS = 2.0
#: The same for a connection on which nobody waited for anything.
IDLE_BROKEN_SECONDS = 0.2

#: A process that cannot be reached, and of which nobody says that it is dead, is tried again so often, for so long.
REACH_AGAIN_SECONDS = 0.5
UNREACHED_SECONDS_MAX = 60.0
#: One of a node that this process was told nothing of, for so long: the node may have joined a moment ago.
NEWS_SECONDS = 2.0
#: Answers that wait for a process to be reached again.
UNDELIVERED_MAX = 10_000

Handler = Callable[[Link, m.Message], None]

_VALUE = m.ObjectValue._field_defaults["tag"]
_PUSH = m.Push._field_defaults["tag"]


class Inbox:
    """Routes messages to the machines of one session. The clocks are arguments, so that a simulator can set them."""

    def __init__(
        self,
        session: Session,
        monotonic: Callable[[], float] = time.monotonic,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.session = session
        self.monotonic = monotonic
        self.time_ns = time_ns
        self.recovery = Recovery(session, time_ns, self._on_worker_died)
        self.handlers = self._make_handlers()
        #: Told in drivers, with the session's lock held.
        self.on_runtime_gone: Callable[[Exception], None] = lambda error: None
        #: Processes that could not be reached: since when, and the answers they wait for.
        self._unreached: dict[bytes, float] = {}
        self._undelivered: dict[bytes, list[tuple[bytes, m.Message]]] = {}
        self._reaching: set[bytes] = set()
        #: Actors' processes to which calls could not be sent: since when.
        self._uncalled: dict[bytes, float] = {}
        self._why_unreached = ""
        self._audit_at = 0.0
        #: Why this process was asked to end, while it stays for what others hold.
        self._leaving = ""

    def _make_handlers(self) -> dict[int, Handler]:
        monotonic, time_ns = self.monotonic, self.time_ns
        handlers: dict[type, Handler] = {
            m.LeaseGranted: lambda link, x: self.session.dispatcher.granted(m.decode(x), monotonic(), time_ns()),
            m.LeaseReclaim: lambda link, x: self.session.dispatcher.reclaim(x[1], time_ns()),
            m.ShapeRefused: lambda link, x: self.session.dispatcher.refused(m.decode(x)),
            m.GroupChanged: lambda link, x: self.session.reservations.changed(m.decode(x)),
            m.EnvironmentFailed: lambda link, x: self.session.dispatcher.environment_failed(x[1], x[2]),
            m.TooDeep: lambda link, x: self.session.dispatcher.too_deep(x[1], x[2]),
            m.WorkerDied: lambda link, x: self._on_worker_died(m.decode(x)),
            m.ObjectRoom: self._on_answer,
            m.ObjectRefused: self._on_answer,
            m.ObjectPinned: self._on_answer,
            m.Reply: self._on_answer,
            m.ActorChanged: lambda link, x: self._on_actor_changed(m.decode(x)),
            m.Exit: lambda link, x: self._on_exit(x[1], x[2]),
            m.Done: lambda link, x: self.session.dispatcher.done(link.peer.worker, x[1], monotonic(), time_ns()),
            m.Returned: lambda link, x: self.session.dispatcher.returned(link.peer.worker, x[1], x[2], time_ns()),
            m.GetObject: lambda link, x: self.session.ownership.asked_for(x[1], link.peer.worker),
            m.ObjectMissing: self.recovery.on_missing,
            m.CancelObject: lambda link, x: self.session.calls.cancel_object(x[1], x[2], x[3], time_ns()),
            m.ArgumentLost: self.recovery.on_argument_lost,
            m.ObjectLost: lambda link, x: self.recovery.objects_lost(m.decode(x)),
            m.NodeChanged: lambda link, x: self.recovery.node_changed(m.decode(x)),
            m.ObjectValue: self._on_value,
            m.AddHolder: self._on_add_holder,
            m.ReleaseHolders: self._on_release_holders,
            m.HoldsTold: self._on_holds_told,
            m.HoldsHeard: lambda link, x: self.session.ownership.correspondence.acknowledged(link.peer.worker, x[1]),
            m.HoldsAsked: lambda link, x: self.session.ownership.say_what_is_held(link.peer.worker, x[1], x[2]),
            m.HoldsAnswered: self._on_holds_answered,
        }
        return {cls._field_defaults["tag"]: handler for cls, handler in handlers.items()}  # type: ignore[attr-defined]

    def handle(self, kind: type, handler: Handler) -> None:
        """Have ``handler`` called for messages of class ``kind`` (executor, streams)."""
        self.handlers[kind._field_defaults["tag"]] = handler  # type: ignore[attr-defined]

    def on_messages(self, link: Link, received: list[m.Message]) -> None:
        """Handle what one peer sent, in order; tags nobody knows are ignored."""
        handlers = self.handlers
        for message in received:
            handler = handlers.get(message[0])
            if handler is not None:
                handler(link, message)

    def on_link(self, link: Link) -> None:
        """Somebody connected to this process: an owner with tasks, or a holder of what this process owns."""
        link.state = {}

    def on_close(self, link: Link) -> None:
        """A peer or the node is gone."""
        if link is self.session.node:
            if not self.session.closed:
                self._on_exit(
                    "the node process ended unexpectedly; its log is in " + str(self.session.directory / "logs")
                )
            return
        worker = link.peer.worker
        if self.session.peers.get(worker) is link:
            del self.session.peers[worker]
            self.session.dispatcher.functions.pop(worker, None)
            if link.peer.remote:
                # Between machines a connection can break although both ends live. If it is dead, that is found out now.
                self.session.ownership.ask_again(worker)
            else:
                self.owner_lost(worker)
            self._await_news(worker)
        elif self.session.executor is not None:
            self.session.executor.link_closed(link)

    def _await_news(self, worker: bytes) -> None:
        """The connection to a process broke. If nobody says it is dead, what was sent may never have come.

        Until that is known nothing else goes there: calls keep their order, and functions have no numbers there yet.
        """
        unsent = self.session.dispatcher.take_unsent(worker)
        leases = self.session.dispatcher.cut_off(worker, unsent)
        calls = self.session.calls.connection_broke(worker, unsent)
        if leases or calls is not None:
            # Without anything in flight nothing is in doubt, and usually it is the end of a process.
            later = self.monotonic() + (BROKEN_SECONDS if leases or calls else IDLE_BROKEN_SECONDS)
            self.session.reactor.call_at(later, lambda: self._give_up(worker, leases, calls or []))

    def _give_up(self, worker: bytes, leases: list[int], calls: list[Task]) -> None:
        for lease in self.session.dispatcher.by_worker.get(worker, ()):
            if lease.id in leases:
                for task in lease.in_flight.values():
                    self.session.verdicts.tell(
                        task, f"attempt {task.attempt}: the connection to worker {worker.hex()} broke, so it is ended"
                    )
                self.session.node.send(m.encode(m.KillWorker(worker, lease.id)))
        self.session.calls.cut_off(worker, calls)

    def _on_answer(self, link: Link, message: m.Message) -> None:
        answer = self.session.answers.pop(message[1], None)
        if answer is not None:
            answer.arrived(m.decode(message))
            if answer.undo is not None and type(answer.message) is not m.ObjectRefused:
                self.session.ownership.outbox.append((NODE, m.encode(answer.undo)))

    def _on_value(self, link: Link, message: m.Message) -> None:
        _, identifier, value, contained, error, mark = message
        entry = self.session.ownership.entries.get(identifier)
        if entry is None:
            # Nobody here wants it any more; the holds registered for what is inside must still be given up.
            self.session.ownership.refuse(contained, link.peer.worker)
            return
        entry.requested = False
        if value is None:
            value = dump_error(ObjectFreedError(identifier.hex(), message=f"object {identifier.hex()}: {error}"))
        failed = type(value) is bytes and value[0] == KIND_ERROR
        if mark and mark != mark_of(self.session.worker):
            self.session.ownership.places[identifier] = mark
        self.session.ownership.fulfil(entry, value, failed, contained)
        self.session.ownership.arrive(contained, link.peer.worker)

    def _on_add_holder(self, link: Link, message: m.Message) -> None:
        _, identifiers, holder = message
        ownership = self.session.ownership
        for identifier in identifiers:
            if holder == self.session.worker:
                ownership.depart(identifier, link.peer.worker)
            else:
                ownership.add_holder(identifier, holder)

    def _on_release_holders(self, link: Link, message: m.Message) -> None:
        for identifier in message[1]:
            self.session.ownership.add_holder(identifier, link.peer.worker, -1)

    def _on_holds_told(self, link: Link, message: m.Message) -> None:
        _, number, identifiers, holder = message
        counts, heard = self.session.ownership.correspondence.hear(link.peer.worker, number)
        if counts and holder:
            self.session.ownership.audit.registered_abroad(holder, identifiers)
            self._on_add_holder(link, (m.AddHolder._field_defaults["tag"], identifiers, holder))
        elif counts:
            self._on_release_holders(link, (m.ReleaseHolders._field_defaults["tag"], identifiers))
        link.send(m.encode(m.HoldsHeard(heard)))

    def _on_holds_answered(self, link: Link, message: m.Message) -> None:
        _, number, identifiers, counts = message
        corrected = self.session.ownership.holder_says(link.peer.worker, number, zip(identifiers, counts, strict=True))
        if corrected:
            self.session.emitter.holds_corrected(self.time_ns(), link.peer.worker, corrected)

    def audit(self) -> None:
        """Now and then: do processes elsewhere hold what they are counted for?"""
        now = self.monotonic()
        if now < self._audit_at:
            return
        first, self._audit_at = self._audit_at == 0.0, now + self.session.config.holds_check_seconds
        if not first:
            ended = self.session.ownership.look_at_holders()
            if ended:
                self.session.emitter.holds_corrected(self.time_ns(), b"", ended)

    def not_reached(self, worker: bytes, error: OSError) -> None:
        """No connection to a process could be made: it is dead, or only out of reach for now."""
        session, now = self.session, self.monotonic()
        self._why_unreached = str(error)
        since, patience = self._unreached.get(worker, now), self._patience(worker, error)
        if now - since < patience:
            self._unreached[worker] = since
            if worker not in self._reaching:
                self._reaching.add(worker)
                session.reactor.call_at(now + REACH_AGAIN_SECONDS, lambda: self._reach_again(worker))
            return
        self._undelivered.pop(worker, None)
        self._unreached.pop(worker, None)
        if patience < UNREACHED_SECONDS_MAX:
            self.owner_lost(worker, why=self.recovery.gone.get(mark_of(worker), ""))
            return
        text = f"the owner of the object, worker {worker.hex()}, could not be reached for {now - since:.0f} s: {error}"
        session.ownership.give_up_waiting(worker, dump_error(ObjectFetchTimedOutError(text)))

    def _patience(self, worker: bytes, error: OSError) -> float:
        """For how long a process that cannot be reached is out of reach and not dead."""
        mark = mark_of(worker)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return UNREACHED_SECONDS_MAX
        if mark == mark_of(self.session.worker) or isinstance(error, UnknownTarget) or mark in self.recovery.gone:
            return 0.0
        return UNREACHED_SECONDS_MAX if mark in self.session.node_addresses else NEWS_SECONDS

    def undelivered(self, worker: bytes, message: m.Message) -> None:
        """A message could not be sent. Questions are asked again and holds told again; answers are kept here; calls go
        back in line. Of a task's worker the node was told that it cannot be reached."""
        if message[0] == _PUSH and not message[1]:
            self._not_called(worker, {wired[0] for wired in message[5]})
        elif worker in self._unreached and message[0] == _VALUE:
            waiting = self._undelivered.setdefault(worker, [])
            if len(waiting) < UNDELIVERED_MAX:
                waiting.append((worker, message))

    def _not_called(self, worker: bytes, calls: set[bytes]) -> None:
        now = self.monotonic()
        if worker not in self._uncalled:
            self._uncalled[worker] = now
            self.session.emitter.calls_not_sent(
                self.time_ns(), worker, len(calls), self.session.emitter.intern(self._why_unreached)
            )
        if self.session.calls.not_sent(worker, calls):
            self.session.reactor.call_at(now + REACH_AGAIN_SECONDS, lambda: self._call_again(worker))

    def _call_again(self, worker: bytes) -> None:
        now = self.monotonic()
        seconds = now - self._uncalled.get(worker, now)
        given_up = seconds if seconds >= UNREACHED_SECONDS_MAX else 0.0
        if not self.session.calls.send_again(worker, given_up) or given_up:
            self._uncalled.pop(worker, None)

    def _reach_again(self, worker: bytes) -> None:
        self._reaching.discard(worker)
        if worker in self._unreached:
            ownership = self.session.ownership
            ownership.outbox += self._undelivered.pop(worker, ())
            ownership.ask_again(worker)
            if not any(destination == worker for destination, _ in ownership.outbox):
                del self._unreached[worker]

    def reached(self, worker: bytes) -> None:
        """A connection was made."""
        self._uncalled.pop(worker, None)
        if self._unreached and self._unreached.pop(worker, None) is not None:
            self.session.ownership.outbox += self._undelivered.pop(worker, ())
            self.session.ownership.ask_again(worker)

    def _read_last_words(self, worker: bytes) -> None:
        """What a process sent before it died counts, also if the news of its death was faster."""
        link = self.session.peers.get(worker)
        if link is not None:
            self.session.reactor.read_to_end(link)

    def _on_worker_died(self, death: m.WorkerDied) -> None:
        worker = death.worker
        self._read_last_words(worker)
        in_flight = self.session.dispatcher.worker_died(worker)
        begun = tasks_begun(in_flight, death)
        for index in range(len(in_flight) - 1, -1, -1):
            self.session.verdicts.crashed(in_flight[index], death, index < begun)
        self.session.calls.worker_died(death)
        self.session.ownership.worker_died(worker)
        link = self.session.peers.pop(worker, None)
        if link is not None:
            self.session.reactor.close(link)
        self._undelivered.pop(worker, None)
        self._unreached.pop(worker, None)
        self._uncalled.pop(worker, None)
        self.session.ended_workers.append(worker.hex())
        self.owner_lost(worker, death)

    def owner_lost(self, worker: bytes, death: m.WorkerDied | None = None, why: str = "") -> None:
        """What this process still waits for from ``worker`` will not come."""
        why = (death.detail if death is not None else why) or "its process ended"
        text = f"the owner of the object, worker {worker.hex()}, is gone: {why}"
        self.session.ownership.owner_lost(
            worker, lambda identifier: dump_error(OwnerDiedError(identifier.hex(), worker, message=text))
        )

    def _on_actor_changed(self, message: m.ActorChanged) -> None:
        if message.cause == DeathCause.ENVIRONMENT_FAILED and not message.error:
            message = message._replace(error=dump_error(RuntimeEnvSetupError(message.detail)))
        task = self.session.placements.get(message.actor)
        if task is not None and message.state in (ActorState.ALIVE, ActorState.DEAD):
            del self.session.placements[message.actor]
            if message.state == ActorState.ALIVE:
                # The arguments stay pinned in the client: a restart needs them again.
                self.session.calls.clients[message.actor].pinned, task.pinned = task.pinned, None
                self.session.ownership.finish(task, TaskState.FINISHED)
                self.session.emitter.tasks_finished(self.time_ns(), task.id, 1, 0)
                for entry in task.entries:
                    self.session.ownership.fulfil(entry, b"\x80")
            else:
                task.ended = None
                error = death_error(message, message.detail)
                self.session.verdicts.end(task, TaskState.FAILED, Outcome.ACTOR_DIED, error)
        if message.state == ActorState.DEAD and message.actor in self.session.calls.clients:
            self._read_last_words(self.session.calls.clients[message.actor].worker)
        self.session.calls.changed(message)
        client = self.session.calls.clients.get(message.actor)
        if message.state == ActorState.DEAD and client is not None and client.pinned is not None:
            pinned, client.pinned = client.pinned, None
            self.session.ownership.unpin(pinned)

    def on_freed(self, identifier: bytes) -> None:
        """An owned object ended; an actor created here ends with its last handle."""
        client = self.session.calls.clients.get(identifier[:16]) if identifier[8] == SEQUENCE_ACTOR else None
        if client is not None and client.ends_with_handles:
            self.session.ownership.outbox.append((NODE, m.encode(m.KillActor(client.id, False, True))))

    def on_held(self, identifier: bytes, worker: bytes, held: bool) -> None:
        """Another process keeps an owned object alive from now on, or does not any more."""
        if identifier[8] == SEQUENCE_ACTOR:
            return  # handles are no values
        emitter = self.session.emitter
        (emitter.object_held if held else emitter.object_let_go)(self.time_ns(), identifier, worker)

    def leave_if_free(self) -> None:
        """End if this process was asked to and stayed for what others held, and they do not hold it any more."""
        if self._leaving and not any(self.session.ownership.needed_by_others()):
            reason, self._leaving = self._leaving, ""
            self.session.executor.exit(reason)

    def _on_exit(self, reason: str, unless_needed: bool = False) -> None:
        if self.session.executor is not None:
            objects, tasks = self.session.ownership.needed_by_others()
            if unless_needed and (objects or tasks):
                self._leaving = reason
                self.session.node.send(m.encode(m.StillNeeded(objects, tasks)))
                return
        self.runtime_failed(reason, LocalRayletDiedError(f"the runtime is gone: {reason}"))

    def runtime_failed(self, reason: str, error: Exception) -> None:
        """Nothing can go on here: a worker ends after what it runs, who waits in a driver gets ``error``.

        Call with the session's lock held.
        """
        if self.session.executor is not None:
            self.session.executor.exit(reason)
            return
        self.session.failure = error
        self.on_runtime_gone(error)
        for answer in self.session.answers.values():
            if answer.event is not None:
                answer.event.set()
        for sleeper in self.session.sleepers:
            if sleeper.event is not None:
                sleeper.event.set()
