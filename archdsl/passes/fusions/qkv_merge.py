"""qkv_merge: linear layers that read one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Operation, Value
from archdsl.ops.merged_linear import MergedLinear
from archdsl.passes.base import Draft, shared
from archdsl.passes.fusions.base import Rule, hold, in_head, readers, role
from archdsl.passes.merge_siblings import copied


@dataclass(frozen=True)
class QkvMerge(Rule):
    """One product instead of several of one value (separate queries, keys and values), which it reads once.

    What `merge_siblings` does to a deploy graph, for layers of any mode: they keep their weights, which are joined at
    each call. The results are parts of one tensor, so ops that want theirs in one piece copy it first.
    """

    name: ClassVar[str] = "qkv_merge"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if role(graph, node) != "pointwise":
            return None
        (value,) = graph.operands(node)
        assert value is not None
        layers = [n for n in readers(graph, value) if n.op.name == node.op.name and role(graph, n) == "pointwise"]
        return tuple(n.path for n in layers) if len(layers) > 1 and layers[0] is node else None

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        return apart(graph, [graph.node(path) for path in paths])

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        layers = [graph.node(path) for path in paths]
        (x,) = graph.operands(layers[0])
        op = MergedLinear(tuple(int(layer.outputs[0].channels) for layer in layers))
        assert x is not None
        join(graph, draft, op, [x], layers, layers)

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        layers = [graph.node(path) for path in paths]
        return joining(graph, layers, layers)


def apart(graph: Graph, layers: Sequence[Node]) -> str:
    """Why layers cannot be given to one op, or ""."""
    if any(in_head(graph, layer) for layer in layers):
        return "classifiers stay layers of their own"
    if len({layer.region for layer in layers}) > 1:
        return "its layers are parts of different blocks"
    return "its weights are another call's, too" if layers[0].region in shared(graph) else ""


def join(
    graph: Graph,
    draft: Draft,
    op: Operation,
    operands: Sequence[Value],
    layers: Sequence[Node],
    tails: Sequence[Node],
) -> None:
    """Notes one op in the place of the first of `layers`, which it is given: its results are those of `tails`."""
    first = layers[0]
    held = [hold(graph, draft, layer, ahead=first) for layer in layers]
    outputs = tuple(tail.outputs[0] for tail in tails)
    names = tuple(name for tail in tails for name in tail.names or ("",))
    node = replace(first, op=op, outputs=outputs, names=names, module="", params=())
    draft.swap(node, operands=[*operands, *held])
    for result, tail in zip(node.values, tails, strict=True):
        if result != tail.value():
            draft.use(result, instead_of=tail.value())
    for path in {n.path for n in (*layers, *tails)} - {first.path}:
        draft.drop(path)


def joining(graph: Graph, layers: Sequence[Node], tails: Sequence[Node]) -> Work:
    """What joining weights takes, and copying the parts of the result that are wanted in one piece."""
    owned = [graph.params[path] for layer in layers for _, path in layer.params]
    runs = len({role for layer in layers for role, _ in layer.params})
    parts = sum(tail.outputs[0].plain().elements for tail in tails if copied(graph, tail.value()))
    return Work(elements=2 * parts, weights=2 * sum(p.elements for p in owned), launches=runs)
