"""What a request may ask of the telemetry, and how much: addresses become checked queries, queries become answers.

Nothing here talks to a node, a worker or the control store: the only source is the views over recorded telemetry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from .conditions import CONDITIONS_MAX, BadCondition, Condition, make, matches, ordered, parse
from .tables import Table

LIMIT_DEFAULT = 50
LIMIT_MAX = 1000
OFFSET_MAX = 100_000_000
STORY_EVENTS_MAX = 2000

#: Parameters that say of which time an answer shall be (``telemetry/moments.py``), the stronger ones first.
MOMENTS = ("at", "to", "from")

_IDENTIFIER = re.compile(r"[0-9a-f]{4,40}")
#: Short forms of the filter bar: parameter, column, operator.
_SHORT_FORMS = (
    ("name", "name", "contains"),
    ("state", "state", "="),
    ("worker", "worker_id", "contains"),
    ("job", "job_id", "="),
)


class BadQuery(ValueError):
    """The request cannot be answered as it was asked; the message says how to ask."""


@dataclass(frozen=True, slots=True)
class Query:
    """One page of one table, and the parameters it was asked with."""

    conditions: tuple[Condition, ...]
    sort: str
    limit: int
    offset: int
    parameters: tuple[tuple[str, str], ...]

    @property
    def moment(self) -> str:
        """The instant that is asked for, "" for now: ``at``, or the end of ``from`` and ``to``."""
        return self.given("at") or self.given("to") or self.given("from")

    def given(self, name: str) -> str:
        return next((value for key, value in self.parameters if key == name), "")

    def all_given(self, name: str) -> list[str]:
        return [value for key, value in self.parameters if key == name]

    def address(self, **changes: str | int) -> str:
        """The query string of the same question with other ``sort``, ``limit`` or ``offset``."""
        kept = [
            (key, value)
            for key, value in self.parameters
            if key not in changes and (key != "offset" or "limit" in changes)
        ]
        return "?" + urlencode(kept + [(key, str(value)) for key, value in changes.items() if value != ""])

    def sort_address(self, column: str, number_first: bool) -> str:
        """Sorted by ``column``; a second click turns the order round."""
        first, second = (f"-{column}", column) if number_first else (column, f"-{column}")
        return self.address(sort=second if self.sort == first else first)


def read(table: Table, items: Iterable[tuple[str, str]], limit_max: int = LIMIT_MAX) -> Query:
    """The query in a request's parameters. Raises BadQuery for anything it does not understand."""
    parameters = tuple((key, value) for key, value in items if value != "")
    known = {"where", "sort", "limit", "offset", *MOMENTS, *(form[0] for form in _SHORT_FORMS)}
    for key, _ in parameters:
        if key not in known:
            raise BadQuery(f"there is no parameter {key!r}; parameters: {', '.join(sorted(known))}")
    query = Query((), table.sort, LIMIT_DEFAULT, 0, parameters)
    conditions: list[Condition] = []
    try:
        for key, column, operator in _SHORT_FORMS:
            if query.given(key):
                conditions.append(make(column, operator, query.given(key), table.keys))
        conditions += [parse(text, table.keys) for text in query.all_given("where")]
    except BadCondition as error:
        raise BadQuery(str(error)) from None
    if len(conditions) > CONDITIONS_MAX:
        raise BadQuery(f"at most {CONDITIONS_MAX} conditions at once")
    sort = query.given("sort") or table.sort
    if sort.removeprefix("-") not in table.keys:
        raise BadQuery(f"cannot sort by {sort!r}; columns: {', '.join(table.keys)}")
    limit = _whole(query.given("limit") or str(LIMIT_DEFAULT), "limit", 1, limit_max)
    offset = _whole(query.given("offset") or "0", "offset", 0, OFFSET_MAX)
    return Query(tuple(conditions), sort, limit, offset, parameters)


def rows(view: Any, table: Table, query: Query) -> dict[str, Any]:
    """One page: ``{"rows": [...], "total": rows of the whole session that fulfil the conditions}``."""
    ask = getattr(view, table.noun)
    if table.noun in ("tasks", "objects"):
        filters = [
            (column, operator, _job(value) if column == "job_id" else value)
            for column, operator, value in query.conditions
        ]
        try:
            answer: dict[str, Any] = ask(filters, query.sort, query.limit, query.offset, refresh=False)
        except ValueError as error:
            # The columns know more about their values than their names tell.
            raise BadQuery(str(error)) from None
        return answer
    found = [row for row in ask(refresh=False) if matches(row, query.conditions)]
    found = ordered(found, query.sort)
    return {"rows": found[query.offset : query.offset + query.limit], "total": len(found)}


def identifier(text: str) -> str:
    """A hex id out of an address. Raises BadQuery for anything else."""
    lowered = text.lower()
    if not _IDENTIFIER.fullmatch(lowered):
        raise BadQuery("an id is 4 to 40 hex digits")
    return lowered


def story(view: Any, identifier_hex: str) -> dict[str, Any]:
    """What happened to one thing, oldest first; the middle of very long stories is left out and counted."""
    events = list(view.story(identifier_hex, refresh=False))
    left_out = max(len(events) - STORY_EVENTS_MAX, 0)
    if left_out:
        half = STORY_EVENTS_MAX // 2
        events = events[:half] + events[-half:]
    return {
        "id": identifier_hex,
        "name": view.name_of(identifier_hex, refresh=False),
        "events": events,
        "left_out": left_out,
    }


def _job(text: Any) -> Any:
    """A job id, shown in hex, as the number that its column holds."""
    if isinstance(text, list):
        return [_job(one) for one in text]
    try:
        return int(text, 16)
    except ValueError:
        raise BadQuery(f"a job id is a hex number, not {text!r}") from None


def _whole(text: str, name: str, least: int, most: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise BadQuery(f"{name} is a whole number, not {text!r}") from None
    if not least <= value <= most:
        raise BadQuery(f"{name} is between {least} and {most:,}")
    return value
