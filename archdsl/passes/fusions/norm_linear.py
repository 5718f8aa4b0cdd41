"""norm_linear: a channel norm and the linear layers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.base import op_of
from archdsl.ops.complete import Complete
from archdsl.ops.corner import Corner
from archdsl.ops.norm_linear import ACTS
from archdsl.ops.norm_linear import NormLinear as Kernel
from archdsl.passes.base import Draft, ported
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, hold, kept, refused, role, too_wide
from archdsl.passes.fusions.qkv_merge import apart, join, joining

NARROW = 16
"""Channels of a position that a matrix unit takes at once."""


@dataclass(frozen=True)
class NormLinear(Rule):
    """A channel norm in the load of the products that read it, and the activation in their store.

    A tile loads whole rows, gathered where the map is cut into windows behind the norm, and normalises them in
    registers: the normalised map is never written. Several layers are one product, whose weights are joined at each
    call. Inductor does not fuse a reduction into a product's load, nor an activation into a library's product.
    """

    name: ClassVar[str] = "norm_linear"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) != "norm":
            return None
        head = chain(graph, node, "cut? zero?")
        assert head is not None
        found = takers(graph, graph.node(head[-1]).value())
        if [n.op.name for n in found] == ["complete"]:
            head = (*head, found[0].path)
            found = takers(graph, found[0].value())
        layers = [n for n in found if role(graph, n) == "pointwise"]
        tails = [chain(graph, layer, "act?") or () for layer in layers]
        return (*head, *(path for tail in tails for path in tail)) if layers else None

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        norm = graph.node(paths[0])
        others = kept(graph, norm.value()) or {n.path for n in takers(graph, norm.value())} - set(paths)
        return first(
            too_wide(channels(graph, norm), ROW),
            f"others read the result of its `{norm.op.name}`" if others else "",
            lambda: refused(graph, paths, leaving={norm.path}),
        )

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        nodes = [graph.node(path) for path in paths]
        x = graph.operand_types(nodes[0])[0]
        assert x is not None
        layers, tails = branches(graph, paths)
        odd = next((n.op.name for n in nodes if n.op.name not in ("ln", "complete", "linear", *ACTS)), "")
        acts = {tail.op.name for layer, tail in zip(layers, tails, strict=True) if tail is not layer}
        alike = not acts or (len(acts) == 1 and not any(tail in layers for tail in tails))
        return first(
            f"its kernel does not compute `{odd}`" if odd else "",
            "" if alike else "its layers have not all one activation",
            apart(graph, layers) if len(layers) > 1 else "",
            "" if x.batched and x.kind in ("map", "tokens") else "it is not of a sample's positions",
            f"{int(x.channels)} channels are too few for a matrix unit ({NARROW})" if x.channels < NARROW else "",
        )

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        nodes = [graph.node(path) for path in paths]
        norm = nodes[0]
        layers, tails = branches(graph, paths)
        complete = next((n.op for n in nodes if isinstance(n.op, Complete)), None)
        op = Kernel(
            tuple(int(layer.outputs[0].channels) for layer in layers),
            "" if tails[0] is layers[0] else tails[0].op.name,
            None if complete is None else complete.size,
            complete is None or complete.clamp,
        )
        (x,) = graph.operands(norm)
        assert x is not None
        given = [x, hold(graph, draft, norm)]
        if len(layers) == 1:
            given.append(hold(graph, draft, layers[0]))
            draft.swap(replace(tails[0], op=op, module="", params=()), operands=given)
        else:
            join(graph, draft, op, given, layers, tails)
        draft.use(x, instead_of=norm.value())  # of those who ask for the size of its result
        for path in set(paths) - {n.path for n in (*layers, *tails)}:
            draft.drop(path)
        if len(layers) == 1 and tails[0] is not layers[0]:
            draft.drop(layers[0].path)

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        layers, tails = branches(graph, paths)
        return joining(graph, layers, tails) if len(layers) > 1 else Work(launches=0)


def branches(graph: Graph, paths: Sequence[str]) -> tuple[list[Node], list[Node]]:
    """The linear layers, and of each what is behind it: its activation, or itself."""
    nodes = [graph.node(path) for path in paths]
    at = [i for i, n in enumerate(nodes) if role(graph, n) == "pointwise"]
    return [nodes[i] for i in at], [nodes[end - 1] for end in (*at[1:], len(nodes))]


def takers(graph: Graph, value: Value) -> list[Node]:
    """The ops that read more of a value than its size."""
    users = {n.path: n for n, i in graph.users(value) if ported(graph, n)[i][0] not in op_of(n).measured}
    return [n for n in users.values() if not isinstance(n.op, Corner) or takers(graph, n.value())]
