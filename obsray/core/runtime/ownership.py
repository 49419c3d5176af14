"""Machine: which values this process knows, who holds them, when they end, and which tasks are to make them.

Invariants
* An owned entry lives while ``local + pins + sum(holders) > 0`` or while its task has not ended; then it is freed,
  once. ``local`` counts references in this process and inside values this process keeps; ``pins`` counts uses by
  tasks that have not ended.
* Whoever hands a reference to another process registers the receiver with the owner (``AddHolder``) on the same
  connection on which it later releases its own hold, so a count may be seen early or late but the sum is never zero
  too soon. Counts of one holder may be negative for a moment.
* A reference that travels back to its own owner is registered by the sender for the journey (``AddHolder`` naming the
  owner itself), because the sender's hold may end, on another connection, before the value arrives.
* A stored value may be *lost*: its entry is PENDING again and in ``lost``, and is made again when somebody waits for it
  (``wait_for``, the one door of all waiters): ``lineage.py``. Of a borrowed one, ``lost`` says that the owner is to be
  told that it cannot be read here.
* So is one in a value that a process sends to itself, whose own holds may end before it takes the value out.
* Arguments need no registration: the submitter pins them until the task ends. What the worker still holds then it
  lists in ``Done``, and the submitter registers it before it unpins.

Sans-IO: effects are appended to ``outbox`` as ``(destination, message)``; a destination is a worker id or ``NODE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from obsray.core.protocol.lifecycle import TaskState, advance
from obsray.core.protocol.messages import (
    AddHolder,
    CancelObject,
    FreeObjects,
    GetObject,
    HoldsAnswered,
    ObjectMissing,
    ObjectValue,
    ReleaseHolders,
    Value,
    encode,
)
from obsray.core.runtime.holds import Audit, Correspondence
from obsray.core.runtime.unseen import Unseen
from obsray.ids import WORKER_ID_BYTES, mark_of, owner_of, task_of

#: Destination of an effect: this process' node.
NODE = b""

PENDING = 0
READY = 1

#: Behind a worker id among holders: not the worker holds the object, a value that it sent here does.
_JOURNEY = b">"
#: Wishes to cancel elsewhere that are remembered before the first look at which are over.
_CANCELLING_MIN = 64


class Waiting(Protocol):
    """Something that waits for entries: a blocked ``get``, a task with arguments, a remote holder."""

    def on_ready(self, entry: Entry) -> None: ...


class Entry:
    """One object as this process knows it.

    ``value``: ``bytes`` inline, ``int`` size of an object in the store, None while pending. ``contained``: ids of
    references inside the value. ``registered``: how many holds the owner counts for this process (borrowed only).
    """

    __slots__ = (
        "contained", "failed", "id", "local", "owned", "pins", "registered", "requested", "state", "value", "waiters",
    )  # fmt: skip

    def __init__(self, identifier: bytes, owned: bool) -> None:
        self.id = identifier
        self.owned = owned
        self.state = PENDING
        self.value: Value | None = None
        self.failed = False
        self.local = 0
        self.pins = 0
        self.registered = 0
        self.requested = False
        self.contained: tuple[bytes, ...] = ()
        self.waiters: list[Waiting] | None = None

    def is_ready(self) -> bool:
        """Whether reading it would not wait."""
        return self.state == READY


class RemoteWaiter:
    """A process that asked the owner for a value."""

    __slots__ = ("reply", "worker")

    def __init__(self, worker: bytes, reply: Callable[[Entry], None]) -> None:
        self.worker = worker
        self.reply = reply

    def on_ready(self, entry: Entry) -> None:
        self.reply(entry)


class Task:
    """A call this process made and whose results it owns."""

    __slots__ = (
        "actor", "arguments", "attempt", "cancelled", "dispatched_to", "ended", "entries", "estimate_ns",
        "function", "id", "name", "options",
        "parent", "payload", "pinned", "ready", "retries_left", "returns", "shape", "state", "trace", "unready",
    )  # fmt: skip

    def __init__(self, identifier: bytes, function: Any, shape: Any, payload: bytes, returns: int) -> None:
        self.id = identifier
        self.function = function
        self.shape = shape
        self.payload = payload
        self.returns = returns
        self.state = TaskState.QUEUED
        self.attempt = 0
        self.retries_left = 0
        self.entries: tuple[Entry, ...] = ()
        #: (position or keyword, entry) of each top-level reference argument.
        self.arguments: list[tuple[int | str, Entry]] | None = None
        #: Entries held until the task ends: arguments and references inside them.
        self.pinned: list[Entry] | None = None
        self.unready = 0
        self.ready: Callable[[Task, Entry], None] | None = None
        self.trace = b""
        self.parent = b""
        self.name = 0
        self.options: dict[str, Any] | None = None
        self.actor: Any = None
        self.dispatched_to: Any = None
        self.cancelled = False
        #: How long it is thought to run, since a worker was given it first; 0: none was.
        self.estimate_ns = 0
        #: Told when the task ends without a value (streams, actors).
        self.ended: Callable[[Task, bytes], None] | None = None

    def __repr__(self) -> str:
        return f"Task({self.id.hex()}, {self.function.name})"

    def on_ready(self, entry: Entry) -> None:
        """One awaited argument exists (or failed)."""
        self.unready -= 1
        if self.ready is not None and self.state is TaskState.WAITING_ARGUMENTS and (self.unready == 0 or entry.failed):
            self.ready(self, entry)


class Ownership:
    """The objects and tasks of one process."""

    def __init__(self, worker: bytes) -> None:
        self.worker = worker
        self.entries: dict[bytes, Entry] = {}
        #: Those that have not ended.
        self.tasks: dict[bytes, Task] = {}
        #: Ids of the entries that do not exist yet, so that many references can be looked through at once.
        self.pending: set[bytes] = set()
        self.outbox: list[tuple[bytes, tuple[Any, ...]]] = []
        #: object -> holder -> count, and the same by holder, for objects this process owns.
        self.holders: dict[bytes, dict[bytes, int]] = {}
        self.held_by: dict[bytes, set[bytes]] = {}
        self._dead_holders: set[bytes] = set()
        self._mark = mark_of(worker)
        self.correspondence = Correspondence()
        self.audit = Audit(worker)
        self.unseen = Unseen()
        #: What others were asked to cancel and may not have heard of, by object.
        self._cancelling: dict[bytes, CancelObject] = {}
        #: At so many, those that have ended are sorted out: each wish costs the same however many there are.
        self._cancelling_max = _CANCELLING_MIN
        #: Stored values that are not there any more, with the reason; those of this process are made again when needed.
        self.lost: dict[bytes, str] = {}
        #: Stored value -> mark of the node where it was made, if that is not the node of its owner.
        self.places: dict[bytes, bytes] = {}
        #: A lost value of this process is needed.
        self.on_needed: Callable[[Entry], None] = lambda entry: None
        #: Nobody refers to a stored value of this process any more; True if its entry must stay nevertheless.
        self.on_unreferenced: Callable[[Entry], bool] = lambda entry: False
        #: A task has ended; None while nobody needs to know.
        self.on_finished: Callable[[Task, bytes], None] | None = None
        self.freed: list[bytes] = []
        self.released: dict[bytes, list[bytes]] = {}
        #: Called with the id of an owned entry that ended (actors end with their last handle).
        self.on_freed: Callable[[bytes], None] | None = None
        #: Called with an owned object and a process that holds it from now on, or (False) does not any more.
        self.on_held: Callable[[bytes, bytes, bool], None] | None = None

    # --- references ---------------------------------------------------------------------------------------------

    def entry(self, identifier: bytes) -> Entry:
        """The entry of an object, made on first sight."""
        entry = self.entries.get(identifier)
        if entry is None:
            entry = self.entries[identifier] = Entry(identifier, identifier.startswith(self.worker))
            if entry.owned:
                # A reference to something of ours that has already been freed: reading it says so.
                entry.state, entry.failed = READY, True
            else:
                self.pending.add(identifier)
        return entry

    def described(self, identifier: bytes) -> str:
        """What this process knows of an object, in a few words."""
        entry = self.entries.get(identifier)
        if entry is None:
            return "unknown here"
        task = self.tasks.get(task_of(identifier))
        by = f" by {task.function.name}" if task is not None else ""
        if identifier in self.lost:
            return "lost; it is made again when somebody needs it"
        if entry.state == PENDING:
            return f"pending{by}" if entry.owned else "borrowed, not asked for yet"
        if entry.failed:
            return "failed" if entry.value is not None else "freed"
        if entry.value is None:
            return "freed"
        if isinstance(entry.value, bytes):
            return f"ready, {len(entry.value)} bytes"
        return f"ready, {entry.value} bytes stored"

    def drop_local(self, identifiers: Iterable[bytes]) -> None:
        """References of this process went away (one entry each)."""
        entries = self.entries
        for identifier in identifiers:
            entry = entries.get(identifier)
            if entry is not None:
                entry.local -= 1
                if entry.local <= 0 and entry.pins <= 0:
                    self._maybe_end(entry)

    def unpin(self, pinned: Iterable[Entry]) -> None:
        """A task that used these entries ended."""
        for entry in pinned:
            entry.pins -= 1
            if entry.pins <= 0 and entry.local <= 0:
                self._maybe_end(entry)

    def _maybe_end(self, entry: Entry) -> None:
        if entry.local > 0 or entry.pins > 0:
            return
        if entry.owned:
            if entry.state == PENDING and (entry.waiters or entry.id not in self.lost):
                return
            holders = self.holders.get(entry.id)
            if holders is not None and any(holders.values()):
                return
            self._end_owned(entry)
        elif not entry.waiters:
            if entry.registered:
                owner = owner_of(entry.id)
                self.released.setdefault(owner, []).extend([entry.id] * entry.registered)
                entry.registered = 0
            self.pending.discard(entry.id)
            if self.lost or self.places:
                self.lost.pop(entry.id, None)
                self.places.pop(entry.id, None)
            if self.entries.pop(entry.id, None) is not None and entry.contained:
                self.drop_local(entry.contained)

    def look_at(self, entry: Entry) -> None:
        """It may be that nothing needs this entry any more: then it ends."""
        if entry.local <= 0 and entry.pins <= 0:
            self._maybe_end(entry)

    def _end_owned(self, entry: Entry) -> None:
        if type(entry.value) is int or entry.state == PENDING:
            if entry.id not in self.entries or self.on_unreferenced(entry):
                return
            self.places.pop(entry.id, None)
            if entry.state == PENDING:
                self.pending.discard(entry.id)
                if self.lost.pop(entry.id, ""):
                    # The node remembers that it is lost.
                    self.freed.append(entry.id)
        if self.entries.pop(entry.id, None) is None:
            return
        holders = self.holders.pop(entry.id, None)
        if holders:
            for worker in holders:
                self.held_by.get(worker, set()).discard(entry.id)
        if type(entry.value) is int:
            self.freed.append(entry.id)
        if entry.contained:
            self.drop_local(entry.contained)
        if entry.failed:
            self.unseen.gone(entry.id)
        if self.on_freed is not None:
            self.on_freed(entry.id)

    def discard(self, identifiers: Iterable[bytes]) -> None:
        """Attempts whose results do not count may have put these into the store: the node shall let them go."""
        self.freed += identifiers

    def settle(self) -> None:
        """Turn what ended since the last call into messages, one per destination."""
        if self.freed:
            self.outbox.append((NODE, encode(FreeObjects(self.freed))))
            self.freed = []
        if self.released:
            for owner, identifiers in self.released.items():
                self.tell_owner(owner, identifiers, b"")
            self.released = {}

    # --- values -------------------------------------------------------------------------------------------------

    def fulfil(self, entry: Entry, value: Value, failed: bool = False, contained: tuple[bytes, ...] = ()) -> None:
        """The object exists: everybody who waits for it goes on. A second value for the same object is ignored."""
        if entry.state == READY and not (entry.failed and entry.value is None):
            return
        entry.state = READY
        entry.value = value
        entry.failed = failed
        self.pending.discard(entry.id)
        if self.lost:
            self.lost.pop(entry.id, None)
        if contained:
            self._keep(entry, contained)
        waiters = entry.waiters
        if waiters is not None:
            entry.waiters = None
            for waiter in waiters:
                waiter.on_ready(entry)
        if entry.local <= 0 and entry.pins <= 0:
            self._maybe_end(entry)

    def _keep(self, entry: Entry, contained: tuple[bytes, ...]) -> None:
        """The value holds these references; for borrowed ones the giver has registered this process already."""
        entry.contained = tuple(contained)
        for identifier in entry.contained:
            inner = self.entry(identifier)
            inner.local += 1
            if not inner.owned:
                inner.registered += 1

    def put(self, entry: Entry, value: Value, contained: Iterable[bytes]) -> None:
        """A value made by this process itself: the references inside are its own holds, not registered ones."""
        entry.state = READY
        entry.value = value
        entry.contained = tuple(contained)
        for identifier in entry.contained:
            self.entry(identifier).local += 1
        self.entries[entry.id] = entry

    def wait_for(self, entry: Entry, waiter: Waiting) -> None:
        """Have ``waiter`` told when a pending entry is there; asks the owner once if that is another process."""
        if entry.waiters is None:
            entry.waiters = [waiter]
        else:
            entry.waiters.append(waiter)
        if entry.owned:
            if self.lost and entry.id in self.lost:
                self.on_needed(entry)
        elif not entry.requested:
            entry.requested = True
            detail = self.lost.pop(entry.id, None) if self.lost else None
            question = GetObject(entry.id) if detail is None else ObjectMissing(entry.id, detail)
            self.outbox.append((owner_of(entry.id), encode(question)))

    def stop_waiting(self, entry: Entry, waiter: Waiting) -> None:
        """The waiter gave up (timeout)."""
        if entry.waiters is not None and waiter in entry.waiters:
            entry.waiters.remove(waiter)
            if not entry.waiters:
                entry.waiters = None
                self._maybe_end(entry)

    def cancel_elsewhere(self, wish: CancelObject) -> None:
        """Somebody here wants another process to cancel what makes an object."""
        entry = self.entries.get(wish.object)
        if entry is None or entry.state != PENDING:
            return
        if len(self._cancelling) >= self._cancelling_max:
            self._cancelling = {i: w for i, w in self._cancelling.items() if self._is_pending(i)}
            self._cancelling_max = max(_CANCELLING_MIN, 2 * len(self._cancelling))
        self._cancelling[wish.object] = wish
        self.outbox.append((owner_of(wish.object), encode(wish)))

    def _is_pending(self, identifier: bytes) -> bool:
        entry = self.entries.get(identifier)
        return entry is not None and entry.state == PENDING

    # --- lost values ----------------------------------------------------------------------------------------------

    def withdraw(self, entry: Entry) -> None:
        """A stored value cannot be read now: its entry is PENDING until it is fulfilled again."""
        entry.state, entry.value = PENDING, None
        self.pending.add(entry.id)

    def lose(self, entry: Entry, detail: str) -> None:
        """No copy of a stored value is left, or (borrowed) this process' node cannot read it."""
        if entry.state == READY:
            self.withdraw(entry)
        self.places.pop(entry.id, None)
        contained, entry.contained = entry.contained, ()
        self.lost[entry.id] = detail
        if contained:
            self.drop_local(contained)

    # --- holders in other processes -----------------------------------------------------------------------------

    def add_holder(self, identifier: bytes, worker: bytes, count: int = 1) -> None:
        """``worker`` holds (or with a negative count releases) an object owned here."""
        if worker[:WORKER_ID_BYTES] in self._dead_holders or worker == self.worker:
            return
        entry = self.entries.get(identifier)
        if entry is None:
            return
        counts = self.holders.setdefault(identifier, {})
        before = counts.get(worker, 0)
        total = before + count
        if self.on_held is not None and (before > 0) != (total > 0) and len(worker) == WORKER_ID_BYTES:
            self.on_held(identifier, worker, total > 0)
        if total:
            counts[worker] = total
            self.held_by.setdefault(worker, set()).add(identifier)
        else:
            counts.pop(worker, None)
            self.held_by.get(worker, set()).discard(identifier)
        if not total or count < 0:
            self._maybe_end(entry)

    def depart(self, identifier: bytes, sender: bytes) -> None:
        """``sender`` says that a value on its way here refers to an object of ours."""
        self.add_holder(identifier, sender + _JOURNEY)

    def arrive(self, identifiers: Iterable[bytes], sender: bytes) -> None:
        """A value of ``sender`` with these references is here and kept: their journey is over."""
        for identifier in identifiers:
            if identifier.startswith(self.worker):
                self.add_holder(identifier, sender + _JOURNEY, -1)

    def refuse(self, identifiers: Iterable[bytes], sender: bytes) -> None:
        """A value with these references is here, but nobody wants it: give up what was registered for it."""
        for identifier in identifiers:
            if identifier.startswith(self.worker):
                self.add_holder(identifier, sender + _JOURNEY, -1)
            else:
                self.released.setdefault(owner_of(identifier), []).append(identifier)

    def hand_out(self, identifiers: Iterable[bytes], receiver: bytes) -> None:
        """References travel to ``receiver`` inside a value: register it with each owner.

        It may be this process itself, which runs a task that it has submitted: what is ours is on a journey then.
        """
        if receiver == self.worker:
            for identifier in identifiers:
                if identifier.startswith(receiver):
                    self.depart(identifier, receiver)
        self.register(identifiers, receiver)

    def register(self, identifiers: Iterable[bytes], receiver: bytes) -> None:
        """Tell the owners of what ``receiver`` holds that it does."""
        by_owner: dict[bytes, list[bytes]] = {}
        for identifier in identifiers:
            owner = identifier[:WORKER_ID_BYTES]
            if owner == self.worker:
                self.add_holder(identifier, receiver)
            else:
                by_owner.setdefault(owner, []).append(identifier)
        for owner, group in by_owner.items():
            self.tell_owner(owner, group, receiver)

    def tell_owner(self, owner: bytes, objects: list[bytes], holder: bytes) -> None:
        """Register ``holder`` with an owner, or (b"") release holds of this process."""
        if mark_of(owner) != self._mark:
            message = self.correspondence.tell(owner, objects, holder)
        else:
            message = encode(AddHolder(objects, holder) if holder else ReleaseHolders(objects))
        self.outbox.append((owner, message))

    def look_at_holders(self) -> int:
        """Ask holders elsewhere whether they hold what they are counted for. Returns how many journeys were ended."""
        questions, over = self.audit.look(self.held_by, self.holders)
        self.outbox += questions
        for holder, identifier in over:
            self.add_holder(identifier, holder, -self.holders[identifier].get(holder, 0))
        return len(over)

    def say_what_is_held(self, owner: bytes, number: int, objects: list[bytes]) -> None:
        """Answer ``look_at_holders`` of another process."""
        found = [self.entries.get(identifier) for identifier in objects]
        counts = [0 if entry is None else entry.registered for entry in found]
        self.outbox.append((owner, encode(HoldsAnswered(number, objects, counts))))

    def holder_says(self, holder: bytes, number: int, answers: Iterable[tuple[bytes, int]]) -> int:
        """An answer to ``look_at_holders``. Returns of how many objects the count was corrected."""
        wrong = self.audit.answered(holder, number, answers, self.holders)
        for identifier, difference in wrong:
            self.add_holder(identifier, holder, difference)
        return len(wrong)

    def worker_died(self, worker: bytes) -> None:
        """A process is gone: its holds end, and what it owned can no longer be fetched."""
        self._dead_holders.add(worker)
        self.correspondence.forget(worker)
        for holder in (worker, worker + _JOURNEY):
            for identifier in sorted(self.held_by.pop(holder, ())):
                counts = self.holders.get(identifier)
                if counts is not None:
                    counts.pop(holder, None)
                entry = self.entries.get(identifier)
                if entry is not None:
                    self._maybe_end(entry)

    def owner_lost(self, worker: bytes, error: Callable[[bytes], bytes]) -> None:
        """Everything still awaited from this owner fails with the ``error`` of its id, and what it had in the store,
        which the node frees; finished values that are inline stay."""
        lost = [e for e in self.entries.values() if not e.owned and e.state == PENDING and e.id.startswith(worker)]
        for entry in lost:
            entry.registered = 0
            if entry.waiters or entry.local or entry.pins:
                self.fulfil(entry, error(entry.id), failed=True)
        for entry in self.entries.values():
            if type(entry.value) is int and entry.id.startswith(worker):
                entry.value, entry.failed = error(entry.id), True

    def give_up_waiting(self, worker: bytes, error: bytes) -> None:
        """What is awaited from this owner fails with ``error``: it may live, and cannot be reached for too long."""
        for entry in [e for e in self.entries.values() if not e.owned and e.state == PENDING and e.waiters]:
            if entry.id.startswith(worker):
                entry.requested = False
                self.fulfil(entry, error, failed=True)

    def ask_again(self, worker: bytes) -> None:
        """The connection to a process that may live broke: what it has not answered or acknowledged is said again."""
        self.outbox += [(worker, message) for message in self.correspondence.again(worker)]
        for entry in self.entries.values():
            if entry.requested and entry.state == PENDING and not entry.owned and entry.id.startswith(worker):
                entry.requested = bool(entry.waiters)
                if entry.requested:
                    self.outbox.append((worker, encode(GetObject(entry.id))))
        for identifier, wish in self._cancelling.items():
            if identifier.startswith(worker) and self._is_pending(identifier):
                self.outbox.append((worker, encode(wish)))

    # --- as owner, asked by others --------------------------------------------------------------------------------

    def asked_for(self, identifier: bytes, worker: bytes) -> None:
        """Another process wants the value of an object owned here."""
        entry = self.entries.get(identifier)
        if entry is None:
            message = ObjectValue(identifier, None, [], "its owner has already freed it")
            self.outbox.append((worker, encode(message)))
        elif entry.state == PENDING:
            self.wait_for(entry, RemoteWaiter(worker, lambda e: self._answer(e, worker)))
        else:
            self._answer(entry, worker)

    def _answer(self, entry: Entry, worker: bytes) -> None:
        if entry.failed:
            self.unseen.seen(entry.id)
        self.hand_out(entry.contained, worker)
        value = None if entry.value is None else entry.value
        error = "its owner has already freed it" if value is None else ""
        mark = self.places.get(entry.id) or (mark_of(self.worker) if type(value) is int else b"")
        self.outbox.append((worker, encode(ObjectValue(entry.id, value, list(entry.contained), error, mark))))

    # --- tasks ------------------------------------------------------------------------------------------------------

    def add_task(self, task: Task) -> None:
        """Accept a task: it is QUEUED, or WAITING_ARGUMENTS while one of its arguments does not exist."""
        self.tasks[task.id] = task
        for entry in task.entries:
            self.entries[entry.id] = entry
            self.pending.add(entry.id)
        if task.arguments:
            for _, entry in task.arguments:
                if entry.state == PENDING:
                    task.unready += 1
                    self.wait_for(entry, task)
            if task.unready:
                advance(task, TaskState.WAITING_ARGUMENTS)

    def finish(self, task: Task, state: TaskState, error: bytes = b"") -> None:
        """The task is over, with ``error`` if it failed: its arguments are no longer needed."""
        advance(task, state)
        del self.tasks[task.id]
        if task.pinned is not None:
            pinned, task.pinned = task.pinned, None
            self.unpin(pinned)
        if self.on_finished is not None:
            self.on_finished(task, error)

    def needed_by_others(self) -> tuple[int, int]:
        """How many objects of this process others hold, and how many of its tasks have not ended."""
        held = sum(1 for counts in self.holders.values() if any(counts.values()))
        return held, len(self.tasks)

    def check_invariants(self) -> None:
        """Raise AssertionError if a count or a table contradicts another. For simulation and tests."""
        assert self.pending == {i for i, entry in self.entries.items() if entry.state == PENDING}
        for identifier, entry in self.entries.items():
            assert entry.id == identifier
            assert entry.local >= 0 and entry.pins >= 0, f"{identifier.hex()}: local {entry.local} pins {entry.pins}"
            assert entry.state == READY or entry.value is None
        for task in self.tasks.values():
            assert task.state not in (TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED)
            assert (task.unready > 0) == (task.state is TaskState.WAITING_ARGUMENTS)
        for identifier, counts in self.holders.items():
            for worker in counts:
                assert identifier in self.held_by[worker]
