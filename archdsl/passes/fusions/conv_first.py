"""conv_first: a depthwise convolution and the two pointwise layers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, of_role, refused, role, too_far, too_wide


@dataclass(frozen=True)
class ConvFirst(Rule):
    """A whole block that starts with its depthwise convolution, on one tile of the map (2404.03617).

    The convolution's result, normalised, is the tile that the two products work on; only they mix channels, so
    nothing is computed again: the halo is in the load.
    """

    name: ClassVar[str] = "conv_first"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        head = chain(graph, node, "bn|norm? act?") if role(graph, node) == "depthwise" else None
        if head is None:
            return None
        last, pair = graph.node(head[-1]), "pointwise bn? act pointwise bn|scale* add?"
        gated = chain(graph, last, f"gate {pair}")
        tail = gated or chain(graph, last, pair)
        return None if tail is None else (*head, *tail[1:])

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        conv = graph.node(paths[0])
        wide = max(channels(graph, conv), int(graph.node(paths[-1]).outputs[0].channels))
        gated = any(of_role(graph, paths, "gate"))
        return first(
            too_far(conv, stride=1),
            "squeeze-excite needs the mean of the whole map first" if gated else "",
            too_wide(wide, ROW),
            lambda: refused(graph, paths),
        )
