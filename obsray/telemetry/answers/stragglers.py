"""Tasks that took much longer than others of their function, each with the likely cause; and how uneven functions are.

A task is a straggler if its time is far from its function's median, measured by what is usual there (median absolute
deviation of the logarithm), after what the size of its arguments explains. Causes are tried from the most specific on.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.answers.differences import first_on_worker
from obsray.telemetry.explain import duration, size
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import FINISHED

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

#: From so many usual deviations on, and from so many times the median on, a task is a straggler.
DEVIATIONS = 3.5
FACTOR = 1.5
#: Less than this more than usual is the machine's noise.
EXCESS_SECONDS_MIN = 0.001
#: Functions with fewer runs have no usual time.
RUNS_MIN = 5
STRAGGLERS_MAX = 200
#: A part explains a straggler if it makes up this share of the excess.
_SHARE = 0.5
#: p99 against p50 from which on a function is called uneven.
SKEWED = 2.0


def stragglers(view: Views, job: int | None = None, refresh: bool = True) -> Row:
    """``stragglers`` (worst first): task, seconds, usual seconds, factor, cause, text; ``functions``: percentiles and
    skew (p99 / p50) of each, most uneven first; ``causes``: how often each cause."""
    if refresh:
        view.refresh()
    table = view.task_table
    ran = (table["started_at"] > 0) & (table["ended_at"] > table["started_at"]) & (table["state"] == FINISHED)
    if job is not None:
        ran &= table["job"] == job
    rows = np.flatnonzero(ran)
    lasted = (table["ended_at"][rows] - table["started_at"][rows]) / NS
    cold = first_on_worker(table)[rows]
    slow = np.zeros(len(rows))
    found: list[tuple[float, int, Row]] = []
    functions = []
    order = np.argsort(table["name"][rows], kind="stable")
    edges = np.flatnonzero(np.diff(table["name"][rows][order], prepend=-1))
    groups = [order[low:high] for low, high in zip(edges, np.append(edges[1:], len(order)), strict=False)]
    judged = []
    for group in groups:
        name = view.store.texts[int(table["name"][rows[group[0]]])]
        functions.append(_skew(name, lasted[group]))
        if len(group) >= RUNS_MIN:
            judge = _Function(view, rows[group], lasted[group], cold[group], name)
            slow[group] = judge.deviations
            judged.append((group, judge))
    everywhere = _slow_everywhere(table, rows, slow)
    for group, judge in judged:
        for at in judge.stragglers().tolist():
            row = judge.explained(at, bool(everywhere[group[at]]))
            found.append((row["excess_seconds"], at, row))
    found.sort(key=lambda one: -one[0])
    functions.sort(key=lambda row: -row["skew"])
    worst = [row for _, _, row in found[:STRAGGLERS_MAX]]
    causes: dict[str, int] = {}
    for _, _, row in found:
        causes[row["cause"]] = causes.get(row["cause"], 0) + 1
    return {
        "tasks": len(rows), "total": len(found), "stragglers": worst, "functions": functions,
        "causes": dict(sorted(causes.items(), key=lambda pair: -pair[1])),
        "excess_seconds": float(sum(one[0] for one in found)),
    }  # fmt: skip


def _skew(name: str, lasted: Array) -> Row:
    p50, p95, p99 = np.percentile(lasted, (50, 95, 99)).tolist()
    skew = p99 / p50 if p50 > 0 else 1.0
    return {
        "name": name, "runs": len(lasted), "p50_seconds": p50, "p95_seconds": p95, "p99_seconds": p99,
        "max_seconds": float(lasted.max()), "skew": skew, "uneven": bool(skew > SKEWED and len(lasted) >= RUNS_MIN),
    }  # fmt: skip


def _slow_everywhere(table: Any, rows: Array, slow: Array) -> Array:
    """Whether most of what ran at the same time as a task, whatever it was, was slow, too."""
    if not len(rows):
        return np.empty(0, np.bool_)
    # In which tenth of a second each task began: enough to see a machine that was busy with something else.
    moment = table["started_at"][rows] // (NS // 10)
    _, back, counts = np.unique(moment, return_inverse=True, return_counts=True)
    many = np.bincount(back.ravel(), slow > DEVIATIONS)
    found: Array = ((counts >= 3) & (many > 0.6 * counts))[back.ravel()]
    return found


class _Function:
    """The runs of one function."""

    def __init__(self, view: Views, rows: Array, lasted: Array, cold: Array, name: str) -> None:
        self.view, self.rows, self.lasted, self.cold, self.name = view, rows, lasted, cold, name
        table = view.task_table
        self.bytes = table["argument_bytes"][rows].astype(np.float64)
        self.parts = {
            part: table[f"{part}_seconds"][rows].astype(np.float64)
            for part in ("fetch", "deserialize", "run", "store", "cpu", "blocked")
        }
        self._medians: dict[str, float] = {}
        self._places: dict[tuple[str, int], str] = {}
        self.usual = float(np.median(lasted))
        self.logs = np.log(np.maximum(lasted, 1e-6))
        self.expected, self.by_size = self._by_size()
        rest = self.logs - self.expected
        middle = float(np.median(rest))
        # Nobody is exactly as fast as the others: a tenth more is always usual.
        spread = max(1.4826 * float(np.median(np.abs(rest - middle))), 0.1)
        self.rest = rest - middle
        self.deviations = self.rest / spread

    def _by_size(self) -> tuple[Array, bool]:
        """What the size of arguments explains of the time, as a power law, if it explains much."""
        sizes = np.log(self.bytes + 1)
        if len(sizes) < RUNS_MIN or sizes.std() < 0.2 or self.logs.std() < 1e-9:
            return np.zeros(len(self.logs)), False
        strength = float(np.corrcoef(sizes, self.logs)[0, 1])
        if strength < 0.7:
            return np.zeros(len(self.logs)), False
        slope, offset = np.polyfit(sizes, self.logs, 1)
        return slope * sizes + offset - float(np.median(self.logs)), True

    def median(self, part: str) -> float:
        """What is usual of a part, or of the bytes of arguments."""
        if part not in self._medians:
            self._medians[part] = float(np.median(self.bytes if part == "bytes" else self.parts[part]))
        return self._medians[part]

    def stragglers(self) -> Array:
        """Which runs are: unexpectedly slow, or slow because they had much more to do."""
        large = (self.lasted > FACTOR * self.usual) & (self.lasted - self.usual > EXCESS_SECONDS_MIN)
        spread = max(1.4826 * float(np.median(np.abs(self.logs - np.median(self.logs)))), 0.1)
        unusual = (self.logs - float(np.median(self.logs))) / spread > DEVIATIONS
        found: Array = np.flatnonzero(large & ((self.deviations > DEVIATIONS) | unusual))
        return found

    def explained(self, at: int, everywhere: bool) -> Row:
        """One straggler with its cause."""
        cause, text = self._cause(at, everywhere)
        task = self.view.task_table["id"][self.rows[at]].tobytes()
        lasted = float(self.lasted[at])
        return {
            "task_id": task.hex(), "task": ids.short(task), "name": self.name, "seconds": lasted,
            "usual_seconds": self.usual, "factor": lasted / self.usual if self.usual else 0.0,
            "excess_seconds": lasted - self.usual, "cause": cause, "text": text,
        }  # fmt: skip

    def _cause(self, at: int, everywhere: bool) -> tuple[str, str]:
        excess = float(self.lasted[at]) - self.usual
        over = {part: float(values[at] - self.median(part)) for part, values in self.parts.items()}
        if self.by_size and self.deviations[at] <= DEVIATIONS:
            usual = size(self.median("bytes"))
            return "data size", f"its arguments are {size(self.bytes[at])}, usual are {usual}: time grows with them"
        for part, cause, words in (
            ("fetch", "fetching arguments", "bringing its arguments to the worker"),
            ("blocked", "blocked in get", "waiting in get for others"),
            ("store", "storing the result", "storing its result (the store may have been full)"),
            ("deserialize", "deserialising", "making Python objects of its function and arguments, with their imports"),
        ):
            if over[part] > _SHARE * excess:
                usual = duration(self.median(part))
                return cause, f"{duration(float(self.parts[part][at]))} {words}, usual are {usual}"
        for which, cause in (("node", "node"), ("worker", "worker")):
            text = self._place(at, which)
            if text:
                return cause, text
        if self.cold[at] and self._cold_is_slow:
            return "cold worker", "the first run of the function in its process: imports and caches"
        if everywhere:
            return "busy machine", "most tasks that began in the same moment were slow, too, whatever they did"
        if over["cpu"] > _SHARE * excess:
            usual = duration(self.median("cpu"))
            return (
                "more work",
                f"it computed for {duration(float(self.parts['cpu'][at]))} of CPU time, usual are {usual}",
            )
        off = over["run"] - over["cpu"]
        return (
            "off CPU",
            f"{duration(max(off, 0.0))} more than usual not on a CPU: I/O, a lock, sleep, or a busy machine",
        )

    def _place(self, at: int, which: str) -> str:
        """If the runs of this node or worker are slow as a rule and those elsewhere are not: that, in words."""
        worker = int(self.view.task_table["worker"][self.rows[at]])
        if (which, worker) not in self._places:
            self._places[which, worker] = self._slow_place(worker, which)
        return self._places[which, worker]

    def _slow_place(self, worker: int, which: str) -> str:
        table = self.view.task_table
        where = table["worker"][self.rows]
        if which == "node":
            names = [ids.mark_of(one).hex() for one in table.workers.ids]
            different = {name: number for number, name in enumerate(dict.fromkeys(names))}
            where = np.array([different[name] for name in names])[np.maximum(where, 0)]
            here = where == different[names[worker]]
            label = f"node {names[worker]}"
        else:
            here, label = where == worker, self.view.process_label(table.workers.ids[worker])
        if here.sum() < 3 or (~here).sum() < 3:
            return ""
        inside, outside = float(np.median(self.lasted[here])), float(np.median(self.lasted[~here]))
        if inside < FACTOR * outside:
            return ""
        return f"{self.name} takes {inside / outside:.1f} x as long on {label} as elsewhere"

    @cached_property
    def _cold_is_slow(self) -> bool:
        if not self.cold.any() or self.cold.all():
            return False
        return float(np.median(self.lasted[self.cold])) > FACTOR * float(np.median(self.lasted[~self.cold]))
