"""fold_norms: a convolution or linear layer and the BatchNorm behind it become one, for deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Parameter
from archdsl.ir.verify import Finding
from archdsl.ops.base import op_of
from archdsl.passes.base import Draft, Pass, Property
from archdsl.passes.fold_affines import JOINED


def foldable(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """(layer, norm) pairs of a deploy graph."""
    if graph.mode == "deploy":
        yield from pairs(graph)


def pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Layers and the norms behind them, where nothing else reads the layer, and both own their weights alone."""
    uses: dict[str, int] = {}
    for node in graph.weight_nodes():
        for _, path in node.params:
            uses[path] = uses.get(path, 0) + 1
    read = {*graph.outputs, *(f.value for f in graph.features)}
    for norm in graph.weight_nodes():
        if norm.op.name != "bn":
            continue
        (value,) = graph.operands(norm)
        assert value is not None
        layer = graph.node(value.node)
        attributes = layer.op.attributes()
        linear = layer.op.name == "conv" or (layer.op.name == "linear" and attributes["axis"] == "c")
        alone = value not in read and len(graph.users(value)) == 1
        if linear and alone and all(uses[path] == 1 for _, path in (*layer.params, *norm.params)):
            yield layer, norm


def _unfolded(graph: Graph) -> Iterator[Finding]:
    for layer, norm in foldable(graph):
        yield norm.path, f"could be part of %{layer.path}"


FOLDED = Property("folded", "No BatchNorm of a deploy graph stands alone behind a layer of its own.", _unfolded)


@dataclass(frozen=True)
class FoldNorms(Pass):
    """In deploy mode a conv or linear layer takes in the BatchNorm behind it: its weight scaled, its bias moved."""

    name: ClassVar[str] = "fold_norms"
    gives: ClassVar[tuple[Property, ...]] = (FOLDED,)
    breaks: ClassVar[tuple[Property, ...]] = (JOINED,)

    def __call__(self, graph: Graph) -> Graph:
        return next((after for _, after in reversed(list(rounds(graph)))), graph)


def rounds(graph: Graph) -> Iterator[tuple[Graph, Graph]]:
    """Graphs before and after: a second norm behind a layer is folded once the first one is.

    archdsl.weights.deploy makes the weights of each.
    """
    while True:
        draft = Draft(graph)
        for layer, norm in foldable(graph):
            op = op_of(layer).replace(bias=True)
            params, made = [], []
            for weight in op.weights(*graph.operand_types(layer)):
                path = f"{layer.module}.{weight.role}"
                params.append((weight.role, path))
                if path not in graph.params:
                    made.append(Parameter(path, tuple(int(n) for n in weight.shape), weight.init, weight.kind))
            draft.swap(replace(layer, op=op, params=tuple(params), names=norm.names or layer.names), made)
            draft.use(layer.value(), instead_of=norm.value())
            draft.drop(norm.path)
        after = draft.done()
        if after is graph:
            return
        yield graph, after
        graph = after
