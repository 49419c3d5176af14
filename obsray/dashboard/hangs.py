"""What hangs: its page with a drawing, and the look at it now and then, for the record."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from html import escape
from typing import Any

import psutil
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from obsray.telemetry import hang_watch, session_file
from obsray.telemetry.hang_watch import DASHBOARD_SECONDS, LOOK_SECONDS, HangRecords

from . import units
from .source import Busy, Source

#: How busy the CPUs of the machine may be for it to have time for what nobody has asked for.
IDLE_PERCENT_MAX = 50.0
#: Members of a cycle that are drawn.
DRAWN_MAX = 12
_WIDTH, _BOX_WIDTH, _BOX_HEIGHT = 880, 230, 46

log = logging.getLogger(__name__)


class HangWatch:
    """Looks for hangs now and then; ``records`` is told what was found.

    A look reads all that was recorded since the last one. While the machine is busy and nothing waits, that can wait;
    while it is idle, it is read ahead of the questions.
    """

    def __init__(self, source: Source, records: HangRecords) -> None:
        self._source = source
        self._records: HangRecords | None = records
        self._told: Counter[str] = Counter()

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        looked_at = -math.inf
        while True:
            await asyncio.sleep(DASHBOARD_SECONDS)
            if time.monotonic() - looked_at < LOOK_SECONDS:
                continue
            idle = psutil.cpu_percent() < IDLE_PERCENT_MAX
            if not (idle or self._told or hang_watch.something_waits(session_file.read(self._source.directory))):
                continue
            looked_at = time.monotonic()
            try:
                found = await self._source.ask(lambda view: view.hangs(refresh=False), key="hangs")
                before = await self._source.ask(hang_watch.recorded, key="hangs recorded")
            except (Busy, FileNotFoundError):
                continue
            except Exception:
                log.exception("what hangs could not be found out")
                continue
            counts = Counter(hang["kind"] for hang in found["hangs"])
            if found["hangs"] and counts != self._told:
                for hang in found["hangs"]:
                    log.warning("hangs: %s", hang["sentence"])
            self._told = counts
            if self._records is not None and self._source.is_live:
                try:
                    self._records.looked(found["hangs"], time.time_ns(), before)
                except OSError:
                    log.exception("what hangs cannot be recorded")
                    self._records = None


def page_routes() -> list[BaseRoute]:
    """The page."""
    return [Route("/hangs", page), Route("/_hangs", live)]


async def page(request: Request) -> Response:
    """What hangs, drawn."""
    return await _rendered(request, "hangs.html", 200)


async def live(request: Request) -> Response:
    """Its part that changes."""
    source: Source = request.app.state.source
    return await _rendered(request, "_hangs.html", 200 if source.is_live else 286)


async def _rendered(request: Request, template: str, status: int) -> Response:
    from .pages import render

    source: Source = request.app.state.source
    found: dict[str, Any] = await source.ask(lambda view: view.hangs(refresh=False), key="hangs")
    shown = [{**hang, "drawing": Markup(drawing(hang)) if hang["kind"] == "cycle" else ""} for hang in found["hangs"]]
    return render(request, template, status, found={**found, "hangs": shown})


def drawing(hang: dict[str, Any]) -> str:
    """A cycle as SVG: its members on an ellipse, arrows from who waits to what it waits for."""
    members = hang["members"][:DRAWN_MAX]
    count = len(members)
    height = max(210, 90 + 62 * count)
    places = [
        (
            _WIDTH / 2 + (_WIDTH - _BOX_WIDTH - 60) / 2 * math.sin(2 * math.pi * at / count),
            height / 2 - (height - _BOX_HEIGHT - 40) / 2 * math.cos(2 * math.pi * at / count),
        )
        for at in range(count)
    ]
    parts = [
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/></marker></defs>'
    ]
    parts += [
        _arrow(places[at], places[(at + 1) % count], str(member["how"]))
        for at, member in enumerate(members)
        if count > 1
    ]
    for (x, y), member in zip(places, members, strict=True):
        label = units.shortened(units.plain(member["label"]), 34)
        told = f"{member['state']} for {units.seconds(member['seconds'])}"
        parts.append(
            f'<a href="/tasks/{member["id"]}"><title>{escape(units.plain(member["label"]))}: {escape(told)}</title>'
            f'<rect x="{x - _BOX_WIDTH / 2:.1f}" y="{y - _BOX_HEIGHT / 2:.1f}" width="{_BOX_WIDTH}" '
            f'height="{_BOX_HEIGHT}" rx="6"/>'
            f'<text class="what" x="{x:.1f}" y="{y - 3:.1f}">{escape(label)}</text>'
            f'<text class="how" x="{x:.1f}" y="{y + 14:.1f}">{escape(told)}</text></a>'
        )
    return (
        f'<svg class="waits" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="A cycle of waits">'
        f"{''.join(parts)}</svg>"
    )


def _arrow(begin: tuple[float, float], end: tuple[float, float], how: str) -> str:
    """From the edge of one box to the edge of the next, with what kind of wait it is."""
    (x1, y1), (x2, y2) = _edge(begin, end), _edge(end, begin)
    told = escape(units.shortened(how, 60))
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" marker-end="url(#arrow)"/>'
        f'<text class="edge" x="{(x1 + x2) / 2:.1f}" y="{(y1 + y2) / 2 - 4:.1f}">{told}</text>'
    )


def _edge(begin: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    dx, dy = end[0] - begin[0], end[1] - begin[1]
    scale = min(
        (_BOX_WIDTH / 2 + 3) / abs(dx) if abs(dx) > 1e-9 else math.inf,
        (_BOX_HEIGHT / 2 + 3) / abs(dy) if abs(dy) > 1e-9 else math.inf,
    )
    return begin[0] + dx * scale, begin[1] + dy * scale
