"""Asking the control store for names on behalf of the node's machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray.core.node.machine import NodeMachine
from obsray.core.node.step import FindName, ListNames, ReserveName
from obsray.core.transport.control_client import ControlError
from obsray.core.transport.node_reporter import NodeReporter


class Naming:
    """``do`` gives the machine a stimulus and carries out what it wants."""

    def __init__(self, machine: NodeMachine, reporter: NodeReporter, do: Callable[..., Any]) -> None:
        self.machine = machine
        self.reporter = reporter
        self.do = do

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
        text, kind = "", ""
        if error is not None and error.code == "ALREADY_EXISTS":
            text, kind = error.detail, "name_taken"
        elif error is not None:
            text, kind = f"no name can be given: {_why(error)}", "unavailable"
        self.do(self.machine.name_answered, actor, text, kind)

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


def _why(error: ControlError) -> str:
    if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return f"the control store of the cluster did not answer in time ({error.detail})"
    return f"the control store of the cluster refuses ({error.code}: {error.detail})"
