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
listen                 "host:port" where its data plane listens for other nodes (port 0: any; absent: no cluster, and
                       nothing listens on a network)
control                "host:port" of the control store to join; absent: this node is the head and starts its own
control_listen         "host:port" where the head's control store listens besides its unix socket; needs ``listen``
standby                this node also runs a control store that takes over if that of the head is gone; needs the
                       same ``storage``, and ``control_listen``
storage                where the control store keeps its state (default: in the session directory)
node_id                16 hex digits (default: random)
autoscaling            of the head of a cluster: node types and limits (``obsray/autoscaler/settings.py``, which has
                       checked them); an autoscaler then starts nodes for what waits
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
from obsray.core.node.detection import accelerator_types, detect, unknown
from obsray.core.node.resources import CPU, GPU, MEMORY, UNIT
from obsray.core.protocol.addresses import LOCALHOST, is_loopback, parse
from obsray.core.system.cgroup import Cgroup, cpus, memory_bytes
from obsray.gpu.health import numbers_of
from obsray.gpu.nvml import Found
from obsray.ids import NODE_ID_BYTES

OPTIONS_BYTES_MAX = 16 << 20
#: Resources that say where: followed by the node's address; of the head alone.
NODE_RESOURCE = "node:"
HEAD_RESOURCE = "node:__internal_head__"
#: What the node and its clients themselves need is not offered to tasks.
STORE_BYTES_MIN = 1 << 20
#: What a node has of a kind of accelerator is a resource of this name and the kind's.
ACCELERATOR_RESOURCE = "accelerator_type:"


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
    listen: str | None = None
    control: str | None = None
    control_listen: str | None = None
    standby: bool = False
    storage: str | None = None
    node_id: str | None = None
    autoscaling: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> bool:
        """Whether the control store of the cluster runs beside this node."""
        return self.control is None

    @property
    def clustered(self) -> bool:
        """Whether there are, or may be, other nodes."""
        return self.listen is not None


@dataclass(frozen=True, slots=True)
class Machine:
    """What this node offers: ``total`` in fixed point, its GPUs by number, the bytes of its object store.

    ``kinds`` are the names under which its GPUs may be asked for, ``notes`` what people should know about them.
    """

    total: dict[str, int]
    gpus: dict[int, Found]
    store_bytes: int
    kinds: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
    options = Options(session=session, token=(session / "token").read_bytes(), **values)
    _check_addresses(options)
    return options


def _check_addresses(options: Options) -> None:
    """Raises ValueError for addresses that are none, that others could reach unasked, or that contradict each other."""
    unsafe = getattr(options.config, "unsafe_network", "0") == "1"
    for name in ("listen", "control", "control_listen"):
        text = getattr(options, name)
        if text is None:
            continue
        host, port = parse(text, name)
        if name == "control":
            if not port:
                raise ValueError(f"control={text!r}: port 0 is where nobody listens")
        elif not unsafe and not is_loopback(host):
            raise ValueError(
                f"{name}={text!r}: traffic between nodes is not encrypted, so they listen on this machine alone "
                "unless the setting unsafe_network=1 says that everybody who can read this network is trusted"
            )
    if options.listen is None and (options.control or options.control_listen):
        raise ValueError("a node of a cluster needs an address to listen at")
    if options.control and options.control_listen and not options.standby:
        raise ValueError("a node either joins a control store or is the head with its own")
    if options.autoscaling is not None and not (options.head and options.control_listen):
        raise ValueError("autoscaling is for the head of a cluster, whose control store listens for other nodes")
    if options.standby and not (options.control and options.storage and options.control_listen):
        raise ValueError("a standby joins a control store, listens itself, and needs the storage that both use")
    if options.node_id is not None and len(bytes.fromhex(options.node_id)) != NODE_ID_BYTES:
        raise ValueError(f"node_id={options.node_id!r}: a node's id has {2 * NODE_ID_BYTES} hex digits")


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
    gpus, notes = _gpus(wanted, config)
    if gpus:
        total[GPU] = len(gpus) * UNIT
    custom = resources.get("custom") or {}
    for name, amount in custom.items():
        if name in (CPU, GPU, MEMORY, "object_store_memory"):
            raise ValueError(f"{name} is not a custom resource")
        total[name] = _units(name, amount, 0)
    kinds = accelerator_types(gpus)
    if not any(name.startswith(ACCELERATOR_RESOURCE) for name in custom):
        # Whoever starts a node may know better than its driver.
        total.update({ACCELERATOR_RESOURCE + kind: UNIT for kind in kinds})
    return Machine(total, gpus, int(store), tuple(kinds), tuple(notes))


def _gpus(wanted: float | None, config: Config) -> tuple[dict[int, Found], list[str]]:
    """As many as are wanted, those that are here first; all that are here if nobody said how many.

    Raises ValueError for a setting about them that makes no sense.
    """
    numbers_of(config.gpu_xids_fatal)
    if wanted == 0:
        return {}, []
    gpus, notes = detect(
        os.environ.get("CUDA_VISIBLE_DEVICES"), config.nvml_library, os.environ.get("CUDA_DEVICE_ORDER", "")
    )
    if wanted is None:
        return gpus, notes
    more = (number for number in range(int(wanted) + len(gpus)) if number not in gpus)
    while len(gpus) < int(wanted):
        number = next(more)
        gpus[number] = unknown(number)
    return dict(list(gpus.items())[: int(wanted)]), notes


def of_this_node(options: Options) -> dict[str, int]:
    """What only this node, and only the head, has one of, so that a demand for a bit of it is met nowhere else."""
    host = parse(options.listen, "listen")[0] if options.listen else LOCALHOST
    return {NODE_RESOURCE + host: UNIT, **({HEAD_RESOURCE: UNIT} if options.head else {})}


def _units(name: str, amount: float | None, default: float) -> int:
    value = default if amount is None else amount
    if not 0 <= value < 1 << 40:
        raise ValueError(f"{name} cannot be {value}")
    return round(value * UNIT)
