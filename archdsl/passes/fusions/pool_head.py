"""pool_head: the mean of a map, and the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.ops.base import op_of
from archdsl.ops.linear import Linear
from archdsl.ops.pool_head import PoolHead as Kernel
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import Rule, chain, first, of_role, role, too_wide

SPAN = 32
"""Channels of the result of a program, each of which reads the map again."""
WIDE = 2048
"""Channels of a mean that a program holds."""


@dataclass(frozen=True)
class PoolHead(Rule):
    """Mean, norm and classifier of a sample at once: it saves launches, which counts for small batches.

    Each sample's programs read the classifier's weights again, and the map once for every few classes. Its ops stay as
    they are, for a head also gives what is before its classifier: the mean alone is marked.
    """

    name: ClassVar[str] = "pool_head"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        tail = "norm|bn? pointwise"
        if role(graph, node) in ("norm", "bn"):
            return chain(graph, node, f"mean {tail}")
        return chain(graph, node, tail) if role(graph, node) == "mean" else None

    def beyond(self, graph: Graph, paths: Sequence[str]) -> str:
        nodes = [graph.node(path) for path in paths]
        x, last = graph.operand_types(nodes[0])[0], nodes[-1]
        region = graph.region_chain(nodes[0].region)[-1]
        assert x is not None
        odd = next((n.op.name for n in nodes if n.op.name not in ("gap", "ln", "bn", "linear")), "")
        classes = graph.statics.get("classes")
        return first(
            f"its kernel does not compute `{odd}`" if odd else "",
            "a head gives its features as well, which are normed ahead" if nodes[0].op.name != "gap" else "",
            "" if x.batched and not x.frames else "it is not the mean of whole samples",
            ""
            if region.kind == "head" and {n.region for n in nodes} == {region.id}
            else "its kernel is that of a head",
            ""
            if (last.value(),) == graph.outputs and last.outputs[0].channels == classes
            else "its classifier's logits are not all that a network gives",
            too_wide(int(x.channels), WIDE),
        )

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        draft.swap(replace(graph.node(paths[0]), op=Kernel()))

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        layer, mean = next(of_role(graph, paths, "pointwise")), next(of_role(graph, paths, "mean"))
        op, (x,) = op_of(layer), graph.operand_types(mean)
        assert x is not None
        programs = -(-int(op.dim) // SPAN) if isinstance(op, Linear) and op.dim is not None else 1
        weights = sum(graph.params[path].elements for _, path in layer.params)
        return Work(elements=weights + (programs - 1) * x.plain().elements, launches=0)
