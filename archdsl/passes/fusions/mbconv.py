"""mbconv: an inverted bottleneck, from its expansion on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.device.plan import alone
from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.dwconv_norm import ACTS
from archdsl.ops.mbconv import Mbconv as Fused
from archdsl.passes.base import Draft, alike, shared
from archdsl.passes.fusions.base import (
    ROW,
    Rule,
    chain,
    channels,
    first,
    follower,
    hold,
    hold_drop,
    of_role,
    refused,
    role,
    too_far,
    too_wide,
)
from archdsl.passes.fusions.conv_norm import DEEP, LOAD, WIDE, unread
from archdsl.passes.fusions.dwconv_norm import ROWS
from archdsl.passes.fusions.fused_mbconv import NARROW, PIECE, entering

SIDE = 16
"""Positions of a tile on each axis, those of its halo among them: what a product takes is a power of two."""
TAPS = 16
"""Numbers of a position that matrix units take at once: its taps are completed to so many."""
MERGING = 3
"""Launches that put two layers' weights together."""
ORDER = (
    "expansion", "expansion bn", "convolution", "bn", "act", "last", "last bn", "scale", "drop_path", "add"
)  # fmt: skip
"""What the kernel computes, in this order."""


@dataclass(frozen=True)
class Mbconv(Rule):
    """Expansion and depthwise convolution on one tile, whose expanded channels pass in pieces and are not written.

    The expansion is computed again in the halo of each tile. As no tile in registers can be read beside its place, it
    goes through memory that stays in the cache; what that takes leaves a gain only where activations are cheap. Without
    squeeze-excite the projection and the residual follow on the tile. With it this kernel ends with the sums of its
    mean, which is of the whole map; gate, projection and residual are `project_residual`. Block fusion of MBConv as in
    2404.03617.

    The kernel that is written is of the kind where nothing is activated between the two (Mix-FFN, 2106.13797): there
    they are one convolution of the narrow map, whose weights are products of theirs. So nothing is computed again, and
    taps are the matrix units'. What the expansion adds does not reach a position through taps beyond the border.
    """

    name: ClassVar[str] = "mbconv"
    generated: ClassVar[bool] = True

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

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = parts(graph, paths)
        return found if isinstance(found, str) else ""

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """What stands ahead in the halos of tiles, and what stores its result and loads it for the taps.

        Of what is one convolution, that instead of the two. A tile is SIDE positions on each axis, its halo and what is
        outside of the map among them.
        """
        conv = next(of_role(graph, paths, "depthwise"))
        op, (x,) = op_of(conv), graph.operand_types(conv)
        assert isinstance(op, Conv) and x is not None
        if not self.beyond(graph, paths):
            return merged(graph, graph.node(paths[0]), conv)
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

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, dict)
        expansion, conv, last = (found[name] for name in ("expansion", "convolution", "last"))
        op, act = op_of(conv), found["act"].op.name if "act" in found else ""
        assert isinstance(op, Conv)
        hidden, dim = (int(n.outputs[0].channels) for n in (conv, last))
        new = Fused(hidden, dim, op.k, op.s, pair(op.p or 0), op.d, op.pad, act)
        layers = [hold(graph, draft, n) for n in (expansion, conv, last)]
        norms = [
            hold(graph, draft, found[name]) if name in found else None for name in ("expansion bn", "bn", "last bn")
        ]
        others = [next(iter(entering(graph, paths, found.get(name))), None) for name in ("add", "scale")]
        drop = found.get("drop_path")
        operands = [graph.operands(expansion)[0], *layers, others[0], *norms, others[1]]
        operands += [] if drop is None else [hold_drop(draft, drop)]
        draft.swap(replace(graph.node(paths[-1]), op=new, module="", params=()), operands=operands)
        for path in paths[:-1]:
            if drop is None or path != drop.path:
                draft.drop(path)


def merged(graph: Graph, expansion: Node, conv: Node) -> Work:
    """What the convolution that two are together does beyond them: it reads its neighbourhood for each piece, as well.

    Its taps are the matrix units', and its weights are written and read.
    """
    op, c, hidden = op_of(conv), channels(graph, expansion), int(conv.outputs[0].channels)
    assert isinstance(op, Conv)
    taps, positions = math.prod(pair(op.k)), math.prod(map(int, conv.outputs[0].size))
    bits = math.ceil(taps / TAPS) * TAPS
    dense = positions * hidden * (taps * c + bits)
    loads = positions * taps * c / math.gcd(c, WIDE) * math.ceil(hidden / PIECE)
    return Work(
        dense - alone(graph, expansion).matrix,
        -alone(graph, conv).general,
        round(loads * LOAD),
        weights=2 * hidden * taps * c,
        launches=MERGING,
    )


def parts(graph: Graph, paths: Sequence[str]) -> dict[str, Node] | str:
    """The ops by what they are to the kernel, or why it does not compute them."""
    found: dict[str, Node] = {}
    for node in map(graph.node, paths):
        name = role(graph, node)
        if name == "act" and "convolution" not in found:
            return "what is activated ahead of the depthwise convolution is no one convolution with it"
        if name in ("depthwise", "pointwise"):
            name = "convolution" if name == "depthwise" else "last" if "convolution" in found else "expansion"
        if name == "bn" and "last" in found:
            name = "last bn"
        elif name == "bn" and "convolution" not in found:
            name = "expansion bn"
        if name not in ORDER:
            return f"its kernel does not compute `{node.op.name}`"
        if name in found or any(ORDER.index(n) > ORDER.index(name) for n in found):
            return f"its kernel does not compute `{node.op.name}` at this place"
        found[name] = node
    if "expansion" not in found or "last" not in found:
        return "its kernel goes from an expansion to a projection"
    expansion, conv, last = (found[name] for name in ("expansion", "convolution", "last"))
    if why := unread(conv):
        return why
    for node in (expansion, last):
        if node.op.name not in ("linear", "conv"):
            return f"its kernel does not compute `{node.op.name}`"
    if "act" in found and found["act"].op.name not in ACTS:
        return f"its kernel does not compute `{found['act'].op.name}`"
    x, out = graph.operands(expansion)[0], graph.node(paths[-1]).outputs[0]
    assert x is not None
    if x.type.kind != "map" or not x.type.batched or x.type.frames:
        return "it is not of a sample's map"
    added = [v.type for v in entering(graph, paths, found.get("add"))]
    if added != [out] * ("add" in found or "drop_path" in found):
        return "it is not added to another value of a sample's positions"
    if not alike(conv.outputs[0].with_channels(int(out.channels)), out):
        return "other sizes of the input may give it another size than the residual"
    factors = entering(graph, paths, found.get("scale"))
    by_channel = [(v.type.kind, v.type.batched, v.type.dims) == ("vec", False, (out.channels,)) for v in factors]
    if by_channel != [True] * ("scale" in found):
        return "its kernel scales by a number a channel"
    op, c = op_of(conv), int(x.type.channels)
    assert isinstance(op, Conv)
    if c < NARROW:
        return f"{c} channels are too few for a load"
    if (summed := math.prod(pair(op.k)) * c) > 2 * DEEP:
        return f"as one convolution, its sums are of {summed} numbers ({2 * DEEP})"
    if any(n.region in shared(graph) for n in found.values()):
        return "its weights are another call's, too"
    return found
