"""Why an actor, a placement group or an object is as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray import ids
from obsray.causes import gist
from obsray.telemetry.answers import queued
from obsray.telemetry.answers.answer import Answer, Code, quoted
from obsray.telemetry.answers.holders import holders, lacking, told
from obsray.telemetry.explain import duration, reason_text, size
from obsray.telemetry.groups import bundle_amounts, shown
from obsray.telemetry.objects import FREED, IN_OWNER, LOST, SPILLED, STATES
from obsray.telemetry.tables import NS, Row
from obsray.telemetry.tasks import BLOCKED, FINISHED, RUNNING

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

_DEATHS = {
    "oom": (Code.OUT_OF_MEMORY, "its process was killed because it ran out of memory"),
    "killed_by_request": (Code.CANCELLED, "it was killed on request"),
    "intended": (Code.FINISHED, "it ended in order"),
    "start_failed": (Code.APP_ERROR, "its constructor failed"),
    "placement_removed": (Code.PLACEMENT_REMOVED, "its placement group was removed"),
    "unschedulable": (Code.INFEASIBLE, "it can never be placed"),
    "environment_failed": (Code.ENVIRONMENT_FAILED, "its runtime environment cannot be made"),
    "node_died": (Code.NODE_DIED, "its node died"),
    "owner_died": (Code.OWNER_DIED, "the program that made it ended"),
    "parent_died": (Code.WORKER_DIED, "the process that forks workers died and took it along"),
    "gave_up": (Code.SYSTEM_ERROR, "its state could not be saved or restored"),
    "signal": (Code.WORKER_DIED, "its process was killed by a signal"),
    "exit_code": (Code.WORKER_DIED, "its process exited"),
}
_GROUP_FIXES = "Free what it lacks, ask for smaller bundles, or add nodes."


class Things:
    """Answers about everything but tasks. Mixed into the ``Explainer``."""

    view: Views
    now: int
    live: bool

    if TYPE_CHECKING:

        def explain(self, identifier: bytes) -> Answer: ...
        def since(self, then: int) -> str: ...
        def awaited(self, wanted: bytes) -> Answer: ...
        def transfer(self, wanted: bytes, node: bytes) -> str | None: ...

    def candidates(self, decision: Row) -> list[str]:
        """What the scheduler saw of each node when it decided, as facts."""
        found = []
        for row in self.view.lease_table.candidates_of(decision):
            node = f"node {row['node'].hex()[:8]}"
            if row["feasible"] and row["reject"] in ("none", "capacity_free"):
                found.append(f"{node} could take it (expected wait {duration(row['wait_seconds'])})")
            else:
                missing = f": {row['missing']}" if row["missing"] else ""
                found.append(f"{node} was not chosen, {reason_text(row['reject'])}{missing}")
        return found

    # --- actors -------------------------------------------------------------------------------------------

    def actor_subject(self, actor: bytes) -> str:
        row = self.view.actor_table.rows[actor]
        return f"actor {row['class_name'] or row['name'] or 'of unknown class'} ({ids.short(actor)})"

    def _of_actor(
        self, identifier: bytes, code: Code, predicate: str, fix: str = "", because: Answer | None = None
    ) -> Answer:
        row = self.view.actor_table.rows[identifier]
        return Answer(
            "actor", identifier.hex(), row["class_name"], self.actor_subject(identifier), row["state"], code,
            predicate, fix, because=because,
        )  # fmt: skip

    def actor(self, identifier: bytes) -> Answer:
        """Why an actor is as it is."""
        row = self.view.actor_table.rows[identifier]
        if row["state"] == "DEAD":
            return self._dead_actor(identifier, row)
        if row["state"] == "ALIVE":
            return self._living_actor(identifier, row)
        return self._unborn_actor(identifier, row)

    def _dead_actor(self, identifier: bytes, row: Row) -> Answer:
        code, how = _DEATHS.get(row["died_cause"] or "", (Code.ACTOR_DIED, f"it died ({row['died_cause']})"))
        error = quoted(row["error"] or "")
        if row["died_cause"] == "start_failed" and row["task_id"]:
            task = self.view.task_table.index.row(bytes.fromhex(row["task_id"]))
            raised = self.view.store.texts[int(self.view.task_table["error"][task])] if task >= 0 else ""
            error = quoted(raised) or error
        restarts = f" after {row['restarts']} restart{'s' * (row['restarts'] != 1)}" if row["restarts"] else ""
        predicate = f"is dead{restarts}: {how}" + (f": {error}" if error and error not in how else "")
        fix = "max_restarts has a crashed actor start again." if code is Code.WORKER_DIED else ""
        return self._of_actor(identifier, code, predicate, fix)

    def _living_actor(self, identifier: bytes, row: Row) -> Answer:
        table, view = self.view.task_table, self.view
        rows = table.open_rows
        rows = rows[table["actor"][rows] == np.frombuffer(identifier, "V16")[0]]
        running = rows[np.isin(table["state"][rows], (RUNNING, BLOCKED))]
        waiting = len(rows) - len(running)
        queue = f"; {waiting} call{'s' * (waiting > 1)} wait{'s' * (waiting == 1)}" if waiting else ""
        refused = view.concurrency_table.refused.get(identifier)
        if refused is not None:
            queue += (
                f"; {refused['refused']} call(s) were refused because {refused['pending_max']} of one caller wait "
                "already (max_pending_calls)"
            )
        if not len(running):
            idle = f"is alive on worker {(row['worker_id'] or '')[:8]} and idle{queue}"
            return self._of_actor(identifier, Code.QUOTA if refused is not None else Code.IDLE, idle)
        because = self.explain(table["id"][running[0]].tobytes())
        predicate = f"is alive on worker {(row['worker_id'] or '')[:8]}{queue}, and busy with {because.subject}"
        return self._of_actor(identifier, Code.QUOTA if refused else Code.ACTOR_BUSY, predicate, because=because)

    def _unborn_actor(self, identifier: bytes, row: Row) -> Answer:
        view, table = self.view, self.view.task_table
        since = self._waits_since(row)
        waited = self.since(since)
        again = " to start again" if row["state"] == "RESTARTING" else ""
        placed = row["placed_at_ns"] and row["placed_at_ns"] >= since
        if placed:
            return self._constructing(identifier, row, waited)
        task = table.index.row(identifier)
        if task >= 0 and row["state"] != "RESTARTING":
            records = view.store.about("task_arguments_waiting", "task", identifier)
            for record in records:
                producer = table.index.row(ids.task_of(record["object"]))
                if producer >= 0 and table["state"][producer] != FINISHED:
                    because = self.explain(ids.task_of(record["object"]))
                    predicate = (
                        f"has waited {waited} for an argument of its constructor, the result of {because.subject}"
                    )
                    return self._of_actor(identifier, Code.WAIT_ARGUMENTS, predicate, because=because)
        decision = self._decision(identifier, row, since)
        if decision is None or decision["outcome"] in ("granted", "withdrawn"):
            died = f" after its process died ({gist(row['error'])})" if again and row["error"] else ""
            return self._of_actor(
                identifier, Code.ACTOR_RESTARTING if again else Code.SCHEDULER,
                f"has waited {waited}{again}{died}; the scheduler has not found a worker for it yet",
            )  # fmt: skip
        made = queued.explained(self, decision, identifier, f"{waited}{again}")  # type: ignore[arg-type]
        found = self._of_actor(identifier, made.code, made.predicate, made.fix, made.because)
        found.facts = self.candidates(decision)
        return found

    def _waits_since(self, row: Row) -> int:
        if row["state"] == "RESTARTING":
            return int(row["_at"])
        return int(row["created_at_ns"] or 0)

    def _decision(self, identifier: bytes, row: Row, since: int) -> Row | None:
        """The newest decision about demands of the actor's owner and shape since the actor waits."""
        decision = self.view.lease_table.latest.get((ids.owner_of(identifier), row["shape"]))
        return decision if decision is not None and decision["time_ns"] >= since - NS // 10 else None

    def _constructing(self, identifier: bytes, row: Row, waited: str) -> Answer:
        ran = self.since(row["placed_at_ns"])
        table = self.view.task_table
        task = table.index.row(bytes.fromhex(row["task_id"])) if row["task_id"] else -1
        if task >= 0 and table["state"][task] == BLOCKED:
            blocked = self.view.store.about("task_blocked", "task", table["id"][task].tobytes())
            if blocked and any(blocked[-1]["object"]):
                because = self.awaited(blocked[-1]["object"])
                return self._of_actor(
                    identifier, Code.BLOCKED_IN_GET,
                    f"is being made: its constructor waits in get for {because.subject}", because=because,
                )  # fmt: skip
        return self._of_actor(
            identifier, Code.RUNNING,
            f"is being made: its constructor has been running for {ran} on worker {row['worker_id'][:8]}",
        )  # fmt: skip

    # --- placement groups ---------------------------------------------------------------------------------

    def group_subject(self, group: bytes) -> str:
        row = self.view.group_table.rows[group]
        return f"placement group {row['name'] or ''} ({ids.short(group)})".replace("  ", " ")

    def group(self, identifier: bytes) -> Answer:
        """Why a placement group is as it is."""
        row = self.view.group_table.rows[identifier]
        subject, state = self.group_subject(identifier), row["state"]
        asked = shown(bundle_amounts(row["resources"]))

        def answer(code: Code, predicate: str, fix: str = "") -> Answer:
            return Answer("placement_group", identifier.hex(), row["name"], subject, state, code, predicate, fix)

        if state == "REMOVED":
            return answer(Code.PLACEMENT_REMOVED, f"was removed: {row['ended'] or 'somebody removed it'}")
        if state == "CREATED":
            took = duration(row["pending_seconds"] or 0.0)
            return answer(Code.FINISHED, f"is there: all of its {row['bundles']} bundles were placed after {took}")
        waited = self.since(row["requested_at_ns"] or 0)
        deficit = row["deficit"] or ""
        if row["reason"] in ("infeasible", "labels", "affinity") or "can never" in deficit:
            return answer(
                Code.INFEASIBLE,
                f"has waited {waited}: no nodes can ever hold it ({asked}, {row['strategy']}): {deficit}",
                _GROUP_FIXES,
            )  # fmt: skip
        if row["reason"] is None:
            return answer(Code.SCHEDULER, f"has waited {waited}; the scheduler has not looked at it yet")
        again = f" (after {row['attempts']} tries)" if row["attempts"] else ""
        found = holders(self.view, lacking(deficit))
        held = f", held by {told(found)}" if found else ""
        code = Code.NODE_DIED if row["reason"] == "node_died" else Code.NO_CAPACITY
        return answer(
            code, f"has waited {waited}{again} for room for {asked} ({row['strategy']}): {deficit}{held}", _GROUP_FIXES
        )

    # --- objects ------------------------------------------------------------------------------------------

    def object(self, identifier: bytes) -> Answer:
        """Why an object is where it is, or not there yet."""
        view, task = self.view, ids.task_of(identifier)
        row = view.object_table.index.row(identifier)
        subject = f"object {ids.short(identifier)}"
        producer = view.task_table.index.row(task) if ids.kind_of(task) != ids.SEQUENCE_PUT else -1
        unmade = row < 0 or view.object_table["sealed_at"][row] == 0
        if producer >= 0 and unmade and view.task_table["state"][producer] != FINISHED:
            because = self.explain(task)
            return Answer(
                "object", identifier.hex(), because.name, subject, "PENDING", Code.WAIT_ARGUMENTS,
                f"does not exist yet: it is the result of {because.subject}", because=because,
            )  # fmt: skip
        if row < 0:
            if producer >= 0:
                return Answer(
                    "object", identifier.hex(), "", subject, "IN_OWNER", Code.IN_STORE,
                    f"is small and lies with its owner, {view.process_label(ids.owner_of(identifier))}",
                )  # fmt: skip
            return Answer(
                "object", identifier.hex(), "", subject, "UNKNOWN", Code.UNKNOWN,
                f"belongs to {view.process_label(ids.owner_of(identifier))}, which has not recorded that it made it",
            )  # fmt: skip
        return self._stored(identifier, row, subject)

    def _stored(self, identifier: bytes, row: int, subject: str) -> Answer:
        view = self.view
        state = int(view.object_table.states()[row])
        facts = view._object_row(row, view.object_table.states(), self.now)
        of = f" of {facts['producer']}" if facts["producer"] and facts["kind"] == "result" else ""
        what = f"({size(facts['bytes'])}{of})"
        made = Answer(
            "object", identifier.hex(), facts["producer"] or "", f"{subject} {what}", STATES[state], Code.IN_STORE, ""
        )
        if state == LOST:
            made.code, made.predicate = Code.LOST, f"is lost: {gist(facts['error'] or 'no copy of it is left')}"
            rebuilding = view.store.about("object_rebuilding", "object", identifier)
            if rebuilding:
                made.because = self.explain(rebuilding[-1]["task"])
                made.predicate += f"; it is being made again by {made.because.subject}"
        elif state == FREED:
            made.code = Code.FREED
            made.predicate = f"was freed after {duration(facts['age_seconds'])}: nothing referred to it any more"
        elif state == SPILLED:
            made.code = Code.SPILLED
            made.predicate = "lies on disk: the store was short of room and it had not been read for the longest time"
        elif state == IN_OWNER:
            made.predicate = f"is small and lies with its owner, {facts['owner_label']}"
        else:
            made.predicate = self._in_store(identifier, facts)
        if facts["call_site"]:
            made.facts.append(f"put at {facts['call_site']}")
        return made

    def _in_store(self, identifier: bytes, facts: Row) -> str:
        waiting = [
            moving for node in self.view.cluster_table.nodes if (moving := self.transfer(identifier, node)) is not None
        ]  # fmt: skip
        if waiting:
            return f"is on its way to another node: {waiting[0]}"
        if facts["sealed_at_ns"] is None:
            return f"is being written by {self.view.process_label(bytes.fromhex(facts['creator'] or '') or bytes(8))}"
        where = f" on node {facts['node'][:8]}" if facts["node"] else ""
        pinned = f", mapped by readers {facts['pins']} time(s)" if facts["pins"] else ""
        on_disk = self.view.store.about("object_fallback", "object", identifier)
        if on_disk and on_disk[-1]["process"].hex() == facts["node"]:
            last = on_disk[-1]
            if last["object_bytes"] > last["capacity_bytes"]:
                why = f"it is larger than the store of {size(last['capacity_bytes'])}"
            else:
                why = (
                    f"when it needed room, {size(last['free_bytes'])} of {size(last['capacity_bytes'])} were free and "
                    "nothing could make way, because it was pinned by readers"
                )
            return (
                f"lies in a file on disk{where} for {duration(facts['age_seconds'])}{pinned}, and is read from there: "
                f"{why}; {facts['owner_label']} owns it and keeps it until the last reference dies"
            )
        return (
            f"is in the store{where} for {duration(facts['age_seconds'])}{pinned}; {facts['owner_label']} owns it and "
            "keeps it until the last reference dies"
        )
