"""Shell: the links to the other nodes of the cluster.

Whatever another node sends, the worst that happens is that the link to it is closed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.core.node.intake import Malformed
from obsray.core.protocol.messages import Forward, Message, decode, encode
from obsray.core.transport.links import Link, Reactor

if TYPE_CHECKING:
    from obsray.core.node.doorman import Doorman
    from obsray.core.node.machine import NodeMachine


class Neighbour:
    """What a link to another node has as its ``state``."""

    __slots__ = ("node",)

    def __init__(self, node: bytes) -> None:
        self.node = node


class Neighbours:
    """``do`` gives the machine a stimulus; ``on_refused(node, reason)`` hears that nobody listens where a node was."""

    def __init__(
        self,
        reactor: Reactor,
        machine: NodeMachine,
        do: Callable[..., Any],
        log: Callable[[str], None],
        on_refused: Callable[[bytes, str], None],
    ) -> None:
        #: The node's port; it must be there before anything can be connected.
        self.doorman: Doorman | None = None
        self.reactor = reactor
        self.abroad = machine.abroad
        self.links: dict[bytes, Link] = {}
        #: Tag -> what handles it in the shell; all other messages are the machine's.
        self._handlers: dict[int, Callable[[bytes, Any], None]] = {}
        self._peers = machine.peers
        self._do = do
        self._log = log
        self._on_refused = on_refused
        self._closed = False

    def handle(self, kind: type, handler: Callable[[bytes, Any], None]) -> None:
        """Have ``handler(node, message)`` called for messages of class ``kind``, which no machine needs to see."""
        self._handlers[kind._field_defaults["tag"]] = handler  # type: ignore[attr-defined]

    # --- sending ---------------------------------------------------------------------------------------------

    def send(self, node: bytes, message: Message) -> None:
        """Dropped if there is no link: the machine hears of broken links and begins anew."""
        link = self.links.get(node)
        if link is not None:
            link.send(message)

    def send_all(self, message: Message) -> None:
        for link in self.links.values():
            link.send(message)

    def send_client(self, client: bytes, message: Message) -> None:
        """To a client of another node."""
        peer = self._peers.home_of(client)
        if peer is not None:
            self.send(peer.id, encode(Forward(client, 0, message)))

    # --- links -----------------------------------------------------------------------------------------------

    def connect(self, node: bytes, address: str) -> None:
        """Dial another node; ``peer_linked`` or ``peer_unlinked`` follows."""
        assert self.doorman is not None, "a node without a door has no neighbours"
        self.doorman.call(node, address, self._not_reached)

    def arrived(self, link: Link) -> None:
        """Another node has connected, or was connected to."""
        if self._closed:
            self.reactor.close(link)
        else:
            self.linked(link.peer.worker, link)

    def _not_reached(self, node: bytes, error: ConnectionError) -> None:
        if self._closed:
            return
        if isinstance(error.__cause__, ConnectionRefusedError) or isinstance(error, ConnectionRefusedError):
            self._on_refused(node, str(error))
        self._do(self.abroad.peer_unlinked, node, str(error))

    def linked(self, node: bytes, link: Link) -> None:
        """A connection to or from another node is there."""
        before = self.links.pop(node, None)
        if before is not None:
            # The other side has noticed first that it broke.
            before.state = None
            self.reactor.close(before)
        link.state = Neighbour(node)
        self.links[node] = link
        if not self._do(self.abroad.peer_linked, node):
            del self.links[node]
            link.state = None
            self.reactor.close(link)

    def disconnect(self, node: bytes) -> None:
        """The machine has no use for that node any more."""
        link = self.links.pop(node, None)
        if link is not None:
            link.state = None
            self.reactor.flush()
            self.reactor.close(link)

    def received(self, link: Link, messages: list[Message]) -> None:
        """What another node sent."""
        node = link.state.node
        try:
            ours = [message for message in messages if message[0] in self._handlers]
            if ours:
                messages = [message for message in messages if message[0] not in self._handlers]
                for message in ours:
                    self._handlers[message[0]](node, decode(message))
            if messages:
                self._do(self.abroad.peer_messages, node, messages)
        except Malformed as error:
            self._log(f"node {node.hex()} is cut off: {error}")
            self.reactor.close(link)
        except Exception:
            self._log(f"node {node.hex()} is cut off after an error here:\n{traceback.format_exc()}")
            self.reactor.close(link)

    def closed(self, link: Link) -> None:
        """The link to another node broke."""
        node = link.state.node
        if self.links.get(node) is link:
            del self.links[node]
            if not self._closed:
                self._do(self.abroad.peer_unlinked, node, "its connection broke")

    def close(self) -> None:
        """This node ends: what breaks from here on is no news."""
        self._closed = True
