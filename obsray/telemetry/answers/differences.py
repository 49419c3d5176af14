"""What is different about some tasks: every label and measure of them against those of the others, most telling first.

For a measure the effect is Cliff's delta: how much likelier a selected task has more of it than another one has, from
-1 to 1. For a label it is the difference between the shares of one value among the selected and among the others. What
chance alone would often make is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.explain import duration, size
from obsray.telemetry.table import Column, Filter, query

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

#: So many standard deviations from chance, or it is not told.
SURE = 3.5
#: Effects below this are not worth a word, however sure.
EFFECT_MIN = 0.1
DIFFERENCES_MAX = 50
#: Columns that say the same as others, or nothing that two tasks could share.
_SKIPPED = frozenset({"task_id", "parent_task_id", "actor_id", "trace_id", "worker_pid"})
_WORDS = {
    "run_seconds": "time running", "cpu_seconds": "CPU time", "queue_seconds": "time queued",
    "fetch_seconds": "time fetching arguments", "deserialize_seconds": "time deserialising arguments",
    "store_seconds": "time storing results", "blocked_seconds": "time blocked in get",
    "dispatch_seconds": "time from dispatch to start", "wait_arguments_seconds": "time waiting for arguments",
    "total_seconds": "time in all", "result_bytes": "bytes of result", "argument_bytes": "bytes of arguments",
    "attempt": "attempts before", "submitted_at_ns": "time of submission", "started_at_ns": "time of start",
    "ended_at_ns": "time of end", "name": "function", "worker_id": "worker", "node": "node", "job_id": "job",
    "first_on_worker": "first task on its worker", "parent": "submitted by", "arguments": "number of arguments",
}  # fmt: skip


def different(view: Views, chosen: Sequence[Filter], among: Sequence[Filter] = (), refresh: bool = True) -> Row:
    """What is different about the tasks that fulfil ``chosen``, against the others (of those that fulfil ``among``).

    ``differences``: ``what``, ``effect`` (-1 to 1), ``text``; for labels the ``value`` and its shares, for measures the
    two medians. Raises QueryError for a condition that cannot be, LookupError if nothing or everything is chosen.
    """
    if refresh:
        view.refresh()
    now = view.now_ns()
    columns = view.task_columns(now)
    count = len(view.task_table)
    pool, _ = query(columns, count, view.store.texts, list(among), "", count, 0)
    inside_rows, _ = query(columns, count, view.store.texts, [*among, *chosen], "", count, 0)
    inside = np.zeros(count, np.bool_)
    inside[inside_rows] = True
    mine = inside[pool]
    if not mine.any() or mine.all():
        what = "no task fulfils" if not mine.any() else "every task fulfils"
        raise LookupError(f"{what} {' and '.join(' '.join(map(str, one)) for one in chosen)}: nothing to compare with")
    asked = {name for name, _, _ in chosen}
    found = compared(view, pool, mine, asked, now)
    return {
        "selected": int(mine.sum()), "others": int((~mine).sum()), "differences": found[:DIFFERENCES_MAX],
        "sentence": found[0]["text"] if found else "nothing is different beyond chance",
    }  # fmt: skip


def compared(view: Views, rows: Array, mine: Array, without: set[str], now: int) -> list[Row]:
    """All differences between the tasks ``rows[mine]`` and the rest of ``rows``, most telling first."""
    columns = {name: make() for name, make in view.task_columns(now).items() if name not in _SKIPPED | without}
    columns.update(_more(view))
    found = []
    for name, column in columns.items():
        if name in without:
            continue
        values = column.values[rows]
        absent = column.absent[rows] if column.absent is not None else np.zeros(len(rows), np.bool_)
        if column.kind == "number" and name not in ("job_id",):
            one = _measure(name, values, absent, mine)
        elif column.kind != "id":
            names = view.store.texts.texts if column.names is None else column.names
            one = _label(name, values, absent, mine, names)
        else:
            one = None
        if one is not None:
            found.append(one)
    found.sort(key=lambda row: -abs(row["effect"]))
    return found


def _more(view: Views) -> dict[str, Column]:
    """What tasks have beside the columns of lists."""
    table = view.task_table
    workers = table.workers.ids or [b""]
    nodes = [ids.mark_of(worker).hex() for worker in workers]
    different = sorted(set(nodes))
    node = np.array([different.index(one) for one in nodes])[np.maximum(table["worker"], 0)]
    parents = table.index.rows(table["parent"], create=False)
    parent = np.where(parents >= 0, table["name"][np.maximum(parents, 0)], 0) if len(table) else table["name"]
    known = view.store.texts
    unknown = table["worker"] < 0
    return {
        "node": Column("enum", node, different, unknown),
        "parent": Column("text", parent, [text or "the driver" for text in known.texts]),
        "first_on_worker": Column("enum", first_on_worker(table).astype(np.int64), ("no", "yes"), unknown),
        "argument_bytes": Column("number", table["argument_bytes"]),
        "arguments": Column("number", table["arguments"]),
    }


def first_on_worker(table: Any) -> Array:
    """Which tasks were the first of their function on their worker."""
    found = np.zeros(len(table), np.bool_)
    rows = np.flatnonzero((table["worker"] >= 0) & (table["started_at"] > 0))
    order = rows[np.lexsort((table["started_at"][rows], table["name"][rows], table["worker"][rows]))]
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(table["worker"][order]) != 0) | (np.diff(table["name"][order]) != 0)
    found[order[new]] = True
    return found


def _measure(name: str, values: Array, absent: Array, mine: Array) -> Row | None:
    known = ~absent & np.isfinite(values)
    values, mine = values[known].astype(np.float64), mine[known]
    effect, sure = cliffs_delta(values, mine)
    if abs(effect) < EFFECT_MIN or sure < SURE:
        return None
    inside, outside = float(np.median(values[mine])), float(np.median(values[~mine]))
    more = "later" if name.endswith("_at_ns") and effect > 0 else "earlier" if name.endswith("_at_ns") else ""
    word = more or ("more" if effect > 0 else "less")
    what = _WORDS.get(name, name.replace("_", " "))
    shown = f"median {_shown(name, inside)} against {_shown(name, outside)}" if not more else "by their median"
    if not more and _shown(name, inside) == _shown(name, outside):
        # Most are alike; what is different is how many are not.
        usual = float(np.median(values))
        above = [float((values[chosen] > usual).mean()) for chosen in (mine, ~mine)]
        shown = f"above {_shown(name, usual)} for {above[0]:.0%} of them and {above[1]:.0%} of the others"
    return {
        "what": name, "kind": "measure", "effect": float(effect), "value": None, "inside": inside, "outside": outside,
        "text": f"{what}: {word}, {shown}",
    }  # fmt: skip


def _label(name: str, values: Array, absent: Array, mine: Array, names: Sequence[str]) -> Row | None:
    values, mine = values[~absent].astype(np.int64), mine[~absent]
    first, second = int(mine.sum()), int((~mine).sum())
    if not first or not second:
        return None
    count = int(values.max(initial=0)) + 1
    inside = np.bincount(values[mine], minlength=count) / first
    outside = np.bincount(values[~mine], minlength=count) / second
    code = int(np.abs(inside - outside).argmax())
    effect = float(inside[code] - outside[code])
    together = (inside[code] * first + outside[code] * second) / (first + second)
    spread = np.sqrt(together * (1 - together) * (1 / first + 1 / second))
    if abs(effect) < EFFECT_MIN or spread == 0 or abs(effect) / spread < SURE:
        return None
    what, value = _WORDS.get(name, name.replace("_", " ")), names[code] if code < len(names) else str(code)
    return {
        "what": name, "kind": "label", "effect": effect, "value": value, "inside": float(inside[code]),
        "outside": float(outside[code]),
        "text": f"{what} is {value or 'none'} for {inside[code]:.0%} of them and {outside[code]:.0%} of the others",
    }  # fmt: skip


def cliffs_delta(values: Array, mine: Array) -> tuple[float, float]:
    """How much likelier a value of ``mine`` is larger than one of the others, -1 to 1, and how many standard deviations
    of chance that is."""
    first, second = int(mine.sum()), int((~mine).sum())
    if not first or not second:
        return 0.0, 0.0
    different, back, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    ranks = below + (counts + 1) / 2
    total = float(ranks[back.ravel()][mine].sum())
    delta = 2 * (total - first * (first + 1) / 2) / (first * second) - 1
    n = first + second
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / max(n * (n - 1.0), 1.0)
    spread = np.sqrt(max(n + 1 - ties, 1e-9) / (3.0 * first * second)) if len(different) > 1 else 0.0
    return delta, abs(delta) / spread if spread else 0.0


def _shown(name: str, value: float) -> str:
    if name.endswith("_seconds"):
        return duration(value)
    return size(value) if name.endswith("_bytes") else f"{value:g}"
