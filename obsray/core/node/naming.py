"""Asking the control store for names of actors and groups on behalf of the node's machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray.core.node.machine import NodeMachine
from obsray.core.node.step import FindName, ListNames, RegisterGroup, ReserveName
from obsray.core.transport.control_client import ControlError
from obsray.core.transport.node_reporter import NodeReporter


class Naming:
    """``do`` gives the machine a stimulus and carries out what it wants."""

    def __init__(self, machine: NodeMachine, reporter: NodeReporter, do: Callable[..., Any]) -> None:
        self.machine = machine
        self.reporter = reporter
        self.do = do

    def register_group(self, effect: RegisterGroup) -> None:
        """Let the control store know of a group, and the machine whether it has its name."""
        if not effect.named:
            self.reporter.register_group(effect.spec)
            return
        group = effect.spec["group"]

        def done(reply: Any, error: ControlError | None) -> None:
            self.do(self.machine.group_messages.named, group, *_refusal(error))

        self.reporter.register_group(effect.spec, done)

    def ask(self, effect: ReserveName | FindName | ListNames) -> None:
        """Carry out what the machine wants to know of names; it hears the answer later."""
        match effect:
            case ReserveName(spec):
                actor = spec["actor"]
                self.reporter.reserve_name(spec, lambda reply, error: self._reserved(actor, error))
            case FindName(_, _, namespace, name):
                self.reporter.find_actor(namespace, name, lambda reply, error: self._found(effect, reply, error))
            case ListNames(_, _, namespace):
                self.reporter.list_named(namespace, lambda reply, error: self._listed(effect, reply, error))

    def _reserved(self, actor: bytes, error: ControlError | None) -> None:
        self.do(self.machine.name_answered, actor, *_refusal(error))

    def _found(self, asked: FindName, reply: Any, error: ControlError | None) -> None:
        if error is None:
            described = reply.actor.description
            self.do(self.machine.requests.name_found, asked, described.actor, described.meta, "")
        else:
            why = "" if error.code == "NOT_FOUND" else f"nobody can be found by name: {_why(error)}"
            self.do(self.machine.requests.name_found, asked, b"", b"", why)

    def _listed(self, asked: ListNames, reply: Any, error: ControlError | None) -> None:
        rows = [] if error is not None else [row.description for row in reply.actors]
        why = "" if error is None else f"names cannot be listed: {_why(error)}"
        self.do(self.machine.requests.names_listed, asked, [(row.namespace, row.name) for row in rows], why)


def _refusal(error: ControlError | None) -> tuple[str, str]:
    """Why a name is not given, in words and as the kind of a ``Reply``; empty if it is."""
    if error is None:
        return "", ""
    if error.code == "ALREADY_EXISTS":
        return error.detail, "name_taken"
    return f"no name can be given: {_why(error)}", "unavailable"


def _why(error: ControlError) -> str:
    if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return f"the control store of the cluster did not answer in time ({error.detail})"
    return f"the control store of the cluster refuses ({error.code}: {error.detail})"
