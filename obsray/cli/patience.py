"""While an answer takes longer than a second, one line on the terminal says what goes on; it is gone afterwards."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO

from obsray.dashboard import units

#: From when on something takes long, and how often the line is written anew.
LONG_SECONDS = 1.0
AGAIN_SECONDS = 0.2


class Patience:
    """A context in which ``says`` tells what goes on now. Nothing is written where nobody sees it."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._what, self._count = "", _nothing
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def says(self, what: str, count: Callable[[], str] | None = None) -> None:
        """``what`` goes on now; ``count`` says how far it is, in words."""
        self._what, self._count = what, count or _nothing

    def __enter__(self) -> Patience:
        if self._stream.isatty():
            self._thread = threading.Thread(target=self._write, name="patience", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _write(self) -> None:
        if self._over.wait(LONG_SECONDS):
            return
        while True:
            how_far = self._count()
            text = f"{self._what}{f': {how_far}' if how_far else ''}, {units.seconds(self._elapsed())}"
            self._stream.write(f"\r\x1b[2K{text}")
            self._stream.flush()
            if self._over.wait(AGAIN_SECONDS):
                break
        self._stream.write("\r\x1b[2K")
        self._stream.flush()

    def _elapsed(self) -> float:
        return round(time.monotonic() - self._began, 1)


def _nothing() -> str:
    return ""
