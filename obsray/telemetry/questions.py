"""The analyses for programs: ``obsray.telemetry.why(task)``, ``obsray.telemetry.books()``, ...

Each takes ``session``: a directory, a name or part of one; without it, the one this program takes part in, else the
newest. They raise FileNotFoundError if there is no such session, LookupError for a thing or job that nothing is
recorded about, ValueError for arguments that mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from obsray.telemetry import asking, session_file
from obsray.telemetry.store import find_session
from obsray.telemetry.views import Views

Row = dict[str, Any]
T = TypeVar("T")
Session = str | os.PathLike[str] | None


def why(thing: Any, *, session: Session = None) -> Row:
    """Why a task, actor, placement group or object is as it is.

    ``thing``: a reference, an actor handle, a placement group, an id, or an id as hex. Answers ``{"sentence", "code",
    "root_code", "chain", "time", "facts", "fix", "eta_seconds", ...}``. Of a reference the task that makes it is
    explained, if there is one.
    """
    identifier = hex_of(thing)
    return _ask(session, lambda views: views.why(identifier, refresh=False))


def books(job: str | int | None = None, *, session: Session = None) -> Row:
    """Where every second of every worker slot went, in the session or in one job, and whether more workers would help.

    ``job``: its number, or the hex that lists show.
    """
    number = job_of(job)
    return _ask(session, lambda views: views.books(number, refresh=False))


def hex_of(thing: Any) -> str:
    """The id that somebody means, as hex. Raises ValueError."""
    for name in ("_actor_id", "id"):
        inner = getattr(thing, name, None)
        if inner is not None and not callable(inner) and not isinstance(thing, str | bytes):
            thing = inner
            break
    if isinstance(thing, bytes):
        return thing.hex()
    if isinstance(thing, str):
        return thing
    as_hex = getattr(thing, "hex", None)
    if not callable(as_hex):
        raise ValueError(f"{type(thing).__name__} names no task, actor, placement group or object")
    text = str(as_hex())
    # The first result of a task stands for the task.
    is_result = len(text) == 40 and text[16:18] == "00"
    return text[:32] if is_result else text


def job_of(job: str | int | None) -> int | None:
    """A job's number out of what people give. Raises ValueError."""
    if job is None or isinstance(job, int):
        return job
    try:
        return int(job, 16)
    except (TypeError, ValueError):
        raise ValueError(f"a job id is a hex number, as 'obsray list jobs' shows it, not {job!r}") from None


def _ask(session: Session, question: Callable[[Views], T]) -> T:
    if session is None and session_file.current:
        directory: Path = session_file.current
    else:
        directory = find_session(None if session is None else os.fspath(session))
    return asking.ask(directory, question)
