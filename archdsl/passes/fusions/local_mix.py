"""local_mix: kernels that were predicted for every position, with the softmax and the scores that they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.local_mix import LocalMix as Mix
from archdsl.ops.local_mix_in_place import LocalMixInPlace
from archdsl.ops.local_scores import LocalScores
from archdsl.ops.local_scores_in_place import LocalScoresInPlace
from archdsl.ops.softmax import Softmax
from archdsl.passes.base import Draft
from archdsl.passes.fusions.base import Rule, first, kept, readers, refused

GROUP = (8, 128)
"""Channels that share a kernel: as many as a load of 16 bytes holds, and as a row of a tile."""


@dataclass(frozen=True)
class LocalMix(Rule):
    """Sums of neighbours by the softmax of scores and a bias (2103.06255, 2502.20087), neighbours read where they lie.

    PyTorch copies each neighbourhood, so that a map is written k * k times, and Inductor leaves the products with it
    to a library. The scores of neighbourhood attention (2204.07143) are a kernel of their own, which writes them.
    """

    name: ClassVar[str] = "local_mix"
    generated: ClassVar[bool] = True

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if not isinstance(node.op, Mix):
            return None
        found = [node]
        while (before := _maker(graph, found[-1])) is not None:
            found.append(before)
        return tuple(n.path for n in reversed(found))

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        nodes = [graph.node(path) for path in paths]
        (a, v), first_op = graph.operand_types(nodes[-1]), nodes[0].op
        assert a is not None and v is not None
        groups = {int(v.channels) // int(a.dims[0])}
        if isinstance(first_op, LocalScores):
            groups.add(int(graph.operands(nodes[0])[0].type.channels) // first_op.heads)  # type: ignore[union-attr]
        odd = next((n for n in groups if not GROUP[0] <= n <= GROUP[1]), 0)
        return first(
            "" if a.batched else "its kernels are no sample's own",
            f"a kernel for {odd} channels is not within {GROUP[0]} to {GROUP[1]}" if odd else "",
            lambda: refused(graph, paths),
        )

    def rewrite(self, graph: Graph, paths: Sequence[str], draft: Draft) -> None:
        nodes = [graph.node(path) for path in paths]
        last = nodes[-1]
        assert isinstance(last.op, Mix)
        if isinstance(nodes[0].op, LocalScores):
            attributes: dict[str, Any] = nodes[0].op.attributes()
            draft.swap(replace(nodes[0], op=LocalScoresInPlace(**attributes)))
            nodes = nodes[1:]
        scores, bias = graph.operands(nodes[0])[0], None
        if nodes[0].op.name == "add":
            scores, bias = _summands(graph, nodes[0])
        softmax = any(isinstance(n.op, Softmax) for n in nodes)
        op = LocalMixInPlace(last.op.k, last.op.edge, softmax)
        draft.swap(replace(last, op=op), operands=[scores, graph.operands(last)[1], bias])
        for node in nodes[:-1]:
            draft.drop(node.path)

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """Scores are written, and read."""
        node = graph.node(paths[0])
        if not isinstance(node.op, LocalScores):
            return Work(launches=0)
        return Work(elements=2 * node.outputs[0].plain().elements)


def _maker(graph: Graph, reader: Node) -> Node | None:
    """The op before one of a chain from scores to sums, where that alone reads it."""
    if isinstance(reader.op, LocalScores):
        return None
    before = _summands(graph, reader)[0] if reader.op.name == "add" else graph.operands(reader)[0]
    if before is None or kept(graph, before) or len(readers(graph, before)) != 1:
        return None
    node = graph.node(before.node)
    if isinstance(node.op, Softmax):
        return node if isinstance(reader.op, Mix) else None
    if node.op.name == "add":
        return node if isinstance(reader.op, Mix | Softmax) and _summands(graph, node)[1] is not None else None
    return node if isinstance(node.op, LocalScores) and node.op.callable else None


def _summands(graph: Graph, add: Node) -> tuple[Value | None, Value | None]:
    """The scores of samples and those for all of them that an op adds, where both have its result's size."""
    values = [v for v in graph.operands(add) if v is not None and v.type.dims == add.outputs[0].dims]
    own = [v for v in values if v.type.batched and v.type.kind == "scores"]
    common = [v for v in values if not v.type.batched and v.type.kind == "scores"]
    return (own[0], common[0]) if len(own) == len(common) == 1 else (None, None)
