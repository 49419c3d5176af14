"""``docs/lifecycles.md``, drawn from the tables: ``python -m obsray.core.protocol.docs > docs/lifecycles.md``."""

from __future__ import annotations

import sys
from enum import IntEnum

from obsray.core.protocol.lifecycle import (
    FIRST,
    TABLES,
    ActorState,
    CollectiveState,
    EnvironmentState,
    GpuState,
    GroupState,
    InstanceState,
    JobState,
    NodeState,
    ObjectState,
    PullState,
    SubmittedJobState,
    TaskState,
    WorkerState,
)

_HEAD = """# Lifecycles

Which state may follow which. Generated from `obsray/core/protocol/lifecycle.py`; do not edit.

A state changes only in `advance(entity, after)`, which raises `IllegalTransition` for an arrow that is not drawn
here. The last column names the [events](events.md) that tell of an arrival in the state.
"""

#: Title, who keeps the state, and for each state what it means and which events announce it.
_PAGES: dict[type[IntEnum], tuple[str, str, dict[IntEnum, tuple[str, tuple[str, ...]]]]] = {
    TaskState: (
        "Task",
        "Kept by the task's owner (`runtime/ownership.py`). Calls of actors and creations of actors are tasks, too.",
        {
            TaskState.WAITING_ARGUMENTS: (
                "An argument does not exist yet.",
                ("task_submitted", "task_arguments_waiting"),
            ),
            TaskState.QUEUED: (
                "It could run and waits for a worker, for its turn in the actor's line, or for another attempt.",
                ("task_submitted", "tasks_submitted", "task_ready", "task_retried", "task_recalled"),
            ),
            TaskState.DISPATCHED: (
                "It was sent to a worker (or its actor to the node); the worker says when it runs.",
                ("tasks_dispatched",),
            ),
            TaskState.FINISHED: ("Its results exist.", ("tasks_finished", "task_finished")),
            TaskState.FAILED: ("Its results are an error.", ("task_finished",)),
            TaskState.CANCELLED: ("Somebody asked for its end before it had one.", ("task_finished",)),
        },
    ),
    ObjectState: (
        "Object",
        "Kept by the node that stores it (`node/objects.py`). Small values stay with their owner and have none.",
        {
            ObjectState.CREATED: (
                "Its writer has room for it, or a file, or waits for one of both.",
                ("object_created", "object_allocation_waiting", "object_fallback"),
            ),
            ObjectState.SEALED: (
                "Complete; it can be read in place.",
                ("object_sealed", "object_restored", "object_spill_stopped", "transfer_done"),
            ),
            ObjectState.SPILLING: ("A thread writes it to disk; it can still be read.", ("object_spilling",)),
            ObjectState.SPILLED: ("Only its file is left.", ("object_spilled",)),
            ObjectState.RESTORING: ("A thread reads it back.", ("object_restoring",)),
            ObjectState.FREED: (
                "Nothing refers to it any more, or it was a copy and others needed the room; its room is free.",
                ("object_freed", "object_copy_dropped"),
            ),
            ObjectState.LOST: ("Its file cannot be read.", ("object_lost",)),
        },
    ),
    PullState: (
        "Pull",
        "Kept by the node that fetches an object from others (`node/pulls.py`), one for all who want it there.",
        {
            PullState.LOCATING: ("Its home was asked where it lies.", ("transfer_asked", "transfer_retried")),
            PullState.QUEUED: ("It is known where it lies; others are being fetched.", ()),
            PullState.WAITING_ROOM: ("It is its turn, and the store has no room yet.", ("object_allocation_waiting",)),
            PullState.PULLING: ("Its bytes come.", ("transfer_begun",)),
            PullState.DONE: ("The object is here.", ("transfer_done",)),
            PullState.FAILED: ("Those who wait for it are told why it does not come.", ("transfer_failed",)),
        },
    ),
    WorkerState: (
        "Worker",
        "Kept by the node (`node/workers.py`).",
        {
            WorkerState.STARTING: ("The process is being forked and has not said hello.", ("worker_starting",)),
            WorkerState.IDLE: ("It can be given work.", ("worker_registered", "lease_returned")),
            WorkerState.LEASED: ("An owner pushes tasks to it.", ("lease_decided",)),
            WorkerState.ACTOR: ("It has become an actor and stays one.", ("actor_placed",)),
            WorkerState.DEAD: ("The process has ended.", ("worker_died",)),
        },
    ),
    ActorState: (
        "Actor",
        "Kept by the node (`node/actors.py`), followed by every caller (`runtime/calls.py`, from PENDING_CREATION on)"
        " and by the control store (`control/actors.py`).",
        {
            ActorState.DEPENDENCIES_UNREADY: ("An argument of its constructor does not exist yet.", ()),
            ActorState.PENDING_CREATION: (
                "It waits for a worker, or its constructor runs.",
                ("actor_created", "actor_placed"),
            ),
            ActorState.ALIVE: ("It takes calls.", ("actor_alive",)),
            ActorState.RESTARTING: (
                "Its process died; it waits for another, or its constructor runs again.",
                ("actor_restarting", "actor_placed"),
            ),
            ActorState.DEAD: ("It is gone for good.", ("actor_died",)),
        },
    ),
    GroupState: (
        "Placement group",
        "Kept by the node (`node/groups.py`).",
        {
            GroupState.PENDING: (
                "Its bundles do not all fit now, or do not yet; none has anything.",
                ("group_requested", "group_waiting"),
            ),
            GroupState.PREPARED: (
                "Every bundle has its share; nothing runs there yet.",
                ("group_prepared", "bundle_placed"),
            ),
            GroupState.CREATED: ("Tasks and actors can run in its bundles.", ("group_created",)),
            GroupState.REMOVED: (
                "It is over; a bundle is released when the last worker in it is gone.",
                ("group_removed", "bundle_released"),
            ),
            GroupState.RESCHEDULING: (
                "A node with bundles died; they look for another. With one node this does not happen.",
                ("group_rescheduling",),
            ),
        },
    ),
    NodeState: (
        "Node",
        "Kept by the control store (`control/membership.py`).",
        {
            NodeState.ALIVE: ("Its heartbeats come.", ("node_changed",)),
            NodeState.SUSPECTED: ("Its heartbeats are late; a heartbeat clears it.", ("node_changed",)),
            NodeState.DEAD: ("Declared dead and fenced; it can come back only under a new id.", ("node_changed",)),
        },
    ),
    EnvironmentState: (
        "Environment",
        "Kept by the node (`node/environments.py`): what processes must be before they run tasks.",
        {
            EnvironmentState.CREATING: ("A thread makes it.", ("environment_asked",)),
            EnvironmentState.READY: ("Processes can be started in it.", ("environment_ready",)),
            EnvironmentState.FAILED: (
                "It cannot be made, or processes do not start in it; tried again when it is asked for later.",
                ("environment_failed",),
            ),
            EnvironmentState.REMOVED: ("Nothing used it and its room was needed.", ("environment_removed",)),
        },
    ),
    GpuState: (
        "GPU",
        "Kept by the node (`node/gpus.py`); what watches GPUs says when (`gpu/health.py`).",
        {
            GpuState.IN_SERVICE: ("Tasks and actors get it.", ("gpu_health_changed",)),
            GpuState.OUT_OF_SERVICE: (
                "What has it goes on; nobody else gets it until nothing was wrong with it for long enough.",
                ("gpu_health_changed",),
            ),
        },
    ),
    InstanceState: (
        "Instance",
        "Kept by the autoscaler (`autoscaler/machine.py`): a node that it has asked a provider for.",
        {
            InstanceState.STARTING: ("Asked for; it has not joined yet.", ("instance_requested",)),
            InstanceState.RUNNING: ("It is a node of the cluster.", ("instance_joined",)),
            InstanceState.LEAVING: (
                "It takes no more work and leaves when what runs there has ended.",
                ("instance_released",),
            ),
            InstanceState.ENDED: ("It is gone; its machine is ended.", ("instance_ended",)),
            InstanceState.FAILED: ("It did not come; its type waits for a while.", ("instance_failed",)),
        },
    ),
    JobState: (
        "Job",
        "Kept by the control store (`control/jobs.py`). A job is one run of one driver.",
        {
            JobState.RUNNING: ("The driver is there.", ("job_started",)),
            JobState.ENDED: ("It has left.", ("job_ended",)),
        },
    ),
    SubmittedJobState: (
        "Submitted job",
        "Kept by the job's supervisor (`job_submission/supervisor.py`). A command that may start drivers, each a job.",
        {
            SubmittedJobState.PENDING: (
                "It waits for the resources its command was given, or for its environment.",
                ("job_submitted",),
            ),
            SubmittedJobState.RUNNING: ("The command runs.", ("submitted_job_started",)),
            SubmittedJobState.SUCCEEDED: ("It ended with exit code 0.", ("submitted_job_ended",)),
            SubmittedJobState.FAILED: ("It ended otherwise, or could not be started.", ("submitted_job_ended",)),
            SubmittedJobState.STOPPED: ("It was asked to end.", ("submitted_job_ended",)),
        },
    ),
    CollectiveState: (
        "Membership in a collective group",
        "Kept by each member (`util/collective/group.py`).",
        {
            CollectiveState.FORMING: ("It waits for the other members.", ()),
            CollectiveState.READY: ("It is connected with all of them.", ("collective_joined",)),
            CollectiveState.BROKEN: ("A member is gone, late or out of step.", ("collective_broken",)),
            CollectiveState.LEFT: ("It has left.", ("collective_left",)),
        },
    ),
}


def markdown() -> str:
    """The whole page. Raises KeyError if a lifecycle or a state has no words here."""
    return "\n".join([_HEAD, *(_section(states) for states in TABLES)])


def _section(states: type[IntEnum]) -> str:
    title, keeper, meanings = _PAGES[states]
    lines = [f"## {title}", "", keeper, "", "```mermaid", "stateDiagram-v2", f"    [*] --> {FIRST[states].name}"]
    for before, afters in TABLES[states].items():
        lines += [f"    {before.name} --> {after.name}" for after in sorted(afters)]
        if not afters:
            lines.append(f"    {before.name} --> [*]")
    lines += ["```", "", "| state | number | what it means | followed by | told by |", "|---|---|---|---|---|"]
    for state in states:
        meaning, events = meanings[state]
        after = ", ".join(f"`{each.name}`" for each in sorted(TABLES[states][state])) or "nothing"
        told = ", ".join(f"[`{event}`](events.md#{event})" for event in events) or "–"
        lines.append(f"| `{state.name}` | {state.value} | {meaning} | {after} | {told} |")
    return "\n".join([*lines, ""])


def announcing_events() -> set[str]:
    """Names of all events the page mentions."""
    return {event for _, _, meanings in _PAGES.values() for _, events in meanings.values() for event in events}


if __name__ == "__main__":
    sys.stdout.write(markdown())
