"""Numbers, times and text for people: the same words in the dashboard and on the command line.

Pure functions of their arguments; ``None`` means "not known" and is shown as a dash, never as zero.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

UNKNOWN = "\N{EN DASH}"

#: Everything a terminal or a reader could mistake for an instruction: C0, DEL, C1, bidirectional overrides.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_CONTROL_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_ESCAPE_SEQUENCE = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-_])")


def seconds(value: float | None) -> str:
    """A duration in seconds with three digits at most: ``412 µs``, ``3.1 ms``, ``4 min 5 s``, ``2 h 3 min``."""
    if value is None or value != value:
        return UNKNOWN
    if value < 0:
        return "-" + seconds(-value)
    if value == 0:
        return "0 s"
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (100.0, 1.0, "s")):
        if value < limit:
            # Loads the tables: not for who only asks for help.
            from obsray.telemetry import explain

            return f"{explain.three_digits(value * factor)} {unit}"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def share(value: float | None) -> str:
    """A part of 1 in percent: ``37 %``; small ones keep a digit behind the point."""
    if value is None or value != value:
        return UNKNOWN
    return f"{value * 100:.1f} %" if 0 < value < 0.1 else f"{value * 100:.0f} %"


def size(value: float | None) -> str:
    """A number of bytes in binary units: ``12 B``, ``3.4 MiB``."""
    if value is None:
        return UNKNOWN
    if value < 0:
        return "-" + size(-value)
    from obsray.telemetry import explain

    return explain.size(value)


def count(value: float | None) -> str:
    """A number with thousands separated; fractions keep two digits at most."""
    if value is None:
        return UNKNOWN
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{int(value):,}"


def many(value: float, one: str) -> str:
    """``1 object``, ``1,200 objects``."""
    return f"{count(value)} {one}{'' if value == 1 else 's'}"


def rate(value: float | None) -> str:
    """Something per second; small rates keep a digit behind the point."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:,.1f}"


def clock(time_ns: int | None) -> str:
    """Local wall clock time with milliseconds, ``14:03:07.125``."""
    if not time_ns:
        return UNKNOWN
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone()
    return f"{moment:%H:%M:%S}.{time_ns // 1_000_000 % 1000:03d}"


def moment(time_ns: int | None) -> str:
    """Local date and time with the offset from UTC, ``2026-03-01 14:03:07.125 +01:00``."""
    if not time_ns:
        return UNKNOWN
    local = datetime.fromtimestamp(time_ns / 1e9, UTC).astimezone()
    offset = f"{local:%z}"
    return f"{local:%Y-%m-%d} {clock(time_ns)} {offset[:3]}:{offset[3:]}"


def ago(time_ns: int | None, now_ns: int) -> str:
    """How long before ``now_ns`` something was: ``3.1 s ago``."""
    if not time_ns:
        return UNKNOWN
    gap = (now_ns - time_ns) / 1e9
    return "now" if gap < 0.001 else f"{seconds(gap)} ago"


def plain(text: object, lines: bool = False) -> str:
    """``text`` without terminal escape sequences and control characters; ``lines`` keeps tabs and line ends."""
    stripped = _ESCAPE_SEQUENCE.sub("", str(text))
    return (_CONTROL_LINES if lines else _CONTROL).sub("\N{REPLACEMENT CHARACTER}", stripped)


def shortened(text: str, width: int) -> str:
    """``text`` in ``width`` characters; what is cut is shown by an ellipsis."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def short_id(identifier: str | None) -> str:
    """A hex id for people: owner and sequence, ``3fa2c1d0:42``, ``3fa2c1d0:a7`` (actor), ``…[1]`` (second return)."""
    if not identifier:
        return UNKNOWN
    if len(identifier) not in (32, 40):
        return shortened(identifier, 16)
    mark = {"01": "p", "02": "a", "03": "g"}.get(identifier[16:18], "")
    try:
        text = f"{identifier[:8]}:{mark}{int(identifier[18:32], 16)}"
        index = int(identifier[32:40] or "0", 16)
    except ValueError:
        return shortened(identifier, 16)
    return f"{text}[{index}]" if index else text
