"""Questions to the dashboard of a session that lives, over ``/api/v0``: it has read everything already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from obsray.telemetry.living import Dashboard, Unasked
from obsray.util.state.listing import Asked, Filter, Rows
from obsray.util.state.rows import StateRow

R = TypeVar("R", bound=StateRow)


def rows(noun: str, kind: type[R], asked: Asked) -> Callable[[Dashboard], Rows[R]]:
    """The question for a page of rows."""

    def question(dashboard: Dashboard) -> Rows[R]:
        given = [*_filters(asked.filters), *_range(asked), ("limit", str(asked.limit)), ("sort", asked.sort)]
        given.append(("detail", str(asked.detail).lower()))
        if asked.cursor is not None:
            given.append(("cursor", asked.cursor.text()))
        found = _answer(dashboard, noun, given)
        made: Rows[R] = Rows(kind(**row) for row in found["result"])
        made.total, made.left_out, made.next_cursor = found["total"], found["left_out"], found["next_cursor"]
        return made

    return question


def summary(noun: str, asked: Asked) -> Callable[[Dashboard], dict[str, Any]]:
    """The question for a summary."""

    def question(dashboard: Dashboard) -> dict[str, Any]:
        found = _answer(dashboard, f"{noun}/summarize", [*_filters(asked.filters), *_range(asked)])
        summarized: dict[str, Any] = found["result"]["node_id_to_summary"]
        return summarized

    return question


def _answer(dashboard: Dashboard, path: str, given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    status, said = dashboard.get(f"/api/v0/{path}", given)
    dashboard.close()
    if status == 400:
        raise ValueError(said["msg"])
    try:
        found: dict[str, Any] = said["data"]["result"]
    except (TypeError, KeyError):
        raise Unasked(f"{status} {said}") from None
    if status != 200 or "left_out" not in found:
        raise Unasked(f"{status} {said}")
    return found


def _filters(filters: Sequence[Filter]) -> list[tuple[str, str]]:
    found = []
    for key, operator, value in filters:
        each = list(value) if operator == "in" and not isinstance(value, str) else [value]
        if not all(isinstance(one, str | int | float) for one in each) or (
            len(each) > 1 and "," in "".join(map(str, each))
        ):
            raise Unasked("what is compared with has no form in an address")
        text = ",".join(map(str, each))
        found += [("filter_keys", key), ("filter_predicates", operator), ("filter_values", text)]
    return found


def _range(asked: Asked) -> list[tuple[str, str]]:
    found = []
    for name, moment in (("since", asked.since), ("until", asked.until)):
        if moment is not None:
            if not isinstance(moment, str | int | float):
                raise Unasked("this moment has no form in an address")
            found.append((name, str(moment)))
    return found
