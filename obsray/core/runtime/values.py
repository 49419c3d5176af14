"""Values of one session: put and get, wait, futures; inline ones and those in the object store."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from obsray.core.protocol import messages as m
from obsray.core.protocol.fallback import FALLBACK, Gone
from obsray.core.runtime import unplaceable
from obsray.core.runtime.call_sites import CallSites
from obsray.core.runtime.ownership import READY, Entry
from obsray.core.runtime.progress import Progress, reason
from obsray.core.runtime.progress import wanted as progress_wanted
from obsray.core.runtime.references import ObjectRef, counted, dropped, unknown
from obsray.core.runtime.serialization import Serialized, deserialize, serialize
from obsray.core.runtime.waiting import NOTICED_SECONDS, STORE_PATIENCE_SECONDS, Answer, Waiter, object_of
from obsray.errors import (
    GetTimeoutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectStoreFullError,
    RayError,
    RaySystemError,
)
from obsray.ids import NIL_TASK, task_of
from obsray.telemetry.events import WaitKind

if TYPE_CHECKING:
    import concurrent.futures

    from obsray.core.runtime.session import Session


log = logging.getLogger("obsray.objects")


class _FutureWaiter:
    """``task``: the async call that awaits it, if one does, and ``asker`` the part of it that does; ``noticed``: it was
    told that it waits for long."""

    __slots__ = ("asker", "began", "future", "noticed", "task", "values")

    def __init__(
        self, values: Values, future: concurrent.futures.Future[Any], task: bytes = b"", asker: Any = None
    ) -> None:
        self.values, self.future, self.task, self.asker = values, future, task, asker
        self.began, self.noticed = time.monotonic() if task else 0.0, False

    def on_ready(self, entry: Entry) -> None:
        self.values.awaited.discard(self)
        if self.noticed:
            self.values.session.emitter.await_ended(time.time_ns(), self.task, entry.id, time.monotonic() - self.began)
        self.values.completions.append((self.future, entry, None))


class _Reading:
    """A future whose value is in the store and is being pinned: nobody stands still for it. Guarded by the lock.

    What completes futures may be the loop whose coroutines hold what must go first, or the thread that drives the
    sockets over which the answer comes.
    """

    __slots__ = ("entry", "future", "tries", "values")

    def __init__(self, values: Values, future: concurrent.futures.Future[Any], entry: Entry) -> None:
        self.values, self.future, self.entry = values, future, entry
        self.tries = 0

    def begin(self) -> None:
        self.values.awaited.add(self)
        answer = self.values.session.ask(lambda number: m.PinObject(number, self.entry.id))
        answer.then = self._arrived

    def on_ready(self, entry: Entry) -> None:
        """It is there again, or has failed."""
        if type(entry.value) is int:
            self.begin()
        else:
            self._complete(entry)

    def _complete(self, outcome: Entry | Exception, view: memoryview | None = None) -> None:
        self.values.awaited.discard(self)
        self.values.completions.append((self.future, outcome, view))

    def _arrived(self, answer: m.ObjectPinned | m.ObjectRefused) -> None:
        session, entry = self.values.session, self.entry
        if isinstance(answer, m.ObjectPinned):
            session.ownership.places.pop(entry.id, None)
            try:
                self._complete(entry, session.arena.open(entry.id, answer.offset, answer.size))
                return
            except Gone as error:
                kind, detail = "lost", self.values.file_gone(entry.id, error)
            except OSError as error:
                self._complete(self.values.unreadable_file(entry.id, error))
                return
        else:
            kind, detail = answer.error, answer.detail
        self.tries += 1
        if kind not in ("lost", "unknown") or self.tries >= READS_MAX:
            text = f"object {entry.id.hex()} cannot be read: {detail}"
            self._complete(ObjectLostError(entry.id.hex(), message=text))
            return
        session.inbox.recovery.unreadable(entry, detail)
        if entry.state == READY:
            self.on_ready(entry)
        else:
            session.ownership.wait_for(entry, self)


def _gathered(asker: Any) -> bool:
    """Whether whoever waits for ``asker``, an asyncio task, needs others beside it too."""
    try:
        names = [getattr(callback, "__qualname__", "") for callback, _ in asker._callbacks or ()]
    except (AttributeError, TypeError, ValueError):
        # Nobody awaits in a task, or this Python has them elsewhere.
        return False
    return any(name.startswith(("gather.", "TaskGroup.")) for name in names)


class Unreadable(Exception):
    """A stored object cannot be read on this node; the text says why. ``identifier``: which."""

    def __init__(self, identifier: bytes, detail: str) -> None:
        super().__init__(detail)
        self.identifier = identifier


class _Fetched:
    """A value that ``wait`` wants on this node. Guarded by the session's lock."""

    def __init__(self, session: Session, entry: Entry) -> None:
        self.session = session
        self.entry = entry
        self.id = entry.id
        self.watchers: list[Waiter] = []
        self._tries = 0

    @property
    def state(self) -> int:
        """That of the value, wherever it is."""
        return self.entry.state

    def is_ready(self) -> bool:
        """Whether it exists and does not lie elsewhere only."""
        if self.entry.state != READY:
            return False
        return type(self.entry.value) is not int or self.id not in self.session.ownership.places

    def begin(self) -> None:
        """Wait for it, or have it fetched."""
        if self.entry.state == READY:
            self._fetch()
        else:
            self.session.ownership.wait_for(self.entry, self)

    def on_ready(self, entry: Entry) -> None:
        """It exists, or has failed."""
        if self.is_ready():
            watchers, self.watchers = self.watchers, []
            for watcher in watchers:
                watcher.on_ready(entry)
        elif self.watchers:
            self._fetch()

    def _fetch(self) -> None:
        answer = self.session.ask(lambda number: m.PinObject(number, self.id))
        answer.then = self._arrived

    def _arrived(self, answer: m.ObjectPinned | m.ObjectRefused) -> None:
        ownership = self.session.ownership
        if isinstance(answer, m.ObjectPinned):
            self.session.node.send(m.encode(m.UnpinObjects([self.id])))
            ownership.places.pop(self.id, None)
            self.on_ready(self.entry)
            return
        self._tries += 1
        if self._tries < READS_MAX and answer.error in ("lost", "unknown"):
            self.session.inbox.recovery.unreadable(self.entry, answer.detail)
        else:
            # Whoever reads it hears why it cannot be read.
            ownership.places.pop(self.id, None)
        if self.watchers:
            if self.entry.state == READY:
                self.on_ready(self.entry)
            else:
                ownership.wait_for(self.entry, self)


#: How often a value is waited for again that could not be read when it was there.
READS_MAX = 8
#: Fewer references than this are looked at one by one.
LOOK_AHEAD = 8
#: References that died are counted with what is sent next, or by the watcher; here if they are many.
DROPPED_MANY = 100


def _split(references: list[Any], where: list[int]) -> tuple[list[Any], list[Any]]:
    """The references at these positions (ascending), and the others; by slices, because there may be many others."""
    rest: list[Any] = []
    after = 0
    for position in where:
        rest += references[after:position]
        after = position + 1
    rest += references[after:]
    return [references[position] for position in where], rest


class Values:
    """The values this process makes, holds and reads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._fallback_told = False
        self._progress = session.config.progress != "0"
        self._sites = CallSites(session.emitter)
        self._unplaceable = unplaceable.Unplaceable(session)
        #: Futures that can be set, to a value (as it lies in the store, once it is pinned) or an error.
        self.completions: deque[tuple[concurrent.futures.Future[Any], Entry | Exception, memoryview | None]] = deque()
        #: Futures whose values have not arrived.
        self.awaited: set[_FutureWaiter | _Reading] = set()
        #: What the last wait has left, if those are references only, each once; until the watcher looks, since it
        #: keeps their values alive.
        self.left: list[Any] | None = None
        #: What async calls await, oldest first, until it is noticed that they have waited for long.
        self._young: deque[tuple[_FutureWaiter, bytes]] = deque()

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value owned by this process."""
        self.session.check_open()
        if self.session.interrupt_pending:
            self.session.take_interrupt()
        serialized = value if type(value) is Serialized else serialize(value)
        for reference in serialized.references:
            if reference not in self.session.ownership.entries:
                raise unknown(reference)
        identifier = self.session.next_put()
        entry = Entry(identifier, True)
        entry.local = 1
        inline = serialized.size <= self.session.config.inline_bytes_max
        stored: Any = serialized.to_bytes() if inline else self.store(identifier, serialized)
        running = self.session.local.running
        with self.session.lock:
            self.session.ownership.put(entry, stored, serialized.references)
            task = running.task if running is not None else NIL_TASK
            self.session.emitter.object_put(
                time.time_ns(), identifier, task, serialized.size, inline, self._sites.here()
            )
            if dropped:
                self.session.drain_dropped()
                if not inline:
                    self.session.after()
        return counted(identifier)

    def store(self, identifier: bytes, serialized: Serialized) -> int:
        """Write a value into the object store and seal it. Raises ObjectStoreFullError. Returns its size."""
        size = serialized.size
        with self.session.lock:
            # Views and references that died may be the room that is needed.
            answer = self.session.ask(lambda number: m.CreateObject(number, identifier, size))
            self.session.after()
        try:
            self.session.wait_until(answer, None, WaitKind.ALLOCATE, STORE_PATIENCE_SECONDS)
        except BaseException:
            with self.session.lock:
                self.session.node.send(m.encode(m.AbortObject(identifier)))
                self.session.reactor.flush()
            raise
        room = answer.message
        if isinstance(room, m.ObjectRefused):
            if room.error == "duplicate":
                return size
            raise ObjectStoreFullError(room.detail)
        try:
            self.session.arena.write(identifier, room.offset, serialized)
        except OSError as error:
            with self.session.lock:
                self.session.node.send(m.encode(m.AbortObject(identifier)))
                self.session.reactor.flush()
            raise ObjectStoreFullError(f"no room for {size} bytes, and their file cannot be written: {error}") from None
        if room.offset >= FALLBACK:
            self._tell_fallback(size)
        with self.session.lock:
            self.session.node.send(m.encode(m.SealObject(identifier)))
            self.session.reactor.flush()
        return size

    def _tell_fallback(self, size: int) -> None:
        """Say once that values lie on disk for want of room."""
        if self._fallback_told:
            return
        self._fallback_told = True
        from obsray.telemetry.explain import size as shown

        store = self.session.arena.size
        why = (
            "it is larger than the whole store"
            if size > store
            else "what fills it is in use: arrays that programs have got and still hold"
        )
        log.warning(
            "the object store (%s) has no room for a value of %s, because %s. The value is kept in a file on disk "
            "instead, as others may be from now on: everything goes on, more slowly. Let go of what is not needed "
            "any more, or give the store more memory (object_store_memory); `obsray memory` says what fills it",
            shown(store), shown(size), why,
        )  # fmt: skip

    def file_gone(self, identifier: bytes, error: Gone) -> str:
        """A value was pinned in a file that is not there any more: tell the node, with the lock held. Returns why."""
        detail = f"its file cannot be mapped: {error}"
        self.session.node.send(m.encode(m.FileGone(identifier, detail)))
        return detail

    def unreadable_file(self, identifier: bytes, error: OSError) -> ObjectLostError:
        """A value lies in a file on this node that this process cannot open."""
        return ObjectLostError(
            identifier.hex(), message=f"object {identifier.hex()} cannot be read: its file cannot be mapped: {error}"
        )

    def get(self, references: list[ObjectRef[Any]], timeout: float | None, progress: bool | None = None) -> list[Any]:
        """The values, in order. Raises the first failure, GetTimeoutError after ``timeout`` seconds."""
        executor = self.session.executor
        if executor is not None and executor.actor is not None:
            executor.actor.warn_if_blocking()
        entries = self.entries_of(references)
        missing = [entry for entry in entries if entry.state != READY]
        deadline = None if timeout is None else time.monotonic() + timeout
        if missing:
            shown = None
            if (progress is not None or self._progress) and progress_wanted(self.session, progress):
                shown = Progress(self.session, "get", entries, missing, len(entries), len(entries) - len(missing))
            self._wait_for_all(missing, deadline, shown)
        for entry in entries:
            if entry.failed:
                self._see_all(entries)
                self.value(entry, deadline)
        for entry in entries:
            if entry.state != READY:
                raise self._timed_out(entry, sum(e.state != READY for e in entries), len(entries), timeout)
        if len(entries) > 1 and any(type(entry.value) is int for entry in entries):
            # Held until each value has a view of its own.
            ahead = self._pin_ahead(entries, deadline)
            values = [self.value(entry, deadline) for entry in entries]
            del ahead
            return values
        return [self.value(entry, deadline) for entry in entries]

    def _see_all(self, entries: list[Entry]) -> None:
        """The error of one of these is raised for all of them."""
        for entry in entries:
            if entry.failed:
                self.session.ownership.unseen.seen(entry.id)

    def _timed_out(self, first: Entry, missing: int, total: int, timeout: float | None) -> GetTimeoutError:
        identifier = task_of(first.id)
        task = self.session.ownership.tasks.get(identifier)
        state = f" ({task.function.name}, {reason(task)})" if task is not None else ""
        return GetTimeoutError(
            f"{missing} of {total} values were not there after {timeout} s, the first is {first.id.hex()}{state}; "
            f"`obsray get task {identifier.hex()}` says what it waits for"
        )

    def entries_of(self, references: list[ObjectRef[Any]]) -> list[Entry]:
        """The entries behind references of this session. Raises RaySystemError for those of another."""
        self.session.check_open()
        known = self.session.ownership.entries
        found = []
        for reference in references:
            entry = known.get(reference._id)
            if entry is None:
                raise unknown(reference._id)
            found.append(entry)
        return found

    def _wait_for_all(self, missing: list[Entry], deadline: float | None, shown: Progress | None) -> None:
        waiter = Waiter(0, fail_fast=True)
        waiter.first, waiter.sources = missing[0].id, missing
        with self.session.lock:
            for entry in missing:
                if entry.state != READY:
                    waiter.missing += 1
                    self.session.ownership.wait_for(entry, waiter)
                if entry.failed:
                    return
            self.session.send_everything()
        try:
            if shown is None:
                self._wait_and_tell(waiter, deadline, missing)
            else:
                shown.follow(waiter, deadline, WaitKind.GET)
        except KeyboardInterrupt:
            # In a worker it is the task itself that is cancelled, and whoever did so said what of its children.
            if self.session.executor is None and self.session.config.interrupt_cancels == "1":
                self._cancel(missing)
            raise
        finally:
            if waiter.missing > 0 or (len(missing) > 1 and any(entry.state != READY for entry in missing)):
                with self.session.lock:
                    for entry in missing:
                        self.session.ownership.stop_waiting(entry, waiter)

    def _wait_and_tell(self, waiter: Waiter, deadline: float | None, missing: list[Entry]) -> None:
        session = self.session
        if session.executor is None:
            soon = time.monotonic() + unplaceable.AFTER_SECONDS
            if deadline is None or soon < deadline:
                session.wait_until(waiter, soon, part=True)
                if waiter.missing <= 0:
                    return
                self._unplaceable.look(entry for entry in missing if not entry.is_ready())
        session.wait_until(waiter, deadline)

    def _cancel(self, entries: list[Entry]) -> None:
        """Nobody waits any more for what is to make these."""
        session = self.session
        with session.lock:
            for entry in entries:
                # The end of one may have ended another that waited for it.
                task = session.ownership.tasks.get(task_of(entry.id)) if entry.state != READY else None
                if task is not None:
                    session.calls.cancel_any(task, False, True, time.time_ns())
            session.after()

    def value(self, entry: Entry, deadline: float | None = None) -> Any:
        """The value of an entry that is READY; raises the error if it is one."""
        value = entry.value
        return self._rebuilt(entry, value if type(value) is bytes else self._read(entry, deadline))

    def _rebuilt(self, entry: Entry, data: Any) -> Any:
        try:
            return deserialize(data)
        except Exception as error:
            if entry.failed:
                self.session.ownership.unseen.seen(entry.id)
                raise
            if isinstance(error, RayError):
                raise
            raise RaySystemError(
                f"the value of {entry.id.hex()} was there but could not be rebuilt here: {type(error).__name__}: "
                f"{error}. Classes and modules that it needs must be importable in this process, too"
            ) from error

    def _read(self, entry: Entry, deadline: float | None) -> Any:
        """A stored value, mapped. One that is lost is waited for until its task has made it again."""
        why = ""
        for _ in range(READS_MAX):
            value = entry.value
            if type(value) is bytes:
                return value
            if value is None and entry.state == READY:
                raise ObjectFreedError(entry.id.hex(), message=f"object {entry.id.hex()} has been freed by its owner")
            if value is not None:
                try:
                    return self.pinned_view(entry.id, deadline)
                except Unreadable as lost:
                    why = str(lost)
                    with self.session.lock:
                        self.session.inbox.recovery.unreadable(entry, why)
            self._wait_for_all([entry], deadline, None)
            if entry.state != READY:
                raise GetTimeoutError(f"object {entry.id.hex()} is lost and was not made again in time: {why}")
        raise ObjectLostError(entry.id.hex(), message=f"object {entry.id.hex()} cannot be read: {why}")

    def recovered(self, identifier: bytes, detail: str) -> Any:
        """A stored value that another process refers to and that cannot be read here: once it is there again."""
        session = self.session
        with session.lock:
            entry = session.ownership.entry(identifier)
            entry.local += 1
            if entry.state == READY:
                session.inbox.recovery.unreadable(entry, detail)
            elif not entry.owned:
                session.ownership.lost[identifier] = detail
        try:
            return self._read(entry, None)
        finally:
            dropped.append(identifier)

    def pinned_view(self, identifier: bytes, deadline: float | None = None) -> memoryview:
        """A stored object, mapped; it stays where it is while the view or anything made from it lives."""
        view = self.session.arena.view(identifier)
        if view is not None:
            return view
        with self.session.lock:
            answer = self.session.ask(lambda number: m.PinObject(number, identifier))
            self.session.after()
        return self._open_pinned(identifier, answer, deadline)

    def _open_pinned(self, identifier: bytes, answer: Answer, deadline: float | None) -> memoryview:
        try:
            self.session.wait_until(answer, deadline, patience=STORE_PATIENCE_SECONDS)
        finally:
            if answer.message is None:
                self._give_up(answer, m.UnpinObjects([identifier]))
        pinned = answer.message
        if pinned is None:
            raise GetTimeoutError(f"object {identifier.hex()} could not be read in time")
        if isinstance(pinned, m.ObjectRefused):
            if pinned.error in ("lost", "unknown"):
                raise Unreadable(identifier, pinned.detail)
            raise ObjectLostError(
                identifier.hex(), message=f"object {identifier.hex()} cannot be read: {pinned.detail}"
            )
        if self.session.ownership.places:
            # A copy is here now.
            self.session.ownership.places.pop(identifier, None)
        try:
            return self.session.arena.open(identifier, pinned.offset, pinned.size)
        except Gone as error:
            with self.session.lock:
                detail = self.file_gone(identifier, error)
                self.session.reactor.flush()
            raise Unreadable(identifier, detail) from None
        except OSError as error:
            raise self.unreadable_file(identifier, error) from None

    def _give_up(self, answer: Answer, undo: Any) -> None:
        """Nobody waits for this answer any more; if it is yet to come, what it grants is given back."""
        with self.session.lock:
            answer.undo = undo
            if answer.message is not None and not isinstance(answer.message, m.ObjectRefused):
                self.session.node.send(m.encode(undo))
                self.session.reactor.flush()

    def _pin_ahead(self, entries: list[Entry], deadline: float | None) -> list[memoryview]:
        """Ask for many stored objects at once instead of one round trip each. They stay pinned while the views live."""
        wanted = {e.id for e in entries if type(e.value) is int and self.session.arena.view(e.id) is None}
        # More than a handful at once could pin more than fits; the rest is asked for one by one.
        batch = list(itertools.islice(wanted, 64))
        with self.session.lock:
            answers = [(i, self.session.ask(lambda number, i=i: m.PinObject(number, i))) for i in batch]  # type: ignore[misc]
            self.session.after()
        found = []
        for identifier, answer in answers:
            # What cannot be read is looked at once more when its turn comes.
            with contextlib.suppress(Unreadable):
                found.append(self._open_pinned(identifier, answer, deadline))
        return found

    def wait(
        self,
        references: list[Any],
        count: int,
        timeout: float | None,
        streams: bool = False,
        progress: bool | None = None,
        fetch_local: bool = True,
    ) -> tuple[list[Any], list[Any]]:
        """The references that are ready, at most ``count``, and the rest; both in input order.

        ``streams``: whether there are streams among them. ``fetch_local``: what lies on another node is ready once it
        is here, and is fetched.
        """
        self.session.check_open()
        if self.session.interrupt_pending:
            self.session.take_interrupt()
        if len(dropped) > DROPPED_MANY or self.session.dispatcher.unsent:
            with self.session.lock:
                self.session.send_everything()
        pending = self.session.ownership.pending
        fetch = fetch_local and bool(self.session.node_addresses)
        if len(references) > LOOK_AHEAD and not streams and not (fetch and self.session.ownership.places):
            # Usually enough of them are ready: then one pass over the ids does, without a look at each entry.
            where = list(itertools.islice((i for i, x in enumerate(references) if x._id not in pending), count))
            if len(where) == count:
                self.entries_of([references[i] for i in where])
                ready, rest = _split(references, where)
                self.left = rest[:]
                return ready, rest
        return self._wait(references, count, timeout, progress, fetch)

    def _wait(
        self, references: list[Any], count: int, timeout: float | None, progress: bool | None, fetch: bool
    ) -> tuple[list[Any], list[Any]]:
        sources = [x._stream if type(x) is not ObjectRef else self.entries_of([x])[0] for x in references]
        if fetch:
            sources = [_Fetched(self.session, x) if type(x) is Entry else x for x in sources]
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter(count)
        pending: list[Any] = []
        with self.session.lock:
            for source in sources:
                if source.is_ready():
                    waiter.missing -= 1
                else:
                    pending.append(source)
            if waiter.missing > 0:
                waiter.first, waiter.sources = object_of(pending[0]), pending
                for source in pending:
                    self._watch_source(source, waiter)
            self.session.send_everything()
        if waiter.missing > 0:
            try:
                if timeout == 0:
                    # Look once at what has arrived already.
                    self.session.drive_or_sleep(waiter, 0)
                elif (progress is not None or self._progress) and progress_wanted(self.session, progress):
                    Progress(self.session, "wait", sources, pending, count, count - waiter.missing).follow(
                        waiter, deadline, WaitKind.WAIT
                    )
                else:
                    self.session.wait_until(waiter, deadline, WaitKind.WAIT)
            finally:
                with self.session.lock:
                    for source in pending:
                        if not source.is_ready():
                            self._unwatch_source(source, waiter)
        found = (i for i, source in enumerate(sources) if source.is_ready())
        return _split(references, list(itertools.islice(found, count)))

    def _watch_source(self, source: Any, waiter: Waiter) -> None:
        if type(source) is Entry:
            self.session.ownership.wait_for(source, waiter)
            return
        source.watchers.append(waiter)
        if type(source) is _Fetched:
            source.begin()

    def _unwatch_source(self, source: Any, waiter: Waiter) -> None:
        if type(source) is Entry:
            self.session.ownership.stop_waiting(source, waiter)
        elif waiter in source.watchers:
            source.watchers.remove(waiter)
            if type(source) is _Fetched:
                self.session.ownership.stop_waiting(source.entry, source)

    def future_of(self, reference: ObjectRef[Any], awaited: bool = False) -> concurrent.futures.Future[Any]:
        """A concurrent future that gets the value or the error. ``awaited``: whoever asks does nothing meanwhile."""
        import concurrent.futures

        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        (entry,) = self.entries_of([reference])
        # The future must keep the object alive on its own.
        future._obsray_reference = reference  # type: ignore[attr-defined]
        with self.session.lock:
            if entry.state == READY:
                self.completions.append((future, entry, None))
            else:
                running = self.session.local.running if awaited else None
                if running is not None:
                    import asyncio

                    waiter = _FutureWaiter(self, future, running.task, asyncio.current_task())
                else:
                    waiter = _FutureWaiter(self, future)
                self.awaited.add(waiter)
                if running is not None:
                    self._young.append((waiter, bytes(reference)))
                self.session.ownership.wait_for(entry, waiter)
                self.session.send_everything()
        if self.completions:
            self.complete_futures()
        return future

    def notice_awaits(self, now: float) -> None:
        """Tell of async calls that have waited for long. Call with the session's lock held."""
        while self._young:
            waiter, identifier = self._young[0]
            if waiter in self.awaited and waiter.began + NOTICED_SECONDS > now:
                return
            self._young.popleft()
            if waiter in self.awaited and not waiter.future.cancelled():
                waiter.noticed = True
                at = time.time_ns()
                since = at - int((now - waiter.began) * 1e9)
                kind = WaitKind.GATHER if _gathered(waiter.asker) else WaitKind.AWAIT
                self.session.emitter.wait_noticed(at, waiter.task, int(kind), 1, identifier, since)

    def abandon_futures(self, error: Exception) -> None:
        """No value will come any more. Call with the session's lock held; ``complete_futures`` tells."""
        while self.awaited:
            self.completions.append((self.awaited.pop().future, error, None))

    def complete_futures(self) -> None:
        """Set the futures whose values have arrived. Call without the session's lock."""
        while self.completions:
            try:
                future, outcome, view = self.completions.popleft()
            except IndexError:
                return
            self._complete(future, outcome, view)
            # What the next one needs may be the room of this one.
            del future, outcome, view

    def _complete(
        self, future: concurrent.futures.Future[Any], outcome: Entry | Exception, view: memoryview | None
    ) -> None:
        value: Any = None
        failed: BaseException | None = None
        if future.done():
            return
        try:
            if isinstance(outcome, Exception):
                raise outcome
            data: Any = outcome.value if view is None else view
            if type(data) is int:
                data = self.session.arena.view(outcome.id)
                if data is None:
                    with self.session.lock:
                        _Reading(self, future, outcome).begin()
                        self.session.after()
                    return
            value = self.value(outcome) if data is None else self._rebuilt(outcome, data)
        except KeyboardInterrupt as error:
            if threading.current_thread() is threading.main_thread():
                # It is for this thread, not for who waits for the future: the next call tells that one.
                self.completions.appendleft((future, outcome, view))
                raise
            failed = error
        except BaseException as error:
            failed = error
        if not future.set_running_or_notify_cancel():
            return
        if failed is not None:
            future.set_exception(failed)
        else:
            future.set_result(value)
