"""Machine: what clients ask a node and are answered, at once or when others have said what they know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from obsray.core.node.abroad import STORE_RESOURCE
from obsray.core.node.intake import Malformed
from obsray.core.node.names import LATER
from obsray.core.node.step import FindName, KeepCheckpoint, ListNames, ReadCheckpoint, Shutdown, Step
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState
from obsray.telemetry.events import ProcessKind

if TYPE_CHECKING:
    from obsray.core.node.machine import Client, NodeMachine


class Requests:
    """``describe_node`` gives the facts about this node that ``nodes`` answers with."""

    def __init__(self, machine: NodeMachine, describe_node: Callable[[], dict[str, Any]]) -> None:
        self.machine = machine
        self._describe_node = describe_node
        #: Those whose answer may have to wait for other nodes; they get the number of the request.
        self._asking: dict[str, Callable[[Step, Client, dict[str, Any], int], Any]] = {
            "get_group": machine.group_messages.find,
            "groups": machine.group_messages.describe,
            "get_actor": self._get_actor,
            "list_actors": self._list_actors,
            "checkpoint": self._checkpoint,
            "demand": machine.scaling.ask,
        }
        self._methods: dict[str, Callable[[Step, Client, dict[str, Any]], Any]] = {
            "resources": self._resources,
            "job": lambda step, client, arguments: machine.jobs.descriptions.get(arguments.get("job", 0)),
            "nodes": lambda step, client, arguments: [self._describe_self(), *machine.abroad.described()],
            "shutdown": self._shutdown,
            "drain": lambda step, client, arguments: machine.draining.ask(step, arguments),
            "request_resources": machine.scaling.wish,
            "store": self._store,
            "gpus": lambda step, client, arguments: machine.gpus.described(),
            "gpu_health": machine.gpus.judged,
            "locations": self._locations,
        }

    def ask(self, step: Step, client: Client, message: m.Request) -> None:
        """Somebody asks; the answer is a Reply with the same number."""
        asking = self._asking.get(message.method)
        if asking is not None:
            answer = asking(step, client, message.arguments, message.request)
            if answer is not LATER:
                step.send(client.id, m.Reply(message.request, answer))
            return
        method = self._methods.get(message.method)
        if method is None:
            step.send(client.id, m.Reply(message.request, None, f"unknown method {message.method!r}", "unknown_method"))
            return
        try:
            value = method(step, client, message.arguments)
        except PermissionError as error:
            step.send(client.id, m.Reply(message.request, None, str(error), "not_allowed"))
            return
        step.send(client.id, m.Reply(message.request, value))

    def _describe_self(self) -> dict[str, Any]:
        machine = self.machine
        free = {name: max(0, amount) for name, amount in machine.resources.free.items()}
        return {
            **self._describe_node(), "resources": dict(machine.resources.total),
            "labels": machine.labels, "available": free, "draining": machine.abroad.draining,
            "drain": machine.draining.described(), "full": machine.pool.limit() if machine.pool.is_full() else "",
        }  # fmt: skip

    def _get_actor(self, step: Step, client: Client, arguments: dict[str, Any], request: int) -> Any:
        name, namespace = _text(arguments, "name"), _text(arguments, "namespace")
        return self.machine.actors.names.find(step, client.id, request, name, namespace)

    def _list_actors(self, step: Step, client: Client, arguments: dict[str, Any], request: int) -> Any:
        namespace = None if arguments.get("namespace") is None else _text(arguments, "namespace")
        return self.machine.actors.names.listed(step, client.id, request, namespace)

    def _checkpoint(self, step: Step, client: Client, arguments: dict[str, Any], request: int) -> Any:
        """An actor that runs elsewhere has something kept here, or reads it. Only its own process may."""
        what, file, gone = arguments.get("what"), arguments.get("file", ""), arguments.get("gone", [])
        data, append = arguments.get("data", b""), arguments.get("append")
        if (
            (file and not m.is_checkpoint_file(file))
            or not isinstance(data, bytes)
            or not isinstance(gone, list | tuple)
        ):
            raise Malformed("checkpoint: not a file of an actor")
        actor = self.machine.actors.by_worker.get(client.id)
        if actor is None or actor.id != arguments.get("actor"):
            step.send(client.id, m.Reply(request, None, "it is not the process of that actor", "not_allowed"))
        elif what == "keep" and file and all(map(m.is_checkpoint_file, gone)):
            step.effects.append(KeepCheckpoint(client.id, request, actor.id, file, data, append is True, tuple(gone)))
        elif what in ("list", "read") and bool(file) == (what == "read"):
            step.effects.append(ReadCheckpoint(client.id, request, actor.id, file))
        else:
            raise Malformed("checkpoint: nothing that can be done")
        return LATER

    def _resources(self, step: Step, client: Client, arguments: dict[str, Any]) -> dict[str, dict[str, int]]:
        total = dict(self.machine.resources.total)
        available = {name: max(0, amount) for name, amount in self.machine.resources.free.items()}
        total[STORE_RESOURCE] = self.machine.objects.capacity
        available[STORE_RESOURCE] = self.machine.objects.capacity - self.machine.objects.allocator.used_bytes
        for mine, theirs in zip((total, available), self.machine.abroad.resources(), strict=True):
            for name, amount in theirs.items():
                mine[name] = mine.get(name, 0) + amount
        return {"total": total, "available": available}

    def _store(self, step: Step, client: Client, arguments: dict[str, Any]) -> dict[str, Any]:
        largest = [
            {"object": entry.id, "bytes": entry.size, "pinned_by": list(entry.pins)}
            for entry in self.machine.objects.largest_pinned()
        ]
        return {**asdict(self.machine.objects.numbers()), "largest_pinned": largest}

    def _locations(self, step: Step, client: Client, arguments: dict[str, Any]) -> dict[bytes, list[bytes]]:
        wanted = arguments.get("objects")
        if not isinstance(wanted, list | tuple) or not all(isinstance(each, bytes) for each in wanted):
            raise Malformed("objects is no list of ids")
        return {each: self.machine.sharing.directory.nodes_of(each) for each in wanted}

    def _shutdown(self, step: Step, client: Client, arguments: dict[str, Any]) -> dict[str, Any]:
        if client.kind is not ProcessKind.TOOL and client.job != 1:
            raise PermissionError("only the driver that started the runtime may end it")
        step.effects.append(Shutdown("it was asked to end"))
        return {}

    # --- answers that come later -----------------------------------------------------------------------------

    def answer_by(self, method: str, answer: Callable[[Client, dict[str, Any], int], Any]) -> None:
        """Have the shell answer requests for ``method``: at once, or later (it returns LATER) with ``answered``."""
        self._asking[method] = lambda step, client, arguments, number: answer(client, arguments, number)

    def answered(self, step: Step, client: bytes, number: int, value: Any) -> None:
        """The answer to a request that had to wait is there."""
        if client in self.machine.clients:
            step.send(client, m.Reply(number, value))

    def checkpoint_done(self, step: Step, asked: KeepCheckpoint | ReadCheckpoint, value: Any, error: str) -> None:
        """The files of a checkpoint were written or read."""
        step.send(asked.client, m.Reply(asked.request, value, error, "disk" if error else ""))

    def name_found(self, step: Step, asked: FindName, actor: bytes, meta: bytes, error: str) -> None:
        """The control store knows who has a name: nobody if ``actor`` is empty. ``error``: it could not be asked."""
        known = self.machine.actors.actors.get(actor)
        living = (
            bool(actor)
            and actor not in self.machine.actors.unborn
            and (known is None or known.state is not ActorState.DEAD)
        )
        value = {"actor": actor, "meta": meta} if living else None
        step.send(asked.client, m.Reply(asked.request, value, error, "unavailable" if error else ""))

    def names_listed(self, step: Step, asked: ListNames, names: list[tuple[str, str]], error: str) -> None:
        """The control store's names in use, as pairs of namespace and name."""
        rows = [{"name": name, "namespace": namespace} for namespace, name in names]
        step.send(asked.client, m.Reply(asked.request, rows, error, "unavailable" if error else ""))


def _text(arguments: dict[str, Any], name: str) -> str:
    value = arguments.get(name, "")
    if not isinstance(value, str):
        raise Malformed(f"{name} is not text")
    return value
