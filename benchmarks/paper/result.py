"""What an experiment measured: charts, numbers beside the paper's, and whether the shape is the paper's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Axis:
    """``title`` ends with the unit in brackets. ``values``: how ticks are written, "number" or "bytes"."""

    title: str
    log: bool = False
    values: str = "number"


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured at ``x``, once per repetition."""

    x: float
    values: list[float]

    @property
    def y(self) -> float:
        """The median."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart. ``reference``: what is compared with, drawn thin and dashed."""

    title: str
    points: list[Point]
    reference: bool = False

    def at(self, x: float) -> float:
        """The median at ``x``. Raises KeyError if nothing was measured there."""
        for point in self.points:
            if point.x == x:
                return point.y
        raise KeyError(f"{self.title}: nothing was measured at {x:g}")

    @property
    def peak(self) -> float:
        """The highest median."""
        return max(point.y for point in self.points)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at ``x``: a vertical line with a word."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """``name``: of its file. ``title``: one line."""

    name: str
    title: str
    x: Axis
    y: Axis
    series: list[Series]
    marks: list[Mark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """One number, the paper's and ours, as text with units."""

    what: str
    paper: str
    here: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Something the paper's curve says, and whether ours says it, too."""

    claim: str
    measured: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one run of an experiment gives."""

    charts: list[Chart]
    rows: list[Row]
    claims: list[Claim]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        return cls(
            charts=[_chart(each) for each in data["charts"]],
            rows=[Row(**each) for each in data["rows"]],
            claims=[Claim(**each) for each in data["claims"]],
        )


def _chart(data: dict[str, Any]) -> Chart:
    series = [
        Series(each["title"], [Point(**point) for point in each["points"]], each["reference"])
        for each in data["series"]
    ]
    marks = [Mark(**each) for each in data["marks"]]
    return Chart(data["name"], data["title"], Axis(**data["x"]), Axis(**data["y"]), series, marks)


def series_of(title: str, measured: dict[float, list[float]], reference: bool = False) -> Series:
    """A series out of x -> values, in the order of x."""
    return Series(title, [Point(x, list(values)) for x, values in sorted(measured.items())], reference)


def between(values: Sequence[float], unit: str = "") -> str:
    """Median, and lowest to highest, in a table's cell."""
    low, high = min(values), max(values)
    middle = f"{significant(statistics.median(values))}{unit}"
    return middle if low == high else f"{middle} ({significant(low)} – {significant(high)})"


def significant(value: float) -> str:
    """Three significant digits, thousands separated."""
    if abs(value) >= 1000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"
