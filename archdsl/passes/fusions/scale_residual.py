"""scale_residual: a layer scale and the residual behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import Rule, chain, role


@dataclass(frozen=True)
class ScaleResidual(Rule):
    """A layer scale (2103.17239), a dropped branch and the residual in one run over the map.

    Inductor does as much: it gains over eager PyTorch alone.
    """

    name: ClassVar[str] = "scale_residual"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        return chain(graph, node, "add") if role(graph, node) == "scale" else None
