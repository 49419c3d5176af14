"""``multiprocessing.Pool`` whose processes are actors: the calls of the standard library, on the runtime's CPUs.

One thread per pool deals out the work: jobs are cut into chunks, a process is given its next chunk while it does one,
and a process that is still being placed is given none. Callbacks run on that thread, as the standard pool's do on its.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from multiprocessing import JoinableQueue, TimeoutError
from typing import Any

from obsray.causes import format_user_traceback
from obsray.core import api
from obsray.core.remote import remote
from obsray.core.runtime import joining
from obsray.core.runtime.serialization import deserialize, dump_error, dump_function, load_error
from obsray.core.runtime.session import current_or_none
from obsray.errors import ActorDiedError, RayActorError, RayTaskError

#: Chunks a process has at most: one that it does and one to go on with.
_AHEAD = 2
#: How long a new pool waits for its processes, if they have no initializer.
START_SECONDS_MAX = 5.0
#: Functions a process remembers.
_FUNCTIONS_MAX = 16

_Call = tuple[tuple[Any, ...], dict[str, Any]]

RUN, CLOSE, TERMINATE = "RUN", "CLOSE", "TERMINATE"


class _PoolActor:
    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        self.functions: dict[bytes, Callable[..., Any]] = {}
        if initializer is not None:
            initializer(*initargs)

    def ready(self) -> None:
        """Answers once the initializer is done."""

    def run(self, blob: bytes, calls: list[_Call]) -> list[Any]:
        function = self.functions.get(blob)
        if function is None:
            if len(self.functions) >= _FUNCTIONS_MAX:
                self.functions.clear()
            function = self.functions[blob] = deserialize(blob)
        return [function(*args, **kwargs) for args, kwargs in calls]

    def run_each(self, blob: bytes, calls: list[_Call]) -> list[tuple[Any, bytes | None]]:
        """The same; one that raises does not keep the others from their turn: each value, or what was raised."""
        values: list[tuple[Any, bytes | None]] = []
        for call in calls:
            try:
                (value,) = self.run(blob, [call])
                values.append((value, None))
            except Exception as error:
                task = api.get_runtime_context().get_task_id() or ""
                text = format_user_traceback(error)
                wrapped = RayTaskError("Pool.imap", text, error, pid=os.getpid(), task_id=task)
                values.append((None, dump_error(wrapped)))
        return values


class _Chunk:
    __slots__ = ("calls", "function", "job", "number")

    def __init__(self, job: _Job, number: int, function: bytes, calls: list[_Call]) -> None:
        self.job, self.number, self.function, self.calls = job, number, function, calls


class _Job:
    """What waits for chunks; told about each by the pool's thread."""

    def on_chunk(self, number: int, values: list[Any] | None, error: BaseException | None) -> None:
        raise NotImplementedError


class AsyncResult(_Job):
    """What ``apply_async`` and ``map_async`` return."""

    def __init__(
        self,
        chunks: int,
        single: bool,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> None:
        self._parts: list[list[Any]] = [[] for _ in range(chunks)]
        self._left = chunks
        self._single = single
        self._callback, self._error_callback = callback, error_callback
        self._error: BaseException | None = None
        self._value: Any = None
        self._done = threading.Event()
        if not chunks:
            self._finish()

    def on_chunk(self, number: int, values: list[Any] | None, error: BaseException | None) -> None:
        self._parts[number] = values or []
        self._error = self._error or error
        self._left -= 1
        if self._left == 0:
            self._finish()

    def _finish(self) -> None:
        if self._error is None:
            values = [value for part in self._parts for value in part]
            self._value = values[0] if self._single else values
        self._parts = []
        try:
            if self._error is not None:
                if self._error_callback is not None:
                    self._error_callback(self._error)
            elif self._callback is not None:
                self._callback(self._value)
        finally:
            self._done.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the result, at most ``timeout`` seconds."""
        self._done.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        """The result. Raises what the function raised, ``multiprocessing.TimeoutError`` after ``timeout`` seconds."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"no result within {timeout} s")
        if self._error is not None:
            raise self._error
        return self._value

    def ready(self) -> bool:
        """Whether the result is there."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether there was no error. Raises ValueError while the result is not there."""
        if not self.ready():
            raise ValueError(f"{self!r} is not ready")
        return self._error is None


class _Items(_Job):
    """The results of ``imap``; it asks for a chunk more for each one taken, so endless inputs are no problem."""

    def __init__(self, more: Callable[[_Items], bool], ordered: bool) -> None:
        self._more = more
        self._reading = threading.Lock()
        self._ordered = ordered
        self._arrived: queue.SimpleQueue[tuple[int, list[Any] | None, BaseException | None]] = queue.SimpleQueue()
        self._early: dict[int, tuple[list[Any] | None, BaseException | None]] = {}
        self._values: deque[Any] = deque()
        self._taken = 0
        #: Chunks handed to the pool; set by it.
        self.sent = 0

    def on_chunk(self, number: int, values: list[Any] | None, error: BaseException | None) -> None:
        self._arrived.put((number, values, error))

    def send_more(self) -> bool:
        """Hand one chunk more to the pool; False if the input has ended."""
        with self._reading:
            return self._more(self)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result, or what its call raised; those behind it are there nevertheless.

        Raises StopIteration at the end, TimeoutError (as ``get``) after ``timeout`` seconds.
        """
        while not self._values:
            if self._taken == self.sent:
                raise StopIteration
            values, error = self._next_chunk(timeout)
            self._taken += 1
            self.send_more()
            if error is not None:
                raise error
            self._values.extend(values or ())
        value, raised = self._values.popleft()
        if raised is not None:
            raise load_error(raised)
        return value

    def _next_chunk(self, timeout: float | None) -> tuple[list[Any] | None, BaseException | None]:
        while True:
            if self._taken in self._early:
                return self._early.pop(self._taken)
            try:
                number, values, error = self._arrived.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"no result within {timeout} s") from None
            if not self._ordered:
                return values, error
            self._early[number] = (values, error)


class _Process:
    """One actor of a pool and what it is doing."""

    def __init__(self, actor: Any, chunks_left: int | None) -> None:
        self.actor = actor
        self.ready = False
        self.busy: set[_Chunk] = set()
        #: Chunks it may still be given; None: any number.
        self.chunks_left = chunks_left

    def can_take(self) -> bool:
        return self.ready and len(self.busy) < _AHEAD and self.chunks_left != 0


class Pool:
    """A pool of ``processes`` (all CPUs if None) actors with the methods of ``multiprocessing.Pool``.

    ``initializer(*initargs)`` runs once in each, and has when this returns. A process is replaced after
    ``maxtasksperchild`` chunks, and when it dies, which its chunks see as RayActorError. ``ray_remote_args`` are
    options of the actors; they take no CPU unless they say otherwise, so that what they do can use tasks and pools.
    ``context`` makes no difference, which a RuntimeWarning says: processes are actors. ``ray_address`` is what ``init``
    is called with if there is no runtime yet; one that is started has ``processes`` CPUs, whatever the machine has.

    Raises ValueError for fewer than one process or more than there are CPUs for.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        if context is not None:
            warnings.warn("Pool(context=...) makes no difference: processes are actors", RuntimeWarning, stacklevel=2)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, got {initializer!r}")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild < 1):
            raise ValueError(f"maxtasksperchild={maxtasksperchild!r}: must be a number >= 1")
        if not api.is_initialized():
            # A runtime that is started for this pool has room for it; one that is joined is as it is.
            starts = joining.wanted(ray_address) is None
            api.init(address=ray_address, num_cpus=processes if starts else None)
        options = {"num_cpus": 0, **(ray_remote_args or {})}
        if len(api.nodes()) > 1:
            # What needs no CPU would all be started at this node.
            options.setdefault("scheduling_strategy", "SPREAD")
        cpus = api.cluster_resources().get("CPU", 0)
        if processes is None:
            processes = int(cpus / options["num_cpus"]) if options["num_cpus"] else int(cpus)
        if processes < 1:
            raise ValueError(f"processes={processes}: must be >= 1")
        if processes * (options["num_cpus"] or 1) > cpus:
            each = f", each process takes {options['num_cpus']:g}" if options["num_cpus"] else ""
            raise ValueError(f"processes={processes}: there are {cpus:g} CPUs{each}")
        self._size = processes
        self._chunks_max = maxtasksperchild
        self._class = remote(_PoolActor).options(**options)
        self._initializer = (initializer, tuple(initargs or ()))
        self._state = RUN
        self._lock = threading.Lock()
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[_Chunk] = deque()
        #: Iterators of ``imap`` that somebody still holds.
        self._open: weakref.WeakSet[_Items] = weakref.WeakSet()
        #: How many of the first processes have not begun, and whether all have.
        self._starting, self._begun = processes, threading.Event()
        self._processes = [self._start() for _ in range(processes)]
        self._thread = threading.Thread(target=self._deal, name="pool", daemon=True)
        self._thread.start()
        # So that the first chunks are dealt to all of them; one that cannot be placed must not hold up the others.
        self._begun.wait(None if initializer is not None else START_SECONDS_MAX)

    # --- the thread -------------------------------------------------------------------------------------------

    def _start(self) -> _Process:
        process = _Process(self._class.remote(*self._initializer), self._chunks_max)
        self._watch(process.actor.ready.remote(), lambda error, _: self._on_ready(process, error))
        return process

    def _watch(self, reference: Any, then: Callable[[BaseException | None, Any], None]) -> None:
        def over(future: Any) -> None:
            error = future.exception()
            self._events.put(lambda: then(error, None if error is not None else future.result()))

        reference.future().add_done_callback(over)

    def _deal(self) -> None:
        while True:
            event = self._events.get()
            if event is not None:
                event()
            self._feed()
            if self._state == TERMINATE or (self._state == CLOSE and self._is_idle()):
                break
        self._end()

    def _is_idle(self) -> bool:
        return not self._waiting and self._events.empty() and not any(process.busy for process in self._processes)

    def _feed(self) -> None:
        while self._waiting:
            free = [process for process in self._processes if process.can_take()]
            if not free:
                return
            process = min(free, key=lambda each: len(each.busy))
            self._give(process, self._waiting.popleft())

    def _give(self, process: _Process, chunk: _Chunk) -> None:
        if process.chunks_left is not None:
            process.chunks_left -= 1
        try:
            method = process.actor.run_each if isinstance(chunk.job, _Items) else process.actor.run
            reference = method.remote(chunk.function, chunk.calls)
        except Exception as error:
            # Arguments that cannot be pickled; the process is as good as before.
            chunk.job.on_chunk(chunk.number, None, error)
            return
        process.busy.add(chunk)
        self._watch(reference, lambda error, values: self._on_chunk(process, chunk, error, values))

    def _on_ready(self, process: _Process, error: BaseException | None) -> None:
        process.ready = True
        self._starting -= 1
        if self._starting == 0:
            self._begun.set()
        if error is None:
            return
        # Another process would fail in the same initializer, again and again.
        for chunk in self._waiting:
            self._tell(chunk, error, None)
        self._waiting.clear()
        self._replace(process)

    def _on_chunk(self, process: _Process, chunk: _Chunk, error: BaseException | None, values: Any) -> None:
        process.busy.discard(chunk)
        self._tell(chunk, error, values)
        if isinstance(error, RayActorError) or (process.chunks_left == 0 and not process.busy):
            self._replace(process)

    def _tell(self, chunk: _Chunk, error: BaseException | None, values: Any) -> None:
        try:
            chunk.job.on_chunk(chunk.number, values, error)
        except Exception as raised:
            # A callback's error must not end the pool; the standard library prints it, too.
            threading.excepthook(threading.ExceptHookArgs((type(raised), raised, raised.__traceback__, self._thread)))

    def _replace(self, process: _Process) -> None:
        if process in self._processes and self._state == RUN:
            self._processes[self._processes.index(process)] = self._start()

    def _end(self) -> None:
        error = ActorDiedError("the pool was terminated before this was done")
        left = [chunk for process in self._processes for chunk in process.busy]
        for chunk in [*left, *self._waiting]:
            self._tell(chunk, error, None)
        self._waiting.clear()
        session = current_or_none()
        for process in self._processes:
            process.busy.clear()
            if (self._state == TERMINATE or not process.ready) and session is not None and not session.closed:
                api.kill(process.actor)
        self._processes = []

    # --- jobs -------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("the pool is not running any more")

    def _send(self, chunks: list[_Chunk]) -> None:
        with self._lock:
            self._check_running()
            self._events.put(lambda: self._waiting.extend(chunks))

    def _chunks(self, values: Sequence[Any], chunksize: int | None) -> Iterator[list[Any]]:
        if chunksize is None:
            chunksize = max(1, -(-len(values) // (4 * self._size)))
        _check_chunksize(chunksize)
        return (list(values[at : at + chunksize]) for at in range(0, len(values), chunksize))

    def _map(
        self, func: Callable[..., Any], calls: list[Any], chunksize: int | None, callback: Any, error_callback: Any
    ) -> AsyncResult:
        self._check_running()
        blob = dump_function(func)
        parts = list(self._chunks(calls, chunksize))
        result = AsyncResult(len(parts), False, callback, error_callback)
        self._send([_Chunk(result, number, blob, part) for number, part in enumerate(parts)])
        return result

    def apply(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = (),
        kwargs: dict[str, Any] | None = None,
        *,
        kwds: dict[str, Any] | None = None,
    ) -> Any:
        """``func(*args, **kwargs)`` in one of the processes. ``kwds`` is the standard library's word for ``kwargs``."""
        return self.apply_async(func, args, kwargs, kwds=kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        kwds: dict[str, Any] | None = None,
    ) -> AsyncResult:
        """``apply`` without waiting; one of the callbacks is called with the result or the error."""
        self._check_running()
        result = AsyncResult(1, True, callback, error_callback)
        self._send([_Chunk(result, 0, dump_function(func), [(tuple(args or ()), {**(kwargs or {}), **(kwds or {})})])])
        return result

    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """``[func(value) for value in iterable]``."""
        found: list[Any] = self.map_async(func, iterable, chunksize).get()
        return found

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """``map`` without waiting."""
        return self._map(func, [((value,), {}) for value in iterable], chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """``[func(*args) for args in iterable]``."""
        found: list[Any] = self.starmap_async(func, iterable, chunksize).get()
        return found

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | Callable[[list[Any]], Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """``starmap`` without waiting. As in Ray, callbacks may stand where the standard library has ``chunksize``."""
        if callable(chunksize):
            chunksize, callback, error_callback = None, chunksize, error_callback or callback
        return self._map(func, [(tuple(args), {}) for args in iterable], chunksize, callback, error_callback)

    def imap(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1) -> Iterator[Any]:
        """Iterate over the results in order; the input is read as they are taken, a few chunks ahead."""
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> Iterator[Any]:
        """``imap`` with the results in the order in which they become ready."""
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterator[Any]:
        self._check_running()
        size = chunksize
        if size is None:
            size = max(1, -(-len(iterable) // (4 * self._size))) if isinstance(iterable, Sized) else 1
        _check_chunksize(size)
        blob, values = dump_function(func), iter(iterable)

        def more(items: _Items) -> bool:
            calls: list[_Call] = [((value,), {}) for value in itertools.islice(values, size)]
            if calls:
                self._send([_Chunk(items, items.sent, blob, calls)])
                items.sent += 1
            return bool(calls)

        items = _Items(more, ordered)
        self._open.add(items)
        for _ in range(2 * _AHEAD * self._size):
            items.send_more()
        return items

    # --- the end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work; what was given is done, then the processes end. Inputs of ``imap`` are read to the end."""
        for items in list(self._open) if self._state == RUN else ():
            while items.send_more():
                pass
        self._stop(CLOSE)

    def terminate(self) -> None:
        """End the processes at once; results that are not there fail with ActorDiedError."""
        self._stop(TERMINATE)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _stop(self, state: str) -> None:
        with self._lock:
            if self._state != TERMINATE:
                self._state = state
            self._events.put(None)

    def join(self) -> None:
        """Wait until the processes have ended. Raises ValueError before ``close`` or ``terminate``."""
        if self._state == RUN:
            raise ValueError("close or terminate the pool before joining it")
        self._thread.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("a pool cannot be sent to another process")


def _check_chunksize(chunksize: Any) -> None:
    if not isinstance(chunksize, int):
        raise TypeError(f"chunksize={chunksize!r}: must be a whole number")
    if chunksize < 1:
        raise ValueError(f"chunksize={chunksize}: must be >= 1")


__all__ = ["AsyncResult", "JoinableQueue", "Pool", "TimeoutError"]
