"""``concurrent.futures.ProcessPoolExecutor``: tasks and ``wait``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any

IMPORTS = "concurrent.futures.process"

_executor: ProcessPoolExecutor | None = None


class Remote:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def remote(self, *arguments: Any) -> Future[Any]:
        assert _executor is not None
        return _executor.submit(self.function, *arguments)


remote = Remote


def init(num_cpus: int) -> None:
    global _executor
    _executor = ProcessPoolExecutor(num_cpus)


def shutdown() -> None:
    global _executor
    if _executor is not None:
        _executor.shutdown(cancel_futures=True)
        _executor = None


def get(futures: Any) -> Any:
    return [future.result() for future in futures] if isinstance(futures, list) else futures.result()


def wait(futures: list[Future[Any]], num_returns: int = 1) -> tuple[list[Future[Any]], list[Future[Any]]]:
    """Everything that is done, not just ``num_returns`` of it: that is what the library hands out in one call."""
    when = FIRST_COMPLETED if num_returns == 1 else ALL_COMPLETED
    done, pending = wait_for(futures, return_when=when)
    return list(done), list(pending)
