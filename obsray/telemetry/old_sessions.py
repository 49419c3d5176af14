"""Sessions that have ended go when there are too many. Imports nothing heavy: nodes do it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from obsray.telemetry import session_file

#: A session that has not said in this time who its node is never had one.
UNSAID_SECONDS_MAX = 3600.0


def remove_old_sessions(directory: Path, keep: int) -> list[Path]:
    """Remove the ended sessions beside ``directory`` beyond the newest ``keep``; returns what was removed.

    A session is ended if its node is. One that has not said yet who its node is counts after an hour.
    """
    now = time.time()
    others = [path for path in directory.parent.glob("s_*") if path != directory and not path.is_symlink()]
    if len(others) <= keep:
        return []
    ended: list[tuple[float, Path]] = []
    for path in others:
        if not path.is_dir():
            continue
        facts = session_file.read(path)
        at = facts.get("started_at_ns", 0) / 1e9 or path.stat().st_mtime
        if not session_file.is_live(path) and (facts or now - at > UNSAID_SECONDS_MAX):
            ended.append((at, path))
    doomed = [path for _, path in sorted(ended, reverse=True)[keep:]]
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)
    return doomed
