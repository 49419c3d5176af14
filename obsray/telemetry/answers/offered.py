"""What each node of a session has to offer: as it sampled it or, of a session too short for samples, was told."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

#: ``session.json`` counts in ten-thousandths what is no number of bytes, as nodes do among themselves.
_UNIT = 10_000
_IN_BYTES = ("memory", "object_store_memory")


def offered(view: Views) -> dict[bytes, dict[str, float]]:
    """Node -> resource -> how much of it there is. A session without a record of its node had one nevertheless."""
    nodes: list[bytes] = list(view.cluster_table.nodes) or [b""]
    sampled = {
        node: {name: known["total"] for name, known in of_node.items()}
        for node, of_node in view.samples.resources_of.items()
    }
    told = {
        name: float(amount) if name in _IN_BYTES else amount / _UNIT
        for name, amount in (view.store.session().get("resources") or {}).items()
    }
    if len(nodes) == 1:
        return {nodes[0]: sampled.get(nodes[0]) or next(iter(sampled.values()), None) or told}
    head = bytes.fromhex(view.store.session().get("node") or "")
    return {node: sampled.get(node) or (told if node == head else {}) for node in nodes}
