"""project_residual: a projection, and the residual that its result is added to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import Rule, chain, role


@dataclass(frozen=True)
class ProjectResidual(Rule):
    """A product that scales its result, scatters it where windows are merged, and adds it to the residual.

    Where a squeeze-excite gate stands before it, that is a factor on the rows' channels in its load. Libraries add a
    residual, but neither scatter, nor gate, and Inductor fuses nothing into their products.
    """

    name: ClassVar[str] = "project_residual"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        tail = "merge|bn|scale* add"
        if role(graph, node) == "gate":
            return chain(graph, node, f"pointwise {tail}") or chain(graph, node, "pointwise bn? act?")
        return chain(graph, node, tail) if role(graph, node) == "pointwise" else None
