"""``obsray logs``: what processes printed, of all nodes, live or long after: listed, searched, followed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import identifiers, plain_json, units
from obsray.dashboard.tables import Column

#: How often followed files are looked at.
FOLLOW_SECONDS = 0.2
_COLUMNS = (
    Column("file", "File"), Column("node", "Node", "id"), Column("bytes", "Size", "size"),
    Column("written_at_ns", "Last written", "clock"),
)  # fmt: skip
_SEARCHING = (
    "grep", "since", "until", "level", "function", "task", "actor", "node", "stream",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    from obsray.telemetry.log_search import LogQuery, LogSearch
    from obsray.telemetry.table import QueryError

    directory = sessions.find(options.session)
    asked = {name: getattr(options, name) for name in _SEARCHING if getattr(options, name) is not None}
    if options.worker is None and not asked and not options.follow:
        return _print_listing(directory, options.json)
    view = sessions.views(directory)
    try:
        for name, noun in (("task", "tasks"), ("actor", "actors")):
            if name in asked:
                asked[name] = identifiers.resolve(view, noun, asked[name])
        if options.worker is not None:
            asked.update(_meant(view, options.worker))
        if "task" in asked:
            _check_task(view, asked)
        query = LogQuery.read(view.now_ns(), options.ignore_case, limit=options.tail, **asked)
    except identifiers.UnknownId as error:
        raise sessions.Problem(units.plain(error), f"See 'obsray list {noun}'.") from None
    except QueryError as error:
        raise sessions.Problem(units.plain(error), "See 'obsray logs --help'.") from None
    search = LogSearch(view, query)
    plain = set(asked) <= {"worker", "file"}
    follows = options.follow and view.store.is_live()
    rows = search.newest(final=not follows, each=plain)
    if search.left_out and not plain:
        print(f"obsray: {units.count(search.left_out)} earlier lines; --tail -1 shows all", file=sys.stderr)
    _print(rows, options.json, plain)
    while follows:
        # Asked before reading: what a process wrote last is still read after it ended.
        follows = view.store.is_live()
        _print(search.more(), options.json, plain)
        if follows:
            time.sleep(FOLLOW_SECONDS)
    if options.follow:
        _print(search.newest(each=True), options.json, plain)
    if not rows and not options.follow and not plain and not options.json:
        whose = next((name for name in ("actor", "task") if set(asked) == {name}), "")
        said = f"{whose} {units.short_id(asked[whose])} printed nothing" if whose else "no line matches"
        print(said, file=sys.stderr)
        return 1
    return 0


def _print_listing(directory: Path, json: bool) -> int:
    from obsray.telemetry import session_file
    from obsray.telemetry.log_files import log_files

    own = str(session_file.read(directory).get("node") or "")
    found: list[dict[str, Any]] = []
    for file in log_files(directory, own):
        facts = file.path.stat()
        found.append({
            "file": str(file.path.relative_to(directory / "logs")), "node": file.node or None, "bytes": facts.st_size,
            "written_at_ns": facts.st_mtime_ns,
        })  # fmt: skip
    found.sort(key=lambda row: -row["written_at_ns"])
    if json:
        print(plain_json.dumps({"session": directory.name, "rows": found, "total": len(found)}))
    elif found:
        print(output.table(_COLUMNS, found, output.width(), output.is_coloured(sys.stdout)))
    else:
        print(f"nothing was logged yet in {directory / 'logs'}")
    return 0


def _meant(view: Any, wanted: str) -> dict[str, str]:
    """The worker or file that a worker id, part of one, a pid or a name means."""
    from obsray.telemetry.log_files import log_files

    directory = view.store.session_dir
    there = log_files(directory, str(view.store.session().get("node") or ""))
    for file in there:
        if wanted in (file.name, str(file.path.relative_to(directory / "logs"))):
            return {"file": file.name}
    named = [file for file in there if file.path.stem == wanted]
    if named:
        return {"worker": named[0].worker} if named[0].worker else {"file": named[0].name}
    workers = {file.worker for file in there if file.worker and file.worker.startswith(wanted.lower())}
    if not workers and wanted.isdecimal():
        workers = {row["worker_id"] for row in view.workers(refresh=False) if str(row.get("pid")) == wanted}
        workers &= {file.worker for file in there}
    if len(workers) > 1:
        raise sessions.Problem(
            f"{units.plain(wanted)!r} could be {', '.join(sorted(workers)[:5])}", "Give more of the id."
        )
    if not workers:
        return _task_or_actor(view, wanted, directory)
    return {"worker": workers.pop()}


def _task_or_actor(view: Any, wanted: str, directory: Path) -> dict[str, str]:
    """What else an id may mean. An actor has the id of the task that made it, and printed more than that."""
    for name in ("actor", "task"):
        try:
            return {name: identifiers.resolve(view, f"{name}s", wanted)}
        except identifiers.UnknownId:
            pass
    raise sessions.Problem(
        f"no log of {units.plain(wanted)} in {directory / 'logs'}",
        "'obsray logs' lists the files there are; --task, --actor, --function and --grep search all of them. "
        "The logs of other nodes are at the head of their cluster.",
    )


def _check_task(view: Any, asked: dict[str, str]) -> None:
    """A task that never ran printed nothing; of one recorded before lines were told apart there is only its worker."""
    task = view.task(asked["task"], refresh=False) or {}
    worker = task.get("worker_id")
    if not worker:
        raise sessions.Problem(
            f"task {units.plain(asked['task'])} has not run on any worker yet", str(task.get("pending_reason") or "")
        )
    table = view.log_table
    if not table.workers_of(bytes.fromhex(asked["task"])) and not any(table.marks(worker, s) for s in ("out", "err")):
        asked.pop("task")
        asked["worker"] = worker
        print("obsray: it is not recorded which lines are this task's; this is all of its worker", file=sys.stderr)


def _print(rows: list[dict[str, Any]], json: bool, plain: bool) -> None:
    coloured = output.is_coloured(sys.stdout)
    streams = {row["stream"] for row in rows}
    for row in rows:
        if json:
            print(plain_json.dumps(row))
            continue
        text = units.plain(row["text"], lines=True)
        tone = "bad" if row["stream"] == "err" else "off"
        if not plain:
            print(f"{output.paint(_prefix(row), tone, coloured)} {text}")
        else:
            print(f"{output.paint(row['stream'], tone, coloured)} {text}" if len(streams) > 1 else text)
    sys.stdout.flush()


def _prefix(row: dict[str, Any]) -> str:
    """Who wrote a line: the task if there is one, else the process."""
    at = units.clock(row["time_ns"]) if row["time_ns"] else "-"
    if row["task_id"]:
        return f"{at} {units.plain(row['name'] or 'task')} {units.short_id(row['task_id'])} {row['stream']}"
    return f"{at} {units.plain(row['file'])}"
