"""mbconv: an inverted bottleneck, from its expansion on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.device.plan import alone
from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.passes.fusions.base import (
    ROW,
    Rule,
    chain,
    channels,
    first,
    follower,
    of_role,
    refused,
    role,
    too_far,
    too_wide,
)
from archdsl.passes.fusions.conv_norm import LOAD, WIDE
from archdsl.passes.fusions.dwconv_norm import ROWS

SIDE = 16
"""Positions of a tile on each axis, those of its halo among them: what a product takes is a power of two."""


@dataclass(frozen=True)
class Mbconv(Rule):
    """Expansion and depthwise convolution on one tile, whose expanded channels pass in pieces and are not written.

    The expansion is computed again in the halo of each tile. As no tile in registers can be read beside its place, it
    goes through memory that stays in the cache; what that takes leaves a gain only where activations are cheap. Without
    squeeze-excite the projection and the residual follow on the tile. With it this kernel ends with the sums of its
    mean, which is of the whole map; gate, projection and residual are `project_residual`. Block fusion of MBConv as in
    2404.03617. No kernel is written: convolutions with what is behind them are `conv_norm`, and the depthwise one with
    its projection `fused_mbconv`.
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
        """What stands ahead in the halos of tiles, and what stores its result and loads it for the taps.

        A tile is SIDE positions on each axis, its halo and what is outside of the map among them.
        """
        conv = next(of_role(graph, paths, "depthwise"))
        op, (x,) = op_of(conv), graph.operand_types(conv)
        assert isinstance(op, Conv) and x is not None
        k, s, out = max(pair(op.k)), max(pair(op.s)), conv.outputs[0]
        made = max(1, (SIDE - k) // s + 1)
        tiles = math.prod(math.ceil(int(n) / made) for n in out.size)
        share = tiles * SIDE**2 / math.prod(map(int, x.size)) - 1
        stored = tiles * SIDE**2 * int(x.channels) * LOAD / WIDE
        rows = ((ROWS - 1) * s + k) / ROWS
        loaded = tiles * made**2 * int(out.channels) * k * rows * (1 + LOAD / WIDE)
        total = Work(launches=0)
        for path in paths[: paths.index(conv.path)]:
            total += alone(graph, graph.node(path))
        return Work(
            round(total.matrix * share),
            round(total.general * share),
            round(total.instructions * share + stored + loaded),
            launches=0,
        )
