"""conv_norm: a convolution of one group with the norm and the activation behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.conv_norm import ConvNorm as Fused
from archdsl.ops.dwconv_norm import ACTS
from archdsl.passes.base import Draft, shared
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, hold, refused, role, too_wide

DEEP = 576
"""Numbers that a sum may be of. What is saved is the convolution's result, written and read again: on an H200 367/DEEP
of the time of the product at its peak, so that a generated one breaks even at 61% of a library's rate. They are
reported at 60 to 100% of it (triton-lang/triton#2339, #3672)."""
WIDE = 8
"""Numbers that a thread loads at once where channels lie side by side."""
LOAD = 6
"""Instructions of a load: where it is, whether that is on the map, and the copy."""
PART = 128
"""Channels of the result, of more than ROW, that a tile of the map is read for at a time."""
REACH = 30
"""The widest kernel whose rows, on the map or not, are bits of a number."""


@dataclass(frozen=True)
class ConvNorm(Rule):
    """A convolution as one product over taps and channels, whose sums are normalised and activated in registers.

    Nothing is unfolded: tiles of the map are read tap by tap (implicit GEMM; what "im2win", 2306.14316, copies into
    windows). Libraries take in neither norm nor activation; where channels are few, those move most of the bytes.
    """

    name: ClassVar[str] = "conv_norm"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        convolves = node.op.name == "conv" and role(graph, node) in ("dense", "pointwise")
        return chain(graph, node, "bn|norm? act?") if convolves else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        conv, *behind = (graph.node(p) for p in paths)
        layers = [conv, *(n for n in behind if role(graph, n) in ("bn", "norm"))]
        normed = any(role(graph, n) == "norm" for n in behind)
        return first(
            "a convolution alone is a library's" if not behind else "",
            unread(conv),
            too_deep(graph, conv, DEEP),
            too_wide(int(conv.outputs[0].channels), ROW) if normed else "",
            "patches and their norm are `patch_merge`'s" if normed and _apart(conv) else "",
            next((f"its kernel computes no `{n.op.name}`" for n in behind if n.op.name not in ("ln", "bn", *ACTS)), ""),
            "its layers are parts of different blocks" if len({n.region for n in layers}) > 1 else "",
            lambda: "its weights are another call's, too" if conv.region in shared(graph) else "",
            lambda: refused(graph, paths),
        )

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        conv = graph.node(paths[0])
        dim = int(conv.outputs[0].channels)
        return unfolding(graph, conv, 1 if dim <= ROW else math.ceil(dim / PART))

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        conv, *behind = (graph.node(p) for p in paths)
        op = op_of(conv)
        assert isinstance(op, Conv)
        norm = next((n for n in behind if n.op.name in ("ln", "bn")), None)
        act = next((n.op.name for n in behind if n.op.name in ACTS), "")
        new = Fused(
            int(conv.outputs[0].channels),
            op.k,
            op.s,
            pair(op.p or 0),
            op.d,
            op.pad,
            "" if norm is None else norm.op.name,
            act,
        )
        held = [hold(graph, draft, n) for n in (conv, norm) if n is not None]
        at = conv if norm is None else norm
        last = behind[-1]
        node = replace(at, op=new, outputs=last.outputs, module="", params=(), names=last.names or at.names)
        draft.swap(node, operands=[graph.operands(conv)[0], *held])
        if last is not at:
            draft.use(node.value(), instead_of=last.value())
        for path in paths:
            if path != at.path:
                draft.drop(path)


def unfolding(graph: Graph, conv: Node, times: int) -> Work:
    """The instructions that find and load each position's neighbourhood, so many times; bytes come from the cache."""
    loads = _summed(graph, conv) * math.prod(map(int, conv.outputs[0].size)) / math.gcd(channels(graph, conv), WIDE)
    return Work(instructions=round(loads * LOAD * times), launches=0)


def unread(conv: Node) -> str:
    """Why the kernels do not compute a convolution, or ""."""
    op = op_of(conv)
    if not isinstance(op, Conv) or op.name != "conv":
        return f"its kernel computes no `{op.name}`"
    if conv.outputs[0].frames:
        return "it is in windows"
    return f"a kernel of {max(pair(op.k))} is wider than {REACH}" if max(pair(op.k)) > REACH else ""


def too_deep(graph: Graph, conv: Node, most: int) -> str:
    summed = _summed(graph, conv)
    return f"a library's product is ahead where sums are of {summed} numbers ({most})" if summed > most else ""


def _apart(conv: Node) -> bool:
    """Whether no two of a convolution's neighbourhoods share a position."""
    op = op_of(conv)
    return isinstance(op, Conv) and pair(op.s) == pair(op.k)


def _summed(graph: Graph, conv: Node) -> int:
    """Of how many numbers each of a convolution's results is the sum."""
    op = op_of(conv)
    return channels(graph, conv) * (math.prod(pair(op.k)) if isinstance(op, Conv) else 1)
