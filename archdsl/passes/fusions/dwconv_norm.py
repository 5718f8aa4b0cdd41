"""dwconv_norm: a depthwise convolution with the norms and activations around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.passes.fusions.base import (
    STREAMED,
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
class DwconvNorm(Rule):
    """A depthwise convolution on a tile of the map, with what stands around it on its elements.

    A norm over channels needs all of them in the tile. A BatchNorm and an activation before are computed in the
    load, again in the halo of each tile; the sums for a squeeze-excite's mean are taken in the store. Libraries'
    depthwise convolutions take in neither (torch has no template of one that Inductor could fuse into).
    """

    name: ClassVar[str] = "dwconv_norm"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        ahead = {"bn": "act? depthwise ", "act": "depthwise ", "depthwise": ""}.get(role(graph, node))
        found = None if ahead is None else chain(graph, node, f"{ahead}bn|norm? act?")
        if found is None:
            return None
        mean = follower(graph, graph.node(found[-1]).value(), ("mean",))
        return (*found, *(n.path for n in mean))

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        conv = next(of_role(graph, paths, "depthwise"))
        normed = [n for n in of_role(graph, paths, "norm") if n.path != paths[0]]
        averaged = [paths[paths.index(n.path) - 1] for n in of_role(graph, paths, "mean")]
        return first(
            too_far(conv, stride=2),
            too_wide(channels(graph, normed[0]), STREAMED) if normed else "",
            lambda: refused(graph, paths, averaged),
        )

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        return halo(graph, paths, next(of_role(graph, paths, "depthwise")))
