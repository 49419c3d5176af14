"""What the control store says of a node, in the words of the node's machine."""

from __future__ import annotations

from typing import Any

from obsray.core.node.peers import NodeFacts
from obsray.core.protocol.lifecycle import NodeState


def learned(row: Any) -> tuple[NodeFacts, NodeState, str, int]:
    """The arguments of ``NodeMachine.node_learned``: facts, state, reason, and when it registered (``control.proto``'s
    ``Node``, as ``NodeReporter`` posts it)."""
    said = row.description
    facts = NodeFacts(
        node=said.node,
        address=said.address,
        host=said.host,
        name=said.name,
        pid=said.pid,
        resources=dict(said.resources),
        labels=dict(said.labels),
        session=said.session,
        head=said.head,
        version=said.version,
    )
    return facts, NodeState(row.state), row.reason, row.registered_at_ns
