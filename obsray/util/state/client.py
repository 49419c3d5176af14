"""``StateApiClient``: the questions of the module as methods, for programs that address kinds of things by value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from obsray.util.state import lists, one, summaries
from obsray.util.state.common import (
    GetApiOptions,
    ListApiOptions,
    StateResource,
    SummaryApiOptions,
    SummaryResource,
)
from obsray.util.state.listing import Rows
from obsray.util.state.logs import get_log
from obsray.util.state.sessions import directory_of

_LISTS = {resource: getattr(lists, f"list_{resource.value}") for resource in StateResource}
_GETS: dict[StateResource, Any] = {
    StateResource.ACTORS: one.get_actor,
    StateResource.JOBS: one.get_job,
    StateResource.NODES: one.get_node,
    StateResource.OBJECTS: one.get_objects,
    StateResource.PLACEMENT_GROUPS: one.get_placement_group,
    StateResource.TASKS: one.get_task,
    StateResource.WORKERS: one.get_worker,
}
_SUMMARIES = {resource: getattr(summaries, f"summarize_{resource.value}") for resource in SummaryResource}


class StateApiClient:
    """Asks one session. ``address`` is as in ``obsray.util.state``; FileNotFoundError if there is none there.

    ``cookies`` and ``headers`` are known to programs that ask over HTTP; obsray reads files and wants neither.
    """

    def __init__(
        self,
        address: str | None = None,
        cookies: dict[str, Any] | None = None,
        headers: dict[str, Any] | None = None,
    ) -> None:
        if cookies or headers:
            raise ValueError("StateApiClient reads the files of a session: there are no cookies or headers to send")
        self._address = str(directory_of(address))

    def list(
        self,
        resource: StateResource,
        options: ListApiOptions,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> Rows[Any]:
        """A page of rows of one kind."""
        ask = _LISTS[StateResource(resource)]
        rows: Rows[Any] = ask(
            self._address, options.filters, options.limit, options.timeout, options.detail, sort=options.sort,
            since=options.since, until=options.until, cursor=options.cursor,
        )  # fmt: skip
        return rows

    def get(
        self, resource: StateResource, id: str, options: GetApiOptions | None = None, _explain: bool = False
    ) -> Any:
        """One thing by its id, None if there is none (of objects, a list). Raises ValueError for kinds without ids."""
        ask = _GETS.get(StateResource(resource))
        if ask is None:
            raise ValueError(f"{resource}: one is not looked up by id; list them with a filter")
        return ask(id, self._address, (options or GetApiOptions()).timeout)

    def summary(
        self,
        resource: SummaryResource,
        *,
        options: SummaryApiOptions | None = None,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> dict[str, Any]:
        """A summary of one kind. Raises ValueError for ``summary_by`` other than the one there is."""
        asked = options or SummaryApiOptions()
        found: dict[str, Any] = _SUMMARIES[SummaryResource(resource)](
            self._address, asked.timeout, filters=asked.filters
        )["cluster"]
        by = found["summary_by"]
        if asked.summary_by not in (None, by):
            raise ValueError(f"summary_by={asked.summary_by!r}: {resource} are summarized by {by!r}")
        return found

    def get_log(self, **options: Any) -> Iterator[str]:
        """As ``obsray.util.state.get_log``."""
        return get_log(self._address, **options)
