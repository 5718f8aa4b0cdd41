"""fused_mbconv: a convolution, and the projection behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.dwconv_norm import ACTS
from archdsl.ops.fused_mbconv import FusedMbconv as Fused
from archdsl.passes.base import Draft, alike, shared
from archdsl.passes.fusions.base import (
    ROW,
    Rule,
    chain,
    first,
    hold,
    hold_drop,
    of_role,
    refused,
    role,
    too_far,
    too_wide,
)
from archdsl.passes.fusions.conv_norm import DEEP, LOAD, WIDE, too_deep, unfolding, unread

NARROW = 8
"""Channels of a position below which loads are too small."""
PIECE = 64
"""Hidden channels that a tile holds at a time, where tiles are small; large ones hold twice as many."""
ORDER = ("convolution", "bn", "act", "pointwise", "last bn", "scale", "drop_path", "add", "last act")
"""What the kernel computes, in this order."""


@dataclass(frozen=True)
class FusedMbconv(Rule):
    """A dense convolution and a projection on one tile: the expanded channels pass in pieces and are not written.

    The convolution comes first, so its halo is in the load and nothing is computed again. EfficientNetV2's block
    (2104.00298), LowFormer's, and a ResNet's 3x3 with the 1x1 behind it. An expanded channel is written and read twice
    less, so sums may be of twice the numbers that `conv_norm` has.

    So are a depthwise convolution and its projection, the second half of an inverted bottleneck (1801.04381). It is the
    tile of the projection, and each of its taps is a load.
    """

    name: ClassVar[str] = "fused_mbconv"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        steps = {"dense": "bn? act", "depthwise": "bn? act?"}.get(role(graph, node))
        head = None if steps is None else chain(graph, node, steps)
        if head is None:
            return None
        last, tail = graph.node(head[-1]), "pointwise bn|scale* add? act?"
        found = chain(graph, last, f"gate {tail}") or chain(graph, last, tail)
        return None if found is None else (*head, *found[1:])

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        return first(
            too_far(graph.node(paths[0]), stride=2),
            "squeeze-excite needs the mean of the whole map first" if any(of_role(graph, paths, "gate")) else "",
            too_wide(int(graph.node(paths[-1]).outputs[0].channels), ROW),
            lambda: refused(graph, paths),
        )

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = parts(graph, paths)
        return found if isinstance(found, str) else ""

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """What reads the tile of the map, once for each piece of the channels between, or once for each tap."""
        conv = graph.node(paths[0])
        if role(graph, conv) == "depthwise":
            return tapped(conv)
        return unfolding(graph, conv, math.ceil(int(conv.outputs[0].channels) / PIECE))

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, dict)
        conv, last = found["convolution"], found["pointwise"]
        op, dim = op_of(conv), int(last.outputs[0].channels)
        assert isinstance(op, Conv)
        acts = [found[name].op.name if name in found else "" for name in ("act", "last act")]
        depthwise = role(graph, conv) == "depthwise"
        new = Fused(int(conv.outputs[0].channels), dim, depthwise, op.k, op.s, pair(op.p or 0), op.d, op.pad, *acts)
        layers = [hold(graph, draft, n) for n in (conv, last)]
        norms = [hold(graph, draft, found[name]) if name in found else None for name in ("bn", "last bn")]
        others = [next(iter(entering(graph, paths, found.get(name))), None) for name in ("add", "scale")]
        drop = found.get("drop_path")
        operands = [graph.operands(conv)[0], *layers, others[0], *norms, others[1]]
        operands += [] if drop is None else [hold_drop(draft, drop)]
        draft.swap(replace(graph.node(paths[-1]), op=new, module="", params=()), operands=operands)
        for path in paths[:-1]:
            if drop is None or path != drop.path:
                draft.drop(path)


def tapped(conv: Node) -> Work:
    """The instructions that load what a depthwise convolution reads, once for each tap; bytes come from the cache."""
    op = op_of(conv)
    assert isinstance(op, Conv)
    read = conv.outputs[0].elements * math.prod(pair(op.k))
    return Work(instructions=round(read * (1 + LOAD / WIDE)), launches=0)


def entering(graph: Graph, paths: Sequence[str], node: Node | None) -> list[Value]:
    """What an op of a match reads that is not of the match."""
    given = () if node is None else graph.operands(node)
    return [v for v in given if v is not None and v.node not in paths]


def parts(graph: Graph, paths: Sequence[str]) -> dict[str, Node] | str:
    """The ops by what they are to the kernel, or why it does not compute them."""
    found: dict[str, Node] = {}
    for node in map(graph.node, paths):
        name = role(graph, node)
        name = "convolution" if name in ("dense", "depthwise") else name
        name = f"last {name}" if name in ("bn", "act") and "pointwise" in found else name
        if name not in ORDER:
            return f"its kernel does not compute `{node.op.name}`"
        if name in found or any(ORDER.index(n) > ORDER.index(name) for n in found):
            return "its kernel scales once, then drops"
        found[name] = node
    conv, layer, out = found["convolution"], found["pointwise"], graph.node(paths[-1]).outputs[0]
    dense = role(graph, conv) == "dense"
    if why := unread(conv) or (too_deep(graph, conv, 2 * DEEP) if dense else ""):
        return why
    odd = [n.op.name for n in found.values() if role(graph, n) == "act" and n.op.name not in ACTS]
    if odd or layer.op.name not in ("linear", "conv"):
        return f"its kernel does not compute `{(odd or [layer.op.name])[0]}`"
    added = [v.type for v in entering(graph, paths, found.get("add"))]
    if added != [out] * ("add" in found or "drop_path" in found):
        return "it is not added to another value of a sample's positions"
    if not alike(conv.outputs[0].with_channels(int(out.channels)), out):
        return "other sizes of the input may give it another size than the residual"
    factors = entering(graph, paths, found.get("scale"))
    by_channel = [(v.type.kind, v.type.batched, v.type.dims) == ("vec", False, (out.channels,)) for v in factors]
    if by_channel != [True] * ("scale" in found):
        return "its kernel scales by a number a channel"
    (x,) = graph.operand_types(conv)
    assert x is not None
    if int(x.channels) < NARROW:
        return f"{int(x.channels)} channels are too few for a load"
    if any(n.region in shared(graph) for n in found.values()):
        return "its weights are another call's, too"
    return found
