"""Log files of a session, of all nodes whose logs are here: at the head those of the whole cluster."""

from __future__ import annotations

import fnmatch
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from obsray.core.protocol import addresses
from obsray.telemetry import session_file
from obsray.telemetry.log_bounds import first_byte, is_bounded, missing
from obsray.telemetry.log_files import LogFile, log_files, looked_at
from obsray.telemetry.log_search import LogQuery, LogSearch
from obsray.telemetry.store import is_live
from obsray.telemetry.views import Views
from obsray.util.state.sessions import ask, directory_of

#: How often a log that is followed is looked at.
_LOOK_SECONDS = 0.2
#: The head has new lines of other nodes after about half a second; nobody waits longer for them.
_COPIES_SECONDS_MAX = 10.0
_SUFFIXES = ("out", "err")


def list_logs(
    address: str | None = None,
    node_id: str | None = None,
    node_ip: str | None = None,
    glob_filter: str | None = None,
    timeout: float = 30,
) -> dict[str, list[str]]:
    """Names of the log files of a session, by whose they are: ``worker_out``, ``worker_err``, ``system``.

    Without ``node_id`` and ``node_ip`` those of the session's own node. Raises ValueError for a node of which no log
    files are here.
    """
    _check_timeout(timeout)
    directory = directory_of(address)
    node = _node(directory, node_id, node_ip) or _own(directory)
    _wait_for_copies(directory, [node], timeout)
    found: dict[str, list[str]] = {}
    for file in log_files(directory, _own(directory)):
        if file.node == node and fnmatch.fnmatch(file.name, glob_filter or "*"):
            found.setdefault(f"worker_{file.stream}" if file.worker else "system", []).append(file.name)
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

    The process is that of an actor (its newest), a worker or a pid; of an attempt of a task, only the lines that it
    wrote; ``submission_id`` means the driver of a submitted job. ``tail`` lines from the end, all for -1; ``follow``
    goes on with what is written until the session ends. Works for dead processes and nodes.
    Raises ValueError unless exactly one is given and for a node whose logs are not here, FileNotFoundError if there is
    no such log, TypeError or ValueError for a ``timeout`` that is no number of seconds. ``_interval``: look
    so often (seconds) for what is new, and give an empty text if nothing is.
    """
    given: dict[str, Any] = {
        "filename": filename, "actor_id": actor_id, "task_id": task_id, "worker_id": worker_id, "pid": pid,
        "submission_id": submission_id,
    }  # fmt: skip
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(f"give exactly one of {', '.join(given)}, got {', '.join(named) or 'none'}")
    if suffix not in _SUFFIXES:
        raise ValueError(f'suffix={suffix!r}: must be "out" or "err"')
    if not isinstance(tail, int) or isinstance(tail, bool) or tail < -1:
        raise ValueError(f"tail={tail!r}: must be a number of lines, or -1 for all")
    if not isinstance(attempt_number, int) or isinstance(attempt_number, bool) or attempt_number < 0:
        raise ValueError(f"attempt_number={attempt_number!r}: must be a number >= 0")
    for name in ("filename", "actor_id", "task_id", "worker_id", "submission_id"):
        if name in named and not isinstance(named[name], str):
            raise TypeError(f"{name}={named[name]!r}: must be text; of a reference or handle its id as hex")
    _check_timeout(timeout)
    directory = directory_of(address)
    node = _node(directory, node_id, node_ip)
    if submission_id is not None:
        filename = f"job-driver-{submission_id}.log"
    elif filename is None:
        worker = _find_worker(address, named, attempt_number, node, directory, timeout)
        filename = f"worker-{worker}.{suffix}"
    file = _file(directory, filename, node, timeout)
    following = directory if follow else None
    if task_id is not None and ask(address, lambda views: views.log_table.marks(file.worker, suffix)) is not None:
        query = LogQuery(
            task=task_id.lower(), attempt=attempt_number, worker=file.worker, stream=suffix, node=file.node, limit=tail
        )
        return _lines_of_task(address, query, following, _interval)
    return _lines(file.path, following, tail, encoding or "utf-8", errors or "strict", _interval)


def _check_timeout(timeout: float) -> None:
    """Raises TypeError, ValueError. Zero is allowed: what is on its way from other nodes is not waited for."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout={timeout!r}: must be a number of seconds")
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout!r}: must be a number of seconds, 0 or more")


def _own(directory: Path) -> str:
    return str(session_file.read(directory).get("node") or "")


def _node(directory: Path, node_id: str | None, node_ip: str | None) -> str | None:
    """The node that is meant, None for any. Raises ValueError if its logs are not here."""
    if node_id is None and node_ip is None:
        return None
    facts, own = session_file.read(directory), _own(directory)
    here = {file.node for file in log_files(directory, own)} | {own, *(facts.get("nodes") or {})}
    if node_id is not None:
        if node_id.lower() not in here:
            raise ValueError(
                f"node_id={node_id!r}: the logs of that node are on its own machine or at the head of its cluster; "
                f"here are those of {', '.join(sorted(here))}"
            )
        return node_id.lower()
    hosts = {node: addresses.parse(known["address"])[0] for node, known in (facts.get("nodes") or {}).items()}
    if node_ip in ("127.0.0.1", "localhost", hosts.get(own)):
        return own
    for node, host in hosts.items():
        if host == node_ip and node in here:
            return str(node)
    known = ", ".join(sorted({*hosts.values(), "127.0.0.1"}))
    raise ValueError(
        f"node_ip={node_ip!r}: no logs of such a node are here, only of {known}; "
        "those of all nodes are at the head of the cluster"
    )


def _wait_for_copies(directory: Path, nodes: list[str], timeout: float) -> None:
    """Until the copies of what other nodes that live have logged are as new as this question."""
    asked_at = time.time()
    deadline = time.monotonic() + min(timeout, _COPIES_SECONDS_MAX)
    others = [node for node in nodes if node != _own(directory)]
    while others and is_live(directory) and time.monotonic() < deadline:
        known = session_file.read(directory).get("nodes") or {}
        others = [node for node in others if (known.get(node) or {}).get("alive")]
        others = [node for node in others if looked_at(directory, node) < asked_at]
        if others:
            time.sleep(_LOOK_SECONDS / 4)


def _file(directory: Path, name: str, node: str | None, timeout: float) -> LogFile:
    own = _own(directory)

    def there() -> list[LogFile]:
        return [file for file in log_files(directory, own) if file.name == name and node in (None, file.node)]

    found = there()
    if not any(file.node == own for file in found):
        # A worker's id says whose it is, but only to nodes; its file has been copied or will be.
        nodes = [file.node for file in found] or list(session_file.read(directory).get("nodes") or ())
        _wait_for_copies(directory, nodes if node is None else [node], timeout)
        found = there()
    if not found:
        raise FileNotFoundError(f"there is no log {name!r}; list_logs() tells which there are")
    # Many nodes have a log of one name; the session's own is meant if nothing is said.
    return next((file for file in found if file.node == own), found[0])


def _find_worker(
    address: str | None, named: dict[str, Any], attempt: int, node: str | None, directory: Path, timeout: float
) -> str:
    """The worker that is meant. Its records may still be on their way from another node."""
    deadline = time.monotonic() + min(timeout, _COPIES_SECONDS_MAX)
    while True:
        try:
            return ask(address, lambda views: _worker_of(views, named, attempt, node))
        except FileNotFoundError:
            nodes = session_file.read(directory).get("nodes") or {}
            others = any(known.get("alive") for other, known in nodes.items() if other != _own(directory))
            if not others or not is_live(directory) or time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_SECONDS)


def _worker_of(views: Views, named: dict[str, Any], attempt: int, node: str | None) -> str:
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
    if key == "pid" and workers:
        # Numbers of processes are those of a machine.
        store = views.store
        there = {
            file.worker: file.node
            for file in log_files(store.session_dir, str(store.session().get("node") or ""))
            if file.worker in workers and node in (None, file.node)
        }
        workers = [worker for worker in workers if worker in there]
    if not workers:
        raise FileNotFoundError(f"no process is known for {key}={value!r}")
    return str(workers[-1])


def _lines_of_task(
    address: str | None, query: LogQuery, following: Path | None, interval: float | None
) -> Iterator[str]:
    search: LogSearch | None = None

    def found(views: Views) -> list[dict[str, Any]]:
        nonlocal search
        if search is None:
            search = LogSearch(views, query)
            return search.newest(final=following is None)
        search.views = views
        return search.more()

    yield from (row["text"] + "\n" for row in ask(address, found))
    while following is not None:
        lives = is_live(following)
        yield from (row["text"] + "\n" for row in ask(address, found))
        if not lives:
            return
        if interval is not None:
            yield ""
        time.sleep(interval or _LOOK_SECONDS)


def _lines(
    path: Path, following: Path | None, tail: int, encoding: str, errors: str, interval: float | None
) -> Iterator[str]:
    with path.open(encoding=encoding, errors=errors) as log:
        begin = first_byte(log.fileno()) if is_bounded(path.name) else 0
        if begin:
            log.seek(begin)
            yield missing(begin) + "\n"
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
                    if interval is not None:
                        yield ""
                    time.sleep(interval or _LOOK_SECONDS)
            if line:
                yield line
