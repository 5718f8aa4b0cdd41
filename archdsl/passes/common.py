"""common: what one region computes twice, it computes once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.ir.text import static_text
from archdsl.ir.verify import Finding
from archdsl.ops.base import op_of
from archdsl.passes.base import Draft, Pass, Property


def again(graph: Graph, draft: Draft) -> Iterator[tuple[Node, Node]]:
    """(earlier, later) ops of one region that compute the same from the same values, as the draft has them.

    Ops with weights are told apart by them, random ops never agree, and parameters are each their own.
    """
    known: dict[object, Node] = {}
    images = {value.node for value in graph.inputs}
    for node in graph.nodes():
        if node.params or op_of(node).training or node.path in images:
            continue
        operands = tuple(None if v is None else draft.now(v) for v in graph.operands(node))
        if operands:
            same = (node.region, node.op.name, static_text(tuple(node.op.attributes().items())), operands)
            first = known.setdefault(same, node)
            if first is not node:
                yield first, node


def _twice(graph: Graph) -> Iterator[Finding]:
    for first, node in again(graph, Draft(graph)):
        yield node.path, f"computes what %{first.path} has computed"


DISTINCT = Property("distinct", "No two ops of a region compute the same from the same values.", _twice)


@dataclass(frozen=True)
class Common(Pass):
    """Ops of one region that compute the same from the same values become one (NASNet pools its inputs twice)."""

    name: ClassVar[str] = "common"
    gives: ClassVar[tuple[Property, ...]] = (DISTINCT,)

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        for first, node in again(graph, draft):
            for mine, theirs in zip(first.values, node.values, strict=True):
                draft.use(mine, instead_of=theirs)
            draft.drop(node.path)
        return draft.done()
