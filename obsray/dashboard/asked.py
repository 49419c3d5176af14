"""Questions of the command line to the tables that this process has folded already: ``/api/v1/ask?question=JSON``.

A question is ``{"method": name, "arguments": [...], "options": {...}, "fresh": bool}``: a method of ``Views`` that is
in ``QUESTIONS`` and what it is called with. The answer is ``{"version": v, "answer": value}`` or ``{"version": v,
"error": {"kind": class, "text": why}}``. ``fresh``: what was recorded up to now is looked at first.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from obsray.version import VERSION

from . import plain_json
from .queries import BadQuery
from .source import Source
from .tables import TABLES

#: Methods whose arguments and answers are made of what JSON has.
QUESTIONS = frozenset(TABLES) | {
    "books", "critical_path", "different", "gpu_summary", "gpus", "hangs", "jobs", "kernels", "ledger", "memory",
    "name_of", "overview", "post_mortem", "profile", "scaling", "story", "stragglers", "task", "why",
}  # fmt: skip


#: One that never looks for what is new.
_NO_REFRESH: dict[str, dict[str, Any]] = {"gpu_summary": {}}


async def answer(request: Request) -> Response:
    """Ask the views what the question says."""
    try:
        asked = json.loads(request.query_params.get("question", ""))
        method, arguments, options = asked["method"], list(asked["arguments"]), dict(asked["options"])
        options.pop("refresh", None)
        fresh = bool(asked.get("fresh"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadQuery('question: {"method": name, "arguments": [...], "options": {...}} is wanted, in JSON') from None
    if method not in QUESTIONS:
        raise BadQuery(f"question: there is no {method!r}; questions: {', '.join(sorted(QUESTIONS))}")
    source: Source = request.app.state.source

    def question(view: Any) -> str:
        try:
            found = {
                "answer": getattr(view, method)(*arguments, **options, **_NO_REFRESH.get(method, {"refresh": False}))
            }
        except TypeError as error:
            raise BadQuery(f"question: {method}: {error}") from None
        except (LookupError, ValueError) as error:
            # What these say is for whoever asked.
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            found = {"error": {"kind": type(error).__name__, "text": str(text)}}
        return plain_json.dumps({"version": VERSION, **found})

    return Response(await source.ask(question, fresh=fresh), media_type="application/json")
