"""A node's side of the control store: what it tells, what it asks, and what it hears of the other nodes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from obsray.core.protocol.lifecycle import ActorState, GroupState
from obsray.core.transport.control_client import Address, ControlClient, ControlError, Fields, OnDone, _Call
from obsray.core.transport.followers import Follower
from obsray.ids import owner_of
from obsray.telemetry import session_file

RESTARTS_MAX = (1 << 31) - 1
DETAIL_CHARACTERS_MAX = 4_096
#: Until the control store has said how often it wants to hear from a node.
HEARTBEAT_SECONDS = 1.0
HEARTBEAT_SECONDS_MAX = 1.0
#: How long somebody waits for a name while the control store is away.
NAME_SECONDS_MAX = 30.0
#: What a node reports is told however long the control store is away.
FOR_EVER = math.inf


class Membership(NamedTuple):
    """A node is in the cluster. Its drivers' jobs get numbers above ``jobs_above``."""

    incarnation: int
    jobs_above: int


class NotAdmitted(NamedTuple):
    """A node is not in the cluster: why, as a sentence. ``another_id``: under another id it may be."""

    code: str
    sentence: str
    another_id: bool = False


class NodeReporter(ControlClient):
    """What a node tells the control store: that it is there, and what happens to its drivers, actors and groups.

    Every method returns at once. Reports tell no failure: the node is right about itself, the control store only
    learns, however long it was away. If it was started anew and remembers nothing, it is told again what lives now.
    ``on_fenced`` is posted once if the control store has declared the node dead: it must end. ``on_nodes`` is posted
    with rows of the table of nodes (``control.proto``'s ``Node``): all of them, then whenever some changed.

    The methods and what ``post`` is given run in one thread, the node's own.
    """

    def __init__(
        self,
        address: Address,
        token: bytes,
        node: bytes,
        post: Callable[[Callable[[], None]], None],
        on_fenced: Callable[[], None] | None = None,
        on_nodes: Callable[[list[Any]], None] | None = None,
    ) -> None:
        super().__init__(address, token, post)
        self._node = node
        self._on_fenced = on_fenced
        self._follower = (
            None if on_nodes is None else Follower(address, token, "TABLE_NODES", "nodes", "node", post, on_nodes)
        )
        self._following = False
        self._description: dict[str, Any] = {}
        #: What lives, as it was last reported: running jobs; actors and groups with their creation and newest change.
        self._jobs: dict[int, dict[str, Any]] = {}
        self._actors: dict[bytes, dict[str, Any]] = {}
        self._changes: dict[bytes, dict[str, Any]] = {}
        self._groups: dict[bytes, dict[str, Any]] = {}
        self._group_changes: dict[bytes, dict[str, Any]] = {}
        self._incarnation = 0
        self._learned: tuple[list[str], int] = ([], 0)
        self._heartbeat_seconds: float | None = None
        self._beat_at = 0.0

    def close(self, timeout_seconds: float = 1.0) -> None:
        if self._follower is not None:
            self._follower.close()
        super().close(timeout_seconds)

    # --- being there ----------------------------------------------------------------------------------------

    def register_node(
        self,
        host: str,
        address: str,
        resources: dict[str, int],
        version: str = "",
        *,
        labels: dict[str, str] | None = None,
        name: str = "",
        session: str = "",
        head: bool = False,
        on_admitted: Callable[[Membership], None] | None = None,
        on_not_admitted: Callable[[NotAdmitted], None] | None = None,
        join_seconds: float = FOR_EVER,
    ) -> None:
        """Join. ``resources`` in fixed point, ``address`` is where the data plane listens, ``name`` if one was given.

        One of the two callbacks is posted once: the second if the cluster does not want this node, or nobody has
        answered within ``join_seconds``.
        """
        self._description = {
            "node": self._node,
            "host": host,
            "pid": os.getpid(),
            "address": address,
            "resources": resources,
            "version": version,
            "labels": labels or {},
            "name": name,
            "session": session,
            "head": head,
        }
        # Heartbeats from here on: should this call fail, the answer to a later one is that the node is unknown.
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        self._beat_at = self._monotonic() + HEARTBEAT_SECONDS

        def done(reply: Any, error: ControlError | None) -> None:
            if error is None and on_admitted is not None:
                on_admitted(Membership(reply.incarnation, reply.jobs_above))
            elif error is not None:
                self._heartbeat_seconds = None
                if on_not_admitted is not None:
                    on_not_admitted(self._why(error))
                elif error.code == "FAILED_PRECONDITION" and self._on_fenced is not None:
                    self._on_fenced()

        self.call("RegisterNode", self._registration, done, join_seconds)

    def _why(self, error: ControlError) -> NotAdmitted:
        where, detail = self._route.address, error.detail.rpartition("last error: ")[2]
        if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN") or detail == "Method not found!":
            return NotAdmitted(error.code, f"no control store of an obsray cluster answers at {where}: {detail}")
        if error.code == "UNAUTHENTICATED":
            return NotAdmitted(
                error.code,
                f"the cluster at {where} does not accept this node's token: start the node with the token of the head",
            )
        return NotAdmitted(error.code, f"the cluster at {where} refuses this node: {detail}", error.code == "ABORTED")

    def leave(self, reason: str) -> None:
        """The node ends in order."""
        self.call("LeaveNode", lambda: {"node": self._node, "incarnation": self._incarnation, "reason": reason})

    def report_unreachable(self, node: bytes, reason: str) -> None:
        """Another node refused a connection: its process is gone. ``reason``: a sentence."""

        def fields() -> dict[str, Any]:
            return {"node": node, "by": self._node, "by_incarnation": self._incarnation, "reason": reason}

        self.call("ReportUnreachable", fields)

    # --- jobs -----------------------------------------------------------------------------------------------

    def start_job(self, job: int, driver: bytes, driver_pid: int, entrypoint: str, namespace: str) -> None:
        """A driver joined, and this node has numbered its job."""
        self._jobs[job] = {
            "job": job,
            "driver": driver,
            "driver_pid": driver_pid,
            "entrypoint": entrypoint,
            "namespace": namespace,
            "node": self._node,
        }
        self._report("StartJob", self._jobs[job])

    def end_job(self, job: int, cause: int) -> None:
        """A driver left; ``cause`` is an events.DeathCause."""
        self._jobs.pop(job, None)
        self._report("EndJob", {"job": job, "cause": cause})

    # --- actors ---------------------------------------------------------------------------------------------

    def actor_created(self, spec: dict[str, Any]) -> None:
        """An actor was asked for; ``spec`` as in messages.CreateActor."""
        described = self._describe_actor(spec)
        self._register_actor(described)

    def reserve_name(self, spec: dict[str, Any], on_done: OnDone) -> None:
        """As ``actor_created``, and the answer says whether the actor has its name: ALREADY_EXISTS if another has.

        UNAVAILABLE or DEADLINE_EXCEEDED: the control store is away, and the actor has no name.
        """
        described = self._describe_actor(spec)
        actor = spec["actor"]

        def done(reply: Any, error: ControlError | None) -> None:
            if error is not None:
                self._actors.pop(actor, None)
                if error.code != "ALREADY_EXISTS":
                    # It may have been heard although nobody answered.
                    self.actor_changed(
                        actor, int(ActorState.DEAD), 0, b"", "", 0, "its creator does not know it has it"
                    )
            on_done(reply, error)

        self.call("RegisterActor", lambda: {"actor": described, **self._sender()}, done, NAME_SECONDS_MAX)

    def find_actor(self, namespace: str, name: str, on_done: OnDone) -> None:
        """The living actor of a name: ``reply.actor`` is a row of the table of actors. NOT_FOUND if there is none."""
        self.call("GetNamedActor", {"namespace": namespace, "name": name}, on_done, NAME_SECONDS_MAX)

    def list_named(self, namespace: str | None, on_done: OnDone) -> None:
        """Living actors with names, of one namespace or (None) of all: ``reply.actors``."""
        fields: dict[str, Any] = {"named_only": True, "living_only": True}
        if namespace is not None:
            fields["namespace"] = namespace
        self.call("ListActors", fields, on_done, NAME_SECONDS_MAX)

    def actor_changed(
        self, actor: bytes, state: int, incarnation: int, worker: bytes, path: str, cause: int, detail: str
    ) -> None:
        """An actor moved; the fields are those of messages.ActorChanged."""
        fields = {
            "actor": actor,
            "state": state,
            "incarnation": incarnation,
            "worker": worker,
            "address": path,
            "cause": cause,
            "detail": detail[:DETAIL_CHARACTERS_MAX],
        }
        if state == ActorState.DEAD:
            self._actors.pop(actor, None)
            self._changes.pop(actor, None)
        else:
            self._changes[actor] = fields
        self._update_actor(fields)

    def _describe_actor(self, spec: dict[str, Any]) -> dict[str, Any]:
        names = ("actor", "class_name", "name", "namespace", "detached", "job", "owner", "restarts_max", "meta")
        described = {name: spec[name] for name in names if spec.get(name) is not None}
        described.setdefault("owner", owner_of(spec["actor"]))
        described["restarts_max"] = max(-1, min(described.get("restarts_max", 0), RESTARTS_MAX))
        self._actors[spec["actor"]] = described
        return described

    def _register_actor(self, described: dict[str, Any]) -> None:
        self._report("RegisterActor", lambda: {"actor": described, **self._sender()})

    def _update_actor(self, fields: dict[str, Any]) -> None:
        self._report("UpdateActor", lambda: fields | self._sender())

    # --- placement groups -----------------------------------------------------------------------------------

    def register_group(self, group: dict[str, Any], on_done: OnDone | None = None) -> None:
        """A group was asked for; ``group`` as in messages.GroupDescribed.

        With ``on_done`` the answer says whether it has its name, as for ``reserve_name``.
        """
        names = ("group", "name", "namespace", "strategy", "detached", "job", "owner")
        described: dict[str, Any] = {name: group[name] for name in names if group.get(name) is not None}
        described.setdefault("owner", owner_of(group["group"]))
        bundles = group.get("bundles") or []
        selectors = group.get("selectors") or [()] * len(bundles)
        described["bundles"] = [
            {"resources": bundle, "selector": _terms(selector)}
            for bundle, selector in zip(bundles, selectors, strict=True)
        ]
        identifier = group["group"]
        self._groups[identifier] = described

        if on_done is None:
            self._register_group(described)
            return
        answer = on_done

        def done(reply: Any, error: ControlError | None) -> None:
            if error is not None:
                self._groups.pop(identifier, None)
                if error.code != "ALREADY_EXISTS":
                    self.update_group(identifier, int(GroupState.REMOVED), [], "its creator does not know it is there")
            answer(reply, error)

        self.call("RegisterGroup", lambda: {"group": described, **self._sender()}, done, NAME_SECONDS_MAX)

    def update_group(self, group: bytes, state: int, nodes: list[bytes], detail: str) -> None:
        """A group moved; the fields are those of messages.GroupDescribed."""
        fields = {"group": group, "state": state, "nodes": nodes, "detail": detail[:DETAIL_CHARACTERS_MAX]}
        if state == GroupState.REMOVED:
            self._groups.pop(group, None)
            self._group_changes.pop(group, None)
        else:
            self._group_changes[group] = fields
        self._update_group(fields)

    def find_group(self, namespace: str, name: str, on_done: OnDone, group: bytes = b"") -> None:
        """A group by its name, or by its id: ``reply.group`` is a row of the table of groups. NOT_FOUND if none is."""
        self.call("FindGroup", {"namespace": namespace, "name": name, "group": group}, on_done, NAME_SECONDS_MAX)

    def _register_group(self, described: dict[str, Any]) -> None:
        self._report("RegisterGroup", lambda: {"group": described, **self._sender()})

    def _update_group(self, fields: dict[str, Any]) -> None:
        self._report("UpdateGroup", lambda: fields | self._sender())

    # --- reporting ------------------------------------------------------------------------------------------

    def _report(self, method: str, fields: Fields) -> None:
        self.call(method, fields, None, FOR_EVER)

    def _report_again(self) -> None:
        def done(reply: Any, error: ControlError | None) -> None:
            if error is not None and error.code == "FAILED_PRECONDITION":
                self._fenced()

        self.call("RegisterNode", self._registration, done, FOR_EVER)
        for job in self._jobs.values():
            self._report("StartJob", job)
        for actor, described in self._actors.items():
            self._register_actor(described)
            change = self._changes.get(actor)
            if change is not None:
                # Every later state can be reached from here.
                self._update_actor(change | {"state": int(ActorState.PENDING_CREATION), "address": ""})
                self._update_actor(change)
        for group, described in self._groups.items():
            self._register_group(described)
            if group in self._group_changes:
                self._update_group(self._group_changes[group])

    def _sender(self) -> dict[str, Any]:
        return {"node": self._node, "node_incarnation": self._incarnation}

    def _fenced(self) -> None:
        if self._heartbeat_seconds is not None:
            self._heartbeat_seconds = None
            if self._on_fenced is not None:
                self._on_fenced()

    # --- everything below runs in the client's thread -----------------------------------------------------------

    def _registration(self) -> dict[str, Any]:
        return {"node": self._description}

    def _attempt(self, call: _Call, seconds_max: float = HEARTBEAT_SECONDS_MAX * 5) -> Any:
        try:
            reply = super()._attempt(call, seconds_max)
        except ControlError as error:
            if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED") and self._follower is not None:
                self._follower.disturb()
            raise
        if call.method == "RegisterNode":
            self._incarnation = reply.incarnation
            self._heartbeat_seconds = reply.heartbeat_seconds
            self._beat_at = self._monotonic() + reply.heartbeat_seconds
            self._learn(reply)
            if self._follower is not None and not self._following:
                self._following = True
                self._follower.start()
        elif call.method == "LeaveNode":
            self._heartbeat_seconds = None
        elif call.method != "Heartbeat" and self._heartbeat_seconds is not None and self._monotonic() >= self._beat_at:
            # A queue that never runs empty must not keep the heartbeats back.
            self._on_idle()
        return reply

    def _learn(self, reply: Any) -> None:
        found, epoch = list(reply.control_addresses), reply.control_epoch
        if found and (found, epoch) != self._learned:
            self._learned = found, epoch
            self._tell_session(found, epoch)
            self._route.learn(found)
            if self._follower is not None:
                self._follower.learn(found)

    def _tell_session(self, addresses: list[str], epoch: int) -> None:
        """So that programs and people on this node find the control store wherever it is."""
        session = self._description.get("session")
        try:
            if session:
                facts = {"control_addresses": addresses, "control_address_tcp": addresses[0], "control_epoch": epoch}
                session_file.update(Path(session), **facts)
        except OSError:
            # The node is about to end.
            pass

    def _idle_seconds(self) -> float | None:
        if self._heartbeat_seconds is None:
            return None
        return max(0.001, self._beat_at - self._monotonic())

    def _on_idle(self) -> None:
        if self._heartbeat_seconds is None or self._monotonic() < self._beat_at:
            return
        self._beat_at = self._monotonic() + self._heartbeat_seconds
        fields = {"node": self._node, "incarnation": self._incarnation}
        try:
            # Without a retry: the next beat says the same.
            reply = self._attempt(_Call("Heartbeat", fields, None, b"", 0.0), HEARTBEAT_SECONDS_MAX)
        except ControlError:
            return
        self._learn(reply)
        if reply.standing == 1:
            # The answer to the registration puts it back to what the control store wants; until then, no more of these.
            self._beat_at += HEARTBEAT_SECONDS
            self._post(self._report_again)
        elif reply.standing == 2:
            self._post(self._fenced)
            # Until the node has ended, nothing that it says counts.
            self._beat_at += HEARTBEAT_SECONDS


def _terms(selector: Any) -> list[dict[str, Any]]:
    return [{"label": label, "operator": operator, "values": list(values)} for label, operator, values in selector]
