"""Write the pages and files that are made from code: ``python scripts/generate_docs.py``.

``tests/test_docs.py`` compares what is committed with what this makes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from obsray import config  # noqa: E402
from obsray.core.protocol import docs as lifecycles  # noqa: E402
from obsray.metrics import docs as metrics  # noqa: E402
from obsray.monitoring.files import files  # noqa: E402
from obsray.telemetry import docs as events  # noqa: E402
from obsray.telemetry.database import docs as sql  # noqa: E402

_CONFIGURATION = """# Configuration

Every setting of the runtime. Generated from `obsray/config.py`; do not edit.

A setting comes from, later ones winning: its default, the variable `OBSRAY_<NAME>` in the environment of the program
that calls `init`, and `obsray.init(_system_config={"<name>": value})`. It is read once, when the runtime starts, and
is the same in all its processes. A name that does not exist or a value of the wrong type is a ValueError.

| setting | variable | unit | default | why |
|---|---|---|---|---|
"""

#: How names end -> what the number counts.
_UNITS = {
    "sessions": "sessions",
    "_address": "host:port",
    "_directory": "path",
    "_seconds": "seconds",
    "_bytes": "bytes",
    "_ratio": "share",
    "tasks": "tasks",
    "workers": "processes",
    "chaos": "faults",
    "_hz": "a second",
    "oom_retries": "kills",
    "_library": "file",
    "xids": "numbers",
}


def configuration() -> str:
    """``docs/configuration.md``. Raises KeyError for a setting without a comment that says why it is there."""
    source = Path(config.__file__).read_text()
    found = re.findall(r"((?:^    #: .*\n)+)^    (\w+): ", source, flags=re.MULTILINE)
    comments = {name: " ".join(re.findall(r"#: (.*)", comment)) for comment, name in found}
    rows = ""
    for field in fields(config.Config):
        default = field.default
        shown = f"{default}" if not isinstance(default, int) or default < 1024 else _binary(default)
        why = comments[field.name].replace("``", "`")
        rows += f"| `{field.name}` | `{config.variable(field.name)}` | {unit(field.name)} | {shown} | {why} |\n"
    return _CONFIGURATION + rows


def unit(name: str) -> str:
    """What a setting's number counts, by its name, or the words it can be."""
    if name in config.CHOICES:
        return ", ".join(config.CHOICES[name])
    return next((words for end, words in _UNITS.items() if end in name), "on, off")


def _binary(size: int) -> str:
    for name, unit_bytes in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= unit_bytes and size % unit_bytes == 0:
            return f"{size} ({size // unit_bytes} {name})"
    return str(size)


PAGES: dict[str, Callable[[], str]] = {
    "docs/configuration.md": configuration,
    "docs/events.md": events.markdown,
    "docs/lifecycles.md": lifecycles.markdown,
    "docs/metrics.md": metrics.markdown,
    **files(),
    "docs/sql.md": sql.markdown,
}

if __name__ == "__main__":
    for path, make in PAGES.items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(make())
