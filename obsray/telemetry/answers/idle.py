"""What idle workers lacked: at each instant what tasks there were and why none of them ran there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.ids import WORKER_ID_BYTES
from obsray.telemetry.answers.steps import Steps, instants, seconds_where
from obsray.telemetry.events import LeaseOutcome, Reason, TaskType
from obsray.telemetry.explain import reason_text
from obsray.telemetry.table import same_id
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import FINISHED, QUEUED, WAITING_ARGUMENTS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

#: Why a worker was idle -> what that means.
IDLE = {
    "idle: actor without calls": "an actor's process had no call to run",
    "idle: owner has not sent tasks": "leased, and tasks were queued at owners: sending and answering took this long",
    "idle: no resources": "tasks were queued, but the CPUs, or what else they ask for, were taken",
    "idle: being scheduled": "tasks were queued and workers free: the scheduler had not matched them yet",
    "idle: fits nowhere": "all tasks that were queued ask for what no node has",
    "idle: sent elsewhere": "tasks had been sent to other workers and waited there",
    "idle: waiting for arguments": "no task could run: all that were there waited for results of others",
    "idle: last tasks run": "nothing was left but the tasks that ran elsewhere",
    "idle: nothing submitted": "there was no task at all: the drivers computed, or had not begun, or were done",
}
_ACTOR, _SENDS, _RESOURCES, _SCHEDULED, _NOWHERE, _ELSEWHERE, _ARGUMENTS, _LAST, _NOTHING = IDLE
_NO_HELP = (
    Reason.NO_CAPACITY, Reason.INFEASIBLE, Reason.PLACEMENT, Reason.AFFINITY, Reason.LABELS, Reason.ENVIRONMENT,
    Reason.WORKER_STARTING, Reason.WORKER_LIMIT, Reason.STORE_FULL, Reason.FAIRNESS, Reason.DRAINING,
)  # fmt: skip


#: So many instants of a window are told from each other.
INSTANTS_MAX = 400_000


class Idle:
    """The state of all tasks over time, and of what the scheduler said, within a window."""

    def __init__(self, view: Views, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        table, now = view.task_table, view.now_ns()
        rows = np.flatnonzero((table["submitted_at"] > 0) & (table["type"] == TaskType.TASK))
        submitted = table["submitted_at"][rows]
        ready = view._ready_at(rows, now)
        over = np.where(table["state"][rows] >= FINISHED, np.maximum(table["finished_at"][rows], submitted), end)
        dispatched = table["dispatched_at"][rows]
        still = (dispatched == 0) & np.isin(table["state"][rows], (QUEUED, WAITING_ARGUMENTS))
        dispatched = np.where(still, end, np.where(dispatched > 0, dispatched, over))
        started = table["started_at"][rows]
        started = np.where(started > 0, started, np.where(dispatched < end, over, end))
        ended = table["ended_at"][rows]
        ended = np.where(ended >= started, ended, over)
        since = np.maximum(ready, table["retried_at"][rows])
        clip = self._clip
        nowhere = np.zeros(len(rows), np.bool_)
        nowhere[still] = self._fit_nowhere(view, rows[still])
        self.nowhere = Steps.of_intervals(clip(np.minimum(since, dispatched)[nowhere]), clip(dispatched[nowhere]))
        since = np.where(nowhere, dispatched, since)
        self.waits = Steps.of_intervals(clip(submitted), clip(ready))
        self.queued = Steps.of_intervals(clip(np.minimum(since, dispatched)), clip(dispatched))
        self.sent = Steps.of_intervals(clip(dispatched), clip(started))
        self.runs = Steps.of_intervals(clip(started), clip(ended))
        self._said(view)

    def _clip(self, instants: Array) -> Array:
        """Instants inside of the window, as finely as their number may be: they say why, not how long, so nothing
        is lost from the sum."""
        grain = max(1, (self.end - self.begin) // INSTANTS_MAX)
        inside = np.clip(instants, self.begin, self.end) - self.begin
        found: Array = self.begin + (inside if grain == 1 else (inside + grain // 2) // grain * grain)
        return found

    @staticmethod
    def _fit_nowhere(view: Views, rows: Array) -> Array:
        """Of tasks that wait now, which ask for what no node has: the scheduler's last word about their shape."""
        owners = np.ascontiguousarray(view.task_table["id"][rows]).view(f"V{WORKER_ID_BYTES}")[::2]
        shapes = view.task_table["shape"][rows]
        found = np.zeros(len(rows), np.bool_)
        for (owner, shape), decision in view.lease_table.latest.items():
            code = view.store.texts.find(shape) if decision["outcome"] == "infeasible" else None
            if code is not None:
                found |= (shapes == code) & same_id(owners, owner)
        return found

    def _said(self, view: Views) -> None:
        """Over time the newest reason that the scheduler gave for not granting something; 0 after a grant."""
        times: list[Array] = []
        reasons: list[Array] = []
        for columns in view.store.select("lease_decided"):
            granted = columns["outcome"] == LeaseOutcome.GRANTED
            times.append(columns["time_ns"].astype(np.int64))
            reasons.append(np.where(granted, 0, columns["reason"]).astype(np.int64))
        at = np.concatenate(times) if times else np.empty(0, np.int64)
        said = np.concatenate(reasons) if reasons else np.empty(0, np.int64)
        order = np.argsort(at, kind="stable")
        self.reasons = Steps(at[order], said[order])

    def seconds(self, start: Array, end: Array, kind: Array) -> dict[str, float]:
        """Of idle intervals the seconds by cause. ``kind``: 0 the worker was free, 1 leased, 2 an actor's."""
        found = {name: float(seconds.sum()) for name, seconds in self.causes(start, end, kind).items()}
        return {name: seconds for name, seconds in found.items() if seconds}

    def causes(self, start: Array, end: Array, kind: Array) -> dict[str, Array]:
        """The seconds of each idle interval by cause; ``kind`` as above."""
        steps = (self.waits, self.queued, self.sent, self.runs, self.nowhere, self.reasons)
        times = instants(np.array([self.begin]), *(step.times for step in steps))
        queued, sent = self.queued.at(times) > 0, self.sent.at(times) > 0
        no_help = np.isin(self.reasons.at(times), _NO_HELP)
        waits, runs = self.waits.at(times) > 0, self.runs.at(times) > 0
        nowhere = self.nowhere.at(times) > 0
        rest = ~queued
        left = rest & ~sent & ~waits & ~runs
        causes = {
            _ELSEWHERE: rest & sent, _ARGUMENTS: rest & ~sent & waits, _LAST: rest & ~sent & ~waits & runs,
            _NOWHERE: left & nowhere, _NOTHING: left & ~nowhere,
        }  # fmt: skip
        actor, leased, free = (kind == 2), (kind == 1), (kind == 0)
        found = {_ACTOR: np.where(actor, (end - start) / NS, 0.0)}
        for name, holds in causes.items():
            found[name] = np.where(actor, 0.0, seconds_where(times, holds, start, end))
        found[_SENDS] = np.where(leased, seconds_where(times, queued, start, end), 0.0)
        found[_RESOURCES] = np.where(free, seconds_where(times, queued & no_help, start, end), 0.0)
        found[_SCHEDULED] = np.where(free, seconds_where(times, queued & ~no_help, start, end), 0.0)
        return found

    def waiting(self, cpus: float) -> dict[str, Any]:
        """For which share of the time tasks waited, how many on average then, and why most of the time; for which share
        (``bound_share``) they waited although every CPU was in use; and the share of CPUs in use (``busy_share``)."""
        times = instants(
            np.array([self.begin]), self.queued.times, self.sent.times, self.reasons.times, self.runs.times
        )
        many = self.queued.at(times) + self.sent.at(times)
        lengths = np.maximum(np.diff(times, append=[self.end]) / NS, 0.0)
        wall = max((self.end - self.begin) / NS, 1e-9)
        reasons, runs = self.reasons.at(times), self.runs.at(times)
        waits = many > 0
        waited = lengths[waits].sum()
        full = (runs >= cpus) if cpus else np.zeros(len(times), np.bool_)
        full |= (reasons == Reason.NO_CAPACITY) & (self.queued.at(times) > 0)
        weights = np.bincount(reasons[waits], lengths[waits], len(Reason) + 20)
        weights[0] = 0.0
        most = Reason(int(weights.argmax())) if weights.max() > 0 else Reason.NONE
        return {
            "share": float(waited / wall),
            "tasks_mean": float((lengths * many).sum() / waited) if waited else 0.0,
            "bound_share": float(lengths[waits & full].sum() / wall),
            "busy_share": float((lengths * np.minimum(runs, cpus)).sum() / (wall * cpus)) if cpus else 0.0,
            "reason": most.name.lower(),
            "reason_text": reason_text(most.name.lower()),
        }
