"""What if: a job replayed with more workers, a faster function, network or driver, or without stragglers.

Every answer begins with how well the unchanged replay meets what really happened: that is how far it can be trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.telemetry.answers.graph import Graph, job_to_look_at
from obsray.telemetry.answers.processor_time import BUSY, ProcessorTime, crowded, floor, handing_out
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
#: Where tasks waited for others predictions were compared with real runs for so few and so many times the workers.
NESTED_FACTORS = 0.25, 4.0
#: There they were up to a quarter off if what new processes compute at their beginning fills more of the time,
BEGINNINGS_MAX = 0.3
#: and up to a fifth if more CPUs than there are were in use for more of it.
CROWDED_MAX = 0.5


def what_if(
    view: Views, job: int | None = None, changes: list[Change] | None = None, refresh: bool = True, rough: bool = False
) -> Row:
    """How long a job would have taken. Raises LookupError for a job without tasks, ValueError for an unknown function.

    Without ``changes`` the usual ones are tried and ranked. ``actual_seconds``, ``replayed_seconds`` and
    ``error_ratio`` come from the unchanged replay; ``scenarios``: ``change``, ``seconds``, ``speedup`` (against the
    unchanged replay), ``bound`` (what keeps it from being faster, in words, or nothing), best first.
    ``limits``: what happened in the run that replays with other numbers of workers know nothing of; measured, they were
    up to half off then. What cannot be told well is not: ``refused`` are the changes without a number (``change``,
    ``why``, ``rough``: whether a guess can be had): all of them if the unchanged replay is more than ``ERROR_TRUSTED``
    off, those of workers if there are ``limits``, if handing out tasks took longer than they did, or if tasks waited
    for others and real runs differ from one another or were not compared. With ``rough`` they get one all the same,
    unless the job would never end.
    """
    if refresh:
        view.refresh()
    number = job_to_look_at(view, job)
    model, base, left = _model(view, number)
    graph = model.graph
    actual = model.actual_seconds
    least = ProcessorTime(graph)
    error = abs(base - actual) / actual if actual else 0.0
    scenarios: list[Row] = []
    refused: list[Row] = []
    unknown = limits(view, graph)
    for change in changes if changes is not None else usual(graph):
        why = f"the unchanged replay is {error:.1%} off" if error > ERROR_TRUSTED else ""
        if not why and change.workers != 1:
            why = unknown[0] if unknown else _beyond(graph, change)
        if not why and (change.workers != 1 or change.driver != 1):
            why = handing_out(model, least, change)
        if why and not rough:
            model.changed(change)  # what there is not is said all the same
            refused.append({"change": change.described(), "why": why, "rough": True})
            continue
        replay = Replay(model, change)
        replayed, (shortest, bound) = replay.run(), floor(model, least, change)
        seconds = max(replayed, shortest)
        why = _never(model, change, replay.unfinished - left)
        if why:
            refused.append({"change": change.described(), "why": why, "rough": False})
            continue
        why = "" if rough else _unsure(graph, change, replay, seconds) or _driven(replay, seconds)
        if why:
            refused.append({"change": change.described(), "why": why, "rough": True})
            continue
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


def _model(view: Views, job: int) -> tuple[Model, float, int]:
    """A job as replays see it, how long its unchanged replay takes, and how many tasks never end there; kept with the
    view, for who moves a slider asks about the same records again."""
    records = (job, view.samples.events_total)
    known: tuple[tuple[int, int], Model, float, int] | None = view.replayed
    if known is None or known[0] != records:
        graph = Graph(view, job)
        if not graph.count:
            raise LookupError(f"no task of job {job:08x} has ended yet")
        model = Model(graph)
        replay = Replay(model, Change())
        known = view.replayed = records, model, replay.run(), replay.unfinished
    return known[1:]


def _nested(graph: Graph) -> int:
    """How many tasks waited for others."""
    return len(np.unique(graph.wait_context[graph.wait_context < graph.count]))


def _beyond(graph: Graph, change: Change) -> str:
    """Why nothing is told of so many workers, or so few, where tasks waited for others; else ""."""
    count, (few, many) = _nested(graph), NESTED_FACTORS
    if not count or few <= change.workers <= many:
        return ""
    return (
        f"{count} task{'s' * (count > 1)} waited for others: that was compared with real runs for {few:g} to {many:g} "
        "times the workers, and not beyond"
    )


def _unsure(graph: Graph, change: Change, replay: Replay, seconds: float) -> str:
    """Why a replay with other workers is not to be relied on where tasks waited for others; else ""."""
    if change.workers == 1 or not _nested(graph) or not seconds:
        return ""
    beginnings = replay.leases.beginnings / replay.model.processors / seconds
    if beginnings > BEGINNINGS_MAX:
        return (
            f"tasks that wait hold a process each, and what new ones compute until they are of use would fill "
            f"{beginnings:.0%} of the time: that differs from run to run; a longer run tells more"
        )
    crowded = replay.leases.crowded_seconds / seconds
    if crowded > CROWDED_MAX:
        return (
            f"for {crowded:.0%} of the time tasks that had waited and go on would share CPUs with those that got "
            "theirs meanwhile: how many do differs from run to run"
        )
    return ""


def _driven(replay: Replay, seconds: float) -> str:
    """Why a replay with other workers is not to be relied on where tasks are short; else ""."""
    change, actual = replay.change, replay.model.actual_seconds
    if change.workers == 1 or not seconds or not actual:
        return ""
    most = max((line.seconds for line in replay.lines_of.values()), default=0.0)
    if most / seconds > BUSY > 1.5 * most / actual:
        return (
            f"the driver would compute for {most / seconds:.0%} of the time, and did for {most / actual:.0%}: how much "
            "a task takes it when it has more of them at a time was not recorded"
        )
    return crowded(replay, seconds)


def _never(model: Model, change: Change, unfinished: int) -> str:
    """Why a job would not end with a change; "" if it would."""
    if change.workers < 1:
        for name, of_nodes in _by_name(model.by_actors).items():
            there = _by_name(model.capacity).get(name, 0.0)
            if of_nodes > there * change.workers + 1e-9 and of_nodes <= there + 1e-9:
                return f"actors alone hold {of_nodes:g} {name}, and there would be {there * change.workers:g}"
    if unfinished <= 0:
        return ""
    cpus = model.cpus() * change.workers
    return (
        f"the job would not end: {unfinished} of its tasks would never run to their end with {cpus:g} CPUs, because "
        "they, or those they wait for, ask for more"
    )


def _by_name(amounts: list[dict[str, float]]) -> dict[str, float]:
    """Resources of nodes, added up."""
    found: dict[str, float] = {}
    for of_node in amounts:
        for name, amount in of_node.items():
            found[name] = found.get(name, 0.0) + amount
    return found


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
