"""How wide text is, about, without asking a browser: to keep words apart."""

from __future__ import annotations

from dataclasses import dataclass

_NARROW = set("ijlt.,:;'|!()[]/ f-")
_WIDE = set("mwMW%@—→×")


def width(text: str, size: float) -> float:
    """Width in pixels in a sans-serif face, rather too wide than too narrow."""
    em = 0.0
    for letter in text:
        if letter in _NARROW:
            em += 0.34
        elif letter in _WIDE:
            em += 0.92
        elif letter.isupper():
            em += 0.7
        else:
            em += 0.58
    return em * size


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the picture."""

    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: Box, gap: float = 0.0) -> bool:
        """Whether the two overlap, or are closer than ``gap``."""
        apart = self.right + gap <= other.left or other.right + gap <= self.left
        return not (apart or self.bottom + gap <= other.top or other.bottom + gap <= self.top)


def box_of(text: str, x: float, y: float, size: float, anchor: str) -> Box:
    """Where text with its baseline at ``y`` lies. ``anchor``: "start", "middle" or "end", as in SVG."""
    wide = width(text, size)
    left = {"start": x, "middle": x - wide / 2, "end": x - wide}[anchor]
    return Box(left, y - 0.8 * size, left + wide, y + 0.25 * size)
