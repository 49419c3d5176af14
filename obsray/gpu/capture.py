"""Capturing in a worker that owns a GPU: raw buffers to and fro, and nothing per record.

CUPTI asks for empty buffers and gives them back filled (``exchange.py``). A thread collects the filled ones: each is
written to the worker's file as it is (``chunks.py``), after the names of kernels seen for the first time were read
while their addresses are valid. Everything else (reading records, finding tasks) happens in the collector.

Tasks are told by marks, written when a task begins and when it ends, and by a number that is pushed as external
correlation id on the task's thread between the two.

Nothing here raises into user code. What goes wrong stops the capture and is recorded with its reason. If the time spent
here exceeds the allowed share of the time that tasks run, the level steps down, and an event says so.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from obsray.gpu import chunks, cupti, layouts
from obsray.gpu.cupti import Cupti, CuptiError
from obsray.gpu.exchange import Exchange, Finished, NotHereError
from obsray.gpu.parse import walk
from obsray.gpu.words import Level, Stage
from obsray.gpu.yielding import watch_for_torch

#: Size of a buffer; the cost of handing one over grows with what is in it, not with this.
BUFFER_BYTES = 1 << 20
#: How often buffers that came back are collected.
COLLECT_SECONDS = 0.05
#: A task's end has its buffers given back only if the last time is this long ago; the timer does it otherwise.
FLUSH_AFTER_NS = 50_000_000
#: The cost is judged over this much time in which tasks ran.
JUDGED_NS = 2_000_000_000
#: How often the state of the capture is recorded while tasks run.
SAMPLE_NS = 1_000_000_000
#: How long the end of a worker waits for the thread that collects.
CLOSE_SECONDS_MAX = 2.0
#: Longest name of a kernel that is read.
NAME_BYTES_MAX = 4096
#: Records of work lie this close to the time of their buffer.
_NEAR_NS = 3600 * 1_000_000_000

_KINDS = {
    Level.KERNELS: (
        layouts.EXTERNAL, layouts.KERNEL, layouts.MEMCPY, layouts.PEER_MEMCPY, layouts.MEMSET, layouts.SYNCHRONIZATION,
    ),
    Level.FULL: (layouts.DRIVER, layouts.RUNTIME, layouts.OVERHEAD),
}  # fmt: skip


class Refused(Exception):
    """Why nothing is captured in this process, as a sentence."""


class Capture:
    """The capture of one process. Raises Refused if it cannot take place; nothing is changed then.

    ``emitter`` records events; ``level`` is how much to capture.
    """

    def __init__(
        self, library: Any, level: Level, directory: Path, process: bytes, emitter: Any, devices: tuple[int, ...],
        bytes_max: int, flush_seconds: float, cost_ratio_max: float,
    ) -> None:  # fmt: skip
        self.library = library
        self.level = level
        self.emitter = emitter
        self.process = process
        self._cost_ratio_max = cost_ratio_max
        self._writer: chunks.ChunkWriter | None = None
        self._numbers = itertools.count(1)
        self._names = np.empty(0, np.uint64)
        self._running: dict[int, tuple[Any, ...]] = {}
        self._busy_since = 0
        self._busy_ns = 0
        self._cost_ns = 0
        self._sampled = (0, 0, 0)
        self._sampled_ns = self._flushed_ns = time.time_ns()
        self._judged = (0, 0)
        self._written_buffers = self._written_bytes = self._lost = 0
        self._since_ns = time.time_ns()
        self._calls: dict[int, dict[int, str]] = {}
        self._flush_seconds = flush_seconds
        self._wake = threading.Event()
        self._draining = threading.RLock()
        self._closing = self._hurried = False
        self._start(directory, process, devices, bytes_max)
        self._thread = threading.Thread(target=self._collect, name="obsray-gpu", daemon=True)
        self._thread.start()

    # --- start and end ----------------------------------------------------------------------------------------------

    def _start(self, directory: Path, process: bytes, devices: tuple[int, ...], bytes_max: int) -> None:
        library = self.library
        try:
            version = library.version()
            self._layout = layouts.layout(version)
            library.subscribe()
            try:
                self._memory = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
                self._writer = chunks.ChunkWriter(directory, process, bytes_max)
                self._writer.version = version
                facts = {"devices": devices, "level": self.level.name.lower(), "library": library.path}
                self._writer.write(chunks.FACTS, json.dumps(facts).encode())
                self._exchange = Exchange(BUFFER_BYTES)
                library.register(self._exchange.requested, self._exchange.completed)
                self._calls = {domain: library.calls(domain) for domain in (cupti.DRIVER_DOMAIN, cupti.RUNTIME_DOMAIN)}
                self._write_call_names()
                self._enable(Level.KERNELS)
                if self.level is Level.FULL:
                    self._enable(Level.FULL)
            except BaseException:
                self._disable(Level.FULL)
                self._disable(Level.KERNELS)
                library.unsubscribe()
                raise
        except (CuptiError, NotHereError, layouts.UnknownVersionError, OSError) as error:
            raise Refused(str(error)) from None
        self.emitter.gpu_capture_started(
            time.time_ns(), process, int(self.level), version, self.emitter.intern(library.path)
        )

    def _write_call_names(self) -> None:
        entries = []
        for domain, space in ((cupti.DRIVER_DOMAIN, chunks.DRIVER_CALLS), (cupti.RUNTIME_DOMAIN, chunks.RUNTIME_CALLS)):
            calls = self._calls[domain]
            wanted = calls if self.level is Level.FULL else cupti.launches(calls)
            entries += [chunks.name_entry(space, number, calls[number].encode()) for number in wanted]
        assert self._writer is not None
        self._writer.write(chunks.NAMES, b"".join(entries))

    def _enable(self, level: Level) -> None:
        for kind in _KINDS[level]:
            self.library.enable(kind)
        if level is Level.KERNELS:
            self._choose_launches()

    def _choose_launches(self) -> None:
        """Have the calls recorded that put work on the GPU: all calls, where single ones cannot be chosen."""
        if not self.library.can_choose_calls():
            self.library.enable(layouts.DRIVER)
            self.library.enable(layouts.RUNTIME)
            return
        for domain, calls in self._calls.items():
            for number in cupti.launches(calls):
                try:
                    self.library.choose_call(domain, number, True)
                except CuptiError:
                    continue  # a call this driver does not have

    def _disable(self, level: Level) -> None:
        for kind in _KINDS[level]:
            try:
                self.library.disable(kind)
            except CuptiError:
                continue

    def hurry(self) -> None:
        """Have what is done handed over at once, by the thread that does it anyway; for any thread."""
        self._hurried = True
        self._wake.set()

    def close(self) -> None:
        """Have everything given back and end the capture."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS_MAX)
        if self._writer is None or self._thread.is_alive():
            return
        try:
            self._leave()
        except CuptiError:
            pass  # the process ends; what was given back is written
        self._sample(time.time_ns())
        self._writer.close()
        self._writer = None

    def _leave(self) -> None:
        """Hand over everything and end the subscription. Raises CuptiError."""
        # First what is complete: a forced flush also gives back records that have no times yet.
        self.library.flush()
        self.drain()
        self.library.flush(forced=True)
        self.drain()
        self._disable(Level.FULL)
        self._disable(Level.KERNELS)
        self.library.unsubscribe()

    def give_way(self, why: str) -> None:
        """Another profiler is about to start in this process: hand over what there is and leave the place to it."""
        with self._draining:
            writer = self._writer
            if writer is None or self._closing:
                return
            try:
                self._leave()
            except CuptiError as error:
                why = f"{why} ({error})"
            self._closing = True
            self._wake.set()
            self._sample(time.time_ns())
            self._change(Level.OFF, why, 0.0)
            self._writer = None
            writer.close()

    # --- tasks ------------------------------------------------------------------------------------------------------

    def begin(self, task: bytes, attempt: int, name: int, pushes: bool) -> int:
        """A task begins on this thread; returns the number to give to ``end``. ``pushes`` says that it alone uses
        this thread until then."""
        if self._writer is None or self.level is Level.OFF:
            return 0
        began = time.perf_counter_ns()
        now = time.time_ns()
        number = next(self._numbers)
        mark = (threading.get_ident() & 0xFFFFFFFF, attempt, name, task, now, pushes)
        if not self._running:
            self._busy_since = now
        self._running[number] = mark
        self._mark(number, mark, 0)
        if pushes:
            self.library.push(number)
        self._cost_ns += time.perf_counter_ns() - began
        return number

    def end(self, number: int) -> None:
        """The task of this number ended."""
        began = time.perf_counter_ns()
        mark = self._running.pop(number, None)
        now = time.time_ns()
        if mark is None:
            return
        if not self._running:
            self._busy_ns += now - self._busy_since
        if self._writer is None:
            return
        if mark[5]:
            self.library.pop()
        self._mark(number, mark, now)
        self._cost_ns += time.perf_counter_ns() - began
        if now - self._flushed_ns > FLUSH_AFTER_NS:
            # Here and now: whoever gets the result may end this process at once.
            self._flushed_ns = now
            self._hand_over()
        if now - self._sampled_ns > SAMPLE_NS:
            self._sample(now)
        self._judge(now)

    def _mark(self, number: int, mark: tuple[Any, ...], ended: int) -> None:
        thread, attempt, name, task, started, _ = mark
        assert self._writer is not None
        self._writer.write(chunks.MARKS, chunks.MARK.pack(number, started, ended, thread, attempt, 0, name, 0, task))

    # --- buffers ----------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """The life of the thread that collects buffers, and every ``flush_seconds`` has the library give back what is
        done."""
        flushed = time.monotonic()
        watched = watch_for_torch(self.give_way)
        while not self._closing:
            watched = watched or watch_for_torch(self.give_way)
            self._wake.wait(min(COLLECT_SECONDS, self._flush_seconds))
            try:
                now = time.monotonic()
                hurried, self._hurried = self._hurried, False
                if hurried:
                    self._wake.clear()
                if hurried or now - flushed >= self._flush_seconds:
                    flushed = now
                    self._hand_over()
                else:
                    self.drain()
            except Exception as error:
                self._give_up(error)
                return

    def _hand_over(self) -> None:
        """Have the library give back what is done, and write it."""
        try:
            self.library.flush()
            self.drain()
        except Exception as error:
            self._give_up(error)

    def drain(self) -> None:
        """Write the buffers that came back, and give them to CUPTI again."""
        began = time.thread_time_ns()
        with self._draining:
            while (finished := self._exchange.take()) is not None:
                self._take(finished)
                self._exchange.give(finished.address)
        self._cost_ns += time.thread_time_ns() - began

    def _take(self, finished: Finished) -> None:
        writer = self._writer
        if not finished.valid or writer is None:
            return
        lost = self.library.dropped(finished.context, finished.stream)
        if lost:
            self._lose(lost, Stage.CUPTI)
        data = memoryview((ctypes.c_char * finished.valid).from_address(finished.address)).cast("B")
        now = time.time_ns()
        self._resolve_names(data, now, writer)
        if writer.write(chunks.BUFFER, data, self._since_ns, now):
            self._written_buffers += 1
            self._written_bytes += finished.valid
        else:
            self._lose(len(walk(data, self._layout)[0]), Stage.WORKER)

    def _resolve_names(self, data: memoryview, now: int, writer: chunks.ChunkWriter) -> None:
        """Write the names of kernels that were not seen before. Their addresses are valid until the buffer is given
        back; they are read through the kernel's interface, where a wrong address is an error and no crash."""
        fresh = _name_addresses(data, self._layout, now)
        fresh = fresh[~np.isin(fresh, self._names)]
        if not len(fresh):
            return
        entries = []
        for address in fresh.tolist():
            try:
                text = os.pread(self._memory, NAME_BYTES_MAX, address)
            except (OSError, OverflowError):
                continue  # no name: its kernels are shown by their address
            entries.append(chunks.name_entry(chunks.KERNEL_NAMES, address, text.partition(b"\0")[0]))
        self._names = np.concatenate([self._names, fresh])
        if entries:
            writer.write(chunks.NAMES, b"".join(entries))

    def _lose(self, records: int, stage: Stage) -> None:
        self._lost += records
        if self._writer is not None:
            self._writer.lose(records)
        self.emitter.gpu_records_lost(time.time_ns(), self.process, records, int(stage))

    def _give_up(self, error: BaseException) -> None:
        """Something nobody thought of happened: stop, and say so."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._disable(Level.FULL)
            self._disable(Level.KERNELS)
            self._change(Level.OFF, f"capturing failed: {error!r}"[:300], 0.0)

    # --- what it costs ------------------------------------------------------------------------------------------------

    def _judge(self, now: int) -> None:
        """Step down if capturing takes too large a share of the time in which tasks run."""
        busy, cost = self._busy_ns - self._judged[0], self._cost_ns - self._judged[1]
        if busy < JUDGED_NS:
            return
        self._judged = (self._busy_ns, self._cost_ns)
        ratio = cost / busy
        if ratio <= self._cost_ratio_max:
            return
        level = Level(self.level - 1)
        self._disable(self.level)
        if self.level is Level.FULL:
            try:
                self._choose_launches()
            except CuptiError:
                level = Level.OFF
        if level is Level.OFF:
            self._disable(Level.KERNELS)
        allowed = f"{self._cost_ratio_max:.0%}"
        self._change(level, f"capturing took {ratio:.1%} of the time in which tasks ran; {allowed} is allowed", ratio)

    def _change(self, level: Level, reason: str, ratio: float) -> None:
        before, self.level = self.level, level
        self.emitter.gpu_capture_changed(
            time.time_ns(), self.process, int(before), int(level), ratio, self.emitter.intern(reason)
        )

    def _sample(self, now: int) -> None:
        """Record what was captured, and at what cost, since the last time."""
        self._sampled_ns = now
        busy, cost, lost = self._sampled
        self.emitter.gpu_capture_sample(
            now, self.process, int(self.level), self._written_buffers, self._written_bytes, self._lost - lost,
            (self._cost_ns - cost) / 1e9, (self._busy_ns - busy) / 1e9,
        )  # fmt: skip
        self._written_buffers = self._written_bytes = 0
        self._sampled = (self._busy_ns, self._cost_ns, self._lost)


def _name_addresses(data: memoryview, layout: layouts.Layout, now: int) -> Any:
    """The addresses of kernel names in a buffer.

    Without walking it: every 8-byte word that could begin a kernel record is looked at, and kept if times stand where a
    kernel's times are. One too many does no harm; it names a kernel that nobody asks for.
    """
    fields = layouts.FIELDS[layouts.KERNEL]
    last = layout.words[layouts.KERNEL]
    words = np.frombuffer(data, np.uint64, len(data) // 8)
    at = np.flatnonzero((words[: max(0, len(words) - last + 1)] & np.uint64(0xFFFFFFFF)) == layouts.KERNEL)
    start, end = words[at + fields["start"][1] // 8], words[at + fields["end"][1] // 8]
    low, high = np.uint64(now - _NEAR_NS), np.uint64(now + _NEAR_NS)
    good = (start <= end) & (start > low) & (end < high)
    return np.unique(words[at[good] + fields["name"][1] // 8])


def start(
    level: Level, directory: Path, process: bytes, emitter: Any, devices: tuple[int, ...], bytes_max: int,
    flush_seconds: float, cost_ratio_max: float,
) -> Capture | None:  # fmt: skip
    """Capture in this process with the first libcupti that works; None, and an event that says why, if none does."""
    reasons: dict[str, str] = {}
    for path in cupti.find():
        try:
            return Capture(
                Cupti(path), level, directory, process, emitter, devices, bytes_max, flush_seconds, cost_ratio_max
            )
        except (CuptiError, Refused) as error:
            reasons.setdefault(str(error).replace(path, "it"), path)
    emitter.gpu_capture_refused(time.time_ns(), process, emitter.intern(_why(reasons)))
    return None


def _why(reasons: dict[str, str]) -> str:
    """Each reason once, with the first library that gave it; what is not there at all is no reason of its own."""
    there = [f"{path}: {reason}" for reason, path in reasons.items() if "cannot be loaded" not in reason]
    if there:
        return "; ".join(there)[:2000]
    return (
        "no libcupti was found: not loaded, in no nvidia wheel, CUDA toolkit or library path. "
        "Install one, for example with pip install nvidia-cuda-cupti."
    )
