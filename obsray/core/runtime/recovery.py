"""What becomes of values that cannot be read: who is asked, and who is told.

A node's word counts for the values of its own clients. What another process says of a value of ours is checked with our
own node first: its node may know less, or more, than ours does. All news of losses come on the one link to our node,
so they are never mixed up with what was made again since. Called with the session's lock held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.leases import Lease
from obsray.core.runtime.ownership import NODE, READY, Entry
from obsray.core.transport.links import Link
from obsray.ids import WORKER_ID_BYTES, mark_of, mark_of_node, owner_of
from obsray.telemetry.events import DeathCause

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session


class Recovery:
    """Lost values and lost nodes, as one process sees them."""

    def __init__(
        self, session: Session, time_ns: Callable[[], int], worker_died: Callable[[m.WorkerDied], None]
    ) -> None:
        self.session = session
        self.time_ns = time_ns
        self._worker_died = worker_died
        #: Values of ours whose node was asked whether they are there, with their sizes.
        self._doubted: dict[bytes, int] = {}
        #: Marks of the nodes whose end this process was told of, and why they ended.
        self.gone: dict[bytes, str] = {}

    # --- values -----------------------------------------------------------------------------------------------------

    def objects_lost(self, message: m.ObjectLost) -> None:
        """Our node says that no copy of these is left."""
        entries, lineage = self.session.ownership.entries, self.session.dispatcher.lineage
        for identifier in message.objects:
            entry = entries.get(identifier)
            if entry is None:
                # Somebody asked for it although it was freed; the node need not remember that it is nowhere.
                self.session.ownership.discard([identifier])
            # One that is in doubt is answered for in a moment.
            elif entry.owned and entry.state == READY and type(entry.value) is int:
                lineage.lost(entry, message.detail)

    def unreadable(self, entry: Entry, detail: str) -> None:
        """A stored value could not be read on this node: it is PENDING until that is cleared up."""
        if entry.state != READY or type(entry.value) is not int:
            return
        if entry.owned:
            self._doubt(entry)
        else:
            self.session.dispatcher.lineage.lost(entry, detail)

    def _doubt(self, entry: Entry) -> None:
        assert type(entry.value) is int
        self._doubted[entry.id] = entry.value
        self.session.ownership.withdraw(entry)
        self.session.dispatcher.lineage.losses = True
        identifier = entry.id
        answer = self.session.ask(lambda number: m.PinObject(number, identifier))
        answer.then = lambda message: self._cleared(entry, message)

    def _cleared(self, entry: Entry, answer: m.ObjectPinned | m.ObjectRefused) -> None:
        size = self._doubted.pop(entry.id)
        if isinstance(answer, m.ObjectRefused):
            self.session.dispatcher.lineage.lost(entry, answer.detail)
            self.session.ownership.look_at(entry)
        else:
            self.session.ownership.outbox.append((NODE, m.encode(m.UnpinObjects([entry.id]))))
            self.session.ownership.fulfil(entry, size)

    def on_missing(self, link: Link, message: m.Message) -> None:
        """A holder cannot read a value of ours."""
        _, identifier, detail = message
        entry = self.session.ownership.entries.get(identifier)
        if entry is not None:
            self.unreadable(entry, detail)
        self.session.ownership.asked_for(identifier, link.peer.worker)

    def on_argument_lost(self, link: Link, message: m.Message) -> None:
        """A worker cannot read an argument of a task of ours."""
        _, identifier, attempt, argument, detail = message
        dispatcher = self.session.dispatcher
        task = self.session.ownership.tasks.get(identifier)
        if (
            task is None
            or task.attempt != attempt
            or task.state is not TaskState.DISPATCHED
            or type(task.dispatched_to) is not Lease
        ):
            return
        for _, entry in task.arguments or ():
            if entry.id == argument:
                self.unreadable(entry, detail)
        dispatcher.argument_lost(link.peer.worker, task, argument, detail, self.time_ns())

    # --- nodes ------------------------------------------------------------------------------------------------------

    def node_changed(self, message: m.NodeChanged) -> None:
        """Another node is there, or is gone with all its processes."""
        mark = mark_of_node(message.node)
        session = self.session
        if message.alive:
            session.node_addresses[mark] = message.address
            session.node_ids[mark] = message.node
            self.gone.pop(mark, None)
            return
        self.gone[mark] = message.detail
        session.node_addresses.pop(mark, None)
        session.node_ids.pop(mark, None)
        for worker in self._of_node(mark):
            death = m.WorkerDied(worker, 0, int(DeathCause.NODE_DIED), 0, 0, [], message.detail, "")
            self._worker_died(death)
        # Nor does anybody there get anything from here any more: what an attempt of theirs does from now on, failing
        # because its owner is gone, say, is no result.
        for link in list(session.reactor.links.values()):
            if link.peer.remote and len(link.peer.worker) == WORKER_ID_BYTES and mark_of(link.peer.worker) == mark:
                session.reactor.close(link)

    def _of_node(self, mark: bytes) -> list[bytes]:
        """Processes of a node that this one has to do with."""
        session = self.session
        found = {owner_of(entry.id) for entry in session.ownership.entries.values() if not entry.owned}
        found.update(session.dispatcher.by_worker, session.dispatcher.paths, session.peers)
        found.update(holder[:WORKER_ID_BYTES] for holder in session.ownership.held_by)
        found.update(client.worker for client in session.calls.clients.values())
        return sorted(worker for worker in found if len(worker) == WORKER_ID_BYTES and mark_of(worker) == mark)
