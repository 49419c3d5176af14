"""What if: a job replayed with more workers, a faster function, network or driver, or without stragglers.

Every answer begins with how well the unchanged replay meets what really happened: that is how far it can be trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.telemetry.answers.graph import Graph, job_to_look_at
from obsray.telemetry.answers.processor_time import ProcessorTime, floor, handing_out
from obsray.telemetry.answers.replay import Change, Replay
from obsray.telemetry.answers.replay_model import Model
from obsray.telemetry.explain import size
from obsray.telemetry.store import joined

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

Row = dict[str, Any]

#: Functions that the ranking tries, those with most seconds first.
FUNCTIONS_TRIED = 5
#: What keeps a replay from being faster, in words.
BOUNDS = {
    "": "",
    "driver": "the driver computes for that long by itself",
    "cpus": "that is how long all CPUs of its node compute",
}
#: Above this error of the unchanged replay the others say little.
ERROR_TRUSTED = 0.05


def what_if(
    view: Views, job: int | None = None, changes: list[Change] | None = None, refresh: bool = True, rough: bool = False
) -> Row:
    """How long a job would have taken. Raises LookupError for a job without tasks, ValueError for an unknown function.

    Without ``changes`` the usual ones are tried and ranked. ``actual_seconds``, ``replayed_seconds`` and
    ``error_ratio`` come from the unchanged replay; ``scenarios``: ``change``, ``seconds``, ``speedup`` (against the
    unchanged replay), ``bound`` (what keeps it from being faster, in words, or nothing), best first.
    ``limits``: what happened in the run that replays with other numbers of workers know nothing of; measured, they were
    up to half off then. What cannot be told well is not: ``refused`` are the changes without a number (``change``,
    ``why``): all of them if the unchanged replay is more than ``ERROR_TRUSTED`` off, those of workers if there are
    ``limits`` or if handing out tasks took longer than they did. With ``rough`` they get one all the same.
    """
    if refresh:
        view.refresh()
    number = job_to_look_at(view, job)
    model, base = _model(view, number)
    graph = model.graph
    actual = model.actual_seconds
    least = ProcessorTime(graph)
    error = abs(base - actual) / actual if actual else 0.0
    scenarios: list[Row] = []
    refused: list[Row] = []
    unknown = limits(view, graph)
    for change in changes if changes is not None else usual(graph):
        why = f"the unchanged replay is {error:.1%} off" if error > ERROR_TRUSTED else ""
        if not why and change.workers != 1 and unknown:
            why = unknown[0]
        if not why and (change.workers != 1 or change.driver != 1):
            why = handing_out(graph, least, change)
        if why and not rough:
            model.changed(change)  # what there is not is said all the same
            refused.append({"change": change.described(), "why": why})
            continue
        replayed, (shortest, bound) = Replay(model, change).run(), floor(model, least, change)
        seconds = max(replayed, shortest)
        scenarios.append(
            {
                "change": change.described(), "seconds": seconds, "speedup": base / seconds if seconds else 1.0,
                "saved_seconds": base - seconds, "bound": BOUNDS[bound] if shortest > replayed else "",
            }
        )  # fmt: skip
    scenarios.sort(key=lambda row: row["seconds"])
    return {
        "job_id": f"{number:08x}", "tasks": graph.count, "actual_seconds": actual, "replayed_seconds": base,
        "error_ratio": error, "trusted": error <= ERROR_TRUSTED, "scenarios": scenarios,
        "sentence": _sentence(actual, base, error, scenarios, refused), "limits": unknown, "refused": refused,
    }  # fmt: skip


def _model(view: Views, job: int) -> tuple[Model, float]:
    """A job as replays see it, and how long its unchanged replay takes; kept with the view, for who moves a slider asks
    about the same records again."""
    records = (job, view.samples.events_total)
    known: tuple[tuple[int, int], Model, float] | None = view.replayed
    if known is None or known[0] != records:
        graph = Graph(view, job)
        if not graph.count:
            raise LookupError(f"no task of job {job:08x} has ended yet")
        model = Model(graph)
        known = view.replayed = records, model, Replay(model, Change()).run()
    return known[1], known[2]


def usual(graph: Graph) -> list[Change]:
    """The changes that are worth trying: workers, the heaviest functions, driver, network, stragglers."""
    seconds = np.bincount(graph.name, graph.seconds("run_seconds"))
    heaviest = [code for code in np.argsort(seconds)[::-1][:FUNCTIONS_TRIED].tolist() if seconds[code] > 0]
    found = [Change(workers=2.0), Change(workers=float("inf")), Change(no_stragglers=True), Change(driver=2.0)]
    if graph.seconds("fetch_seconds").sum() > 0.01 * seconds.sum():
        found.append(Change(network=2.0))
    return found + [Change(functions={graph.view.store.texts[code]: 2.0}) for code in heaviest]


def limits(view: Views, graph: Graph) -> list[str]:
    """What makes predictions for other numbers of workers a rough guide, as sentences."""
    found = []
    spilled = joined(view.store.select("object_spilled"), "object_spilled")["object_bytes"]
    if len(spilled):
        found.append(
            f"{size(int(spilled.sum()))} went to disk: more workers would share the same store and disk, and spill more"
        )
    moved = joined(view.store.select("transfer_done"), "transfer_done")["object_bytes"]
    if len(moved):
        found.append(
            f"{size(int(moved.sum()))} went from node to node: with other numbers of workers tasks would run on other "
            "ones, and other objects would be moved"
        )
    waits = graph.wait_context[graph.wait_context < graph.count]
    if len(waits):
        count = len(np.unique(waits))
        found.append(
            f"{count} task{'s' * (count > 1)} waited for others: each that waits holds a process, and what more of "
            "them cost beside each other is not known"
        )
    return found


def _sentence(actual: float, base: float, error: float, scenarios: list[Row], refused: list[Row]) -> str:
    text = f"the job took {actual:.3g} s; its unchanged replay takes {base:.3g} s ({error:.1%} off)"
    if refused and not scenarios:
        text += f"; nothing is foretold: {refused[0]['why']}"
    elif error > ERROR_TRUSTED:
        text += "; what follows is a rough guide only"
    if scenarios:
        best = scenarios[0]
        text += f"; with {best['change']} it would take {best['seconds']:.3g} s ({best['speedup']:.2f} x as fast)"
    return text
