"""Which session a command is about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from obsray.cli import archive, living
from obsray.cli.patience import Patience
from obsray.cli.problem import Problem
from obsray.dashboard import units

__all__ = ["Problem", "answers", "find", "views"]


def find(name: str | None) -> Path:
    """The directory of the session called ``name`` (a name, part of it, a path, or the address of a copy elsewhere,
    which is brought here); without one the newest that lives, else the newest that was recorded, which is said on
    stderr. Raises Problem."""
    from obsray.telemetry.store import find_session, is_live

    if name is not None and archive.is_address(name):
        return archive.get(name)
    try:
        directory = find_session(name)
    except FileNotFoundError as error:
        advice = (
            "Start one with 'obsray demo' or with obsray.init() in a program." if name is None
            else "'obsray history list' shows the sessions of this machine."
        )  # fmt: skip
        raise Problem(str(error), advice) from None
    if name is None and not is_live(directory):
        print(
            f"obsray: no session is running; this is the recorded session {units.plain(directory.name)}",
            file=sys.stderr,
        )
    return directory


def answers(directory: Path, patience: Patience | None = None) -> Any:
    """What answers the questions of ``Views`` about a session: its dashboard where that saves reading everything, else
    the views. Raises Problem if nothing was recorded there."""
    return living.of(directory, lambda: views(directory, patience))


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
