"""packed: CPUs compute a layer and the activation behind it in one call, which finds the weight in its own order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import Op
from archdsl.ops.conv import Conv
from archdsl.ops.linear import Linear
from archdsl.ops.onednn_conv import OnednnConv
from archdsl.ops.onednn_linear import OnednnLinear
from archdsl.ops.packed_conv import ACTIVATIONS, PackedConv
from archdsl.ops.packed_linear import PackedLinear
from archdsl.passes.base import Draft, Pass, shared


@dataclass(frozen=True)
class Packed(Pass):
    """In deploy mode CPUs run conv and linear layers by oneDNN, maps channels last, the weights in its own order."""

    name: ClassVar[str] = "packed"

    def __call__(self, graph: Graph) -> Graph:
        if graph.mode != "deploy":
            return graph
        draft = Draft(graph)
        uses = Counter(path for node in graph.weight_nodes() for _, path in node.params)
        together = shared(graph)
        kept = {*graph.outputs, *(f.value for f in graph.features)}
        for node in graph.weight_nodes():
            single = all(uses[path] == 1 for _, path in node.params) and node.region not in together
            if not single or (op := _instead(graph, node)) is None:
                continue
            after = None if node.value() in kept else _behind(graph, node)
            draft.swap(replace(node, op=op if after is None else op.replace(act=after.op.name)))
            if after is not None:
                draft.use(node.value(), instead_of=after.value())
        draft.sweep()
        return draft.done()


def _instead(graph: Graph, node: Node) -> Op | None:
    """The op that maps as this one does; a classifier stays what who uses the module expects."""
    op = node.op
    if not isinstance(op, Conv | Linear) or any(region.kind == "head" for region in graph.region_chain(node.region)):
        return None
    x = graph.operand_types(node)[0]
    assert x is not None
    if isinstance(op, Conv) and type(op) in (Conv, OnednnConv) and op.padding() is not None:
        return PackedConv(**op.attributes())  # type: ignore[arg-type]
    if (
        isinstance(op, Linear)
        and type(op) in (Linear, OnednnLinear)
        and op.axis == "c"
        and x.batched
        and x.kind != "vec"
    ):
        return PackedLinear(**op.attributes())  # type: ignore[arg-type]
    return None


def _behind(graph: Graph, node: Node) -> Node | None:
    """The activation that alone reads the layer, in a region the layer stands in: no stage takes in the next one's."""
    users = graph.users(node.value())
    if len(users) != 1:
        return None
    after = users[0][0]
    within = any(region.id == after.region for region in graph.region_chain(node.region))
    return after if after.op.name in ACTIVATIONS and within else None
