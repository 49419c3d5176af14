"""Which session a command is about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from obsray.cli.patience import Patience
from obsray.dashboard import units


class Problem(Exception):
    """Something the user can do something about: the message says what, ``advice`` says what to do next."""

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


def find(name: str | None) -> Path:
    """The directory of the session called ``name`` (a name, part of it or a path); without one the newest that lives,
    else the newest that was recorded, which is said on stderr. Raises Problem."""
    from obsray.telemetry.store import find_session, is_live

    try:
        directory = find_session(name)
    except FileNotFoundError as error:
        raise Problem(str(error), "Start one with 'obsray demo' or with obsray.init() in a program.") from None
    if name is None and not is_live(directory):
        print(
            f"obsray: no session is running; this is the recorded session {units.plain(directory.name)}",
            file=sys.stderr,
        )
    return directory


def views(directory: Path, patience: Patience | None = None) -> Any:
    """The views over a session, up to date. Raises Problem if nothing was recorded there."""
    from obsray.dashboard.source import open_views

    try:
        view = open_views(directory)
        if patience is not None:
            patience.says("reading records", lambda: f"{view.samples.events_total:,} so far")
        view.refresh()
    except FileNotFoundError as error:
        raise Problem(f"nothing is recorded in {directory}: {error}", "Give another session with --session.") from None
    return view
