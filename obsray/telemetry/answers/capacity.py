"""When what a task asks for became free on its node, and who freed it: a task that ended, or one that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray import ids
from obsray.telemetry.answers.offered import offered
from obsray.telemetry.queue_time import amounts

if TYPE_CHECKING:
    from obsray.telemetry.answers.graph import Graph
    from obsray.telemetry.columns import Array

#: Amounts that differ by less are the same.
_NEAR = 1e-6


def nodes_of(graph: Graph, nodes: list[bytes]) -> Array:
    """For each task the number of its node in ``nodes``; 0 if that is not known."""
    numbers = {ids.mark_of_node(node): at for at, node in enumerate(nodes) if node}
    of_worker = [numbers.get(ids.mark_of(worker), 0) for worker in graph.view.task_table.workers.ids]
    found: Array = np.array(of_worker or [0])[np.maximum(graph.worker, 0)]
    return found


def freed(graph: Graph, instants: Array) -> tuple[Array, Array]:
    """For each task who last freed so much, before an instant, that it fitted on its node, and when; -1 and 0 if there
    was enough all the time."""
    by, at = np.full(graph.count, -1, np.int64), np.zeros(graph.count, np.int64)
    there = offered(graph.view)
    of_node = nodes_of(graph, list(there))
    codes, shape = np.unique(graph.view.task_table["shape"][graph.row], return_inverse=True)
    needs = [amounts(graph.view.store.texts[code]) for code in codes.tolist()]
    for node, totals in enumerate(there.values()):
        here = np.flatnonzero((of_node == node) & ~graph.is_call)
        for resource in {name for need in needs for name in need} & totals.keys():
            need = np.array([need.get(resource, 0.0) for need in needs])[shape[here]]
            mine, need = here[need > 0], need[need > 0]
            if len(mine):
                _of_resource(graph, mine, need, totals[resource], resource == "CPU", instants, by, at)
    return by, at


def _of_resource(
    graph: Graph, mine: Array, need: Array, total: float, lent: bool, instants: Array, by: Array, at: Array
) -> None:
    starts, ends, who, amount = graph.start[mine], graph.end[mine], mine, need
    if lent and len(graph.wait_context):
        # While a task waits its CPU is free: as if it ended there and began again.
        place = np.full(graph.count + len(graph.drivers) + 1, -1, np.int64)
        place[mine] = np.arange(len(mine))
        waits = np.flatnonzero(place[graph.wait_context] >= 0)
        blocked = place[graph.wait_context[waits]]
        starts = np.concatenate([starts, graph.wait_end[waits]])
        ends = np.concatenate([ends, graph.wait_start[waits]])
        who, amount = np.concatenate([mine, mine[blocked]]), np.concatenate([need, need[blocked]])
    times = np.concatenate([ends, starts])
    change = np.concatenate([-amount, amount])
    # Ends come before starts of the same instant.
    order = np.argsort(times, kind="stable")
    times, used = times[order], np.cumsum(change[order])
    who = np.concatenate([who, who])[order]
    for each in np.unique(need).tolist():
        full = used > total - each + _NEAR
        opened = np.flatnonzero(full[:-1] & ~full[1:]) + 1
        asking = mine[need == each]
        if not len(opened):
            continue
        found = np.searchsorted(times[opened], np.minimum(instants, graph.start)[asking], side="right") - 1
        good = found >= 0
        asking, event = asking[good], opened[found[good]]
        later = (times[event] > at[asking]) & (who[event] != asking)
        at[asking[later]], by[asking[later]] = times[event[later]], who[event[later]]
