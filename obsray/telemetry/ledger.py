"""The loss ledger: is everything that was recorded also here, and is every task accounted for?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from obsray.telemetry.events import ProcessKind
from obsray.telemetry.rings import RingState
from obsray.telemetry.segments import Catalog
from obsray.telemetry.tasks import CANCELLED, FAILED, FINISHED, TaskTable

#: Records of two processes are read at slightly different times; younger than this is not yet unaccounted for.
SETTLE_NS = 2_000_000_000


def ring_ledger(
    states: Iterable[tuple[RingState, bool]], catalog: Catalog, dropping: Callable[[bytes], int]
) -> list[dict[str, Any]]:
    """One row per ring: ``last_sequence`` = ``stored`` + records still in the ring + ``gaps`` + ``dropped``.

    ``dropping`` says of a process how many of its newest records are lost already, while it has no room for them.
    """
    rows = []
    for state, alive in states:
        now_lost = dropping(state.process) if alive and not state.closed else 0
        stored = catalog.rings.get(state.process.hex())
        rows.append(
            {
                "process": state.process.hex(),
                "kind": _kind(state.kind),
                "pid": state.pid,
                "alive": alive,
                "closed": state.closed,
                "first_sequence": 1 if state.position else 0,
                "last_sequence": state.position + now_lost,
                "read": state.records,
                "stored": stored.records if stored is not None else 0,
                "gaps": state.gaps,
                "dropped": state.dropped + now_lost,
                "last_at_ns": state.last_at_ns,
            }
        )
    rows.sort(key=lambda row: (row["kind"], row["process"]))
    return rows


def task_ledger(table: TaskTable, missing_rows: int) -> dict[str, Any]:
    """Submitted = finished + failed + cancelled + pending. ``unaccounted`` are tasks somebody ran or ended that
    nobody was seen to submit; with records folded away (retention) or lost they prove nothing."""
    states = np.bincount(table["state"], minlength=CANCELLED + 1)
    known = table["submitted_at"] > 0
    seen = np.maximum(table["ended_at"], table["finished_at"])
    newest = int(seen.max(initial=0))
    unaccounted = int(np.count_nonzero(~known & (seen > 0) & (seen < newest - SETTLE_NS)))
    finished, failed, cancelled = (int(states[state]) for state in (FINISHED, FAILED, CANCELLED))
    pending = int(states[:FINISHED].sum())
    submitted = int(np.count_nonzero(known))
    settling = len(table) - submitted - unaccounted
    return {
        "submitted": submitted,
        "finished": finished,
        "failed": failed,
        "cancelled": cancelled,
        "pending": pending,
        "unaccounted": unaccounted,
        "balance_ok": submitted + settling == finished + failed + cancelled + pending
        and (unaccounted == 0 or missing_rows > 0),
    }


def totals(rings: list[dict[str, Any]], nodes: list[dict[str, Any]], catalog: Catalog) -> dict[str, int]:
    """Sums over all rings and over nodes that are gone, in records."""
    lost = sum(row["gaps"] + row["dropped"] for row in rings)
    return {
        "events_recorded": sum(row["last_sequence"] for row in rings),
        "events_read": sum(row["read"] for row in rings),
        "events_stored": sum(row["stored"] for row in rings),
        "events_lost": lost,
        "events_lost_with_nodes": sum(row["lost"] for row in nodes),
        "events_lost_estimated": sum(row["lost_estimated"] for row in nodes),
        "events_folded": catalog.folded_rows,
        "bytes_stored": catalog.bytes,
    }


def _kind(number: int) -> str:
    try:
        return ProcessKind(number).name.lower()
    except ValueError:
        return str(number)
