"""Answers of the analyses as shapes that templates draw: places and widths in percent, classes of colour."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

#: Activity of the books -> its class of colour.
ACTIVITY_TONES = {
    "run on CPU": "act-cpu", "run off CPU": "act-off", "fetch": "act-fetch", "deserialise": "act-unpack",
    "store": "act-store", "waiting for room": "act-room", "blocked in get": "act-blocked",
    "unfinished": "act-unfinished", "overhead": "act-overhead", "starting": "act-starting",
    "other jobs": "act-others", "no process": "act-none",
}  # fmt: skip
#: Kind of piece of a critical path -> its class of colour.
KIND_TONES = {
    "driver": "act-driver", "fetch": "act-fetch", "deserialise": "act-unpack", "run": "act-cpu", "store": "act-store",
    "return": "act-off", "dispatch": "act-overhead", "queue": "act-room", "worker start": "act-starting",
    "failed attempts": "act-failed", "blocked": "act-blocked",
}  # fmt: skip
LANES_SHOWN = 14
_WIDTH_MIN = 0.12
HEIGHT = 100.0


def activity_tone(name: str) -> str:
    """The class of colour of an activity; other work of a GPU and the like has one of its own, what is idle another."""
    if name in ACTIVITY_TONES:
        return ACTIVITY_TONES[name]
    return "act-idle" if name.startswith("idle") else "act-gpu"


def stacks(row: Row, pieces: int, piece_seconds: float, height_seconds: float | None = None) -> list[Row]:
    """The rectangles of one worker's time: for each piece its activities one above the other, from the bottom.

    A full bar is ``height_seconds`` (by default a piece's: then it is full if every second of it is known).
    """
    full = height_seconds or piece_seconds
    width = 100.0 / pieces
    found: list[Row] = []
    if full <= 0:
        return found
    bottoms = [0.0] * pieces
    for name, seconds in row["activities"].items():
        tone = activity_tone(name)
        begin: int | None = None
        for at in range(pieces + 1):
            share = min(HEIGHT * seconds[at] / full, HEIGHT) if at < pieces else -1.0
            if begin is not None:
                # Neighbours that look the same are one rectangle.
                last = found[-1]
                if at < pieces and abs(share - last["height"]) < 0.5 and abs(bottoms[at] - last["bottom"]) < 0.5:
                    last["width"] += width
                    last["seconds"] += seconds[at]
                    bottoms[at] += share
                    continue
                begin = None
            if at < pieces and share >= 0.4:
                begin = at
                found.append(
                    {"tone": tone, "name": name, "left": at * width, "width": width, "height": share,
                     "bottom": bottoms[at], "seconds": seconds[at]}
                )  # fmt: skip
                bottoms[at] += share
    for one in found:
        one["top"] = max(HEIGHT - one["bottom"] - one["height"], 0.0)
    return found


def books_shape(found: Row, over: Row) -> Row:
    """Books with what is drawn of them: the sums as one bar, each worker over time, and in total."""
    parts = _bar([(row["activity"], row["seconds"]) for row in found["activities"]], found["slot_seconds"])
    pieces, each = over["pieces"], over["piece_seconds"]
    together = over["together"]
    most = max([sum(values[at] for values in together["activities"].values()) for at in range(pieces)] or [0.0])
    workers = [
        {**worker, "stacks": stacks(worker, pieces, each),
         "bar": _bar(list(worker["sums"].items()), over["pieces"] * over["piece_seconds"])}
        for worker in over["workers"]
    ]  # fmt: skip
    functions = [
        {**row, "bar": _bar(list(row["activities"].items()), row["seconds"])} for row in found["functions"][:30]
    ]
    legend = [(row["activity"], activity_tone(row["activity"]), row["what"]) for row in found["activities"]]
    return {
        **found, "bar": parts, "workers": workers, "left_out": over["left_out"], "legend": legend,
        "together": stacks(together, pieces, each, most or each), "most_slots": most / each if each else 0.0,
        "functions": functions, "functions_more": max(len(found["functions"]) - 30, 0),
        "ticks": ticks(found["wall_seconds"]),
    }  # fmt: skip


def path_shape(found: Row) -> Row:
    """A critical path with a lane for the driver and for each function, and tasks beside it with their slack."""
    begin, whole = found["from_ns"], max(found["to_ns"] - found["from_ns"], 1)
    names = [row["name"] for row in found["functions"]][:LANES_SHOWN]
    lanes: dict[str, Row] = {"": {"name": "the driver", "pieces": [], "seconds": 0.0}}
    for name in names:
        lanes[name] = {"name": name, "pieces": [], "seconds": 0.0}
    rest: Row = {"name": "other functions", "pieces": [], "seconds": 0.0}
    for piece in found["path"]:
        lane = lanes.get(piece["name"] or "", rest)
        lane["seconds"] += piece["seconds"]
        lane["pieces"].append(
            {
                **piece, "tone": KIND_TONES.get(piece["kind"], "act-gpu"),
                "left": 100 * (piece["from_ns"] - begin) / whole,
                "width": max(100 * (piece["to_ns"] - piece["from_ns"]) / whole, _WIDTH_MIN),
            }
        )  # fmt: skip
    beside = []
    for row in found["nearly"]:
        left = 100 * (row["from_ns"] - begin) / whole
        width = max(100 * row["seconds"] * 1e9 / whole, _WIDTH_MIN)
        slack = max(min(100 * row["slack_seconds"] * 1e9 / whole, 100 - left - width), 0.0)
        beside.append({**row, "left": left, "width": width, "slack_left": left + width, "slack_width": slack})
    return {
        **found, "lanes": [lane for lane in [*lanes.values(), rest] if lane["pieces"]], "beside": beside,
        "kinds": [{**row, "tone": KIND_TONES.get(row["kind"], "act-gpu")} for row in found["kinds"]],
        "ticks": ticks(found["seconds"]),
    }  # fmt: skip


def what_if_shape(found: Row) -> Row:
    """Replays with a bar each, the longest of them and of what really was being all of the width."""
    longest = max([found["actual_seconds"], found["replayed_seconds"], *(r["seconds"] for r in found["scenarios"])])
    return {
        **found,
        "actual_percent": _percent(found["actual_seconds"], longest),
        "replayed_percent": _percent(found["replayed_seconds"], longest),
        "scenarios": [{**row, "percent": _percent(row["seconds"], longest)} for row in found["scenarios"]],
    }


def memory_shape(found: Row) -> Row:
    """Groups of live objects with a bar each."""
    groups = []
    for key, title, about in (
        ("by_call_site", "Call site", "the line that called put"),
        ("by_function", "Function", "whose result it is, or that put it"),
        ("by_age", "Age", "since it was made"),
        ("by_holder", "Holder", "who was given a reference and keeps it; otherwise its owner"),
        ("by_owner", "Owner", "whose end is the end of the object, too"),
        ("by_job", "Job", ""),
    ):
        rows = found.get(key) or []
        most = max([row["bytes"] for row in rows] or [0])
        groups.append(
            {"title": title, "about": about,
             "rows": [{**row, "percent": _percent(row["bytes"], most)} for row in rows[:20]],
             "more": max(len(rows) - 20, 0)}
        )  # fmt: skip
    return {**found, "groups": groups}


def ticks(seconds: float) -> list[Row]:
    """Where a time line has marks: their places in percent, and seconds since its beginning."""
    return [{"left": 25.0 * at, "seconds": seconds * at / 4} for at in range(5)]


def _bar(parts: list[tuple[str, float]], whole: float) -> list[Row]:
    found, left = [], 0.0
    for name, seconds in parts:
        width = _percent(seconds, whole)
        if width > 0:
            found.append({"tone": activity_tone(name), "name": name, "seconds": seconds, "left": left, "width": width})
            left += width
    return found


def _percent(part: float, whole: float) -> float:
    return min(100.0 * part / whole, 100.0) if whole > 0 else 0.0
