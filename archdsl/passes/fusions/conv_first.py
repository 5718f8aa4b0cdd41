"""conv_first: a depthwise convolution and the two pointwise layers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.conv_first import ConvFirst as Fused
from archdsl.ops.dwconv_norm import ACTS
from archdsl.ops.fused_mlp import NORMS
from archdsl.passes.base import Draft, alike, shared
from archdsl.passes.fusions.base import (
    ROW,
    Rule,
    chain,
    channels,
    first,
    hold,
    hold_drop,
    of_role,
    refused,
    role,
    too_far,
    too_wide,
    working,
)
from archdsl.passes.fusions.conv_norm import unread
from archdsl.passes.fusions.fused_mbconv import tapped
from archdsl.passes.fusions.mlp import Parts, parts

STEPS: dict[str, tuple[str, ...]] = {"norm": tuple(NORMS), "conv_act": tuple(ACTS)}
"""What the kernel computes between the convolution and the layers, in this order: ops by name."""
LAYERS = ("first", "last", "between", "behind")
"""The steps behind it that are modules."""


@dataclass(frozen=True)
class ConvFirst(Rule):
    """A whole block that starts with its depthwise convolution, on one tile of the map (2404.03617).

    The convolution's result, normalised, is the tile that the two products work on; only they mix channels, so
    nothing is computed again: the halo is in the load. That is a load for each tap, where `dwconv_norm` slides along a
    row: the instructions cost more than the map between it and `mlp`, unless the kernel is small or the map is.
    """

    name: ClassVar[str] = "conv_first"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        head = chain(graph, node, "bn|norm? act?") if role(graph, node) == "depthwise" else None
        if head is None:
            return None
        last, pair = graph.node(head[-1]), "pointwise bn? act pointwise bn|scale* add?"
        gated = chain(graph, last, f"gate {pair}")
        tail = gated or chain(graph, last, pair)
        return None if tail is None else (*head, *tail[1:])

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        conv = graph.node(paths[0])
        wide = max(channels(graph, conv), int(graph.node(paths[-1]).outputs[0].channels))
        gated = any(of_role(graph, paths, "gate"))
        return first(
            too_far(conv, stride=1),
            "squeeze-excite needs the mean of the whole map first" if gated else "",
            too_wide(wide, ROW),
            lambda: refused(graph, paths),
        )

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        found = _block(graph, paths)
        return found if isinstance(found, str) else ""

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        return tapped(graph.node(paths[0]))

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        found = _block(graph, paths)
        assert not isinstance(found, str)
        ahead, behind = found
        steps, conv, last = behind.steps, graph.node(paths[0]), graph.node(paths[-1])
        op = op_of(conv)
        assert isinstance(op, Conv)
        names = {name: node.op.name for name, node in (*ahead.items(), *steps.items())}
        new = Fused(
            int(steps["first"].outputs[0].channels),
            int(last.outputs[0].channels),
            op.k,
            pair(op.p or 0),
            op.d,
            op.pad,
            names["act"],
            names.get("conv_act", ""),
            names.get("norm", ""),
            names.get("behind", ""),
        )
        layer = hold(graph, draft, conv)
        norm = hold(graph, draft, ahead["norm"]) if "norm" in ahead else None
        held = {name: hold(graph, draft, steps[name]) for name in LAYERS if name in steps}
        dropped = hold_drop(draft, steps["drop_path"]) if "drop_path" in steps else None
        operands = [graph.operands(conv)[0], layer, held["first"], held["last"], behind.residual, norm]
        operands += [held.get("between"), held.get("behind"), behind.scale, dropped]
        draft.swap(replace(last, op=new, module="", params=()), operands=operands)
        for path in paths[:-1]:
            if dropped is None or path != dropped.node:
                draft.drop(path)


def _block(graph: Graph, paths: Sequence[str]) -> tuple[dict[str, Node], Parts] | str:
    """What stands between the convolution and the layers, and these, or why the kernel does not compute them."""
    at = next(i for i, path in enumerate(paths) if role(graph, graph.node(path)) == "pointwise")
    conv, *between = working(graph, paths[:at])
    if why := unread(conv):
        return why
    ahead: dict[str, Node] = {}
    for node in between:
        name = "conv_act" if role(graph, node) == "act" else "norm"
        if node.op.name not in STEPS[name] or name in ahead or "conv_act" in ahead:
            return f"its kernel does not compute `{node.op.name}` at this place"
        ahead[name] = node
    found = parts(graph, paths[at:])
    if isinstance(found, str):
        return found
    residual, out = found.residual, graph.node(paths[-1]).outputs[0]
    if residual is not None and residual.node in paths[:at]:
        return "what it adds is a result of its own convolution"
    if residual is not None and not alike(conv.outputs[0].with_channels(int(out.channels)), out):
        return "other sizes of the input may give it another size than the residual"
    if any(node.region in shared(graph) for node in working(graph, paths)):
        return "its weights are another call's, too"
    return ahead, found
