"""A chart as SVG: lines with every repetition's value and their range, axes with units, a legend above.

Nothing is drawn by a library, so the pictures are small, the same everywhere, and readable in light and dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.paper import scales
from benchmarks.paper.lettering import Box, box_of, width
from benchmarks.paper.result import Chart, Mark, Point, Series
from benchmarks.paper.scales import Scale

WIDTH = 760
MARGIN = 16
PLOT_HEIGHT = 300
TITLE, LABEL, TICK = 15, 13, 12
ROW = 20
#: Series with more points than this are curves over time: their points get no signs.
POINTS_WITH_SIGNS = 24

#: Light and dark, told apart also by people who see few colours, and by the signs of ``_sign``.
COLOURS = (
    ("#0060a8", "#5db4ff"), ("#c44900", "#ff9b57"), ("#00795a", "#3fd6a4"), ("#8a2d84", "#e08adb"),
    ("#77620a", "#dcc34a"), ("#4d5566", "#b3bccb"),
)  # fmt: skip
_FRAME = (("page", "#ffffff", "#14181f"), ("ink", "#1c2128", "#e4e8ee"), ("quiet", "#5b6470", "#a2adba"))
_RULE = ("#e3e6ea", "#2b323c")


def svg(chart: Chart) -> str:
    """The whole picture. Raises ValueError for a chart without series, or with values an axis cannot show."""
    if not chart.series:
        raise ValueError(f"chart {chart.name!r} has no series")
    legend, legend_rows = _legend(chart.series)
    top = MARGIN + TITLE + 10 + legend_rows * ROW + LABEL + 14
    xs = [point.x for series in chart.series for point in series.points]
    ys = [value for series in chart.series for point in series.points for value in point.values]
    y_low, y_high = scales.bounds(chart.y, ys, horizontal=False)
    y_ticks = [(value, scales.written(value, chart.y.values)) for value in scales.ticks(chart.y, y_low, y_high)]
    left = MARGIN + max(width(text, TICK) for _, text in y_ticks) + 8
    bottom = top + PLOT_HEIGHT
    height = bottom + 6 + TICK + 10 + LABEL + MARGIN
    x_low, x_high = scales.bounds(chart.x, [*xs, *(mark.x for mark in chart.marks)], horizontal=True)
    across = Scale(chart.x, x_low, x_high, left, WIDTH - MARGIN)
    upward = Scale(chart.y, y_low, y_high, bottom, top)
    middle = (left + WIDTH - MARGIN) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'font-family="system-ui, Helvetica, Arial, sans-serif">',
        f"<title>{escape(chart.title)}</title>",
        _style(),
        f'<rect class="page" width="{WIDTH}" height="{height:.0f}" rx="6"/>',
        text(MARGIN, MARGIN + TITLE - 2, chart.title, TITLE, weight="600"),
        *legend,
        text(MARGIN, top - 13, chart.y.title, LABEL, kind="quiet"),
        *_grid(y_ticks, upward, left),
        *_below(chart, across, bottom, xs),
        text(middle, height - MARGIN + 2, chart.x.title, LABEL, kind="quiet", anchor="middle"),
        *_marks(chart.marks, across, top, bottom),
    ]
    for number, series in enumerate(chart.series):
        parts += _drawn(series, number, across, upward, chart)
    return "\n".join([*parts, "</svg>", ""])


def text(
    x: float, y: float, words: str, size: int, kind: str = "ink", anchor: str = "start", weight: str = "400"
) -> str:
    """A line of text with its baseline at ``y``."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def _style() -> str:
    def rules(scheme: int) -> str:
        found = [f".{name}{{fill:{colours[scheme]}}}" for name, *colours in _FRAME]
        found.append(f".rule{{stroke:{_RULE[scheme]}}}")
        for number, pair in enumerate(COLOURS):
            found.append(f".s{number}{{stroke:{pair[scheme]};fill:{pair[scheme]}}}")
        return "".join(found)

    fixed = ".line{fill:none;stroke-width:2;stroke-linejoin:round}.thin{stroke-width:1.4;stroke-dasharray:6 4}"
    fixed += ".range{stroke-width:1.4}.each{opacity:.45;stroke:none}.mark{stroke-dasharray:3 3;stroke-width:1.2}"
    return f"<style>{rules(0)}.mark{{stroke:#5b6470}}@media (prefers-color-scheme:dark){{{rules(1)}}}{fixed}</style>"


def _legend(series: Sequence[Series]) -> tuple[list[str], int]:
    """Its parts, and how many rows they fill."""
    parts: list[str] = []
    x, row = float(MARGIN), 0
    for number, each in enumerate(series):
        wide = 30 + width(each.title, LABEL) + 18
        if x > MARGIN and x + wide > WIDTH:
            x, row = float(MARGIN), row + 1
        y = MARGIN + TITLE + 14 + row * ROW
        thin = " thin" if each.reference else ""
        parts.append(f'<path class="s{number % len(COLOURS)} line{thin}" d="M{x:.1f} {y}h24"/>')
        if not each.reference and len(each.points) <= POINTS_WITH_SIGNS:
            parts.append(_sign(number, x + 12, y))
        parts.append(text(x + 30, y + 4, each.title, LABEL))
        x += wide
    return parts, row + 1


def _grid(y_ticks: Sequence[tuple[float, str]], upward: Scale, left: float) -> Iterator[str]:
    for value, words in y_ticks:
        y = upward.place(value)
        yield f'<path class="rule" d="M{left:.1f} {y:.1f}H{WIDTH - MARGIN}"/>'
        yield text(left - 6, y + 4, words, TICK, kind="quiet", anchor="end")


def _below(chart: Chart, across: Scale, bottom: float, xs: Sequence[float]) -> Iterator[str]:
    """Ticks of the horizontal axis; one whose text would touch the one before it has no text."""
    last: Box | None = None
    y = bottom + 6 + TICK
    yield f'<path class="rule" d="M{across.start:.1f} {bottom:.1f}H{across.end:.1f}" stroke-width="1.5"/>'
    for value in scales.ticks(chart.x, across.low, across.high, xs):
        x = across.place(value)
        yield f'<path class="rule" d="M{x:.1f} {bottom:.1f}v5" stroke-width="1.5"/>'
        words = scales.written(value, chart.x.values)
        box = box_of(words, x, y, TICK, "middle")
        if (last is None or not box.touches(last, gap=6)) and box.right <= WIDTH:
            yield text(x, y, words, TICK, kind="quiet", anchor="middle")
            last = box


def _marks(marks: Sequence[Mark], across: Scale, top: float, bottom: float) -> Iterator[str]:
    """Vertical lines; their words go a row down where they would touch others."""
    taken: list[Box] = []
    for mark in marks:
        x = across.place(mark.x)
        anchor = "end" if x + 4 + width(mark.text, TICK) > WIDTH - MARGIN else "start"
        shift = -4 if anchor == "end" else 4
        y = top + TICK
        while any(box_of(mark.text, x + shift, y, TICK, anchor).touches(box, gap=10) for box in taken):
            y += TICK + 4
        taken.append(box_of(mark.text, x + shift, y, TICK, anchor))
        yield f'<path class="mark" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
        yield text(x + shift, y, mark.text, TICK, kind="quiet", anchor=anchor)


def _drawn(series: Series, number: int, across: Scale, upward: Scale, chart: Chart) -> Iterator[str]:
    colour = f"s{number % len(COLOURS)}"
    thin = " thin" if series.reference else ""
    path = "L".join(f"{across.place(point.x):.1f} {upward.place(point.y):.1f}" for point in series.points)
    yield f'<path class="{colour} line{thin}" d="M{path}"/>'
    if series.reference or len(series.points) > POINTS_WITH_SIGNS:
        return
    for point in series.points:
        x = across.place(point.x)
        yield f"<g><title>{escape(_spoken(series, point, chart))}</title>"
        if len(point.values) > 1:
            low, high = upward.place(min(point.values)), upward.place(max(point.values))
            yield f'<path class="{colour} range" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
            for value in point.values:
                yield f'<circle class="{colour} each" cx="{x:.1f}" cy="{upward.place(value):.1f}" r="2.5"/>'
        yield _sign(number, x, upward.place(point.y))
        yield "</g>"


def _spoken(series: Series, point: Point, chart: Chart) -> str:
    """A point in words, for who rests the pointer on it and for who cannot see it."""
    x = scales.written(point.x, chart.x.values)
    spread = ""
    if len(point.values) > 1:
        low, high = (scales.written(value, chart.y.values) for value in (min(point.values), max(point.values)))
        spread = f" ({low} to {high} in {len(point.values)} repetitions)"
    return f"{series.title}, {x}: {scales.written(point.y, chart.y.values)}{spread}"


def _sign(number: int, x: float, y: float) -> str:
    """The series' sign: circle, square, triangle, diamond."""
    colour = f"s{number % len(COLOURS)}"
    match number % 4:
        case 0:
            return f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case 1:
            return f'<rect class="{colour}" x="{x - 3.6:.1f}" y="{y - 3.6:.1f}" width="7.2" height="7.2"/>'
        case 2:
            return f'<path class="{colour}" d="M{x:.1f} {y - 4.6:.1f}l4.6 8h-9.2z"/>'
        case _:
            return f'<path class="{colour}" d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z"/>'
