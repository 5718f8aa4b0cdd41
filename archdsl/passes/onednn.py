"""onednn: layers that map channels position by position run as the convolutions that CPUs compute fastest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import Op
from archdsl.ops.conv import Conv
from archdsl.ops.linear import Linear
from archdsl.ops.onednn_conv import OnednnConv, pointwise
from archdsl.ops.onednn_linear import OnednnLinear
from archdsl.passes.base import Draft, Pass

LEAST = 20480
"""Elements above which torch gives a single image to oneDNN; what has fewer, and no groups, gets a slow kernel."""


@dataclass(frozen=True)
class Onednn(Pass):
    """Linear layers of large maps and tokens, and 1x1 convolutions, are run by oneDNN on CPUs, on one thread as well.

    torch leaves them to a product of matrices, which takes up to twice as long where it knows the processor less well.
    """

    name: ClassVar[str] = "onednn"

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        uses = Counter(path for node in graph.weight_nodes() for _, path in node.params)
        for node in graph.weight_nodes():
            alone = all(uses[path] == 1 for _, path in node.params)
            if alone and (op := _instead(graph, node)) is not None:
                draft.swap(replace(node, op=op))
        return draft.done()


def _instead(graph: Graph, node: Node) -> Op | None:
    """The op that maps channels as this one does, if it does; a classifier stays what who uses the module expects."""
    op = node.op
    if not isinstance(op, Linear | Conv) or any(region.kind == "head" for region in graph.region_chain(node.region)):
        return None
    x = graph.operand_types(node)[0]
    assert x is not None
    if type(op) is Conv and pointwise(op) and (op.g > 1 or x.elements > LEAST):
        return OnednnConv(**op.attributes())  # type: ignore[arg-type]
    if type(op) is Linear and op.axis == "c" and x.kind in ("map", "tokens") and x.batched and x.elements > LEAST:
        return OnednnLinear(**op.attributes())  # type: ignore[arg-type]
    return None
