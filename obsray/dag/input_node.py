"""Part of ``obsray.dag`` under the name that programs import it by."""

from obsray.core.graph import InputAttributeNode, InputNode

__all__ = ["InputAttributeNode", "InputNode"]
