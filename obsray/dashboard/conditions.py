"""Conditions on rows: ``column op value``, as people write them in a search field or after ``--filter``.

``state=FAILED`` · ``name contains load`` · ``run_seconds > 250ms`` · ``result_bytes >= 10MB``
· ``state in FAILED,CANCELLED``

The unit at the end of a column's name says how its value is read, so durations may be written with ns, us, ms, s, min
or h and sizes with kB, MB, GB (decimal) or KiB, MiB, GiB (binary).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Condition = tuple[str, str, Any]
Row = dict[str, Any]

OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "contains", "in")
CONDITIONS_MAX = 8
CHARACTERS_MAX = 256
VALUES_MAX = 32

_PATTERN = re.compile(r"^\s*([A-Za-z_]\w*)\s*(!=|<=|>=|==|=|<|>|\bcontains\b|\bin\b)\s*(.*?)\s*$", re.DOTALL)
_QUANTITY = re.compile(r"^([+-]?\d+(?:[\d_,]*\d)?(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-zµ]*)$", re.IGNORECASE)
_SECONDS = {"": 1.0, "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
}
_NUMERIC_NAMES = frozenset(
    {
        "attempt",
        "bytes",
        "calls",
        "failed",
        "pid",
        "pins",
        "restarts",
        "tasks",
        "tasks_done",
        "threads",
        "total",
        "worker_pid",
    }
)


class BadCondition(ValueError):
    """A condition that cannot be understood; the message says what would be."""


def parse(text: str, columns: Iterable[str]) -> Condition:
    """The condition in ``text``. Raises BadCondition for an unknown column, operator or value."""
    column, operator, value = split(text)
    return make(column, operator, value, columns)


def split(text: str) -> tuple[str, str, str]:
    """Column, operator and value of a condition as they were written. Raises BadCondition."""
    if len(text) > CHARACTERS_MAX:
        raise BadCondition(f"a condition may have {CHARACTERS_MAX} characters, this one has {len(text)}")
    match = _PATTERN.match(text)
    if match is None:
        raise BadCondition(f"{text!r} is not 'column op value'; operators: {' '.join(OPERATORS)}")
    column, operator, value = match.groups()
    return column, "=" if operator == "==" else operator, value


def make(column: str, operator: str, value: str, columns: Iterable[str]) -> Condition:
    """A checked condition out of its three parts. Raises BadCondition."""
    known = tuple(columns)
    if column not in known:
        raise BadCondition(f"there is no column {column!r}; columns: {', '.join(known)}")
    if operator not in OPERATORS:
        raise BadCondition(f"there is no operator {operator!r}; operators: {' '.join(OPERATORS)}")
    if operator == "in":
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts or len(parts) > VALUES_MAX:
            raise BadCondition(f"'in' wants 1 to {VALUES_MAX} values separated by commas")
        return column, operator, [_typed(column, part) for part in parts]
    return column, operator, value if operator == "contains" else _typed(column, value)


def is_number(column: str) -> bool:
    """Whether a column holds numbers, told by the unit in its name."""
    return column.endswith(("_seconds", "_ns", "_bytes")) or "_seconds_p" in column or column in _NUMERIC_NAMES


def matches(row: Row, conditions: Iterable[Condition]) -> bool:
    """Whether ``row`` fulfils all ``conditions``; an unknown (None) value fulfils only ``!=``."""
    return all(_holds(row.get(column), operator, value) for column, operator, value in conditions)


def ordered(rows: list[Row], sort: str) -> list[Row]:
    """``rows`` by the column ``sort`` (descending with a leading ``-``); unknown values come last either way."""
    column, backwards = sort.removeprefix("-"), sort.startswith("-")
    known = [row for row in rows if row.get(column) is not None]
    unknown = [row for row in rows if row.get(column) is None]
    try:
        known.sort(key=lambda row: row[column], reverse=backwards)
    except TypeError:
        known.sort(key=lambda row: str(row[column]), reverse=backwards)
    return known + unknown


def _holds(found: Any, operator: str, wanted: Any) -> bool:
    if operator == "!=":
        return bool(found != wanted)
    if found is None:
        return False
    if operator == "contains":
        return str(wanted).lower() in str(found).lower()
    if operator == "in":
        return found in wanted
    if operator == "=":
        return bool(found == wanted) or str(found) == str(wanted)
    try:
        return bool({"<": found < wanted, "<=": found <= wanted, ">": found > wanted, ">=": found >= wanted}[operator])
    except TypeError:
        return False


def _typed(column: str, text: str) -> Any:
    if not is_number(column):
        return text
    units = _SECONDS if "_seconds" in column else _BYTES if column.endswith("bytes") else {"": 1}
    match = _QUANTITY.match(text)
    factor = units.get(match.group(2).lower()) if match else None
    if match is None or factor is None:
        allowed = f" with one of {', '.join(unit for unit in units if unit)}" if len(units) > 1 else ""
        raise BadCondition(f"{column} wants a number{allowed}, not {text!r}")
    digits = match.group(1).replace(",", "").replace("_", "")
    # Times in nanoseconds need all their digits, which a float does not have.
    number = (int(digits) if digits.lstrip("+-").isdigit() else float(digits)) * factor
    if not abs(number) < 2**63:
        raise BadCondition(f"{column}: {text} is too large")
    return float(number) if "_seconds" in column else round(number)
