"""Turns a graph into what transforms need to know of its weights beyond their shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archdsl.ir.graph import Graph, Node
from archdsl.ir.types import TensorType
from archdsl.ops.rel_lookup import RelLookup, relative_extent
from archdsl.weights.transforms import Geometry

_SAME_PICTURE = ("resize", "windows", "pad", "avg_pool", "identity")
"""Ops after which the channels are still the image's."""
MOST_PREFIX = 4
"""Class, distillation and register tokens that may stand before the positions of a map."""


def geometry(graph: Graph) -> dict[str, Geometry]:
    """By weight path; paths of which nothing is known are left out."""
    heads = _heads(graph)
    grids = _grids(graph)
    logits = {p for value in graph.outputs for _, p in graph.node(value.node).params}
    out: dict[str, Geometry] = {}
    for node in graph.weight_nodes():
        attributes = node.op.attributes()
        conv = node.op.name in ("conv", "dwconv")
        for _, path in node.params:
            found = Geometry(
                heads=heads.get(node.region, 0),
                table=_table(graph, node),
                grid=_grid(graph.params[path].shape, grids),
                image=conv and _reads_image(graph, node),
                patch=conv and _pair(attributes.get("k")) == _pair(attributes.get("s", 1)),
                classifier=path in logits,
            )
            if found != Geometry():
                out[path] = found
    return out


def _heads(graph: Graph) -> dict[int, int]:
    """Heads of the attention in each region, where there is one number of them."""
    found: dict[int, set[int]] = {}
    for node in graph.nodes():
        heads = node.op.attributes().get("heads")
        if node.op.name in ("attend", "scores") and isinstance(heads, int):
            found.setdefault(node.region, set()).add(heads)
    return {region: n.pop() for region, n in found.items() if len(n) == 1}


def _table(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Rows and columns of relative positions, where the node's value is what `rel_lookup` looks up in."""
    for value in node.values:
        for user, slot in graph.users(value):
            if isinstance(user.op, RelLookup) and slot == 0:
                types = [t for t in graph.operand_types(user)[1:] if t is not None]
                rows, columns = relative_extent(types[0], types[-1], user.op.s, user.op.signed)
                return int(rows), int(columns)
    return None


def _grids(graph: Graph) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Sizes of the maps that become tokens, and of all maps, in the graph's order."""
    flattened = (t for n in graph.nodes() if n.op.name == "tokens" for t in graph.operand_types(n))
    every = (t for n in graph.nodes() for t in n.outputs)
    return list(dict.fromkeys(_sizes(flattened))), list(dict.fromkeys(_sizes(every)))


def _sizes(types: Iterator[TensorType | None]) -> Iterator[tuple[int, int]]:
    for t in types:
        if t is not None and t.kind == "map":
            yield int(t.size[0]), int(t.size[1])


def _grid(shape: tuple[int, ...], grids: Sequence[Sequence[tuple[int, int]]]) -> tuple[int, int] | None:
    """The map that a parameter [N, C] has a row for each position of, perhaps after a few rows for other tokens."""
    if len(shape) != 2:
        return None
    fits = (
        (h, w)
        for sizes in grids
        for prefix in range(MOST_PREFIX + 1)
        for h, w in sizes
        if h * w > MOST_PREFIX and h * w + prefix == shape[0]
    )
    return next(fits, None)


def _reads_image(graph: Graph, node: Node) -> bool:
    at = node
    while True:
        operand = graph.operands(at)[0]
        if operand is None:
            return False
        if operand in graph.inputs:
            return True
        at = graph.node(operand.node)
        if at.op.name not in _SAME_PICTURE:
            return False


def _pair(size: object) -> object:
    return (size, size) if isinstance(size, int) else size
