"""Plain values as YAML: as much of it as the files here need, readable, and the same text each time."""

from __future__ import annotations

import json
import re
from typing import Any

#: Text that means itself without quotes in every version of YAML.
_PLAIN = re.compile(r"[A-Za-z_/.][\w/.@+-]*(?: [\w/.@(+-][\w/.@()+-]*)*|\d+(?:ms|[smhd])")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", ".nan", ".inf"}


def dump(value: Any, comment: str = "") -> str:
    """The document, with ``comment`` lines in front."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "\n".join(_block(value, 0)) + "\n"


def _block(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, dict) and value:
        for key, item in value.items():
            lines += _entry(f"{pad}{_scalar(str(key))}:", item, depth + 1)
        return lines
    if isinstance(value, list) and value:
        for item in value:
            if isinstance(item, dict | list) and item:
                inner = _block(item, depth + 1)
                lines += [f"{pad}- {inner[0].lstrip()}", *inner[1:]]
            else:
                lines += _entry(f"{pad}-", item, depth + 1)
        return lines
    return [f"{pad}{_scalar(value)}"]


def _entry(head: str, item: Any, depth: int) -> list[str]:
    if isinstance(item, dict | list) and item:
        return [head, *_block(item, depth)]
    if isinstance(item, str) and "\n" in item.strip("\n"):
        kept = "|" if item.endswith("\n") else "|-"
        return [f"{head} {kept}", *(("  " * depth + line).rstrip() for line in item.rstrip("\n").split("\n"))]
    return [f"{head} {_scalar(item)}"]


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | dict | list):
        return json.dumps(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not re.fullmatch(r"[0-9.eE+-]+", text):
        return text
    return "'" + text.replace("'", "''") + "'" if text.isprintable() else json.dumps(text)
