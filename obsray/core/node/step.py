"""One turn of the node's machines: when it happens, what is recorded, and what the shell shall do because of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from obsray.core.protocol.lifecycle import GroupState
from obsray.core.protocol.messages import ActorChanged, Message, encode


class Recorder(Protocol):
    """What machines record through: one method per event (``telemetry/events.py``), and ``intern`` for text."""

    def intern(self, text: str) -> int: ...

    def __getattr__(self, name: str) -> Callable[..., None]: ...


class Send(NamedTuple):
    """Send a message to a client; dropped if its link is closed by then."""

    client: bytes
    message: Message


class SendNode(NamedTuple):
    """Send a message to another node (by id); dropped if there is no link to it."""

    node: bytes
    message: Message


class Broadcast(NamedTuple):
    """Send a message to every client; ``abroad``: and to every other node, for theirs."""

    message: Message
    abroad: bool = False


class ConnectPeer(NamedTuple):
    """Connect to another node. Answered by ``peer_linked``, or by ``peer_unreachable`` with the reason."""

    node: bytes
    address: str


class DisconnectPeer(NamedTuple):
    """Close the link to another node, if there is one."""

    node: bytes


class StartWorker(NamedTuple):
    """Fork a process. Answered by ``worker_forked`` or ``worker_not_forked``, then by its hello, or its end.

    ``place``: where it starts and what it is started with, as ``environment_maker.py`` has prepared it.
    """

    worker: bytes
    environment: dict[str, str]
    place: dict[str, Any] = {}


class MakeEnvironment(NamedTuple):
    """Make what ``description`` asks for in ``seconds_max`` (-1 without bound). Answered by ``environment_made``."""

    environment: bytes
    description: dict[str, Any]
    seconds_max: float


class RemoveEnvironment(NamedTuple):
    """Delete the files of an environment that no process uses."""

    environment: bytes


class EndProcess(NamedTuple):
    """Send a worker's process a signal. Answered, sooner or later, by ``worker_ended``."""

    worker: bytes
    signal: int


class ReserveArena(NamedTuple):
    """Make the pages of ``[start, end)`` exist. Answered by ``arena_reserved``."""

    start: int
    end: int


class SpillObject(NamedTuple):
    """Write an object to ``path``. Answered by ``object_spilled`` with the same ``token``."""

    object: bytes
    token: int
    offset: int
    size: int
    path: str


class MakeFile(NamedTuple):
    """Make a file of ``size`` bytes at ``path``, into which a value is written in place. Answered by
    ``object_file_made`` with the same ``number``."""

    number: int
    size: int
    path: str


class RestoreObject(NamedTuple):
    """Read an object back from ``path``, or see whether it could be, if ``offset`` stands for that file. Answered by
    ``object_restored`` with the same ``token``."""

    object: bytes
    token: int
    offset: int
    size: int
    path: str


class PullObject(NamedTuple):
    """Fetch the ``missing`` ranges of an object into the arena. Answered by ``object_pulled`` with the same ``token``.

    ``sources`` are ``(node, address)``, the first preferred. Nobody else writes there before the answer.
    """

    token: int
    object: bytes
    offset: int
    size: int
    missing: tuple[tuple[int, int], ...]
    sources: tuple[tuple[bytes, str], ...]


class CancelPull(NamedTuple):
    """Nobody wants it any more: end the transfer soon. It is answered all the same."""

    token: int


class ServeObject(NamedTuple):
    """The answer to ``transfer_asked``: the object lies there until ``transfer_over``."""

    token: int
    offset: int
    size: int


class RefuseTransfer(NamedTuple):
    """The answer to ``transfer_asked``: ``error`` as in ``ObjectRefused``."""

    token: int
    error: str
    detail: str


class CutTransfers(NamedTuple):
    """A node is dead: end all transfers from and to it."""

    node: bytes


class RemoveFile(NamedTuple):
    """Delete the file of a spilled object."""

    path: str


class RemoveCheckpoints(NamedTuple):
    """Delete what an actor that is gone for good has saved."""

    actor: bytes


class KeepCheckpoint(NamedTuple):
    """Write what an actor that runs elsewhere has saved: ``data`` becomes ``file``, or (``append``) goes to its end.

    ``gone``: files that are not needed any more. Answered by ``checkpoint_done`` for this client's request.
    """

    client: bytes
    request: int
    actor: bytes
    file: str
    data: bytes
    append: bool
    gone: tuple[str, ...]


class ReadCheckpoint(NamedTuple):
    """Read a file that an actor has saved; "": the names of all. Answered by ``checkpoint_done``."""

    client: bytes
    request: int
    actor: bytes
    file: str


class Report(NamedTuple):
    """Let the control store know of an actor: its spec when it is created, then every change of it."""

    news: dict[str, Any] | ActorChanged


class ReportJob(NamedTuple):
    """Let the control store know of a driver that has said what it is."""

    job: int
    driver: bytes
    pid: int
    entrypoint: str
    namespace: str


class ReserveName(NamedTuple):
    """Ask the control store for the name of the actor of this spec. Answered by ``name_answered``."""

    spec: dict[str, Any]


class RegisterGroup(NamedTuple):
    """Let the control store know of the placement group of this spec. ``named``: it decides whether the group may have
    its name, answered by ``group_named``."""

    spec: dict[str, Any]
    named: bool


class ReportGroup(NamedTuple):
    """Let the control store know what became of a placement group: its state, where its bundles are, why."""

    group: bytes
    state: GroupState
    nodes: list[bytes]
    detail: str


class FindName(NamedTuple):
    """Ask the control store for the living actor of a name. Answered by ``name_found``, for this client's request."""

    client: bytes
    request: int
    namespace: str
    name: str


class ListNames(NamedTuple):
    """Ask the control store for the names in use, in one namespace or in all. Answered by ``names_listed``."""

    client: bytes
    request: int
    namespace: str | None


class Shutdown(NamedTuple):
    """End the whole runtime in order."""

    reason: str


Effect = (
    Send
    | SendNode
    | Broadcast
    | ConnectPeer
    | DisconnectPeer
    | StartWorker
    | MakeEnvironment
    | RemoveEnvironment
    | EndProcess
    | ReserveArena
    | SpillObject
    | MakeFile
    | RestoreObject
    | PullObject
    | CancelPull
    | ServeObject
    | RefuseTransfer
    | CutTransfers
    | RemoveFile
    | RemoveCheckpoints
    | KeepCheckpoint
    | ReadCheckpoint
    | Report
    | ReportJob
    | ReserveName
    | RegisterGroup
    | ReportGroup
    | FindName
    | ListNames
    | Shutdown
)


@dataclass(slots=True)
class Step:
    """``now`` is monotonic seconds for every decision, ``time_ns`` the wall clock for records only."""

    now: float
    time_ns: int
    emit: Recorder
    effects: list[Effect] = field(default_factory=list)
    #: The earliest instant at which a machine wants to be asked again, None if only a stimulus can change something.
    wake_at: float | None = None

    def send(self, client: bytes, message: Any) -> None:
        """Have a message object sent to ``client``."""
        self.effects.append(Send(client, encode(message)))

    def tell_node(self, node: bytes, message: Any) -> None:
        """Have a message object sent to another node."""
        self.effects.append(SendNode(node, encode(message)))

    def wake(self, instant: float) -> None:
        """Ask for a ``tick`` at ``instant`` at the latest."""
        if self.wake_at is None or instant < self.wake_at:
            self.wake_at = instant


class InvariantViolated(AssertionError):
    """A machine's books do not balance: a bug of the runtime."""


def require(condition: bool, text: str, *about: Any) -> None:
    """Raise InvariantViolated with ``text``, formatted with ``about``, unless ``condition`` holds."""
    if not condition:
        raise InvariantViolated(text.format(*about) if about else text)
