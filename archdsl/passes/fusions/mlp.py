"""mlp: two linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.fused_mlp import FusedMlp
from archdsl.ops.norm_linear import ACTS
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, hold, hold_drop, refused, role, too_wide
from archdsl.passes.fusions.project_residual import Parts, parts

WHOLE = 192
"""Channels of a position of which a tile holds a row, and the sums of one."""


@dataclass(frozen=True)
class Mlp(Rule):
    """Both products on one tile: the hidden channels pass through it in pieces, and are never written.

    The norm before is in the load, scale and residual are in the store. The instructions of an exact GELU then cost
    more than the bytes that are left. The generic "pointwise pair" of 2404.03617.
    """

    name: ClassVar[str] = "mlp"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        pair = "pointwise bn|scale* act? add?"
        if role(graph, node) == "norm":
            return chain(graph, node, f"pointwise bn? act {pair}")
        return chain(graph, node, f"bn? act {pair}") if role(graph, node) == "pointwise" else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        wide = max(channels(graph, graph.node(paths[0])), int(graph.node(paths[-1]).outputs[0].channels))
        return first(too_wide(wide, ROW), lambda: refused(graph, paths))

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = layers(graph, paths)
        return found if isinstance(found, str) else ""

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = layers(graph, paths)
        assert isinstance(found, Layers)
        norm = None if found.norm is None else hold(graph, draft, found.norm)
        last = found.last
        given = hold(graph, draft, found.layer), hold(graph, draft, last.layer)
        operands = [found.x, *given, last.residual, norm, last.scale]
        operands += [] if last.drop is None else [hold_drop(draft, last.drop)]
        kernel = FusedMlp(int(found.layer.outputs[0].channels), found.act.op.name)
        draft.swap(replace(graph.node(paths[-1]), op=kernel), operands=operands)
        for path in paths[:-1]:
            if last.drop is None or path != last.drop.path:
                draft.drop(path)


@dataclass(frozen=True)
class Layers:
    """Two linear layers, what is before and between them, and what is behind."""

    x: Value
    norm: Node | None
    layer: Node
    act: Node
    last: Parts


def layers(graph: Graph, paths: Sequence[str]) -> Layers | str:
    """What the ops are to the kernel, or why it does not compute them."""
    nodes = [graph.node(path) for path in paths]
    norm = nodes[0] if role(graph, nodes[0]) == "norm" else None
    begin = 0 if norm is None else 1
    (layer, act), behind = nodes[begin : begin + 2], paths[begin + 2 :]
    x = graph.operands(nodes[0])[0]
    last = parts(graph, behind)
    assert x is not None
    if isinstance(last, str):
        return last
    odd = next((n.op.name for n, known in ((layer, ("linear",)), (act, ACTS)) if n.op.name not in known), "")
    if odd or last.layer.op.name != "linear" or (norm is not None and norm.op.name != "ln"):
        return f"its kernel does not compute `{odd or last.layer.op.name}`"
    if last.gate is not None or x.type.channels != last.residual.type.channels or not x.type.batched:
        return "its kernel gives as many channels as it takes"
    return too_wide(int(x.type.channels), WHOLE) or Layers(x, norm, layer, act, last)
