"""Pages of the analyses: where the time went, what would help, what is unusual, what fills the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from obsray.telemetry.answers.compare import compare as compared
from obsray.telemetry.questions import change_of, factor, job_of

from . import pictures, queries
from .answers import different_filters, only
from .pages import is_fragment, render, source_of
from .source import open_views
from .tables import TASKS

#: Address, title, and what the page answers, in the order in which they are linked.
PAGES = (
    ("/books", "Books", "Where did the workers' time go, and would more of them help?"),
    ("/critical-path", "Critical path", "What does the duration of a job consist of?"),
    ("/what-if", "What if", "What would make it shorter?"),
    ("/stragglers", "Stragglers", "Which tasks took unusually long, and why?"),
    ("/different", "Differences", "What do these tasks have in common?"),
    ("/compare", "Compare", "Is this run slower than an earlier one?"),
    ("/memory", "Memory", "What fills the object store, is something leaking?"),
)
SESSIONS_SHOWN = 40
#: Functions that the what-if page offers to make faster.
FUNCTIONS_OFFERED = 50


def routes() -> list[BaseRoute]:
    handlers = (books, critical_path, what_if, stragglers, different, compare, memory)
    return [Route(path, handler) for (path, _, _), handler in zip(PAGES, handlers, strict=True)]


async def books(request: Request) -> Response:
    job = only(request, "job").get("job")

    def question(view: Any) -> Any:
        number = job_of(job)
        return pictures.books_shape(view.books(number, refresh=False), view.slots_over_time(number, refresh=False))

    return await _page(request, "books.html", question, job=job)


async def critical_path(request: Request) -> Response:
    job = only(request, "job").get("job")
    return await _page(
        request, "critical_path.html",
        lambda view: pictures.path_shape(view.critical_path(job_of(job), refresh=False)), job=job,
    )  # fmt: skip


async def what_if(request: Request) -> Response:
    """Without a change the usual ones are ranked; asked by htmx only the answer comes."""
    given = only(
        request, "job", "workers", "driver", "network", "function", "function_factor", "no_stragglers", "rough"
    )
    rough = given.get("rough", "0") != "0"

    def question(view: Any) -> Any:
        functions = (
            {unquote(given["function"]): factor(given.get("function_factor") or "2")} if "function" in given else {}
        )
        change = change_of(
            factor(given.get("workers")), functions, factor(given.get("network")), factor(given.get("driver")),
            given.get("no_stragglers", "0") != "0",
        )  # fmt: skip
        number = job_of(given.get("job"))
        found = pictures.what_if_shape(
            view.what_if(number, None if change is None else [change], refresh=False, rough=rough)
        )
        names = [row["name"] for row in view.functions(refresh=False) if row["name"]][:FUNCTIONS_OFFERED]
        return {**found, "names": names, "asked": change is not None}

    template = "_what_if.html" if is_fragment(request) else "what_if.html"
    return await _page(request, template, question, job=given.get("job"), given=given)


async def stragglers(request: Request) -> Response:
    job = only(request, "job").get("job")
    return await _page(request, "stragglers.html", lambda view: view.stragglers(job_of(job), refresh=False), job=job)


async def different(request: Request) -> Response:
    """Without a condition the page asks for one."""
    only(request, "where", "among")
    where, among = ([text for text in request.query_params.getlist(name) if text] for name in ("where", "among"))
    if not where:
        return render(request, "different.html", answer=None, where=where, among=among, keys=TASKS.keys,
                      job=None, analyses=PAGES, analysis="/different")  # fmt: skip
    chosen, pool = different_filters(request)
    return await _page(
        request, "different.html", lambda view: view.different(chosen, pool, refresh=False),
        where=where, among=among, keys=TASKS.keys, job=None,
    )  # fmt: skip


async def compare(request: Request) -> Response:
    """This session against another one of the same directory, chosen by its name."""
    given = only(request, "before", "threshold")
    directory = source_of(request).directory
    others = sessions_beside(directory)
    before = given.get("before")
    threshold = given.get("threshold", "10")
    if before is not None and before not in others:
        raise HTTPException(404, f"There is no session {before!r} beside this one.")

    def question(view: Any) -> Any:
        if before is None:
            return None
        try:
            share = float(threshold) / 100
        except ValueError:
            raise ValueError(f"threshold is a number of percent, not {threshold!r}") from None
        return compared(open_views(directory.parent / before), view, share)

    return await _page(
        request, "compare.html", question, job=None, others=others[:SESSIONS_SHOWN], before=before, threshold=threshold
    )


async def memory(request: Request) -> Response:
    only(request)
    return await _page(request, "memory.html", lambda view: pictures.memory_shape(view.memory(refresh=False)), job=None)


def sessions_beside(directory: Path) -> list[str]:
    """Names of the other sessions in the directory of this one, newest first."""
    found = []
    for other in directory.parent.glob("s_*"):
        try:
            if other.is_dir() and not other.is_symlink() and other.name != directory.name:
                found.append((other.stat().st_mtime, other.name))
        except OSError:
            continue  # it is being removed
    return [name for _, name in sorted(found, reverse=True)]


async def _page(request: Request, template: str, question: Callable[[Any], Any], **values: Any) -> Response:
    """One page with the answer to a question, which may not exist: then the page says why and stays."""
    job = values.get("job")

    def with_jobs(view: Any) -> tuple[Any, str | None, list[Any]]:
        jobs = [
            {"job_id": row["job_id"], "name": row.get("entrypoint") or ""}
            for row in view.jobs(refresh=False) if row.get("tasks")
        ]  # fmt: skip
        try:
            return question(view), None, jobs
        except LookupError as error:
            return None, str(error), jobs

    try:
        answer, nothing, jobs = await source_of(request).ask(with_jobs, key=("analysis", str(request.url)))
    except ValueError as error:
        raise queries.BadQuery(str(error)) from None
    suffix = f"?{urlencode({'job': job})}" if job else ""
    return render(
        request, template, answer=answer, nothing=nothing, jobs=jobs, suffix=suffix, analyses=PAGES,
        analysis=request.url.path, **values,
    )  # fmt: skip
