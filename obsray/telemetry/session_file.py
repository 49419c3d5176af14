"""``session.json``: the facts about a session that several processes learn and all of them read.

Each process adds what it knows with ``update``, which is a read-modify-write under a lock; the file itself is
replaced by renaming, so a reader never sees half of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from obsray.telemetry.pids import stat_of
from obsray.telemetry.small_files import write_whole

#: The session that this process is part of, if it is part of one: what questions without an address are about.
current: Path | None = None


def root() -> Path:
    """The directory that holds this user's sessions."""
    return Path(tempfile.gettempdir()) / f"obsray-{os.getuid()}"


def read(directory: Path) -> dict[str, Any]:
    """The facts known so far; an empty dictionary if there is no such file."""
    try:
        values: dict[str, Any] = json.loads((Path(directory) / "session.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return values


def update(directory: Path, /, **facts: Any) -> dict[str, Any]:
    """Add facts and return all of them. Raises OSError if the directory is gone."""
    directory = Path(directory)
    lock = os.open(directory / "session.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        values = {**read(directory), **facts}
        write_whole(directory / "session.json", json.dumps(values, indent=1))
    finally:
        os.close(lock)
    return values


def is_live(directory: Path) -> bool:
    """Is the node of the session in ``directory`` running?"""
    return node_lives(read(directory))


def node_lives(facts: dict[str, Any]) -> bool:
    """Is the node running that these facts of a session name?"""
    if not facts.get("node_pid") or facts.get("stopped_at_ns"):
        return False
    found = stat_of(int(facts["node_pid"]))
    # A number is given to another process some time after its first one ended; when it started tells them apart.
    return found is not None and facts.get("node_started_ticks", found.started) == found.started


def sessions(base: Path | None = None) -> list[Path]:
    """The directories of this user's sessions (those below ``base`` if it is given), newest first."""
    found = [path for path in (base or root()).glob("s_*") if (path / "session.json").exists()]
    return sorted(found, key=lambda path: (read(path).get("started_at_ns", 0), path.name), reverse=True)
