"""A thread of user code without a thread: it runs a program up to the next thing that would block.

User code is written as generators (``workloads.py``, ``bodies.py``). What they yield is what a thread would block in;
everything else they do by calling methods of their ``VirtualThread``, as real code calls the API.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from obsray.core.protocol import messages as m
from obsray.core.runtime.ownership import READY, Entry
from obsray.core.runtime.running import Running
from obsray.core.runtime.streams import Stream
from obsray.core.runtime.waiting import Waiter
from obsray.errors import GetTimeoutError
from obsray.ids import NIL_TASK
from obsray.telemetry.events import WaitKind
from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS
from obsray.testing.programs import Item, Program, Sleep, Steps, Until, Value

if TYPE_CHECKING:
    from obsray.testing.virtual_process import VirtualProcess

BLOCKED_AFTER_NS = MILLISECOND_NS


class _Alarm:
    """Stands in for ``threading.Event`` inside a Waiter: the thread goes on a moment later."""

    def __init__(self, thread: VirtualThread, turn: int) -> None:
        self._thread = thread
        self._turn = turn

    def set(self) -> None:
        self._thread.go_on(self._turn)


class VirtualThread:
    """Runs one program. ``holds`` counts the references it has; ``running`` is the attempt, in a worker."""

    def __init__(self, process: VirtualProcess, name: str) -> None:
        self.process = process
        self.name = name
        self.holds: dict[bytes, int] = {}
        self.running: Running | None = None
        self.ended: Callable[[Any, BaseException | None], None] | None = None
        self.waiting: Until | Sleep | None = None
        self.done = False
        self._program: Program | None = None
        self._turn = 0
        self._blocked_at = 0

    # --- running -------------------------------------------------------------------------------------------

    def run(self, program: Program) -> None:
        """Begin the program now."""
        self._program = program
        self._resume(None, None)

    def _resume(self, in_time: bool | None, error: BaseException | None) -> None:
        program, wish = self._program, None
        assert program is not None
        self._turn += 1
        self.waiting = None
        self.process.local.running = self.running
        try:
            while wish is None:
                wish = program.send(in_time) if error is None else program.throw(error)
                error, in_time = None, True
                if isinstance(wish, Until) and wish.waiter.missing <= 0:
                    wish = None
            self._wait(wish)
        except StopIteration as end:
            self._end(end.value, None)
        except (Exception, KeyboardInterrupt) as failed:
            self._end(None, failed)
        finally:
            self.process.local.running = None

    def _wait(self, wish: Sleep | Until | Item) -> None:
        assert not isinstance(wish, Item), "only streaming tasks yield items"
        self.waiting = wish
        agenda, turn = self.process.agenda, self._turn
        if isinstance(wish, Sleep):
            agenda.after(wish.duration_ns, self._on_time, turn, True)
            return
        cast(Any, wish.waiter).event = _Alarm(self, turn)
        if wish.timeout_ns is not None:
            agenda.after(wish.timeout_ns, self._on_time, turn, False)
        if self.running is not None and self.process.executor is not None:
            agenda.after(BLOCKED_AFTER_NS, self._on_blocked, turn)

    def go_on(self, turn: int) -> None:
        """What the thread waited for in this turn is there."""
        self.process.agenda.after(2 * MICROSECOND_NS, self._on_time, turn, True)

    def interrupt(self) -> None:
        """User code sees KeyboardInterrupt where it is."""
        if self.waiting is not None:
            self.process.agenda.after(2 * MICROSECOND_NS, self._on_time, self._turn, True, KeyboardInterrupt())

    def _on_time(self, turn: int, in_time: bool, error: BaseException | None = None) -> None:
        if turn != self._turn or self.process.dead or self.done:
            return
        self.process.do(self._unblock_and_resume, in_time, error)

    def _unblock_and_resume(self, in_time: bool, error: BaseException | None) -> None:
        wish = self.waiting
        if self._blocked_at and isinstance(wish, Until) and self.running is not None:
            blocked_ns, self._blocked_at = self.process.agenda.elapsed_ns - self._blocked_at, 0
            assert self.process.executor is not None
            self.process.executor.unblocked(self.running, blocked_ns, wish.kind)
        self._resume(in_time, error)

    def _on_blocked(self, turn: int) -> None:
        wish = self.waiting
        if turn != self._turn or self.process.dead or not isinstance(wish, Until) or wish.waiter.missing <= 0:
            return
        executor, running = self.process.executor, self.running
        assert executor is not None and running is not None
        self._blocked_at = self.process.agenda.elapsed_ns
        self.process.do(executor.blocked, running, wish.kind)

    def _end(self, value: Any, error: BaseException | None) -> None:
        self.done = True
        self.let_go()
        if self.ended is not None:
            self.ended(value, error)
        elif error is not None:
            raise error

    # --- references ------------------------------------------------------------------------------------------

    def hold(self, identifier: bytes) -> None:
        """Note that the program has one more reference (its entry has been counted already)."""
        self.holds[identifier] = self.holds.get(identifier, 0) + 1

    def drop(self, *identifiers: bytes) -> None:
        """The program lets one reference of each go."""
        for identifier in identifiers:
            left = self.holds[identifier] - 1
            if left:
                self.holds[identifier] = left
            else:
                del self.holds[identifier]
            self.process.dropped.append(identifier)

    def let_go(self) -> None:
        """Every local variable of the program is gone."""
        for identifier, count in self.holds.items():
            self.process.dropped += [identifier] * count
        self.holds.clear()

    # --- what programs call -------------------------------------------------------------------------------------

    def submit(self, name: str, *numbers: int, **options: Any) -> bytes:
        """Submit a task with one result and hold the reference to it. Options as of ``VirtualProcess.submit``."""
        (identifier,) = self.process.submit(name, numbers, thread=self, **options)
        return identifier

    def get(self, identifiers: list[bytes], timeout_ns: int | None = None) -> Steps[list[Value]]:
        """The values, in order; references inside them are held. Raises the first failure."""
        process = self.process
        entries = [process.ownership.entries[identifier] for identifier in identifiers]
        missing = [entry for entry in entries if entry.state != READY]
        if missing:
            waiter = Waiter(len(missing), fail_fast=True)
            for entry in missing:
                process.ownership.wait_for(entry, waiter)
            process.send_everything()
            try:
                yield Until(waiter, timeout_ns)
            finally:
                for entry in missing:
                    process.ownership.stop_waiting(entry, waiter)
        for entry in entries:
            if entry.failed:
                process.raise_error(entry)
        if any(entry.state != READY for entry in entries):
            raise GetTimeoutError("not there in time")
        values = []
        for entry in entries:
            values.append((yield from self.read(entry)))
        return values

    def read(self, entry: Entry) -> Steps[Value]:
        """Open a value, inline or in the store."""
        found = yield from self.process.read(entry)
        if type(found) is bytes:
            value = self.process.open(found, self)
        else:
            value = self.process.adopt(found, self)
            self.process.unpin(entry.id)
        self.process.simulator.ledger.read(entry.id, value.made)
        return value

    def wait(self, identifiers: list[bytes], count: int, timeout_ns: int | None = None) -> Steps[list[bytes]]:
        """Those that are ready, at most ``count``."""
        process = self.process
        entries = [process.ownership.entries[identifier] for identifier in identifiers]
        pending = [entry for entry in entries if entry.state != READY]
        waiter = Waiter(count - (len(entries) - len(pending)))
        if waiter.missing > 0:
            for entry in pending:
                process.ownership.wait_for(entry, waiter)
            process.send_everything()
            try:
                yield Until(waiter, timeout_ns, WaitKind.WAIT)
            finally:
                for entry in pending:
                    process.ownership.stop_waiting(entry, waiter)
        return [entry.id for entry in entries if entry.state == READY][:count]

    def next_item(self, stream: Stream) -> Steps[bytes | None]:
        """The next item of a stream, held; None at its end. As ``ObjectRefGenerator``."""
        process = self.process
        if not stream.is_ready():
            waiter = stream.waiter = Waiter(1)
            process.send_everything()
            try:
                yield Until(waiter)
            finally:
                stream.waiter = None
        if not stream.ready:
            return None
        entry = stream.ready.popleft()
        stream.taken += 1
        self.hold(entry.id)
        task = process.ownership.tasks.get(stream.task)
        if stream.backpressure > 0 and task is not None and task.dispatched_to is not None:
            message = m.encode(m.ItemsTaken(stream.task, stream.taken))
            process.ownership.outbox.append((task.dispatched_to.worker, message))
            process.after()
        return entry.id

    def abandon(self, stream: Stream) -> None:
        """The program wants no more items."""
        self.process.submission.streams.abandon(stream)
        self.process.after()

    def put(self, value: Value) -> Steps[bytes]:
        """Store a value of this process; the program holds the reference."""
        process = self.process
        identifier = process.next_put()
        entry = Entry(identifier, True)
        entry.local = 1
        stored = yield from process.store(identifier, value)
        inner = tuple(value.inner)
        process.ownership.put(entry, stored, inner)
        task = self.running.task if self.running is not None else NIL_TASK
        process.records.object_put(process.clock.time_ns(), identifier, task, value.size, type(stored) is bytes, 0)
        self.hold(identifier)
        process.after()
        return identifier
