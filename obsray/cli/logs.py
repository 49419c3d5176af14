"""``obsray logs``: what processes printed, read from the session's ``logs`` directory."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import identifiers, plain_json, units
from obsray.dashboard.tables import Column

#: How often a followed file is looked at.
FOLLOW_SECONDS = 0.2
BLOCK_BYTES = 1 << 16
#: A line longer than this is printed in pieces, so that a file without line ends cannot fill the memory.
LINE_BYTES_MAX = 1 << 16
_COLUMNS = (Column("file", "File"), Column("bytes", "Size", "size"), Column("written_at_ns", "Last written", "clock"))


def run(options: argparse.Namespace) -> int:
    directory = sessions.find(options.session)
    logs = directory / "logs"
    if options.task:
        wanted = _worker_of_task(directory, options.task)
    elif options.worker:
        wanted = options.worker
    else:
        return _print_listing(logs, directory, options.json)
    files = _files(logs, directory, wanted)
    if not files:
        raise sessions.Problem(
            f"no log of {units.plain(wanted)} in {logs}",
            "'obsray logs' lists the files there are. Output of workers of other nodes is in the logs of their own "
            "sessions, and here as far as it was for a program of this node.",
        )
    if options.json:
        print(plain_json.dumps({path.name: [line for _, line in _tail(path, options.tail)[0]] for path in files}))
        return 0
    return _print_files(files, options.tail, options.follow, directory)


def _print_listing(logs: Path, directory: Path, json: bool) -> int:
    found = [
        {"file": str(path.relative_to(logs)), "bytes": path.stat().st_size, "written_at_ns": path.stat().st_mtime_ns}
        for path in sorted(_there(logs), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    ]
    if json:
        print(plain_json.dumps({"session": directory.name, "rows": found, "total": len(found)}))
    elif found:
        print(output.table(_COLUMNS, found, output.width(), output.is_coloured(sys.stdout)))
    else:
        print(f"nothing was logged yet in {logs}")
    return 0


def _worker_of_task(directory: Path, text: str) -> str:
    view = sessions.views(directory)
    try:
        task = view.task(identifiers.resolve(view, "tasks", text), refresh=False) or {}
    except identifiers.UnknownId as error:
        raise sessions.Problem(units.plain(error), "See 'obsray list tasks'.") from None
    if not task.get("worker_id"):
        raise sessions.Problem(
            f"task {units.plain(text)} has not run on any worker yet", str(task.get("pending_reason") or "")
        )
    return str(task["worker_id"])


def _files(logs: Path, directory: Path, wanted: str) -> list[Path]:
    """The log files that a worker id, part of one, a pid or a name means. Only names that lie in ``logs`` can match."""
    there = sorted(_there(logs))
    named = [path for path in there if path.name == wanted or path.stem == wanted]
    if named:
        return named
    found = [path for path in there if path.stem.startswith(f"worker-{wanted.lower()}")]
    workers = {path.stem for path in found}
    if len(workers) > 1:
        raise sessions.Problem(
            f"{units.plain(wanted)!r} could be {', '.join(sorted(workers)[:5])}", "Give more of the id."
        )
    if not found and wanted.isdecimal():
        view: Any = sessions.views(directory)
        ids = [row["worker_id"] for row in view.workers(refresh=False) if str(row.get("pid")) == wanted]
        found = [path for path in there if path.stem.removeprefix("worker-") in ids]
    return found


def _there(logs: Path) -> list[Path]:
    """The log files of a session, and its copies of what workers of other nodes printed for its programs."""
    paths = [*logs.glob("*"), *logs.glob("remote/*/worker-*")]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _print_files(files: list[Path], tail: int, follow: bool, directory: Path) -> int:
    coloured = output.is_coloured(sys.stdout)
    ends: dict[Path, int] = {}
    for path in files:
        lines, ends[path] = _tail(path, tail)
        for _, line in lines:
            _print_line(path, line, len(files) > 1, coloured)
    if not follow:
        return 0
    from obsray.telemetry.store import is_live

    while True:
        # Asked before reading: what a process wrote last is still read after it ended.
        ended = not is_live(directory)
        for path in files:
            ends[path] = _print_new(path, ends[path], len(files) > 1, coloured)
        sys.stdout.flush()
        if ended:
            return 0
        time.sleep(FOLLOW_SECONDS)


def _print_new(path: Path, start: int, prefixed: bool, coloured: bool) -> int:
    """Print complete lines from ``start`` on; returns where to go on."""
    with path.open("rb") as file:
        file.seek(start)
        while True:
            line = file.readline(LINE_BYTES_MAX)
            if not line or (not line.endswith(b"\n") and len(line) < LINE_BYTES_MAX):
                return start
            start += len(line)
            _print_line(path, line.decode(errors="replace").rstrip("\n"), prefixed, coloured)


def _print_line(path: Path, line: str, prefixed: bool, coloured: bool) -> None:
    text = units.plain(line, lines=True)
    tone = "bad" if path.suffix == ".err" else "off"
    print(f"{output.paint(path.suffix[1:], tone, coloured)} {text}" if prefixed else text)


def _tail(path: Path, lines_max: int) -> tuple[list[tuple[int, str]], int]:
    """The last ``lines_max`` lines (all if negative) with their offsets, and where the file ended.

    Reads backwards in blocks, so the end of a huge file costs little.
    """
    size = path.stat().st_size
    start, newlines, data = size, 0, b""
    with path.open("rb") as file:
        while start and (lines_max < 0 or newlines <= lines_max):
            step = min(BLOCK_BYTES, start)
            start -= step
            file.seek(start)
            block = file.read(step)
            newlines += block.count(b"\n")
            data = block + data
    complete = data.splitlines(keepends=True)
    if lines_max >= 0:
        complete = complete[len(complete) - min(lines_max, len(complete)) :]
    found, offset = [], size - sum(map(len, complete))
    for line in complete:
        found.append((offset, line.decode(errors="replace").rstrip("\r\n")))
        offset += len(line)
    return found, size
