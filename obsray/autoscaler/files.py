"""Settings of an autoscaler out of a file: JSON, TOML, or YAML where PyYAML is installed."""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load(path: str | Path) -> dict[str, Any]:
    """The content of a file, not yet checked. Raises ValueError with a sentence, naming the file."""
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        value = _reader(path.suffix.lower())(text)
    except ImportError:
        raise ValueError(
            f"{path}: YAML is read only where PyYAML is installed ('pip install pyyaml'); JSON and TOML always are"
        ) from None
    except Exception as error:
        raise ValueError(f"{path}: it cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: the whole file must be an object with keys such as available_node_types")
    return value


def _reader(suffix: str) -> Callable[[str], Any]:
    if suffix in (".yaml", ".yml"):
        return importlib.import_module("yaml").safe_load  # type: ignore[no-any-return]
    return tomllib.loads if suffix == ".toml" else json.loads


__all__ = ["load"]
