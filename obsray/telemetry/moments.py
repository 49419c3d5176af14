"""Moments as people write them: ``10m`` ago, ``12:03:05``, ``2026-01-31T12:03``, seconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_NS = 1_000_000_000
_AGO = re.compile(r"-?(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)(?:\s+ago)?")
_SINCE_START = re.compile(r"\+(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
#: Numbers from here on are nanoseconds or milliseconds, those below seconds since the epoch (until the year 5138).
_NANOSECONDS_FROM, _MILLISECONDS_FROM = 1e15, 1e11

FORMS = '"10m" (ago), "+5s" (after the start), "12:03:05", "2026-01-31T12:03:05", or (milli)seconds since the epoch'


def moment_ns(given: object, now_ns: int, start_ns: int = 0) -> int:
    """Nanoseconds since the epoch. ``now_ns`` is what "ago" is counted from (the end of a session that is over),
    ``start_ns`` what "+" is counted from. Raises ValueError."""
    if isinstance(given, datetime):
        return _of(given)
    if isinstance(given, int | float) and not isinstance(given, bool) and given >= 0:
        if given >= _NANOSECONDS_FROM:
            return int(given)
        return int(given * 1_000_000) if given >= _MILLISECONDS_FROM else int(given * 1_000_000_000)
    text = str(given).strip() if isinstance(given, str) else ""
    found = _AGO.fullmatch(text)
    if found:
        return now_ns - int(float(found[1]) * _UNITS[found[2]] * 1e9)
    found = _SINCE_START.fullmatch(text)
    if found:
        return start_ns + int(float(found[1]) * _UNITS[found[2] or "s"] * 1e9)
    if text == "now":
        return now_ns
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return moment_ns(float(text) if "." in text else int(text), now_ns)
    try:
        return _clock_ns(text, now_ns) or _of(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError(f"{given!r} is no moment; write {FORMS}") from None


def _of(moment: datetime) -> int:
    """A datetime in nanoseconds; to the microsecond, which is what it has."""
    return round(moment.timestamp() * 1e6) * 1000


def _clock_ns(text: str, now_ns: int) -> int:
    """A time of day: the last one before ``now_ns``; 0 for other text."""
    found = _CLOCK.fullmatch(text)
    if found is None:
        return 0
    day = datetime.fromtimestamp(now_ns / 1e9)
    seconds = float(found[3] or 0)
    day = day.replace(hour=int(found[1]), minute=int(found[2]), second=int(seconds), microsecond=0)
    at = int(day.timestamp()) * _NS + int((seconds % 1) * 1e9)
    return at if at <= now_ns else at - 86_400 * _NS


def said(time_ns: int) -> str:
    """A moment as text that ``moment_ns`` reads: local time with milliseconds."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone().isoformat(timespec="milliseconds")
