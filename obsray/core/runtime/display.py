"""How errors that nobody catches look: the user's lines and the task's own traceback, no frames of the runtime."""

from __future__ import annotations

import sys
from types import TracebackType

from obsray.causes import users_frames
from obsray.errors import RayError


def take_uncaught_errors() -> None:
    """Show uncaught errors of the runtime without its frames, unless the program has a hook of its own."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = show


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own display, for errors of the runtime, and for a Ctrl-C that met it, without the frames between the
    user's call and the error."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, (RayError, KeyboardInterrupt)):
            link.__traceback__ = users_frames(link.__traceback__) or link.__traceback__
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    sys.__excepthook__(kind, error, error.__traceback__)
