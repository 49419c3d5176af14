"""From what people type to the one thing they mean: full ids, unique prefixes and the short form ``3fa2c1d0:42``."""

from __future__ import annotations

import re
from typing import Any

CANDIDATES_MAX = 20
PREFIX_CHARACTERS_MIN = 4

_HEX = re.compile(r"[0-9a-f]+")
_SHORT = re.compile(r"([0-9a-f]{8}):([pa]?)(\d{1,16})(?:\[(\d{1,9})\])?")
_MARKS = {"": "00", "p": "01", "a": "02"}
#: Noun -> the column that names it.
KEYS = {
    "tasks": "task_id",
    "actors": "actor_id",
    "objects": "object_id",
    "workers": "worker_id",
    "nodes": "node_id",
    "jobs": "job_id",
}
_PAGED = ("tasks", "objects")


class UnknownId(LookupError):
    """Nothing, or more than one thing, is meant; the message says which."""


def resolve(view: Any, noun: str, text: str) -> str:
    """The full id of the one ``noun`` (a key of ``KEYS``) that ``text`` means. Raises UnknownId."""
    found = candidates(view, noun, text)
    if len(found) == 1:
        return found[0]
    kind = noun.removesuffix("s")
    if not found:
        raise UnknownId(f"no {kind} of this session has an id that begins with {text!r}")
    shown = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    number = f"{CANDIDATES_MAX} or more" if len(found) >= CANDIDATES_MAX else str(len(found))
    raise UnknownId(f"{text!r} could be {number} {noun}: {shown}")


def candidates(view: Any, noun: str, text: str) -> list[str]:
    """Up to ``CANDIDATES_MAX`` full ids of ``noun`` that ``text`` may mean; an exact match stands alone."""
    key, wanted = KEYS[noun], text.strip().lower()
    if noun == "jobs":
        return [str(row[key]) for row in view.jobs() if str(row[key]) == wanted][:1]
    parts = _parts(wanted)
    if parts is None:
        return []
    prefix, suffix = parts
    if noun in _PAGED:
        needle = suffix or prefix
        filters = (
            [(key, "=", wanted)]
            if not suffix and len(wanted) == {"tasks": 32, "objects": 40}[noun]
            else [(key, "contains", needle)]
        )
        rows = getattr(view, noun)(filters=filters, limit=1000)["rows"]
    else:
        answer = getattr(view, noun)()
        rows = answer["rows"] if isinstance(answer, dict) else answer
    found = [row[key] for row in rows if row[key].startswith(prefix) and row[key].endswith(suffix)]
    return [wanted] if wanted in found else found[:CANDIDATES_MAX]


def anything(view: Any, text: str) -> tuple[str, str]:
    """``(noun, full id)`` of whatever ``text`` means. Raises UnknownId."""
    found = [
        (noun, one)
        for noun in ("tasks", "actors", "objects", "workers", "nodes")
        for one in candidates(view, noun, text)
    ]
    if len(found) == 1 or (found and all(one == found[0][1] for _, one in found)):
        return found[0]
    if not found:
        raise UnknownId(f"nothing of this session has an id that begins with {text!r}")
    shown = ", ".join(f"{noun.removesuffix('s')} {one}" for noun, one in found[:5])
    raise UnknownId(f"{text!r} could be {shown}{' ...' if len(found) > 5 else ''}")


def _parts(text: str) -> tuple[str, str] | None:
    """The beginning and the end that an id must have, or None if ``text`` is not (part of) an id."""
    short = _SHORT.fullmatch(text)
    if short:
        owner, mark, sequence, index = short.groups()
        tail = f"{_MARKS[mark]}{int(sequence):014x}"
        return owner, tail + (f"{int(index):08x}" if index is not None else "")
    if _HEX.fullmatch(text) and len(text) >= PREFIX_CHARACTERS_MIN:
        return text, ""
    return None
