"""How a node is started: one JSON object on its standard input.

=====================  ==============================================================================================
key                    meaning
=====================  ==============================================================================================
session_directory      exists, mode 0700, holds ``token``; the only key that must be there
config                 {name: value} for ``obsray.config.Config``, before ``OBSRAY_*`` variables
resources              {"CPU", "GPU": number, "memory", "object_store_memory": bytes, "custom": {name: number}};
                       what is missing or null is found out
labels                 {name: value} that selectors may ask for
lifeline_fd            descriptor whose end of file means that whoever started the node is gone
ready_fd               descriptor for one line of JSON: {"ok": true, ...}, or {"ok": false, "error": sentence}
include_dashboard      whether to start the dashboard (default true)
dashboard_port         first port it tries (default: its own)
node_name              what people call this node (default: its host name)
settings               {name: value} handed to every client in ``Welcome``
=====================  ==============================================================================================
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from obsray.config import Config
from obsray.core.node.resources import CPU, GPU, MEMORY, UNIT
from obsray.core.system.cgroup import Cgroup, cpus, memory_bytes

OPTIONS_BYTES_MAX = 16 << 20
#: What the node and its clients themselves need is not offered to tasks.
STORE_BYTES_MIN = 1 << 20


@dataclass(slots=True)
class Options:
    """The options of a node, checked."""

    session: Path
    config: Config
    token: bytes
    resources: dict[str, Any]
    lifeline_fd: int | None = None
    ready_fd: int | None = None
    include_dashboard: bool = True
    dashboard_port: int | None = None
    node_name: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this node offers: ``total`` in fixed point, the numbers of its GPUs, the bytes of its object store."""

    total: dict[str, int]
    gpus: list[int]
    store_bytes: int


def read_options(text: str) -> Options:
    """Parse what came on standard input. Raises ValueError or OSError with a sentence for whoever starts a node."""
    values = json.loads(text)
    if not isinstance(values, dict) or "session_directory" not in values:
        raise ValueError("a node is started with a JSON object that names its session_directory")
    session = Path(values.pop("session_directory"))
    known = set(Options.__dataclass_fields__) - {"session", "token"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown options: {', '.join(unknown)}")
    status = session.stat()
    if status.st_mode & 0o077 or status.st_uid != os.getuid():
        raise ValueError(f"{session} must belong to this user alone (mode 0700)")
    values["config"] = Config.from_environment(**(values.get("config") or {}))
    values["resources"] = values.get("resources") or {}
    values["settings"] = values.get("settings") or {}
    values["labels"] = values.get("labels") or {}
    return Options(session=session, token=(session / "token").read_bytes(), **values)


def offered(resources: dict[str, Any], config: Config) -> Machine:
    """What the node offers: as asked for, else what the container allows. Raises ValueError for what cannot be."""
    group = Cgroup()
    memory = memory_bytes(group)
    store = resources.get("object_store_memory")
    if store is None:
        store = min(config.store_bytes_max, int(memory * config.store_memory_ratio))
    if store < STORE_BYTES_MIN:
        raise ValueError(f"object_store_memory must be at least {STORE_BYTES_MIN} bytes, got {store}")
    total = {
        CPU: _units("CPU", resources.get("CPU"), cpus(group)),
        MEMORY: int(resources["memory"]) if resources.get("memory") is not None else max(0, memory - int(store)),
    }
    wanted = resources.get("GPU")
    gpus = _visible_gpus() if wanted != 0 else []
    if wanted is not None:
        gpus = [*gpus, *(number for number in range(int(wanted) + len(gpus)) if number not in gpus)][: int(wanted)]
    if gpus:
        total[GPU] = len(gpus) * UNIT
    for name, amount in (resources.get("custom") or {}).items():
        if name in (CPU, GPU, MEMORY, "object_store_memory"):
            raise ValueError(f"{name} is not a custom resource")
        total[name] = _units(name, amount, 0)
    return Machine(total, gpus, int(store))


def _units(name: str, amount: float | None, default: float) -> int:
    value = default if amount is None else amount
    if not 0 <= value < 1 << 40:
        raise ValueError(f"{name} cannot be {value}")
    return round(value * UNIT)


def _visible_gpus() -> list[int]:
    """Device numbers: those that CUDA_VISIBLE_DEVICES names, else all whose device file is here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        words = [word.strip() for word in visible.split(",") if word.strip()]
        # Other names (UUIDs) are counted; inside, they have their positions as numbers.
        return [int(word) for word in words] if all(map(str.isdigit, words)) else list(range(len(words)))
    names = (entry.name.removeprefix("nvidia") for entry in os.scandir("/dev") if entry.name.startswith("nvidia"))
    found = sorted(int(name) for name in names if name.isdigit())
    if found:
        return found
    try:
        # Some containers name the devices otherwise; the driver still lists one directory for each.
        return list(range(len(os.listdir("/proc/driver/nvidia/gpus"))))
    except OSError:
        return []
