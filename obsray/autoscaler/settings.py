"""What an autoscaler may start: node types as data.

The keys are those of Ray's cluster files as far as they concern scaling. Whatever is wrong is a ValueError that names
the file, the place in it and what is allowed there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from obsray.core.node.resources import CPU, GPU, MEMORY, UNIT, Amounts
from obsray.core.protocol.labels import RESERVED_PREFIX, check_value, said

#: The label that says of which type a node is.
NODE_GROUP = RESERVED_PREFIX + "node-group"
STORE = "object_store_memory"
IDLE_SECONDS = 300.0
AMOUNT_MAX = 1 << 40
TYPES_MAX = 100
WORKERS_MAX = 10_000
#: A node that has not joined by then counts as failed.
START_SECONDS_MAX = 600.0
LOCAL = "local"
EXTERNAL = "external"
#: Keys of the node_config of nodes that are processes of the head's machine.
ENVIRONMENT, TEMP_DIR, HOST = "env_vars", "temp_dir", "node_ip_address"

#: Keys of Ray's files that have nothing to do here -> what there is instead.
_INSTEAD = {
    "auth": "nodes share the cluster's token (docs/security.md)",
    "docker": "put what a provider needs into node_config",
    "file_mounts": "give programs a runtime_env with working_dir",
    "cluster_synced_files": "give programs a runtime_env with working_dir",
    "rsync_exclude": "nothing is copied to nodes",
    "rsync_filter": "nothing is copied to nodes",
    "initialization_commands": "prepare the machines' image",
    "setup_commands": "prepare the machines' image, or give programs a runtime_env",
    "head_setup_commands": "prepare the machines' image, or give programs a runtime_env",
    "worker_setup_commands": "prepare the machines' image, or give programs a runtime_env",
    "head_start_ray_commands": "the head is started with 'obsray start --head --autoscaling-config FILE'",
    "worker_start_ray_commands": "the provider starts nodes",
    "head_node": "the head is started with 'obsray start --head --autoscaling-config FILE'",
    "worker_nodes": "say it in available_node_types",
    "initial_workers": "say min_workers in available_node_types",
    "autoscaling_mode": "say upscaling_speed",
    "target_utilization_fraction": "nodes are started for what waits, not for a share of use",
    "no_restart": "running nodes are never started again",
}


@dataclass(frozen=True, slots=True)
class NodeType:
    """One kind of node. ``resources`` are fixed point; ``store_bytes`` None: the node decides."""

    name: str
    resources: Amounts
    labels: Mapping[str, str]
    min_workers: int
    max_workers: int
    idle_seconds: float
    priority: int = 0
    store_bytes: int | None = None
    start_seconds_max: float = START_SECONDS_MAX
    node_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def all_labels(self) -> dict[str, str]:
        """Its own and the one that says its type."""
        return {NODE_GROUP: self.name, **self.labels}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an autoscaler goes by."""

    types: Mapping[str, NodeType]
    max_workers: int
    upscaling_speed: float = 1.0
    provider: Mapping[str, Any] = field(default_factory=lambda: {"type": LOCAL})


def parse(values: Any, source: str) -> Settings:
    """The settings in ``values``, checked. Raises ValueError that begins with ``source`` and the place."""
    top = _Place(source, "", values)
    top.known(
        "cluster_name", "max_workers", "min_workers", "upscaling_speed", "idle_timeout_minutes", "idle_timeout_s",
        "provider", "head_node_type", "available_node_types",
    )  # fmt: skip
    if top.has("min_workers"):
        raise top.wrong("min_workers", "is said for each type, in available_node_types")
    if top.has("cluster_name"):
        top.text("cluster_name")
    idle = _idle_seconds(top, IDLE_SECONDS)
    most = top.whole("max_workers", None)
    types = top.inside("available_node_types", "which nodes there can be")
    head = top.text("head_node_type") if top.has("head_node_type") else ""
    if head and not types.has(head):
        raise top.wrong("head_node_type", f"{head!r} is none of available_node_types")
    if len(types.values) > TYPES_MAX:
        raise top.wrong("available_node_types", f"more than {TYPES_MAX} types")
    found = {}
    for name in types.values:
        place = types.inside(name, "a node type")
        try:
            check_value(name, "its name")
        except (TypeError, ValueError) as error:
            raise types.wrong(str(name), str(error)) from None
        if name == head and not place.has("max_workers") and not place.has("min_workers"):
            continue
        found[name] = _node_type(name, place, most, idle)
    if not found:
        raise top.wrong("available_node_types", "there is no type of which nodes could be started")
    provider = _provider(top)
    if provider["type"] == LOCAL:
        for name, kind in found.items():
            if kind.node_config:
                _check_local(types.inside(name, "").inside("node_config", ""))
    total = sum(each.max_workers for each in found.values())
    if most is not None and most < (least := sum(each.min_workers for each in found.values())):
        raise top.wrong("max_workers", f"is {most}, but the min_workers of all types are {least}")
    most = min(total, WORKERS_MAX) if most is None else most
    return Settings(found, most, top.number("upscaling_speed", 1.0), provider)


def _check_local(place: _Place) -> None:
    place.known(ENVIRONMENT, HOST, TEMP_DIR)
    if place.has(ENVIRONMENT):
        variables = place.inside(ENVIRONMENT, "")
        for name in variables.values:
            if not isinstance(variables.values[name], str):
                raise variables.wrong(str(name), f"must be text, got {_shown(variables.values[name])}")
    for key in (HOST, TEMP_DIR):
        if place.has(key):
            place.text(key)


def _node_type(name: str, place: _Place, most: int | None, idle: float) -> NodeType:
    place.known(
        "resources", "labels", "min_workers", "max_workers", "idle_timeout_s", "priority", "node_config",
        "start_timeout_s",
    )  # fmt: skip
    resources, store = _resources(place.inside("resources", 'what such a node has, like {"CPU": 4}'))
    largest = place.whole("max_workers", most)
    if largest is None:
        raise place.wrong("max_workers", "say how many there may be, here or as max_workers of the whole cluster")
    least = place.whole("min_workers", 0) or 0
    if least > largest:
        raise place.wrong("min_workers", f"is {least}, more than max_workers, which is {largest}")
    config = place.inside("node_config", "what the provider needs").values if place.has("node_config") else {}
    return NodeType(
        name, resources, _labels(place), least, largest, _idle_seconds(place, idle), place.integer("priority", 0),
        store, place.number("start_timeout_s", START_SECONDS_MAX), config,
    )  # fmt: skip


def _labels(place: _Place) -> dict[str, str]:
    labels = place.inside("labels", "labels of such a node") if place.has("labels") else None
    for key, value in (labels.values if labels else {}).items():
        assert labels is not None
        try:
            said({key: value}, {})
        except (TypeError, ValueError) as error:
            raise labels.wrong(str(key), str(error)) from None
        if key == NODE_GROUP:
            raise labels.wrong(key, "is the name of the type")
    return dict(labels.values) if labels else {}


def _resources(place: _Place) -> tuple[Amounts, int | None]:
    """Fixed point, and the bytes of the object store if they are said."""
    found: Amounts = {CPU: 0}
    store = None
    for name in place.values:
        if not isinstance(name, str) or not name or len(name) > 128:
            raise place.wrong(str(name), "a resource has a name of 1 to 128 characters")
        amount = place.number(name, 0.0)
        if amount >= AMOUNT_MAX and name not in (MEMORY, STORE):
            raise place.wrong(name, f"must be below {AMOUNT_MAX}, got {amount:g}")
        if name == GPU and amount != int(amount):
            raise place.wrong(name, f"a machine has a whole number of GPUs, got {amount:g}")
        if name == STORE:
            store = int(amount)
        else:
            found[name] = int(amount) if name == MEMORY else round(amount * UNIT)
    return {name: amount for name, amount in found.items() if amount or name == CPU}, store


def _idle_seconds(place: _Place, default: float) -> float:
    if not place.has("idle_timeout_minutes"):
        return place.number("idle_timeout_s", default)
    if place.has("idle_timeout_s"):
        raise place.wrong("idle_timeout_s", "is said twice: as idle_timeout_minutes, too")
    return 60 * place.number("idle_timeout_minutes", 0.0)


def _provider(top: _Place) -> dict[str, Any]:
    if not top.has("provider"):
        return {"type": LOCAL}
    place = top.inside("provider", 'who starts nodes, like {"type": "local"}')
    kind = place.text("type")
    if kind == EXTERNAL:
        if ":" not in place.text("module") and "." not in place.text("module"):
            raise place.wrong("module", "must name a class like 'package.module.Class'")
    elif kind != LOCAL:
        raise place.wrong(
            "type", f"{kind!r} is none of {LOCAL!r} (nodes are processes of the head's machine) and {EXTERNAL!r} (a "
            "class of your own: docs/autoscaling.md)",
        )  # fmt: skip
    else:
        place.known("type")
    return dict(place.values)


class _Place:
    """A mapping in a file, and where it is there."""

    def __init__(self, source: str, path: str, values: Any) -> None:
        self.source, self.path = source, path
        if not isinstance(values, Mapping):
            raise ValueError(f"{source}: {path or 'the whole'} must be an object, got {_shown(values)}")
        self.values = values

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def wrong(self, key: str, what: str) -> ValueError:
        path = f"{self.path}.{key}" if self.path else key
        return ValueError(f"{self.source}: {path}: {what}")

    def known(self, *keys: str) -> None:
        for key in self.values:
            if key not in keys:
                instead = _INSTEAD.get(key)
                raise self.wrong(str(key), instead or f"there is no such key; there are {', '.join(keys)}")

    def inside(self, key: str, what: str) -> _Place:
        if not self.has(key):
            raise self.wrong(key, f"is missing: {what}")
        value = self.values[key]
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"must be an object, got {_shown(value)}")
        return _Place(self.source, f"{self.path}.{key}" if self.path else key, value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, f"must be text, got {_shown(value)}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.wrong(key, f"must be a number >= 0, got {_shown(value)}")
        return float(value)

    def integer(self, key: str, default: int) -> int:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, f"must be a whole number, got {_shown(value)}")
        return value

    def whole(self, key: str, default: int | None) -> int | None:
        value = self.values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= WORKERS_MAX:
            raise self.wrong(key, f"must be a whole number from 0 to {WORKERS_MAX}, got {_shown(value)}")
        return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


__all__ = ["EXTERNAL", "LOCAL", "NODE_GROUP", "NodeType", "Settings", "parse"]
