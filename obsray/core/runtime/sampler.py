"""Always-on sampling: what the threads that run tasks are doing, some 20 times a second.

The session's watcher looks (it wakes anyway), so there is no thread more and nothing on the path of a task. A sample
stands for the time since the last look, so that short tasks are seen as often as they deserve in sum. Samples of one
stack in a row become one record; the first of them is written at once, so that a kill leaves behind what was running.
Where a thread was on a CPU is told from its CPU clock. While C code holds the interpreter nobody can look: the next
sample stands for that time too, and finds the thread at the call that held it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from obsray.core.runtime.running import Running
from obsray.core.runtime.stacks import Point, StackTexts, points_of, points_of_awaiting, threads

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session

#: Different stacks that one process records; beyond, a sample says only the innermost function, and that is counted.
STACKS_MAX = 4096
#: A stack that does not change is recorded this often.
RECORD_SECONDS = 1.0
#: Suspended coroutines looked at in one round; the others have their turn in the next.
SUSPENDED_MAX = 8
#: Threads of user code that run beside a task's own, looked at in one round.
BESIDE_MAX = 16
#: A thread beside a task's own counts only if it used this share of a CPU since the last look.
BESIDE_RATIO_MIN = 0.02
#: Clocks of threads that are remembered from look to look.
CLOCKS_MAX = 512
_NS = 1_000_000_000
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
NIL_TASK = bytes(16)
#: What samples of a driver are listed under in place of a function.
DRIVER = "(driver)"


class _Streak:
    """Samples of one stack in a row that are not recorded yet."""

    __slots__ = ("attempt", "cpu", "memory", "name", "samples", "seconds", "seen", "since", "stack", "task", "thread")

    def __init__(self, task: bytes, attempt: int, name: int, stack: int, thread: int, now: int) -> None:
        self.task, self.attempt, self.name, self.stack, self.thread = task, attempt, name, stack, thread
        self.samples, self.seconds, self.cpu, self.since, self.seen = 0, 0.0, 0.0, now, now
        self.memory = 0


class Sampler:
    """Looks at the threads of one process. Used by its watcher alone, without the session's lock."""

    def __init__(self, session: Session, hz: float) -> None:
        self._session = session
        self._emitter = session.emitter
        self._period = 1.0 / hz
        self._texts = StackTexts()
        self._stacks: dict[str, int] = {}
        self._short: dict[str, int] = {}
        self._overflowed = 0
        self._threads: dict[str, int] = {}
        self._driver_name = 0
        self._last = time.monotonic_ns()
        self._due = time.monotonic()
        self._chance = random.Random()
        #: Native id of a thread -> its CPU clock at the last look.
        self._cpu: dict[int, int] = {os.getpid(): _cpu_ns(os.getpid())}
        #: Native id of a thread, or id of a call on a loop -> what it was seen in last.
        self._streaks: dict[Any, _Streak] = {}
        self._turn = 0
        self._memory = 0
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._stopped = False

    def wait_seconds(self, otherwise: float) -> float:
        """How long the watcher may sleep: until the next look, where there is something to look at."""
        executor = self._session.executor
        if executor is not None and not executor.slots and (executor.actor is None or not executor.actor.loops):
            return otherwise
        return min(otherwise, max(0.002, self._due - time.monotonic()))

    def look(self) -> None:
        """Take samples if it is time to."""
        now = time.monotonic()
        if now < self._due:
            return
        # Not in step with anything the code does in equal intervals.
        self._due = now + self._period * self._chance.uniform(0.7, 1.3)
        executor = self._session.executor
        if executor is not None and not executor.slots and executor.actor is None and not self._streaks:
            self._last = time.monotonic_ns()
            return
        with self._lock:
            if not self._stopped:
                self._round()

    def stop(self) -> None:
        """Record what was seen and is not recorded yet, and look no more."""
        with self._lock:
            self._stopped = True
            for streak in self._streaks.values():
                self._record(streak, time.time_ns())
            self._streaks.clear()
            if self._statm >= 0:
                os.close(self._statm)
                self._statm = -1

    # --- one round ----------------------------------------------------------------------------------------

    def _round(self) -> None:
        now_ns = time.monotonic_ns()
        elapsed, self._last = (now_ns - self._last) / _NS, now_ns
        at = time.time_ns()
        self._memory = _own_memory_bytes(self._statm)
        seen: set[Any] = set()
        cpu: dict[int, int] = {}
        for ident, native, running, thread in self._subjects():
            used = _cpu_ns(native)
            if used < 0:
                continue
            cpu[native] = used
            ratio = min(1.0, max(0, used - self._cpu.get(native, used)) / (elapsed * _NS)) if elapsed > 0 else 0.0
            beside = thread != ""
            if beside and ratio < BESIDE_RATIO_MIN:
                continue
            points = points_of(ident)
            if points:
                seconds = ratio * elapsed if beside else self._weight(running, elapsed, at)
                self._sample(native, running, points, thread, seconds, seconds if beside else ratio * seconds, at)
                seen.add(native)
        executor = self._session.executor
        if executor is not None and executor.actor is not None and executor.actor.loops:
            self._suspended(executor.actor, elapsed, at, seen)
        # Also of threads that run nothing now: they used next to nothing since then.
        self._cpu = {**self._cpu, **cpu} if len(self._cpu) < CLOCKS_MAX else cpu
        calls = self._calls()
        for key in [key for key in self._streaks if key not in seen]:
            streak = self._streaks[key]
            if type(key) is not bytes or key not in calls:
                self._record(streak, at)
                del self._streaks[key]

    def _calls(self) -> dict[bytes, Any]:
        actor = self._session.executor.actor if self._session.executor is not None else None
        if actor is None:
            return {}
        return {task: call for loop in actor.loops for task, call in list(loop.coroutines.items())}

    def _subjects(self) -> Iterator[tuple[int, int, Running | None, str]]:
        """Threads to look at: ident, native id, attempt (None in a driver), and a name if it is not a task's own."""
        executor, main = self._session.executor, threading.main_thread()
        own: set[int] = set()
        alone: Running | None = None
        if executor is None:
            own.add(main.ident or 0)
            yield main.ident or 0, _native(main), None, ""
        else:
            slots = list(executor.slots.items())
            alone = slots[0][1] if len(slots) == 1 else None
            for slot, running in slots:
                ident = executor.threads.get(slot, 0)
                thread = threading._active.get(ident)  # type: ignore[attr-defined]
                if thread is not None and running.loaded is not None:
                    own.add(ident)
                    yield ident, _native(thread), running, ""
            for loop in executor.actor.loops if executor.actor is not None else ():
                thread, running = loop.thread, loop.on_loop()
                if running is not None and running.loaded is not None and thread.ident not in own:
                    yield thread.ident, _native(thread), running, ""
                own.add(thread.ident)
        if executor is not None and alone is None:
            return
        looked = 0
        for ident in threads():
            thread = threading._active.get(ident)  # type: ignore[attr-defined]
            if thread is None or ident in own or thread.name.startswith("obsray-") or looked >= BESIDE_MAX:
                continue
            looked += 1
            yield ident, _native(thread), alone, thread.name or "thread"

    def _weight(self, running: Running | None, elapsed: float, at: int) -> float:
        """What a sample stands for: the time since the last look; after a late look not more than the task ran."""
        if running is None or elapsed <= 2 * self._period:
            return elapsed
        return min(elapsed, max(self._period, (at - running.started_at) / _NS))

    def _suspended(self, actor: Any, elapsed: float, at: int, seen: set[Any]) -> None:
        """Calls that are in the middle of an ``await``, a few in each round."""
        calls = list(self._calls().items())
        if not calls:
            return
        on_loops = [loop.on_loop() for loop in actor.loops]
        for number in range(min(SUSPENDED_MAX, len(calls))):
            task, (running, coroutine) = calls[(self._turn + number) % len(calls)]
            if running.loaded is None or running in on_loops:
                continue
            points = points_of_awaiting(coroutine.get_coro())
            if points:
                known = self._streaks.get(task)
                since = running.started_at if known is None else known.seen
                self._sample(task, running, points, "", max(0.0, (at - since) / _NS), 0.0, at)
                seen.add(task)
        self._turn += SUSPENDED_MAX

    # --- recording ----------------------------------------------------------------------------------------

    def _sample(
        self, key: Any, running: Running | None, points: list[Point], thread: str, seconds: float, cpu: float, at: int
    ) -> None:
        stack = self._stack(self._texts.text(points, running is not None and not thread))
        if running is None:
            self._driver_name = self._driver_name or self._emitter.intern(DRIVER)
            task, attempt, name = NIL_TASK, 0, self._driver_name
        else:
            task, attempt, name = running.task, running.attempt, running.loaded.name_number
        streak = self._streaks.get(key)
        if streak is None or streak.stack != stack or streak.task != task or streak.attempt != attempt:
            if streak is not None:
                self._record(streak, at)
            streak = self._streaks[key] = _Streak(task, attempt, name, stack, self._thread(thread), at)
            fresh = True
        else:
            fresh = at - streak.since > RECORD_SECONDS * _NS
        streak.samples += 1
        streak.seconds += seconds
        streak.cpu += min(cpu, seconds)
        streak.seen = at
        streak.memory = max(streak.memory, self._memory)
        if fresh:
            self._record(streak, at)

    def _record(self, streak: _Streak, at: int) -> None:
        if streak.samples:
            self._emitter.stack_sampled(
                at, streak.task, streak.attempt, streak.name, streak.stack, streak.thread,
                min(streak.samples, 65_535), streak.seconds, streak.cpu, streak.memory,
            )  # fmt: skip
        streak.memory = 0
        streak.samples, streak.seconds, streak.cpu, streak.since = 0, 0.0, 0.0, at

    def _stack(self, text: str) -> int:
        number = self._stacks.get(text)
        if number is not None:
            return number
        if len(self._stacks) < STACKS_MAX:
            number = self._stacks[text] = self._emitter.intern(text)
            return number
        if not self._overflowed & (self._overflowed - 1):
            # Told at 1, 2, 4, 8, ... so that how many is known and the telling is bounded.
            self._emitter.stacks_overflowed(time.time_ns(), self._session.worker, STACKS_MAX, self._overflowed + 1)
        self._overflowed += 1
        short = text.rpartition("\n")[2].rpartition(":")[0] + ")"
        number = self._short.get(short)
        if number is None:
            number = self._emitter.intern(f"(too many stacks)\n{short}") if len(self._short) < STACKS_MAX else 0
            self._short[short] = number
        return number

    def _thread(self, name: str) -> int:
        if not name:
            return 0
        number = self._threads.get(name)
        if number is None:
            name = name if len(self._threads) < 64 else "other thread"
            number = self._threads[name] = self._emitter.intern(name[:100])
        return number


def _own_memory_bytes(statm: int) -> int:
    """Resident memory of this process that it shares with nobody: without the object store and code of libraries."""
    _, resident, shared, *_ = os.pread(statm, 128, 0).split()
    return max(0, int(resident) - int(shared)) * _PAGE_BYTES


def _native(thread: threading.Thread) -> int:
    # A fork gives the main thread another number, which Python does not notice.
    return os.getpid() if thread is threading.main_thread() else thread.native_id or 0


def _cpu_ns(native: int) -> int:
    """The CPU clock of a thread of this process by its native id; -1 if it is gone."""
    try:
        # The number that clock_gettime(2) knows the clock of one thread by.
        return time.clock_gettime_ns((~native << 3) | 6)
    except OSError:
        return -1
