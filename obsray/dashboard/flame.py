"""Flame graphs as SVG: the outermost function on top, wide is long. ``static/flame.js`` makes a click zoom.

Every box is an ``svg`` of its own, placed in percent, so that it fits any width and cuts its text off by itself.
"""

from __future__ import annotations

import zlib
from html import escape
from pathlib import Path
from typing import Any

from obsray.dashboard import units
from obsray.telemetry.answers.profile import Node, tree

ROW_PIXELS = 19
#: Boxes narrower than this share of the whole are left out, and more than so many.
SHARE_MIN = 0.001
BOXES_MAX = 4_000
_STATIC = Path(__file__).parent / "static"


def svg(root: Node, compared: bool) -> tuple[str, int]:
    """The drawing, and how many boxes were too narrow for it. ``compared``: coloured by what is more or less."""
    whole = root.total or 1.0
    strongest = _strongest(root) if compared else 1.0
    boxes: list[str] = []
    left_out = deepest = 0
    waiting = [(root, 0.0, 0)]
    while waiting:
        node, left, depth = waiting.pop()
        share = node.total / whole
        if share < SHARE_MIN or len(boxes) >= BOXES_MAX:
            left_out += 1
            continue
        deepest = max(deepest, depth)
        boxes.append(_box(node, left, share, depth, whole, _colour(node, compared, strongest), compared))
        for child in node.sorted():
            waiting.append((child, left, depth + 1))
            left += child.total / whole
    height = (deepest + 1) * ROW_PIXELS
    made = (
        f'<svg class="flame" width="100%" height="{height}" role="img" '
        f'aria-label="Flame graph of {escape(units.plain(root.name))}; the table below has its lines">'
        f"{''.join(boxes)}</svg>"
    )
    return made, left_out


def _box(node: Node, left: float, share: float, depth: int, whole: float, colour: str, compared: bool) -> str:
    name = units.plain(node.name)
    cpu = f"{node.cpu / node.total:.0%} of it on a CPU" if node.total else ""
    told = f"{name}\n{units.seconds(node.total)} ({share:.1%}), {units.seconds(node.own)} of it in itself; {cpu}"
    if compared:
        told = (
            f"{name}\nslow tasks: {units.seconds(node.total)} each, fast ones: {units.seconds(node.before)} "
            f"({node.total - node.before:+.3g} s)"
        )
    return (
        f'<svg class="box" x="{left * 100:.4f}%" y="{depth * ROW_PIXELS}" width="{share * 100:.4f}%" '
        f'height="{ROW_PIXELS - 1}" data-left="{left:.6f}" data-share="{share:.6f}" data-depth="{depth}" tabindex="0">'
        f'<title>{escape(told)}</title><rect width="100%" height="100%" fill="{colour}"/>'
        f'<text x="4" y="{ROW_PIXELS - 6}">{escape(name)}</text></svg>'
    )


def _strongest(root: Node) -> float:
    found, waiting = 0.0, [root]
    while waiting:
        node = waiting.pop()
        if node is not root:
            found = max(found, abs(node.total - node.before))
        waiting.extend(node.children.values())
    return found or 1.0


def _colour(node: Node, compared: bool, strongest: float) -> str:
    """Warm is on a CPU, cool waits; compared: red is more in slow tasks, blue is less."""
    if compared:
        change = max(-1.0, min(1.0, (node.total - node.before) / strongest))
        pale = round(246 - 130 * abs(change) ** 0.6)
        return f"rgb(246,{pale},{pale})" if change >= 0 else f"rgb({pale},{pale},246)"
    chance = zlib.crc32(node.name.encode()) % 100 / 100
    if node.total and node.cpu / node.total < 0.5:
        return f"hsl({200 + 18 * chance:.0f},{45 + 15 * chance:.0f}%,{74 + 8 * chance:.0f}%)"
    return f"hsl({24 + 26 * chance:.0f},{78 + 12 * chance:.0f}%,{66 + 8 * chance:.0f}%)"


def shape(found: dict[str, Any], lines: bool, cpu: bool) -> dict[str, Any]:
    """The answer of ``profile`` as a page shows it."""
    compared = found["slow_vs_fast"] is not None
    root = tree(found, lines, cpu)
    drawing, left_out = svg(root, compared)
    total = sum(row["seconds"] for row in found["lines"]) or 1.0
    return {
        **found, "drawing": drawing, "boxes_left_out": left_out, "drawn_seconds": root.total,
        "lines": [{**row, "share": row["seconds"] / total} for row in found["lines"]],
    }  # fmt: skip


def standalone(found: dict[str, Any], lines: bool = False, cpu: bool = False) -> str:
    """One file that opens offline."""
    shaped = shape(found, lines, cpu)
    compared = found["slow_vs_fast"]
    told = (
        f"{units.count(found['samples'])} samples, {units.seconds(found['seconds'])}, "
        f"{units.seconds(found['cpu_seconds'])} of it on a CPU"
    )
    legend = "warm: on a CPU, cool: waiting"
    if compared is not None:
        told = (
            f"{compared['slow_tasks']} slow tasks (from {units.seconds(compared['slow_from_seconds'])}) against "
            f"{compared['fast_tasks']} fast ones (up to {units.seconds(compared['fast_to_seconds'])})"
        )
        legend = "red: slow tasks spend more there, blue: less"
    rows = "".join(
        f"<tr><td>{units.seconds(row['seconds'])}</td><td>{row['share']:.1%}</td><td>{escape(units.plain(row['line']))}"
        "</td></tr>"
        for row in shaped["lines"][:20]
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>profile of '
        f"{escape(units.plain(found['what']))}</title><style>body{{font:14px/1.5 system-ui,sans-serif;margin:20px;"
        "background:#fff;color:#17201c}td{padding:1px 14px 1px 0;font-variant-numeric:tabular-nums}"
        f"{(_STATIC / 'flame.css').read_text()}</style><h1>Profile of {escape(units.plain(found['what']))}</h1>"
        f"<p>{told}; {legend}. Click a box to zoom, the top one to go back.</p>{shaped['drawing']}"
        f"<h2>Lines</h2><table>{rows}</table><script>{(_STATIC / 'flame.js').read_text()}</script></html>\n"
    )
