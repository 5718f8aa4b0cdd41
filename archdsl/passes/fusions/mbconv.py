"""mbconv: an inverted bottleneck, from its expansion on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import (
    ROW,
    Rule,
    chain,
    channels,
    first,
    follower,
    halo,
    of_role,
    refused,
    role,
    too_far,
    too_wide,
)


@dataclass(frozen=True)
class Mbconv(Rule):
    """Expansion and depthwise convolution on one tile, whose expanded channels pass in pieces and are not written.

    The expansion is computed again in the halo of each tile. Without squeeze-excite the projection and the residual
    follow on the tile. With it this kernel ends with the sums of its mean, which is of the whole map; gate,
    projection and residual are `project_residual`. Block fusion of MBConv as in 2404.03617.
    """

    name: ClassVar[str] = "mbconv"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        ahead = {"bn": "pointwise ", "pointwise": ""}.get(role(graph, node))
        found = None if ahead is None else chain(graph, node, f"{ahead}bn? act? depthwise bn? act?")
        if found is None:
            return None
        last = graph.node(found[-1])
        mean = follower(graph, last.value(), ("mean",))
        tail = chain(graph, last, "pointwise bn|scale* add?") or (last.path,)
        return (*found, *(n.path for n in mean)) if mean else (*found, *tail[1:])

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        products = list(of_role(graph, paths, "pointwise"))
        wide = max(channels(graph, products[0]), *(int(n.outputs[0].channels) for n in products[1:]), 0)
        averaged = [paths[paths.index(n.path) - 1] for n in of_role(graph, paths, "mean")]
        return first(
            too_far(next(of_role(graph, paths, "depthwise")), stride=2),
            too_wide(wide, ROW),
            lambda: refused(graph, paths, averaged),
        )

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        return halo(graph, paths, next(of_role(graph, paths, "depthwise")))
