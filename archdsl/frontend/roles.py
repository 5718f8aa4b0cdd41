"""Says what part a def call plays: token mixer, channel mixer, downsampler or stem, from its types and its ops."""

from __future__ import annotations

from archdsl.ir.graph import Graph, Node, Region
from archdsl.ops.base import Order, op_of

STEM, DOWNSAMPLER, TOKEN_MIXER, CHANNEL_MIXER, OTHER = "stem", "downsampler", "token mixer", "channel mixer", "other"


def role(graph: Graph, region: Region) -> str:
    """The role of one call.

    A stem takes the image; a downsampler returns a map with smaller H and W; a mixer returns its first input's
    type, and is a token mixer if a result at one position depends on other positions (MetaFormer, 2111.11418).
    """
    if region.kind != "call" or not region.ports or len(region.results) != 1:
        return OTHER
    given, result = region.ports[0][1], region.results[0]
    if given in graph.inputs:
        return STEM
    maps = given.type.kind == result.type.kind == "map" and given.type.frames == result.type.frames
    if maps and any(a > b for a, b in zip(given.type.size, result.type.size, strict=True)):
        return DOWNSAMPLER
    if given.type != result.type:
        return OTHER
    inside = {region.id}
    for other in graph.regions[region.id + 1 :]:
        if other.parent in inside:
            inside.add(other.id)
    return TOKEN_MIXER if any(mixes(graph, n) for n in graph.nodes() if n.region in inside) else CHANNEL_MIXER


def mixes(graph: Graph, node: Node) -> bool:
    """Whether an op makes positions depend on one another. Statistics of norms do not count, poolings do."""
    order = op_of(node).ordering()
    if order is Order.REDUCES:
        first = next((v for v in graph.operands(node) if v is not None), None)
        return first is not None and first.type.kind != node.outputs[0].kind
    return order in (Order.SENSITIVE, Order.GROUP)
