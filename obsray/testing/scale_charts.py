"""The curves of docs/scaling.md as SVG, drawn from what ``scale.py`` measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from obsray.testing.scale import ControlCost, Cost

#: What a call costs the process that serves it besides the machine's own work: gRPC in Python (docs/scaling.md).
RPC_SECONDS = 200e-6
#: Actors that each node makes and ends in a second, in the chart of the control store.
ACTORS_PER_SECOND = 0.1
#: Share of a process that is meant to be busy.
BUSY_MAX = 0.5
CALLS_PER_ACTOR = 4

_WIDTH, _HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 20, 44, 50
_COLOURS = ("#2563eb", "#9ca3af", "#d97706")

#: Name, points, whether it is drawn with dashes.
Series = tuple[str, Sequence[tuple[float, float]], bool]


def chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """Lines over two logarithmic axes."""
    xs = [x for _, points, _ in series for x, _ in points]
    ys = [y for _, points, _ in series for _, y in points]
    x0, x1 = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
    y0, y1 = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 1e-9)
    y1 = max(y1, y0 + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x0) / (x1 - x0)
        up = (math.log10(y) - y0) / (y1 - y0)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15" font-weight="bold" fill="#111827">{escape(title)}</text>',
    ]
    parts += [_tick_x(at(10.0**power, 10.0**y0), at(10.0**power, 10.0**y1), power) for power in range(x0, x1 + 1)]
    parts += [_tick_y(at(10.0**x0, 10.0**power), at(10.0**x1, 10.0**power), power) for power in range(y0, y1 + 1)]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, x_label, "middle"))
    parts.append(
        f'<text x="18" y="{middle:.0f}" text-anchor="middle" fill="#374151" transform="rotate(-90 18 {middle:.0f})">'
        f"{escape(y_label)}</text>"
    )
    for number, (name, points, dashed) in enumerate(series):
        parts += _line(name, [at(x, y) for x, y in points], dashed, _COLOURS[number], number)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="#374151">{escape(text)}</text>'


def _number(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"


def _tick_x(low: tuple[float, float], high: tuple[float, float], power: int) -> str:
    grid = f'<path d="M{low[0]:.1f} {low[1]:.1f}V{high[1]:.1f}" stroke="#e5e7eb"/>'
    return grid + _text(low[0], low[1] + 18, _number(power), "middle")


def _tick_y(low: tuple[float, float], high: tuple[float, float], power: int) -> str:
    grid = f'<path d="M{low[0]:.1f} {low[1]:.1f}H{high[0]:.1f}" stroke="#e5e7eb"/>'
    return grid + _text(low[0] - 6, low[1] + 4, _number(power), "end")


def _line(name: str, points: list[tuple[float, float]], dashed: bool, colour: str, number: int) -> list[str]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    found = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    if not dashed:
        found += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
    y = _TOP + 16 + 18 * number
    found.append(f'<path d="M{_LEFT + 14} {y}h24" stroke="{colour}" stroke-width="2"{dash}/>')
    return [*found, _text(_LEFT + 44, y + 4, name, "start")]


# --- the three curves ------------------------------------------------------------------------------------------------


def processes(cost: ControlCost) -> int:
    """How many control stores would share the work, each busy for ``BUSY_MAX``."""
    calls = cost.nodes * (2 + CALLS_PER_ACTOR * ACTORS_PER_SECOND)
    return max(1, math.ceil((cost.load(ACTORS_PER_SECOND) + calls * RPC_SECONDS) / BUSY_MAX))


def draw(directory: Path, costs: Sequence[Cost], control: Sequence[ControlCost]) -> list[Path]:
    """Write the curves; where they are."""
    first = costs[0]
    together = [(cost.nodes, cost.nodes * cost.per_second) for cost in costs]
    linear = [(cost.nodes, cost.nodes * first.per_second) for cost in costs]
    drawn = {
        "scaling-throughput.svg": chart(
            "Decisions per second of all nodes together", "nodes", "decisions per second",
            [
                ("each node decides for its own clients", together, False),
                ("if a decision cost what it does at 10", linear, True),
            ],
        ),
        "scaling-cost.svg": chart(
            "What a decision costs", "nodes", "microseconds",
            [
                ("choice, grant, use, return", [(c.nodes, 1e6 * c.seconds / c.decisions) for c in costs], False),
                ("hearing one report", [(c.nodes, 1e6 * c.report_seconds) for c in costs], False),
            ],
        ),
        "scaling-control.svg": chart(
            "Processes that the control store would need", "nodes", "processes",
            [("heartbeats, and an actor per node in 10 s", [(c.nodes, processes(c)) for c in control], False)],
        ),
    }  # fmt: skip
    for name, text in drawn.items():
        (directory / name).write_text(text)
    return [directory / name for name in drawn]
