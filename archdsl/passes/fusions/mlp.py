"""mlp: two linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, refused, role, too_wide


@dataclass(frozen=True)
class Mlp(Rule):
    """Both products on one tile: the hidden channels pass through it in pieces, and are never written.

    The norm before is in the load, scale and residual are in the store. The instructions of an exact GELU then cost
    more than the bytes that are left. The generic "pointwise pair" of 2404.03617.
    """

    name: ClassVar[str] = "mlp"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        pair = "pointwise bn|scale* act? add?"
        if role(graph, node) == "norm":
            return chain(graph, node, f"pointwise bn? act {pair}")
        return chain(graph, node, f"bn? act {pair}") if role(graph, node) == "pointwise" else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        wide = max(channels(graph, graph.node(paths[0])), int(graph.node(paths[-1]).outputs[0].channels))
        return first(too_wide(wide, ROW), lambda: refused(graph, paths))
