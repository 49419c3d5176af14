"""``obsray history``, ``obsray report``: sessions after their end."""

from __future__ import annotations

import argparse
import os
import secrets
from pathlib import Path

from obsray.cli import output, sessions
from obsray.dashboard import plain_json, units
from obsray.dashboard.tables import Column

_TOKEN_BYTES = 32


def run_list(options: argparse.Namespace) -> int:
    """The sessions on this machine, newest first."""
    from obsray.telemetry import session_file
    from obsray.telemetry.store import is_live

    if options.directory is not None:
        return _list_elsewhere(options)
    rows = []
    for directory in session_file.sessions():
        facts = session_file.read(directory)
        size = sum(path.stat().st_size for path in (directory / "telemetry").rglob("*") if path.is_file())
        rows.append({
            "session": directory.name, "state": "live" if is_live(directory) else "ended",
            "started_at_ns": facts.get("started_at_ns"), "bytes": size, "directory": str(directory),
        })  # fmt: skip
    if options.json:
        print(plain_json.dumps(rows))
        return 0
    columns = [
        Column("session", "Session"), Column("state", "State"), Column("started_at_ns", "Started", "clock"),
        Column("bytes", "Recorded", "size"), Column("directory", "Directory"),
    ]  # fmt: skip
    print(output.table(columns, rows, output.width(), False) if rows else "no session on this machine")
    return 0


def _list_elsewhere(options: argparse.Namespace) -> int:
    from obsray.cli import archive

    if not archive.is_address(options.directory):
        raise sessions.Problem(
            f"{options.directory} is no address", "obsray history list shows this machine's; s3://bucket/path others."
        )
    rows = archive.sessions_at(options.directory)
    if options.json:
        print(plain_json.dumps(rows))
        return 0
    columns = [Column("session", "Session"), Column("bytes", "Recorded", "size"), Column("address", "Address")]
    print(output.table(columns, rows, output.width(), False) if rows else f"no session in {options.directory}")
    return 0


def run_serve(options: argparse.Namespace) -> int:
    """The dashboard over a session directory, until Ctrl-C."""
    from obsray.cli import web

    directory = sessions.find(options.directory)
    token = directory / "token"
    if not token.exists():
        # A copy without its key gets one of its own: whoever can write here may look.
        try:
            descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(_TOKEN_BYTES))
        except OSError as error:
            raise sessions.Problem(
                f"{directory} has no key and none can be written: {error.strerror}", "Copy it to where you may write."
            ) from None
    options.session = str(directory)
    return web.run(options)


def run_archive(options: argparse.Namespace) -> int:
    """Copy a session to a place elsewhere."""
    from obsray.cli import archive
    from obsray.telemetry.store import is_live

    if not archive.is_address(options.target):
        raise sessions.Problem("where to?", "obsray history archive SESSION s3://bucket/path (or file:///path).")
    directory = sessions.find(options.directory)
    if is_live(directory):
        raise sessions.Problem(f"{directory.name} still runs", "Archive it after its end: then it is complete.")
    address, size = archive.put(directory, options.target)
    if options.json:
        print(plain_json.dumps({"session": directory.name, "address": address, "bytes": size}))
    else:
        print(f"{units.size(size)} in {address}\nobsray history serve {address}")
    return 0


def run_report(options: argparse.Namespace) -> int:
    """One HTML file about a session."""
    from obsray.report import page

    directory = sessions.find(options.directory or options.session)
    view = sessions.views(directory)
    path = Path(options.output or f"report-{directory.name}.html")
    try:
        with open(path, "wb") as out:
            out.writelines(page.write(view, options.tasks))
            size = out.tell()
    except OSError as error:
        raise sessions.Problem(f"cannot write {path}: {error.strerror}", "Give another file with --output.") from None
    left_out = max(0, len(view.task_table) - options.tasks)
    if options.json:
        print(plain_json.dumps({"file": str(path), "bytes": size, "tasks_left_out": left_out}))
        return 0
    print(f"{units.size(size)} in {path}; it opens in a browser, without anything else")
    if left_out:
        print(f"{units.count(left_out)} tasks are only in its sums; --tasks N takes more of them in")
    return 0
