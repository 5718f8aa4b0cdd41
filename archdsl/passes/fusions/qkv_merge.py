"""qkv_merge: linear layers that read one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import Rule, readers, role


@dataclass(frozen=True)
class QkvMerge(Rule):
    """One product instead of several of one value (separate queries, keys and values), which it reads once.

    Each layer's rows of the joint weight lie next to each other, so every result is written where it is read. What
    `merge_siblings` does to a deploy graph, for layers of any mode.
    """

    name: ClassVar[str] = "qkv_merge"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) != "pointwise":
            return None
        (value,) = graph.operands(node)
        assert value is not None
        layers = [n for n in readers(graph, value) if n.op.name == node.op.name and role(graph, n) == "pointwise"]
        return tuple(n.path for n in layers) if len(layers) > 1 and layers[0] is node else None
