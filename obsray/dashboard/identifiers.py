"""From what people type to the one thing they mean: full ids, unique prefixes and the short form ``3fa2c1d0:42``."""

from __future__ import annotations

import re
from typing import Any

from .conditions import Condition, matches

CANDIDATES_MAX = 20
PREFIX_CHARACTERS_MIN = 4

_HEX = re.compile(r"[0-9a-f]+")
_SHORT = re.compile(r"([0-9a-f]{8}):([pag]?)(\d{1,16})(?:\[(\d{1,9})\])?")
#: What was numbered, plain or detached.
_MARKS = {"": ("00",), "p": ("01",), "a": ("02", "04"), "g": ("03", "05")}
#: Noun -> the column that names it and how many hex digits that has.
KEYS = {
    "tasks": ("task_id", 32),
    "actors": ("actor_id", 32),
    "placement_groups": ("group_id", 32),
    "collectives": ("group_id", 32),
    "objects": ("object_id", 40),
    "workers": ("worker_id", 16),
    "nodes": ("node_id", 16),
}
_PAGED = ("tasks", "objects")


class UnknownId(LookupError):
    """Nothing, or more than one thing, is meant; the message says which."""


def resolve(view: Any, noun: str, text: str) -> str:
    """The full id of the one ``noun`` (a key of ``KEYS``) that ``text`` means. Raises UnknownId."""
    return _only(candidates(view, noun, text), noun.removesuffix("s").replace("_", " "), text)


def anything(view: Any, text: str) -> tuple[str, str]:
    """``(noun, full id)`` of whatever ``text`` means; a full id always means itself, and so does ``gpu:0``. Raises
    UnknownId."""
    wanted = text.strip().lower()
    if wanted.startswith("gpu:"):
        return "gpus", wanted
    found = {noun: candidates(view, noun, text) for noun in KEYS}
    for noun, ids in found.items():
        if wanted in ids:
            return noun, wanted
    # An actor and the task that made it share their id.
    if found["tasks"] and _SHORT.fullmatch(wanted):
        found["objects"] = []
    first = {identifier: noun for noun in reversed(KEYS) for identifier in found[noun]}
    identifier = _only(list(first), "thing", text)
    return first[identifier], identifier


def candidates(view: Any, noun: str, text: str) -> list[str]:
    """Up to ``CANDIDATES_MAX`` full ids of ``noun`` that ``text`` may mean; an exact match stands alone."""
    key, digits = KEYS[noun]
    wanted = text.strip().lower()
    short = _SHORT.fullmatch(wanted)
    if short:
        ids = [identifier for identifier in _spelled_out(view, short) if len(identifier) == digits]
        return [identifier for identifier in ids if _rows(view, noun, [(key, "=", identifier)])][:CANDIDATES_MAX]
    if not _HEX.fullmatch(wanted) or not PREFIX_CHARACTERS_MIN <= len(wanted) <= digits:
        return []
    # Looking an exact id up is cheap; looking for a part of one reads the whole column.
    operator = "=" if len(wanted) == digits else "contains"
    found = [row[key] for row in _rows(view, noun, [(key, operator, wanted)]) if row[key].startswith(wanted)]
    return [wanted] if wanted in found else found[:CANDIDATES_MAX]


def _rows(view: Any, noun: str, conditions: list[Condition]) -> list[dict[str, Any]]:
    if noun in _PAGED:
        rows: list[dict[str, Any]] = getattr(view, noun)(conditions, limit=1000, refresh=False)["rows"]
        return rows
    return [row for row in getattr(view, noun)(refresh=False) if matches(row, conditions)]


def _spelled_out(view: Any, short: re.Match[str]) -> list[str]:
    """The full ids that ``3fa2c1d0:42`` or ``3fa2c1d0:42[1]`` may stand for, one for each process it may begin with."""
    owner, mark, sequence, index = short.groups()
    tails = [f"{kind}{int(sequence):014x}" for kind in _MARKS[mark]]
    owners = [row["worker_id"] for row in view.workers(refresh=False) if row["worker_id"].startswith(owner)]
    tasks = [one + tail for one in owners for tail in tails] if index is None else []
    return tasks + [f"{one}{tail}{int(index or 0):08x}" for one in owners for tail in tails]


def _only(found: list[str], kind: str, text: str) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise UnknownId(f"no {kind} of this session has an id that begins with {text!r}")
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    number = f"{CANDIDATES_MAX} or more" if len(found) >= CANDIDATES_MAX else str(len(found))
    raise UnknownId(f"{text!r} could be {number} {kind}s: {shown}")
