"""Lines for a terminal: the same one from many workers is shown once, and nothing in it steers the terminal."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Different lines that are remembered at a time; more are just shown.
LINES_MAX = 10_000
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
#: Control sequences and characters: cursor, screen, title, clipboard, device commands, bells, text direction.
_STEERING = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def harmless(line: str) -> str:
    """A line with its colours, which end with it, and without anything else that a terminal would obey."""
    if line.isprintable():
        return line
    coloured = False

    def kept(found: re.Match[str]) -> str:
        nonlocal coloured
        if _COLOUR.fullmatch(found[0]):
            coloured = True
            return found[0]
        return ""

    text = _STEERING.sub(kept, line)
    return text + "\x1b[0m" if coloured else text


def without_control(text: str) -> str:
    """A text without anything that a terminal would obey, colours included, in one line."""
    return text if text.isprintable() else _STEERING.sub("", text).replace("\n", " ").replace("\t", " ")


@dataclass(slots=True)
class _Seen:
    until: float
    source: str
    #: The newest that was not shown, with what to put in front of it.
    newest: str = ""
    repeats: int = 0


def _said(line: str) -> str:
    """A line without the words that have digits: what workers say alike, each with its own numbers."""
    if not any(map(str.isdigit, line)):
        return line
    return " ".join(word for word in line.split() if not any(map(str.isdigit, word)))


class Repeats:
    """Which lines to show. ``seconds``: how long the same line from other workers is held back; 0 for never.

    Lines that differ in numbers only are the same, as in Ray; one that has nothing else is always shown.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[tuple[str, str], _Seen] = {}

    def shows(self, stream: str, line: str, source: str, prefix: str, now: float) -> bool:
        """Whether a line of worker ``source`` is to be shown now."""
        if self._seconds <= 0 or not line.strip() or not (said := _said(line)):
            return True
        seen = self._seen.get((stream, said))
        if seen is None:
            if len(self._seen) < LINES_MAX:
                self._seen[stream, said] = _Seen(now + self._seconds, source)
            return True
        if seen.source == source:
            return True
        seen.repeats += 1
        seen.newest = f"{prefix}{line}"
        return False

    def due(self, now: float | None) -> list[tuple[str, str]]:
        """Lines that were held back and are to be told of by now (None: all): stream, and the line."""
        found = []
        for (stream, said), seen in list(self._seen.items()):
            if now is not None and now < seen.until:
                # In order of time: none of the others is due.
                break
            del self._seen[stream, said]
            if seen.repeats == 1:
                found.append((stream, seen.newest))
            elif seen.repeats:
                found.append((stream, f"{seen.newest} [repeated {seen.repeats}x across the cluster]"))
        return found
