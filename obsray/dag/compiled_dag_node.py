"""Part of ``obsray.dag`` under the name that programs import it by."""

from obsray.core.graph import CompiledDAG

__all__ = ["CompiledDAG"]
