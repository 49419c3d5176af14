"""Axes: which values get a tick, how they are written, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.paper.result import Axis

#: Powers of ten get a name each.
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B"))
_NUMBERS = ((1e9, " G"), (1e6, " M"), (1e4, " k"))
#: Where ticks of a linear axis may lie, times a power of ten.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def written(value: float, values: str) -> str:
    """A tick's value as text, in units of the axis."""
    if values == "bytes":
        for size, name in _BYTES:
            if value >= size:
                return f"{value / size:.3g} {name}"
        return "0"
    for size, name in _NUMBERS:
        if abs(value) >= size:
            scale = 1e3 if name == " k" else size
            return f"{value / scale:.4g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values of an axis to ``start`` ... ``end`` of the picture."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        if self.axis.log:
            share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def bounds(axis: Axis, values: Sequence[float], horizontal: bool) -> tuple[float, float]:
    """Lowest and highest value of the axis. Raises ValueError for values that it cannot show."""
    if not values:
        raise ValueError(f"there is nothing to draw on the axis {axis.title!r}")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"the axis {axis.title!r} cannot show values that are not finite")
    low, high = min(values), max(values)
    if axis.log:
        if low <= 0:
            raise ValueError(f"the axis {axis.title!r} is logarithmic and cannot show {low:g}")
        if horizontal:
            room = max((high / low) ** 0.04, 1.1)
            return low / room, high * room
        return _lower_decade_part(low), _upper_decade_part(high)
    if horizontal:
        room = (high - low) * 0.03 or 1.0
        return (0.0 if 0 <= low <= (high - low) * 0.25 else low - room), high + room
    return min(0.0, low), (high * 1.08 if high > 0 else 1.0)


def _lower_decade_part(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value * 0.9))
    return max(decade * step for step in (1, 2, 5) if decade * step <= value * 0.9)


def _upper_decade_part(value: float) -> float:
    decade = 10.0 ** math.floor(math.log10(value * 1.1))
    return min(decade * step for step in (1, 2, 5, 10) if decade * step >= value * 1.1)


def ticks(axis: Axis, low: float, high: float, measured: Sequence[float] = ()) -> list[float]:
    """Values that get a tick. ``measured``: the values themselves, if they are few."""
    if axis.log and 0 < len(set(measured)) <= 10:
        return sorted(set(measured))
    if axis.log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        within = (1 - 1e-9) * low, (1 + 1e-9) * high
        steps = (1,) if last - first > 3 else (1, 2, 5)
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [value for value in found if within[0] <= value <= within[1]]
    if 1 < len(set(measured)) <= 6:
        return sorted(set(measured))
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in _STEPS if size * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
