"""Turns a graph into the numbers that a search compares: each is a sum over its ops."""

from __future__ import annotations

from archdsl.cost import Costs, price
from archdsl.device.kinds import KINDS, kind_of
from archdsl.ir.graph import Graph
from archdsl.ops.base import op_of

COSTS: tuple[str, ...] = ("params", "macs", "timm", "activations", "bytes")
"""What archdsl.cost counts, by the names of its fields."""

METRICS: tuple[str, ...] = (*COSTS, "ops", *(f"macs_{kind}" for kind in KINDS))
"""Names of what `measure` returns. `ops` is the number of ops that move bytes: the kernels of an eager run."""


def measure(graph: Graph, costs: Costs | None = None) -> tuple[float, ...]:
    """The graph's METRICS, in their order: whole numbers, exact up to 2^53. `costs` are its costs, where known."""
    out = dict.fromkeys(METRICS, 0)
    for entry in (costs or price(graph)).ops:
        op = op_of(graph.node(entry.path))
        for name in COSTS:
            out[name] += getattr(entry.cost, name)
        out["ops"] += not op.view
        if entry.cost.macs:
            out[f"macs_{kind_of(graph, entry.path)}"] += entry.cost.macs
    return tuple(float(n) for n in out.values())
