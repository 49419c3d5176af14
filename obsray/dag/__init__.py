"""Graphs of calls: ``with InputNode() as x: graph = f.bind(g.bind(x))``, then ``graph.execute(1)``."""

from obsray.core.graph import (
    ClassMethodNode,
    ClassNode,
    CompiledDAG,
    DAGNode,
    FunctionNode,
    InputAttributeNode,
    InputNode,
    MultiOutputNode,
)

__all__ = [
    "ClassMethodNode",
    "ClassNode",
    "CompiledDAG",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]
