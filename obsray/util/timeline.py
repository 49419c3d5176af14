"""What ran when, as a trace for Perfetto and ``chrome://tracing``: ``obsray.timeline()``."""

from __future__ import annotations

import json
import os
from typing import Any

from obsray.core.runtime.session import current_or_none
from obsray.telemetry.timeline import write
from obsray.util.state import ask


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """The trace events of this session up to now, or None after writing them to ``filename`` as a JSON array.

    Times (``ts``, ``dur``) are microseconds. A long session is better written to a file: there it never is in memory
    as a whole. Raises RuntimeError without a running runtime (``obsray timeline`` on the command line takes recorded
    sessions, too) and OSError if the file cannot be written.
    """
    session = current_or_none()
    if session is None or session.closed:
        raise RuntimeError(
            "timeline() needs a running runtime: call obsray.init() first, or use `obsray timeline` on the command "
            "line for a session that is over"
        )
    if filename is None:
        events: list[dict[str, Any]] = ask(None, lambda views: json.loads(b"".join(write(views, refresh=False))))
        return events
    with open(filename, "wb") as out:
        ask(None, lambda views: out.writelines(write(views, refresh=False)))
    return None


__all__ = ["timeline"]
