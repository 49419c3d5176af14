"""Why a task is in the state it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray import ids
from obsray.causes import gist
from obsray.telemetry.answers import past, queued
from obsray.telemetry.answers.answer import Answer, Code, quoted
from obsray.telemetry.answers.calls import Calls
from obsray.telemetry.answers.stuck import stuck
from obsray.telemetry.explain import duration, size
from obsray.telemetry.tables import NS, Row
from obsray.telemetry.tasks import (
    BLOCKED,
    CANCELLED,
    DISPATCHED,
    FAILED,
    FINISHED,
    QUEUED,
    RUNNING,
    STATES,
    WAITING_ARGUMENTS,
)

if TYPE_CHECKING:
    from obsray.telemetry.views import Views


class Tasks(Calls):
    """Answers about tasks. Mixed into the ``Explainer``."""

    view: Views
    now: int
    live: bool

    def explain(self, identifier: bytes) -> Answer:
        raise NotImplementedError

    def task(self, identifier: bytes) -> Answer:
        """Why a task is as it is."""
        row = self.view.task_table.index.row(identifier)
        state = int(self.view.task_table["state"][row])
        make = {
            WAITING_ARGUMENTS: self._waits_for_arguments, QUEUED: self._queued, DISPATCHED: self._sent,
            RUNNING: self._runs, BLOCKED: self._blocked, FINISHED: self._finished, FAILED: self._failed,
            CANCELLED: self._cancelled,
        }[state]  # fmt: skip
        raw = self.view._raw(row)
        raw["row"], raw["id"] = row, identifier
        made = make(raw)
        if not made.time:
            over = state in (FINISHED, FAILED, CANCELLED)
            made.time = past.time_of(self.view, raw) if over else self.view.time_split(raw, self.now, made.predicate)
        return made

    def answer(self, raw: Row, code: Code, predicate: str, fix: str = "", because: Answer | None = None) -> Answer:
        return Answer(
            "task", raw["id"].hex(), raw["name"], self.view.task_label(raw["id"]), STATES[raw["state"]], code,
            predicate, fix, because=because,
        )  # fmt: skip

    def since(self, then: int) -> str:
        return duration(max(0, self.now - then) / NS) if then else "some time"

    def text(self, name: str, row: int) -> str:
        return self.view.store.texts[int(self.view.task_table[name][row])]

    # --- not yet ------------------------------------------------------------------------------------------

    def _waits_for_arguments(self, raw: Row) -> Answer:
        view, table = self.view, self.view.task_table
        waited = self.since(max(raw["retried_at"], raw["submitted_at"]))
        records = view.store.about("task_arguments_waiting", "task", raw["id"])
        missing = []
        for record in records:
            producer = table.index.row(ids.task_of(record["object"]))
            state = int(table["state"][producer]) if producer >= 0 else QUEUED
            if state != FINISHED or self._is_lost(record["object"]):
                missing.append((record["object"], producer, state))
        if not missing:
            newest = [record["object"] for record in records[-1:]]
            what = f"object {ids.short(newest[0])}" if newest else f"{raw['unready']} argument(s)"
            return self.answer(
                raw, Code.ON_ITS_WAY, f"has waited {waited} for {what}, which exists; its owner has not said so yet"
            )
        number, more = len(missing), "" if len(missing) == 1 else f"{len(missing)} arguments, first of them "
        wanted, producer, _ = missing[0]
        if self._is_lost(wanted):
            return self._waits_for_lost(raw, wanted, waited)
        if producer < 0:
            because = self.explain(wanted)
            return self.answer(
                raw, Code.WAIT_ARGUMENTS, f"has waited {waited} for {more}{because.subject}", because=because
            )
        because = self.explain(ids.task_of(wanted))
        made = self.answer(
            raw, Code.WAIT_ARGUMENTS, f"has waited {waited} for {more}the result of {because.subject}", because=because
        )
        made.facts.append(f"{number} of its arguments do not exist yet")
        return made

    def _is_lost(self, wanted: bytes) -> bool:
        return bool(self.view.store.about("object_missing", "object", wanted, 1))

    def _waits_for_lost(self, raw: Row, wanted: bytes, waited: str) -> Answer:
        lost = self.view.store.about("object_missing", "object", wanted)[-1]
        rebuilding = self.view.store.about("object_rebuilding", "object", wanted)
        predicate = f"has waited {waited} for object {ids.short(wanted)}, which was lost ({gist(lost['error'])})"
        because = None
        if rebuilding:
            predicate += " and is being made again"
            because = self.explain(rebuilding[-1]["task"])
            predicate += f" by {because.subject}"
        return self.answer(raw, Code.ARGUMENT_LOST, predicate, because=because)

    def _queued(self, raw: Row) -> Answer:
        if self.is_call(raw):
            return self.call_waits(raw)
        made = queued.reason(self, raw)  # type: ignore[arg-type]
        if raw["attempt"]:
            error = quoted(self.text("error", raw["row"]))
            made.predicate += f"; it is tried again (attempt {raw['attempt'] + 1}) because the last one failed: {error}"
            made.facts.append(f"{raw['attempt']} attempt(s) failed before")
        return made

    def _sent(self, raw: Row) -> Answer:
        if self.is_call(raw):
            return self.call_waits(raw)
        table = self.view.task_table
        sent = self.since(raw["dispatched_at"])
        ahead = [now for now in self.view.running if now.process == self._worker(raw)]
        for now in ahead:
            row = table.index.row(now.task)
            if now.task != raw["id"] and row >= 0:
                because = self.explain(now.task)
                return self.answer(
                    raw, Code.BEHIND_OTHERS,
                    f"was sent to {raw['worker_label']} {sent} ago and runs there after {because.subject}",
                    because=because,
                )  # fmt: skip
        return self.answer(raw, Code.ON_ITS_WAY, f"was sent to {raw['worker_label']} {sent} ago and is about to begin")

    def _worker(self, raw: Row) -> bytes:
        table = self.view.task_table
        row = int(table["worker"][raw["row"]])
        return table.workers.ids[row] if row >= 0 else b""

    # --- now ----------------------------------------------------------------------------------------------

    def _runs(self, raw: Row) -> Answer:
        fetched = self._fetches(raw)
        if fetched is not None:
            return fetched
        awaits = self._awaits(raw)
        if awaits is not None:
            return awaits
        ran = self.since(raw["started_at"])
        predicate = f"has been running for {ran} on {raw['worker_label']}"
        no_progress = stuck(self.view, raw["row"], max(0, self.now - raw["started_at"]) / NS, self.now)
        if no_progress:
            predicate = f"{no_progress}, on {raw['worker_label']}; it seems to be stuck"
        made = self.answer(raw, Code.RUNNING, predicate)
        if no_progress:
            made.fix = f"See what it does with 'obsray stack {raw['id'].hex()}'."
        made.facts.append(f"started {ran} ago")
        usual = self.usual_seconds(raw["row"])
        if usual is not None:
            made.facts.append(f"{raw['name']} usually runs {duration(usual)}")
            made.eta_seconds = max(0.0, usual - (self.now - raw["started_at"]) / NS)
        return made

    def usual_seconds(self, row: int) -> float | None:
        """The median run time of the task's function, if one has ended."""
        table = self.view.task_table
        same = (table["name"] == table["name"][row]) & (table["ended_attempt"] >= 0)
        seconds = table["run_seconds"][same]
        return float(np.median(seconds)) if len(seconds) else None

    def _awaits(self, raw: Row) -> Answer | None:
        """If an async call has been in await for a while: what for and since when."""
        if not self.is_call(raw):
            return None
        noticed = self.view.store.about("wait_noticed", "task", raw["id"])
        over = [record["object"] for record in self.view.store.about("await_ended", "task", raw["id"])]
        for record in noticed:
            if record["object"] in over:
                over.remove(record["object"])
                continue
            because = self.awaited(record["object"])
            if because.code is Code.FINISHED:
                continue
            made = self.answer(
                raw, Code.BLOCKED_IN_GET,
                f"has waited {self.since(record['began_at'])} in await on {raw['worker_label']} for {because.subject}",
                because=because,
            )  # fmt: skip
            if because.root.code is Code.DEADLOCK:
                made.code = Code.DEADLOCK
            return made
        return None

    def _fetches(self, raw: Row) -> Answer | None:
        """If an argument of a running task is still on its way: what and since when."""
        worker = self._worker(raw)
        for record in reversed(self.view.store.about("transfer_asked", "worker", worker)):
            if record["time_ns"] < raw["started_at"] - NS:
                break
            state = self.transfer(record["object"], record["process"])
            if state is not None:
                predicate = f"runs on {raw['worker_label']} and waits there for its argument, {state}"
                return self.answer(raw, Code.TRANSFER, predicate)
        for event, ending, doing in (("object_restoring", "object_restored", "is being read back from disk"),):
            recent = self.view.store.rows(event, lambda columns: columns["time_ns"] + NS >= raw["started_at"])
            for record in recent:
                over = self.view.store.about(ending, "object", record["object"])
                began = record["time_ns"] >= raw["started_at"] - NS
                if began and not any(end["time_ns"] >= record["time_ns"] for end in over):
                    what = f"object {ids.short(record['object'])} ({size(record['object_bytes'])})"
                    return self.answer(
                        raw, Code.RESTORE, f"runs on {raw['worker_label']} and waits for {what}, which {doing}"
                    )
        return None

    def transfer(self, wanted: bytes, node: bytes) -> str | None:
        """How far an object is on its way to a node; None if it is there or does not come."""
        store = self.view.store
        done = [
            record["time_ns"] for event in ("transfer_done", "transfer_failed")
            for record in store.about(event, "object", wanted) if record["process"] == node
        ]  # fmt: skip
        asked = [r for r in store.about("transfer_asked", "object", wanted) if r["process"] == node]
        if not asked or (done and max(done) >= asked[-1]["time_ns"]):
            return None
        begun = [r for r in store.about("transfer_begun", "object", wanted) if r["process"] == node]
        what = f"object {ids.short(wanted)}"
        if not begun or begun[-1]["time_ns"] < asked[-1]["time_ns"]:
            return f"{what}, which was asked for {self.since(asked[-1]['time_ns'])} ago and has no room or source yet"
        last = begun[-1]
        rate = self._bandwidth(node)
        eta = f", about {duration(last['object_bytes'] / rate)} at {size(rate)}/s" if rate else ""
        return (
            f"{what} ({size(last['object_bytes'])}), which has been coming from node {last['source'].hex()[:8]} for "
            f"{self.since(last['time_ns'])}{eta}"
        )

    def _bandwidth(self, node: bytes) -> float:
        """Bytes a second of what came to a node so far."""
        total = seconds = 0.0
        for columns in self.view.store.select("transfer_done"):
            here = columns["process"] == np.frombuffer(node, "V8")[0]
            total += float(columns["object_bytes"][here].sum())
            seconds += float(columns["wire_seconds"][here].sum())
        return total / seconds if seconds else 0.0

    def _blocked(self, raw: Row) -> Answer:
        records = self.view.store.about("task_blocked", "task", raw["id"])
        where = f"on {raw['worker_label']}"
        if not records:
            return self.answer(raw, Code.BLOCKED_IN_GET, f"waits in get {where}")
        last = records[-1]
        waited = self.since(last["time_ns"])
        if last["waiting_in"] == "allocate":
            return self._waits_for_room(raw, waited)
        if not any(last["object"]):
            fetched = self._fetches(raw)
            if fetched is not None:
                return fetched
            return self.answer(raw, Code.BLOCKED_IN_GET, f"has waited {waited} in {last['waiting_in']} {where}")
        number = last["objects"]
        more = "" if number <= 1 else f"{number} values, first of them "
        because = self.awaited(last["object"])
        made = self.answer(
            raw, Code.BLOCKED_IN_GET,
            f"has waited {waited} in {last['waiting_in']} {where} for {more}{because.subject}", because=because,
        )  # fmt: skip
        if because.root.code is Code.DEADLOCK:
            made.code = Code.DEADLOCK
        return made

    def awaited(self, wanted: bytes) -> Answer:
        """The answer about a value that somebody waits for: its task, or the object if no task is known."""
        task = ids.task_of(wanted)
        if ids.kind_of(task) == ids.SEQUENCE_TASK and self.view.task_table.index.row(task) >= 0:
            made = self.explain(task)
            if made.code is not Code.FINISHED:
                return made
        return self.explain(wanted)

    def _waits_for_room(self, raw: Row, waited: str) -> Answer:
        worker = self._worker(raw)
        found = self.view.store.about("object_allocation_waiting", "worker", worker)
        predicate = f"has waited {waited} on {raw['worker_label']} for room in the object store"
        fix = "Free references that are not needed any more, or give the store more memory (object_store_memory)."
        if not found:
            return self.answer(raw, Code.STORE_FULL, predicate, fix)
        last = found[-1]
        predicate += (
            f": it is full ({size(last['object_bytes'])} wanted, {size(last['free_bytes'])} free, "
            f"{size(last['pinned_bytes'])} pinned, {size(last['spillable_bytes'])} can be spilled)"
        )
        made = self.answer(raw, Code.STORE_FULL, predicate, fix)
        made.facts += self.biggest_pinned()
        return made

    # --- over ---------------------------------------------------------------------------------------------

    def _finished(self, raw: Row) -> Answer:
        made = self.answer(raw, Code.FINISHED, "")
        made.time = past.time_of(self.view, raw)
        made.predicate = past.summary(self.view, raw, made.time)
        return made

    def _cancelled(self, raw: Row) -> Answer:
        asked = self.view.store.about("task_cancel_requested", "task", raw["id"])
        how = f" on request of {self.view.process_label(asked[-1]['process'])}" if asked else ""
        began = " while it ran" if raw["started_at"] else " before it began"
        return self.answer(raw, Code.CANCELLED, f"was cancelled{how}{began}")

    def _failed(self, raw: Row) -> Answer:
        view, row = self.view, raw["row"]
        outcome = view._task_row(row, self.now)["outcome"] or "system_error"
        error = self.text("error", row)
        said = quoted(error)
        if outcome == "lost_argument":
            culprit = self._failed_argument(raw)
            if culprit is not None:
                return self.answer(
                    raw, Code.ARGUMENT_FAILED, f"never ran: it needs the result of {culprit.subject}", because=culprit
                )
        if outcome in ("actor_died", "actor_unavailable"):
            return self.call_failed(raw, outcome, said)
        return past.failure(self, raw, outcome, said)

    def _failed_argument(self, raw: Row) -> Answer | None:
        table = self.view.task_table
        for record in self.view.store.about("task_arguments_waiting", "task", raw["id"]):
            task = ids.task_of(record["object"])
            producer = table.index.row(task)
            if producer >= 0 and table["state"][producer] in (FAILED, CANCELLED):
                return self.explain(task)
        return None

    def biggest_pinned(self) -> list[str]:
        """The largest objects that fill the store and cannot be moved, as facts."""
        found = self.view.objects(
            [("state", "in", "SEALED,CREATED"), ("pins", ">", 0)], "-bytes", 3, 0, refresh=False
        )["rows"]  # fmt: skip
        return [
            f"{size(row['bytes'])} are pinned by object {row['object_id']} of {row['owner_label']}"
            + (f" ({row['producer']})" if row["producer"] else "")
            for row in found
        ]
