"""Faults on purpose: what the setting ``chaos`` (``OBSRAY_CHAOS``) may say, and what can go wrong with what.

::

    OBSRAY_CHAOS="PutKey=20:20:10:100;Push=5:0:0;*=delay:0:0.05;seed=7"

Entries are separated by semicolons. ``NAME`` is a call to the control store (``control.proto``), a message of the data
plane (``core/protocol/messages.py``), or ``rpc.*``, ``message.*``, ``*`` for all of them; what is said of one by its
name holds instead of what is said of all.

* ``NAME=REQUEST:REPLY:INFLIGHT[:MAX]``: percentages of those whose request is lost, whose reply is lost, and which end
  with an error now although the other side carries them out; and how many faults a process injects at most.
* ``NAME=delay:MIN:MAX``: each takes so many seconds longer, evenly spread.
* ``seed=N``: where chance begins (0).

Links are streams: nothing in them is lost alone, and what follows waits. So a lost message is one that the transport
repeats ``REPEAT_SECONDS`` later, and a lost reply is that for what the receiver says next. In flight, the link breaks
behind the message, which only ``BREAKABLE`` messages can survive without loss, and which ``*`` never asks for
(docs/adr, "faults on purpose").

Pure: ``core/transport/chaos.py`` carries it out.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from enum import Enum, IntEnum

#: After so long the transport repeats what was lost: the least that TCP waits.
REPEAT_SECONDS = 0.2
DELAY_SECONDS_MAX = 60.0
FORM = "NAME=REQUEST:REPLY:INFLIGHT[:MAX] or NAME=delay:MIN:MAX or seed=N"


class Fault(IntEnum):
    """What was done to a call or message."""

    REQUEST_LOST = 0
    REPLY_LOST = 1
    IN_FLIGHT = 2
    DELAYED = 3


class Carrier(Enum):
    """Between whom a message travels."""

    OWN_NODE = "a process and its own node"
    WORK = "who asks for work and who does it"
    HOLDS = "who owns a value and who holds it"
    FAR_HOLDS = "who owns a value and who holds it at another node"
    NODES = "two nodes"
    COLLECTORS = "two collectors"


#: Why no link is broken behind some of them.
UNBREAKABLE = {
    Carrier.OWN_NODE: "a process whose link to its own node ends is dead for the node: kill the process instead",
    Carrier.HOLDS: "at one node a link ends only with a process: kill one of the processes instead",
}


def _on(carrier: Carrier, names: str) -> dict[str, Carrier]:
    return dict.fromkeys(names.split(), carrier)


#: Calls to the control store. One that is not here cannot be disturbed, and a test says so.
RPCS: tuple[str, ...] = (
    "RegisterNode", "Heartbeat", "LeaveNode", "ReportUnreachable", "StartJob", "EndJob", "RegisterActor", "UpdateActor",
    "GetNamedActor", "ListActors", "RegisterGroup", "UpdateGroup", "FindGroup", "PutKey", "GetKey", "DeleteKey",
    "ListKeys", "PutFunction", "GetFunction", "GetState", "Watch",
)  # fmt: skip

#: Messages of the data plane, by their classes.
MESSAGES: dict[str, Carrier] = {
    **_on(
        Carrier.OWN_NODE,
        """
        DefineShape LeaseRequest LeaseReturn Blocked Unblocked CreateObject SealObject AbortObject PinObject
        UnpinObjects FileGone FreeObjects FreeItems CreateActor ActorReady ActorFailed ActorGaveUp WatchActor KillActor
        KillWorker Request StillNeeded
        Goodbye DescribeJob CreateGroup RemoveGroup WatchGroup Welcome LeaseGranted LeaseReclaim WorkerDied ObjectRoom
        ObjectRefused ObjectPinned StartActor ActorChanged Reply Exit GroupChanged ShapeRefused EnvironmentFailed
        TooDeep NodeChanged ObjectLost
        """,
    ),
    **_on(Carrier.WORK, "DefineFunction Push Done Recall Returned CancelTask Item ItemsTaken ArgumentLost"),
    **_on(Carrier.HOLDS, "GetObject ObjectValue AddHolder ReleaseHolders ObjectMissing CancelObject"),
    **_on(Carrier.FAR_HOLDS, "HoldsTold HoldsHeard HoldsAsked HoldsAnswered"),
    **_on(
        Carrier.NODES,
        """
        Forward ClientGone JobDescribed LoadReport WantActor WithdrawActor ActorPlaced EndWorker PrepareBundles
        BundlesPrepared CommitGroup ReleaseBundles GroupDescribed ListGroups GroupsListed LocateObject ObjectLocated
        ObjectsAt ObjectsGone KeepObjects ObjectsFreed NodeLeaves LogChunk LogsWanted LogsSent DrainNode WantPackage
        PackagePiece ClockQuestion ClockAnswer ObjectsLeaving TakeObjects ObjectTaken ObjectMoved DrainProgress
        AskDemand
        DemandDescribed
        """,
    ),
    **_on(Carrier.COLLECTORS, "TelemetryWanted TelemetryRows StacksWanted Stacks LogFilesWanted LogFilePieces"),
}

#: Messages behind which a link may break: what it carried is repeated, or fails with an error that says so.
BREAKABLE = frozenset(name for name, carrier in MESSAGES.items() if carrier not in UNBREAKABLE)

_ALL = {"*": (*RPCS, *MESSAGES), "rpc.*": RPCS, "message.*": tuple(MESSAGES)}


@dataclass(frozen=True, slots=True)
class Losses:
    """Percentages, and how many faults a process injects at most because of this entry (None: without bound)."""

    entry: int
    request: float
    reply: float
    in_flight: float
    faults_max: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a specification says, by the names of calls and messages."""

    text: str = ""
    seed: int = 0
    losses: dict[str, Losses] = field(default_factory=dict)
    #: Seconds: from, to.
    delays: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.losses or self.delays)


def parse(text: str, called: str = "OBSRAY_CHAOS") -> Plan:
    """The plan that ``text`` describes. Raises ValueError with a sentence that names the entry that is wrong."""
    seed = 0
    losses: dict[str, Losses] = {}
    delays: dict[str, tuple[float, float]] = {}
    said: set[tuple[str, bool]] = set()
    wide: list[tuple[str, Losses | tuple[float, float]]] = []
    for number, entry in enumerate(text.split(";"), 1):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if not name and not equals:
            continue
        try:
            if not equals or not value:
                raise ValueError(f"want {FORM}")
            if name == "seed":
                seed = _whole(value, "the seed")
                continue
            rule = _delay(value) if value.startswith("delay") else _losses(number, name, value)
            _check_name(name)
            key = (name, type(rule) is tuple)
            if key in said:
                raise ValueError(f"{name} is there twice")
            said.add(key)
        except ValueError as error:
            raise ValueError(f"{called}: entry {number}, {entry.strip()!r}: {error}") from None
        if name in _ALL:
            wide.append((name, rule))
        elif isinstance(rule, Losses):
            losses[name] = rule
        else:
            delays[name] = rule
    # Those about fewer names win.
    for name, rule in sorted(wide, key=lambda pair: len(_ALL[pair[0]])):
        for each in _ALL[name]:
            if isinstance(rule, Losses):
                losses.setdefault(each, rule if each in RPCS else _without_breaks(rule))
            else:
                delays.setdefault(each, rule)
    return Plan(text, seed, losses, delays)


def _without_breaks(rule: Losses) -> Losses:
    return Losses(rule.entry, rule.request, rule.reply, 0.0, rule.faults_max)


def _check_name(name: str) -> None:
    if name in _ALL or name in RPCS or name in MESSAGES:
        return
    near = difflib.get_close_matches(name, [*RPCS, *MESSAGES], 1)
    hint = f": did you mean {near[0]}?" if near else "; * is all of them, rpc.* and message.* are those of one kind"
    raise ValueError(f"no call to the control store and no message is called {name!r}{hint}")


def _losses(number: int, name: str, value: str) -> Losses:
    parts = value.split(":")
    if len(parts) not in (3, 4):
        raise ValueError(f"want three percentages and maybe a number of faults, got {value!r} ({FORM})")
    request, reply, in_flight = (
        _number(part, what, 100.0) for part, what in zip(parts, ("REQUEST", "REPLY", "INFLIGHT"), strict=False)
    )
    if request + reply + in_flight > 100:
        raise ValueError(f"REQUEST, REPLY and INFLIGHT are {request + reply + in_flight:g} % together, more than 100")
    if in_flight and name in MESSAGES and name not in BREAKABLE:
        raise ValueError(f"its link cannot break behind {name} (INFLIGHT must be 0): {UNBREAKABLE[MESSAGES[name]]}")
    return Losses(number, request, reply, in_flight, _whole(parts[3], "MAX") if len(parts) == 4 else None)


def _delay(value: str) -> tuple[float, float]:
    parts = value.split(":")
    if len(parts) != 3 or parts[0] != "delay":
        raise ValueError(f"want delay:MIN:MAX in seconds, got {value!r}")
    least, most = _number(parts[1], "MIN", DELAY_SECONDS_MAX), _number(parts[2], "MAX", DELAY_SECONDS_MAX)
    if least > most:
        raise ValueError(f"MIN ({least:g} s) is more than MAX ({most:g} s)")
    return least, most


def _number(text: str, what: str, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{what} is {text.strip()!r}, not a number") from None
    if not 0 <= number <= most:
        raise ValueError(f"{what} is {text.strip()}, not between 0 and {most:g}")
    return number


def _whole(text: str, what: str) -> int:
    if not (text.strip().isascii() and text.strip().isdigit()):
        raise ValueError(f"{what} is {text.strip()!r}, not a whole number from 0 on")
    return int(text)
