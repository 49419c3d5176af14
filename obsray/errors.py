"""Everything that can go wrong, by whose fault it is::

RayError                              base: carries the story and the trace of what it is about
├── RayTaskError                      the user's code raised; ``cause`` is the user's exception
│   └── UserCodeException             ... (an older name, never raised by itself)
├── TaskCancelledError                somebody asked for it (of code that ran also a RayTaskError)
│   └── TaskKilledError               ... with force, and its process ended (also WorkerCrashedError)
├── GetTimeoutError                   (also TimeoutError) the caller waited as long as it said
├── WorkerCrashedError                the process that ran the task ended; says how
│   ├── OutOfMemoryError              ... because it used too much memory
│   └── NodeDiedError                 ... because a host of the cluster went away
├── RayActorError                     the actor cannot answer
│   ├── ActorDiedError                ... ever again
│   │   ├── ActorPlacementGroupRemoved    ... with its placement group
│   │   └── ActorCheckpointError      ... because its state could not be saved or restored
│   └── ActorUnavailableError         ... now
├── ObjectLostError                   a value existed and cannot be read any more
│   ├── OwnerDiedError                ... because the process that owned it ended
│   ├── ObjectFreedError              ... because it was freed
│   ├── ObjectFetchTimedOutError      ... in time
│   ├── ReferenceCountingAssertionError   ... although it should be (also AssertionError)
│   └── ObjectReconstructionFailedError   ... and could not be computed again
│       ├── ObjectReconstructionFailedMaxAttemptsExceededError    ... because its task has no retries left
│       └── ObjectReconstructionFailedLineageEvictedError     ... because its task is not remembered any more
├── ObjectStoreFullError              no room in the object store
│   └── OutOfDiskError                ... nor in the spill directory
├── LocalRayletDiedError              this host's node process went away
├── RuntimeEnvSetupError              the environment a task asked for cannot be made
├── TaskUnschedulableError            no node can ever run the task
│   └── NestedTooDeepError            ... because every process there may be waits for others
├── ActorUnschedulableError           no node can ever hold the actor
├── TaskPlacementGroupRemoved         the placement group is gone
├── PendingCallsLimitExceeded         the caller's own limit for this actor is reached
├── AsyncioActorExit                  control flow: an async actor ends itself
├── OufOfBandObjectRefSerializationException   a reference was pickled by hand, and a setting forbids that
├── AuthenticationError               wrong or missing token
├── CollectiveError                   a collective operation failed for all members of its group
│   ├── CollectiveMismatchError       ... because they did not ask for the same
│   ├── CollectiveTimeoutError        ... because one was late (also TimeoutError)
│   └── CollectiveMemberDiedError     ... because one is gone
├── CrossLanguageError                code of another language was asked for
├── RayChannelError                   a channel of a compiled graph broke (never raised: there are none)
│   └── RayChannelTimeoutError        ... or was late (also TimeoutError)
└── RaySystemError                    a fault of the runtime itself
    └── UnknownReferenceError         (also ValueError) a reference that this runtime does not know
"""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

from obsray.causes import combined, dump_exception, gist, load_exception, rendered


class RayError(Exception):
    """Base of all errors of the runtime.

    ``story``: sentences, oldest first, of what happened to the task, actor or object the error is about.
    ``needed_by``: the tasks that did not run because they needed the value, the first one first.
    ``trace_id``: 32 hex digits that find the same story in the dashboard, the CLI and exported traces; "" if unknown.
    """

    story: tuple[str, ...] = ()
    trace_id: str = ""
    #: Tasks that needed the value, and so did not run: each the argument of the next.
    needed_by: tuple[str, ...] = ()

    def with_story(self, story: tuple[str, ...], trace_id: str = "") -> RayError:
        """The same error, knowing what led to it."""
        self.story = story
        self.trace_id = trace_id
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by calling the class again: constructors of errors take other arguments than Exception keeps.
        return _rebuild_error, (type(self), self.args, self.__dict__)

    def to_bytes(self) -> bytes:
        """The error as bytes. What of it cannot be pickled is replaced by its text."""
        return pickle.dumps(self)

    @staticmethod
    def from_bytes(data: bytes) -> RayError:
        """The error that ``to_bytes`` wrote. Unpickles: only for bytes one trusts. Raises ValueError for others."""
        try:
            error = pickle.loads(data)
        except Exception as problem:
            raise ValueError(f"these bytes are no error: {problem}") from problem
        if not isinstance(error, RayError):
            raise ValueError(f"these bytes are a {type(error).__name__}, not a RayError")
        return error

    def __str__(self) -> str:
        text = super().__str__()
        if self.story:
            text += "\n  what happened:\n" + "\n".join(f"    {line}" for line in self.story[-10:])
        if self.needed_by:
            text += f"\n  so these did not run: {', '.join(self.needed_by)}"
        if self.trace_id:
            text += f"\n  trace {self.trace_id}; `obsray story {self.trace_id}` tells what happened"
        return text

    def _render_traceback_(self) -> list[str]:
        # IPython and notebooks ask for it: the user's lines only.
        return rendered(self)


def _and_post_mortem(text: str, identifier: str) -> str:
    """A text about a process that died, and what tells more about it."""
    if not identifier or "`obsray post-mortem " in text:
        return text
    return f"{text}\n  `obsray post-mortem {identifier}` tells what its process did last, and why it ended"


def _rebuild_error(cls: type[RayError], args: tuple[Any, ...], state: dict[str, Any]) -> RayError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class RayTaskError(RayError):
    """User code raised. What ``get`` raises is also an instance of the user's own exception class.

    ``cause``: the user's exception; if it could not be pickled or rebuilt here, an ``UnserializableException`` with
    its text. ``function_name``, ``pid``, ``ip``, ``proctitle``, ``traceback_str``: where it was raised; ``actor_repr``:
    by which actor, if its class defines ``__repr__``. ``task_id``: 32 hex digits.
    """

    def __init__(
        self,
        function_name: str = "",
        traceback_str: str = "",
        cause: BaseException | None = None,
        proctitle: str | None = None,
        pid: int | None = 0,
        ip: str | None = None,
        actor_repr: str | None = None,
        *,
        task_id: str = "",
    ) -> None:
        Exception.__init__(self, traceback_str)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid or 0
        self.task_id = task_id
        self.actor_repr = actor_repr
        self.ip = ip or "127.0.0.1"
        self.proctitle = proctitle or f"obsray::{function_name}"

    def __str__(self) -> str:
        where = self.function_name
        if self.pid and self.task_id:
            who = f", actor {self.actor_repr}" if self.actor_repr else ""
            where += f" (pid {self.pid}, task {self.task_id}{who})"
        text = f"{where} {'failed' if self.pid or not self.needed_by else 'did not run'}\n{self.traceback_str}".rstrip()
        if self.needed_by:
            text += f"\nso these did not run: {', '.join(self.needed_by)}"
        # An error on its way through several tasks of one trace has said so already.
        if self.trace_id and f"trace {self.trace_id}" not in text:
            text += f"\ntrace {self.trace_id}"
            if self.task_id and "`obsray story " not in text:
                text += f"; `obsray story {self.task_id}` tells what happened"
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({gist(self.traceback_str)!r} in {self.function_name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task_error, (
            self.function_name,
            self.traceback_str,
            dump_exception(self.cause),
            self.pid,
            self.task_id,
            self.story,
            self.trace_id,
            self.actor_repr,
            self.needed_by,
            self.proctitle,
            self.ip,
        )

    def as_instanceof_cause(self) -> RayTaskError:
        """An equal error that ``except`` clauses for the user's exception class catch as well."""
        cause = self.cause
        if cause is None or isinstance(cause, RayTaskError):
            return self
        error = combined(RayTaskError, cause)
        if not isinstance(error, RayTaskError):
            return self
        RayTaskError.__init__(
            error, self.function_name, self.traceback_str, cause, self.proctitle, self.pid, self.ip, self.actor_repr,
            task_id=self.task_id,
        )  # fmt: skip
        # A class may have made properties of what exceptions keep.
        with contextlib.suppress(AttributeError, TypeError):
            error.args = cause.args
        for name, value in vars(cause).items():
            error.__dict__.setdefault(name, value)
        error.story, error.trace_id, error.needed_by = self.story, self.trace_id, self.needed_by
        if isinstance(cause, TaskCancelledError):
            error.task_id = cause.task_id
        return error


def kept_from_running(error: RayError, needing: tuple[str, ...]) -> RayError:
    """The error of a task whose argument failed with ``error``: of tasks ``needing``, the last.

    The failure of a task, as that of one whose code met the error would be, and an instance of its class as well.
    """
    if not isinstance(error, RayTaskError):
        name, _, task = needing[-1].partition(" (task ")
        needer = RayTaskError(name, str(error), error, task_id=task.rstrip(")"))
        needer.story, needer.trace_id = error.story, error.trace_id
        error = needer
    error.needed_by = needing
    return error


def _rebuild_task_error(
    function_name: str,
    text: str,
    cause: bytes,
    pid: int,
    task_id: str,
    story: tuple[str, ...],
    trace_id: str,
    actor_repr: str | None = None,
    needed_by: tuple[str, ...] = (),
    proctitle: str | None = None,
    ip: str | None = None,
) -> RayTaskError:
    found = load_exception(cause)
    if isinstance(found, str):
        found = UnserializableException(found)
    error = RayTaskError(function_name, text, found, proctitle, pid, ip, actor_repr, task_id=task_id)
    error = error.as_instanceof_cause()
    error.story, error.trace_id, error.needed_by = story, trace_id, needed_by
    return error


class TaskCancelledError(RayError):
    """The task was cancelled. ``task_id``: 32 hex digits, "" if unknown; ``error_message``: the text."""

    def __init__(self, task_id: str = "", error_message: str = "") -> None:
        super().__init__(error_message or (f"task {task_id} was cancelled" if task_id else "a task was cancelled"))
        self.task_id = task_id
        self.error_message = error_message


class GetTimeoutError(RayError, TimeoutError):
    """``get`` waited for as long as its ``timeout`` allows."""


class WorkerCrashedError(RayError):
    """The process that ran the task ended unexpectedly; the text says how it ended, from its wait status.

    ``task_id``: 32 hex digits, "" if unknown; ``obsray post-mortem`` takes it.
    """

    def __init__(self, message: str = "the process that ran the task ended unexpectedly", task_id: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id

    def __str__(self) -> str:
        return _and_post_mortem(super().__str__(), self.task_id)


class TaskKilledError(TaskCancelledError, WorkerCrashedError):
    """The task was cancelled with ``force=True`` while it ran, which ended its process."""


class OutOfMemoryError(WorkerCrashedError):
    """The process was killed because it used too much memory."""


class NodeDiedError(WorkerCrashedError):
    """The process that ran the task ended with its whole node; the text says which one and why."""


class RayActorError(RayError):
    """The actor cannot answer. ``actor_id``: 32 hex digits; ``actor_init_failed``: its constructor raised."""

    def __init__(self, message: str = "the actor cannot answer", actor_id: str = "", actor_init_failed: bool = False):
        super().__init__(message)
        self.error_msg = message
        self.actor_id = actor_id
        self.actor_init_failed = actor_init_failed
        self.preempted = False

    def __str__(self) -> str:
        text = super().__str__()
        if self.actor_id and "`obsray story " not in text:
            text += f"\n  `obsray story {self.actor_id}` tells what happened to it"
        return text


class ActorDiedError(RayActorError):
    """The actor is gone for good."""

    def __str__(self) -> str:
        # One whose constructor raised has not lost its process to anything: the traceback says all.
        return _and_post_mortem(super().__str__(), "" if self.actor_init_failed else self.actor_id)


class ActorCheckpointError(ActorDiedError):
    """``__obsray_save__`` or ``__obsray_restore__`` of the actor raised: it ended, because its state would be wrong."""


class ActorUnavailableError(RayActorError):
    """The actor cannot answer now, because it is restarting; the same call may be made again.

    A call that was running when the process died may have had its effect.
    """


class ActorHandleNotFoundError(RayError, ValueError):
    """The handle belongs to a runtime that has ended."""


class ActorAlreadyExistsError(RayError, ValueError):
    """The name is taken by another actor of the namespace."""


class ObjectLostError(RayError):
    """A value existed and cannot be read any more. ``object_ref_hex``: 40 hex digits, "" if unknown.

    ``owner_address``: the id of the process that owned it, as ``ObjectRef.owner_address()`` says it; ``call_site``:
    "" (``obsray get`` and the state API know where an object was put) or what was given. ``message``: the whole text.
    """

    _said = "it existed, and cannot be read any more"

    def __init__(
        self,
        object_ref_hex: str = "",
        owner_address: bytes | None = None,
        call_site: str = "",
        *,
        message: str = "",
    ) -> None:
        if not message:
            message = f"object {object_ref_hex}".rstrip() + f": {self._said}"
            if call_site:
                message += f"; it was made at {call_site}"
        super().__init__(message)
        self.object_ref_hex = object_ref_hex
        self.owner_address = _owner_in(object_ref_hex) if owner_address is None else owner_address
        self.call_site = call_site


def _owner_in(object_ref_hex: str) -> bytes:
    try:
        return bytes.fromhex(object_ref_hex)[:8]
    except ValueError:
        return b""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object ended, and the object with it."""

    _said = "the process that owned it has ended"


class ObjectFreedError(ObjectLostError):
    """The object was freed."""

    _said = "it was freed"


class ObjectFetchTimedOutError(ObjectLostError):
    """The object did not arrive in time."""

    _said = "it did not arrive in time"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was freed although somebody still refers to it: a bug of the runtime."""

    _said = "it was freed although somebody still refers to it"


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and computing it again failed."""

    _said = "it was lost, and computing it again failed"


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """The object was lost and its task may not run again: its retries (``max_retries``) are used up, or it has none."""

    _said = "it was lost, and its task has no retries left"


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """The object was lost and its task was forgotten to bound memory (``lineage_bytes_max``)."""

    _said = "it was lost, and its task is not remembered any more"


class ObjectStoreFullError(RayError):
    """There is no room for the object; the text has the sizes and the largest holders."""


class OutOfDiskError(ObjectStoreFullError):
    """Neither the store nor the spill directory has room."""


class LocalRayletDiedError(RayError):
    """This host's node process went away, and the runtime with it."""


class RuntimeEnvSetupError(RayError):
    """The environment that a task or actor asked for cannot be made."""

    def __init__(self, error_message: str = "the runtime environment cannot be set up") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class RaySystemError(RayError):
    """A fault of the runtime itself."""


class UnknownReferenceError(RaySystemError, ValueError):
    """A reference of another runtime, or to what never was, was used here."""


class TaskUnschedulableError(RayError):
    """No node can ever run the task. ``error_message``: why."""

    def __init__(self, error_message: str = "no node can ever run the task") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class NestedTooDeepError(TaskUnschedulableError):
    """The node has as many processes as may be, and all of them wait for other tasks: none is left for this one."""


class ActorUnschedulableError(RayError):
    """No node can ever hold the actor. ``error_message``: why."""

    def __init__(self, error_message: str = "no node can ever hold the actor") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class TaskPlacementGroupRemoved(RayError):
    """The task's placement group was removed."""


class ActorPlacementGroupRemoved(ActorDiedError):
    """The actor's placement group was removed, and the actor with it."""


class PlacementGroupAlreadyExistsError(RaySystemError, ValueError):
    """The name is taken by another placement group of the namespace."""


class PendingCallsLimitExceeded(RayError):
    """The handle already has ``max_pending_calls`` calls waiting."""


class AsyncioActorExit(RayError):
    """Control flow: an async actor ends itself."""


class AuthenticationError(RayError):
    """The token is wrong or missing."""


class ObjectRefStreamEndOfStreamError(RayError):
    """The stream has no more items."""


class UnserializableException(RayError):
    """Stands for an exception that cannot be pickled, or not rebuilt in this process; has its text."""


class UserCodeException(RayTaskError):
    """User code raised: the parent's older name."""


class CrossLanguageError(RayError):
    """Code of another language was asked for; obsray runs Python."""


class RpcError(RayError):
    """A call to a process of the runtime failed. ``rpc_code``: a gRPC status code, -1 if there was none."""

    def __init__(self, message: str = "the call failed", rpc_code: int = -1) -> None:
        super().__init__(message)
        self.rpc_code = rpc_code


class PlasmaObjectNotAvailable(RayError):
    """The object is not in this node's store (never raised: whoever needs it waits for it)."""


class StreamingGeneratorReplayInconsistentError(RayError):
    """A generator that ran again yielded something else than the first time."""


class RayChannelError(RaySystemError):
    """A channel of a compiled graph broke (never raised: graphs run over ordinary calls)."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel of a compiled graph was late (never raised)."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph has as many executions under way as it may."""


class RayDirectTransportError(RaySystemError):
    """Tensors could not be moved between devices directly (never raised: they move through host memory)."""


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled by hand, and RAY_allow_out_of_band_object_ref_serialization=0 forbids that."""


class CollectiveError(RayError):
    """A collective operation failed, for every member that took part or will. ``group_name``, ``rank``."""

    def __init__(self, message: str = "the operation failed", group_name: str = "", rank: int = -1) -> None:
        super().__init__(message)
        self.group_name = group_name
        self.rank = rank


class CollectiveMismatchError(CollectiveError, ValueError):
    """The members did not ask for the same: operation, shape, type or rank differ."""


class CollectiveTimeoutError(CollectiveError, TimeoutError):
    """A member did not come in time."""


class CollectiveMemberDiedError(CollectiveError):
    """A member left or its process ended."""
