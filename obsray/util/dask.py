"""A scheduler for graphs of dask: ``dask.compute(x, scheduler=obsray_dask_get)``, or any graph without dask.

A graph is a dictionary: key -> a task, another key, or data. A task is ``(function, *arguments)``, or an object of
dask's own (``dask.task_spec``) with ``dependencies`` that is called with their values. Each task becomes one task of
obsray; results go from worker to worker by reference. dask itself is not needed.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NoReturn

from obsray.core import api
from obsray.core.remote import remote
from obsray.core.runtime.references import ObjectRef


def obsray_dask_get(dsk: Mapping[Any, Any], keys: Any, **options: Any) -> Any:
    """The values of ``keys`` (a key, or lists of them, nested as dask does) of a graph.

    ``ray_remote_args`` are options of the tasks; what else dask passes on (caches, callbacks' settings) makes no
    difference to the values. Raises what a task raised, KeyError for a key that is not in the graph, ValueError for a
    graph with a cycle.
    """
    functions = _Functions(options.get("ray_remote_args") or {})
    made: dict[Any, Any] = {}
    wanted = _flat(keys)
    for key in _order(dsk, wanted):
        made[key] = _start(dsk, key, made, functions)
    references = [made[key] for key in wanted if type(made[key]) is ObjectRef]
    values = dict(zip([key for key in wanted if type(made[key]) is ObjectRef], api.get(references), strict=True))
    return _shaped(keys, {key: values.get(key, made[key]) for key in wanted})


ray_dask_get = obsray_dask_get


def ray_dask_get_sync(*_: Any, **__: Any) -> NoReturn:
    """Refused: ``dask.get`` of dask itself runs a graph in this process."""
    raise NotImplementedError("to run a graph in this process use dask.get")


def enable_dask_on_ray(shuffle: str | None = "tasks", use_shuffle_optimization: bool = True) -> Any:
    """Make this the scheduler of dask, until ``disable_dask_on_ray``. Raises ImportError without dask."""
    import dask

    return dask.config.set(scheduler=obsray_dask_get, shuffle=shuffle)


def disable_dask_on_ray() -> Any:
    """Let dask choose its scheduler again. Raises ImportError without dask."""
    import dask

    return dask.config.set(scheduler=None, shuffle=None)


class _Functions(dict[str, Any]):
    """Name of a layer of the graph -> ``_run`` as a remote function of that name, made once."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._base = remote(_run).options(**options)

    def __missing__(self, name: str) -> Any:
        found = self[name] = self._base.options(name=name)
        return found


def _start(dsk: Mapping[Any, Any], key: Any, made: dict[Any, Any], functions: _Functions) -> Any:
    """A reference to the value of ``key``, or the value if it is data."""
    task = dsk[key]
    needs = _needs(task, dsk)
    if not needs and not _is_task(task) and not hasattr(task, "dependencies"):
        return task
    # Keys are "layer-hash" or ("layer-hash", part, ...).
    name = str(key[0] if isinstance(key, tuple) and key else key).rpartition("-")[0]
    return functions[name[:100] or "dask"].remote(task, needs, *(made[need] for need in needs))


def _run(task: Any, needs: list[Any], *values: Any) -> Any:
    """In a worker: a task, with the values of the keys it needs."""
    known = dict(zip(needs, values, strict=True))
    if hasattr(task, "dependencies"):
        return task(known)
    return _computed(task, known)


def _computed(value: Any, known: dict[Any, Any]) -> Any:
    if _is_task(value):
        return value[0](*(_computed(each, known) for each in value[1:]))
    if isinstance(value, list):
        return [_computed(each, known) for each in value]
    if isinstance(value, Hashable) and _in(value, known):
        return known[value]
    return value


def _is_task(value: Any) -> bool:
    return type(value) is tuple and bool(value) and callable(value[0])


def _in(value: Any, keys: Mapping[Any, Any]) -> bool:
    try:
        return value in keys
    except TypeError:  # a tuple with something in it that has no hash
        return False


def _needs(value: Any, dsk: Mapping[Any, Any]) -> list[Any]:
    """The keys in a task, each once."""
    found: dict[Any, None] = {}
    stack = [value]
    while stack:
        each = stack.pop()
        if hasattr(each, "dependencies"):
            found.update(dict.fromkeys(each.dependencies))
        elif _is_task(each):
            stack.extend(each[1:])
        elif isinstance(each, list):
            stack.extend(each)
        elif _in(each, dsk):
            found[each] = None
    return list(found)


def _order(dsk: Mapping[Any, Any], keys: list[Any]) -> list[Any]:
    """All keys that are needed, each after those it needs; without recursion."""
    order: dict[Any, None] = {}
    open_: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(key, False) for key in reversed(keys)]
    while stack:
        key, is_done = stack.pop()
        if is_done:
            open_.discard(key)
            order[key] = None
        elif key not in order:
            if key not in dsk:
                raise KeyError(key)
            if key in open_:
                raise ValueError(f"the graph has a cycle through {key!r}")
            open_.add(key)
            stack.append((key, True))
            stack.extend((need, False) for need in _needs(dsk[key], dsk) if need not in order)
    return list(order)


def _flat(keys: Any) -> list[Any]:
    if not isinstance(keys, list):
        return [keys]
    return [key for each in keys for key in _flat(each)]


def _shaped(keys: Any, values: dict[Any, Any]) -> Any:
    return tuple(_shaped(each, values) for each in keys) if isinstance(keys, list) else values[keys]


__all__ = ["disable_dask_on_ray", "enable_dask_on_ray", "obsray_dask_get", "ray_dask_get", "ray_dask_get_sync"]
