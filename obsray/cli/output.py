"""How answers look on a terminal: tables fitted to its width, colour only where somebody sees it, no control
characters out of user text."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import IO, Any

from obsray.dashboard import units
from obsray.dashboard.tables import Column

_COLOURS = {"ok": "32", "run": "34", "sent": "35", "wait": "33", "block": "33", "bad": "31", "off": "90"}
_TONES = {
    "FINISHED": "ok", "FAILED": "bad", "CANCELLED": "off", "RUNNING": "run", "RUNNING_IN_RAY_GET": "block",
    "PENDING_ARGS_AVAIL": "wait", "PENDING_NODE_ASSIGNMENT": "wait", "SUBMITTED_TO_WORKER": "sent", "ALIVE": "ok",
    "DEAD": "off", "RESTARTING": "block", "RESCHEDULING": "block", "LEASED": "run", "ACTOR": "run", "IDLE": "off",
    "BUSY": "run", "SUCCEEDED": "ok", "STOPPED": "off", "PENDING": "wait",
    "BLOCKED": "block", "LOST": "bad", "OUT_OF_SERVICE": "bad",
    "SPILLED": "block", "HALTED": "bad", "SUSPECTED": "bad",
}  # fmt: skip
_FLEXIBLE_WIDTH_MIN = 12


def is_coloured(stream: IO[str]) -> bool:
    """Colour is for terminals, unless NO_COLOR says otherwise."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, tone: str, coloured: bool) -> str:
    return f"\x1b[{_COLOURS[tone]}m{text}\x1b[0m" if coloured and tone in _COLOURS else text


def bold(text: str, coloured: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if coloured else text


def tone_of(state: object) -> str:
    return _TONES.get(str(state), "")


def width() -> int:
    """Columns of the terminal; wide if there is none, so that pipes lose nothing."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 240


def value_text(column: Column, value: Any) -> str:
    """One cell as text, by the kind of its column."""
    if value is None or value == "":
        return units.UNKNOWN
    if column.kind == "seconds":
        return units.seconds(value)
    if column.kind == "size":
        return units.size(value)
    if column.kind == "share":
        return units.share(value)
    if column.kind == "idle":
        return units.plain(value).removeprefix("idle: ")
    if column.kind == "clock":
        return units.clock(value)
    if column.kind == "id":
        return units.short_id(str(value))
    if column.kind == "states":
        return ", ".join(f"{units.count(number)} {name.lower()}" for name, number in value.items())
    if column.kind == "cause":
        return units.plain(value).lower().replace("_", " ")
    if column.kind == "count" and isinstance(value, (int, float)):
        return units.count(value)
    return units.plain(value)


def table(columns: Sequence[Column], rows: Sequence[dict[str, Any]], room: int, coloured: bool) -> str:
    """Rows under their titles in ``room`` characters: first the less important columns go, then text is cut."""
    shown = list(columns)
    cells = {column.key: [value_text(column, row.get(column.key)) for row in rows] for column in shown}
    natural = {column.key: max([len(column.title), *map(len, cells[column.key])]) for column in shown}
    flexible = [column.key for column in shown if column.kind in ("text", "function", "states", "running", "idle")]

    def least(column: Column) -> int:
        return min(natural[column.key], _FLEXIBLE_WIDTH_MIN) if column.key in flexible else natural[column.key]

    for rank in (3, 2, 1):
        for column in reversed([column for column in shown if column.rank == rank]):
            if sum(map(least, shown)) + 2 * (len(shown) - 1) <= room or len(shown) <= 2:
                break
            shown.remove(column)
    spare = room - sum(map(least, shown)) - 2 * (len(shown) - 1)
    widths = {}
    for column in shown:
        grown = min(natural[column.key] - least(column), max(spare, 0))
        widths[column.key] = least(column) + grown
        spare -= grown
    lines = [bold("  ".join(_cell(column, column.title, widths[column.key]) for column in shown).rstrip(), coloured)]
    for number, row in enumerate(rows):
        parts = []
        for column in shown:
            part = _cell(column, cells[column.key][number], widths[column.key])
            parts.append(paint(part, tone_of(row.get(column.key)), coloured) if column.kind == "state" else part)
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def facts(pairs: Sequence[tuple[str, str]], coloured: bool, indent: str = "") -> str:
    """Names and values under each other, values aligned."""
    longest = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{indent}{bold(name.ljust(longest), coloured)}  {text}" for name, text in pairs)


def bar(ratio: float, cells: int = 20) -> str:
    """A share of 1 as a bar of ``cells`` characters."""
    full = round(min(max(ratio, 0.0), 1.0) * cells)
    return "█" * full + "░" * (cells - full)


def _cell(column: Column, text: str, room: int) -> str:
    cut = units.shortened(text, room)
    return cut.rjust(room) if column.is_number else cut.ljust(room)
