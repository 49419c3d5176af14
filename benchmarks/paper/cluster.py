"""Clusters of this machine for experiments, and what their processes use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil

import obsray
from obsray.cluster_utils import Cluster, ClusterNode

#: What the command line of a process contains -> what it is.
_ROLES = (
    ("obsray.core.node.process", "node"),
    ("obsray.core.control.process", "control store"),
    ("obsray.telemetry.process", "collector"),
    ("obsray.dashboard", "dashboard"),
    ("zygote", "zygote"),
)


@contextmanager
def cluster(
    nodes: Sequence[Mapping[str, Any]], settings: Mapping[str, Any] | None = None
) -> Iterator[tuple[Cluster, list[ClusterNode]]]:
    """A cluster of these nodes (arguments of ``add_node``, the head's first) with this process as a driver at the head.

    ``settings``: of all nodes, as for ``_system_config``. Everything has ended when the context is left.
    """
    made = Cluster(initialize_head=True, connect=True, head_node_args={**nodes[0], "_system_config": settings or {}})
    try:
        assert made.head_node is not None
        yield made, [made.head_node, *(made.add_node(**arguments) for arguments in nodes[1:])]
    finally:
        obsray.shutdown()
        made.shutdown()


def side(number: int) -> str:
    """A resource that only the node with this number has, to place work there."""
    return f"side{number}"


def processes() -> dict[str, list[psutil.Process]]:
    """Processes of the clusters that this process made, by what they are; "driver" is this one."""
    here = psutil.Process()
    found: dict[str, list[psutil.Process]] = defaultdict(list, driver=[here])
    zygotes: set[int] = set()
    below = here.children(recursive=True)
    for process in below:
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        role = next((role for part, role in _ROLES if part in command), None)
        if process.ppid() in zygotes:
            # Its title says what it runs.
            role = "worker"
        elif role == "zygote":
            zygotes.add(process.pid)
        if role is not None:
            found[role].append(process)
    return dict(found)


def resident_bytes(found: Mapping[str, Sequence[psutil.Process]]) -> dict[str, float]:
    """Memory in use by role, all its processes together."""
    return {role: sum(_value(each, lambda p: p.memory_info().rss) for each in some) for role, some in found.items()}


def cpu_seconds(found: Mapping[str, Sequence[psutil.Process]]) -> dict[str, float]:
    """CPU time used so far by role, all its processes together."""
    return {role: sum(_value(each, lambda p: sum(p.cpu_times()[:2])) for each in some) for role, some in found.items()}


def _value(process: psutil.Process, read: Any) -> float:
    try:
        return float(read(process))
    except psutil.Error:
        return 0.0
