"""fused_mbconv: a convolution that expands, and the projection behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import ROW, Rule, chain, first, of_role, refused, role, too_far, too_wide


@dataclass(frozen=True)
class FusedMbconv(Rule):
    """A dense convolution and a projection on one tile: the expanded channels pass in pieces and are not written.

    The convolution comes first, so its halo is in the load and nothing is computed again. EfficientNetV2's block
    (2104.00298), LowFormer's, and a ResNet's 3x3 with the 1x1 behind it.
    """

    name: ClassVar[str] = "fused_mbconv"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) != "dense":
            return None
        head = chain(graph, node, "bn? act")
        if head is None:
            return None
        last, tail = graph.node(head[-1]), "pointwise bn|scale* add?"
        found = chain(graph, last, f"gate {tail}") or chain(graph, last, tail)
        return None if found is None else (*head, *found[1:])

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        return first(
            too_far(graph.node(paths[0]), stride=2),
            "squeeze-excite needs the mean of the whole map first" if any(of_role(graph, paths, "gate")) else "",
            too_wide(int(graph.node(paths[-1]).outputs[0].channels), ROW),
            lambda: refused(graph, paths),
        )
