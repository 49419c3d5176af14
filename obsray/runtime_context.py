"""The runtime context under its familiar module name."""

from obsray.core.api import get_runtime_context
from obsray.core.runtime.context import RuntimeContext

__all__ = ["RuntimeContext", "get_runtime_context"]
