"""Questions of a command to whoever answers soonest: the dashboard of a session that lives, else views of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obsray.version import VERSION


def of(directory: Path, views: Callable[[], Any]) -> Any:
    """Something with the methods of ``Views`` that ``obsray/dashboard/asked.py`` names. ``views`` makes the views."""
    from obsray.telemetry import living

    dashboard = living.dashboard_of(directory)
    return views() if dashboard is None else Living(dashboard, views)


class Living:
    """Methods as those of ``Views``, asked of a dashboard; views take over as soon as that does not answer."""

    def __init__(self, dashboard: Any, views: Callable[[], Any]) -> None:
        self._dashboard, self._views = dashboard, views
        self._own: Any = None
        self._asked = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def ask(*arguments: Any, **options: Any) -> Any:
            from obsray.telemetry.living import Unasked

            if self._own is None:
                try:
                    return self._ask(name, arguments, options)
                except Unasked:
                    self._own = self._views()
            return getattr(self._own, name)(*arguments, **options)

        return ask

    def _ask(self, method: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        from obsray.telemetry.living import Unasked

        # One look at what is new, so that all answers of a command are about the same.
        question = {"method": method, "arguments": arguments, "options": options, "fresh": not self._asked}
        self._asked = True
        status, said = self._dashboard.get("/api/v1/ask", [("question", json.dumps(question))])
        if status != 200 or not isinstance(said, dict) or said.get("version") != VERSION:
            raise Unasked(f"{status} {said}")
        if "error" in said:
            raise _error(said["error"]["kind"], said["error"]["text"])
        return said["answer"]


def _error(kind: str, text: str) -> Exception:
    """What the views would have raised."""
    from obsray.telemetry.answers.why import UnknownThing
    from obsray.telemetry.table import QueryError

    known: dict[str, type[Exception]] = {
        "LookupError": LookupError, "KeyError": LookupError, "QueryError": QueryError, "UnknownThing": UnknownThing,
    }  # fmt: skip
    return known.get(kind, ValueError)(text)
