"""project_residual: a projection, and the residual that its result is added to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.linear_residual import LinearResidual
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import ROW, Rule, chain, hold, hold_drop, role, too_wide

NARROW = 16
"""Channels of a position that a matrix unit takes at once."""
ORDER = ("gate", "pointwise", "scale", "drop_path", "add")
"""What the kernel computes, in this order."""


@dataclass(frozen=True)
class ProjectResidual(Rule):
    """A product that scales its result, scatters it where windows are merged, and adds it to the residual.

    Where a squeeze-excite gate stands before it, that is a factor on the rows' channels in its load. Libraries add a
    residual, but neither scatter, nor gate, and Inductor fuses nothing into their products.
    """

    name: ClassVar[str] = "project_residual"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        tail = "merge|bn|scale* add"
        if role(graph, node) == "gate":
            return chain(graph, node, f"pointwise {tail}") or chain(graph, node, "pointwise bn? act?")
        return chain(graph, node, tail) if role(graph, node) == "pointwise" else None

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = parts(graph, paths)
        return found if isinstance(found, str) else ""

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, Parts)
        operands = [found.x, hold(graph, draft, found.layer), found.residual, found.gate, found.scale]
        operands += [] if found.drop is None else [hold_drop(draft, found.drop)]
        draft.swap(replace(graph.node(paths[-1]), op=LinearResidual()), operands=operands)
        for path in paths[:-1]:
            if found.drop is None or path != found.drop.path:
                draft.drop(path)


@dataclass(frozen=True)
class Parts:
    """A product that is gated, scaled, dropped and added to the residual."""

    x: Value
    gate: Value | None
    layer: Node
    scale: Value | None
    drop: Node | None
    residual: Value


def parts(graph: Graph, paths: Sequence[str]) -> Parts | str:
    """What the ops are to the kernel, or why it does not compute them."""
    nodes = {role(graph, n): n for n in map(graph.node, paths)}
    odd = next((n.op.name for name, n in nodes.items() if name not in ORDER), "")
    if odd:
        return f"its kernel does not compute `{odd}`"
    if [role(graph, graph.node(p)) for p in paths] != [name for name in ORDER if name in nodes]:
        return "its kernel scales once, then drops"
    gated, layer, scale, drop, last = (nodes.get(name) for name in ORDER)
    if layer is None or last is None or layer.op.name not in ("linear", "conv"):
        return "its kernel adds the result of a layer to a residual"

    def entering(node: Node) -> list[Value]:
        return [v for v in graph.operands(node) if v is not None and v.node not in paths]

    (x, *gate), residual = sorted(entering(gated or layer), key=lambda v: v.type.kind == "vec"), entering(last)
    factors, out = [] if scale is None else entering(scale), last.outputs[0]
    if out.kind not in ("map", "tokens") or x.type.kind != out.kind or len(residual) != 1:
        return "it is not added to another value of a sample's positions"
    by_channel = [(v.type.kind, v.type.batched, v.type.dims) == ("vec", False, (out.channels,)) for v in factors]
    if by_channel != [True] * (scale is not None):
        return "its kernel scales by a number a channel"
    if any(v.type.channels != x.type.channels for v in gate):
        return "its kernel gates by a number a channel"
    if out.frames and (gate or drop is not None):
        return "it is gated or dropped in windows"
    if min(x.type.channels, out.channels) < NARROW:
        return f"{int(min(x.type.channels, out.channels))} channels are too few for a matrix unit ({NARROW})"
    wide = too_wide(int(out.channels), ROW)
    return wide or Parts(x, next(iter(gate), None), layer, next(iter(factors), None), drop, residual[0])
