"""tune_norms: a layer and the frozen BatchNorm behind it become one layer, whose weights are scaled as it runs.

Of Efficient ConvBN Blocks for Transfer Learning and Beyond (2305.11624), which calls it tune mode. The gradients are
those of the two ops, and the layer's result, which the norm's backward would need, is never there to be kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.ir.verify import Finding
from archdsl.ops.base import op_of
from archdsl.ops.bn_factors import BnFactors
from archdsl.ops.conv import Conv
from archdsl.ops.scaled_conv import ScaledConv
from archdsl.ops.scaled_linear import ScaledLinear
from archdsl.passes.base import Draft, Pass, Property
from archdsl.passes.fold_norms import pairs


def tunable(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """(layer, norm) pairs where the norm is frozen and the layer in its region, or in a call from there.

    A classifier stays what it is: modules put another in its place.
    """
    for layer, norm in pairs(graph):
        around = graph.region_chain(layer.region)
        head = any(region.kind == "head" for region in around)
        classifies = head and layer.op.name == "linear" and layer.value().type.channels == graph.statics.get("classes")
        if norm.op.attributes()["frozen"] and not classifies and norm.region in (region.id for region in around):
            yield layer, norm


def _untuned(graph: Graph) -> Iterator[Finding]:
    for layer, norm in tunable(graph):
        yield norm.path, f"could scale the weights of %{layer.path}"


TUNED = Property("tuned", "No frozen BatchNorm stands alone behind a layer of its own.", _untuned)


@dataclass(frozen=True)
class TuneNorms(Pass):
    """A conv or linear layer and the frozen BatchNorm behind it become one layer, its weights scaled as it runs."""

    name: ClassVar[str] = "tune_norms"
    gives: ClassVar[tuple[Property, ...]] = (TUNED,)

    def __call__(self, graph: Graph) -> Graph:
        draft, heads = Draft(graph), _heads(graph)
        for layer, norm in tunable(graph):
            inside = [r.id for r in graph.region_chain(layer.region)]
            call = inside[inside.index(norm.region) + 1 :]  # one that the layer is in, and the norm is not
            eps = norm.op.attributes()["eps"]
            assert isinstance(eps, int | float)
            made = BnFactors(layer.value().type.channels, eps)
            factors = draft.put(
                made,
                (),
                made.infer(),
                at=heads[call[0]] if call else layer,
                path=f"{norm.path}.factors",
                region=norm.region,
                module=norm.module,
                params=[(role, graph.params[path]) for role, path in norm.params],
                names=("factors",),
            )
            op = op_of(layer)
            scaled = (ScaledConv if isinstance(op, Conv) else ScaledLinear)(**op.attributes())  # type: ignore[arg-type]
            reads = (*graph.operands(layer), factors.value())
            draft.swap(replace(layer, op=scaled, names=norm.names or layer.names), operands=reads)
            draft.use(layer.value(), instead_of=norm.value())
            draft.drop(norm.path)
        return draft.done()


def _heads(graph: Graph) -> dict[int, Node]:
    """The first node of each region, those of the regions inside it among them."""
    heads: dict[int, Node] = {}
    for node in graph.nodes():
        for region in graph.region_chain(node.region):
            heads.setdefault(region.id, node)
    return heads
