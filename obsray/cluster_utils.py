"""``Cluster``: several nodes on one machine, for tests of what happens between machines.

Each node has its own processes, session directory, object store and resources, and talks to the others over TCP on the
loopback interface, as nodes of different machines do. All of them end with the process that made them, however it ends.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import obsray
from obsray.autoscaler.provider import provider_class
from obsray.autoscaler.settings import parse
from obsray.config import Config, translated
from obsray.core import api, options, parameters
from obsray.core.protocol.addresses import LOCALHOST, join
from obsray.core.runtime.node_process import NodeProcess, new_session_directory, start_node
from obsray.core.runtime.questions import ask
from obsray.core.runtime.session import current_or_none

#: What a node of a cluster for tests has if nothing else is said. Memory is taken only as it is used.
STORE_BYTES = 1 << 30
LOOK_SECONDS = 0.01


class ClusterNode:
    """One node: what ``add_node`` returns."""

    def __init__(self, process: NodeProcess, grace_seconds: float) -> None:
        self._process = process
        self._grace_seconds = grace_seconds

    @property
    def node_id(self) -> str:
        """Its id (hex), as ``obsray.nodes()`` has it."""
        return str(self._process.facts["node"])

    unique_id = node_id

    @property
    def address(self) -> str:
        """``host:port`` where other nodes reach it."""
        return str(self._process.facts["node_address"])

    @property
    def gcs_address(self) -> str:
        """The address of its cluster."""
        return str(self._process.facts["control_address_tcp"])

    @property
    def node_ip_address(self) -> str:
        """The interface it listens at."""
        return self.address.rpartition(":")[0]

    @property
    def node_manager_port(self) -> int:
        """The port it listens at."""
        return int(self.address.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process of the node itself; workers and all else are its descendants, and end with it."""
        return self._process.pid

    @property
    def session_dir(self) -> str:
        """Its session directory: logs, telemetry, sockets."""
        return str(self._process.directory)

    @property
    def raylet_socket_name(self) -> str:
        """The socket where processes of its machine reach it."""
        return str(self._process.directory / "sockets" / "node.sock")

    @property
    def head(self) -> bool:
        """Whether the control store of the cluster runs beside it."""
        return bool(self._process.facts["head"])

    def is_head(self) -> bool:
        """The same as ``head``."""
        return self.head

    @property
    def address_info(self) -> dict[str, Any]:
        """Addresses and directories, under the names ``init().address_info`` has."""
        return {
            "address": self.gcs_address,
            "gcs_address": self.gcs_address,
            "node_id": self.node_id,
            "node_ip_address": self.node_ip_address,
            "raylet_ip_address": self.node_ip_address,
            "raylet_socket_name": self.raylet_socket_name,
            "session_dir": self.session_dir,
        }

    def any_processes_alive(self) -> bool:
        """Whether the node's process is there."""
        return self._process.running

    def remaining_processes_alive(self) -> bool:
        """Whether the node's process is there: it is one process that ends with all that belongs to it."""
        return self._process.running

    def kill_raylet(self) -> None:
        """End the node's process by ``kill -9``; its workers end with it, and the cluster finds out by itself."""
        self._process.kill()

    def stop(self, allow_graceful: bool = True) -> None:
        """End it in order, or by ``kill -9``; returns when its processes are gone."""
        if allow_graceful:
            self._process.stop(self._grace_seconds)
        else:
            self._process.kill()

    def _release(self) -> None:
        self._process.release()

    def __repr__(self) -> str:
        state = "running" if self._process.running else "ended"
        return f"ClusterNode({self.node_id}, {self.address}, pid={self.pid}, {'head, ' if self.head else ''}{state})"


class Cluster:
    """Nodes on this machine that act as one runtime.

        cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
        other = cluster.add_node(num_cpus=2, resources={"left": 1}, labels={"side": "left"})
        ...
        cluster.remove_node(other, allow_graceful=False)
        obsray.shutdown()
        cluster.shutdown()

    ``initialize_head``: start the head now, with ``head_node_args`` as for ``add_node``; else the first ``add_node``
    starts it. ``connect``: this process becomes a driver. ``shutdown_at_exit``: end the nodes when the interpreter
    exits; without it they end a moment later, with the process.

    Raises RuntimeError for ``connect`` without a head and if a node cannot be started.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: Mapping[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        self.head_node: ClusterNode | None = None
        self.worker_nodes: set[ClusterNode] = set()
        self.connected = False
        #: ``head_node`` and ``worker_nodes`` change under it: nodes may be added from several threads.
        self._lock = threading.Lock()
        self._settings: dict[str, Any] = {}
        self._storage: str | None = None
        if connect and not initialize_head:
            raise RuntimeError("Cluster(connect=True) needs a head to connect to: pass initialize_head=True as well")
        if head_node_args and not initialize_head:
            raise ValueError("head_node_args are for a head that is started now: pass initialize_head=True as well")
        if shutdown_at_exit:
            atexit.register(self.shutdown)
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str:
        """``host:port``, for ``obsray.init(address=...)``. Raises RuntimeError before there is a head."""
        return self._head().gcs_address

    gcs_address = address

    def _head(self) -> ClusterNode:
        if self.head_node is None:
            raise RuntimeError("the cluster has no head; the first add_node() starts it")
        return self.head_node

    def connect(self, namespace: str | None = None) -> Any:
        """Make this process a driver of the cluster; returns what ``obsray.init`` does."""
        context = api.init(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True
        return context

    # --- nodes -------------------------------------------------------------------------------------------

    def add_node(self, wait: bool = True, **node_args: Any) -> ClusterNode:
        """Start a node; the first one is the head. ``wait``: until the cluster knows it.

        ``node_args``: ``num_cpus`` (1), ``num_gpus`` (0), ``memory``, ``object_store_memory`` (1 GiB), ``resources``,
        ``labels``, ``node_name``, ``env_vars`` (of its processes), ``node_ip_address`` ("127.0.0.1"), ``temp_dir``; for
        the head also ``port`` (0: any), ``include_dashboard`` (False), ``dashboard_port``, ``_system_config``
        (settings of all nodes; others may repeat it), ``storage`` and ``autoscaling_config`` (what nodes are started by
        themselves: docs/autoscaling.md); for others ``standby`` (a control store that takes over if the head is gone).

        Raises TypeError or ValueError for arguments, RuntimeError with the node's words if it does not start,
        TimeoutError if the others do not get to know it.
        """
        head = self.head_node
        settings = _settings(node_args.pop("_system_config", None))
        if head is None:
            self._settings, self._storage = settings, node_args.get("storage")
        for name, value in settings.items():
            if self._settings.get(name) != value:
                raise ValueError(
                    f"add_node(_system_config={{{name!r}: {value!r}}}): the head, the first node, decides that for all "
                    f"nodes, and has {self._settings}"
                )
        wanted = _node_options(node_args, head is None)
        wanted["config"] = {**self._settings}
        temp_dir = node_args.get("temp_dir") or node_args.get("_temp_dir")
        token = None
        if head is not None:
            wanted["control"] = head.gcs_address
            if node_args.get("standby"):
                wanted |= {
                    "standby": True,
                    "storage": self._storage or str(Path(head.session_dir) / "control"),
                    "control_listen": wanted["listen"],
                }
            token = (Path(head.session_dir) / "token").read_bytes()
        config = Config.from_environment(**self._settings)
        process = start_node(new_session_directory(temp_dir, token), wanted, environment=node_args.get("env_vars"))
        node = ClusterNode(process, config.shutdown_grace_seconds)
        with self._lock:
            if head is None:
                self.head_node = node
            else:
                self.worker_nodes.add(node)
        if wait:
            self._wait_for_node(node)
        return node

    def remove_node(self, node: ClusterNode, allow_graceful: bool = True) -> None:
        """End a node: in order, or by ``kill -9`` with ``allow_graceful=False``. Returns when its processes are gone.

        Raises ValueError for a node that is none of this cluster, and for the one this process is a driver at.
        """
        if node is not self.head_node and node not in self.worker_nodes:
            raise ValueError(f"{node!r} is not, or no longer, a node of this cluster")
        session = current_or_none()
        if session is not None and not session.closed and str(session.directory) == node.session_dir:
            raise ValueError("this process is a driver at that node; call obsray.shutdown() first")
        with self._lock:
            if node is self.head_node:
                self.head_node = None
            else:
                self.worker_nodes.discard(node)
        node.stop(allow_graceful)

    def list_all_nodes(self) -> list[ClusterNode]:
        """The nodes that were added and not removed, the head first."""
        with self._lock:
            return [*([self.head_node] if self.head_node is not None else []), *self.worker_nodes]

    def remaining_processes_alive(self) -> bool:
        """Whether all nodes are running."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

    def alive_nodes(self) -> set[str]:
        """The ids (hex) of the nodes that the head takes for alive."""
        rows = ask(Path(self._head().session_dir), "nodes")
        return {row["node"].hex() for row in rows if row["alive"]}

    def _at_work(self) -> set[str]:
        """The ids (hex) of the nodes that the head can give work to: it has a link to them and knows what they have."""
        rows = ask(Path(self._head().session_dir), "nodes")
        return {row["node"].hex() for row in rows if row["alive"] and row.get("linked", True) and row["resources"]}

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Wait until the head takes just those for alive that were added and not removed, and can give work to all of
        them. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        expected = {node.node_id for node in self.list_all_nodes()}
        while (alive := self.alive_nodes()) != expected or not expected <= self._at_work():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"within {timeout:g} s the cluster did not become its {len(expected)} nodes: "
                    f"missing {sorted(expected - alive)}, not expected {sorted(alive - expected)}"
                )
            time.sleep(LOOK_SECONDS)

    def _wait_for_node(self, node: ClusterNode, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while node.node_id not in self._at_work():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the head does not know {node!r} after {timeout:g} s")
            time.sleep(LOOK_SECONDS)

    def shutdown(self) -> None:
        """End all nodes, the head last, and leave the runtime if this process is in it. May be called twice."""
        atexit.unregister(self.shutdown)
        session = current_or_none()
        nodes = self.list_all_nodes()
        if session is not None and str(session.directory) in {node.session_dir for node in nodes}:
            api.shutdown()
        with self._lock:
            workers, self.worker_nodes = self.worker_nodes, set()
            head, self.head_node = self.head_node, None
        # All at once: they end side by side.
        for node in workers:
            node._release()
        for node in workers:
            node.stop()
        if head is not None:
            head.stop()
        self.connected = False

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        where = self.head_node.gcs_address if self.head_node is not None else "no head"
        return f"Cluster({where}, {len(self.list_all_nodes())} nodes)"


class AutoscalingCluster:
    """A head on this machine, and nodes that are started when something waits for them and leave when they are idle.

        cluster = AutoscalingCluster(
            head_resources={"CPU": 1},
            worker_node_types={"big": {"resources": {"CPU": 4}, "min_workers": 0, "max_workers": 2}},
            idle_timeout_minutes=0.1,
        )
        cluster.start()
        obsray.init(address="auto")
        ...
        obsray.shutdown()
        cluster.shutdown()

    ``head_resources``: of the head, like {"CPU": 1, "object_store_memory": 1 << 30}. ``worker_node_types`` and
    ``config``: the keys of an autoscaling file (docs/autoscaling.md), with ``idle_timeout_minutes`` 0.1 if nothing else
    is said. ``autoscaler_v2`` changes nothing: there is one.

    Raises TypeError or ValueError, with the place, for what is wrong with these.
    """

    def __init__(
        self,
        head_resources: Mapping[str, float],
        worker_node_types: Mapping[str, Mapping[str, Any]],
        autoscaler_v2: bool = False,
        **config: Any,
    ) -> None:
        if not isinstance(head_resources, Mapping):
            raise TypeError(f"head_resources must be a dict like {{'CPU': 1}}, got {type(head_resources).__name__}")
        known = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory", "object_store_memory": "object_store_memory"}
        self._head: dict[str, Any] = {"num_cpus": 0}
        self._head |= {known[name]: head_resources[name] for name in known if name in head_resources}
        self._head["resources"] = {name: amount for name, amount in head_resources.items() if name not in known}
        self.config: dict[str, Any] = {"idle_timeout_minutes": 0.1, **config, "available_node_types": worker_node_types}
        if "idle_timeout_s" in config:
            del self.config["idle_timeout_minutes"]
        _node_options(dict(self._head), True)
        parse(self.config, "AutoscalingCluster")
        self._cluster: Cluster | None = None

    def start(
        self, _system_config: Mapping[str, Any] | None = None, override_env: Mapping[str, str] | None = None
    ) -> None:
        """Start the head; nodes come with demand. ``override_env``: variables of its processes and of nodes.

        Raises RuntimeError if it runs already, or cannot be started.
        """
        if self._cluster is not None:
            raise RuntimeError("this AutoscalingCluster runs already; shutdown() ends it")
        cluster = Cluster()
        cluster.add_node(
            **self._head, _system_config=_system_config, env_vars=override_env, autoscaling_config=self.config
        )
        self._cluster = cluster

    def _running(self) -> Cluster:
        if self._cluster is None:
            raise RuntimeError("this AutoscalingCluster does not run; start() starts it")
        return self._cluster

    @property
    def head_node(self) -> ClusterNode:
        """The head. Raises RuntimeError if it does not run."""
        return self._running()._head()

    @property
    def address(self) -> str:
        """``host:port``, for ``obsray.init(address=...)``. Raises RuntimeError if it does not run."""
        return self._running().address

    gcs_address = address

    def connect(self, namespace: str | None = None) -> Any:
        """Make this process a driver of the cluster; returns what ``obsray.init`` does."""
        return self._running().connect(namespace)

    def shutdown(self) -> None:
        """End the head and all nodes, and leave the runtime if this process is in it. May be called twice."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.shutdown()

    def __enter__(self) -> AutoscalingCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        where = self._cluster.address if self._cluster is not None else "not running"
        return f"AutoscalingCluster({where}, node types {', '.join(self.config['available_node_types'])})"


#: Arguments of Ray's nodes that have nothing to do here -> why.
_INSTEAD = {
    "redis_address": "nodes join by the cluster's address; add_node knows it",
    "redis_password": "the cluster's token is used, which nobody has to know",
    "min_worker_port": "workers share the port of their node",
    "max_worker_port": "workers share the port of their node",
    "worker_port_list": "workers share the port of their node",
    "object_manager_port": "objects move over the port of their node",
    "node_manager_port": "a node takes any free port, and its handle's address tells which",
    "plasma_directory": "objects lie in anonymous shared memory",
    "object_spilling_directory": "spilled objects lie in the session directory: set temp_dir",
    "external_addresses": "the control store is the head's own",
    "num_redis_shards": "the control store keeps its state itself",
}
_KNOWN = (
    "num_cpus", "num_gpus", "memory", "object_store_memory", "resources", "labels", "node_name", "env_vars",
    "node_ip_address", "temp_dir", "_temp_dir",
)  # fmt: skip
_OTHERS_ONLY = ("standby",)
_HEAD_ONLY = (
    "port", "include_dashboard", "dashboard_host", "dashboard_port", "storage", "autoscaling_config",
)  # fmt: skip


def _settings(given: Any) -> dict[str, Any]:
    """``_system_config``, checked. Raises TypeError or ValueError."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"_system_config must be a dict, got {type(given).__name__}")
    settings = translated(given or {})
    Config.from_environment(**settings)
    return settings


def _node_options(given: dict[str, Any], head: bool) -> dict[str, Any]:
    """What a node is started with. Raises TypeError or ValueError with the name of the argument."""
    known = (*_KNOWN, *(_HEAD_ONLY if head else _OTHERS_ONLY))
    for name, value in given.items():
        if name in known or value is None:
            continue
        if name in _HEAD_ONLY:
            raise ValueError(f"add_node({name}={value!r}): only the head, the first node, decides that")
        if name in _OTHERS_ONLY:
            raise ValueError(f"add_node({name}={value!r}): the head, the first node, runs what others stand by for")
        if name in _INSTEAD:
            raise ValueError(f"add_node({name}={value!r}) is not offered: {_INSTEAD[name]}")
        raise TypeError(f"add_node() has no argument {name!r}; there are {', '.join(known)}")
    counted = ("num_cpus", "num_gpus", "memory", "object_store_memory", "resources")
    amounts = {name: given[name] for name in counted if given.get(name) is not None}
    options.check(amounts, frozenset(counted), "add_node")
    parameters.check_gpus(given.get("num_gpus"))
    labels = parameters.labels_of(given.get("labels"))
    parameters.check_dashboard(given.get("dashboard_host") or LOCALHOST, given.get("dashboard_port"))
    host = given.get("node_ip_address") or LOCALHOST
    wanted: dict[str, Any] = {
        "resources": {
            "CPU": amounts.get("num_cpus", 1),
            "GPU": amounts.get("num_gpus", 0),
            "memory": amounts.get("memory"),
            "object_store_memory": amounts.get("object_store_memory", STORE_BYTES),
            "custom": amounts.get("resources", {}),
        },
        "labels": labels,
        "node_name": given.get("node_name"),
        "listen": join(host, 0),
        "include_dashboard": False,
        "settings": {"version": obsray.__version__},
    }
    if head:
        wanted |= {
            "control_listen": join(host, given.get("port") or 0),
            "include_dashboard": bool(given.get("include_dashboard")),
            "dashboard_port": given.get("dashboard_port"),
            "storage": given.get("storage"),
        }
    if given.get("autoscaling_config") is not None:
        provider_class(parse(given["autoscaling_config"], "autoscaling_config"))
        wanted["autoscaling"] = given["autoscaling_config"]
    return wanted


__all__ = ["AutoscalingCluster", "Cluster", "ClusterNode"]
