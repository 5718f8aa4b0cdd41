"""Says where a shape came from: the producers along which a value's size or kind changed."""

from __future__ import annotations

from archdsl.diagnostics import Span
from archdsl.ir.graph import Graph, Value
from archdsl.ir.types import AXES

LONGEST = 6


def where_from(graph: Graph, *values: Value) -> tuple[tuple[str, str, Span | None], ...]:
    """(call path, type, span) of the milestones that led to the values' shapes, in the graph's order.

    A milestone changed the size or kind, or made the channels that the value has; channels in between explain nothing.
    """
    steps: dict[str, tuple[str, str, Span | None]] = {}
    for value in values:
        at: Value | None = value
        channels = False
        while at is not None:
            node = graph.node(at.node)
            first = next((v for v in graph.operands(node) if v is not None), None)
            if first is None or _space(first) != _space(at) or (not channels and first.type.dims != at.type.dims):
                steps[node.path] = (node.path, at.type.short(), node.span)
            channels = channels or (first is not None and first.type.dims != at.type.dims)
            at = first
    place = {node.path: i for i, node in enumerate(graph.nodes())}
    found = sorted(steps.values(), key=lambda step: place[step[0]])
    return tuple(found if len(found) <= LONGEST else [found[0], *found[-(LONGEST - 1) :]])


def _space(value: Value) -> object:
    """What of a type is not its channels."""
    t = value.type
    axes = AXES[t.kind]
    return t.kind, tuple(int(n) for n, axis in zip(t.dims, axes, strict=True) if axis != "C"), len(t.frames)
