"""What is asked of a list, checked; and pages out of rows."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from obsray.telemetry.moments import moment_ns
from obsray.util.state.rows import CANCELLED, StateRow, TaskState

Filter = tuple[str, str, Any]
R = TypeVar("R", bound=StateRow)

LIMIT_DEFAULT = 100
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "contains", "in")


class Rows(list[R], Generic[R]):
    """A page of rows: a list that knows what is not on it."""

    #: How many rows match, on all pages.
    total: int = 0
    #: How many of them come after this page.
    left_out: int = 0
    #: What the next call takes as ``cursor``; None on the last page.
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Behind which row a page begins: the value of the sort key there (None: sorted by nothing, or behind the last
    row that has a value), and how many rows with that value were given (for None: how many rows at all)."""

    sort: str
    value: Any
    given: int

    def text(self) -> str:
        """What the caller keeps."""
        return base64.urlsafe_b64encode(json.dumps([self.sort, self.value, self.given]).encode()).decode()

    @classmethod
    def read(cls, text: str, sort: str) -> Cursor:
        """The cursor in a text that ``text`` made. Raises ValueError for other text, or another order."""
        try:
            made_for, value, given = json.loads(base64.urlsafe_b64decode(text.encode()))
            found = cls(str(made_for), value, int(given))
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"cursor={text!r}: must be the next_cursor of a list") from None
        if found.sort != sort:
            raise ValueError(f"cursor: it belongs to a list with sort={found.sort!r}, this one has sort={sort!r}")
        return found


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call wants, checked against the rows of its kind."""

    filters: tuple[Filter, ...]
    limit: int
    detail: bool
    sort: str
    since: Any
    until: Any
    cursor: Cursor | None

    @property
    def key(self) -> str:
        """The key that is sorted by, "" for none."""
        return self.sort.lstrip("-+")

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    def range_ns(self, now_ns: int) -> tuple[int | None, int | None]:
        """``since`` and ``until`` in nanoseconds."""
        since = None if self.since is None else moment_ns(self.since, now_ns)
        return since, None if self.until is None else moment_ns(self.until, now_ns)


def check(
    kind: type[StateRow],
    filters: Sequence[Filter] | None,
    limit: int,
    detail: bool,
    sort: str | None,
    since: Any,
    until: Any,
    cursor: str | None,
    sort_default: str = "",
) -> Asked:
    """What was asked, or ValueError with what can be."""
    keys = [each.name for each in fields(kind)]
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ValueError(f"limit={limit!r}: must be a number >= 1")
    wanted = []
    for each in filters or ():
        if not isinstance(each, tuple | list) or len(each) != 3:
            raise ValueError(f"filter {each!r}: must be (key, operator, value)")
        if each[1] not in OPERATORS:
            raise ValueError(f"filter {each!r}: the operator must be one of {' '.join(OPERATORS)}")
        # Some programs write STATE, as the values of that key are written.
        key = each[0].lower() if isinstance(each[0], str) else each[0]
        if key not in keys:
            raise ValueError(f"filter {each!r}: the keys are {', '.join(keys)}")
        wanted.append(_cancelled((key, each[1], each[2])) if kind is TaskState else (key, each[1], each[2]))
    order = sort_default if sort is None else sort
    if not isinstance(order, str) or (order and order.lstrip("-+") not in keys):
        raise ValueError(f"sort={sort!r}: must be a key, with - for descending; the keys are {', '.join(keys)}")
    for name, given in (("since", since), ("until", until)):
        if given is not None:
            if kind.began not in keys:
                raise ValueError(f"{name}: {kind.__name__} has no time of its own to compare with")
            moment_ns(given, 0)
    found = None if cursor is None else Cursor.read(cursor, order)
    return Asked(tuple(wanted), limit, bool(detail), order, since, until, found)


def _cancelled(asked: Filter) -> Filter:
    """A filter of tasks by ``state`` that names CANCELLED, which Ray's users know as an error, said as they say it."""
    key, operator, value = asked
    if key != "state":
        return asked
    if operator == "in":
        states = [str(one).upper() for one in (value.split(",") if isinstance(value, str) else value)]
        if CANCELLED not in states:
            return asked
        others = [one for one in states if one != CANCELLED]
        if "FAILED" in others:
            return key, operator, others
        if others:
            raise ValueError(
                f"filter {asked!r}: a cancelled task is FAILED with the error_type TASK_CANCELLED. Ask for FAILED as "
                "well, or for ('error_type', '=', 'TASK_CANCELLED') in a call of its own"
            )
        return "error_type", "=", "TASK_CANCELLED"
    if str(value).upper() == CANCELLED and operator in ("=", "!="):
        return "error_type", operator, "TASK_CANCELLED"
    return asked


# --- rows in Python ----------------------------------------------------------------------------------------------


def page(kind: type[R], found: Iterable[R], asked: Asked, now_ns: int) -> Rows[R]:
    """The rows that were asked for, of things that are few."""
    since, until = asked.range_ns(now_ns)
    matched = [row for row in found if holds(row, asked.filters) and _inside(row, since, until)]
    if asked.sort:
        matched = in_order(matched, asked)
    start = 0
    if asked.cursor is not None:
        start = asked.cursor.given
        if asked.cursor.value is not None:
            start += sum(before(row[asked.key], asked.cursor.value, asked.descending) for row in matched)
    return cut(matched[start : start + asked.limit], asked, len(matched), len(matched) - start, start)


def cut(rows: list[R], asked: Asked, total: int, rest: int, start: int) -> Rows[R]:
    """A page of ``rows``: ``total`` match in all, ``rest`` of them from the first of these on, which is the
    ``start``-th of all, where that is known."""
    made: Rows[R] = Rows(rows if asked.detail else [row.without_detail() for row in rows])
    made.total = total
    made.left_out = max(0, rest - len(rows))
    if made.left_out and rows:
        value = rows[-1][asked.key] if asked.key else None
        if isinstance(value, dict | list):
            value = None
        if value is None:
            given = start + len(rows)
        else:
            given = sum(row[asked.key] == value for row in rows)
            if given == len(rows) and asked.cursor is not None and asked.cursor.value == value:
                given += asked.cursor.given
        made.next_cursor = Cursor(asked.sort, value, given).text()
    return made


def in_order(rows: list[R], asked: Asked) -> list[R]:
    """Rows by the key that is sorted by; those without a value come last."""
    known = [row for row in rows if row[asked.key] is not None]
    unknown = [row for row in rows if row[asked.key] is None]
    try:
        known.sort(key=lambda row: row[asked.key], reverse=asked.descending)
    except TypeError:
        known.sort(key=lambda row: str(row[asked.key]), reverse=asked.descending)
    return known + unknown


def before(found: Any, value: Any, descending: bool) -> bool:
    """Whether a value comes before another in the order of a list."""
    if found is None:
        return False
    try:
        return bool(found > value if descending else found < value)
    except TypeError:
        return str(found) > str(value) if descending else str(found) < str(value)


def _inside(row: StateRow, since: int | None, until: int | None) -> bool:
    if since is None and until is None:
        return True
    began = row.began_ns()
    return began is not None and (since is None or began >= since) and (until is None or began < until)


def holds(row: StateRow, filters: Sequence[Filter]) -> bool:
    """Whether a row fulfils all filters."""
    return all(_holds(row[key], operator, value) for key, operator, value in filters)


def _holds(found: Any, operator: str, value: Any) -> bool:
    if operator == "=":
        return _equal(found, value)
    if operator == "!=":
        return not _equal(found, value)
    if found is None:
        return False
    if operator == "in":
        values = value.split(",") if isinstance(value, str) else list(value)
        return any(_equal(found, each) for each in values)
    if operator == "contains":
        return str(value).lower() in str(found).lower()
    try:
        if isinstance(found, int | float) and isinstance(value, str):
            value = float(value)
        return bool({"<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[operator])
    except (TypeError, ValueError):
        raise ValueError(f"{found!r} cannot be compared with {value!r}") from None


def _equal(found: Any, value: Any) -> bool:
    if isinstance(value, str) and found is not None:
        # Text is compared without regard to case, also the text of a number or of True.
        return str(found).lower() == value.lower()
    return bool(found == value)
