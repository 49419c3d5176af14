"""The state API: what runs, what ran and what exists, as rows with attributes.

    from obsray.util import state
    state.list_tasks(filters=[("name", "=", "square"), ("state", "!=", "FINISHED")], sort="-run_seconds")

Answers come from the telemetry of a session directory: the running session's, or of any session on this machine given
as ``address`` (its name or path; the newest if there is none), also after it ended. Nothing is cut before it is
filtered.

A filter is ``(key, operator, value)`` with a key of the row; all must hold. Operators are ``=`` and ``!=`` (text is
compared without regard to case), ``<``, ``<=``, ``>``, ``>=``, ``contains`` and ``in`` (a list). ``sort`` is a key,
with ``-`` in front for descending. ``since`` and ``until`` keep what began between two moments: seconds since the
epoch, a ``datetime``, or text such as "10m" (ago). Fields marked as detail are None without ``detail=True``.

A list is a ``Rows``: at most ``limit`` rows, with ``total`` (how many match), ``left_out`` (how many come after these)
and ``next_cursor``, which as ``cursor`` of the next call goes on behind the last row, whatever was added meanwhile.

An answer that is not there within ``timeout`` seconds raises ``exception.StateTimeoutError``.
``raise_on_missing_output`` and ``_explain`` are accepted for compatibility: an answer is complete.
"""

from __future__ import annotations

from obsray.util.state.client import StateApiClient
from obsray.util.state.gpus import GpuState, KernelState, list_gpus, list_kernels
from obsray.util.state.listing import Rows
from obsray.util.state.lists import (
    list_actors,
    list_cluster_events,
    list_jobs,
    list_nodes,
    list_objects,
    list_placement_groups,
    list_runtime_envs,
    list_tasks,
    list_workers,
)
from obsray.util.state.logs import get_log, list_logs
from obsray.util.state.one import (
    get_actor,
    get_job,
    get_node,
    get_objects,
    get_placement_group,
    get_task,
    get_worker,
)
from obsray.util.state.rows import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateRow,
    TaskState,
    WorkerState,
)
from obsray.util.state.sessions import ask, cluster_members
from obsray.util.state.summaries import summarize_actors, summarize_objects, summarize_tasks

__all__ = [
    "ActorState",
    "ClusterEventState",
    "GpuState",
    "JobState",
    "KernelState",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "Rows",
    "RuntimeEnvState",
    "StateApiClient",
    "StateRow",
    "TaskState",
    "WorkerState",
    "ask",
    "cluster_members",
    "get_actor",
    "get_job",
    "get_log",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_gpus",
    "list_jobs",
    "list_kernels",
    "list_logs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]  # fmt: skip
