"""Provider: nodes are processes of the head's machine, started as ``cluster_utils`` starts them.

They hold the lifeline of the head's node, so they end with it; what was asked for is written down in the session
directory, so that an autoscaler that is started again finds its nodes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from obsray.autoscaler.provider import ClusterFacts, Provided
from obsray.autoscaler.settings import ENVIRONMENT, HOST, NODE_GROUP, TEMP_DIR, NodeType
from obsray.core.node.resources import CPU, GPU, MEMORY, UNIT
from obsray.core.protocol.addresses import join
from obsray.core.runtime.node_process import clean_up_after, new_session_directory, start_node
from obsray.telemetry import session_file
from obsray.telemetry.small_files import write_whole

#: What a node may take for an orderly end before it is killed.
END_SECONDS_MAX = 10.0
STARTED_BY = "the autoscaler"
#: What the command line of a node's process has in it.
NODE_MODULE = b"obsray.core.node.process"


@dataclass(slots=True)
class _Child:
    """A node: ``pid`` 0 until its process is ready. ``ending``: it was told to end.

    ``handle`` is a descriptor of its process, which leads to no other, whoever may get the pid afterwards.
    """

    node: bytes
    type: str
    directory: str = ""
    pid: int = 0
    handle: int = -1
    failed: str = ""
    ending: bool = False


class LocalProvider:
    """``lifeline``: the read end of the pipe that nodes watch, which the head's node holds."""

    def __init__(self, cluster: ClusterFacts, lifeline: int) -> None:
        self._cluster = cluster
        self._lifeline = lifeline
        self._book = cluster.session / "autoscaler"
        self._book.mkdir(mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._children: dict[bytes, _Child] = {}
        for path in self._book.glob("*.json"):
            child = _found(path)
            if child is None:
                path.unlink()
            else:
                self._children[child.node] = child

    # --- Provider --------------------------------------------------------------------------------------------

    def launch(self, node: bytes, kind: NodeType) -> None:
        """Start a process, in a thread: it is ready in some tenths of a second."""
        with self._lock:
            if node in self._children:
                return
            child = self._children[node] = _Child(node, kind.name)
        threading.Thread(target=self._start, args=(child, kind), name=f"start {node.hex()}", daemon=True).start()

    def terminate(self, node: bytes) -> None:
        """Ask the process to end, and kill it if it does not; in a thread."""
        with self._lock:
            child = self._children.get(node)
            if child is None or child.ending:
                return
            child.ending = True
        if child.handle >= 0:
            threading.Thread(target=self._end, args=(child,), name=f"end {node.hex()}", daemon=True).start()
        elif child.failed or not child.directory:
            self._forget(child)

    def nodes(self) -> Sequence[Provided]:
        """Those whose processes start or run."""
        found = []
        with self._lock:
            children = list(self._children.values())
        for child in children:
            if child.handle >= 0 and not child.ending and _over(child, 0):
                self._forget(child)
            else:
                found.append(Provided(child.node, child.type, child.failed))
        return found

    def close(self) -> None:
        """If the cluster ends, wait until the nodes here are gone; else they stay, for the next autoscaler."""
        if not select.select([self._lifeline], [], [], 0)[0]:
            return
        with self._lock:
            children = [child for child in self._children.values() if child.handle >= 0]
        for child in children:
            _over(child, END_SECONDS_MAX)

    # --- processes -------------------------------------------------------------------------------------------

    def _start(self, child: _Child, kind: NodeType) -> None:
        try:
            config = kind.node_config
            temp_dir = config.get(TEMP_DIR) or str(self._cluster.session.parent.parent)
            directory = new_session_directory(temp_dir, self._cluster.token)
            child.directory = str(directory)
            self._write(child)
            node = start_node(
                directory, options(kind, child.node, self._cluster.read()), environment=config.get(ENVIRONMENT),
                shared_lifeline=self._lifeline,
            )  # fmt: skip
            session_file.update(directory, started_by=STARTED_BY, node_type=kind.name)
            child.pid, handle = node.pid, os.pidfd_open(node.pid)
            self._write(child)
            child.handle = handle
            if child.ending:
                self._end(child)
        except Exception as error:
            # Whatever it is, the autoscaler has to hear of it: nobody else would.
            child.failed = str(error) or type(error).__name__
            if child.ending:
                self._forget(child)

    def _end(self, child: _Child) -> None:
        try:
            signal.pidfd_send_signal(child.handle, signal.SIGTERM)
            if not _over(child, END_SECONDS_MAX):
                signal.pidfd_send_signal(child.handle, signal.SIGKILL)
                _over(child, END_SECONDS_MAX)
                clean_up_after(Path(child.directory))
        except ProcessLookupError:
            pass
        self._forget(child)

    def _write(self, child: _Child) -> None:
        known = {"type": child.type, "directory": child.directory, "pid": child.pid}
        write_whole(self._book / f"{child.node.hex()}.json", json.dumps(known))

    def _forget(self, child: _Child) -> None:
        with self._lock:
            if self._children.pop(child.node, None) is not None and child.handle >= 0:
                os.close(child.handle)
        _reap(child.pid)
        (self._book / f"{child.node.hex()}.json").unlink(missing_ok=True)


def options(kind: NodeType, node: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a node of this type is started with; ``facts`` are those of the head."""
    resources = kind.resources
    host = kind.node_config.get(HOST) or str(facts["node_address"]).rpartition(":")[0]
    known = (CPU, GPU, MEMORY)
    return {
        "node_id": node.hex(),
        "node_name": f"{kind.name}-{node.hex()[:8]}",
        "control": facts["control_address_tcp"],
        "listen": join(host.strip("[]"), 0),
        "labels": {NODE_GROUP: kind.name, **kind.labels},
        "config": dict(facts.get("config") or {}),
        "include_dashboard": False,
        "resources": {
            "CPU": resources.get(CPU, 0) / UNIT,
            "GPU": resources.get(GPU, 0) / UNIT,
            "memory": resources.get(MEMORY),
            "object_store_memory": kind.store_bytes,
            "custom": {name: amount / UNIT for name, amount in resources.items() if name not in known},
        },
        "settings": {"version": facts.get("version", "")},
    }


def _found(path: Path) -> _Child | None:
    """A node that an autoscaler before this one has asked for; None if its process is not there any more."""
    facts = json.loads(path.read_bytes())
    # If whoever asked for it died in the middle, the node itself has written down which process it is.
    pid = facts["pid"] or int(session_file.read(Path(facts["directory"])).get("node_pid") or 0)
    try:
        handle = os.pidfd_open(pid) if pid else -1
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if NODE_MODULE not in command:
        os.close(handle)
        return None
    return _Child(bytes.fromhex(path.stem), facts["type"], facts["directory"], pid, handle)


def _over(child: _Child, seconds: float) -> bool:
    """Whether its process has ended, or does so within ``seconds``."""
    return bool(select.select([child.handle], [], [], seconds)[0])


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # It was started by an autoscaler before this one.
        pass


__all__ = ["LocalProvider", "options"]
