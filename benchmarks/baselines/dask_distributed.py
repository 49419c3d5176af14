"""Dask distributed: a local cluster of processes with one thread each."""

from __future__ import annotations

import logging
from typing import Any

from dask.distributed import Client, Future, LocalCluster
from dask.distributed import wait as wait_for

IMPORTS = "dask.distributed"

_cluster: LocalCluster | None = None
_client: Client | None = None


class Method:
    def __init__(self, method: Any) -> None:
        self.method = method

    def remote(self, *arguments: Any) -> Any:
        return self.method(*arguments)


class Handle:
    def __init__(self, future: Any) -> None:
        self.future = future
        self.actor = future.result()

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self.actor, name))


class Remote:
    def __init__(self, target: Any) -> None:
        self.target = target

    def remote(self, *arguments: Any) -> Any:
        assert _client is not None
        if isinstance(self.target, type):
            return Handle(_client.submit(self.target, *arguments, actor=True, pure=False))
        return _client.submit(self.target, *arguments, pure=False)


remote = Remote


def init(num_cpus: int) -> None:
    global _cluster, _client
    logging.getLogger("distributed").setLevel(logging.ERROR)
    _cluster = LocalCluster(n_workers=num_cpus, threads_per_worker=1, processes=True, dashboard_address=None)
    _client = Client(_cluster)


def shutdown() -> None:
    global _cluster, _client
    if _client is not None and _cluster is not None:
        _client.close()
        _cluster.close()
    _client = _cluster = None


def put(value: Any) -> Any:
    assert _client is not None
    return _client.scatter(value, hash=False)


def get(futures: Any) -> Any:
    assert _client is not None
    several = isinstance(futures, list)
    if isinstance(futures[0] if several else futures, Future):
        return _client.gather(futures)
    return [future.result() for future in futures] if several else futures.result()


def wait(futures: list[Any], num_returns: int = 1) -> tuple[list[Any], list[Any]]:
    """Everything that is done, not just ``num_returns`` of it: that is what the library hands out in one call."""
    outcome = wait_for(futures, return_when="FIRST_COMPLETED" if num_returns == 1 else "ALL_COMPLETED")
    return list(outcome.done), list(outcome.not_done)


def kill(handle: Handle) -> None:
    handle.future.release()
