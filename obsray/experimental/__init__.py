"""What may still change: keys and values of the control store, where objects lie, progress bars of tasks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obsray.experimental import internal_kv, locations, tqdm_ray
    from obsray.experimental.locations import get_local_object_locations, get_object_locations

__all__ = ["get_local_object_locations", "get_object_locations", "internal_kv", "locations", "tqdm_ray"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'obsray.experimental' has no attribute {name!r}")
    if name.startswith("get_"):
        return getattr(importlib.import_module("obsray.experimental.locations"), name)
    return importlib.import_module(f"obsray.experimental.{name}")
