"""patch_merge: windows that become positions, their norm, and the layer behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import STREAMED, Rule, chain, first, refused, role, too_wide


@dataclass(frozen=True)
class PatchMerge(Rule):
    """Swin's patch merging (2103.14030) as one product, whose load gathers the positions of a window.

    The norm's sums are taken while the channels run through, and applied to the product: factor and shift of a norm
    are linear in it.
    """

    name: ClassVar[str] = "patch_merge"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        return chain(graph, node, "pack norm? pointwise") if role(graph, node) == "cut" else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        packed = next(n for n in map(graph.node, paths) if n.op.name == "pack")
        return first(too_wide(int(packed.outputs[0].channels), STREAMED), lambda: refused(graph, paths))
