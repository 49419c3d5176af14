"""Shell: errors that nobody looked at are said in the log of the process that asked for them."""

from __future__ import annotations

import logging
import os
import threading

from obsray.core.runtime.serialization import load_error
from obsray.core.runtime.unseen import Unseen

#: A program that lets very many tasks fail is told so at most this often, and of so many functions at a time.
REPORT_SECONDS = 1.0
FUNCTIONS_MAX = 10
#: Either of them as "1" says that nobody wants to hear of it.
SUPPRESS = ("RAY_IGNORE_UNHANDLED_ERRORS", "OBSRAY_IGNORE_UNHANDLED_ERRORS")


class UnseenReports:
    """Says what was missed, now and then, to whoever reads the log of this process."""

    def __init__(self, unseen: Unseen, lock: threading.Lock) -> None:
        self._unseen = unseen
        self._lock = lock
        self._next = 0.0

    def say(self, now: float) -> None:
        """Write what was missed since the last time, if that is long enough ago. Without the session's lock."""
        if now < self._next or not self._unseen.missed:
            return
        self._next = now + REPORT_SECONDS
        with self._lock:
            missed, self._unseen.missed = self._unseen.missed, {}
        if any(os.environ.get(name) == "1" for name in SUPPRESS):
            return
        logger = logging.getLogger("obsray.tasks")
        for name, (count, error) in list(missed.items())[:FUNCTIONS_MAX]:
            more = f" (the first of {count} of {name})" if count > 1 else ""
            logger.error("Unhandled error (suppress with '%s=1')%s: %s", SUPPRESS[0], more, _text(error))
        if len(missed) > FUNCTIONS_MAX:
            logger.error("Unhandled errors of %d more functions", len(missed) - FUNCTIONS_MAX)


def _text(error: bytes) -> str:
    try:
        return str(load_error(error))
    except Exception:
        return "an error that cannot be shown"
