"""The lifecycles: which state may follow which, as tables. No other module decides that.

A missing entry is an error (``IllegalTransition``). The owner of a task or object moves it with ``advance``; the
event that tells the world is emitted by the same machine method, and the simulator checks after every step that
replaying the events alone gives the same states. ``docs/lifecycles.md`` is drawn from these tables.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class TaskState(IntEnum):
    """A task as its owner knows it."""

    WAITING_ARGUMENTS = 0
    QUEUED = 1
    DISPATCHED = 2
    FINISHED = 3
    FAILED = 4
    CANCELLED = 5


class ObjectState(IntEnum):
    """An object in a node's store."""

    CREATED = 0
    SEALED = 1
    SPILLING = 2
    SPILLED = 3
    RESTORING = 4
    FREED = 5
    LOST = 6


class PullState(IntEnum):
    """A node's fetching of an object that lies elsewhere."""

    LOCATING = 0
    QUEUED = 1
    WAITING_ROOM = 2
    PULLING = 3
    DONE = 4
    FAILED = 5


class WorkerState(IntEnum):
    """A worker process as its node knows it."""

    STARTING = 0
    IDLE = 1
    LEASED = 2
    ACTOR = 3
    DEAD = 4


class ActorState(IntEnum):
    DEPENDENCIES_UNREADY = 0
    PENDING_CREATION = 1
    ALIVE = 2
    RESTARTING = 3
    DEAD = 4


class GroupState(IntEnum):
    """A placement group as its node knows it."""

    PENDING = 0
    #: Every bundle has its share, but nothing runs there yet: the first of two phases.
    PREPARED = 1
    CREATED = 2
    REMOVED = 3
    #: A node with bundles died; they look for another.
    RESCHEDULING = 4


class NodeState(IntEnum):
    """A node as the control store knows it."""

    ALIVE = 0
    SUSPECTED = 1
    DEAD = 2


class EnvironmentState(IntEnum):
    """What processes of a node must be, as the node knows it."""

    CREATING = 0
    READY = 1
    FAILED = 2
    REMOVED = 3


class InstanceState(IntEnum):
    """A node that an autoscaler asked a provider for."""

    STARTING = 0
    RUNNING = 1
    #: It takes no more work, and leaves when what runs there has ended.
    LEAVING = 2
    ENDED = 3
    #: It never came.
    FAILED = 4


class JobState(IntEnum):
    RUNNING = 0
    ENDED = 1


class SubmittedJobState(IntEnum):
    """A command that was submitted as a job."""

    PENDING = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    STOPPED = 4


class CollectiveState(IntEnum):
    """A process' membership in a group for collective operations."""

    FORMING = 0
    READY = 1
    BROKEN = 2
    LEFT = 3


class GpuState(IntEnum):
    """A GPU as its node knows it."""

    IN_SERVICE = 0
    #: It goes on with what it has, and gets nothing new.
    OUT_OF_SERVICE = 1


TASK: dict[TaskState, frozenset[TaskState]] = {
    TaskState.WAITING_ARGUMENTS: frozenset({TaskState.QUEUED, TaskState.FAILED, TaskState.CANCELLED}),
    # Back to waiting: an argument that was there is lost and has to be made again.
    TaskState.QUEUED: frozenset(
        {TaskState.DISPATCHED, TaskState.WAITING_ARGUMENTS, TaskState.FAILED, TaskState.CANCELLED}
    ),
    TaskState.DISPATCHED: frozenset({TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED, TaskState.QUEUED}),
    # Lineage: a finished task whose result was lost is run again.
    TaskState.FINISHED: frozenset({TaskState.QUEUED, TaskState.WAITING_ARGUMENTS}),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
}

OBJECT: dict[ObjectState, frozenset[ObjectState]] = {
    ObjectState.CREATED: frozenset({ObjectState.SEALED, ObjectState.FREED}),
    ObjectState.SEALED: frozenset({ObjectState.SPILLING, ObjectState.FREED, ObjectState.LOST}),
    ObjectState.SPILLING: frozenset({ObjectState.SPILLED, ObjectState.SEALED, ObjectState.FREED}),
    ObjectState.SPILLED: frozenset({ObjectState.RESTORING, ObjectState.FREED, ObjectState.LOST}),
    ObjectState.RESTORING: frozenset({ObjectState.SEALED, ObjectState.SPILLED, ObjectState.FREED, ObjectState.LOST}),
    ObjectState.FREED: frozenset(),
    ObjectState.LOST: frozenset({ObjectState.FREED, ObjectState.CREATED}),
}

PULL: dict[PullState, frozenset[PullState]] = {
    # Done without a transfer: it was made here after all.
    PullState.LOCATING: frozenset({PullState.QUEUED, PullState.DONE, PullState.FAILED}),
    # Straight on: it has its room from the try before.
    PullState.QUEUED: frozenset({PullState.WAITING_ROOM, PullState.PULLING, PullState.DONE, PullState.FAILED}),
    PullState.WAITING_ROOM: frozenset({PullState.PULLING, PullState.DONE, PullState.FAILED}),
    # Back: no source could give it all, so its home is asked again.
    PullState.PULLING: frozenset({PullState.DONE, PullState.LOCATING, PullState.FAILED}),
    PullState.DONE: frozenset(),
    PullState.FAILED: frozenset(),
}

WORKER: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.IDLE, WorkerState.DEAD}),
    WorkerState.IDLE: frozenset({WorkerState.LEASED, WorkerState.ACTOR, WorkerState.DEAD}),
    WorkerState.LEASED: frozenset({WorkerState.IDLE, WorkerState.DEAD}),
    WorkerState.ACTOR: frozenset({WorkerState.DEAD}),
    WorkerState.DEAD: frozenset(),
}

ACTOR: dict[ActorState, frozenset[ActorState]] = {
    ActorState.DEPENDENCIES_UNREADY: frozenset({ActorState.PENDING_CREATION, ActorState.DEAD}),
    ActorState.PENDING_CREATION: frozenset({ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.ALIVE: frozenset({ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.RESTARTING: frozenset({ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.DEAD: frozenset(),
}

GROUP: dict[GroupState, frozenset[GroupState]] = {
    GroupState.PENDING: frozenset({GroupState.PREPARED, GroupState.REMOVED}),
    # Back to waiting: a node refused its part, so all of it is given back.
    GroupState.PREPARED: frozenset(
        {GroupState.CREATED, GroupState.PENDING, GroupState.RESCHEDULING, GroupState.REMOVED}
    ),
    GroupState.CREATED: frozenset({GroupState.RESCHEDULING, GroupState.REMOVED}),
    GroupState.RESCHEDULING: frozenset({GroupState.PREPARED, GroupState.REMOVED}),
    GroupState.REMOVED: frozenset(),
}

NODE: dict[NodeState, frozenset[NodeState]] = {
    NodeState.ALIVE: frozenset({NodeState.SUSPECTED, NodeState.DEAD}),
    NodeState.SUSPECTED: frozenset({NodeState.ALIVE, NodeState.DEAD}),
    # Fenced for good: whoever was declared dead comes back under a new id.
    NodeState.DEAD: frozenset(),
}

INSTANCE: dict[InstanceState, frozenset[InstanceState]] = {
    InstanceState.STARTING: frozenset({InstanceState.RUNNING, InstanceState.FAILED}),
    InstanceState.RUNNING: frozenset({InstanceState.LEAVING, InstanceState.ENDED}),
    InstanceState.LEAVING: frozenset({InstanceState.ENDED}),
    InstanceState.ENDED: frozenset(),
    InstanceState.FAILED: frozenset(),
}

JOB: dict[JobState, frozenset[JobState]] = {
    JobState.RUNNING: frozenset({JobState.ENDED}),
    JobState.ENDED: frozenset(),
}

SUBMITTED_JOB: dict[SubmittedJobState, frozenset[SubmittedJobState]] = {
    SubmittedJobState.PENDING: frozenset(
        {SubmittedJobState.RUNNING, SubmittedJobState.FAILED, SubmittedJobState.STOPPED}
    ),
    SubmittedJobState.RUNNING: frozenset(
        {SubmittedJobState.SUCCEEDED, SubmittedJobState.FAILED, SubmittedJobState.STOPPED}
    ),
    SubmittedJobState.SUCCEEDED: frozenset(),
    SubmittedJobState.FAILED: frozenset(),
    SubmittedJobState.STOPPED: frozenset(),
}

COLLECTIVE: dict[CollectiveState, frozenset[CollectiveState]] = {
    CollectiveState.FORMING: frozenset({CollectiveState.READY, CollectiveState.BROKEN}),
    CollectiveState.READY: frozenset({CollectiveState.BROKEN, CollectiveState.LEFT}),
    # Members may disagree on how far they were: no operation is possible any more.
    CollectiveState.BROKEN: frozenset({CollectiveState.LEFT}),
    CollectiveState.LEFT: frozenset(),
}

ENVIRONMENT: dict[EnvironmentState, frozenset[EnvironmentState]] = {
    EnvironmentState.CREATING: frozenset({EnvironmentState.READY, EnvironmentState.FAILED}),
    # Processes do not start in it after all, or it is unused and its room is needed.
    EnvironmentState.READY: frozenset({EnvironmentState.FAILED, EnvironmentState.REMOVED}),
    EnvironmentState.FAILED: frozenset({EnvironmentState.CREATING}),
    EnvironmentState.REMOVED: frozenset(),
}

GPU: dict[GpuState, frozenset[GpuState]] = {
    GpuState.IN_SERVICE: frozenset({GpuState.OUT_OF_SERVICE}),
    GpuState.OUT_OF_SERVICE: frozenset({GpuState.IN_SERVICE}),
}

#: What an entity is before anything has happened to it.
FIRST: dict[type[IntEnum], IntEnum] = {
    TaskState: TaskState.QUEUED,
    ObjectState: ObjectState.CREATED,
    PullState: PullState.LOCATING,
    WorkerState: WorkerState.STARTING,
    ActorState: ActorState.DEPENDENCIES_UNREADY,
    GroupState: GroupState.PENDING,
    NodeState: NodeState.ALIVE,
    InstanceState: InstanceState.STARTING,
    JobState: JobState.RUNNING,
    SubmittedJobState: SubmittedJobState.PENDING,
    CollectiveState: CollectiveState.FORMING,
    EnvironmentState: EnvironmentState.CREATING,
    GpuState: GpuState.IN_SERVICE,
}

TABLES: dict[type[IntEnum], dict[Any, frozenset[Any]]] = {
    TaskState: TASK,
    ObjectState: OBJECT,
    PullState: PULL,
    WorkerState: WORKER,
    ActorState: ACTOR,
    GroupState: GROUP,
    NodeState: NODE,
    InstanceState: INSTANCE,
    JobState: JOB,
    SubmittedJobState: SUBMITTED_JOB,
    CollectiveState: COLLECTIVE,
    EnvironmentState: ENVIRONMENT,
    GpuState: GPU,
}


class IllegalTransition(RuntimeError):
    """A machine tried to move something along an edge that does not exist: a bug of the runtime."""

    def __init__(self, entity: object, before: IntEnum, after: IntEnum) -> None:
        super().__init__(f"{entity!r} cannot go from {before.name} to {after.name}")
        self.before, self.after = before, after


def advance(entity: Any, after: Any) -> None:
    """Move ``entity.state`` to ``after`` along its table: the only door a state goes through.

    Raises IllegalTransition if the table has no such edge.
    """
    before = entity.state
    if after not in TABLES[type(before)][before]:
        raise IllegalTransition(entity, before, after)
    entity.state = after
