"""mlp: two linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.base import op_of
from archdsl.ops.drop_path import DropPath
from archdsl.ops.fused_mlp import NORMS, FusedMlp
from archdsl.ops.norm_linear import ACTS
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import (
    ROW,
    Rule,
    chain,
    channels,
    first,
    hold,
    hold_drop,
    in_head,
    refused,
    role,
    too_wide,
    working,
)

NARROW = 16
"""Channels of a position that a matrix unit takes at once."""
STEPS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {
    "norm": (0, ("norm", "bn"), tuple(NORMS)),
    "first": (1, ("pointwise",), ("linear", "conv")),
    "between": (2, ("bn",), ("bn",)),
    "act": (3, ("act",), tuple(ACTS)),
    "last": (4, ("pointwise",), ("linear", "conv")),
    "behind": (5, ("norm", "bn"), tuple(NORMS)),
    "last_act": (6, ("act",), tuple(ACTS)),
    "scale": (7, ("scale",), ("mul",)),
    "drop_path": (7, ("drop_path",), ("drop_path",)),
    "add": (8, ("add",), ("add",)),
}
"""What the kernel computes, each once at most, in the order of their numbers: such ops by role, and by name."""
LAYERS = ("norm", "first", "between", "last", "behind")
"""The steps that are modules."""


@dataclass(frozen=True)
class Mlp(Rule):
    """Both products on one tile: the hidden channels pass through it in pieces, and are never written.

    A norm before is in the load; a norm behind, scale and residual are in the store, for a tile's rows are whole. The
    instructions of an exact GELU then cost more than the bytes that are left. The generic "pointwise pair" of
    2404.03617. Squeeze-excite's two layers of a vector are such a pair, too.
    """

    name: ClassVar[str] = "mlp"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        pair = "bn? act pointwise bn|norm|scale* act? add?"
        if role(graph, node) in ("norm", "bn"):
            return chain(graph, node, f"pointwise {pair}")
        return chain(graph, node, pair) if role(graph, node) == "pointwise" else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        wide = max(channels(graph, graph.node(paths[0])), int(graph.node(paths[-1]).outputs[0].channels))
        return first(too_wide(wide, ROW), lambda: refused(graph, paths))

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = parts(graph, paths)
        return found if isinstance(found, str) else ""

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, Parts)
        steps = found.steps
        held = {name: hold(graph, draft, steps[name]) for name in LAYERS if name in steps}
        dropped = hold_drop(draft, steps["drop_path"]) if "drop_path" in steps else None
        names = {name: node.op.name for name, node in steps.items()}
        last = graph.node(paths[-1])
        kernel = FusedMlp(
            int(steps["first"].outputs[0].channels),
            int(last.outputs[0].channels),
            names["act"],
            names.get("last_act", ""),
            names.get("norm", ""),
            names.get("behind", ""),
        )
        operands = [found.x, held["first"], held["last"], found.residual]
        operands += [*(held.get(name) for name in ("norm", "between", "behind")), found.scale, dropped]
        draft.swap(replace(last, op=kernel, module="", params=()), operands=operands)
        for path in paths[:-1]:
            if dropped is None or path != dropped.node:
                draft.drop(path)


@dataclass(frozen=True)
class Parts:
    """What a kernel computes: ops by the names of STEPS, and what they read."""

    steps: dict[str, Node]
    x: Value
    scale: Value | None
    residual: Value | None


def parts(graph: Graph, paths: Sequence[str]) -> Parts | str:
    """What the ops are to the kernel, or why it does not compute them."""
    steps: dict[str, Node] = {}
    at = 0
    for node in working(graph, paths):
        what = role(graph, node)
        fits = (n for n, (place, roles, _) in STEPS.items() if place >= at and what in roles and n not in steps)
        name = next(fits, "")
        if not name or node.op.name not in STEPS[name][2]:
            return f"its kernel does not compute `{node.op.name}` at this place"
        steps[name], at = node, STEPS[name][0]

    def entering(name: str) -> list[Value]:
        given = graph.operands(steps[name]) if name in steps else ()
        return [v for v in given if v is not None and v.node not in paths]

    if in_head(graph, steps["last"]):
        return "a classifier stays a layer of its own"
    (x, *_), out = entering("norm" if "norm" in steps else "first"), steps["last"].outputs[0]
    scale, residual = entering("scale"), entering("add")
    if not x.type.batched or x.type.kind not in ("map", "tokens", "vec"):
        return "it is not of a sample's positions"
    if len(residual) != ("add" in steps):
        return "it is not added to another value"
    by_parameter = [(v.type.kind, v.type.batched, int(v.type.channels) in (1, int(out.channels))) for v in scale]
    if by_parameter != [("vec", False, True)] * ("scale" in steps):
        return "its kernel scales by a number a channel, or one for all"
    drop = op_of(steps["drop_path"]) if "drop_path" in steps else None
    if isinstance(drop, DropPath) and drop.whole and out.frames:
        return "a sample is dropped in all its windows"
    narrow = int(min(x.type.channels, out.channels))
    if narrow < NARROW:
        return f"{narrow} channels are too few for a matrix unit ({NARROW})"
    return Parts(steps, x, next(iter(scale), None), next(iter(residual), None))
