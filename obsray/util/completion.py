"""Results in the order in which they become ready."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from obsray.core import api
from obsray.core.runtime.references import ObjectRef


def as_completed(
    refs: Sequence[ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False
) -> Iterator[Any]:
    """Yield the value of each reference as soon as it is ready; with ``yield_obj_refs`` the reference itself.

    Up to ``chunk_size`` that are ready at the same time are fetched together. Raises what a task raised when its turn
    comes, ValueError for duplicates or a ``chunk_size`` below 1.
    """
    _check("chunk_size", chunk_size)
    pending = list(refs)
    if len(set(pending)) != len(pending):
        raise ValueError("as_completed needs each reference only once")
    return _as_completed(pending, chunk_size, yield_obj_refs)


def _as_completed(pending: list[ObjectRef[Any]], chunk_size: int, yield_obj_refs: bool) -> Iterator[Any]:
    while pending:
        ready, pending = _ready(pending, chunk_size)
        yield from ready if yield_obj_refs else api.get(ready)


def _ready(pending: list[ObjectRef[Any]], most: int) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
    """At least one that is ready, and up to ``most`` without waiting for them."""
    api.wait(pending, num_returns=1)
    return api.wait(pending, num_returns=min(most, len(pending)), timeout=0)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
) -> Iterator[Any]:
    """Call a remote function (or an actor's method) with each item; yield results as they come.

    ``items`` may be endless: at most ``backpressure_size`` calls are under way at a time (None: no bound). Raises
    TypeError if ``fn`` is not remote, ValueError for sizes below 1.
    """
    if not hasattr(fn, "remote"):
        raise TypeError(f"map_unordered takes a remote function, got {fn!r}; decorate it with @obsray.remote")
    _check("chunk_size", chunk_size)
    if backpressure_size is not None:
        _check("backpressure_size", backpressure_size)
    return _map_unordered(fn, iter(items), backpressure_size, chunk_size, yield_obj_refs)


def _map_unordered(
    fn: Any, items: Iterator[Any], most: int | None, chunk_size: int, yield_obj_refs: bool
) -> Iterator[Any]:
    pending = [fn.remote(item) for item in islice(items, most)]
    while pending:
        ready, pending = _ready(pending, chunk_size)
        pending += [fn.remote(item) for item in islice(items, len(ready))]
        yield from ready if yield_obj_refs else api.get(ready)


def _check(name: str, size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{name}={size!r}: must be a number >= 1")


__all__ = ["as_completed", "map_unordered"]
