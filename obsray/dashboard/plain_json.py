"""JSON out of values that came from columns: numpy scalars become numbers, what is not a number becomes null."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """``value`` as one line of strict JSON (no NaN, no infinity)."""
    return json.dumps(_finite(value), default=_native, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _native(value: Any) -> Any:
    return _finite(value.tolist()) if hasattr(value, "tolist") else str(value)
