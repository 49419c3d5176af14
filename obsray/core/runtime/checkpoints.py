"""An actor that saves its state, so that a new process goes on where the old one was.

The class says how (``__obsray_save__``, ``__obsray_restore__``), its options say when. A state is saved between two
calls. What ended since is written down before its result leaves, if calls may be retried (``max_task_retries``): a new
process runs the constructor, restores the state and repeats exactly those calls, in their order. Their callers have the
results already; a caller that does not, because the process died in between, calls again and gets the result of the
repetition. So the state has the effect of each call once. A call that had not ended is the business of its caller.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

from obsray.causes import format_user_traceback
from obsray.core.protocol import messages as m
from obsray.core.runtime.producers import ABANDONED
from obsray.core.runtime.running import Running
from obsray.core.runtime.serialization import deserialize, serialize
from obsray.core.runtime.values import Unreadable
from obsray.core.runtime.waiting import Waiter
from obsray.core.system.checkpoints import DISTANT_BYTES_MAX, CheckpointFiles
from obsray.errors import ActorCheckpointError
from obsray.ids import owner_of
from obsray.telemetry.events import Outcome

if TYPE_CHECKING:
    from obsray.core.runtime.actor import ActorRunner

SAVE_HOOK, RESTORE_HOOK = "__obsray_save__", "__obsray_restore__"
#: A state is saved earlier than asked for if so much would have to be repeated.
CALLS_MAX = 10_000
CALLS_BYTES_MAX = 64 << 20
#: How long results must be able to leave before a state is saved without them.
FLUSH_SECONDS = 5.0
#: A caller whose result was lost calls again as soon as it hears where the actor is now.
ANSWERS_KEPT_SECONDS = 60.0


class Ended(NamedTuple):
    """A call as it is written down. ``items``: how many a generator yielded; -1 if it came to its end itself."""

    task: bytes
    attempt: int
    name: str
    payload: bytes
    arguments: list[tuple[Any, int, bytes]] | None
    returns: int
    trace: bytes
    options: dict[str, Any] | None
    items: int
    retried: bool


class Answer(NamedTuple):
    """What a repeated call came to: its value (of a generator: the values), or what it raised."""

    value: Any
    error: BaseException | None


class Checkpoints:
    """The checkpoints of one actor in its worker. Everything happens on the main thread."""

    def __init__(self, runner: ActorRunner, wishes: dict[str, Any]) -> None:
        self.runner = runner
        self.executor = runner.executor
        self.session = runner.executor.session
        self.every: int = wishes["every"] or CALLS_MAX
        self.seconds: float | None = wishes["seconds"]
        #: Whether calls are written down and repeated.
        self.repeats: bool = wishes["repeats"]
        self.requested = False
        self.files = self._open(wishes.get("distant") is True)
        self._since = 0
        self._saved_at = time.monotonic()
        self._answers: dict[bytes, Answer] = {}
        self._answers_until = 0.0
        self._answering = False

    def _open(self, distant: bool) -> CheckpointFiles:
        """The actor's files. ``distant``: what counts are those at its home, another node, which outlive this one."""
        directory = self.session.directory / "checkpoints" / self.runner.id.hex()
        if not distant:
            return CheckpointFiles(directory)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)
        for name in self._ask_home(what="list") if self.runner.incarnation else ():
            if m.is_checkpoint_file(name):
                (directory / name).write_bytes(self._ask_home(what="read", file=name))
        return CheckpointFiles(directory, self._keep_at_home)

    def _keep_at_home(self, file: str, data: bytes, append: bool, gone: list[str]) -> None:
        if len(data) > DISTANT_BYTES_MAX:
            raise ValueError(
                f"{len(data):,} bytes cannot be kept by the node of the actor's owner, which takes "
                f"{DISTANT_BYTES_MAX:,} at once: save less, or have the actor run on that node "
                "(NodeAffinitySchedulingStrategy)"
            )
        self._ask_home(what="keep", file=file, data=data, append=append, gone=gone)

    def _ask_home(self, **arguments: Any) -> Any:
        # Not a wait of the call that runs: its resources stay its own.
        local = self.session.local
        running, local.running = local.running, None
        try:
            return self.session.request("checkpoint", actor=self.runner.id, **arguments)
        finally:
            local.running = running

    # --- a new process ----------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Become what the actor was. Raises ActorCheckpointError if its hook does."""
        started, files = time.perf_counter(), self.files
        number, state = files.number, files.state
        if state is not None:
            references = self._held()
            value, self._answers = deserialize(state)
            try:
                getattr(self.runner.instance, RESTORE_HOOK)(value)
            except BaseException as error:
                raise self._error(RESTORE_HOOK, error) from None
            self._register(self._held() - references)
        calls, files.calls, files.state = files.calls, [], None
        for record in calls:
            self._repeat(Ended(*pickle.loads(record)))
        self._since = len(calls)
        self._answers_until = time.monotonic() + ANSWERS_KEPT_SECONDS
        self.session.emitter.actor_restored(
            time.time_ns(), self.runner.id, self.session.worker, number, len(calls), len(state or b""),
            time.perf_counter() - started, self.runner.incarnation & 0xFFFF,
        )  # fmt: skip

    def _held(self) -> set[bytes]:
        with self.session.lock:
            return {e.id for e in self.session.ownership.entries.values() if not e.owned and e.local > 0}

    def _register(self, identifiers: set[bytes]) -> None:
        """Nobody handed these references out, so nobody has told their owners; what they still have, they keep."""
        by_owner: dict[bytes, list[bytes]] = {}
        with self.session.lock:
            for identifier in sorted(identifiers):
                entry = self.session.ownership.entries.get(identifier)
                if entry is not None and not entry.registered:
                    entry.registered = 1
                    by_owner.setdefault(owner_of(identifier), []).append(identifier)
            for owner, group in by_owner.items():
                self.session.ownership.tell_owner(owner, group, self.session.worker)
            self.session.after()

    def _repeat(self, call: Ended) -> None:
        executor, session, now = self.executor, self.session, time.time_ns()
        fields = (
            call.task, call.attempt, 0, call.payload, call.arguments, call.returns, call.trace, call.options,
        )  # fmt: skip
        context = executor._contexts[0]
        running = Running(self.runner.stand_in(call.name), 0, 0, now, context, now, fields)
        error: BaseException | None = None
        value = None
        try:
            function, args, kwargs = executor.begin(running, 0)
            value = _call(function, args, kwargs)
            if call.returns < 0:
                value = _take(value, call.items)
            elif call.returns > 0 and type(value) is GeneratorType:
                value = list(value)
                value = value[0] if call.returns == 1 and value else value
        except BaseException as raised:
            error = raised
        executor.slots.pop(0, None)
        session.local.running = None
        session.emitter.idle(0)
        if running.borrowed is not None:
            self._register(set(running.borrowed))
        if not call.retried:
            self._answers[call.task] = Answer(value, error)
        ended = time.time_ns()
        session.emitter.actor_call_replayed(
            ended, self.runner.id, call.task, session.emitter.intern(call.name),
            int(Outcome.OK if error is None else Outcome.APP_ERROR), (ended - running.ready_at) / 1e9,
        )  # fmt: skip

    # --- calls ----------------------------------------------------------------------------------------------------

    def perform(self, running: Running) -> None:
        """Run a call, or answer it if it has been repeated; then save the state if it is time."""
        answer = self._answers.pop(running.task, None) if self._answers else None
        if answer is None:
            self.executor.execute(running)
        else:
            self._answer(running, answer)
        self.save_if_due()

    def _answer(self, running: Running, answer: Answer) -> None:
        executor, now = self.executor, time.time_ns()
        running.loaded = running.link.state[running.number]
        running.started_at = running.fetched_at = running.ready_at = now
        running.actor = self.runner.id
        executor.slots[0] = self.session.local.running = running
        self._answering = True
        try:
            if answer.error is not None:
                raise answer.error
            value = answer.value
            if running.returns < 0:
                executor.producers.stream(running, iter(value))
            values, extra = executor.store_results(running, value)
            executor.end(running, Outcome.OK, values, extra, time.time_ns())
        except BaseException as error:
            executor.fail(running, error, time.time_ns())
        finally:
            self._answering = False

    def ended(self, running: Running, outcome: Outcome, retried: bool) -> None:
        """A call has ended and its result has not left: write it down. Raises nothing."""
        name = running.loaded.name
        if self._answering or running.number < 0 or outcome is Outcome.ACTOR_DIED or name.endswith(".__ray_ready__"):
            return
        self._since += 1
        if not self.repeats:
            return
        payload, arguments = running.payload, running.arguments
        try:
            if arguments is not None:
                read = [
                    (position, m.ARGUMENT_INLINE, data if kind == m.ARGUMENT_INLINE else self._bytes_of(data))
                    for position, kind, data in arguments
                ]
                payload = next((data for position, _, data in read if position == "*"), payload)
                arguments = [argument for argument in read if argument[0] != "*"]
            sent = self.executor.producers.last if running.returns < 0 else -1
            record = Ended(
                running.task, running.attempt, name, payload, arguments, running.returns,
                running.trace, running.options, sent, retried,
            )  # fmt: skip
            self.files.append(pickle.dumps(tuple(record), 5))
        except Exception as error:
            self.runner.give_up(self._error("the record of its calls", error))

    def _bytes_of(self, identifier: bytes) -> bytes:
        values = self.session.values
        try:
            return bytes(values.pinned_view(identifier))
        except Unreadable as lost:
            return bytes(values.recovered(identifier, str(lost)))

    # --- saving -----------------------------------------------------------------------------------------------------

    def idle_seconds(self) -> float | None:
        """How long the actor may sleep before a state is due."""
        if self.seconds is None or not self._since:
            return None
        return max(0.0, self._saved_at + self.seconds - time.monotonic())

    def save_if_due(self) -> None:
        """Save the state if so many calls have ended, or so much time has passed, or a call has asked for it."""
        if not self._since and not self.requested:
            return
        if (
            self.requested or self._since >= self.every or self.files.calls_bytes > CALLS_BYTES_MAX
            or (self.seconds is not None and time.monotonic() >= self._saved_at + self.seconds)
        ):  # fmt: skip
            self._save()

    def _save(self) -> None:
        if self.executor.exiting:
            return
        self._let_results_leave()
        if self._answers and time.monotonic() > self._answers_until:
            self._answers = {}
        started, hook = time.perf_counter(), SAVE_HOOK
        try:
            state = getattr(self.runner.instance, SAVE_HOOK)()
            data = serialize((state, self._answers), "the state of the actor").to_bytes()
            hook = "the file of its state"
            number = self.files.save(data)
        except BaseException as error:
            self.runner.give_up(self._error(hook, error))
            return
        self.session.emitter.actor_checkpoint_saved(
            time.time_ns(), self.runner.id, self.session.worker, number, self._since, len(data),
            time.perf_counter() - started,
        )  # fmt: skip
        self._since, self.requested, self._saved_at = 0, False, time.monotonic()

    def _let_results_leave(self) -> None:
        """A state that has the effect of a call must not be kept while the call's result can still be lost."""
        session, deadline = self.session, time.monotonic() + FLUSH_SECONDS
        while True:
            with session.lock:
                session.send_everything()
                behind = any(link.writing for link in session.reactor.links.values())
            if not behind or time.monotonic() > deadline:
                return
            session.drive_or_sleep(Waiter(1), 0.005)

    def _error(self, what: str, error: BaseException) -> ActorCheckpointError:
        text = format_user_traceback(error)
        who = f"{self.runner.spec['class_name']} ({self.runner.id.hex()}, pid {os.getpid()})"
        return ActorCheckpointError(
            f"the actor {who} is dead: {what} failed, so its state could not be kept: {error!r}\n{text}",
            self.runner.id.hex(),
        )


def _call(function: Any, args: Any, kwargs: Any) -> Any:
    from obsray.core.runtime.executor import call_user_code

    return call_user_code(function, args, kwargs)


def _take(items: Any, count: int) -> list[Any]:
    """What the generator yielded then; all of it for ``ABANDONED``, which stands for no bound."""
    found: list[Any] = []
    iterator = iter(items)
    while count == ABANDONED or len(found) < count:
        try:
            found.append(next(iterator))
        except StopIteration:
            break
    if hasattr(iterator, "close"):
        iterator.close()
    return found
