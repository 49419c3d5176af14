"""``obsray dashboard``: the link that opens it; serves it if nobody does."""

from __future__ import annotations

import argparse
from pathlib import Path

from obsray.cli import sessions
from obsray.dashboard import plain_json


def run(options: argparse.Namespace) -> int:
    """Print the link and, if no process serves this session's dashboard, serve it until Ctrl-C."""
    from obsray.dashboard.source import is_alive
    from obsray.telemetry import session_file

    directory = sessions.find(options.session)
    try:
        token = (directory / "token").read_bytes().hex()
    except OSError as error:
        raise sessions.Problem(
            f"the key of {directory.name} cannot be read: {error.strerror}",
            "Only the user who started the session can open it.",
        ) from None
    facts = session_file.read(directory)
    url = facts.get("dashboard_url")
    if isinstance(url, str) and url and is_alive(facts.get("dashboard_pid")):
        _print_link(directory, url, token, options.json)
        return 0
    return _serve(directory, token, options)


def _serve(directory: Path, token: str, options: argparse.Namespace) -> int:
    from obsray.dashboard import process

    def ready(url: str) -> None:
        _print_link(directory, url, token, options.json)
        if not options.json:
            print("Ctrl-C ends it.", flush=True)

    try:
        process.run(directory, options.port, ready)
    except (OSError, ValueError) as error:
        raise sessions.Problem(f"cannot serve the dashboard: {error}", "Try another --port.") from None
    return 0


def _print_link(directory: Path, url: str, token: str, json: bool) -> None:
    link = f"{url}/auth?token={token}"
    if json:
        print(plain_json.dumps({"session": directory.name, "url": url, "link": link, "token": token}), flush=True)
    else:
        print(link, flush=True)
