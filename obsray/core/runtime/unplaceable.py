"""A driver that waits for what no node has, or can give a process, is told so, once for each kind of need; it would
just be silent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from obsray.core.options import describe, floating
from obsray.core.protocol.lifecycle import ActorState, TaskState
from obsray.core.runtime.ownership import Entry, Task
from obsray.errors import RayError
from obsray.ids import task_of

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session

log = logging.getLogger("obsray.scheduling")

#: How long a ``get`` waits before it is looked at what it waits for.
AFTER_SECONDS = 10.0
#: How many tasks are looked at, so that a wait for very many costs no more.
TASKS_MAX = 1000
NODES_SECONDS_MAX = 10.0


class Unplaceable:
    """What a driver has been told of."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._said: set[str] = set()

    def look(self, entries: Iterable[Entry]) -> None:
        """Say on stderr which of these wait for resources that no node has, or for a process where there may be no
        more. Raises nothing."""
        with self._session.lock:
            found = list(self._needs(entries))
        if not found:
            return
        try:
            nodes = [row for row in self._session.request("nodes", NODES_SECONDS_MAX) if row["alive"]]
        except RayError:
            return
        for who, identifier, need in found:
            text = describe(need)
            if text in self._said:
                continue
            able = [row for row in nodes if fits(need, row["resources"])]
            if able and not all(row.get("full") and fits(need, row["available"]) for row in able):
                continue
            self._said.add(text)
            if able:
                log.warning(
                    "%s waits for a process: %s (setting workers_max). Each actor has one for as long as it lives; "
                    "`obsray why %s` says more", who, able[0]["full"], identifier.hex(),
                )  # fmt: skip
                continue
            most = {name: max((row["resources"].get(name, 0) for row in nodes), default=0) for name in need}
            has = ", ".join(f"{name} {floating(name, amount):g}" for name, amount in sorted(most.items()))
            log.warning(
                "%s needs %s, and no node has that (the most that one has: %s). It waits for a node that does; "
                "`obsray why %s` says more",
                who, text, has, identifier.hex(),
            )  # fmt: skip

    def _needs(self, entries: Iterable[Entry]) -> Iterator[tuple[str, bytes, dict[str, int]]]:
        """What each waits for in the end: its name, its id, and what it needs anywhere."""
        tasks, placements = self._session.ownership.tasks, self._session.placements
        waiting = [task_of(entry.id) for entry in entries]
        seen: set[bytes] = set()
        while waiting and len(seen) < TASKS_MAX:
            task: Task | None = tasks.get(waiting.pop())
            if task is None or task.id in seen:
                continue
            seen.add(task.id)
            if task.state is TaskState.WAITING_ARGUMENTS:
                waiting += [task_of(entry.id) for _, entry in task.arguments or ()]
            elif task.actor is not None:
                made_by = placements.get(task.actor.id)
                if task.actor.state is ActorState.PENDING_CREATION and made_by is not None:
                    spec: dict[str, Any] = made_by.dispatched_to.spec
                    if spec["placement"] is None:
                        yield f"actor {spec['class_name']}", task.actor.id, spec["resources"]
            elif task.state is TaskState.QUEUED and task.shape is not None and task.shape.placement is None:
                yield task.function.name, task.id, task.shape.resources


def fits(need: dict[str, int], total: dict[str, int]) -> bool:
    """Whether a node that has ``total`` could ever meet ``need``."""
    return all(amount <= total.get(name, 0) for name, amount in need.items())
