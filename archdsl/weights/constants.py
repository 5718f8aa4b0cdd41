"""Turns ops on parameters into the tensors that they compute in float64, and into the indices that they read by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from archdsl.backends.torch.alone import bench, results, shape_of
from archdsl.ir.graph import Graph, Node, Value
from archdsl.ops.base import op_of
from archdsl.ops.rel_lookup import RelLookup

if TYPE_CHECKING:
    from torch import Tensor, dtype


def computed(graph: Graph, values: Iterable[Value], state: Mapping[str, Tensor]) -> dict[Value, Tensor]:
    """The values, which no sample decides, in the types of the weights that they are made of.

    What ops read of the samples is its size alone, so zeros stand for it.
    """
    import torch

    wanted = dict.fromkeys(values)
    known: dict[Value, Tensor] = {}
    precision: dict[str, dtype] = {}
    with bench() as room, torch.no_grad():
        for node in _above(graph, wanted):
            weights = {"op" + (f".{role}" if role else ""): state[path] for role, path in node.params}
            operands = [v for v in graph.operands(node) if v is not None]
            kinds = [w.dtype for w in weights.values() if w.is_floating_point()]
            kinds += [precision[v.node] for v in operands if v.node in precision]
            if kinds:
                precision[node.path] = kinds[0]
            op = op_of(node)
            module = room.module(op, graph.operand_types(node), op.axes[0]).double().eval()
            module.load_state_dict(weights)
            zero = torch.zeros(1, dtype=torch.float64)
            given = [zero.expand(shape_of(v.type, op.axes[0], 1)) if v.type.batched else known[v] for v in operands]
            known |= zip(node.values, results(module(*given), node.outputs), strict=True)
        return {v: known[v].to(precision[v.node]) for v in wanted}


def rows_read(graph: Graph, path: str) -> Tensor | None:
    """Which row of a table of relative positions each query and key read; None where the weight is no such table."""
    import torch

    users = (
        user for node in graph.weight_nodes() if path in dict(node.params).values() for user in _readers(graph, node)
    )
    lookup = next(users, None)
    if lookup is None:
        return None
    rows, heads = graph.params[path].shape
    numbers = torch.arange(rows, dtype=torch.float64)[:, None].expand(rows, heads)
    (scores,) = lookup.values
    return computed(graph, [scores], {path: numbers})[scores][0].long()


def _readers(graph: Graph, table: Node) -> list[Node]:
    """The lookups in the node's value."""
    return [u for v in table.values for u, slot in graph.users(v) if isinstance(u.op, RelLookup) and slot == 0]


def _above(graph: Graph, values: Iterable[Value]) -> list[Node]:
    """The ops that make the values, in order."""
    found, ahead = set[str](), [v.node for v in values]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            operands = graph.operands(graph.node(path))
            ahead += [v.node for v in operands if v is not None and not v.type.batched]
    return [n for n in graph.nodes() if n.path in found]
