"""What the processes of one runtime say to each other on the data plane.

A message is a tuple ``(tag, *fields)`` of plain values (bytes, int, float, str, tuple, list, dict, None); a frame
(``transport/connection.py``) carries a list of them. Nothing here is ever unpickled by a node: values, functions
and errors travel as opaque bytes and only the driver or worker they are meant for opens them.

Each class below is one message: its docstring says who sends it to whom and what must hold. On the hot path
(``Push``, ``Done``) senders build the tuple by hand; the class is its documentation and its decoder elsewhere.
Tags are never reused; removed ones go to ``RETIRED``.

=====================  ======================================================================================
link                   messages
=====================  ======================================================================================
client -> node         DefineShape LeaseRequest LeaseReturn Blocked Unblocked CreateObject SealObject
                       AbortObject PinObject UnpinObjects FileGone FreeObjects FreeItems CreateActor ActorReady
                       ActorFailed
                       ActorGaveUp WatchActor KillActor KillWorker Request Goodbye DescribeJob
                       CreateGroup RemoveGroup WatchGroup
node -> client         Welcome LeaseGranted LeaseReclaim WorkerDied ObjectRoom ObjectRefused ObjectPinned
                       StartActor ActorChanged Reply Exit GroupChanged ShapeRefused EnvironmentFailed
                       TooDeep NodeChanged ObjectLost
owner -> worker        DefineFunction Push Recall CancelTask
worker -> owner        Done Returned Item ArgumentLost
holder -> owner        GetObject ObjectMissing AddHolder ReleaseHolders ItemsTaken CancelObject
owner -> holder        ObjectValue
node <-> node          Forward ClientGone JobDescribed LoadReport WantActor WithdrawActor ActorPlaced EndWorker
                       WorkerDied PrepareBundles BundlesPrepared CommitGroup ReleaseBundles WatchGroup GroupDescribed
                       ListGroups GroupsListed ClockQuestion ClockAnswer
                       ObjectsLeaving TakeObjects ObjectTaken ObjectMoved DrainProgress
                       LocateObject ObjectLocated ObjectsAt ObjectsGone FreeObjects FreeItems KeepObjects ObjectsFreed
                       NodeLeaves
                       LogChunk LogsWanted LogsSent DrainNode AskDemand DemandDescribed
                       WantPackage PackagePiece
collectors             TelemetryWanted TelemetryRows StacksWanted Stacks LogFilesWanted LogFilePieces
=====================  ======================================================================================

A *client* is a driver or a worker; it has one connection to its node, and connections to the workers and owners it
talks to. Connections are FIFO, and the protocol relies on it: whoever hands a reference to somebody registers the
receiver with the owner (``AddHolder``) on the same connection on which it later releases its own hold.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

RETIRED: frozenset[int] = frozenset()

Message = tuple[Any, ...]

# --- values on the wire ----------------------------------------------------------------------------------

#: A value is one of: ``bytes`` (serialized inline), ``int`` (it lies in the node's object store; its size in bytes).
Value = bytes | int

#: Argument kinds in a task's ``arguments``: where the worker finds the value of a top-level reference.
ARGUMENT_INLINE = 0
ARGUMENT_STORED = 1

#: Fields of a task inside ``Push.tasks``, in order.
TASK_FIELDS = (
    "task",  # bytes 16
    "attempt",  # int, 0 first
    "function",  # int, as announced by DefineFunction on this connection
    "payload",  # bytes: serialized (args, kwargs) with references replaced, b"" for no arguments
    "arguments",  # None or list of (position int | keyword str, ARGUMENT_*, bytes value | bytes object id)
    "returns",  # int >= 0, or -1 streaming
    "trace",  # bytes 16
    "options",  # None or dict: "retry" (True or pickled classes), "max_calls", "name", "group", "backpressure",
    #             "final" (True: this attempt is the last one),
    #             "wanted" (indices of the results, or items, that are needed again: the others are there)
)

#: Fields of a result inside ``Done.results``, in order.
RESULT_FIELDS = (
    "task",  # bytes 16
    "attempt",  # int
    "outcome",  # int, an events.Outcome
    "values",  # list of Value, None for one that is not "wanted"; for a failure one serialized error
    "extra",  # None or {"kept": [object ids the worker still holds], "contained": [[object ids] per value],
    #           "retry": True (the exception is one of retry_exceptions), "retire": True (max_calls reached)}
    "run_ns",  # int: how long user code ran
)


_CHECKPOINT_FILE = re.compile(r"\d{1,12}\.(state|calls)")


def is_checkpoint_file(name: Any) -> bool:
    """Whether what an actor saves has files of this name (``system/checkpoints.py``)."""
    return isinstance(name, str) and _CHECKPOINT_FILE.fullmatch(name) is not None


def tag_of(message: Message) -> int:
    return int(message[0])


# --- client -> node --------------------------------------------------------------------------------------


class DefineShape(NamedTuple):
    """``shape`` is this client's number for a scheduling class: the same resources and environment.

    ``resources``: name -> amount, fixed point, in units of 1/10000 ("CPU": 10000 is one core; "memory" in bytes).
    ``name`` is for people and labels: "word_count CPU:1". ``runtime`` is None or a dict of what the worker must be
    ({"env_vars": {...}, "fresh": bool, ...}, all of it in ``runtime/environments.py``); workers are shared only between
    shapes of equal ``runtime``.
    ``placement`` is None (anywhere) or a dict of ``PLACEMENT_FIELDS``. Answered only if it is refused (ShapeRefused).
    """

    shape: int
    name: str
    resources: dict[str, int]
    runtime: dict[str, Any] | None = None
    placement: dict[str, Any] | None = None
    tag: int = 1


class LeaseRequest(NamedTuple):
    """The client wants ``wanted`` workers *more than it holds* for ``shape`` now; replaces its earlier demand for it.

    ``wanted`` 0 withdraws. ``backlog`` is how many tasks wait, for decisions and their explanation.
    """

    shape: int
    wanted: int
    backlog: int
    tag: int = 2


class LeaseReturn(NamedTuple):
    """The lease is over; the worker is free. ``tasks`` ran under it. ``reason`` is an events.Reason.

    ``dispose``: the worker must not be used again (max_calls reached, cancelled by force, environment spoiled).
    """

    lease: int
    tasks: int
    reason: int
    dispose: bool = False
    tag: int = 3


class Blocked(NamedTuple):
    """Worker -> node: the task it runs waits in get, wait or put: its CPUs (not its other resources) are free.

    ``sure``: for a task of its own, without a timeout, and not at another node: nothing else can end this wait.
    """

    sure: bool = False
    tag: int = 4


class Unblocked(NamedTuple):
    """Worker -> node: it goes on; its CPUs are taken again at once, even if that oversubscribes for a while."""

    tag: int = 5


class CreateObject(NamedTuple):
    """Ask for room for an object; answered by ObjectRoom or ObjectRefused, maybe after spilling others."""

    request: int
    object: bytes
    size: int
    tag: int = 6


class SealObject(NamedTuple):
    """The object is written and from now on immutable and readable by everybody on the node."""

    object: bytes
    tag: int = 7


class AbortObject(NamedTuple):
    """The writer gave up between CreateObject and SealObject."""

    object: bytes
    tag: int = 8


class PinObject(NamedTuple):
    """The client wants to read a sealed object; ObjectPinned says where. It stays there until UnpinObjects.

    Answered when the object is sealed here (restored from disk if need be), or with ObjectRefused.
    """

    request: int
    object: bytes
    tag: int = 9


class UnpinObjects(NamedTuple):
    """The client's last view of these objects is gone (one entry per ObjectPinned)."""

    objects: list[bytes]
    tag: int = 10


class FileGone(NamedTuple):
    """The object lies in a file, was pinned for the client, and cannot be mapped: the file is gone or too short.

    The pin is given back.
    """

    object: bytes
    detail: str
    tag: int = 167


class FreeObjects(NamedTuple):
    """Owner -> node: nothing refers to these objects; their room may be used once nobody has them pinned."""

    objects: list[bytes]
    tag: int = 11


class FreeItems(NamedTuple):
    """Owner -> node, home -> nodes: a streaming task has ended, of which attempts were lost. Whatever of it lies in a
    store goes, but for ``kept``: the owner has not heard of all that was stored."""

    task: bytes
    kept: list[bytes]
    tag: int = 142


class CreateActor(NamedTuple):
    """Owner -> node: place this actor and keep it; the answer is Reply(request) once it is *registered*.
    From then on the owner is told of every change, as after WatchActor.

    ``spec`` keys: "actor" 16 bytes, "class_name" str, "name" str or "", "namespace" str, "detached" bool,
    "resources" fixed point dict, "held" dict (held for life), "runtime" and "placement" as in DefineShape,
    "restarts_max" int (-1 without bound), "job" int, "owner" 8 bytes,
    "meta" opaque bytes (for handles made from the name), "task" 16 bytes (the creation task), "trace" 16 bytes,
    "function" bytes (class blob), "payload", "arguments" (as in a task), "concurrency" dict, "checkpoint" None or
    {"every": calls, "seconds", "repeats": whether calls are repeated after a restart}.
    """

    request: int
    spec: dict[str, Any]
    tag: int = 12


class ActorReady(NamedTuple):
    """Worker -> node: the constructor of the actor returned, in process ``pid`` of its machine."""

    actor: bytes
    pid: int
    tag: int = 13


class ActorFailed(NamedTuple):
    """Worker -> node: the constructor raised (``error`` serialized), or the actor asked to exit (``intended``).

    Owner -> node: the actor will never be created, because an argument of its constructor failed (``error``) or
    because nobody wants it any more (``intended``).
    """

    actor: bytes
    error: bytes
    intended: bool
    tag: int = 14


class WatchActor(NamedTuple):
    """Client -> node: tell me with ActorChanged where the actor is now and whenever that changes."""

    actor: bytes
    tag: int = 15


class KillActor(NamedTuple):
    """End the actor's process. ``graceful``: after the calls already made. ``restart``: uses up one restart."""

    actor: bytes
    restart: bool
    graceful: bool
    tag: int = 16


class KillWorker(NamedTuple):
    """Owner -> node: the lease's worker must end now (forced cancel). WorkerDied follows with KILLED_BY_REQUEST."""

    worker: bytes
    lease: int
    tag: int = 17


class Request(NamedTuple):
    """Client -> node: a rare question or command, answered by Reply. ``method`` out of ``NODE_METHODS``."""

    request: int
    method: str
    arguments: dict[str, Any]
    tag: int = 18


class StillNeeded(NamedTuple):
    """Worker -> node: the answer to an Exit that comes too early; the worker ends by itself once nobody holds what it
    owns."""

    objects: int
    tasks: int
    tag: int = 29


class Goodbye(NamedTuple):
    """Client -> node: ends in order; what it owned is freed, nothing it did counts as a crash."""

    tag: int = 19


class ActorGaveUp(NamedTuple):
    """Worker -> node: the actor's state could not be saved or restored; it ends for good. ``detail``: a sentence."""

    actor: bytes
    error: bytes
    detail: str
    tag: int = 23


class DescribeJob(NamedTuple):
    """Driver -> node, its first message: what holds for all that it submits. Workers ask for it with "job".

    ``description`` keys: "entrypoint" and "namespace" str, "sys_path" list of str (what workers import from),
    "metadata" dict of str, "runtime" as in DefineShape or None (what its tasks run in), "eager" bool (make it now),
    "logging" dict or None (arguments of LoggingConfig), "level" and "format" of the package's own log,
    "actor_lifetime" str.
    """

    description: dict[str, Any]
    tag: int = 26


class CreateGroup(NamedTuple):
    """Client -> node: reserve these bundles, all or nothing; the answer is Reply(request) once it is *registered*.

    ``spec`` keys: "group" 16 bytes, "name" str or "", "namespace" str, "strategy" out of ``GROUP_STRATEGIES`` or
    ``PACK_BY_LABEL`` with a key, "bundles" list of fixed point dicts, "selectors" list of selectors (one for each
    bundle, or empty), "detached" bool, "job" int, "target" 8 bytes (the node preferred for all, or nil).
    """

    request: int
    spec: dict[str, Any]
    tag: int = 20


class RemoveGroup(NamedTuple):
    """Client -> node: end the group and all that runs in it. Nothing happens if it has ended."""

    group: bytes
    tag: int = 21


class WatchGroup(NamedTuple):
    """Client -> node: tell me once with GroupChanged when the group is CREATED or REMOVED, now if it is."""

    group: bytes
    tag: int = 22


#: Keys of ``DefineShape.placement`` (all optional): "group" 16 bytes and "bundle" int (-1 any of them); "node" 8 bytes
#: and "soft" bool (others will do); "selectors" list of selectors of which one must hold, tried in order; "preferred"
#: one selector; "spread" bool; "near" 8 bytes and "near_bytes" int (a power of two: about so much of its arguments
#: lies on that node). A selector is as in ``labels.py``.
PLACEMENT_FIELDS = ("group", "bundle", "node", "soft", "selectors", "preferred", "spread", "near", "near_bytes")

GROUP_STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
#: Why a process ended that was to become an actor: what lists of processes say of it.
CONSTRUCTOR_RAISED = "its constructor raised"
#: Before the key of a label: on nodes that have the same value of it, whichever that is.
PACK_BY_LABEL = "STRICT_PACK by "

#: Methods of ``Request``: what they take -> what the reply holds.
NODE_METHODS: dict[str, str] = {
    "resources": "{} -> {'total': {name: amount}, 'available': {name: amount}} fixed point; memory and store in bytes",
    "job": "{'job': number} -> what its driver said in DescribeJob, or None",
    "nodes": "{} -> [node description]",
    "get_actor": "{'name', 'namespace'} -> {'actor': bytes, 'meta': bytes} or None",
    "list_actors": "{'namespace': str or None} -> [{'name', 'namespace'}]",
    "drain": "{'node': 8 bytes, 'reason': str, 'deadline_seconds': float or None} -> {}; that node takes no more work, "
    "and leaves when what runs there has ended",
    "flush_logs": "{} -> {'nodes': [id]}; what this driver's workers elsewhere have printed is in logs/remote",
    "checkpoint": "{'actor', 'what': 'keep', 'file', 'data', 'append', 'gone'} -> None; 'list' -> [file]; 'read', "
    "'file' -> bytes; only from the actor's process, at the actor's home",
    "shutdown": "{} -> {}; ends the whole runtime (only from the driver that started it)",
    "get_group": "{'name', 'namespace'} -> description of the group or None",
    "groups": "{'group': bytes or None} -> [description of a group]: that one, or all that are remembered",
    "locations": "{'objects': [ids]} -> {id: [nodes]} of those that are at home here or lie here",
    "store": "{} -> the numbers of a store_sample, plus the ten largest pinned objects",
}


# --- node -> client --------------------------------------------------------------------------------------


class Welcome(NamedTuple):
    """Node -> client, first message, with the arena's file descriptor as ancillary data.

    Besides settings: "nodes" {id: address} of the nodes that are there, "gone" {id: sentence} of those that ended.
    """

    node: bytes
    worker: bytes
    job: int
    arena_bytes: int
    settings: dict[str, Any]
    tag: int = 32


#: In a cluster the bits of a lease's number from here on are the mark of the node that gave it; those below are what
#: records show.
LEASE_MARK_SHIFT = 32
LEASE_NUMBER_MASK = (1 << LEASE_MARK_SHIFT) - 1


class LeaseGranted(NamedTuple):
    """The worker listening at ``path`` is the client's until LeaseReturn. ``devices``: {"GPU": [ids]} or {}."""

    shape: int
    lease: int
    worker: bytes
    path: str
    devices: dict[str, list[int]]
    tag: int = 33


class LeaseReclaim(NamedTuple):
    """Others wait: give the lease back as soon as nothing runs under it; do not push more than is in flight."""

    lease: int
    tag: int = 34


class WorkerDied(NamedTuple):
    """Sent to every client of the node.

    ``started``: from the dead process' black box, the task that each of its threads ran or had run last, those still
    running first; a nil id if it had run nothing, empty if nobody knows. ``attempts``: the attempt of each.

    ``cause`` is an events.DeathCause; ``exit_code`` and ``signal`` are from the wait status (0 if not that);
    ``detail`` is a sentence for people that includes RSS and limit for OOM; ``tail`` its last log lines.
    """

    worker: bytes
    pid: int
    cause: int
    exit_code: int
    signal: int
    started: list[bytes]
    detail: str
    tail: str
    attempts: tuple[int, ...] = ()
    tag: int = 35


class ObjectRoom(NamedTuple):
    """Write ``size`` bytes at ``offset`` of the arena, or in the file that it stands for, then SealObject."""

    request: int
    offset: int
    tag: int = 36


class ObjectRefused(NamedTuple):
    """``error`` is "full", "too_large", "unknown", "lost" or "duplicate"; ``detail`` a sentence with sizes."""

    request: int
    error: str
    detail: str
    tag: int = 37


class ObjectPinned(NamedTuple):
    """The object lies at ``offset`` of the arena, or in the file that it stands for, until the client unpins it."""

    request: int
    offset: int
    size: int
    tag: int = 38


class StartActor(NamedTuple):
    """Node -> worker: become this actor. ``devices`` as in LeaseGranted. Ends with ActorReady or ActorFailed."""

    spec: dict[str, Any]
    incarnation: int
    devices: dict[str, list[int]]
    tag: int = 39


class ActorChanged(NamedTuple):
    """``state``: an index of lifecycle.ActorState. ``path`` is where calls go when alive, empty if that follows from
    the marks: the node of the worker, or the receiver's own node's socket of that name.

    ``error`` is b"" or the serialized error of the constructor; ``detail`` a sentence for people.
    """

    actor: bytes
    state: int
    incarnation: int
    worker: bytes
    path: str
    cause: int
    error: bytes
    detail: str
    tag: int = 40


class Reply(NamedTuple):
    """Answer to Request or CreateActor: ``error`` "" if all went well, else a sentence, and ``kind`` its code."""

    request: int
    value: Any
    error: str = ""
    kind: str = ""
    tag: int = 41


class Exit(NamedTuple):
    """Node -> worker: end in order. Node -> driver: the runtime goes away, ``reason`` says why.

    ``unless_needed``: a worker that owns what others hold, or tasks that run, says StillNeeded and ends later.
    """

    reason: str
    unless_needed: bool = False
    tag: int = 42


class GroupChanged(NamedTuple):
    """Answer to WatchGroup. ``state``: an index of lifecycle.GroupState; ``detail`` a sentence for people."""

    group: bytes
    state: int
    detail: str
    tag: int = 43


class ShapeRefused(NamedTuple):
    """Node -> client: no task of this shape will ever run (again).

    ``kind``: "group_removed" (its placement group is gone), "unschedulable" (the node it is tied to does not exist).
    """

    shape: int
    kind: str
    detail: str
    tag: int = 44


class EnvironmentFailed(NamedTuple):
    """Node -> owner: what workers of ``shape`` must be cannot be made; the demand is withdrawn. ``error``: why."""

    shape: int
    error: str
    tag: int = 49


class TooDeep(NamedTuple):
    """Node -> worker: what its tasks of ``shape`` need will never be there, because every process waits for others.

    Those that wait for a worker now fail, later ones may be asked for. The demand is withdrawn.
    """

    shape: int
    detail: str
    tag: int = 166


class NodeChanged(NamedTuple):
    """Node -> its clients: another node is there (``alive``), or is dead and all its processes with it.

    ``address`` is its ``host:port``; ``detail`` says how it ended, for people.
    """

    node: bytes
    alive: bool
    address: str
    detail: str
    tag: int = 52


class ObjectLost(NamedTuple):
    """Node -> owner: no copy of these is left. ``detail``: a sentence, the same for all of them."""

    objects: list[bytes]
    detail: str
    tag: int = 53


# --- owner <-> worker ------------------------------------------------------------------------------------


class DefineFunction(NamedTuple):
    """``number`` stands for this function in ``Push`` on this connection. ``blob`` is pickled, b"" for methods."""

    number: int
    name: str
    blob: bytes
    tag: int = 64


class Push(NamedTuple):
    """Run these tasks, in order, one after the other. Lease 0 is an actor's calls.

    ``tasks`` is a list of tuples of ``TASK_FIELDS``. ``context``: {"devices", "resources", "job"}, or None if unchanged
    since the last Push under this lease. ``heard``: how often the sender has heard that tasks came back under it.
    """

    lease: int
    batch: int
    dispatched_at: int
    context: dict[str, Any] | None
    tasks: list[tuple[Any, ...]]
    heard: int = 0
    tag: int = 65


class Done(NamedTuple):
    """Results, in the order the tasks ended: tuples of ``RESULT_FIELDS``."""

    results: list[tuple[Any, ...]]
    tag: int = 66


class Recall(NamedTuple):
    """Give back what has not started: the tasks named, or all if empty. Answered by Returned (maybe with none)."""

    tasks: list[bytes]
    tag: int = 67


class Returned(NamedTuple):
    """These tasks were never started and will not be; sent unasked when the running task blocks in get, and for what
    was pushed before the sender of a Push had heard that older ones came back."""

    tasks: list[bytes]
    reason: int
    tag: int = 68


class CancelTask(NamedTuple):
    """End this task: not started, it never runs; running, it sees KeyboardInterrupt. Done with CANCELLED follows."""

    task: bytes
    recursive: bool
    tag: int = 69


class Item(NamedTuple):
    """One yielded value of a streaming task; ``contained`` are references inside it."""

    task: bytes
    index: int  # type: ignore[assignment]
    value: Value
    contained: list[bytes]
    tag: int = 70


#: The consumer has let go of the stream: nobody wants more items, and the generator is to be closed.
ITEMS_UNWANTED = -1
#: The consumer has let go of it without a look: the call was made for what it does besides, so it goes on to its end.
ITEMS_UNREAD = -3


class ItemsTaken(NamedTuple):
    """Owner -> worker: the consumer has taken ``count`` items of the stream (back-pressure), or one of the above."""

    task: bytes
    count: int  # type: ignore[assignment]
    tag: int = 71


# --- holder <-> owner ------------------------------------------------------------------------------------


class GetObject(NamedTuple):
    """Holder -> owner: send ObjectValue once the object exists (or has failed)."""

    object: bytes
    tag: int = 80


class ObjectValue(NamedTuple):
    """Owner -> holder. ``value`` None: the owner does not know it (freed); ``error`` says why.

    ``contained``: references inside the value; the owner has already registered the receiver for them. ``mark``: of
    the node where a stored value was made.
    """

    object: bytes
    value: Value | None
    contained: list[bytes]
    error: str = ""
    mark: bytes = b""
    tag: int = 81


class AddHolder(NamedTuple):
    """``worker`` holds ``objects`` from now on. Sent by whoever handed them out, before it releases its own hold.

    If ``worker`` is the owner itself: a value of the sender with these references is on its way to their owner.
    """

    objects: list[bytes]
    worker: bytes
    tag: int = 82


class ReleaseHolders(NamedTuple):
    """The sender no longer holds these objects (one entry per hold)."""

    objects: list[bytes]
    tag: int = 83


class HoldsTold(NamedTuple):
    """As AddHolder (``holder`` is not empty) or ReleaseHolders, to an owner at another node.

    Numbers of one sender have no gap. It is said again until it is acknowledged, and counts once.
    """

    number: int
    objects: list[bytes]
    holder: bytes
    tag: int = 154


class HoldsHeard(NamedTuple):
    """The receiver of HoldsTold has heard everything up to ``number``."""

    number: int
    tag: int = 155


class HoldsAsked(NamedTuple):
    """Owner -> holder: how often do you hold these? ``number``: of the look that asks."""

    number: int
    objects: list[bytes]
    tag: int = 156


class HoldsAnswered(NamedTuple):
    """Holder -> owner: so often, in the order of the question."""

    number: int
    objects: list[bytes]
    counts: list[int]
    tag: int = 157


class ObjectMissing(NamedTuple):
    """Holder -> owner: its node cannot read this stored value (``detail``); else as GetObject.

    The owner asks its own node, and has the value made again if it is lost.
    """

    object: bytes
    detail: str
    tag: int = 84


class CancelObject(NamedTuple):
    """Holder -> owner: cancel the task that makes this object, if it has not ended. ``force`` as in ``cancel()``."""

    object: bytes
    force: bool
    recursive: bool
    tag: int = 162


class ArgumentLost(NamedTuple):
    """Worker -> owner: ``object``, an argument of this attempt, cannot be read here (``detail``).

    The attempt has not begun and will not: the owner has it run again once the argument exists again.
    """

    task: bytes
    attempt: int
    object: bytes
    detail: str
    tag: int = 85


# --- node <-> node (docs/adr/0019) -----------------------------------------------------------------------


class Forward(NamedTuple):
    """``message`` is what ``client`` says to the receiving node, or, if it is a client of that node, shall hear.

    ``job``: for which job the client works, 0 if for none.
    """

    client: bytes
    job: int
    message: Message
    tag: int = 96


class ClientGone(NamedTuple):
    """A client of the sender ended: what it had at the receiver ends with it."""

    client: bytes
    tag: int = 97


class JobDescribed(NamedTuple):
    """A driver of the sender said what its job is (``DescribeJob``). ``description`` None: the job ended."""

    job: int
    driver: bytes
    description: dict[str, Any] | None
    tag: int = 98


class LoadReport(NamedTuple):
    """What the sender has to spare now. ``number`` grows with each report of a node.

    ``total`` and ``spare`` in fixed point (``spare``: free and wanted by nobody there). ``queued`` tasks wait there,
    which run ``task_seconds`` each. ``store_bytes`` is free in its store.
    """

    number: int
    total: dict[str, int]
    spare: dict[str, int]
    queued: int
    task_seconds: float
    store_bytes: int
    draining: bool
    tag: int = 99


class ClockQuestion(NamedTuple):
    """Head -> node: what time is it there? Answered by ClockAnswer(number)."""

    number: int
    tag: int = 136


class ClockAnswer(NamedTuple):
    """Node -> head: the node's wall clock when it was asked, in nanoseconds since 1970."""

    number: int
    time_ns: int
    tag: int = 137


class ObjectsLeaving(NamedTuple):
    """A node that drains -> home: these, of these sizes, are to be elsewhere before it leaves. Each is answered by
    ObjectMoved."""

    objects: list[tuple[bytes, int]]
    tag: int = 138


class TakeObjects(NamedTuple):
    """Home -> node: fetch these and keep them. Each is answered by ObjectTaken."""

    objects: list[bytes]
    tag: int = 139


class ObjectTaken(NamedTuple):
    """Node -> home: the object lies here to stay, or (``error``) cannot be had."""

    object: bytes
    error: str
    tag: int = 140


class ObjectMoved(NamedTuple):
    """Home -> a node that drains: ``node`` has the object now; or nobody, and ``error`` says why."""

    object: bytes
    node: bytes
    error: str
    tag: int = 141


class DrainProgress(NamedTuple):
    """A node that drains -> all: what still holds it. Counts of leases, drivers, other processes that own what others
    hold, objects moved, to be moved, and given up; bytes of the objects."""

    leases: int
    drivers: int
    owners: int
    moved: int
    moved_bytes: int
    left: int
    left_bytes: int
    failed: int
    failed_bytes: int
    why: str
    tag: int = 56


class WantActor(NamedTuple):
    """Home -> node: find a worker for this actor; answered by ActorPlaced.

    ``attempt`` counts the times that the home has asked some node for this actor, so that answers to earlier ones are
    known. ``demand`` keys: "owner" 8 bytes, "job" int, "name" str, "label" str, "need" and "hold" fixed point dicts,
    "runtime" and "placement" as in DefineShape.
    """

    actor: bytes
    attempt: int
    demand: dict[str, Any]
    tag: int = 100


class WithdrawActor(NamedTuple):
    """Home -> node: look no longer. Answered by ActorPlaced with a nil worker, unless one was found before."""

    actor: bytes
    attempt: int
    tag: int = 101


class ActorPlaced(NamedTuple):
    """Node -> home: ``worker`` is this actor's, under ``lease``, until it ends.

    Nil: there is none; ``kind`` is "" (the home asked for no more), "environment" (what it must be cannot be made),
    "group_removed" or "unschedulable" (as in ShapeRefused), ``detail`` a sentence.
    """

    actor: bytes
    attempt: int
    worker: bytes
    lease: int
    devices: dict[str, list[int]]
    kind: str
    detail: str
    tag: int = 102


class EndWorker(NamedTuple):
    """Home of an actor -> node of its worker: end the process. ``cause`` is an events.DeathCause.

    ``graceful``: it is asked to end, and killed after the grace time unless it is ``patient``; else it is killed now.
    """

    worker: bytes
    cause: int
    detail: str
    graceful: bool
    patient: bool
    tag: int = 103


class PrepareBundles(NamedTuple):
    """Home of a group -> node: hold these bundles for it. ``attempt`` tells answers of different tries apart.

    ``group``: its description as in GroupDescribed. ``bundles``: their indices. ``patient``: the group has waited long,
    and the node may let them have their turn there before it answers.
    """

    group: dict[str, Any]
    attempt: int
    bundles: list[int]
    patient: bool
    tag: int = 104


class BundlesPrepared(NamedTuple):
    """Node -> home: they are held, or (``error``) none of them is."""

    group: bytes
    attempt: int
    error: str
    tag: int = 105


class CommitGroup(NamedTuple):
    """Home -> node with bundles: all nodes hold theirs, work may run. ``group`` as in GroupDescribed."""

    group: dict[str, Any]
    tag: int = 106


class ReleaseBundles(NamedTuple):
    """Home -> node: the group (or its try ``attempt``) is over; what runs in its bundles ends. ``detail``: why."""

    group: bytes
    attempt: int
    removed: bool
    detail: str
    tag: int = 107


class GroupDescribed(NamedTuple):
    """Home -> nodes that watch or take part: what the group is now.

    ``group`` keys: "group" 16 bytes, "owner" 8 bytes, "job" int, "name", "namespace", "strategy" str, "detached" bool,
    "state" int, "bundles" list of fixed point dicts, "selectors" list, "nodes" list of node ids (empty bytes: nowhere),
    "attempt" int (the try that is under way, 0 if none is), "detail" str.
    """

    group: dict[str, Any]
    tag: int = 108


class LocateObject(NamedTuple):
    """Node -> home of the object: where is it? Answered once it is somewhere, or nobody will ever make it."""

    object: bytes
    tag: int = 109


class ObjectLocated(NamedTuple):
    """Home -> node: ``nodes`` have it, ``size`` bytes. No nodes: it is lost or unknown, ``detail`` says which."""

    object: bytes
    size: int
    nodes: list[bytes]
    detail: str
    tag: int = 110


class ObjectsAt(NamedTuple):
    """Node -> home: these objects, of these sizes, lie here now."""

    objects: list[tuple[bytes, int]]
    tag: int = 111


class ObjectsGone(NamedTuple):
    """Node -> home: these no longer lie here (evicted copies), or (``detail``) what lay here is lost."""

    objects: list[bytes]
    detail: str
    tag: int = 112


class KeepObjects(NamedTuple):
    """Home -> node: the originals of these are gone; the copies at the receiver take their place and are kept."""

    objects: list[bytes]
    tag: int = 114


class ObjectsFreed(NamedTuple):
    """Node -> home: these lay here and were freed, as the home said in FreeObjects."""

    objects: list[bytes]
    tag: int = 115


class NodeLeaves(NamedTuple):
    """A node ends in order; ``reason`` says why. ``cluster_ends``: it is the head, and nothing takes its place."""

    reason: str
    cluster_ends: bool
    tag: int = 113


class WantPackage(NamedTuple):
    """Node -> node: send a piece of this file of ``environments/packages`` from ``offset`` on (PackagePiece)."""

    name: str
    offset: int
    tag: int = 124


class PackagePiece(NamedTuple):
    """``total`` is the size of the whole file; -1: the sender does not have it."""

    name: str
    offset: int
    total: int
    data: bytes
    tag: int = 125


class ListGroups(NamedTuple):
    """Node -> node: which groups at home at the receiver have this ``name``, or (no name) which there are.

    ``group``: only that one; nil for all. With a name: the sender wants it for this group, nil if it only asks.
    Answered by GroupsListed(number).
    """

    number: int
    group: bytes
    name: str
    namespace: str
    tag: int = 118


class GroupsListed(NamedTuple):
    """Answer to ListGroups: descriptions as the request "groups" answers them."""

    number: int
    groups: list[dict[str, Any]]
    tag: int = 119


class LogChunk(NamedTuple):
    """Node of a worker -> node of its job's driver: the worker printed ``data``, at ``offset`` of its file ``stream``.

    ``stream`` is "out" or "err", or "by": who wrote which line (``bylines``). ``dropped`` bytes before these were left
    out because they came too fast.
    """

    worker: bytes
    job: int
    stream: str
    offset: int
    data: bytes
    dropped: int
    tag: int = 122


class LogsWanted(NamedTuple):
    """Node of a driver that is about to end -> other nodes: send what its workers have printed, then LogsSent."""

    job: int
    tag: int = 123


class LogsSent(NamedTuple):
    """Answer to LogsWanted, after the last LogChunk."""

    job: int
    tag: int = 128


class DrainNode(NamedTuple):
    """Node -> node: take no more work, and leave when what runs has ended, at the latest after ``deadline_seconds``.

    ``if_idle``: only if nothing would be missed there; else it goes on as if nothing had been said.
    """

    reason: str
    deadline_seconds: float | None
    if_idle: bool
    tag: int = 129


class AskDemand(NamedTuple):
    """Head -> node: what waits with you for ``waited`` seconds, what is free, are you idle? DemandDescribed(number)."""

    number: int
    waited: float
    tag: int = 132


class DemandDescribed(NamedTuple):
    """Answer to AskDemand.

    ``demand`` keys: "total", "free" fixed point dicts, "draining" bool, "busy" str (why it is not idle), "leases" int
    (granted so far), "demands" list of {"need", "units", "selectors", "node", "name", "actor"}, "groups" list of
    {"group", "name", "strategy", "bundles", "taken"}.
    """

    number: int
    demand: dict[str, Any]
    tag: int = 133


# --- collector <-> collector -------------------------------------------------------------------------


class TelemetryWanted(NamedTuple):
    """The head's collector -> a node's: what is stored beyond these rows, by kind of event?"""

    rows: dict[str, int]
    tag: int = 126


class TelemetryRows(NamedTuple):
    """``parts``: kind of event and its new rows as an Arrow stream. ``rows``: what is taken then.

    ``whole``: nothing is left, and ``rings`` (hex of the process -> its ledger as JSON) belongs to it.
    ``finished``: the node has ended and nothing will follow. ``recorded``: how many records there are at that node by
    now, stored or not, so that it is known how many are missing if it ends before the next answer.
    """

    parts: list[tuple[str, bytes]]
    rings: dict[str, str]
    rows: dict[str, int]
    whole: bool
    finished: bool
    recorded: int
    tag: int = 127


class LogFilesWanted(NamedTuple):
    """The head's collector -> a node's: what stands in its log files beyond these many bytes, by name?"""

    taken: dict[str, int]
    tag: int = 158


class LogFilePieces(NamedTuple):
    """``pieces``: name of a file, where in it they begin, bytes. ``whole``: there is no more by now."""

    pieces: list[tuple[str, int, bytes]]
    whole: bool
    tag: int = 159


class StacksWanted(NamedTuple):
    """A tool or the head's dashboard -> a node's collector: what do the threads of your processes do now?"""

    tag: int = 148


class Stacks(NamedTuple):
    """``processes``: the rows of ``telemetry.live_stacks.gather``, as JSON."""

    processes: str
    tag: int = 149


def _registry() -> dict[int, type]:
    found: dict[int, type] = {}
    for value in list(globals().values()):
        defaults = getattr(value, "_field_defaults", None)
        if isinstance(value, type) and defaults and "tag" in defaults:
            tag = defaults["tag"]
            if tag in found or tag in RETIRED:
                raise ValueError(f"tag {tag} is taken: {value.__name__}")
            found[tag] = value
    return found


#: Tag -> message class.
MESSAGES: dict[int, type] = _registry()


def encode(message: Any) -> Message:
    """A message object as the tuple that travels."""
    return (message.tag, *message[:-1])


def decode(message: Message) -> Any:
    """The tuple that travelled as a message object. Raises ValueError for an unknown tag or the wrong size."""
    cls = MESSAGES.get(message[0]) if message and isinstance(message[0], int) else None
    if cls is None:
        raise ValueError(f"unknown message tag {message[0] if message else None!r}")
    fields = cls._fields  # type: ignore[attr-defined]
    if len(message) != len(fields):
        raise ValueError(f"{cls.__name__} has {len(fields) - 1} fields, got {len(message) - 1}")
    return cls(*message[1:])
