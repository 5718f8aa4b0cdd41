"""norm_linear: a channel norm and the linear layers that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.base import op_of
from archdsl.ops.complete import Complete
from archdsl.ops.corner import Corner
from archdsl.ops.norm_linear import ACTS
from archdsl.ops.norm_linear import NormLinear as Kernel
from archdsl.passes.base import Draft, ported
from archdsl.passes.fusions.base import ROW, Rule, chain, channels, first, hold, kept, refused, role, too_wide

NARROW = 16
"""Channels of a position that a matrix unit takes at once."""


@dataclass(frozen=True)
class NormLinear(Rule):
    """A channel norm in the load of the products that read it, and the activation in their store.

    A tile loads whole rows, gathered where the map is cut into windows behind the norm, and normalises them in
    registers: the normalised map is never written. Inductor does not fuse a reduction into a product's load, nor an
    activation into a library's product.
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
        layers = sum(n.op.name in ("linear", "conv") for n in nodes)
        odd = next((n.op.name for n in nodes if n.op.name not in ("ln", "complete", "linear", *ACTS)), "")
        return first(
            f"its kernel does not compute `{odd}`" if odd else "",
            f"{layers} layers are no single product" if layers > 1 else "",
            "" if x.batched and x.kind in ("map", "tokens") else "it is not of a sample's positions",
            f"{int(x.channels)} channels are too few for a matrix unit ({NARROW})" if x.channels < NARROW else "",
        )

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        nodes = [graph.node(path) for path in paths]
        norm, last = nodes[0], nodes[-1]
        layer = next(n for n in nodes if n.op.name == "linear")
        complete = next((n.op for n in nodes if isinstance(n.op, Complete)), None)
        op = Kernel(
            int(layer.outputs[0].channels),
            "" if last is layer else last.op.name,
            None if complete is None else complete.size,
            complete is None or complete.clamp,
        )
        (x,) = graph.operands(norm)
        assert x is not None
        operands = [x, hold(graph, draft, norm), hold(graph, draft, layer)]
        draft.swap(replace(last, op=op, module="", params=()), operands=operands)
        draft.use(x, instead_of=norm.value())  # of those who ask for the size of its result
        for node in nodes[:-1]:
            draft.drop(node.path)


def takers(graph: Graph, value: Value) -> list[Node]:
    """The ops that read more of a value than its size."""
    users = {n.path: n for n, i in graph.users(value) if ported(graph, n)[i][0] not in op_of(n).measured}
    return [n for n in users.values() if not isinstance(n.op, Corner) or takers(graph, n.value())]
