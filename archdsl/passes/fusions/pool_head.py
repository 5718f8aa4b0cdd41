"""pool_head: the mean of a map, and the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import Rule, chain, of_role, role


@dataclass(frozen=True)
class PoolHead(Rule):
    """Mean, norm and classifier of a sample in one program: it saves launches, which counts for small batches.

    Each sample's program reads the classifier's weights again.
    """

    name: ClassVar[str] = "pool_head"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        tail = "norm|bn? pointwise"
        if role(graph, node) in ("norm", "bn"):
            return chain(graph, node, f"mean {tail}")
        return chain(graph, node, tail) if role(graph, node) == "mean" else None

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        layer = next(of_role(graph, paths, "pointwise"))
        return Work(elements=sum(graph.params[path].elements for _, path in layer.params), launches=0)
