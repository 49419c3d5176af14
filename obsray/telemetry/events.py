"""The closed union of everything that can happen, and how it lies in memory.

One event is one record of ``RECORD_BYTES`` in a ring (``spine.py``):

======  =====  ==========================================================================
offset  bytes  what
======  =====  ==========================================================================
0         8    time, nanoseconds since the epoch (``time.time_ns``)
8         2    kind: a number of ``EVENTS``; never reused (see ``RETIRED``)
10        2    reserved, zero
12      112    payload: the event's fields in order, packed little endian, then zeros
124       4    sequence, 1, 2, 3, ... per ring. Written last: a reader stops at the first gap
======  =====  ==========================================================================

Every field says what it is for: a ``LABEL`` is bounded (an enumeration or an interned name out of a bounded
set) and may become a metric label; a ``DETAIL`` (ids, free text) never does; a ``MEASURE`` is a number that
can be summed or put into a histogram. Durations are float32 seconds. Text is interned: the record holds the
number that ``spine.Ring.intern`` gave it, 0 is the empty string.

This module is pure: layout and meaning only. ``docs/events.md`` is generated from it, and a golden file in
the tests freezes it: adding a kind or appending a field to a payload is allowed, changing one is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from signal import Signals
from struct import Struct, calcsize

from obsray.chaos import Fault
from obsray.gpu.words import Attribution, Direction, Health, Interface, Level, Memory, Stage, WaitingFor

SCHEMA_VERSION = 1
RECORD_BYTES = 128
PAYLOAD_OFFSET = 12
PAYLOAD_BYTES = 112
SEQUENCE_OFFSET = 124

#: Numbers of removed kinds, never to be used again.
RETIRED: frozenset[int] = frozenset()


class Role(Enum):
    LABEL = "label"
    DETAIL = "detail"
    MEASURE = "measure"


class Severity(IntEnum):
    INFO = 0
    WARNING = 1
    ERROR = 2


#: Field code -> (struct code, numpy type). ``str`` is an interned number.
CODES: dict[str, tuple[str, str]] = {
    "id8": ("8s", "V8"),
    "id16": ("16s", "V16"),
    "id20": ("20s", "V20"),
    "u8": ("B", "<u1"),
    "u16": ("H", "<u2"),
    "u32": ("I", "<u4"),
    "u64": ("Q", "<u8"),
    "i32": ("i", "<i4"),
    "f32": ("f", "<f4"),
    "f64": ("d", "<f8"),
    "str": ("I", "<u4"),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event: ``code`` is a key of ``CODES``, ``labels`` names an enumeration's values."""

    name: str
    code: str
    role: Role
    labels: type[IntEnum] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of event: number, name, what it tells, its fields in order."""

    kind: int
    name: str
    text: str
    fields: tuple[Field, ...]
    severity: Severity = Severity.INFO

    @property
    def struct(self) -> Struct:
        """Packs ``(time, kind, 0, *fields, sequence)`` into one record."""
        codes = "".join(CODES[field.code][0] for field in self.fields)
        padding = PAYLOAD_BYTES - calcsize("<" + codes)
        return Struct(f"<QHH{codes}{padding}xI")

    @property
    def offsets(self) -> dict[str, int]:
        """Where each field lies in the record."""
        offset, found = PAYLOAD_OFFSET, {}
        for field in self.fields:
            found[field.name] = offset
            offset += calcsize("<" + CODES[field.code][0])
        return found


# --- enumerations that are labels ------------------------------------------------------------------------


class TaskType(IntEnum):
    TASK = 0
    ACTOR_CREATION = 1
    ACTOR_CALL = 2
    DRIVER = 3


class OutputStream(IntEnum):
    """Where a worker writes for people."""

    OUT = 0
    ERR = 1


class Outcome(IntEnum):
    """How a task ended, from its owner's point of view."""

    OK = 0
    APP_ERROR = 1
    CANCELLED = 2
    WORKER_DIED = 3
    OOM = 4
    LOST_ARGUMENT = 5
    ACTOR_DIED = 6
    SYSTEM_ERROR = 7
    #: No node can ever run it.
    UNSCHEDULABLE = 8
    PLACEMENT_REMOVED = 9
    ENVIRONMENT_FAILED = 10
    #: The actor of the call was between two processes.
    ACTOR_UNAVAILABLE = 11
    #: It finished, and later no copy of a result was left.
    RESULT_LOST = 12
    #: Every process there may be waited for others.
    NESTED_TOO_DEEP = 13
    #: Its worker was lost with its node.
    NODE_DIED = 14
    #: The process that submitted it ended first. Nobody is left to record that: readers conclude it.
    OWNER_DIED = 15


class DeathCause(IntEnum):
    """Why a process ended, read from its wait status and its cgroup, never guessed."""

    INTENDED = 0
    IDLE = 1
    EXIT_CODE = 2
    SIGNAL = 3
    OOM = 4
    KILLED_BY_REQUEST = 5
    PARENT_DIED = 6
    START_FAILED = 7
    #: Its connection broke, and it is nobody's child here who could be waited for (a driver).
    UNKNOWN = 8
    PLACEMENT_REMOVED = 9
    UNSCHEDULABLE = 10
    #: An actor whose state could not be saved or restored.
    GAVE_UP = 11
    #: What the process had to be could not be made (actors).
    ENVIRONMENT_FAILED = 12
    #: Its node died, and it with it.
    NODE_DIED = 13
    #: Who it belonged to ended: nobody keeps it any more.
    OWNER_DIED = 14


def signal_text(number: int) -> str:
    """A signal for people, as in "killed by signal 11 (SIGSEGV)"."""
    try:
        return f"signal {number} ({Signals(number).name})"
    except ValueError:
        return f"signal {number}"


class LeaseOutcome(IntEnum):
    """What the local scheduler did with a demand for workers."""

    GRANTED = 0
    QUEUED = 1
    INFEASIBLE = 2
    SPILLED = 3
    WITHDRAWN = 4


class Reason(IntEnum):
    """Why: the vocabulary shared by decisions, candidates and pending tasks."""

    NONE = 0
    CAPACITY_FREE = 1
    NO_CAPACITY = 2
    INFEASIBLE = 3
    WORKER_STARTING = 4
    WORKER_LIMIT = 5
    RECLAIMED_FOR_OTHERS = 6
    BLOCKED_IN_GET = 7
    IDLE_TIMEOUT = 8
    OWNER_DIED = 9
    WORKER_DIED = 10
    STORE_FULL = 11
    PLACEMENT = 12
    AFFINITY = 13
    LOCALITY = 14
    DRAINING = 15
    NODE_DIED = 16
    FAIRNESS = 17
    #: No node has the labels that are asked for.
    LABELS = 18
    REMOVED = 19
    ENVIRONMENT = 25
    ENVIRONMENT_FAILED = 26
    #: A node without GPUs has room for what needs none.
    GPUS_KEPT_FREE = 27


class DispatchReason(IntEnum):
    """Why a batch went to this worker now."""

    LEASE_GRANTED = 0
    PIPELINED = 1
    RECALLED = 2
    RETRY = 3
    ACTOR = 4


class WaitKind(IntEnum):
    """What a process was blocked in."""

    GET = 0
    WAIT = 1
    ALLOCATE = 2
    AWAIT = 3
    #: Of an await for several things, all of which are needed (``asyncio.gather``, task groups).
    GATHER = 4


class HangKind(IntEnum):
    """What a look at who waits for whom found."""

    #: Waits that can never end.
    CYCLE = 0
    #: Others wait for it, and it makes no progress.
    STUCK = 1


class ProcessKind(IntEnum):
    DRIVER = 0
    WORKER = 1
    NODE = 2
    CONTROL = 3
    DASHBOARD = 4
    COLLECTOR = 5
    ZYGOTE = 6
    TOOL = 7
    #: No process: the GPU records of a worker, counted like a ring.
    GPU_STREAM = 8
    AUTOSCALER = 9
    #: What watches the GPUs of a node.
    GPU_WATCH = 10


class ScalingCause(IntEnum):
    """What an autoscaler starts a node for."""

    #: Tasks and actors that wait.
    DEMAND = 0
    #: A placement group that waits.
    GROUP = 1
    #: ``request_resources``.
    WISH = 2
    #: ``min_workers`` of its node type.
    MIN_WORKERS = 3


class ScalingVerdict(IntEnum):
    """What an autoscaler makes of something that waits."""

    #: A node is being started for it.
    NODE_COMES = 0
    #: There is room for it now, or it waits for what runs where it fits.
    ROOM = 1
    #: No node could ever hold it.
    INFEASIBLE = 2
    #: A node would help, and there are as many as there may be.
    AT_MAX = 3
    #: The last nodes of the type that would help did not start.
    BACKING_OFF = 4
    #: Others start first: ``upscaling_speed``.
    SPEED = 5


# --- the union -------------------------------------------------------------------------------------------


def _label(name: str, code: str = "u8", labels: type[IntEnum] | None = None) -> Field:
    return Field(name, code, Role.LABEL, labels)


def _detail(name: str, code: str) -> Field:
    return Field(name, code, Role.DETAIL)


def _measure(name: str, code: str) -> Field:
    return Field(name, code, Role.MEASURE)


_TASK = _detail("task", "id16")
_WORKER = _detail("worker", "id8")
_OBJECT = _detail("object", "id20")
_ACTOR = _detail("actor", "id16")
_GROUP = _detail("group", "id16")
_LEASE = _detail("lease", "u32")
_GROUP = _detail("group", "id16")
_ENVIRONMENT = _detail("environment", "id8")
_ATTEMPT = _measure("attempt", "u16")
#: Whose GPU work it was, and how that is known. The function is the task's.
_GPU_WORK = (_WORKER, _TASK, _ATTEMPT, _label("attributed_by", "u8", Attribution), _label("function", "str"))

# A table: one event after the other, as compact as it reads well.
# fmt: off
_UNION: tuple[Event, ...] = (
    # tasks, as their owner sees them
    Event(1, "task_submitted", "The owner accepted a call and gave it an id.", (
        _TASK, _detail("parent", "id16"), _detail("trace", "id16"), _ACTOR,
        _label("name", "str"), _label("shape", "str"), _detail("job", "u32"), _measure("arguments", "u16"),
        _measure("unready_arguments", "u16"), _label("type", "u8", TaskType), _measure("retries_max", "i32"),
        _measure("argument_bytes", "u32"))),
    Event(2, "task_ready", "The last missing argument of a waiting task became available.", (
        _TASK, _detail("last_argument", "id20"))),
    Event(3, "tasks_dispatched", "The owner pushed a batch of tasks of one shape to a leased worker.", (
        _WORKER, _LEASE, _detail("batch", "u32"), _label("shape", "str"), _measure("tasks", "u32"),
        _measure("tasks_left", "u32"), _measure("window_tasks", "u32"),
        _label("reason", "u8", DispatchReason), _detail("first_task", "id16"))),
    Event(4, "task_finished", "The owner learned how a task ended; its result is visible from here on.", (
        _TASK, _ATTEMPT, _label("outcome", "u8", Outcome), _measure("result_bytes", "u64"),
        _detail("error", "str"))),
    Event(5, "task_retried", "An attempt failed and the task goes back to waiting for a worker.", (
        _TASK, _ATTEMPT, _label("outcome", "u8", Outcome), _WORKER, _measure("delay_seconds", "f32"),
        _detail("error", "str")), Severity.WARNING),
    Event(6, "task_recalled", "A task pushed to a busy worker was taken back before it started.", (
        _TASK, _WORKER, _LEASE, _label("reason", "u8", Reason))),
    Event(7, "task_cancel_requested", "Somebody asked for a task to end.", (
        _TASK, _label("force"), _label("recursive"))),
    Event(8, "task_arguments_waiting", "A task waits for one more argument to exist.", (
        _TASK, _OBJECT)),
    Event(9, "tasks_finished", "A run of tasks of consecutive sequence ended OK at their first attempt.", (
        _detail("first_task", "id16"), _measure("tasks", "u32"), _measure("result_bytes", "u64"))),
    Event(10, "tasks_submitted", "The owner accepted a run of equal calls of consecutive sequence, evenly in time.", (
        _detail("first_task", "id16"), _detail("parent", "id16"), _detail("trace", "id16"), _ACTOR,
        _label("name", "str"), _label("shape", "str"), _detail("job", "u32"), _measure("tasks", "u32"),
        _label("type", "u8", TaskType), _measure("retries_max", "i32"), _measure("argument_bytes", "u64"),
        _detail("first_at", "u64"))),
    # tasks, as the process that runs them sees them
    Event(16, "task_started", "An attempt has been running for a tick and is still running (short ones only end).", (
        _TASK, _ATTEMPT, _LEASE, _detail("batch", "u32"), _ACTOR, _label("name", "str"),
        _detail("dispatched_at", "u64"), _detail("arrived_at", "u64"), _detail("started_at", "u64"))),
    Event(17, "task_ended", "A worker ended an attempt; where its time went.", (
        _TASK, _ATTEMPT, _LEASE, _detail("batch", "u32"), _ACTOR, _label("name", "str"),
        _detail("dispatched_at", "u64"), _detail("arrived_at", "u64"), _detail("started_at", "u64"),
        _label("outcome", "u8", Outcome), _measure("fetch_seconds", "f32"), _measure("deserialize_seconds", "f32"),
        _measure("run_seconds", "f32"), _measure("store_seconds", "f32"), _measure("cpu_seconds", "f32"),
        _measure("blocked_seconds", "f32"), _measure("result_bytes", "u64"))),
    Event(18, "task_blocked", "A task waits inside get, wait or put; its CPU is given back.", (
        _TASK, _label("waiting_in", "u8", WaitKind), _measure("objects", "u32"), _OBJECT)),
    Event(19, "task_unblocked", "What the task waited for is there.", (
        _TASK, _label("waiting_in", "u8", WaitKind), _measure("blocked_seconds", "f32"))),
    Event(20, "task_item_yielded", "A streaming task handed out one item.", (
        _TASK, _measure("item", "u32"), _measure("item_bytes", "u64"))),
    # objects
    Event(32, "object_put", "A process stored a value of its own.", (
        _OBJECT, _TASK, _measure("object_bytes", "u64"), _label("inline"), _detail("call_site", "str"))),
    Event(33, "object_created", "The store reserved room for an object.", (
        _OBJECT, _WORKER, _measure("object_bytes", "u64"), _measure("queue_seconds", "f32"))),
    Event(34, "object_sealed", "The object is complete and can be read on this node.", (
        _OBJECT, _WORKER, _measure("object_bytes", "u64"))),
    Event(35, "object_freed", "Nothing refers to the object any more; its room is free.", (
        _OBJECT, _measure("object_bytes", "u64"), _measure("age_seconds", "f32"))),
    Event(36, "object_spilled", "The object was moved to disk to make room.", (
        _OBJECT, _measure("object_bytes", "u64"), _measure("spill_seconds", "f32"), _detail("path", "str"))),
    Event(37, "object_restored", "The object was read back from disk.", (
        _OBJECT, _measure("object_bytes", "u64"), _measure("restore_seconds", "f32"), _detail("path", "str"))),
    Event(38, "object_lost", "The object can no longer be read.", (
        _OBJECT, _measure("object_bytes", "u64"), _label("reason", "u8", Reason), _detail("error", "str")),
        Severity.ERROR),
    Event(39, "object_allocation_waiting", "A process waits for room in the store.", (
        _OBJECT, _WORKER, _measure("object_bytes", "u64"), _measure("free_bytes", "u64"),
        _measure("spillable_bytes", "u64"), _measure("pinned_bytes", "u64")), Severity.WARNING),
    Event(40, "object_allocation_failed", "Store and spill directory are full.", (
        _OBJECT, _WORKER, _measure("object_bytes", "u64"), _measure("free_bytes", "u64"),
        _measure("pinned_bytes", "u64"), _measure("capacity_bytes", "u64")), Severity.ERROR),
    Event(256, "object_fallback", "Nothing in the store could make room for the object, or it is larger than all of it:"
        " it lies in a file on disk, which its writer and readers map.", (
        _OBJECT, _WORKER, _measure("object_bytes", "u64"), _measure("queue_seconds", "f32"),
        _measure("free_bytes", "u64"), _measure("pinned_bytes", "u64"), _measure("capacity_bytes", "u64"),
        _detail("path", "str")), Severity.WARNING),
    Event(41, "object_pinned", "A process maps the object for reading; it will not move.", (
        _OBJECT, _WORKER, _measure("object_bytes", "u64"), _measure("queue_seconds", "f32"))),
    Event(284, "object_unpinned", "A process has let go of its views of the object, or has ended; it may move again if"
        " no other reads it.", (
        _OBJECT, _WORKER, _measure("pins", "u32"))),
    Event(42, "object_spilling", "The object begins to be written to disk to make room; it can still be read.", (
        _OBJECT, _measure("object_bytes", "u64"))),
    Event(43, "object_spill_stopped", "The object stays in memory: it was wanted again, or could not be written.", (
        _OBJECT, _measure("object_bytes", "u64"), _detail("error", "str"))),
    Event(44, "object_restoring", "There is room for a spilled object that somebody wants; it is being read back.", (
        _OBJECT, _measure("object_bytes", "u64"), _measure("queue_seconds", "f32"))),
    Event(271, "object_held", "A process has been given a reference to an object of another one and keeps it alive.", (
        _OBJECT, _WORKER)),
    Event(272, "object_let_go", "A process has dropped its last reference to an object of another one.", (
        _OBJECT, _WORKER)),
    # actors
    Event(48, "actor_created", "An actor was asked for.", (
        _ACTOR, _TASK, _label("class_name", "str"), _detail("actor_name", "str"), _detail("namespace", "str"),
        _label("shape", "str"), _measure("restarts_max", "i32"), _label("detached"), _detail("job", "u32"),
        _GROUP)),
    Event(49, "actor_placed", "A worker was chosen to become the actor.", (
        _ACTOR, _WORKER, _detail("node", "id8"), _measure("pending_seconds", "f32"), _measure("incarnation", "u16"))),
    Event(50, "actor_alive", "The actor's constructor returned.", (
        _ACTOR, _WORKER, _measure("incarnation", "u16"), _measure("start_seconds", "f32"),
        _detail("pid", "u32"))),
    Event(51, "actor_restarting", "The actor's process died and will be started again.", (
        _ACTOR, _WORKER, _measure("restarts", "u16"), _label("cause", "u8", DeathCause), _detail("error", "str")),
        Severity.WARNING),
    Event(52, "actor_died", "The actor is gone for good.", (
        _ACTOR, _WORKER, _measure("restarts", "u16"), _label("cause", "u8", DeathCause),
        _label("class_name", "str"), _detail("error", "str"))),
    Event(53, "actor_checkpoint_saved", "The actor saved its state, so that a new process can go on from there.", (
        _ACTOR, _WORKER, _measure("checkpoint", "u32"), _measure("calls", "u32"), _measure("state_bytes", "u64"),
        _measure("save_seconds", "f32"))),
    Event(54, "actor_restored", "A new process of the actor has its state again; calls since then were repeated.", (
        _ACTOR, _WORKER, _measure("checkpoint", "u32"), _measure("calls", "u32"), _measure("state_bytes", "u64"),
        _measure("restore_seconds", "f32"), _measure("incarnation", "u16"))),
    Event(55, "actor_call_replayed", "A new process of the actor repeated a call for its effect on the state.", (
        _ACTOR, _TASK, _label("name", "str"), _label("outcome", "u8", Outcome), _measure("run_seconds", "f32"))),
    # placement groups
    Event(56, "group_requested", "Somebody asked for bundles of resources to be reserved together.", (
        _GROUP, _detail("owner", "id8"), _detail("group_name", "str"), _detail("namespace", "str"),
        _label("strategy", "str"), _measure("bundles", "u32"), _label("detached"), _detail("job", "u32"),
        _detail("resources", "str"))),
    Event(57, "group_waiting", "The group cannot be placed now; which bundle lacks what.", (
        _GROUP, _label("reason", "u8", Reason), _measure("attempts", "u32"), _detail("deficit", "str"))),
    Event(58, "group_prepared", "Every bundle of the group has its share; nothing runs there yet.", (
        _GROUP, _measure("attempts", "u32"), _measure("pending_seconds", "f32"))),
    Event(59, "bundle_placed", "One bundle of a group has its share of a node.", (
        _GROUP, _detail("bundle", "u32"), _detail("node", "id8"), _detail("resources", "str"))),
    Event(60, "group_created", "The group is there: tasks and actors can run in its bundles.", (
        _GROUP, _measure("pending_seconds", "f32"), _measure("attempts", "u32"))),
    Event(61, "group_removed", "The group ended; what ran in it was killed.", (
        _GROUP, _label("reason", "u8", Reason), _measure("workers", "u32"), _measure("age_seconds", "f32"),
        _detail("error", "str"))),
    Event(62, "group_rescheduling", "A node with bundles of the group died; they look for another.", (
        _GROUP, _detail("node", "id8"), _measure("bundles", "u32")), Severity.WARNING),
    Event(63, "bundle_released", "The last worker in a removed group's bundle is gone; its share is free.", (
        _GROUP, _detail("bundle", "u32"), _detail("node", "id8"))),
    # scheduling: demand, decision, candidates, lease
    Event(64, "lease_requested", "An owner wants this many more workers for one shape of work.", (
        _WORKER, _label("shape", "str"), _measure("wanted", "u32"), _measure("backlog_tasks", "u32"))),
    Event(65, "lease_decided", "The local scheduler answered a demand; candidates follow with the same decision.", (
        _detail("decision", "u32"), _detail("owner", "id8"), _label("shape", "str"),
        _label("outcome", "u8", LeaseOutcome), _label("reason", "u8", Reason), _detail("chosen_node", "id8"),
        _WORKER, _LEASE, _measure("wanted", "u32"), _measure("queue_depth", "u32"),
        _measure("queue_seconds", "f32"), _measure("candidates", "u16"), _detail("deficit", "str"),
        _detail("group", "id16"), _detail("bundle", "i32"))),
    Event(66, "lease_candidate", "One node that a decision considered, and why it was (not) chosen.", (
        _detail("decision", "u32"), _detail("node", "id8"), _label("feasible"), _label("reject", "u8", Reason),
        _measure("wait_seconds", "f32"), _measure("queue_tasks", "u32"), _measure("run_seconds_mean", "f32"),
        _measure("remote_bytes", "u64"), _measure("bandwidth_bytes", "f32"), _detail("missing", "str"))),
    Event(67, "lease_returned", "A worker is free for others again.", (
        _LEASE, _detail("owner", "id8"), _WORKER, _label("shape", "str"), _label("reason", "u8", Reason),
        _measure("held_seconds", "f32"), _measure("tasks", "u32"))),
    Event(68, "lease_reclaim_requested", "Others wait: the owner is asked to give an idle worker back.", (
        _LEASE, _detail("owner", "id8"), _WORKER, _label("reason", "u8", Reason))),
    # processes
    Event(80, "worker_starting", "The node asked for a new process.", (
        _WORKER, _label("reason", "u8", Reason), _ENVIRONMENT)),
    Event(81, "worker_registered", "A process said hello and can be given work.", (
        _WORKER, _detail("pid", "u32"), _label("process_kind", "u8", ProcessKind), _measure("start_seconds", "f32"))),
    Event(82, "worker_died", "A process ended; the cause is read from its wait status.", (
        _WORKER, _detail("pid", "u32"), _label("cause", "u8", DeathCause), _measure("exit_code", "i32"),
        _measure("signal", "u8"), _measure("rss_bytes", "u64"), _detail("last_task", "id16"), _detail("error", "str"))),
    Event(83, "process_sample", "What a process uses now.", (
        _WORKER, _detail("pid", "u32"), _label("process_kind", "u8", ProcessKind), _measure("rss_bytes", "u64"),
        _measure("unique_bytes", "u64"), _measure("cpu_seconds_total", "f64"), _measure("threads", "u16"),
        _measure("descriptors", "u16"))),
    Event(84, "environment_asked", "Somebody needs processes that are something special first.", (
        _ENVIRONMENT, _detail("job", "u32"), _detail("description", "str"))),
    Event(85, "environment_ready", "The environment is there; processes can start in it.", (
        _ENVIRONMENT, _measure("setup_seconds", "f32"), _measure("environment_bytes", "u64"))),
    Event(283, "nesting_refused", "There are as many processes as may be and all wait: what one more of them asks for"
        " is refused.", (
        _detail("owner", "id8"), _label("shape", "str"), _measure("tasks", "u32"), _measure("depth", "u16"),
        _measure("workers_max", "u32"), _detail("deficit", "str")), Severity.ERROR),
    Event(86, "environment_failed", "The environment cannot be made; who needs it fails.", (
        _ENVIRONMENT, _measure("setup_seconds", "f32"), _detail("error", "str")), Severity.ERROR),
    Event(87, "environment_removed", "An unused environment was deleted to make room.", (
        _ENVIRONMENT, _measure("environment_bytes", "u64"))),
    Event(279, "process_halted", "A process of the node stands still: somebody stopped it, or it does not answer.", (
        _WORKER, _detail("pid", "u32"), _label("process_name", "str"), _detail("error", "str")), Severity.WARNING),
    Event(282, "process_resumed", "A process that stood still goes on, or is gone.", (
        _WORKER, _detail("pid", "u32"), _label("process_name", "str"), _measure("halted_seconds", "f32"),
        _detail("why", "str"))),
    Event(88, "worker_lingers", "A process that shall end stays until nobody holds what it owns.", (
        _WORKER, _measure("objects", "u32"), _measure("tasks", "u32"))),
    # nodes, jobs, control store
    Event(96, "node_started", "A node is ready.", (
        _detail("node", "id8"), _detail("pid", "u32"), _detail("host", "str"), _measure("store_bytes", "u64"),
        _detail("name", "str"), _label("head"), _detail("labels", "str"))),
    Event(97, "node_stopped", "A node ended in order.", (_detail("node", "id8"), _detail("error", "str"))),
    Event(98, "resource_sample", "How much of one resource is there and taken.", (
        _label("resource", "str"), _measure("total", "f64"), _measure("used", "f64"))),
    Event(99, "store_sample", "How full the object store is.", (
        _measure("capacity_bytes", "u64"), _measure("used_bytes", "u64"), _measure("pinned_bytes", "u64"),
        _measure("spilled_bytes", "u64"), _measure("objects", "u32"), _measure("objects_spilled", "u32"),
        _measure("allocations_waiting", "u32"), _measure("largest_free_bytes", "u64"),
        _measure("fallback_bytes", "u64"))),
    Event(100, "job_started", "A driver joined.", (
        _detail("job", "u32"), _WORKER, _detail("pid", "u32"), _detail("entrypoint", "str"),
        _detail("namespace", "str"), _detail("metadata", "str"))),
    Event(101, "job_ended", "A driver left.", (_detail("job", "u32"), _WORKER, _label("cause", "u8", DeathCause))),
    Event(240, "job_submitted", "A command was submitted as a job; its supervisor looks after it from now on.", (
        _detail("submission", "str"), _detail("entrypoint", "str"), _detail("metadata", "str"))),
    Event(241, "submitted_job_started", "The command of a submitted job runs, at this node.", (
        _detail("submission", "str"), _detail("node", "id8"), _detail("pid", "u32"), _measure("queue_seconds", "f32"))),
    Event(242, "submitted_job_ended", "A submitted job is over; how, and why.", (
        _detail("submission", "str"), _label("state", "str"), _measure("exit_code", "i32"),
        _measure("run_seconds", "f32"), _detail("error", "str"))),
    Event(102, "control_rpc", "One call to the control store.", (
        _label("method", "str"), _measure("rpc_seconds", "f32"), _label("ok"), _detail("error", "str"))),
    Event(103, "node_sample", "The node's own loop: how late it is, how many wait.", (
        _measure("loop_lag_seconds", "f32"), _measure("workers", "u16"), _measure("workers_idle", "u16"),
        _measure("workers_leased", "u16"), _measure("workers_actor", "u16"), _measure("workers_starting", "u16"),
        _measure("workers_blocked", "u16"), _measure("demands_queued", "u32"), _measure("demands_infeasible", "u32"))),
    Event(104, "node_changed", "The control store changed its mind about a node.", (
        _detail("node", "id8"), _label("state", "str"), _measure("incarnation", "u32"), _detail("error", "str"))),
    Event(180, "control_started", "A control store answers from now on, with what its storage held.", (
        _measure("epoch", "u64"), _measure("recovery_seconds", "f32"), _measure("entries", "u32"),
        _detail("storage", "str"))),
    Event(181, "control_took_over", "A control store that stood by answers from now on: the one before is gone.", (
        _measure("epoch", "u64"), _measure("recovery_seconds", "f32"), _measure("entries", "u32"),
        _detail("storage", "str"), _detail("error", "str")), Severity.WARNING),
    Event(182, "control_stored", "The control store wrote changes to its storage.", (
        _measure("write_seconds", "f32"), _measure("entries", "u32"), _measure("entry_bytes", "u64"))),
    Event(183, "control_fenced", "A control store ended because another one had taken over.", (
        _measure("epoch", "u64"), _detail("error", "str")), Severity.WARNING),
    Event(263, "control_read_only", "The control store's storage has no room: it answers and changes nothing.", (
        _measure("epoch", "u64"), _detail("error", "str")), Severity.ERROR),
    Event(264, "control_writable", "The control store's storage has room again.", (
        _measure("epoch", "u64"), _measure("read_only_seconds", "f32"))),
    Event(265, "holds_corrected", "An owner found that a process elsewhere does not hold what it was counted for.", (
        _WORKER, _measure("objects", "u32")), Severity.WARNING),
    Event(247, "calls_not_sent", "A caller could not reach an actor's process; its calls wait, to be sent again.", (
        _WORKER, _measure("calls", "u32"), _detail("error", "str")), Severity.WARNING),
    # telemetry about itself
    Event(112, "ring_opened", "A process began to record.", (
        _WORKER, _detail("pid", "u32"), _label("process_kind", "u8", ProcessKind))),
    Event(113, "events_dropped", "A process had no room for records: the collector was too far behind, or the disk"
        " full. They are counted here.", (
        _WORKER, _measure("events", "u64")), Severity.ERROR),
    Event(114, "collector_sample", "What the collector did since its last sample.", (
        _measure("events", "u64"), _measure("bytes_written", "u64"), _measure("cpu_seconds", "f32"),
        _measure("lag_seconds", "f32"), _measure("rings", "u32"), _measure("ring_fill_ratio", "f32"))),
    Event(280, "worker_time_sample", "What the workers of a node spent their time on since its last sample.", (
        _measure("starting_seconds", "f64"), _measure("idle_seconds", "f64"), _measure("leased_seconds", "f64"),
        _measure("busy_seconds", "f64"), _measure("blocked_in_get_seconds", "f64"))),
    Event(115, "ring_closed", "A process stopped recording in order.", (_WORKER, _measure("events", "u64"))),
    Event(286, "telemetry_unstored", "The collector cannot store what it has read: it waits in memory and in rings.", (
        _detail("errno", "u16"), _measure("waiting", "u64")), Severity.ERROR),
    Event(287, "telemetry_stored_again", "The collector can store again; so many records were lost so far.", (
        _measure("seconds", "f32"), _measure("lost", "u64")), Severity.WARNING),
    Event(116, "node_records_ended", "The head has taken over the last records of another node.", (
        _detail("node", "id8"), _label("complete"), _measure("rings", "u32"), _measure("events", "u64"),
        _measure("silent_seconds", "f32"), _measure("missing", "u64"),
        _measure("missing_estimated", "u64"))),
    # users
    Event(128, "user_span", "A span made by user code inside a task.", (
        _TASK, _detail("span", "u64"), _detail("parent_span", "u64"), _label("name", "str"),
        _measure("span_seconds", "f32"), _detail("attributes", "str"), _detail("trace", "id16"))),
    Event(129, "user_mark", "A point in time that user code named.", (
        _TASK, _label("name", "str"), _detail("attributes", "str"))),
    Event(130, "user_metric", "One recorded value of a user's metric.", (
        _TASK, _label("name", "str"), _label("tags", "str"), _measure("value", "f64"), _label("instrument"),
        _detail("definition", "str"))),
    # collective operations, as each member sees them
    Event(172, "group_attempt_failed", "A try to place a group is over: what was held for it is free again; why.", (
        _GROUP, _measure("attempts", "u32"), _detail("node", "id8"), _detail("error", "str")), Severity.WARNING),
    Event(173, "bundles_prepared", "A node holds bundles for a group that is at home elsewhere, or refuses (error).", (
        _GROUP, _measure("attempts", "u32"), _detail("node", "id8"), _measure("bundles", "u32"),
        _detail("error", "str"))),
    Event(131, "collective_joined", "A process became a member of a group for collective operations.", (
        _GROUP, _detail("group_name", "str"), _TASK, _measure("rank", "u16"), _measure("members", "u16"),
        _label("backend", "str"), _measure("forming_seconds", "f32"))),
    Event(132, "collective_ended", "A member is done with one operation of its group; where its time went.", (
        _GROUP, _detail("group_name", "str"), _TASK, _label("operation", "str"), _measure("round", "u32"),
        _measure("rank", "u16"), _measure("members", "u16"), _measure("data_bytes", "u64"),
        _measure("sent_bytes", "u64"), _measure("seconds", "f32"), _measure("wait_seconds", "f32"),
        _measure("transfer_seconds", "f32"))),
    Event(133, "collective_failed", "An operation of a group failed for this member; why.", (
        _GROUP, _detail("group_name", "str"), _TASK, _label("operation", "str"), _measure("round", "u32"),
        _measure("rank", "u16"), _measure("members", "u16"), _measure("seconds", "f32"), _detail("error", "str")),
        Severity.ERROR),
    Event(134, "collective_broken", "The group cannot be used any more: a member is gone, late or out of step.", (
        _GROUP, _detail("group_name", "str"), _TASK, _measure("rank", "u16"), _measure("members", "u16"),
        _detail("error", "str")), Severity.ERROR),
    Event(135, "collective_left", "A process left the group.", (
        _GROUP, _detail("group_name", "str"), _TASK, _measure("rank", "u16"), _measure("members", "u16"))),
    # what GPUs did: made by the collector out of raw buffers; the time of a record is when the work began
    Event(144, "gpu_kernel", "A kernel ran on a GPU.", (
        *_GPU_WORK, _label("gpu"), _detail("kernel", "str"), _detail("stream", "u32"), _detail("correlation", "u32"),
        _detail("ended_at", "u64"), _measure("kernel_seconds", "f32"), _detail("launched_at", "u64"),
        _measure("grid_x", "u32"), _measure("grid_y", "u32"), _measure("grid_z", "u32"), _measure("block_x", "u16"),
        _measure("block_y", "u16"), _measure("block_z", "u16"), _measure("registers", "u16"),
        _measure("shared_bytes", "u32"), _detail("graph", "u32"))),
    Event(145, "gpu_copy", "A GPU copied memory.", (
        *_GPU_WORK, _label("gpu"), _label("direction", "u8", Direction), _label("source", "u8", Memory),
        _label("destination", "u8", Memory), _detail("stream", "u32"), _detail("correlation", "u32"),
        _detail("ended_at", "u64"), _measure("copy_seconds", "f32"), _detail("launched_at", "u64"),
        _measure("copy_bytes", "u64"), _detail("graph", "u32"))),
    Event(146, "gpu_memset", "A GPU filled memory with a value.", (
        *_GPU_WORK, _label("gpu"), _label("destination", "u8", Memory), _detail("stream", "u32"),
        _detail("correlation", "u32"), _detail("ended_at", "u64"), _measure("memset_seconds", "f32"),
        _detail("launched_at", "u64"), _measure("memset_bytes", "u64"), _detail("graph", "u32"))),
    Event(147, "gpu_wait", "A thread or a stream waited for a GPU.", (
        *_GPU_WORK, _label("waiting_for", "u8", WaitingFor), _detail("stream", "u32"), _detail("correlation", "u32"),
        _detail("ended_at", "u64"), _measure("wait_seconds", "f32"))),
    Event(148, "gpu_call", "A call of CUDA's driver or runtime interface (level full only).", (
        *_GPU_WORK, _label("interface", "u8", Interface), _label("call", "str"), _detail("thread", "u32"),
        _detail("correlation", "u32"), _detail("ended_at", "u64"), _measure("call_seconds", "f32"),
        _measure("result", "u32"))),
    Event(149, "gpu_capture_started", "A worker that owns a GPU began to capture what it does.", (
        _WORKER, _label("level", "u8", Level), _detail("cupti_version", "u32"), _detail("library", "str"))),
    Event(150, "gpu_capture_refused", "A worker that owns a GPU cannot capture what it does.", (
        _WORKER, _detail("error", "str")), Severity.WARNING),
    Event(151, "gpu_capture_changed", "From here on less is captured.", (
        _WORKER, _label("level_before", "u8", Level), _label("level", "u8", Level), _measure("cost_ratio", "f32"),
        _detail("error", "str")), Severity.WARNING),
    Event(152, "gpu_records_lost", "Records of GPU work were lost, counted here.", (
        _WORKER, _measure("records", "u64"), _label("stage", "u8", Stage)), Severity.ERROR),
    Event(153, "gpu_capture_sample", "What a worker captured since its last sample, and what that cost it.", (
        _WORKER, _label("level", "u8", Level), _measure("buffers", "u32"), _measure("raw_bytes", "u64"),
        _measure("records_lost", "u64"), _measure("capture_seconds", "f32"), _measure("busy_seconds", "f32"))),
    # the GPUs of nodes: found and taken out of service by the node, sampled by what watches them
    Event(248, "gpu_found", "A node has a GPU, or was told that it has one (then without a UUID).", (
        _detail("node", "id8"), _label("gpu"), _detail("bus_index", "i32"), _detail("uuid", "str"),
        _label("model", "str"), _label("accelerator", "str"), _measure("memory_bytes", "u64"), _label("mig"),
        _detail("note", "str"))),
    Event(249, "gpu_sample", "How a GPU fares, as its driver says; what it does not say is no number.", (
        _detail("node", "id8"), _label("gpu"), _measure("utilization", "f32"), _measure("bus_utilization", "f32"),
        _measure("used_bytes", "u64"), _measure("memory_bytes", "u64"), _measure("power_watts", "f32"),
        _measure("power_limit_watts", "f32"), _measure("temperature_celsius", "f32"), _measure("clock_mhz", "u32"),
        _measure("energy_joules", "f64"), _label("slowdown", "str"), _measure("processes", "u16"),
        _measure("foreign_processes", "u16"), _measure("foreign_bytes", "u64"))),
    Event(250, "gpu_process_sample", "How much memory of a GPU a process of this node holds, and what it runs.", (
        _detail("node", "id8"), _label("gpu"), _WORKER, _TASK, _measure("used_bytes", "u64"), _detail("pid", "u32"),
        _detail("host_pid", "u32"))),
    Event(251, "gpu_health_changed", "A GPU was taken out of service, or is in service again; why.", (
        _detail("node", "id8"), _label("gpu"), _label("health", "u8", Health), _measure("xid", "u32"),
        _detail("error", "str")), Severity.WARNING),
    Event(252, "gpu_watch_failed", "Something about the GPUs of a node cannot be learned; told once for each.", (
        _detail("node", "id8"), _label("gpu"), _label("call", "str"), _detail("error", "str")), Severity.WARNING),
    # told by the node
    Event(243, "gpu_reserved", "A GPU, or a share of it, is set aside: for a worker, or for a bundle of a group.", (
        _label("gpu"), _measure("share", "f32"), _WORKER, _LEASE, _GROUP, _detail("bundle", "i32"),
        _detail("job", "u32"))),
    Event(244, "gpu_released", "A GPU, or a share of it, that was set aside is free again.", (
        _label("gpu"), _measure("share", "f32"), _WORKER, _LEASE, _GROUP, _detail("bundle", "i32"),
        _measure("held_seconds", "f32"))),
    # objects between nodes: told by the node that fetches, transfer_served by the one that gives
    Event(160, "transfer_asked", "A process wants an object that is not on this node; its home is asked where it is.", (
        _OBJECT, _WORKER, _detail("home", "id8"))),
    Event(161, "transfer_begun", "There is room for an object of another node; its bytes are asked for.", (
        _OBJECT, _detail("source", "id8"), _detail("destination", "id8"), _measure("object_bytes", "u64"),
        _measure("queue_seconds", "f32"), _measure("sources", "u16"), _measure("attempts", "u16"))),
    Event(162, "transfer_done", "A copy of the object is complete and can be read on this node.", (
        _OBJECT, _detail("source", "id8"), _detail("destination", "id8"), _measure("object_bytes", "u64"),
        _measure("queue_seconds", "f32"), _measure("wire_seconds", "f32"), _measure("sources", "u16"),
        _measure("attempts", "u16"))),
    Event(163, "transfer_failed", "An object of another node does not come to this one.", (
        _OBJECT, _detail("source", "id8"), _detail("destination", "id8"), _measure("object_bytes", "u64"),
        _measure("received_bytes", "u64"), _measure("queue_seconds", "f32"), _measure("wire_seconds", "f32"),
        _measure("attempts", "u16"), _detail("error", "str")), Severity.WARNING),
    Event(164, "transfer_retried", "A source failed in the middle; the rest comes from another, or later.", (
        _OBJECT, _detail("source", "id8"), _detail("destination", "id8"), _measure("received_bytes", "u64"),
        _measure("attempt", "u16"), _detail("error", "str")), Severity.WARNING),
    Event(165, "transfer_served", "This node sent (a part of) an object to another.", (
        _OBJECT, _detail("source", "id8"), _detail("destination", "id8"), _measure("sent_bytes", "u64"),
        _measure("queue_seconds", "f32"), _measure("wire_seconds", "f32"), _detail("error", "str"))),
    Event(166, "object_copy_dropped", "This node's copy of an object is gone; the object is not.", (
        _OBJECT, _detail("node", "id8"), _measure("object_bytes", "u64"), _measure("age_seconds", "f32"))),
    Event(167, "object_copy_kept", "The original is gone; this node's copy takes its place.", (
        _OBJECT, _detail("node", "id8"), _measure("object_bytes", "u64"))),
    # clusters
    Event(184, "node_drains", "A node takes no more work and leaves when what runs there has ended.", (
        _detail("node", "id8"), _measure("deadline_seconds", "f32"), _detail("error", "str"))),
    Event(201, "object_moved", "Another node has an object now that lay only on a node that drains.", (
        _OBJECT, _detail("source", "id8"), _detail("destination", "id8"), _measure("object_bytes", "u64"))),
    Event(202, "object_not_moved", "An object goes with the node that drains: no other one can take it.", (
        _OBJECT, _detail("source", "id8"), _measure("object_bytes", "u64"), _detail("error", "str")),
        Severity.WARNING),
    Event(203, "drain_progress", "How many objects a node that drains has moved, and has yet to.", (
        _detail("node", "id8"), _measure("moved", "u32"), _measure("moved_bytes", "u64"), _measure("left", "u32"),
        _measure("left_bytes", "u64"), _measure("failed", "u32"), _measure("failed_bytes", "u64"))),
    Event(185, "node_joined", "A node has become one of a cluster.", (
        _detail("node", "id8"), _detail("address", "str"), _measure("join_seconds", "f32"))),
    Event(200, "clock_measured", "The head knows how far another node's clock is from its own.", (
        _detail("node", "id8"), _measure("offset_seconds", "f64"), _measure("uncertainty_seconds", "f32"),
        _measure("round_trip_seconds", "f32"), _measure("samples", "u16"), _detail("node_time", "u64"))),
    Event(186, "control_lost", "A node has not heard of a control store for so long that it ends.", (
        _detail("node", "id8"), _measure("silent_seconds", "f32")), Severity.ERROR),
    Event(187, "logs_dropped", "Output of a worker did not reach its driver; its own file has it.", (
        _WORKER, _detail("job", "u32"), _measure("bytes", "u64")), Severity.WARNING),
    Event(232, "metrics_served", "The metrics of a node can be read at this address.", (
        _detail("node", "id8"), _detail("address", "str"))),
    # waiting that no task sees
    Event(216, "process_waited", "A driver waited inside get, wait or put for longer than a moment.", (
        _label("waiting_in", "u8", WaitKind), _measure("objects", "u32"), _OBJECT, _measure("wait_seconds", "f32"))),
    Event(289, "wait_noticed", "A driver, or an async call, has waited for a while and still does.", (
        _TASK, _label("waiting_in", "u8", WaitKind), _measure("objects", "u32"), _OBJECT, _detail("began_at", "u64"))),
    Event(290, "await_ended", "What an async call was noticed to wait for is there.", (
        _TASK, _OBJECT, _measure("wait_seconds", "f32"))),
    Event(293, "wait_objects", "Some of what a wait that lasts is for: so many of these would end it.", (
        _TASK, _detail("began_at", "u64"), _measure("needed", "u32"), _measure("objects", "u32"), _OBJECT,
        _detail("object_2", "id20"), _detail("object_3", "id20"), _detail("object_4", "id20"))),
    Event(291, "hang_found", "Tasks wait for each other, or one that others wait for makes no progress.", (
        _TASK, _label("hang", "u8", HangKind), _measure("members", "u32"), _measure("behind", "u32"),
        _detail("text", "str")), Severity.ERROR),
    Event(292, "hang_over", "What hung goes on, or is gone.", (
        _TASK, _label("hang", "u8", HangKind), _measure("hung_seconds", "f32"))),
    Event(217, "actor_concurrency", "An actor runs calls beside each other: how many of one concurrency group.", (
        _ACTOR, _WORKER, _label("group_name", "str"), _measure("calls", "u32"), _detail("methods", "str"))),
    Event(277, "actor_described", "An actor says how it looks: what its class's __repr__ returned when it was made.", (
        _ACTOR, _WORKER, _detail("text", "str"))),
    Event(218, "call_refused", "As many calls of one caller wait for an actor as may (max_pending_calls).", (
        _ACTOR, _label("name", "str"), _measure("pending", "u32"), _measure("pending_max", "u32")), Severity.WARNING),
    # memory
    Event(212, "memory_pressure", "Memory was about to run out, so a worker was killed; which, and why it.", (
        _WORKER, _TASK, _measure("used_bytes", "u64"), _measure("limit_bytes", "u64"), _measure("held_bytes", "u64"),
        _detail("error", "str")), Severity.WARNING),
    # faults on purpose (OBSRAY_CHAOS)
    Event(208, "chaos_started", "This process injects faults on purpose, as it was told.", (
        _WORKER, _measure("seed", "u64"), _detail("specification", "str")), Severity.WARNING),
    Event(209, "fault_injected", "A call to the control store or a message was lost or cut off on purpose.", (
        _label("method", "str"), _label("fault", "u8", Fault), _measure("delay_seconds", "f32"), _detail("peer", "id8"),
        _TASK, _OBJECT, _ACTOR), Severity.WARNING),
    Event(210, "fault_hit", "One more task was in the message that a fault on purpose hit.", (
        _label("method", "str"), _label("fault", "u8", Fault), _TASK), Severity.WARNING),
    Event(211, "delay_injected", "A call to the control store or a message was made late on purpose.", (
        _label("method", "str"), _label("fault", "u8", Fault), _measure("delay_seconds", "f32"), _detail("peer", "id8"),
        _TASK, _OBJECT, _ACTOR)),
    # the autoscaler: an instance is a node that it asked a provider for
    Event(192, "instance_requested", "The autoscaler asks for a node; for whom.", (
        _detail("node", "id8"), _label("node_type", "str"), _label("cause", "u8", ScalingCause),
        _measure("units", "u32"), _detail("why", "str"))),
    Event(193, "instance_joined", "A node that the autoscaler asked for is one of the cluster.", (
        _detail("node", "id8"), _label("node_type", "str"), _measure("start_seconds", "f32"))),
    Event(194, "instance_failed", "A node that the autoscaler asked for did not come; when it asks for such again.", (
        _detail("node", "id8"), _label("node_type", "str"), _measure("failures", "u16"),
        _measure("retry_seconds", "f32"), _detail("error", "str")), Severity.WARNING),
    Event(195, "instance_released", "The autoscaler has an idle node leave.", (
        _detail("node", "id8"), _label("node_type", "str"), _measure("idle_seconds", "f32"), _detail("why", "str"))),
    Event(196, "instance_ended", "A node that the autoscaler had started is gone.", (
        _detail("node", "id8"), _label("node_type", "str"), _measure("lifetime_seconds", "f32"),
        _detail("error", "str"))),
    Event(197, "node_type_sample", "How many nodes of a type there are, and may be.", (
        _label("node_type", "str"), _measure("running", "u16"), _measure("starting", "u16"),
        _measure("leaving", "u16"), _measure("min_workers", "u32"), _measure("max_workers", "u32"),
        _measure("failures", "u16"), _measure("decide_seconds", "f32"), _detail("resources", "str"),
        _detail("error", "str"))),
    Event(198, "demand_judged", "What the autoscaler makes of something that waits; 0 units: that is over.", (
        _detail("demand", "str"), _label("verdict", "u8", ScalingVerdict), _measure("units", "u32"),
        _label("node_type", "str"), _detail("why", "str"))),
    Event(199, "resources_requested", "A program said how large the cluster should be at least.", (
        _WORKER, _measure("bundles", "u32"), _detail("resources", "str"))),
    # what workers print
    Event(267, "output_began", "From this byte of its worker's output on, what stands there is an attempt's (or"
        " nobody's); of a log record also who logged it and how severe it is.", (
        _TASK, _ATTEMPT, _ACTOR, _label("stream", "u8", OutputStream), _detail("from_byte", "u64"),
        _detail("level", "str"), _detail("logger", "str"))),
    Event(294, "output_dropped", "The oldest output of a worker is not kept any more: it printed more than is.", (
        _WORKER, _label("stream", "u8", OutputStream), _detail("first_byte", "u64"), _measure("bytes", "u64")),
        Severity.WARNING),
    Event(281, "job_output_dropped", "The oldest output of a submitted job's command is not kept any more: it printed"
        " more than is.", (
        _detail("submission_id", "str"), _detail("first_byte", "u64"), _measure("bytes", "u64")), Severity.WARNING),
    # what is lost, as its owner sees it
    Event(176, "object_missing", "The owner of a stored value learned that no copy of it is left.", (
        _OBJECT, _measure("object_bytes", "u64"), _detail("error", "str")), Severity.WARNING),
    Event(177, "object_rebuilding", "A lost value is needed, so the task that made it runs again.", (
        _OBJECT, _TASK, _measure("retries_left", "i32"))),
    Event(178, "object_rebuild_failed", "A lost value is needed and cannot be made again; who waits for it fails.", (
        _OBJECT, _detail("error", "str")), Severity.ERROR),
    Event(179, "argument_lost", "A worker gave an attempt back before it began: an argument cannot be read.", (
        _TASK, _ATTEMPT, _WORKER, _LEASE, _OBJECT, _detail("error", "str")), Severity.WARNING),
    # data flow
    Event(224, "task_arguments_given", "These results and puts, which were there already, are arguments of a task.", (
        _TASK, _measure("objects", "u8"), _OBJECT, _detail("object_2", "id20"), _detail("object_3", "id20"),
        _detail("object_4", "id20"))),
    # profiles
    Event(253, "stack_sampled", "A thread that runs a task was seen in this stack, so often since the last record.", (
        _TASK, _ATTEMPT, _label("function", "str"), _detail("stack", "str"), _detail("thread", "str"),
        _measure("samples", "u16"), _measure("seconds", "f32"), _measure("cpu_seconds", "f32"),
        _measure("own_memory_bytes", "u64"))),
    Event(254, "stacks_overflowed", "A process was seen in more different stacks than it records in full.", (
        _WORKER, _measure("stacks_max", "u32"), _measure("beyond", "u64")), Severity.WARNING),
    Event(225, "task_called_in_span", "A task was called inside a span of user code, which is its parent.", (
        _TASK, _detail("span", "u64"), _detail("trace", "id16"))),
    # what programs write on tasks and actors
    Event(245, "task_labelled", "The program gave a task labels (_labels): key=value, in order of their keys.", (
        _TASK, _detail("labels", "str"))),
    Event(246, "actor_labelled", "The program gave an actor labels (_labels): key=value, in order of their keys.", (
        _ACTOR, _detail("labels", "str"))),
)
# fmt: on

EVENTS: dict[int, Event] = {event.kind: event for event in _UNION}
BY_NAME: dict[str, Event] = {event.name: event for event in _UNION}


def check() -> None:
    """Raise ValueError if the union breaks its own rules (sizes, numbers, labels without a bound)."""
    if len(EVENTS) != len(_UNION) or len(BY_NAME) != len(_UNION):
        raise ValueError("two events share a number or a name")
    for event in _UNION:
        if event.kind in RETIRED:
            raise ValueError(f"{event.name}: number {event.kind} is retired")
        if event.struct.size != RECORD_BYTES:
            raise ValueError(f"{event.name}: {event.struct.size} bytes, want {RECORD_BYTES}")
        for field in event.fields:
            if field.name in ("time_ns", "process", "sequence"):
                raise ValueError(f"{event.name}.{field.name}: every record has a column of that name already")
            if field.name in ("number", "offset", "buffer", "ring", "take", "pack_into"):
                raise ValueError(f"{event.name}.{field.name}: emitters have a variable of that name")
            if field.role is Role.LABEL and field.code not in ("u8", "str"):
                raise ValueError(f"{event.name}.{field.name}: a label is an enumeration or an interned name")
