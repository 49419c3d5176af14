"""``multiprocessing.Pool``: tasks only."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.pool import AsyncResult, Pool
from typing import Any

IMPORTS = "multiprocessing.pool"

_pool: Pool | None = None


class Remote:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def remote(self, *arguments: Any) -> AsyncResult[Any]:
        assert _pool is not None
        return _pool.apply_async(self.function, arguments)


remote = Remote


def init(num_cpus: int) -> None:
    global _pool
    _pool = Pool(num_cpus)


def shutdown() -> None:
    global _pool
    if _pool is not None:
        _pool.terminate()
        _pool.join()
        _pool = None


def get(results: Any) -> Any:
    return [result.get() for result in results] if isinstance(results, list) else results.get()
