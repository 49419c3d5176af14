"""Why something does not run yet, is slow, failed, or is where it is: one sentence, the facts, and the root cause.

``why(view, id)`` follows what a thing waits for, link by link, to the root: a task to its arguments' producers, to
whoever holds what it lacks, to its placement group; a call to its actor; an object to its task. A chain that comes back
to where it was is a deadlock, and is called one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray import ids
from obsray.telemetry.answers.answer import Answer, Code
from obsray.telemetry.answers.gpus import why_gpu
from obsray.telemetry.answers.still import add_halt
from obsray.telemetry.answers.tasks import Tasks
from obsray.telemetry.answers.things import Things

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

Row = dict[str, Any]
#: A chain longer than this is cut off.
LINKS_MAX = 100
_ACTORS = (ids.SEQUENCE_ACTOR, ids.SEQUENCE_DETACHED_ACTOR)
_GROUPS = (ids.SEQUENCE_GROUP, ids.SEQUENCE_DETACHED_GROUP)


class UnknownThing(LookupError):
    """Nobody ever mentioned what was asked about."""


def why(view: Views, identifier: str, refresh: bool = True) -> Row:
    """Why the task, actor, placement group or object with this id (hex), or the GPU ``gpu:NODE/0``, is as it is.

    ``sentence``; ``code`` and ``root_code`` (names of ``Code``); ``chain`` from the thing to the root; ``time``: where
    the time went, in order; ``facts``, ``fix``, ``eta_seconds``. Raises UnknownThing, and ValueError for what is no id.
    """
    if refresh:
        view.refresh()
    if identifier.startswith("gpu:"):
        return why_gpu(view, identifier).to_row()
    try:
        raw = bytes.fromhex(identifier)
    except ValueError:
        raise ValueError(f"an id is a hex number, not {identifier!r}") from None
    answer = Explainer(view).explain(raw)
    if len(raw) == ids.TASK_ID_BYTES:
        _add_gpu(view, raw, answer)
    return answer.to_row()


def _add_gpu(view: Views, task: bytes, answer: Answer) -> None:
    """What a task had its GPU do, and why that idled meanwhile."""
    row = view.task_table.index.row(task)
    if row < 0 or view.gpu_table.of(task) is None:
        return
    times = view.task_table
    gpu = view.task_gpu(task, int(times["started_at"][row]), int(times["ended_at"][row]) or view.now_ns())
    if gpu is None or not gpu["activities"]:
        return
    answer.facts.append(f"GPU {', '.join(map(str, gpu['gpus']))} {gpu['why']}")
    if answer.code in (Code.RUNNING, Code.FINISHED) and not answer.fix:
        answer.fix = gpu["fix"]


class Explainer(Tasks, Things):
    """Answers for one question; remembers which things it is in the middle of explaining."""

    def __init__(self, view: Views) -> None:
        self.view = view
        self.now = view.now_ns()
        self.live = view.store.is_live()
        self.path: list[tuple[bytes, str]] = []

    def explain(self, identifier: bytes) -> Answer:
        """The answer about whatever the id names. Raises UnknownThing."""
        try:
            subject, make = self._about(identifier)
        except UnknownThing:
            if not self.path:
                raise
            # Its records are on a node that is gone, or were never made.
            name = identifier.hex()[:16]
            return Answer("thing", identifier.hex(), "", name, "", Code.UNKNOWN, "is not recorded in this session")
        if any(identifier == known for known, _ in self.path):
            return self._circle(identifier, subject)
        if len(self.path) >= LINKS_MAX:
            return Answer("thing", identifier.hex(), "", subject, "", Code.UNKNOWN, "is where this chain is cut off")
        self.path.append((identifier, subject))
        try:
            made = make(identifier)
            add_halt(self.view, identifier, made)
            return made
        finally:
            self.path.pop()

    def _about(self, identifier: bytes) -> tuple[str, Callable[[bytes], Answer]]:
        view = self.view
        if len(identifier) == ids.OBJECT_ID_BYTES:
            return f"object {ids.short(identifier)}", self.object
        if len(identifier) == ids.TASK_ID_BYTES:
            kind = ids.kind_of(identifier)
            if kind in _GROUPS and identifier in view.group_table.rows:
                return self.group_subject(identifier), self.group
            if kind in _ACTORS and identifier in view.actor_table.rows:
                return self.actor_subject(identifier), self.actor
            if view.task_table.index.row(identifier) >= 0:
                return view.task_label(identifier), self.task
        elif len(identifier) != ids.WORKER_ID_BYTES:
            raise ValueError(f"{identifier.hex()} is no id: tasks, actors and groups have 16 bytes, objects 20")
        raise UnknownThing(f"nothing is recorded about {identifier.hex()}")

    def _circle(self, identifier: bytes, subject: str) -> Answer:
        """What waits for itself."""
        at = next(number for number, (known, _) in enumerate(self.path) if known == identifier)
        names = [name for _, name in self.path[at:]]
        return Answer(
            "circle", identifier.hex(), "", subject, "", Code.DEADLOCK,
            f"waits for itself: {' → '.join([*names, subject])}; none of them can ever go on",
            "Do not wait in get() inside of something that the awaited task needs: pass the reference on, or give the "
            "inner task resources (or an actor) of its own.",
        )  # fmt: skip
