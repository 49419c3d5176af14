"""The options of remote functions, actors and methods: what is allowed, what it means, what it defaults to."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

from obsray import runtime_env

#: Resources are counted in fixed point: 1/10000 of a unit, except bytes.
UNIT = 10_000
BYTES_RESOURCES = frozenset({"memory", "object_store_memory"})
#: What a node takes for a name, and how many kinds of resources for one demand, with room for CPU, GPU and memory.
NAME_CHARACTERS_MAX = 1000
RESOURCES_MAX = 60
#: Resources that have an option of their own, and names that placement groups would be confused with.
_OPTION_OF = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
_RESERVED = re.compile(r"bundle(_.*)?|.*_group_(\d+_)?[0-9a-f]{32,}")
#: More results than this are a mistake, or a generator.
RETURNS_MAX = 100_000
#: More of any resource than this is a mistake; amounts travel as 64 bits.
AMOUNT_MAX = 1 << 53

TASK_OPTIONS = frozenset({
    "num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector", "fallback_strategy",
    "scheduling_strategy", "placement_group", "placement_group_bundle_index", "placement_group_capture_child_tasks",
    "runtime_env", "name", "enable_task_events", "_labels", "num_returns", "max_retries",
    "retry_exceptions", "max_calls", "_generator_backpressure_num_objects", "_num_objects_per_yield",
})  # fmt: skip
ACTOR_OPTIONS = frozenset({
    "num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector", "fallback_strategy",
    "scheduling_strategy", "placement_group", "placement_group_bundle_index", "placement_group_capture_child_tasks",
    "runtime_env", "name", "enable_task_events", "_labels", "max_restarts", "max_task_retries",
    "max_concurrency", "concurrency_groups", "max_pending_calls", "allow_out_of_order_execution", "lifetime",
    "namespace", "get_if_exists", "object_store_memory", "enable_tensor_transport",
    "_actor_generator_backpressure_num_objects", "checkpoint_every", "checkpoint_seconds",
})  # fmt: skip
METHOD_OPTIONS = frozenset({
    "name", "num_returns", "concurrency_group", "max_task_retries", "retry_exceptions", "enable_task_events",
    "_generator_backpressure_num_objects", "_num_objects_per_yield", "tensor_transport",
})  # fmt: skip

#: Options that are numbers of things, or -1 for no bound.
_WHOLE = frozenset({
    "num_returns", "max_retries", "max_restarts", "max_task_retries", "max_calls", "max_concurrency",
    "max_pending_calls", "checkpoint_every", "_generator_backpressure_num_objects",
    "_actor_generator_backpressure_num_objects",
})  # fmt: skip


def check(options: Mapping[str, Any], allowed: frozenset[str], what: str) -> dict[str, Any]:
    """The options, validated. Raises ValueError or TypeError naming the option, its value and what is allowed."""
    for name, value in options.items():
        if name not in allowed:
            raise ValueError(_unknown(name, allowed, what))
        _check_one(name, value)
    return dict(options)


def _unknown(name: str, allowed: frozenset[str], what: str) -> str:
    """What to do about an option that is none: the one that was meant, or whose it is; else all there are."""
    text = f"{name!r} is not an option of {what}"
    if name == "_metadata":
        return f"{text}; what _labels={{key: text}} says is recorded and listed with the tasks and actors"
    for owner, theirs in (
        ("remote functions", TASK_OPTIONS), ("actor classes", ACTOR_OPTIONS), ("methods of actors", METHOD_OPTIONS),
    ):  # fmt: skip
        if name in theirs:
            return f"{text} but of {owner}; the options here are: {_listed(allowed)}"
    close = difflib.get_close_matches(name, sorted(allowed), 1, 0.7)
    if close:
        return f"{text}; did you mean {close[0]!r}?"
    return f"{text}; the options are: {_listed(allowed)}"


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(name for name in names if not name.startswith("_")))


def _check_one(name: str, value: Any) -> None:
    if value is None:
        return
    if name in ("num_cpus", "num_gpus", "memory", "object_store_memory"):
        check_amount(name, value)
        if name == "num_gpus" and value > 1 and value != int(value):
            raise ValueError(f"num_gpus={value}: more than one GPU must be a whole number")
    elif name == "resources":
        if not isinstance(value, dict):
            raise TypeError(f"resources must be a dict of name to amount, got {type(value).__name__}")
        if len(value) > RESOURCES_MAX:
            raise ValueError(f"resources has {len(value)} names: must be at most {RESOURCES_MAX}")
        for resource, amount in value.items():
            if not isinstance(resource, str) or not resource:
                raise TypeError(f"resources={{{resource!r}: ...}}: the name of a resource must be a non-empty string")
            check_resource(resource)
            check_amount(f"resources[{resource!r}]", amount)
    elif name in _WHOLE and not _is_whole(name, value):
        kinds = 'a whole number, "streaming" or "dynamic"' if name == "num_returns" else "a whole number"
        raise TypeError(f"{name}={value!r}: must be {kinds}, got {type(value).__name__}")
    elif name == "num_returns":
        if value not in ("streaming", "dynamic") and not _whole(value, 0):
            raise ValueError(f'num_returns={value!r}: must be a number >= 0 or "streaming"')
        if not isinstance(value, str) and value > RETURNS_MAX:
            raise ValueError(
                f"num_returns={value}: must be at most {RETURNS_MAX}; return a list, or yield the values one by one"
            )
    elif name in ("max_retries", "max_restarts", "max_task_retries"):
        if not _whole(value, -1):
            raise ValueError(f"{name}={value!r}: must be -1 (without bound) or a number >= 0")
    elif name in ("max_calls",):
        if not _whole(value, 0):
            raise ValueError(f"{name}={value!r}: must be a number >= 0")
    elif name in ("max_concurrency", "checkpoint_every"):
        if not _whole(value, 1):
            raise ValueError(f"{name}={value!r}: must be a number >= 1")
    elif name == "checkpoint_seconds":
        check_amount(name, value)
        if not value:
            raise ValueError(f"checkpoint_seconds={value!r}: must be > 0")
    elif name == "max_pending_calls":
        if not _whole(value, -1):
            raise ValueError(f"max_pending_calls={value!r}: must be -1 (without bound) or a number >= 0")
    elif name in ("_generator_backpressure_num_objects", "_actor_generator_backpressure_num_objects"):
        if value != -1 and not _whole(value, 1):
            raise ValueError(f"{name}={value!r}: must be -1 (off) or a number >= 1")
    elif name == "concurrency_groups":
        _check_groups(value)
    elif name in ("allow_out_of_order_execution", "get_if_exists", "enable_task_events"):
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: must be True or False")
        if name == "enable_task_events" and not value:
            _warn_once(name, "enable_task_events=False has no effect: obsray records every task, at little cost; "
                       "OBSRAY_TELEMETRY=off stops all recording")  # fmt: skip
    elif name == "object_store_memory":
        _warn_once(name, "object_store_memory of an actor has no effect (as in Ray, which has deprecated it)")
    elif name == "_labels":
        _check_labels(value)
    elif name in ("tensor_transport", "enable_tensor_transport"):
        if value not in ("object_store", "OBJECT_STORE", False):
            raise ValueError(
                f"{name}={value!r}: obsray moves tensors through its object store only (which readers on the same "
                f"machine map without a copy); leave {name} out"
            )
    elif name == "_num_objects_per_yield":
        if value != 1:
            raise ValueError(f"_num_objects_per_yield={value!r}: obsray makes one object of each value yielded")
    elif name == "concurrency_group" and (not isinstance(value, str) or not value):
        raise TypeError(f"concurrency_group={value!r}: must be the name of a group")
    elif name == "retry_exceptions":
        classes = value if isinstance(value, (list, tuple)) else ()
        if not isinstance(value, (bool, list, tuple)) or not all(
            isinstance(c, type) and issubclass(c, BaseException) for c in classes
        ):
            raise TypeError(f"retry_exceptions={value!r}: must be True, False or a list of exception classes")
    elif name == "lifetime" and value not in ("detached", "non_detached"):
        if not isinstance(value, str):
            raise TypeError(f'lifetime={value!r}: must be "detached" or "non_detached"')
        raise ValueError(f'lifetime={value!r}: must be "detached" or "non_detached"')
    elif name in ("name", "namespace"):
        check_name(name, value)
    elif name == "runtime_env":
        runtime_env.check(value)


def _check_labels(labels: Any) -> None:
    if not isinstance(labels, dict) or not all(isinstance(word, str) for pair in labels.items() for word in pair):
        raise TypeError(f"_labels={labels!r}: must be a dict of strings to strings")
    if any("," in word or "=" in word for word in labels) or any("," in word for word in labels.values()):
        raise ValueError(f"_labels={labels!r}: keys cannot have '=' or ',' in them, values no ','")
    if len(shown_labels(labels)) > NAME_CHARACTERS_MAX:
        raise ValueError(f"_labels has {len(shown_labels(labels))} characters: must be at most {NAME_CHARACTERS_MAX}")


def shown_labels(labels: Mapping[str, str] | None) -> str:
    """Labels of a task or actor as they are recorded, listed and filtered: ``a=1,b=2``."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def check_name(what: str, value: Any) -> None:
    """Raises TypeError or ValueError for what cannot be the name of a task, actor or namespace."""
    if not isinstance(value, str):
        raise TypeError(f"{what}={value!r}: must be a string")
    if len(value) > NAME_CHARACTERS_MAX:
        raise ValueError(f"{what} has {len(value)} characters: must be at most {NAME_CHARACTERS_MAX}")
    if not value.isascii() and value != value.encode(errors="replace").decode():
        raise ValueError(f"{what}={value!r}: must be text that UTF-8 can express")


def _check_groups(groups: Any) -> None:
    if not isinstance(groups, dict):
        raise TypeError(
            f"concurrency_groups must be a dict of name to number of calls at a time, got {type(groups).__name__}"
        )
    for name, size in groups.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"concurrency_groups: {name!r} must be a name")
        if not _whole(size, 1):
            raise ValueError(f"concurrency_groups[{name!r}]={size!r}: must be a number >= 1")


_warned: set[str] = set()


def _warn_once(name: str, text: str) -> None:
    if name not in _warned:
        _warned.add(name)
        warnings.warn(text, UserWarning, stacklevel=6)


def check_resource(name: str) -> None:
    """Raises ValueError for what cannot be the name of a resource of the user's own."""
    if name in _OPTION_OF:
        raise ValueError(f"resources={{{name!r}: ...}}: use {_OPTION_OF[name]} instead")
    if name == "object_store_memory":
        raise ValueError(f"resources={{{name!r}: ...}}: the store is shared and spills to disk when full; leave it out")
    if _RESERVED.fullmatch(name):
        raise ValueError(
            f"resources={{{name!r}: ...}}: the names of bundles are reserved for placement groups; choose another, or "
            "say PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=...)"
        )


def check_amount(name: str, value: Any) -> None:
    """Raises TypeError or ValueError for what cannot be an amount of a resource."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: must be a number")
    if value < 0 or math.isnan(value) or math.isinf(value):
        raise ValueError(f"{name}={value!r}: must be >= 0 and finite")
    if value > AMOUNT_MAX:
        raise ValueError(f"{name}={value!r}: must be at most 2**53")
    if 0 < value * UNIT < 1:
        raise ValueError(f"{name}={value!r}: amounts are counted in steps of {1 / UNIT}")


def _is_whole(name: str, value: Any) -> bool:
    return isinstance(value, (int, str) if name == "num_returns" else int)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def fixed(name: str, amount: float) -> int:
    """An amount of a resource as the scheduler counts it."""
    return int(amount) if name in BYTES_RESOURCES else round(amount * UNIT)


def floating(name: str, amount: int) -> float:
    """An amount as people write it."""
    if name in BYTES_RESOURCES:
        return float(amount)
    value = amount / UNIT
    return int(value) if value == int(value) else value


def demanded(options: Mapping[str, Any], cpus_default: float) -> dict[str, int]:
    """What a task or actor needs, in fixed point; amounts of zero are left out."""
    wanted: dict[str, float] = {"CPU": cpus_default if options.get("num_cpus") is None else options["num_cpus"]}
    if options.get("num_gpus"):
        wanted["GPU"] = options["num_gpus"]
    if options.get("memory"):
        wanted["memory"] = options["memory"]
    wanted.update(options.get("resources") or {})
    if options.get("accelerator_type"):
        wanted[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    found = {name: fixed(name, amount) for name, amount in wanted.items()}
    return {name: amount for name, amount in found.items() if amount}


def describe(resources: Mapping[str, int]) -> str:
    """Resources for people and labels: ``CPU:1 GPU:0.5``."""
    return " ".join(f"{name}:{floating(name, amount):g}" for name, amount in sorted(resources.items())) or "nothing"
