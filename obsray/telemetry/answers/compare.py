"""Two sessions of the same program, function by function: what became slower, larger, or fails now.

A function is slower if its median is, by more than a threshold, and if chance alone would hardly make it so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.causes import gist
from obsray.telemetry.answers.differences import SURE, cliffs_delta
from obsray.telemetry.explain import duration
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import FAILED, FINISHED

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

#: A median so much longer is a regression.
THRESHOLD = 0.1
#: Medians closer than this are equal, whatever their ratio: scheduling of the machine makes as much.
SECONDS_MIN = 0.0005
_MEASURES = ("run", "queue", "fetch", "store", "cpu")
_CLASS = re.compile(r"^([\w.]+(?:Error|Exception|Interrupt|Exit|Warning)|[\w.]+)(?::|\(|$)")


def compare(before: Views, after: Views, threshold: float = THRESHOLD) -> Row:
    """What is different in ``after``. ``functions``: for each the counts, percentiles and ``verdict`` ("slower",
    "faster", "same", "fails more", "new", "gone"), the worst first; ``errors``: kinds of errors that are new;
    ``regressions``: how many functions got worse; ``regressed``; ``sentence``. Raises ValueError for a threshold that
    is not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"a threshold is above 0, not {threshold:.0%}")
    for view in (before, after):
        view.refresh()
    first, second = _Session(before), _Session(after)
    functions = [_function(name, first, second, threshold) for name in sorted({*first.rows, *second.rows})]
    order = {"fails more": 0, "slower": 1, "new": 2, "gone": 3, "faster": 4, "same": 5}
    functions.sort(key=lambda row: (order[row["verdict"]], -(row["ratio"] or 0.0)))
    worse = [row for row in functions if row["verdict"] in ("slower", "fails more")]
    errors = sorted(set(second.errors) - set(first.errors))
    found: Row = {
        "before": str(before.store.session_dir), "after": str(after.store.session_dir), "threshold": threshold,
        "wall_seconds": {"before": first.wall, "after": second.wall},
        "tasks": {"before": first.count, "after": second.count},
        "functions": functions, "errors": [{"error": name, "tasks": second.errors[name]} for name in errors],
        "regressions": len(worse), "regressed": bool(worse or errors),
    }  # fmt: skip
    found["sentence"] = _sentence(found, worse, errors)
    return found


class _Session:
    """The tasks of one session by function."""

    def __init__(self, view: Views) -> None:
        table, now = view.task_table, view.now_ns()
        self.view, self.count = view, len(table)
        over = np.flatnonzero((table["state"] == FINISHED) | (table["state"] == FAILED))
        order = over[np.argsort(table["name"][over], kind="stable")]
        edges = np.flatnonzero(np.diff(table["name"][order], prepend=-1))
        self.rows: dict[str, Array] = {
            view.store.texts[int(table["name"][order[low]])]: order[low:high]
            for low, high in zip(edges, np.append(edges[1:], len(order)), strict=False)
        }
        self.queue = view._queued(np.arange(len(table)), now)
        self.errors: dict[str, int] = {}
        for row in np.flatnonzero(table["state"] == FAILED).tolist():
            kind = _kind_of(view.store.texts[int(table["error"][row])])
            self.errors[kind] = self.errors.get(kind, 0) + 1
        submitted = table["submitted_at"][table["submitted_at"] > 0]
        ended = max(int(table["finished_at"].max(initial=0)), int(table["ended_at"].max(initial=0)))
        self.wall = (ended - int(submitted.min())) / NS if len(submitted) and ended else 0.0

    def seconds(self, name: str, measure: str) -> Array:
        """A measure of the tasks of a function that ended well."""
        table = self.view.task_table
        rows = self.rows.get(name, np.empty(0, np.int64))
        rows = rows[(table["state"][rows] == FINISHED) & (table["ended_attempt"][rows] >= 0)]
        values = self.queue[rows] if measure == "queue" else table[f"{measure}_seconds"][rows].astype(np.float64)
        found: Array = values[~np.isnan(values)]
        return found

    def failed(self, name: str) -> int:
        rows = self.rows.get(name, np.empty(0, np.int64))
        return int(np.count_nonzero(self.view.task_table["state"][rows] == FAILED))


def _kind_of(error: str) -> str:
    """The class of an error out of its text."""
    found = _CLASS.match(gist(error).strip())
    return found[1] if found else gist(error)[:80] or "an unknown error"


def _function(name: str, first: _Session, second: _Session, threshold: float) -> Row:
    counts = [len(session.rows.get(name, ())) for session in (first, second)]
    failed = [session.failed(name) for session in (first, second)]
    row: Row = {
        "name": name, "tasks": {"before": counts[0], "after": counts[1]},
        "failed": {"before": failed[0], "after": failed[1]}, "ratio": None, "verdict": "same", "text": "",
    }  # fmt: skip
    for measure in _MEASURES:
        values = [session.seconds(name, measure) for session in (first, second)]
        row[f"{measure}_seconds"] = {
            when: _percentiles(one) for when, one in zip(("before", "after"), values, strict=True)
        }
    runs = [session.seconds(name, "run") for session in (first, second)]
    if not counts[0] or not counts[1]:
        row["verdict"] = "new" if counts[1] else "gone"
        row["text"] = f"{name} is {row['verdict']}"
        return row
    shares = [number / count for number, count in zip(failed, counts, strict=True)]
    if len(runs[0]) and len(runs[1]):
        _judge(row, name, runs, threshold)
    if shares[1] > shares[0] + 0.01 and _surely_more(failed, counts):
        row["verdict"] = "fails more"
        row["text"] = f"{name} fails in {shares[1]:.1%} of its tasks, before in {shares[0]:.1%}"
    return row


def _judge(row: Row, name: str, runs: list[Array], threshold: float) -> None:
    before, after = (float(np.median(one)) for one in runs)
    row["ratio"] = after / before if before > 0 else 1.0
    mine = np.concatenate([np.zeros(len(runs[0]), np.bool_), np.ones(len(runs[1]), np.bool_)])
    _, sure = cliffs_delta(np.concatenate(runs), mine)
    if abs(after - before) < SECONDS_MIN or sure < SURE:
        return
    if row["ratio"] > 1 + threshold:
        row["verdict"] = "slower"
    elif row["ratio"] < 1 / (1 + threshold):
        row["verdict"] = "faster"
    if row["verdict"] != "same":
        row["text"] = f"{name} is {row['verdict']}: {duration(before)} before, {duration(after)} now (medians)"


def _surely_more(failed: list[int], counts: list[int]) -> bool:
    """Whether chance would hardly make so many more failures."""
    together = sum(failed) / sum(counts)
    spread = np.sqrt(together * (1 - together) * (1 / counts[0] + 1 / counts[1]))
    difference = failed[1] / counts[1] - failed[0] / counts[0]
    return bool(difference > 2.5 * spread) if spread > 0 else difference > 0


def _percentiles(values: Array) -> Row:
    if not len(values):
        return {"p50": None, "p95": None, "p99": None, "total": 0.0}
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "total": float(values.sum())}


def _sentence(found: Row, worse: list[Row], errors: list[str]) -> str:
    wall = found["wall_seconds"]
    text = f"{duration(wall['after'])} in all, before {duration(wall['before'])}"
    if not worse and not errors:
        return f"nothing got worse: {text}"
    said = [row["text"] for row in worse[:3]]
    if errors:
        said.append(f"new errors: {', '.join(errors[:3])}")
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    return f"{'; '.join(said)}{more}; {text}"
