"""project_residual: a projection, and the residual that its result is added to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.types import TensorType
from archdsl.ops.dwconv_norm import ACTS
from archdsl.ops.linear_residual import LinearResidual
from archdsl.passes.base import Draft, alike
from archdsl.passes.fusions.base import ROW, Rule, chain, follower, hold, hold_drop, refused, role, too_wide, working

NARROW = 16
"""Channels of a position that a matrix unit takes at once."""


@dataclass(frozen=True)
class ProjectResidual(Rule):
    """A product that norms, activates and scales its result, and adds it to the residual.

    Where a squeeze-excite gate stands before it, that is a factor on the rows' channels in its load. Libraries add a
    residual, but neither norm nor gate, and Inductor fuses nothing into their products.

    What is saved is the product's result, written and read again: 4 bytes for 2K operations, which on an H200 is
    367/K of the product's time at its peak. Generated products of many channels are reported at 60 to 100% of the
    libraries' rate (triton-lang/triton#2339, #3672), so they lose above some K of 550. Up to ROW channels of the
    result a program's registers hold a row, x is read once, and memory takes most of the time; above it, the K of
    most products, those behind an MLP's hidden channels, are 1024 and more.
    """

    name: ClassVar[str] = "project_residual"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        tail = "merge|bn|act|scale* add"
        if role(graph, node) == "gate":
            found = chain(graph, node, f"pointwise {tail}")
            found = found if found and not refused(graph, found) else chain(graph, node, "pointwise bn?")
        else:
            found = chain(graph, node, tail) if role(graph, node) == "pointwise" else None
        return found and with_act(graph, found)

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = parts(graph, paths)
        return found if isinstance(found, str) else ""

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = parts(graph, paths)
        assert isinstance(found, Parts)
        operands = [found.x, hold(graph, draft, found.layer), found.residual, found.gate]
        op = LinearResidual(int(found.layer.outputs[0].channels), found.branch_act, found.times, found.act)
        last = replace(graph.node(paths[-1]), op=op, module="", params=())
        draft.swap(last, operands=[*operands, *found.held(graph, draft)])
        for path in paths[:-1]:
            if found.drop is None or path != found.drop.path:
                draft.drop(path)


@dataclass(frozen=True)
class Behind:
    """What becomes of a branch, in this order. Scales and dropped branches commute."""

    norm: Node | None
    branch_act: str
    times: float
    """The product of the numbers that it is multiplied with."""
    scale: Value | None
    drop: Node | None
    residual: Value | None
    act: str

    def held(self, graph: Graph, draft: Draft) -> list[Value | None]:
        """Scale, dropped branch and norm, as a kernel is given them."""
        drop = None if self.drop is None else hold_drop(draft, self.drop)
        return [self.scale, drop, None if self.norm is None else hold(graph, draft, self.norm)]


@dataclass(frozen=True)
class Parts(Behind):
    """A product that is gated, and what is behind it."""

    x: Value
    gate: Value | None
    layer: Node


def parts(graph: Graph, paths: Sequence[str]) -> Parts | str:
    """What the ops are to the kernel, or why it does not compute them."""
    nodes = working(graph, paths)
    gated, layer = (next((n for n in nodes if role(graph, n) == name), None) for name in ("gate", "pointwise"))
    begin = (gated is not None) + (layer is not None)
    if layer is None or nodes[:begin] != [n for n in (gated, layer) if n] or layer.op.name not in ("linear", "conv"):
        return "its kernel adds the result of a layer to a residual"
    out = layer.outputs[0]
    found = behind(graph, out, nodes[begin:], paths)
    if isinstance(found, str):
        return found
    x, *gate = sorted(entering(graph, gated or layer, paths), key=lambda v: v.type.kind == "vec")
    if any(v.type.channels != x.type.channels for v in gate):
        return "its kernel gates by a number a channel"
    if min(x.type.channels, out.channels) < NARROW:
        return f"{int(min(x.type.channels, out.channels))} channels are too few for a matrix unit ({NARROW})"
    wide = too_wide(int(out.channels), ROW)
    return wide or Parts(**vars(found), x=x, gate=next(iter(gate), None), layer=layer)


def behind(graph: Graph, of: TensorType, nodes: Sequence[Node], paths: Sequence[str]) -> Behind | str:
    """What ops behind a branch are to a kernel, or why it does not compute them. `paths` are all the kernel's ops."""
    rest = list(nodes)

    def taken(*roles: str, most: int = 1) -> list[Node]:
        """The next ops, if they are of these roles."""
        count = next((i for i, n in enumerate(rest) if role(graph, n) not in roles), len(rest))
        found = rest[: min(count, most)]
        del rest[: len(found)]
        return found

    norms, branch_acts = taken("bn"), taken("act")
    factors, sums = taken("scale", "drop_path", most=len(rest)), taken("add")
    acts = taken("act") if sums else []
    odd = [*rest, *(n for n in (*branch_acts, *acts) if n.op.name not in ACTS)]
    if odd:
        return f"its kernel does not compute `{odd[0].op.name}` there"
    drops = [n for n in factors if role(graph, n) == "drop_path"]
    scales = [v for n in factors if n not in drops for v in entering(graph, n, paths) if not v.type.batched]
    if any(n.outputs[0].plain() != of.plain() for n in nodes) or of.kind not in ("map", "tokens") or not of.batched:
        return "it is not of a sample's positions"
    if norms and of.kind != "map":
        return "its kernel norms maps"
    if any(v.type.kind != "vec" for v in scales):
        return "its kernel scales by a number a channel, or one"
    if len(scales) > 1 or len(drops) > 1:
        return "its kernel scales by one parameter, and drops once"
    if any(len(graph.operands(n)) > 1 for n in drops):
        return "it is in windows, and dropped as a whole"
    residuals = [v for n in sums for v in entering(graph, n, paths)]
    if len(residuals) != len(sums):
        return "it is not added to another value"
    if any(not alike(v.type, nodes[-1].outputs[0]) for v in residuals):
        return "the sizes of both sides are equal, but are computed each in another way"
    if any(one.share for p in paths for one in graph.region_chain(graph.node(p).region)):
        return "its layers are another call's, too, which would have to stay alike"
    numbers = [n.op.attributes()["by"] for n in factors if n not in drops]
    times = math.prod(float(x) for x in numbers if isinstance(x, int | float))

    def name(found: Sequence[Node]) -> str:
        return found[0].op.name if found else ""

    return Behind(
        next(iter(norms), None),
        name(branch_acts),
        times,
        next(iter(scales), None),
        next(iter(drops), None),
        next(iter(residuals), None),
        name(acts),
    )


def with_act(graph: Graph, found: tuple[str, ...]) -> tuple[str, ...]:
    """A match, and the activation behind it, where kernels compute that."""
    after = follower(graph, graph.node(found[-1]).value(), ("act",), only=True)
    return (*found, *(n.path for n in after)) if after and after[-1].op.name in ACTS else found


def entering(graph: Graph, node: Node, paths: Sequence[str]) -> list[Value]:
    """What an op reads of others' results."""
    return [v for v in graph.operands(node) if v is not None and v.node not in paths]
