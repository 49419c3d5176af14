"""Time travel: a session as it was at an instant, out of the same records by the same folds.

What was told later is left out. An attempt whose end came later, but which had begun, ran; calls told of together are
counted one by one.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from obsray.telemetry.columns import Batch, Columns, concat
from obsray.telemetry.events import BY_NAME
from obsray.telemetry.moments import moment_ns
from obsray.telemetry.rings import RingState
from obsray.telemetry.runs import each
from obsray.telemetry.store import Running, Store
from obsray.telemetry.tables import Row
from obsray.telemetry.tasks import BLOCKED, RUNNING
from obsray.telemetry.views import Views

#: Moments are written with fewer digits than they are recorded with.
_ROUNDED_NS = 1_000_000_000


class PastStore(Store):
    """The store of a session up to ``until_ns``."""

    def __init__(self, session_dir: Path, until_ns: int) -> None:
        super().__init__(session_dir)
        self.until_ns = until_ns
        # Who lives at an instant only records tell.
        self.rings.alive = _lives  # type: ignore[method-assign]

    def is_live(self) -> bool:
        """A session that had not ended then lived."""
        stopped = self.session().get("stopped_at_ns")
        return not stopped or int(stopped) > self.until_ns

    def running(self) -> list[Running]:
        """What runs in processes now says nothing of then."""
        return []

    def _deliver(self, batch: Batch) -> None:
        super()._deliver(until(batch, self.until_ns))


def _lives(process: bytes, within_seconds: float = 0.0) -> bool:
    return True


def until(batch: Batch, until_ns: int) -> Batch:
    """Of some records those up to an instant, and beginnings instead of later ends."""
    found: Batch = {}
    singles = dict(each(batch))
    singles.pop("tasks_submitted", None)
    for event, columns in singles.items():
        kept = columns["time_ns"] <= np.uint64(until_ns)
        if kept.all():
            found[event] = columns
        elif kept.any():
            found[event] = columns.take(kept)
    ended = batch.get("task_ended")
    if ended is not None:
        later = (ended["time_ns"] > np.uint64(until_ns)) & (ended["started_at"] <= np.uint64(until_ns))
        if later.any():
            begun = _begun(ended.take(later))
            known = found.get("task_started")
            found["task_started"] = begun if known is None else concat([known, begun])
    return found


def _begun(ended: Columns) -> Columns:
    """The beginnings of attempts, from the records of their ends."""
    event = BY_NAME["task_started"]
    arrays = {"time_ns": ended["started_at"], "process": ended["process"], "sequence": ended["sequence"]}
    arrays.update({field.name: ended[field.name] for field in event.fields})
    return Columns(event, arrays)


class PastViews(Views):
    """The views of a session as they were at an instant."""

    def __init__(self, session_dir: Path, until_ns: int) -> None:
        self.until_ns = until_ns
        super().__init__(PastStore(session_dir, until_ns))

    def now_ns(self) -> int:
        return self.until_ns

    def _own_halt(self) -> Row | None:
        # How its node is now says nothing of then.
        return None

    def refresh(self) -> int:
        count = super().refresh()
        # What black boxes said then nobody has kept, but which tasks had begun and not ended is recorded.
        table = self.task_table
        rows = table.open_rows[np.isin(table["state"][table.open_rows], (RUNNING, BLOCKED))]
        self.running = [
            Running(
                table.workers.ids[int(table["worker"][row])], table["id"][row].tobytes(),
                int(table["started_at"][row]), self.store.texts[int(table["name"][row])],
                int(table["started_attempt"][row]),
            )
            for row in rows.tolist() if table["worker"][row] >= 0
        ]  # fmt: skip
        return count


def views_at(session_dir: Path, moment: object) -> PastViews:
    """The views of a session at a moment (``telemetry/moments.py``; "ago" counts from now, or from the end of a session
    that is over). Raises ValueError for what is no moment, or lies outside of the session."""
    start, now = _extent(Store.open(session_dir))
    at = moment_ns(moment, now, start)
    if at < start:
        began = datetime.fromtimestamp(start / 1e9, UTC).isoformat(sep=" ", timespec="seconds")
        raise ValueError(f"{moment!r} is before the session began, which was at {began}")
    if at > now + _ROUNDED_NS:
        ended = datetime.fromtimestamp(now / 1e9, UTC).isoformat(sep=" ", timespec="seconds")
        raise ValueError(f"{moment!r} is later than all that is recorded, which goes until {ended}")
    found = PastViews(session_dir, at)
    found.refresh()
    return found


def _extent(store: Store) -> tuple[int, int]:
    """When a session began, and now, or its end. No record is read for that unless somebody was killed before it was
    written down, and then none that is stored."""
    facts = store.session()
    start, end = int(facts.get("started_at_ns") or 0), int(facts.get("stopped_at_ns") or 0)
    if store.is_live():
        end = time.time_ns()
    if start and end:
        return start, end
    times = _Times(store)
    return start or times.first, end or times.last


class _Times:
    """First and last moment of all records."""

    def __init__(self, store: Store) -> None:
        store.catalog.refresh()
        stored = [entry for entries in store.catalog.files.values() for entry in entries if entry.rows]
        self.first = min((entry.min_ns for entry in stored), default=0)
        self.last = max((entry.max_ns for entry in stored), default=0)
        store.go_on(
            store.catalog.stored(),
            {name: RingState.from_json(name, state.to_json()) for name, state in store.catalog.rings.items()},
        )
        store.add_fold(self._update)
        store.refresh()

    def _update(self, batch: Batch) -> None:
        for columns in batch.values():
            low, high = int(columns["time_ns"].min()), int(columns["time_ns"].max())
            self.first = min(self.first or low, low)
            self.last = max(self.last, high)


def difference(before: Views, after: Views) -> dict[str, Any]:
    """What changed between two instants: counts by state, functions, and what came and went."""
    states = {
        name: (before.overview(refresh=False)["tasks"][name], count)
        for name, count in after.overview(refresh=False)["tasks"].items()
    }
    functions = {row["name"]: row for row in before.functions(refresh=False)}
    changed = []
    for row in after.functions(refresh=False):
        known = functions.get(row["name"], {"total": 0, "failed": 0, "by_state": {}, "cpu_seconds": 0.0})
        counts = {
            "submitted": row["total"] - known["total"],
            "finished": row["by_state"].get("FINISHED", 0) - known["by_state"].get("FINISHED", 0),
            "failed": row["failed"] - known["failed"],
            "cpu_seconds": row["cpu_seconds"] - known["cpu_seconds"],
        }
        if any(counts.values()):
            changed.append({"name": row["name"], **counts})
    used = [view.overview(refresh=False)["store"] for view in (before, after)]
    return {
        "from_ns": before.now_ns(),
        "until_ns": after.now_ns(),
        "tasks": {name: {"before": low, "after": high} for name, (low, high) in states.items()},
        "functions": changed,
        "actors": _changes(before.actors(refresh=False), after.actors(refresh=False), "actor_id", "class_name"),
        "workers": _changes(before.workers(refresh=False), after.workers(refresh=False), "worker_id", "label"),
        "nodes": _changes(before.nodes(refresh=False), after.nodes(refresh=False), "node_id", "host"),
        "store": {name: {"before": used[0][name], "after": used[1][name]} for name in used[0]},
    }


def _changes(before: list[Any], after: list[Any], key: str, name: str) -> list[dict[str, Any]]:
    """Things whose state is another, new ones too."""
    states = {row[key]: row["state"] for row in before}
    return [
        {"id": row[key], "name": row[name], "before": states.get(row[key]), "after": row["state"]}
        for row in after
        if states.get(row[key]) != row["state"]
    ]
