"""`rep def`: checks that a body is one affine, shift-invariant map, and collapses it to one op for deployment.

The idea is RepVGG's (2101.03697) and RepViT's (2307.09283): what training writes as branches with their own
norms, deployment computes as one convolution (or linear). Here the body itself is the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from archdsl.diagnostics import ArchError, Span
from archdsl.frontend.values import Data, Function, Scope, Tensor
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ir.types import Pair
from archdsl.ops.base import op_of, pair
from archdsl.syntax import tree

if TYPE_CHECKING:
    from archdsl.frontend.calls import Caller


@dataclass(frozen=True)
class Reach:
    """What one value of the body is, as a convolution of the def's input: per axis (height, width), and groups."""

    groups: int
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    biased: bool = False
    """An op that adds something of its own stands on the path."""


def verify(ev: Caller, f: Function, region: int, result: Data, t: tree.Tree) -> Reach:
    """The reach of a rep def's result; raises E-REP where the body cannot be collapsed."""
    graph = ev.graph
    assert graph is not None
    inputs = {v for _, v in graph.regions[region].ports}
    if not isinstance(result, Tensor):
        raise _one_result(ev, f, t)
    nodes = [n for n in graph.nodes() if _within(graph, n.region, region)]
    return reach(ev, f, graph, inputs, nodes, result.value, t.span)


def _one_result(ev: Caller, f: Function, t: tree.Tree) -> ArchError:
    return ev.fail(
        "E-REP",
        f"`rep def {f.name}` must return one tensor",
        ev.returned or t.span,
        help="make each result a `rep def` of its own, or drop `rep`",
    )


def _within(graph: Graph, region: int, ancestor: int) -> bool:
    at: int | None = region
    while at is not None and at >= ancestor:
        if at == ancestor:
            return True
        at = graph.regions[at].parent
    return False


def reach(
    ev: Caller, f: Function, graph: Graph, inputs: set[Value], nodes: list[Node], result: Value, span: Span
) -> Reach:
    found: dict[Value, Reach] = {v: Reach(v.type.channels) for v in inputs}
    for node in nodes:
        operands = [v for v in graph.operands(node) if v is not None]
        reaches = [found[v] for v in operands if v in found]
        if not reaches:
            continue
        _check(ev, graph, node, [v for v in operands if v not in found], node.span or span)
        joined = _join(ev, reaches, node.span or span)
        for value in node.values:
            found[value] = _after(ev, node, joined, len(reaches) < len(operands), node.span or span)
    if result not in found:
        raise ev.fail(
            "E-REP",
            f"the result of `rep def {f.name}` does not depend on its input",
            ev.returned or span,
            help="drop `rep`: there is nothing to collapse",
        )
    return found[result]


def _check(ev: Caller, graph: Graph, node: Node, others: list[Value], span: Span) -> None:
    """Refuses what is no affine, shift-invariant op on values of the body; `others` are its further operands."""
    op = op_of(node)
    if op.name == "avg_pool" and not op.is_affine(*graph.operand_types(node)):
        raise ev.fail(
            "E-REP",
            "pooling that does not count its padding, or that keeps partial windows, is not one convolution",
            span,
            help="use include_pad = true and ceil = false, or drop `rep`",
        )
    if not op.is_affine(*graph.operand_types(node)) or op.attributes().get("axis", "c") != "c":
        raise ev.fail(
            "E-REP",
            f"`{op.name}` is not affine, so this `rep def` cannot be collapsed into one convolution",
            span,
            help="drop `rep`, or move the nonlinearity out of the def",
        )
    for other in others:
        if other.type.batched:
            title = f"{other.type.short()} is computed outside of this `rep def`"
            raise ev.fail("E-REP", title, span, help="take it out of the def, or drop `rep`")
        if other.type.positions > 1:
            parameter = other.type.short()
            title = f"{parameter} differs from position to position, a kernel does not"
            raise ev.fail("E-REP", title, span, help="use one value a channel (param[C]), or drop `rep`")


def _join(ev: Caller, reaches: list[Reach], span: Span) -> Reach:
    """The convolution that has all taps of the branches, aligned at the input position they start from."""
    if len({r.stride for r in reaches}) > 1:
        strides = " and ".join(sorted({str(r.stride[0]) for r in reaches}))
        raise ev.fail(
            "E-REP",
            "the branches of this `rep def` have different strides",
            span,
            label=f"strides {strides}" if " and " in strides else "",
            help="give every branch the same s, or drop `rep`",
        )
    pad = _per_axis(lambda axis: max(r.pad[axis] for r in reaches))
    kernel = _per_axis(lambda axis: pad[axis] + max(r.kernel[axis] - r.pad[axis] for r in reaches))
    groups = math.gcd(*(r.groups for r in reaches))
    return Reach(groups, kernel, reaches[0].stride, pad, any(r.biased for r in reaches))


def _after(ev: Caller, node: Node, before: Reach, constant: bool, span: Span) -> Reach:
    attrs = node.op.attributes()
    adds = node.op.name in ("add", "sub", "concat") and (constant or attrs.get("by") is not None)
    biased = before.biased or adds or node.op.name == "bn" or attrs.get("bias") is True
    if node.op.name in ("linear", "concat", "interleave", "repeat"):
        return replace(before, groups=1, biased=biased)
    if node.op.name not in ("conv", "avg_pool"):
        return replace(before, biased=biased)
    d = attrs.get("d", 1)
    assert isinstance(d, int)
    k, s = pair(attrs["k"]), pair(attrs["s"] or attrs["k"])  # type: ignore[arg-type]
    span_of = _per_axis(lambda axis: d * (k[axis] - 1) + 1)
    pad = pair(attrs["p"] or 0)  # type: ignore[arg-type]
    if attrs.get("pad") == "tf_same":
        if any(n > 1 and (step > 1 or n % 2 == 0) for n, step in zip(span_of, s, strict=True)):
            raise ev.fail("E-REP", 'where pad = "tf_same" pads depends on the size of the map', span)
        pad = _per_axis(lambda axis: span_of[axis] // 2)
    if any(pad):
        wrong, way_out = "", ""
        if any(before.pad):
            wrong, way_out = "two padded ops on one path do", "pad once on a path: p = 0 in this one, or a kernel of 1"
        elif any(p and n > 1 for p, n in zip(pad, before.kernel, strict=True)):
            wrong, way_out = "a padded op after a kernel does", "put the padding into the first op of the path"
        elif before.biased:
            wrong, way_out = "a bias before a padded op does", "write bias = false, and no norm, before it on the path"
        if wrong:
            raise ev.fail("E-REP", f"{wrong} not collapse exactly at the border", span, help=way_out)
    groups = before.groups
    if node.op.name == "conv":
        groups = math.gcd(groups, attrs["g"])  # type: ignore[arg-type]
    return Reach(
        groups,
        _per_axis(lambda axis: before.kernel[axis] + (span_of[axis] - 1) * before.stride[axis]),
        _per_axis(lambda axis: before.stride[axis] * s[axis]),
        _per_axis(lambda axis: before.pad[axis] + pad[axis] * before.stride[axis]),
        biased,
    )


def _per_axis(of: Callable[[int], int]) -> Pair:
    return of(0), of(1)


def collapse(ev: Caller, f: Function, d: tree.Def, scope: Scope, t: tree.Tree) -> Data:
    """The one conv or linear that the def is in deploy mode, with weights of its own at the def's path."""
    graph = ev.graph
    assert graph is not None
    port = next((v for p in d.ports if isinstance(v := scope.names.get(p.name.id), Tensor)), None)
    if port is None or sum(isinstance(scope.names.get(p.name.id), Tensor) for p in d.ports) != 1:
        ports = [p.span for p in d.ports]
        raise ev.fail(
            "E-REP",
            f"`rep def {f.name}` must have exactly one tensor input",
            ports[0].to(ports[-1]) if ports else d.name.span,
            help="drop `rep`, or move what combines the inputs out of the def",
        )
    mark, taken = graph.mark(), dict(ev.taken)
    result = ev.run(d, d.body, scope, f, t)
    if not isinstance(result, Tensor):
        raise _one_result(ev, f, t)
    shape = reach(ev, f, graph, {port.value}, graph.since(mark), result.value, t.span)
    graph.rollback(mark)
    ev.taken = taken
    out = result.type
    config: dict[str, Data] = {"dim": out.channels, "bias": shape.biased}
    name = "linear"
    if out.kind == "map":
        name = "conv"
        config |= {"k": shape.kernel, "s": shape.stride, "p": shape.pad}
        config["g"] = math.gcd(shape.groups, out.channels)
    made = ev.apply(Function(name, ev.vocabulary[name], None, config), ev.vocabulary[name], [port], t, "")
    assert isinstance(made, Tensor)
    if made.type != out:
        raise ev.fail(
            "E-REP", f"one convolution gives {made.type.short()} where this `rep def` gives {out.short()}", t.span
        )
    return made
