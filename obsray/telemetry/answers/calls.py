"""Why a call to an actor does not run, or failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray.causes import gist
from obsray.telemetry.answers.answer import Answer, Code
from obsray.telemetry.events import TaskType
from obsray.telemetry.tables import Row
from obsray.telemetry.tasks import BLOCKED, DISPATCHED, QUEUED, RUNNING, WAITING_ARGUMENTS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

_NAMED_MAX = 3


class Calls:
    """Answers about calls. Mixed into the ``Explainer``."""

    view: Views
    now: int
    live: bool

    if TYPE_CHECKING:

        def explain(self, identifier: bytes) -> Answer: ...
        def since(self, then: int) -> str: ...
        def answer(
            self, raw: Row, code: Code, predicate: str, fix: str = "", because: Answer | None = None
        ) -> Answer: ...

    def is_call(self, raw: Row) -> bool:
        return int(self.view.task_table["type"][raw["row"]]) == TaskType.ACTOR_CALL

    def call_waits(self, raw: Row) -> Answer:
        """Why a call that was made does not run yet."""
        view, table = self.view, self.view.task_table
        identifier = table["actor"][raw["row"]].tobytes()
        actor = view.actor_table.rows.get(identifier)
        waited = self.since(max(raw["retried_at"], raw["ready_at"], raw["submitted_at"]))
        if actor is None:
            return self.answer(raw, Code.ACTOR_PENDING, f"has waited {waited} for an actor that nobody knows yet")
        name = f"actor {actor['class_name']}"
        if actor["state"] == "DEAD":
            because = self.explain(identifier)
            return self.answer(
                raw, Code.ACTOR_DIED, f"is about to fail: it was made to {because.subject}", because=because
            )
        if actor["state"] != "ALIVE":
            because = self.explain(identifier)
            code = Code.ACTOR_RESTARTING if actor["state"] == "RESTARTING" else Code.ACTOR_PENDING
            return self.answer(raw, code, f"has waited {waited} for {because.subject}", because=because)
        earlier = self._earlier(raw, identifier)
        limits = view.concurrency_table.of(identifier)
        if not limits:
            stuck = earlier[table["state"][earlier] == WAITING_ARGUMENTS]
            if len(stuck):
                because = self.explain(table["id"][stuck[0]].tobytes())
                return self.answer(
                    raw, Code.ORDERING, f"has waited {waited} for its turn at {name}: calls run in the order in which "
                    f"they were made, and {because.subject} came before it", because=because,
                )  # fmt: skip
        busy = self._busy(identifier, bytes.fromhex(actor["worker_id"]) if actor["worker_id"] else b"")
        busy = busy[table["id"][busy] != table["id"][raw["row"]]] if len(busy) else busy
        if limits:
            return self._no_room(raw, name, waited, limits, busy)
        waiting = int(np.isin(table["state"][earlier], (QUEUED, DISPATCHED)).sum())
        behind = f" behind {waiting} call{'s' * (waiting > 1)} made before it" if waiting else ""
        if not len(busy):
            return self.answer(
                raw, Code.ON_ITS_WAY, f"was made {waited} ago and waits{behind} at {name}, which is free"
            )
        because = self.explain(table["id"][busy[0]].tobytes())
        return self.answer(
            raw, Code.ACTOR_BUSY, f"has waited {waited}{behind} at {name}, which runs one call at a time and is busy "
            f"with {because.subject}", "Make the actor's calls shorter, give it max_concurrency, or use more actors.",
            because,
        )  # fmt: skip

    def _no_room(self, raw: Row, name: str, waited: str, limits: dict[str, Row], busy: Array) -> Answer:
        """The actor runs several calls at a time, in groups, and the group of this one is full."""
        table = self.view.task_table
        method = raw["name"].rpartition(".")[2]
        default: Row = limits.get("", {"calls": 1, "methods": ()})
        group = next((group for group, row in limits.items() if method in row["methods"]), "")
        limit = limits.get(group, default)["calls"]
        same = [
            row for row in busy.tolist() if self._group_of(row, limits) == group or len(limits) == 1
        ]  # fmt: skip
        which = f"concurrency group {group!r}" if group else "max_concurrency"
        if not same:
            return self.answer(raw, Code.ON_ITS_WAY, f"was made {waited} ago and is on its way to {name}")
        labels = [self.view.task_label(table["id"][row].tobytes()) for row in same[:_NAMED_MAX]]
        more = f" and {len(same) - _NAMED_MAX} more" if len(same) > _NAMED_MAX else ""
        because = self.explain(table["id"][same[0]].tobytes())
        return self.answer(
            raw, Code.CONCURRENCY, f"has waited {waited} at {name}: {which} of {limit} is full, it is busy with "
            f"{', '.join(labels)}{more}", f"Raise the limit of {which}, or use more actors.", because,
        )  # fmt: skip

    def _group_of(self, row: int, limits: dict[str, Row]) -> str:
        name = self.view.store.texts[int(self.view.task_table["name"][row])].rpartition(".")[2]
        return next((group for group, known in limits.items() if name in known["methods"]), "")

    def _earlier(self, raw: Row, actor: bytes) -> Array:
        """Rows of open calls of the same caller to the same actor that were made before this one."""
        table = self.view.task_table
        rows = table.open_rows
        rows = rows[table["actor"][rows] == np.frombuffer(actor, "V16")[0]]
        words = np.ascontiguousarray(table["id"][rows]).view("<u8").reshape(-1, 2)
        me = np.frombuffer(raw["id"], "<u8")
        earlier = rows[(words[:, 0] == me[0]) & (words[:, 1].byteswap() < me[1:].byteswap()[0])]
        found: Array = earlier[np.isin(table["state"][earlier], (WAITING_ARGUMENTS, QUEUED, DISPATCHED))]
        return found

    def _busy(self, actor: bytes, worker: bytes) -> Array:
        """Rows of what runs in the actor now, longest first."""
        table = self.view.task_table
        rows = table.open_rows
        rows = rows[np.isin(table["state"][rows], (RUNNING, BLOCKED))]
        here = table["actor"][rows] == np.frombuffer(actor, "V16")[0]
        if worker:
            here |= table["worker"][rows] == table.workers.row(worker)
        rows = rows[here]
        found: Array = rows[np.argsort(table["started_at"][rows], kind="stable")]
        return found

    def call_failed(self, raw: Row, outcome: str, said: str) -> Answer:
        """A call failed because of its actor."""
        identifier = self.view.task_table["actor"][raw["row"]].tobytes()
        known = identifier in self.view.actor_table.rows
        if outcome == "actor_unavailable":
            return self.answer(
                raw, Code.ACTOR_UNAVAILABLE, f"failed: its actor was between two processes: {gist(said)}",
                "Give the actor max_task_retries so that such calls are made again.",
            )  # fmt: skip
        because = self.explain(identifier) if known else None
        predicate = f"failed: it was made to {because.subject}" if because is not None else f"failed: {said}"
        return self.answer(raw, Code.ACTOR_DIED, predicate, because=because)
