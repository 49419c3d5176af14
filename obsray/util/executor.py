"""``concurrent.futures`` on the runtime: an executor whose calls are tasks."""

from __future__ import annotations

import inspect
import itertools
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import Any, TypeVar

from obsray.core import api
from obsray.core.remote import remote

T = TypeVar("T")

#: Functions an executor keeps ready.
_FUNCTIONS_MAX = 64

#: In a worker: the executors whose initializer has run here.
_initialized: set[str] = set()


class _InitializerFailed(Exception):
    """The initializer raised in a worker."""


def _initialize(key: str, initializer: Callable[..., Any], initargs: tuple[Any, ...]) -> None:
    if key in _initialized:
        return
    try:
        initializer(*initargs)
    except BaseException as error:
        raise _InitializerFailed(f"the executor's initializer raised {error!r}") from error
    _initialized.add(key)


class _Work:
    """A call that was not made yet."""

    __slots__ = ("args", "fn", "future", "kwargs")

    def __init__(self, future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.future, self.fn, self.args, self.kwargs = future, fn, args, kwargs


class ObsrayExecutor(Executor):
    """An executor as in ``concurrent.futures``, for as many CPUs as the runtime has.

        with ObsrayExecutor() as executor:
            print(list(executor.map(pow, [2, 3], [5, 2])))

    At most ``max_workers`` calls (all CPUs if None) are tasks at a time; the others are pending and can be cancelled.
    ``initializer(*initargs)`` runs once in each worker process before its first call; if it raises, the executor is
    broken (``BrokenExecutor``). ``options`` are those of the tasks (``num_cpus``, ``max_retries``, ...). What a call
    raised is raised as an instance of its class. Starts a runtime if there is none. Raises ValueError for fewer than
    one worker, TypeError for an initializer that cannot be called.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        options: dict[str, Any] | None = None,
    ) -> None:
        if max_workers is not None and (not isinstance(max_workers, int) or isinstance(max_workers, bool)):
            raise TypeError(f"max_workers={max_workers!r}: must be a whole number")
        if max_workers is not None and max_workers < 1:
            raise ValueError(f"max_workers={max_workers}: must be >= 1")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, got {initializer!r}")
        if options and "num_returns" in options:
            raise ValueError("options: a call of an executor has one result, so num_returns cannot be given")
        # Also checks the options.
        self._options = dict(options or {})
        remote(_initialize).options(**self._options)
        api.session()
        self._max_workers = max_workers or max(1, int(api.cluster_resources().get("CPU", 1)))
        self._initializer = (uuid.uuid4().hex, initializer, initargs)
        self._functions: dict[Any, Any] = {}
        self._waiting: deque[_Work] = deque()
        self._running = 0
        self._closed = False
        self._broken: BaseException | None = None
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` as a task. Raises RuntimeError after ``shutdown``, BrokenExecutor if broken."""
        if not callable(fn):
            raise TypeError(f"submit takes a function, got {type(fn).__name__}")
        future: Future[T] = Future()
        with self._lock:
            if self._broken is not None:
                raise BrokenExecutor(str(self._broken))
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(_Work(future, fn, args, kwargs))
        self._feed()
        return future

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """``map(fn, *iterables)`` with ``chunksize`` calls to a task; results come in order.

        Raises TimeoutError if a result is not there ``timeout`` seconds after this call, ValueError for a
        ``chunksize`` below 1.
        """
        if chunksize < 1:
            raise ValueError(f"chunksize={chunksize}: must be >= 1")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        calls = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        parts: Iterator[list[T]] = super().map(partial(_run_chunk, fn), chunks, timeout=timeout)
        return itertools.chain.from_iterable(parts)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. ``wait`` for those there are; with ``cancel_futures`` pending ones never run."""
        with self._lock:
            self._closed = True
            doomed = [work.future for work in self._waiting] if cancel_futures else []
        for future in doomed:
            future.cancel()
        self._feed()
        if wait:
            with self._idle:
                self._idle.wait_for(lambda: not self._running and not self._waiting)

    def _feed(self) -> None:
        """Make calls while there is room. Not under the lock: what waits for a future may submit more."""
        while True:
            with self._lock:
                if not self._waiting or self._running >= self._max_workers:
                    self._idle.notify_all()
                    return
                work = self._waiting.popleft()
                self._running += 1
            if not work.future.set_running_or_notify_cancel():
                self._over()
                continue
            try:
                reference = self._function(work.fn).remote(*work.args, **work.kwargs)
                reference.future().add_done_callback(partial(self._done, work.future))
            except Exception as error:
                self._over()
                work.future.set_exception(error)

    def _function(self, fn: Callable[..., Any]) -> Any:
        """``fn`` as a remote function, made once."""
        try:
            found = self._functions.get(fn)
        except TypeError:
            found = None
        if found is not None:
            return found
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn) or inspect.iscoroutinefunction(fn):
            raise TypeError(f"{fn!r} gives a generator or coroutine, which cannot be sent back; return a list")
        key, initializer, initargs = self._initializer
        name = getattr(fn.func if isinstance(fn, partial) else fn, "__name__", type(fn).__name__)
        if name == _run_chunk.__name__ and isinstance(fn, partial):
            name = getattr(fn.args[0], "__name__", name)
        body = fn if initializer is None else partial(_run_initialized, key, initializer, initargs, fn)
        made = remote(_as_function(body)).options(**{"name": name, **self._options})
        if len(self._functions) >= _FUNCTIONS_MAX:
            self._functions.clear()
        try:
            self._functions[fn] = made
        except TypeError:
            pass  # a callable that cannot be hashed is made again for each call
        return made

    def _over(self) -> None:
        with self._lock:
            self._running -= 1
            self._idle.notify_all()

    def _done(self, future: Future[Any], result: Future[Any]) -> None:
        error = result.exception()
        if isinstance(error, _InitializerFailed):
            self._break(error)
            error = BrokenExecutor(str(error))
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result.result())
        self._over()
        self._feed()

    def _break(self, error: BaseException) -> None:
        with self._lock:
            self._broken = self._broken or error
            waiting = list(self._waiting)
            self._waiting.clear()
        for work in waiting:
            if work.future.set_running_or_notify_cancel():
                work.future.set_exception(BrokenExecutor(str(error)))


def _as_function(body: Callable[..., Any]) -> Callable[..., Any]:
    """A callable of any kind as a plain function, which is what can be remote."""
    if inspect.isfunction(body):
        return body

    def call(*args: Any, **kwargs: Any) -> Any:
        return body(*args, **kwargs)

    return call


def _run_initialized(key: str, initializer: Any, initargs: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
    _initialize(key, initializer, initargs)
    return fn(*args, **kwargs)


def _run_chunk(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*args) for args in calls]


__all__ = ["ObsrayExecutor"]
