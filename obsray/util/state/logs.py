"""Log files of a session."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from obsray.telemetry import session_file
from obsray.telemetry.store import is_live
from obsray.telemetry.views import Views
from obsray.util.state.sessions import ask, directory_of

#: How often a log that is followed is looked at.
_LOOK_SECONDS = 0.2


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = 30,
) -> dict[str, list[str]]:
    """Names of the log files of a session, by whose they are: ``worker_out``, ``worker_err``, ``system``.

    Raises ValueError for a node of which no log files are here.
    """
    directory = directory_of(address)
    _check_node(directory, node_id, node_ip)
    found: dict[str, list[str]] = {}
    for path in sorted((directory / "logs").glob(glob_filter or "*")):
        if path.is_file():
            kind = f"worker_{path.suffix[1:]}" if path.name.startswith("worker-") else "system"
            found.setdefault(kind, []).append(path.name)
    return found


def get_log(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    filename: str | None = None,
    actor_id: str | None = None,
    task_id: str | None = None,
    pid: int | None = None,
    follow: bool = False,
    tail: int = -1,
    timeout: float = 30,
    suffix: str = "out",
    encoding: str | None = "utf-8",
    errors: str | None = "replace",
    submission_id: str | None = None,
    attempt_number: int = 0,
    _interval: float | None = None,
    *,
    worker_id: str | None = None,
) -> Iterator[str]:
    """The lines of one log: a file of ``list_logs``, or what a process wrote to stdout (``suffix="err"``: stderr).

    The process is that of an actor (its newest), an attempt of a task (all that the process wrote), a worker or a pid;
    ``submission_id`` means the driver of a submitted job. ``tail`` lines from the end, all for -1; ``follow`` goes on
    with what is written until the session ends. Works for dead processes. Raises ValueError unless exactly one is given
    and for a node whose logs are not here, FileNotFoundError if there is no such log.
    """
    given: dict[str, Any] = {
        "filename": filename, "actor_id": actor_id, "task_id": task_id, "worker_id": worker_id, "pid": pid,
        "submission_id": submission_id,
    }  # fmt: skip
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(f"give exactly one of {', '.join(given)}, got {', '.join(named) or 'none'}")
    if suffix not in ("out", "err"):
        raise ValueError(f'suffix={suffix!r}: must be "out" or "err"')
    if not isinstance(tail, int) or tail < -1:
        raise ValueError(f"tail={tail!r}: must be a number of lines, or -1 for all")
    directory = directory_of(address)
    _check_node(directory, node_id, node_ip)
    if submission_id is not None:
        filename = f"job-driver-{submission_id}.log"
    elif filename is None:
        worker = ask(address, lambda views: _worker_of(views, named, attempt_number))
        filename = f"worker-{worker}.{suffix}"
    path = directory / "logs" / Path(filename).name
    if path.name != filename or not path.is_file():
        raise FileNotFoundError(f"there is no log {filename!r}; list_logs() tells which there are")
    return _lines(path, directory if follow else None, tail, encoding or "utf-8", errors or "strict")


def _check_node(directory: Path, node_id: str | None, node_ip: str | None) -> None:
    """Each node keeps the output of its own workers."""
    own = session_file.read(directory).get("node")
    if node_id is not None and node_id.lower() != own:
        raise ValueError(
            f"node_id={node_id!r}: the logs of that node are on its own machine; here are those of node {own}"
        )
    if node_ip is not None and node_ip not in ("127.0.0.1", "localhost"):
        raise ValueError(f"node_ip={node_ip!r}: logs are kept on the machine of their node; here are those of this one")


def _worker_of(views: Views, named: dict[str, Any], attempt: int) -> str:
    ((key, value),) = named.items()
    rows: list[dict[str, Any]]
    if key == "task_id":
        rows = views.tasks([("task_id", "=", str(value).lower())], limit=1, refresh=False)["rows"]
        rows = [*rows, *(row for row in views.earlier_attempts().get(str(value).lower(), []))]
        asked_for = [row for row in rows if row["attempt"] == attempt]
        rows = asked_for or rows[:1]
    else:
        rows = [
            row for row in (views.actors if key == "actor_id" else views.workers)(refresh=False) if row[key] == value
        ]
    workers = [row["worker_id"] for row in rows if row["worker_id"]]
    if not workers:
        raise FileNotFoundError(f"no process is known for {key}={value!r}")
    return str(workers[-1])


def _lines(path: Path, following: Path | None, tail: int, encoding: str, errors: str) -> Iterator[str]:
    with path.open(encoding=encoding, errors=errors) as log:
        yield from log if tail < 0 else deque(log, tail)
        while following is not None:
            lives = is_live(following)
            yield from log
            if not lives:
                return
            line = ""
            while not line and is_live(following):
                line = log.readline()
                if not line:
                    time.sleep(_LOOK_SECONDS)
            if line:
                yield line
