"""scale_into_linear: numbers that channels are scaled or moved by become part of a layer's weights, for deployment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node, Parameter, Value
from archdsl.ir.types import CHANNEL_AXIS
from archdsl.ops.base import op_of, pair
from archdsl.passes.base import Draft, Pass, Property, alike, shared
from archdsl.passes.fold_affines import JOINED
from archdsl.passes.fold_constants import TENSORS
from archdsl.passes.fold_norms import FOLDED


@dataclass(frozen=True)
class Scaling:
    """Arithmetic on a value, with a number for each channel or for all, that the weights of a layer can do."""

    node: Node
    value: Value
    by: Node | float
    """The parameter, or the number."""
    swap: bool
    """by - x, where x is the value."""
    layer: Node
    first: int | None = None
    """The layer's output channel at which the value starts, or None where it reads the result."""

    @property
    def moves(self) -> bool:
        return self.node.op.name in ("add", "sub")


def scalings(graph: Graph) -> Iterator[Scaling]:
    """Those of a deploy graph between a layer with weights of its own and what else there is."""
    if graph.mode != "deploy":
        return
    uses = Counter(path for node in graph.weight_nodes() for _, path in node.params)
    kept, together = {*graph.outputs, *(f.value for f in graph.features)}, shared(graph)

    def alone(value: Value) -> bool:
        return value not in kept and len(graph.users(value)) == 1

    def able(layer: Node, touched: set[str]) -> bool:
        own = all(uses[path] == 1 for _, path in layer.params)
        return is_layer(graph, layer) and own and layer.region not in together and layer.path not in touched

    touched: set[str] = set()
    for node in graph.nodes():
        found = None if node.region in together else _scaled(graph, node)
        if found is None or node.path in touched:
            continue
        value, by, swap = found
        layer, first = _behind(graph, value, alone)
        if alone(value) and layer is not None and able(layer, touched):
            one = Scaling(node, value, by, swap, layer, first)
        elif alone(node.value()) and able(reader := graph.users(node.value())[0][0], touched):
            one = Scaling(node, value, by, swap, reader)
            if one.moves and _padded(reader):
                continue
        else:
            continue
        touched |= {one.layer.path, node.path}
        yield one


def is_layer(graph: Graph, node: Node) -> bool:
    """Whether an op maps channels with weights, and is no classifier, which who uses the module may exchange."""
    maps = node.op.name == "conv" or (node.op.name == "linear" and node.op.attributes()["axis"] == "c")
    return maps and all(region.kind != "head" for region in graph.region_chain(node.region))


def _scaled(graph: Graph, node: Node) -> tuple[Value, Node | float, bool] | None:
    """(what is scaled or moved, by what, swapped) where the op is such."""
    if node.op.name not in ("add", "sub", "mul", "div"):
        return None
    attributes, operands = node.op.attributes(), [v for v in graph.operands(node) if v is not None]
    number, swap = attributes["by"], bool(attributes["swap"])
    if isinstance(number, int | float):
        return None if swap and node.op.name == "div" else (operands[0], number, swap)
    for (value, other), swap in ((operands, False), (operands[::-1], True)):
        by, t = graph.node(other.node), other.type
        single = t.kind != "scores" and all(d == 1 for i, d in enumerate(t.dims) if i != CHANNEL_AXIS[t.kind])
        if by.op.name in TENSORS and single and value.type.batched and alike(value.type, node.outputs[0]):
            return None if swap and node.op.name == "div" else (value, by, swap)
    return None


def _behind(graph: Graph, value: Value, alone: Callable[[Value], bool]) -> tuple[Node | None, int]:
    """The op that makes the value, or the one whose result it is a part of, and where that part starts."""
    node = graph.node(value.node)
    if node.op.name != "split" or node.op.attributes()["axis"] != "c":
        return node, 0
    (whole,) = graph.operands(node)
    assert whole is not None
    first = sum(int(t.channels) for t in node.outputs[: value.index])
    return (graph.node(whole.node) if alone(whole) else None), first


def _padded(layer: Node) -> bool:
    """Whether a layer reads zeros around its operand, which do not move with it."""
    a = layer.op.attributes()
    return layer.op.name == "conv" and (pair(a["p"] or 0) != (0, 0) or a["pad"] != "zeros")  # type: ignore[arg-type]


@dataclass(frozen=True)
class ScaleIntoLinear(Pass):
    """In deploy mode a conv or linear layer scales and moves channels itself: ConvNeXt's layer scale goes into it."""

    name: ClassVar[str] = "scale_into_linear"
    breaks: ClassVar[tuple[Property, ...]] = (FOLDED, JOINED)

    def __call__(self, graph: Graph) -> Graph:
        return next((after for _, after in reversed(list(turns(graph)))), graph)


def turns(graph: Graph) -> Iterator[tuple[Graph, Graph]]:
    """Graphs before and after: a layer takes in one op at a time."""
    while True:
        draft = Draft(graph)
        for one in scalings(graph):
            draft.use(one.value, instead_of=one.node.value())
            if one.moves:
                _with_bias(graph, draft, one.layer)
        draft.sweep()
        after = draft.done()
        if after is graph:
            return
        yield graph, after
        graph = after


def _with_bias(graph: Graph, draft: Draft, layer: Node) -> None:
    op = op_of(layer).replace(bias=True)
    weights = [(w, f"{layer.module}.{w.role}") for w in op.weights(*graph.operand_types(layer))]
    made = [Parameter(p, tuple(int(n) for n in w.shape), w.init, w.kind) for w, p in weights if p not in graph.params]
    draft.swap(replace(layer, op=op, params=tuple((w.role, p) for w, p in weights)), made)
