"""What goes wrong meanwhile: the same in each fifth of the time, so that they can be compared; a seed chooses whom."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import psutil

from obsray.cluster_utils import Cluster, ClusterNode

#: After so long without an answer nobody waits for a process any more.
JOIN_SECONDS = 30.0
#: In short runs fewer are killed: each death costs the load a moment.
KILLS_APART_SECONDS = 4.0


class Faults(threading.Thread):
    """Kills workers, nodes (another joins instead) and the control store (its node starts it again)."""

    def __init__(self, cluster: Cluster, seed: int, period_seconds: float) -> None:
        super().__init__(name="soak-faults", daemon=True)
        self.cluster = cluster
        self.chance = Random(seed)
        self.count: Counter[str] = Counter()
        self.log: list[str] = []
        self.error = ""
        self._period = period_seconds
        self._over = threading.Event()
        #: One period.
        self._kinds = ["worker", "worker", "worker", "node", "worker", "worker", "control", "worker"]
        if period_seconds < KILLS_APART_SECONDS * len(self._kinds):
            self._kinds = ["worker", "node", "worker", "control"]

    def stop(self) -> None:
        """No more of it."""
        self._over.set()
        self.join(2 * JOIN_SECONDS)

    def run(self) -> None:
        began, turn = time.monotonic(), 0
        while True:
            turn += 1
            due = began + turn * self._period / len(self._kinds)
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            kind = self._kinds[(turn - 1) % len(self._kinds)]
            try:
                self.log.append(f"{time.monotonic() - began:7.1f} s  {getattr(self, '_' + kind)()}")
                self.count[kind] += 1
            except (psutil.Error, OSError, RuntimeError) as error:
                self.error = f"{kind}: {type(error).__name__}: {error}"

    def _worker(self) -> str:
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        found = [(node, process) for node in nodes if node is not None for process in workers(node)]
        node, process = self.chance.choice(sorted(found, key=lambda pair: pair[1].pid))
        os.kill(process.pid, signal.SIGKILL)
        return f"killed worker {process.pid} of node {node.node_id[:8]}"

    def _node(self) -> str:
        node = self.chance.choice(sorted(self.cluster.worker_nodes, key=lambda each: each.node_id))
        self.cluster.remove_node(node, allow_graceful=False)
        added = add_node(self.cluster)
        return f"killed node {node.node_id[:8]}, {added.node_id[:8]} joined"

    def _control(self) -> str:
        process = service(self.cluster.head_node, "control")
        if process is None:
            return "no control store to kill"
        process.kill()
        return f"killed control store {process.pid}"


def add_node(cluster: Cluster) -> ClusterNode:
    """One of the nodes that come and go."""
    return cluster.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=128 << 20)


def workers(node: ClusterNode) -> list[psutil.Process]:
    """Worker processes of a node."""
    found: list[psutil.Process] = []
    try:
        for child in psutil.Process(node.pid).children():
            if "zygote" in " ".join(child.cmdline()):
                found += [each for each in child.children() if each.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        pass
    return found


def service(node: ClusterNode | None, name: str) -> psutil.Process | None:
    """The process beside a node that writes the log ``name``."""
    if node is None:
        return None
    log = Path(node.session_dir) / "logs" / f"{name}.log"
    for child in psutil.Process(node.pid).children():
        try:
            if os.readlink(f"/proc/{child.pid}/fd/2") == str(log):
                return child
        except OSError:
            continue
    return None
