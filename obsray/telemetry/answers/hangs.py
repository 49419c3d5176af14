"""What hangs: who waits for whom, which of these waits can never end, and which have no reason to be taking so long.

The wait-for graph grows from the drivers that wait, the tasks that are blocked and the calls in await. A thing that
waits *for all* of its targets goes on once each of them can; one that waits *for some* (for room that several hold, in
``wait``) once so many of them can. Whoever cannot go on by that rule is deadlocked, however the graph is knotted; the
cycle in it is named. What is not deadlocked may still be stuck: a task that others wait for and that has run far longer
than its function ever did, or that was seen in one place only, off the CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from obsray import ids
from obsray.telemetry.answers.answer import Row
from obsray.telemetry.answers.holders import holders, lacking
from obsray.telemetry.answers.stuck import stuck
from obsray.telemetry.answers.why import Explainer
from obsray.telemetry.events import TaskType
from obsray.telemetry.queue_time import amounts
from obsray.telemetry.tables import NS
from obsray.telemetry.tasks import BLOCKED, DISPATCHED, FINISHED, QUEUED, RUNNING, STATES, WAITING_ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from obsray.telemetry.columns import Array, Columns
    from obsray.telemetry.views import Views

#: A wait younger than this may be one whose end is not recorded yet.
SETTLED_SECONDS = 2.0
#: Things that are looked at; a larger graph is looked at in part, and the answer says so.
THINGS_MAX = 20_000
MEMBERS_TOLD_MAX = 8
_SAME_NS = NS // 20


class Waiting(NamedTuple):
    """A driver that waits: in what, since when, for which object (nil if any of several will do)."""

    process: bytes
    how: str
    since: int
    wanted: bytes


class Wait(NamedTuple):
    """What one thing waits for: ``targets`` are rows of tasks, of which it needs all, or so many. ``how`` is a verb."""

    targets: tuple[int, ...]
    how: str
    needed: int = 0

    def can_end(self, going: set[int]) -> bool:
        """Whether it is over once everything that goes on has ended."""
        count = sum(target in going for target in self.targets)
        return count >= (self.needed or len(self.targets))


def hangs(view: Views, refresh: bool = True) -> Row:
    """What hangs now. ``hangs``: ``kind`` (``cycle`` or ``stuck``), ``sentence``, ``fix``, ``members`` (``id``,
    ``label``, ``state``, ``where``, ``seconds`` it waits or runs, ``how`` it waits for the next), ``behind``: how many
    others wait for them, drivers among them; ``drivers``: which of those are drivers. ``blocked``: how many tasks wait
    inside of their code, ``looked_at`` the size of the graph. ``drivers``: those that wait in get or wait, ``label``,
    ``how``, ``seconds``, ``for`` and ``for_state``: the task that makes what they wait for.
    """
    if refresh:
        view.refresh()
    if not view.store.is_live():
        return {"hangs": [], "live": False, "blocked": 0, "looked_at": 0, "complete": True, "drivers": []}
    graph = _Graph(view)
    graph.grow()
    found = graph.cycles()
    told = {row for hang in found for row in hang["_rows"]}
    found += graph.stuck(told)
    for hang in found:
        del hang["_rows"]
    return {
        "hangs": found, "live": True, "blocked": graph.blocked, "looked_at": len(graph.waits),
        "complete": graph.complete, "drivers": graph.driver_rows(),
    }  # fmt: skip


class _Graph:
    """The wait-for graph of one look: row of a task -> what it waits for, None if it can go on by itself.

    Drivers are rows below 0. Nobody waits for a driver, so they are never part of a cycle.
    """

    def __init__(self, view: Views) -> None:
        self.view, self.table = view, view.task_table
        self.explainer = Explainer(view)
        self.now = view.now_ns()
        self.waits: dict[int, Wait | None] = {}
        self.complete = True
        self.blocked = 0
        self._wanted: dict[int, list[tuple[bytes, int]]] = {}
        #: Whoever waits for several things -> how many end the wait, and how many were missing when that was told.
        self._needed: dict[int, tuple[int, int]] = {}
        #: Async calls in ``await``, and since when; those that may need only one of what they await.
        self._awaiting: dict[int, int] = {}
        self._any: set[int] = set()
        self._blocked_in: dict[int, str] = {}
        self.drivers: dict[int, Waiting] = {}

    def grow(self) -> None:
        """From the blocked tasks to everything that they wait for."""
        open_rows = self.table.open_rows
        states = self.table["state"][open_rows]
        begin = open_rows[states == BLOCKED]
        self._read_noticed()
        self.blocked = len(begin) + len(self._awaiting)
        self._read("task_blocked", begin, last_only=True)
        self._read_several(begin)
        self._read("task_arguments_waiting", open_rows[states == WAITING_ARGUMENTS], last_only=False)
        waiting = [*begin.tolist(), *self._awaiting, *self.drivers]
        while waiting:
            row = waiting.pop()
            if row in self.waits:
                continue
            if len(self.waits) >= THINGS_MAX:
                self.complete = False
                return
            self.waits[row] = wait = self._wait(row)
            if wait is not None:
                waiting.extend(wait.targets)

    def _read(self, event: str, rows: Array, last_only: bool) -> None:
        """The objects that tasks wait for, in one pass over all records of a kind."""
        if not len(rows):
            return
        wanted = set(rows.tolist())

        def mine(columns: Columns) -> Array:
            found: Array = np.isin(self.table.index.rows(columns["task"], create=False), rows)
            return found

        for record in self.view.store.rows(event, mine):
            row = self.table.index.row(record["task"])
            if row not in wanted or record["time_ns"] < int(self.table["started_at"][row]):
                continue
            if last_only:
                self._wanted[row] = []
            kind = record.get("waiting_in", "get")
            if last_only:
                self._blocked_in[row] = kind
            # Whoever waits for any of several, or for room, may go on without the one object that is recorded.
            one = kind == "get" or (kind == "wait" and record["objects"] == 1)
            if one and any(record["object"]):
                self._wanted.setdefault(row, []).append((record["object"], record["time_ns"]))

    def _read_noticed(self) -> None:
        """Waits of drivers and of async calls that have been told of and are not over."""
        store, table = self.view.store, self.table
        over = [(r["task"], r["object"]) for r in store.rows("await_ended")]
        ended: dict[bytes, list[Row]] = {}
        for record in store.rows("process_waited"):
            ended.setdefault(record["process"], []).append(record)
        for record in store.rows("wait_noticed"):
            task, wanted = record["task"], record["object"]
            if any(task):
                row = table.index.row(task)
                if row < 0 or int(table["state"][row]) != RUNNING:
                    continue
                if (task, wanted) in over:
                    over.remove((task, wanted))
                    continue
                if record["waiting_in"] != "gather":
                    self._any.add(row)
                since = self._awaiting.get(row, record["began_at"])
                self._awaiting[row] = min(since, record["began_at"])
                self._wanted.setdefault(row, []).append((wanted, record["time_ns"]))
            elif self._is_still_waiting(record, ended.get(record["process"], ())):
                kind = record["waiting_in"]
                one = any(wanted) and (kind == "get" or record["objects"] == 1)
                row = -1 - len(self.drivers)
                self.drivers[row] = Waiting(
                    record["process"], f"waits in {kind} for", record["began_at"], wanted if one else b""
                )
                if one:
                    self._wanted[row] = [(wanted, record["time_ns"])]

    def _read_several(self, blocked: Array) -> None:
        """Of those that wait for several things: which, and how many of them end it."""
        index, since = self.table.index, self.table["blocked_at"]
        rows = set(blocked.tolist())
        drivers = {(waiting.process, waiting.since): row for row, waiting in self.drivers.items()}
        begun: dict[int, int] = {}
        for record in self.view.store.rows("wait_objects"):
            if any(record["task"]):
                row = index.row(record["task"])
                # It began to wait a moment before it was said to be blocked.
                if row not in rows or record["began_at"] < int(since[row]) - _SAME_NS:
                    continue
            else:
                near = (one for one in drivers if one[0] == record["process"])
                row = next((drivers[one] for one in near if abs(one[1] - record["began_at"]) < _SAME_NS), 0)
                if row >= 0:
                    continue
            if begun.get(row) != record["began_at"]:
                begun[row], self._wanted[row] = record["began_at"], []
                self._needed[row] = record["needed"], record["objects"]
            wanted = (record[name] for name in ("object", "object_2", "object_3", "object_4"))
            self._wanted[row] += [(one, record["time_ns"]) for one in wanted if any(one)]

    def _is_still_waiting(self, record: Row, ended: Sequence[Row]) -> bool:
        """Whether a driver that was noticed to wait lives and has not been told to be done since."""
        process = self.view.process_table.rows.get(record["process"]) or {}
        if process.get("died_at_ns") or process.get("closed_at_ns"):
            return False
        began = record["began_at"]
        return not any(
            # It is the same wait if it began at about the same time: threads of a driver wait beside each other.
            one["time_ns"] >= record["time_ns"]
            and abs(one["time_ns"] - one["wait_seconds"] * NS - began) < _SAME_NS + 1e-6 * one["wait_seconds"] * NS
            for one in ended
        )

    # --- what one thing waits for -------------------------------------------------------------------------

    def _wait(self, row: int) -> Wait | None:
        if row < 0:
            return self._producers(row, self.drivers[row].how)
        if row in self._awaiting:
            found = self._producers(row, "awaits")
            # Of several it may need any, unless it is known to need all.
            return found._replace(needed=1) if found is not None and row in self._any else found
        state = int(self.table["state"][row])
        if state == BLOCKED:
            return self._producers(row, f"waits in {self._blocked_in.get(row, 'get')} for")
        if state == WAITING_ARGUMENTS:
            return self._producers(row, "needs as an argument")
        if state in (QUEUED, DISPATCHED):
            if int(self.table["type"][row]) == TaskType.ACTOR_CALL:
                return self._call(row)
            return self._room(row) if state == QUEUED else None
        return None

    def _producers(self, row: int, how: str) -> Wait | None:
        targets = []
        for wanted, _ in self._wanted.get(row, ()):
            task = ids.task_of(wanted)
            if ids.kind_of(task) == ids.SEQUENCE_PUT:
                continue
            producer = self.table.index.row(task)
            if producer >= 0 and int(self.table["state"][producer]) < FINISHED:
                targets.append(producer)
        targets = list(dict.fromkeys(targets))
        needed, objects = self._needed.get(row, (0, 0))
        if not targets or needed == objects:
            return Wait(tuple(targets), how) if targets else None
        # What is not told, is there by now, or is no result of a task may end it.
        needed -= objects - len(targets)
        return Wait(tuple(targets), how, needed) if needed > 0 else None

    def _call(self, row: int) -> Wait | None:
        """A call waits for its actor to be made, for an earlier one of its caller, or for those that run."""
        table, view = self.table, self.view
        identifier = table["actor"][row].tobytes()
        actor = view.actor_table.rows.get(identifier)
        if actor is None or actor["state"] == "DEAD":
            return None
        name = f"actor {actor['class_name']}"
        if actor["state"] != "ALIVE":
            creation = table.index.row(identifier)
            open_ = creation >= 0 and int(table["state"][creation]) < FINISHED
            return Wait((creation,), f"waits until {name} is made by") if open_ else None
        raw = view._raw(row) | {"row": row, "id": table["id"][row].tobytes()}
        limits = view.concurrency_table.of(identifier)
        if not limits:
            earlier = self.explainer._earlier(raw, identifier)
            stuck = earlier[table["state"][earlier] == WAITING_ARGUMENTS]
            if len(stuck):
                return Wait((int(stuck[0]),), f"waits for its turn at {name} behind")
        worker = bytes.fromhex(actor["worker_id"]) if actor["worker_id"] else b""
        busy = [one for one in self.explainer._busy(identifier, worker).tolist() if one != row]
        if not limits:
            return Wait((busy[0],), f"waits for its turn at {name}, which is busy with") if busy else None
        method = raw["name"].rpartition(".")[2]
        group = next((group for group, known in limits.items() if method in known["methods"]), "")
        limit = limits.get(group, {"calls": 1})["calls"]
        same = [one for one in busy if len(limits) == 1 or self.explainer._group_of(one, limits) == group]
        return Wait(tuple(same), f"waits for a place at {name}, taken by", needed=1) if len(same) >= limit else None

    def _room(self, row: int) -> Wait | None:
        """A task waits for resources: for any of those that hold what it lacks."""
        view, table = self.view, self.table
        shape, owner = view.store.texts[int(table["shape"][row])], ids.owner_of(table["id"][row].tobytes())
        decision = view.lease_table.latest.get((owner, shape))
        if decision is None or decision["outcome"] != "queued":
            return None
        lacks = [name for name in lacking(decision["deficit"]) if name in amounts(shape)]
        found = holders(view, lacks) if lacks else []
        # Who waits in get has given back its CPU; other resources stay with it.
        held = [holder for holder in found if not (holder.blocked and set(lacks) == {"CPU"})]
        if not held or any(holder.row < 0 for holder in held):
            return None
        targets = dict.fromkeys(holder.row for holder in held if holder.row != row)
        return Wait(tuple(targets), f"waits for {' and '.join(lacks)}, held by", needed=1) if targets else None

    # --- deadlocks ----------------------------------------------------------------------------------------

    def _dead(self) -> set[int]:
        """Whoever cannot go on whatever happens: what is left when all who can go on are taken away."""
        if not self.complete:
            # What was not looked at may go on.
            going = {target for wait in self.waits.values() if wait for target in wait.targets} - self.waits.keys()
        else:
            going = set()
        waits = {row: wait for row, wait in self.waits.items() if wait is not None}
        going |= self.waits.keys() - waits.keys()
        going |= {row for row in waits if self._seconds(row) < SETTLED_SECONDS}
        changed = True
        while changed:
            freed = {
                row for row, wait in waits.items() if row not in going and wait.can_end(going)
            }  # fmt: skip
            going |= freed
            changed = bool(freed)
        return waits.keys() - going

    def cycles(self) -> list[Row]:
        """Every cycle of waits that can never end, and how many others wait for it."""
        dead = self._dead()
        found: dict[frozenset[int], list[int]] = {}
        leads: dict[int, frozenset[int]] = {}
        for start in sorted(dead):
            path: list[int] = []
            row = start
            while row not in path and row not in leads:
                path.append(row)
                wait = self.waits[row]
                assert wait is not None
                row = next(target for target in wait.targets if target in dead)
            if row not in leads:
                cycle = path[path.index(row) :]
                found[frozenset(cycle)] = cycle
                leads |= dict.fromkeys(cycle, frozenset(cycle))
            leads |= {one: leads[row] for one in path if one not in leads}
        made = []
        for key, cycle in found.items():
            # Told from whoever waits in its own code.
            first = next((at for at, row in enumerate(cycle) if int(self.table["state"][row]) == BLOCKED), 0)
            cycle = cycle[first:] + cycle[:first]
            behind = sum(which == key for which in leads.values()) - len(cycle)
            waiting = [self.driver_label(row) for row, which in leads.items() if row < 0 and which == key]
            made.append(self._cycle(cycle, behind, waiting))
        return sorted(made, key=lambda hang: -hang["members"][0]["seconds"])

    def _cycle(self, cycle: list[int], behind: int, drivers: list[str]) -> Row:
        members = [self._member(row, self.waits[row]) for row in cycle]
        told = members[:MEMBERS_TOLD_MAX]
        text = f"{told[0]['label']} {told[0]['how']} "
        text += "".join(f"{one['label']}, which {one['how']} " for one in told[1:])
        if len(members) > len(told):
            text += f"(and so on, {len(members) - len(told)} more) "
        others = f"; {behind} other{'s' * (behind > 1)} wait{'s' * (behind == 1)} for them" if behind else ""
        others += _among(drivers)
        return {
            "kind": "cycle", "sentence": f"{text}{told[0]['label']}: none of them can ever go on{others}",
            "fix": "Do not wait in get() inside of something that the awaited call needs: pass the reference on, await "
            "it in an async method, or give the actor max_concurrency (the task resources of its own).",
            "members": members, "behind": behind, "drivers": drivers, "_rows": list(cycle),
        }  # fmt: skip

    # --- no cycle -----------------------------------------------------------------------------------------

    def stuck(self, told: set[int]) -> list[Row]:
        """Tasks that others wait for and that make no progress, as far as their history or their samples tell."""
        awaited: dict[int, list[int]] = {}
        for waiter, wait in self.waits.items():
            for target in wait.targets if wait is not None else ():
                awaited.setdefault(target, []).append(waiter)
        made = []
        for row, waiters in awaited.items():
            if row in told or int(self.table["state"][row]) != RUNNING:
                continue
            why, behind = stuck(self.view, row, self._seconds(row), self.now), len(waiters)
            if why:
                drivers = [self.driver_label(waiter) for waiter in waiters if waiter < 0]
                member = self._member(row, None)
                others = f"{behind} other{'s' * (behind > 1)} wait{'s' * (behind == 1)} for it"
                others += _among(drivers)
                made.append({
                    "kind": "stuck", "sentence": f"{member['label']} {why}; {others}",
                    "fix": f"See what it does with 'obsray stack {member['id']}'.", "members": [member],
                    "behind": behind, "drivers": drivers, "_rows": [row],
                })  # fmt: skip
        return sorted(made, key=lambda hang: -hang["members"][0]["seconds"])

    # --- words --------------------------------------------------------------------------------------------

    def _seconds(self, row: int) -> float:
        """How long it has been in its state."""
        if row < 0:
            return max(0, self.now - self.drivers[row].since) / NS
        table = self.table
        state = int(table["state"][row])
        names = {BLOCKED: ("blocked_at",), RUNNING: ("started_at",), DISPATCHED: ("dispatched_at",)}.get(
            state, ("submitted_at", "retried_at", "ready_at")
        )
        since = max(int(table[name][row]) for name in names) or int(table["submitted_at"][row])
        return max(0, self.now - since) / NS

    def _member(self, row: int, wait: Wait | None) -> Row:
        table, view = self.table, self.view
        task = table["id"][row].tobytes()
        worker = int(table["worker"][row])
        state = int(table["state"][row])
        on = view.process_label(table.workers.ids[worker]) if worker >= 0 and state in (RUNNING, BLOCKED) else ""
        return {
            "id": task.hex(), "label": view.task_label(task), "name": view.store.texts[int(table["name"][row])],
            "state": STATES[state], "where": on, "seconds": self._seconds(row), "how": wait.how if wait else "",
        }  # fmt: skip

    # --- drivers ------------------------------------------------------------------------------------------

    def driver_label(self, row: int) -> str:
        return str(self.view.process_label(self.drivers[row].process))

    def driver_rows(self) -> list[Row]:
        """Drivers that wait: for what, and how that is."""
        made = []
        for row, waiting in self.drivers.items():
            task = ids.task_of(waiting.wanted) if waiting.wanted else b""
            target = self.table.index.row(task) if task else -1
            made.append({
                "process": waiting.process.hex(), "label": self.driver_label(row), "how": waiting.how,
                "seconds": self._seconds(row), "for": self.view.task_label(task) if target >= 0 else "",
                "for_id": task.hex(), "for_state": STATES[int(self.table["state"][target])] if target >= 0 else "",
            })  # fmt: skip
        return made


def _among(drivers: list[str]) -> str:
    return f", among them {' and '.join(drivers[:3])}" if drivers else ""
