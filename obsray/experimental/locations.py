"""Where objects lie: on which nodes, how large, spilled or not."""

from __future__ import annotations

from typing import Any

from obsray.core.api import session
from obsray.core.runtime.references import ObjectRef
from obsray.telemetry.objects import SPILLED, STATES
from obsray.util.state import ask


def get_object_locations(obj_refs: list[Any], timeout_ms: int = -1) -> dict[Any, dict[str, Any]]:
    """For each reference ``node_ids`` (hex, of all nodes that have it; empty while there is no value), ``object_size``
    (bytes), ``did_spill``.

    An object that travels inside messages (up to ``inline_bytes_max``) is said to lie on its owner's node. Raises
    TypeError for anything but a list of references. ``timeout_ms`` is there for compatibility: nobody else is asked.
    """
    if not isinstance(obj_refs, list) or any(type(ref) is not ObjectRef for ref in obj_refs):
        raise TypeError("get_object_locations takes a list of references")
    here = session()
    located = here.request("locations", objects=[bytes(ref) for ref in obj_refs])
    return ask(None, lambda views: {ref: _where(views, ref, here.node_id, located) for ref in obj_refs})


def get_local_object_locations(obj_refs: list[Any]) -> dict[Any, dict[str, Any]]:
    """As ``get_object_locations``."""
    return get_object_locations(obj_refs)


def _where(views: Any, ref: Any, here: bytes, located: dict[bytes, list[bytes]]) -> dict[str, Any]:
    found = session()
    with found.lock:
        entry = found.ownership.entries.get(bytes(ref))
        value = entry.value if entry is not None else None
    table = views.object_table
    row = table.index.row(bytes(ref))
    state = STATES[int(table.states()[row])] if row >= 0 else ""
    size = len(value) if isinstance(value, bytes) else value or (int(table["bytes"][row]) if row >= 0 else 0)
    exists = value is not None or state in ("SEALED", "SPILLED", "IN_OWNER")
    nodes = located.get(bytes(ref)) or []
    if not nodes and exists and state not in ("FREED", "LOST"):
        # At home elsewhere, or nothing that lies in a store.
        nodes = table.nodes_of(row, STATES.index(state)) if row >= 0 else []
        nodes = nodes or [here]
    return {
        "node_ids": [node.hex() for node in nodes],
        "object_size": size,
        "did_spill": state == STATES[SPILLED],
    }


__all__ = ["get_local_object_locations", "get_object_locations"]
