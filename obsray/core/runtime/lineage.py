"""Machine: which tasks are remembered so that their stored results can be made again, and the making.

A task whose result lies in the object store stays here after it has finished, as long as one of its stored results is
referred to or another remembered task would need it. Its arguments stay with it: results of remembered tasks as
entries without a value (*let go*: their room is free, and they are made again like lost ones), everything else that
this process owns, and what is inline, as it is. What others own in the store is not kept for this alone.

A lost value is made again when somebody waits for it, by running its task once more (``Verdicts.again``). That uses up
a retry. Results of the task that are still there are not made a second time, so each object has one visible value.

Invariants: ``needed`` counts, for each entry, the remembered tasks that have it as an argument; ``bytes`` is the sum
over the remembered tasks and at most ``bytes_max``; a task is remembered or runs, never both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from obsray.core.protocol.lifecycle import ActorState, TaskState, advance
from obsray.core.runtime.ownership import PENDING, Entry, Ownership, Task
from obsray.core.runtime.serialization import dump_error
from obsray.core.runtime.verdicts import Verdicts
from obsray.errors import (
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectReconstructionFailedLineageEvictedError,
    ObjectReconstructionFailedMaxAttemptsExceededError,
    StreamingGeneratorReplayInconsistentError,
)
from obsray.ids import (
    SEQUENCE_ACTOR,
    SEQUENCE_DETACHED_ACTOR,
    SEQUENCE_PUT,
    index_of,
    kind_of,
    mark_of,
    owner_of,
    task_of,
)

#: What remembering a task costs besides its arguments, about.
TASK_BYTES = 1000
#: An attempt that was given back this often because of a lost argument fails.
GIVEN_BACK_MAX = 10
_ACTORS = (SEQUENCE_ACTOR, SEQUENCE_DETACHED_ACTOR)


class Remembered:
    """A finished task with stored results. ``task`` is None if it cannot run again, and ``why`` says why."""

    __slots__ = ("alive", "bytes", "held", "name", "needs", "pinned", "task", "why")

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: Task | None = None
        self.why: type[ObjectLostError] = ObjectReconstructionFailedMaxAttemptsExceededError
        #: Ids of its stored results that somebody needs.
        self.alive: set[bytes] = set()
        #: All its arguments; those pinned on its behalf; ids of those counted in ``needed``.
        self.pinned: list[Entry] = []
        self.held: list[Entry] = []
        self.needs: list[bytes] = []
        self.bytes = 0


class Lineage:
    """What one process remembers of its finished tasks."""

    def __init__(self, ownership: Ownership, verdicts: Verdicts, emitter: Any, bytes_max: int) -> None:
        self.ownership = ownership
        self.verdicts = verdicts
        self.emitter = emitter
        self.bytes_max = bytes_max
        self.bytes = 0
        self.remembered: dict[bytes, Remembered] = {}
        self.needed: dict[bytes, int] = {}
        #: Whether any value was ever lost: before that, nobody looks.
        self.losses = False
        #: Puts a task that is to run again into its line.
        self.enqueue: Callable[[Task], None] = lambda task: None
        #: Tells that the last missing argument of a task exists or has failed.
        self.argument_ready: Callable[[Task, Entry], None] = lambda task, entry: None
        #: Those that can run again, oldest first.
        self._able: dict[bytes, Remembered] = {}
        self._wanted: deque[Entry] = deque()
        self._making = False
        self._forgotten: deque[Remembered] = deque()
        self._forgetting = False
        #: Lost results of tasks that run (again) without making them: looked at once more when those have ended.
        self._later: dict[bytes, list[Entry]] = {}
        #: Of streaming tasks that run: their items that lie in the store, and those they are to yield again.
        self._items: dict[bytes, set[bytes]] = {}
        self._asked: dict[bytes, list[Entry]] = {}
        self._given_back: dict[bytes, int] = {}
        ownership.on_needed = self.need
        ownership.on_unreferenced = self._unreferenced

    # --- remembering ------------------------------------------------------------------------------------------------

    def item_stored(self, task: bytes, entry: Entry, worker: bytes) -> None:
        """A streaming task that still runs has yielded a value that lies in the store."""
        self.place(entry.id, worker)
        self._items.setdefault(task, set()).add(entry.id)
        self.ownership.on_finished = self._finished

    def place(self, identifier: bytes, worker: bytes) -> None:
        """A value in the store lies at the node of ``worker``. To be said before the value is: who waits for it here
        has it fetched."""
        mark = mark_of(worker)
        if mark != mark_of(self.ownership.worker):
            self.ownership.places[identifier] = mark
        else:
            self.ownership.places.pop(identifier, None)

    def keep(self, task: Task, worker: bytes) -> None:
        """A task with results in the store is about to finish; its entries have their values."""
        entries = self.ownership.entries
        if task.returns < 0:
            alive = self._items_end(task)
        else:
            alive = {
                entry.id
                for entry in task.entries
                if (type(entry.value) is int and entries.get(entry.id) is entry)
                or (entry.id in self.needed and entry.id in entries)
            }
        if not alive:
            return
        record = self.remembered[task.id] = Remembered(task.function.name)
        record.alive = alive
        if task.retries_left == 0:
            record.why = ObjectReconstructionFailedMaxAttemptsExceededError
            return
        record.task = task
        record.bytes = TASK_BYTES + len(task.payload)
        for entry in task.pinned or ():
            self._hold(record, entry)
        self._able[task.id] = record
        self.bytes += record.bytes
        while self.bytes > self.bytes_max:
            self._evict(next(iter(self._able)))

    def _hold(self, record: Remembered, entry: Entry) -> None:
        record.pinned.append(entry)
        if kind_of(entry.id) in _ACTORS:
            # An actor ends with its handles, whatever they were used for.
            return
        if type(entry.value) is bytes:
            record.bytes += len(entry.value)
        elif entry.owned:
            made_by = task_of(entry.id)
            known = self.remembered.get(made_by)
            if made_by in self.ownership.tasks or (known is not None and known.task is not None):
                self.needed[entry.id] = self.needed.get(entry.id, 0) + 1
                record.needs.append(entry.id)
                return
        else:
            return
        entry.pins += 1
        record.held.append(entry)

    def _evict(self, task: bytes) -> None:
        record = self._able[task]
        record.why = ObjectReconstructionFailedLineageEvictedError
        self._let_go(task, record)

    def _let_go(self, task: bytes, record: Remembered) -> None:
        """The task will not run again from here: what was held for that is free."""
        if self._able.pop(task, None) is None:
            return
        self.bytes -= record.bytes
        record.task, record.pinned = None, []
        self._forgotten.append(record)
        if self._forgetting:
            return
        # One after the other, because a chain of tasks may be longer than a stack.
        self._forgetting = True
        try:
            while self._forgotten:
                self._release(self._forgotten.popleft())
        finally:
            self._forgetting = False

    def _release(self, record: Remembered) -> None:
        ownership = self.ownership
        held, needs = record.held, record.needs
        record.held, record.needs = [], []
        for identifier in needs:
            left = self.needed[identifier] - 1
            if left:
                self.needed[identifier] = left
                continue
            del self.needed[identifier]
            entry = ownership.entries.get(identifier)
            if entry is not None:
                ownership.look_at(entry)
        ownership.unpin(held)

    def _unreferenced(self, entry: Entry) -> bool:
        """Nobody refers to a stored value any more; it stays as an entry if it may have to be made again for others."""
        if entry.id in self.needed:
            if entry.state != PENDING:
                self.ownership.discard((entry.id,))
                self.ownership.lose(entry, "")
                self.losses = True
            return True
        made_by = task_of(entry.id)
        record = self.remembered.get(made_by)
        if record is not None:
            record.alive.discard(entry.id)
            if not record.alive:
                del self.remembered[made_by]
                self._let_go(made_by, record)
        return False

    # --- losing -----------------------------------------------------------------------------------------------------

    def lost(self, entry: Entry, detail: str) -> None:
        """No copy of a stored value is left. It is made again when somebody needs it, now if somebody waits."""
        self.losses = True
        if entry.owned:
            self.emitter.object_missing(
                self.verdicts.clock_ns(), entry.id, entry.value if type(entry.value) is int else 0,
                self.emitter.intern(detail),
            )  # fmt: skip
        self.ownership.lose(entry, detail or "no copy of it is left")
        if entry.waiters and entry.owned:
            self.need(entry)

    def waits_again(self, task: Task) -> bool:
        """Whether an argument of a QUEUED task is lost: then it waits until that exists again."""
        missing = [entry for _, entry in task.arguments or () if entry.state == PENDING]
        if not missing:
            return False
        self._wait_for(task, missing)
        return True

    def _wait_for(self, task: Task, missing: list[Entry]) -> None:
        advance(task, TaskState.WAITING_ARGUMENTS)
        task.unready = len(missing)
        task.ready = self.argument_ready
        for entry in missing:
            self.emitter.task_arguments_waiting(self.verdicts.clock_ns(), task.id, entry.id)
        for entry in missing:
            self.ownership.wait_for(entry, task)

    def gave_back(self, task: Task, argument: bytes, detail: str) -> bool:
        """A worker could not read an argument of an attempt. False if that happened too often: the task has failed."""
        self.ownership.on_finished = self._finished
        count = self._given_back[task.id] = self._given_back.get(task.id, 0) + 1
        if count <= GIVEN_BACK_MAX:
            return True
        text = f"{task.function.name}: its argument {argument.hex()} could not be read {count} times: {detail}"
        self.verdicts.argument_lost(task, ObjectLostError(argument.hex(), message=text))
        return False

    # --- making again -----------------------------------------------------------------------------------------------

    def need(self, entry: Entry) -> None:
        """Somebody waits for a lost value of this process."""
        self._wanted.append(entry)
        if self._making:
            return
        self._making = True
        try:
            while self._wanted:
                self._make(self._wanted.popleft())
        finally:
            self._making = False

    def _make(self, entry: Entry) -> None:
        detail = self.ownership.lost.get(entry.id)
        if detail is None:
            return
        made_by = task_of(entry.id)
        if made_by in self.ownership.tasks:
            self.ownership.on_finished = self._finished
            self._later.setdefault(made_by, []).append(entry)
            return
        record = self.remembered.get(made_by)
        if record is None or record.task is None:
            self._fail(entry, *self._unable(entry, record))
            return
        task = record.task
        reason = self._obstacle(record, task)
        if reason:
            self._fail(entry, ObjectReconstructionFailedError, reason)
            return
        self._run_again(entry, task, record, detail)

    def _unable(self, entry: Entry, record: Remembered | None) -> tuple[type[ObjectLostError], str]:
        if record is None:
            if kind_of(entry.id) == SEQUENCE_PUT:
                return ObjectLostError, "it was made by put(), and what was put cannot be computed again"
            return ObjectReconstructionFailedError, "nothing is remembered of the task that made it"
        if record.why is ObjectReconstructionFailedLineageEvictedError:
            return record.why, (
                f"{record.name}, which made it, was forgotten to bound memory; raise lineage_bytes_max "
                f"({self.bytes_max} bytes)"
            )
        return record.why, (
            f"{record.name}, which made it, may not run again: it has no retries left (max_retries of a task, "
            "max_task_retries of an actor)"
        )

    def _obstacle(self, record: Remembered, task: Task) -> str:
        """Why a remembered task cannot run again after all."""
        if task.actor is not None and task.actor.state is ActorState.DEAD:
            return f"{record.name}, which made it, is a call of an actor that is dead"
        for entry in record.pinned:
            if kind_of(entry.id) in _ACTORS or self.ownership.entries.get(entry.id) is entry:
                continue
            owner = "" if entry.owned else f", which worker {owner_of(entry.id).hex()} owned,"
            return f"{record.name}, which made it, cannot run again: its argument {entry.id.hex()}{owner} was let go"
        return ""

    def _run_again(self, entry: Entry, task: Task, record: Remembered, detail: str) -> None:
        ownership, entries = self.ownership, self.ownership.entries
        streams = task.returns < 0
        results = tuple(entries[each] for each in sorted(record.alive)) if streams else task.entries
        wanted = [each for each in results if each is entry or self._is_wanted(each)]
        self.emitter.object_rebuilding(self.verdicts.clock_ns(), entry.id, task.id, task.retries_left)
        del self.remembered[task.id]
        pinned = [each for each in record.pinned if entries.get(each.id) is each]
        for each in pinned:
            each.pins += 1
        self._let_go(task.id, record)
        for each in wanted:
            ownership.lost.pop(each.id, None)
        task.options = {name: value for name, value in (task.options or {}).items() if name != "wanted"} or None
        if streams:
            self._asked[task.id] = wanted
            self._items[task.id] = {each.id for each in results}
        if streams or len(wanted) < len(results):
            # The first item has index 1.
            indices = [index_of(each.id) - streams for each in wanted]
            task.options = {**(task.options or {}), "wanted": indices}
        task.pinned = pinned or None
        task.dispatched_to, task.cancelled, task.unready = None, False, 0
        ownership.tasks[task.id] = task
        self.verdicts.run_again(task, f"its result {entry.id.hex()} was lost: {detail or 'it had been let go'}")
        failed = [each for _, each in task.arguments or () if each.failed]
        missing = [each for _, each in task.arguments or () if each.state == PENDING]
        if failed:
            advance(task, TaskState.QUEUED)
            self.verdicts.argument_failed(task, failed[0])
        elif missing:
            if task.actor is not None:
                # Calls of actors wait in their line.
                self.enqueue(task)
            self._wait_for(task, missing)
        else:
            advance(task, TaskState.QUEUED)
            self.enqueue(task)

    def _is_wanted(self, entry: Entry) -> bool:
        if entry.id not in self.ownership.lost or self.ownership.entries.get(entry.id) is not entry:
            return False
        return entry.local > 0 or entry.pins > 0 or any(self.ownership.holders.get(entry.id, {}).values())

    def _fail(self, entry: Entry, error: type[ObjectLostError], reason: str) -> None:
        detail = self.ownership.lost.pop(entry.id)
        happened = f"is lost ({detail})" if detail else "had been let go and is needed again"
        text = f"object {entry.id.hex()} {happened} and cannot be made again: {reason}"
        self.emitter.object_rebuild_failed(self.verdicts.clock_ns(), entry.id, self.emitter.intern(text))
        self.ownership.discard((entry.id,))
        self.ownership.fulfil(entry, dump_error(error(entry.id.hex(), message=text)), failed=True)

    # --- the end of tasks that ran again ------------------------------------------------------------------------------

    def made_again(self, task: Task, values: list[Any], contained: Any, worker: bytes) -> None:
        """Results of an attempt that was not the first: only those that do not exist count."""
        ownership = self.ownership
        for index, entry in enumerate(task.entries):
            value = values[index]
            if value is None:
                continue
            group = contained[index] if contained else ()
            if ownership.entries.get(entry.id) is entry and entry.state == PENDING:
                if type(value) is int:
                    self.place(entry.id, worker)
                ownership.fulfil(entry, value, False, group)
                ownership.arrive(group, worker)
                if type(value) is bytes:
                    # An earlier attempt may have returned something larger.
                    ownership.discard((entry.id,))
                continue
            ownership.refuse(group, worker)
            if entry.id not in ownership.entries:
                ownership.discard((entry.id,))

    def item_again(self, task: bytes, index: int, value: Any, contained: Any, worker: bytes) -> bool:
        """An item of a stream that was yielded before. False if nobody wants it a second time.

        It is wanted if it is lost: be it that the task runs again for it, or that it does so for another reason, and
        then it may well wait for whoever waits for the item.
        """
        entry = self.ownership.entries.get(task + (index + 1).to_bytes(4, "big"))
        if entry is None or entry.state != PENDING:
            return False
        if type(value) is int:
            self.item_stored(task, entry, worker)
        self.ownership.fulfil(entry, value, False, contained)
        return True

    def _items_end(self, task: Task) -> set[bytes]:
        """A streaming task has ended well: those of its items that lie in the store and are needed."""
        text = f"{task.function.name} ran again because an item of it was lost, and did not yield it this time"
        self._give_up_items(task.id, dump_error(StreamingGeneratorReplayInconsistentError(text)))
        entries = self.ownership.entries
        found = self._items.pop(task.id, ())
        return {each for each in found if each in self.needed or (each in entries and not entries[each].failed)}

    def _give_up_items(self, task: bytes, error: bytes) -> None:
        for entry in self._asked.pop(task, ()):
            if entry.state == PENDING and self.ownership.entries.get(entry.id) is entry:
                # The node remembers that it is lost.
                self.ownership.discard((entry.id,))
                self.ownership.fulfil(entry, error, failed=True)

    def check_invariants(self) -> None:
        """Raise AssertionError if a count contradicts what is remembered. For simulation and tests."""
        able = {task: record for task, record in self.remembered.items() if record.task is not None}
        assert able == self._able and self.bytes == sum(record.bytes for record in able.values()) <= self.bytes_max
        assert not self.remembered.keys() & self.ownership.tasks.keys(), "a task is remembered and runs"
        counts: dict[bytes, int] = {}
        for record in able.values():
            for identifier in record.needs:
                counts[identifier] = counts.get(identifier, 0) + 1
        assert counts == self.needed, "an entry is needed more or less often than remembered"
        for record in self.remembered.values():
            assert record.alive and record.alive <= self.ownership.entries.keys()
        for identifier, entry in self.ownership.entries.items():
            if entry.owned and identifier in self.ownership.lost:
                assert entry.state == PENDING and entry.value is None

    def _finished(self, task: Task, error: bytes) -> None:
        """A task has ended, however. Items for which it ran again fail as results of a task would, with its error."""
        self._given_back.pop(task.id, None)
        if task.returns < 0 and task.state is not TaskState.FINISHED:
            self._items.pop(task.id, None)
            self._give_up_items(task.id, error)
        for entry in self._later.pop(task.id, ()):
            if entry.id in self.ownership.lost:
                self.need(entry)
