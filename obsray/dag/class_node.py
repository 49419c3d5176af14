"""Part of ``obsray.dag`` under the name that programs import it by."""

from obsray.core.graph import ClassMethodNode, ClassNode

__all__ = ["ClassMethodNode", "ClassNode"]
