"""fold_leading_norms: a BatchNorm and the convolution or linear layer behind it become one, for deployment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Parameter
from archdsl.ops.base import op_of, pair
from archdsl.passes.base import Draft, Pass, Property
from archdsl.passes.fold_affines import JOINED


def leading(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """(norm, layer) pairs of a deploy graph where the layer alone reads the norm, and both own their weights alone."""
    if graph.mode != "deploy":
        return
    uses = Counter(path for node in graph.weight_nodes() for _, path in node.params)
    read = {*graph.outputs, *(f.value for f in graph.features)}
    for norm in graph.weight_nodes():
        readers = graph.users(norm.value()) if norm.op.name == "bn" else []
        if len(readers) != 1 or norm.value() in read:
            continue
        layer = readers[0][0]
        if _able(graph, layer) and all(uses[path] == 1 for _, path in (*norm.params, *layer.params)):
            yield norm, layer


def _able(graph: Graph, layer: Node) -> bool:
    """Whether an op maps channels and sees no zeros beside them, which a norm does not move; and is no classifier."""
    a = layer.op.attributes()
    if any(region.kind == "head" for region in graph.region_chain(layer.region)):
        return False
    if layer.op.name == "linear":
        return a["axis"] == "c"
    unpadded = a.get("p") == (0, 0) and (a["pad"] == "zeros" or pair(a["k"]) == (1, 1))  # type: ignore[arg-type]
    return layer.op.name == "conv" and unpadded


@dataclass(frozen=True)
class FoldLeadingNorms(Pass):
    """In deploy mode a linear layer or unpadded conv takes in the BatchNorm before it: Visformer's blocks have some."""

    name: ClassVar[str] = "fold_leading_norms"
    breaks: ClassVar[tuple[Property, ...]] = (JOINED,)

    def __call__(self, graph: Graph) -> Graph:
        return next((after for _, after in reversed(list(rounds(graph)))), graph)


def rounds(graph: Graph) -> Iterator[tuple[Graph, Graph]]:
    """Graphs before and after: a norm before a norm is folded once the second one is.

    archdsl.weights.deploy makes the weights of each.
    """
    while True:
        draft = Draft(graph)
        for norm, layer in leading(graph):
            (value,) = graph.operands(norm)
            assert value is not None
            op, paths = op_of(layer).replace(bias=True), dict(layer.params)
            weights = [
                (w, paths.get(w.role, f"{layer.module}.{w.role}")) for w in op.weights(*graph.operand_types(layer))
            ]
            made = [Parameter(p, tuple(map(int, w.shape)), w.init, w.kind) for w, p in weights if p not in graph.params]
            draft.swap(replace(layer, op=op, params=tuple((w.role, p) for w, p in weights)), made)
            draft.use(value, instead_of=norm.value())
            draft.drop(norm.path)
        after = draft.done()
        if after is graph:
            return
        yield graph, after
        graph = after
