"""dwconv_norm: a depthwise convolution with the norms and activations around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.device.plan import alone
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.dwconv_norm import ACTS
from archdsl.ops.dwconv_norm import DwconvNorm as Fused
from archdsl.ops.mul import Mul
from archdsl.ops.split import Split
from archdsl.passes.base import Draft, shared
from archdsl.passes.fusions.base import (
    STREAMED,
    Rule,
    chain,
    channels,
    first,
    follower,
    hold,
    of_role,
    refused,
    role,
    too_far,
    too_wide,
)

LEAST = 8
"""Channels below which positions are too small a load."""
CHEAP = 4
"""Instructions of an activation that is computed again for each tap that reads a position."""
ROWS = 4
"""Rows of the result that a load of a row counts for."""


@dataclass(frozen=True)
class DwconvNorm(Rule):
    """A depthwise convolution on a tile of the map, with what stands around it on its elements.

    A norm over channels needs all of them in the tile. A BatchNorm and a cheap activation before are computed in the
    load, again for each tap of a row of the kernel; the sums for a squeeze-excite's mean are taken in the store.
    Libraries' depthwise convolutions take in neither (torch has no template of one that Inductor could fuse into).
    Where some of the result's channels gate another map (2207.14284), the number it is multiplied with and that product
    are in the store.
    """

    name: ClassVar[str] = "dwconv_norm"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        ahead = {"bn": "act? depthwise ", "act": "depthwise ", "depthwise": ""}.get(role(graph, node))
        found = None if ahead is None else chain(graph, node, f"{ahead}bn|norm? act?")
        if found is None or any(op_of(n).slots > CHEAP for n in _parts(graph, found)[0] if role(graph, n) == "act"):
            return None
        gating = _gating(graph, node) if found == (node.path,) else ()
        if gating:
            return (*found, *(n.path for n in gating))
        mean = follower(graph, graph.node(found[-1]).value(), ("mean",))
        pools = any(r.kind == "head" for n in mean for r in graph.region_chain(n.region))
        return (*found, *(n.path for n in mean if not pools))

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        ahead, conv, behind = _parts(graph, paths)
        averaged = [paths[paths.index(n.path) - 1] for n in of_role(graph, paths, "mean")]
        layers = [conv, *(n for n in (*ahead, *behind) if role(graph, n) in ("bn", "norm"))]
        split = next((n for n in behind if isinstance(n.op, Split)), None)
        known = ("ln", "bn", "gap", *ACTS, *(("mul", "split") if split is not None else ()))
        other = next((n.op.name for n in (*ahead, *behind) if n.op.name not in known), "")
        normed = any(role(graph, n) == "norm" for n in behind)
        return first(
            "a depthwise convolution alone is a library's" if len(paths) == 1 else "",
            too_far(conv, stride=2),
            too_wide(channels(graph, conv), STREAMED) if normed else "",
            f"{channels(graph, conv)} channels are too few for a load" if channels(graph, conv) < LEAST else "",
            f"its kernel computes no `{other}`" if other else "",
            "its layers are parts of different blocks" if len({n.region for n in layers}) > 1 else "",
            "" if split is None else _ungated(graph, conv, behind),
            lambda: "its weights are another call's, too" if conv.region in shared(graph) else "",
            lambda: refused(graph, paths, averaged),
        )

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        ahead, conv, behind = _parts(graph, paths)
        op = op_of(conv)
        assert isinstance(op, Conv)

        def named(nodes: Sequence[Node], *names: str) -> str:
            return next((n.op.name for n in nodes if n.op.name in names), "")

        mean = next(of_role(graph, paths, "mean"), None)
        new = Fused(
            op.k,
            op.s,
            pair(op.p or 0),
            op.d,
            op.pad,
            named(behind, "ln", "bn"),
            named(behind, *ACTS),
            named(ahead, *ACTS),
            mean is not None,
            next((float(n.op.by) for n in behind if isinstance(n.op, Mul) and n.op.by is not None), 1.0),
        )
        norms = [next((n for n in nodes if n.op.name in ("ln", "bn")), None) for nodes in (behind, ahead)]
        held = [None if n is None else hold(graph, draft, n) for n in (conv, *norms)]
        if any(isinstance(n.op, Split) for n in behind):
            self._gate(graph, paths, draft, new, held[0])
            return
        last = [n for n in (conv, *behind) if n is not mean][-1]
        node = replace(last, op=new, region=conv.region, module="", params=())
        if mean is not None:
            names = (*(last.names or ("",)), *(mean.names or ("",)))
            node = replace(node, outputs=(*last.outputs, *mean.outputs), names=names)
            draft.use(node.value(1), mean.value())
        draft.swap(node, operands=[graph.operands(graph.node(paths[0]))[0], *held])
        for path in paths:
            if path != last.path:
                draft.drop(path)

    def _gate(self, graph: Graph, paths: Sequence[str], draft: Draft, op: Fused, layer: Value | None) -> None:
        """Two maps in place of the convolution, of which the second is cut into what was not gated."""
        (_, conv, behind), (x,) = _parts(graph, paths), graph.operands(graph.node(paths[0]))
        split, product = behind[-2:]
        gate = next(v for v in graph.operands(product) if v is not None and v.node != split.path)
        gated, *others = split.outputs
        names = (*(product.names or ("",)), "")
        rest = gated.with_channels(sum(int(t.channels) for t in others))
        node = replace(conv, op=op, outputs=(*product.outputs, rest), module="", params=(), names=names)
        draft.swap(node, operands=[x, layer, None, None, gate])
        draft.use(node.value(0), instead_of=product.value())
        if len(others) == 1:
            draft.use(node.value(1), instead_of=split.value(1))
        else:
            cut = Split(tuple(int(t.channels) for t in others))
            parts = draft.put(cut, (node.value(1),), tuple(others), at=split, path=split.path, names=split.names[1:])
            for i in range(len(others)):
                draft.use(parts.value(i), instead_of=split.value(i + 1))
        for gone in behind:
            draft.drop(gone.path)

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """What stands ahead, for all but one of the loads of each position."""
        ahead, conv, _ = _parts(graph, paths)
        op = op_of(conv)
        assert isinstance(op, Conv)
        (height, width), (down, right) = pair(op.k), pair(op.s)
        loads = width * ((ROWS - 1) * down + op.d * (height - 1) + 1) / (ROWS * down * right)
        once = sum(alone(graph, n).instructions for n in ahead)
        return Work(instructions=round(max(loads - 1, 0) * once), launches=0)


def _gating(graph: Graph, conv: Node) -> tuple[Node, ...]:
    """The number that a convolution's result is multiplied with, its cut, and the product of the first piece, if so."""
    scale = follower(graph, conv.value(), ("scale",), only=True)
    split = follower(graph, [conv, *scale][-1].value(), ("split",), only=True)
    product = follower(graph, split[-1].value(0), ("mul",), only=True) if split else ()
    return (*scale, *split, *product) if product else ()


def _ungated(graph: Graph, conv: Node, behind: Sequence[Node]) -> str:
    """Why what stands behind a convolution is no gate that its kernel computes, or ""."""
    *scales, split, product = behind
    order = {n.path: i for i, n in enumerate(graph.nodes())}
    others = [v for v in graph.operands(product) if v is not None and v.node != split.path]
    known = all(isinstance(n.op, Mul) and n.op.by is not None and len(n.outputs) == 1 for n in scales)
    known = known and len(scales) < 2 and isinstance(split.op, Split) and split.op.axis == "c"
    same = [v.type.kind == "map" and v.type.dims == split.outputs[0].dims for v in others] == [True]
    if not known or not same or any(t.frames for t in conv.outputs) or not conv.outputs[0].batched:
        return "its kernel multiplies the first channels of a map with those of another"
    if order[others[0].node] > order[conv.path]:
        return "what it gates is computed behind it"
    return "its layers are parts of different blocks" if len({n.region for n in (conv, *behind)}) > 1 else ""


def _parts(graph: Graph, paths: Sequence[str]) -> tuple[list[Node], Node, list[Node]]:
    """What stands ahead of the convolution, the convolution, and what stands behind it."""
    nodes = [graph.node(p) for p in paths]
    at = next(i for i, n in enumerate(nodes) if role(graph, n) == "depthwise")
    return nodes[:at], nodes[at], nodes[at + 1 :]
