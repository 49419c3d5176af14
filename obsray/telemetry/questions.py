"""The analyses for programs: ``obsray.telemetry.why(task)``, ``obsray.telemetry.books()``, ...

Each takes ``session``: a directory, a name or part of one; without it, the one this program takes part in, else the
newest. They raise FileNotFoundError if there is no such session, LookupError for a thing or job that nothing is
recorded about, ValueError for arguments that mean nothing.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from obsray.ids import OBJECT_ID_BYTES, SEQUENCE_TASK, TASK_ID_BYTES, WORKER_ID_BYTES
from obsray.telemetry import asking, session_file
from obsray.telemetry.answers.replay import Change
from obsray.telemetry.snapshots import KeptViews
from obsray.telemetry.store import find_session, is_live
from obsray.telemetry.views import Views

Row = dict[str, Any]
T = TypeVar("T")
Session = str | os.PathLike[str] | None
Filters = Sequence[tuple[str, str, Any]]


def why(thing: Any, *, session: Session = None) -> Row:
    """Why a task, actor, placement group or object is as it is.

    ``thing``: a reference, an actor handle, a placement group, an id, or an id as hex. Answers ``{"sentence", "code",
    "root_code", "chain", "time", "facts", "fix", "eta_seconds", ...}``. Of a reference the task that makes it is
    explained, if there is one.
    """
    identifier = hex_of(thing)
    return _ask(session, lambda views: views.why(identifier, refresh=False))


def books(job: str | int | None = None, *, over_time: bool = False, session: Session = None) -> Row:
    """Where every second of every worker slot went, in the session or in one job, and whether more workers would help.

    ``job``: its number, or the hex that lists show. ``over_time``: also the seconds of each activity of each worker in
    equal pieces of the time, under ``over_time``.
    """
    number = job_of(job)

    def question(views: Any) -> Row:
        found: Row = views.books(number, refresh=False)
        return found | ({"over_time": views.slots_over_time(number, refresh=False)} if over_time else {})

    return _ask(session, question)


def critical_path(job: str | int | None = None, *, session: Session = None) -> Row:
    """What the duration of a job (by default the one with most tasks) consists of, piece by piece, and which tasks
    beside the path have how much slack."""
    number = job_of(job)
    return _ask(session, lambda views: views.critical_path(number, refresh=False))


def what_if(
    job: str | int | None = None,
    *,
    workers: float = 1.0,
    functions: dict[str, float] | None = None,
    network: float = 1.0,
    driver: float = 1.0,
    no_stragglers: bool = False,
    rough: bool = False,
    session: Session = None,
) -> Row:
    """How long a job would have taken: with so many times the workers (``inf`` for no limit), functions, network or
    driver so many times faster, without stragglers. Without any of these the usual changes are tried and ranked.

    ``error_ratio`` says how far off the replay without a change is. What cannot be told well is in ``refused``, with
    why, and gets no number, unless ``rough`` is true.
    """
    number = job_of(job)
    change = change_of(workers, functions or {}, network, driver, no_stragglers)
    return _ask(session, lambda views: views.what_if(number, None if change is None else [change], False, rough))


def stragglers(job: str | int | None = None, *, session: Session = None) -> Row:
    """Tasks that took much longer than others of their function, each with the likely cause, and how uneven functions
    are."""
    number = job_of(job)
    return _ask(session, lambda views: views.stragglers(number, refresh=False))


def different(chosen: Filters, among: Filters = (), *, session: Session = None) -> Row:
    """What is different about the tasks that fulfil all conditions ``chosen``, against the others (of those that
    fulfil ``among``): every label and measure, the most telling first.

    A condition is ``(column, operator, value)``, as for ``tasks``: ``different([("run_seconds", ">", 1.0)])``.
    """
    return _ask(session, lambda views: views.different(list(chosen), list(among), refresh=False))


def memory(*, session: Session = None) -> Row:
    """What fills the object store (call site, function, job, owner, age), its peak, and what looks leaked."""
    return _ask(session, lambda views: views.memory(refresh=False))


def profile(
    function: str | None = None, *, thing: Any = None, slow_vs_fast: bool = False, session: Session = None
) -> Row:
    """Where the code of tasks spent its time, out of samples: of one function (``"(driver)"``: of the driver), of one
    task, actor or worker (``thing``), or of everything.

    ``stacks`` (``frames`` from the outermost on, ``samples``, ``seconds``, ``cpu_seconds``), ``lines``, ``functions``.
    ``slow_vs_fast`` compares the slowest tenth of the function's tasks with the faster half.
    """
    identifier = "" if thing is None else hex_of(thing)
    return _ask(session, lambda views: views.profile(function or "", identifier, slow_vs_fast, refresh=False))


def stacks(thing: Any = None, *, everything: bool = False, session: Session = None) -> Row:
    """What the threads of a living session do now, in the whole cluster: ``stacks`` (``frames``, ``count``, ``who``).

    ``thing``: only this task, actor, worker or node; ``everything``: also threads of the runtime itself. Takes up to
    two seconds if a process does not answer. Raises LookupError if the session is over.
    """
    from obsray.telemetry.answers.stacks import merged

    identifier = "" if thing is None else hex_of(thing)
    directory = _directory(session)
    if not is_live(directory):
        raise LookupError(f"the session {directory.name} is over: nothing runs there any more")
    # Named, not imported: this layer knows nothing of the ones above.
    processes, silent = importlib.import_module("obsray.federation.stacks").everywhere(directory)
    return asking.ask(directory, lambda views: merged(views, processes, silent, identifier, everything))


def hangs(*, session: Session = None) -> Row:
    """What can never go on because it waits for itself (``kind`` ``cycle``), and what others wait for although it makes
    no progress (``stuck``), each with a sentence, its members and what helps."""
    return _ask(session, lambda views: views.hangs(refresh=False))


def post_mortem(thing: Any, *, session: Session = None) -> Row:
    """Why a process ended, what it did last and what it had: of a worker, of the last dead process of an actor, or of
    the one that a task ended with. ``thing``: an id or hex, a handle, a reference."""
    identifier = hex_of(thing)
    return _ask(session, lambda views: views.post_mortem(identifier, refresh=False))


def compare(before: Session, after: Session, *, threshold: float = 0.1) -> Row:
    """What became slower or fails in session ``after``, against ``before``: function by function, and new errors.

    ``threshold``: the share by which a median must be longer to count.
    """
    from obsray.telemetry.answers import compare as comparing

    views = [KeptViews(find_session(None if one is None else os.fspath(one))) for one in (before, after)]
    found = comparing.compare(views[0], views[1], threshold)
    for each in views:
        each.keep()
    return found


def change_of(
    workers: float = 1.0, functions: dict[str, float] | None = None, network: float = 1.0, driver: float = 1.0,
    no_stragglers: bool = False,
) -> Change | None:  # fmt: skip
    """What is to be different; None if nothing is. Raises ValueError for factors that are not above 0."""
    for name, factor in {"workers": workers, "network": network, "driver": driver, **(functions or {})}.items():
        if not isinstance(factor, int | float) or isinstance(factor, bool) or not factor > 0:
            raise ValueError(f"{name}: a factor is a number above 0, not {factor!r}")
    change = Change(workers, dict(functions or {}), network, driver, no_stragglers)
    return None if change == Change() else change


def factor(text: str | None) -> float:
    """``2``, ``1.5``, ``inf``, or nothing for 1. Raises ValueError."""
    try:
        return float(text) if text else 1.0
    except ValueError:
        raise ValueError(f"a factor is a number above 0, not {text!r}") from None


def function_factor(text: str) -> tuple[str, float]:
    """``name=2`` as a function's name and factor. Raises ValueError."""
    name, equals, number = text.rpartition("=")
    if not equals or not name:
        raise ValueError(f"a function is given as name=factor, not {text!r}")
    return name, factor(number)


def hex_of(thing: Any) -> str:
    """The id that somebody means, as hex. Raises ValueError."""
    for name in ("_actor_id", "id"):
        inner = getattr(thing, name, None)
        if inner is not None and not callable(inner) and not isinstance(thing, str | bytes):
            thing = inner
            break
    if isinstance(thing, str):
        return thing
    as_hex = getattr(thing, "hex", None)
    if not callable(as_hex):
        raise ValueError(f"{type(thing).__name__} names no task, actor, placement group or object")
    text = str(as_hex())
    # What a task returns stands for the task.
    is_result = len(text) == 2 * OBJECT_ID_BYTES and bytes.fromhex(text)[WORKER_ID_BYTES] == SEQUENCE_TASK
    return text[: 2 * TASK_ID_BYTES] if is_result else text


def job_of(job: str | int | None) -> int | None:
    """A job's number out of what people give. Raises ValueError."""
    if job is None or isinstance(job, int):
        return job
    try:
        return int(job, 16)
    except (TypeError, ValueError):
        raise ValueError(f"a job id is a hex number, as 'obsray list jobs' shows it, not {job!r}") from None


def _ask(session: Session, question: Callable[[Views], T]) -> T:
    return asking.ask(_directory(session), question)


def _directory(session: Session) -> Path:
    if session is None and session_file.current:
        found: Path = session_file.current
        return found
    return find_session(None if session is None else os.fspath(session))
