"""A node's machines on a bench: no clock, no sockets, no processes; every stimulus is given by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from obsray.core.node.machine import NodeMachine
from obsray.core.node.objects import ObjectTable
from obsray.core.node.peers import PeerTable
from obsray.core.node.resources import UNIT, Resources
from obsray.core.node.step import (
    Broadcast,
    Effect,
    EndProcess,
    MakeFile,
    ReserveArena,
    RestoreObject,
    Send,
    SpillObject,
    StartWorker,
    Step,
)
from obsray.core.node.workers import Ended, WorkerPool
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import WorkerState
from obsray.gpu.nvml import Found
from obsray.ids import object_id, task_id, worker_id
from obsray.telemetry.events import BY_NAME, ProcessKind

NODE = b"NODE...."
MIB = 1 << 20


class Records:
    """Keeps events as (name, fields); packs each, so that a value that does not fit its field fails the test."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._texts: list[str] = [""]

    def intern(self, text: str) -> int:
        if text not in self._texts:
            self._texts.append(text)
        return self._texts.index(text)

    def __getattr__(self, name: str) -> Callable[..., None]:
        event = BY_NAME[name]

        def emit(time_ns: int, *values: Any) -> None:
            event.struct.pack(time_ns, event.kind, 0, *values, 1)
            fields: dict[str, Any] = {}
            for field, value in zip(event.fields, values, strict=True):
                if field.code == "str":
                    value = self._texts[value]
                elif field.labels is not None:
                    value = field.labels(value)
                fields[field.name] = value
            self.events.append((name, fields))

        return emit

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for found, fields in self.events if found == name]

    def take(self, name: str) -> list[dict[str, Any]]:
        """Events of that name since the last call."""
        found = self.named(name)
        self.events = [event for event in self.events if event[0] != name]
        return found


class Bench:
    """``cpus`` etc. as a user gives them. Workers that the pool asks for join when ``workers_join`` is called."""

    def __init__(
        self,
        cpus: float = 2,
        gpus: int = 0,
        custom: dict[str, float] | None = None,
        store: int = 16 * MIB,
        prestart: int = 0,
        workers_max: int = 64,
        spill_bytes_max: int = 0,
        auto_reserve: bool = True,
        node: bytes = NODE,
        peers: PeerTable | None = None,
        labels: dict[str, str] | None = None,
    ) -> None:
        self.node = node
        self.now = 1000.0
        self.records = Records()
        self.inbox: dict[bytes, list[Any]] = {}
        self.effects: list[Effect] = []
        self.wake_at: float | None = None
        self.asked: dict[bytes, dict[str, str]] = {}
        self.auto_reserve = auto_reserve
        numbers = itertools.count(1)
        new_id = (lambda: worker_id(node, b"w%03d" % next(numbers))) if peers else (lambda: b"w%07d" % next(numbers))
        self.pool = WorkerPool(new_id, prestart, workers_max, 30.0, 60.0, 2.0)
        total = {"CPU": round(cpus * UNIT), "memory": 1 << 30}
        if gpus:
            total["GPU"] = gpus * UNIT
        total |= {name: round(amount * UNIT) for name, amount in (custom or {}).items()}
        self.objects = ObjectTable(store, "/spill", spill_bytes_max, 30.0, 1.0)
        self.machine = NodeMachine(
            node, Resources(total), self.pool, self.objects, "/sockets", lambda: {"node": node}, labels, peers,
            {number: Found(number, f"GPU-{number}", "NVIDIA H100", 80 << 30, False) for number in range(gpus)},
        )  # fmt: skip
        self.scheduler = self.machine.scheduler
        self.actors = self.machine.actors

    # --- stimuli -----------------------------------------------------------------------------------------

    def do(self, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        step = Step(self.now, int(self.now * 1e9), self.records)
        try:
            return stimulus(step, *arguments)
        finally:
            if step.wake_at is not None and (self.wake_at is None or step.wake_at < self.wake_at):
                self.wake_at = step.wake_at
            for effect in step.effects:
                self._carry_out(effect)
            self.machine.check_invariants()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(client, message):
                if client in self.machine.clients:
                    self.inbox.setdefault(client, []).append(m.decode(message))
            case Broadcast(message):
                for client in self.machine.clients:
                    self.inbox.setdefault(client, []).append(m.decode(message))
            case StartWorker(worker, environment):
                self.asked[worker] = environment
            case ReserveArena(_, end) if self.auto_reserve:
                self.do(self.machine.arena_reserved, end, "")
            case _:
                self.effects.append(effect)

    def driver(self, name: bytes = b"driver_1") -> bytes:
        client = self.do(self.machine.client_joined, name, ProcessKind.DRIVER, 1)
        assert client is not None
        return name

    def send(self, client: bytes, *messages: Any) -> None:
        self.do(self.machine.client_messages, client, [m.encode(message) for message in messages])

    def leave(self, client: bytes) -> None:
        self.do(self.machine.client_left, client)

    def workers_join(self, count: int = 1 << 30) -> list[bytes]:
        """The processes that were asked for are there and say hello."""
        joined = []
        while self.asked and len(joined) < count:
            worker = next(iter(self.asked))
            del self.asked[worker]
            self.do(self.machine.worker_forked, worker, 4000)
            assert self.do(self.machine.client_joined, worker, ProcessKind.WORKER, 4000) is not None
            joined.append(worker)
        return joined

    def worker_dies(self, worker: bytes, **facts: Any) -> None:
        """The process is gone: by default killed with signal 9."""
        facts = {"exit_code": 0, "signal": 9, **facts}
        self.do(self.machine.worker_ended, Ended(worker, 4000, **facts))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.wake_at = None
        self.do(self.machine.tick)

    def run_until_quiet(self, seconds: float) -> None:
        """Let time pass, waking the machine when it asked for it."""
        end = self.now + seconds
        while self.wake_at is not None and self.wake_at <= end:
            self.now = max(self.now, self.wake_at)
            self.tick()
        self.now = end

    # --- what came out -----------------------------------------------------------------------------------

    def take(self, client: bytes, kind: type | None = None) -> list[Any]:
        """Messages to the client since the last call (of one kind: the others stay)."""
        found = self.inbox.get(client, [])
        self.inbox[client] = [] if kind is None else [message for message in found if not isinstance(message, kind)]
        return found if kind is None else [message for message in found if isinstance(message, kind)]

    def take_effects(self, kind: type) -> list[Any]:
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    def killed(self) -> list[bytes]:
        return [effect.worker for effect in self.take_effects(EndProcess)]

    def spills_end(self, error: str = "") -> list[bytes]:
        """The threads that write spilled objects are done."""
        done = []
        while spills := self.take_effects(SpillObject):
            for spill in spills:
                done.append(spill.object)
                self.do(self.machine.object_spilled, spill.token, spill.path, 0.1, error)
        return done

    def files_made(self, error: str = "") -> list[MakeFile]:
        """The files that lie there instead of room in the arena are there, or cannot be made."""
        made = self.take_effects(MakeFile)
        for file in made:
            self.do(self.machine.object_file_made, file.number, file.path, error)
        return made

    def restores_end(self, error: str = "") -> list[bytes]:
        done = []
        while restores := self.take_effects(RestoreObject):
            for restore in restores:
                done.append(restore.object)
                self.do(self.machine.object_restored, restore.token, 0.1, error)
        return done

    # --- shorthands --------------------------------------------------------------------------------------

    def define(self, client: bytes, shape: int, runtime: dict[str, Any] | None = None, **resources: float) -> None:
        amounts = {name: round(amount * UNIT) for name, amount in resources.items()}
        self.send(client, m.DefineShape(shape, f"shape{shape}", amounts, runtime))

    def want(self, client: bytes, shape: int, wanted: int, backlog: int = 1) -> None:
        self.send(client, m.LeaseRequest(shape, wanted, backlog))

    def granted(self, client: bytes) -> list[Any]:
        return self.take(client, m.LeaseGranted)

    def give_back(self, client: bytes, lease: Any, dispose: bool = False) -> None:
        self.send(client, m.LeaseReturn(lease.lease, 1, 0, dispose))

    def free(self, name: str = "CPU") -> float:
        return self.machine.resources.free[name] / UNIT

    def state(self, worker: bytes) -> WorkerState:
        return self.pool.workers[worker].state


def put_id(owner: bytes, number: int) -> bytes:
    """An object that ``owner`` put."""
    return object_id(task_id(owner, number, 1))


def actor_spec(actor: bytes, owner: bytes, **changes: Any) -> dict[str, Any]:
    """A complete actor specification."""
    spec: dict[str, Any] = {
        "actor": actor, "class_name": "Counter", "name": "", "namespace": "", "detached": False,
        "resources": {"CPU": UNIT}, "held": {}, "runtime": None, "restarts_max": 0, "job": 1, "owner": owner,
        "meta": b"meta", "task": actor, "trace": bytes(16), "function": b"", "payload": b"", "arguments": None,
        "concurrency": {}, "restore": None,
    }  # fmt: skip
    return {**spec, **changes}
