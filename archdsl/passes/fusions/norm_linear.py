"""norm_linear: a channel norm and the linear layers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, readers, refused, role, too_wide


@dataclass(frozen=True)
class NormLinear(Rule):
    """A channel norm in the load of the products that read it, and the activation in their store.

    A tile loads whole rows, gathered where the map is cut into windows behind the norm, and normalises them in
    registers: the normalised map is never written. Inductor does not fuse a reduction into a product's load, nor an
    activation into a library's product.
    """

    name: ClassVar[str] = "norm_linear"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) != "norm":
            return None
        head = chain(graph, node, "cut? zero?")
        assert head is not None
        layers = [n for n in readers(graph, graph.node(head[-1]).value()) if role(graph, n) == "pointwise"]
        tails = [chain(graph, layer, "act?") or () for layer in layers]
        return (*head, *(path for tail in tails for path in tail)) if layers else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        return first(too_wide(channels(graph, graph.node(paths[0])), ROW), lambda: refused(graph, paths))
