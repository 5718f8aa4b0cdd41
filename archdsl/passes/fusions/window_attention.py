"""window_attention: attention in windows, and the moves of positions around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Graph, Node
from archdsl.ops.attend import Attend
from archdsl.ops.base import op_of
from archdsl.passes.fusions.base import ROW, Rule, chain, first, readers, refused, role

HEAD = (8, 128)
"""Channels of a head: as many as a matrix unit takes at once, and as a row of a tile holds."""
AHEAD = ("cut", "windows", "zero", "split", "l2norm")


@dataclass(frozen=True)
class WindowAttention(Rule):
    """Attention whose tile is a window and a head: cutting is an index in its loads, merging one in its store.

    The mask of a shift is computed from the positions instead of read. The bias is looked up before: it is of the
    weights alone, so no sample waits for it. FasterTransformer's Swin and FlashWindowAttention (2501.06480) have such
    kernels for windows that were cut before.
    """

    name: ClassVar[str] = "window_attention"
    made_by: ClassVar[str] = "attend_in_place"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if not isinstance(node.op, Attend) or not node.outputs[0].frames:
            return None
        found = {node.path: node}
        ahead = [v for v in graph.operands(node) if v is not None]
        while ahead:
            before = graph.node(ahead.pop().node)
            after = [n for v in before.values if v.type.kind != "frame" for n in readers(graph, v)]
            if before.path not in found and role(graph, before) in AHEAD and all(n.path in found for n in after):
                found[before.path] = before
                ahead += [v for n in found.values() for v in graph.operands(n) if v is not None]
        tail = chain(graph, node, "merge?")
        assert tail is not None
        return (*reversed(found), *tail[1:])

    def check(self, graph: Graph, paths: Sequence[str]) -> str:
        node = next(n for n in map(graph.node, paths) if isinstance(n.op, Attend))
        op, (q, k, v) = op_of(node), graph.operand_types(node)[:3]
        assert isinstance(op, Attend) and q is not None and k is not None and v is not None
        widths = [int(t.channels) // op.heads for t in (q, v)]
        odd = next((w for w in widths if not HEAD[0] <= w <= HEAD[1]), 0)
        most = max(int(q.positions), int(k.positions))
        return first(
            f"a head of {odd} channels is not within {HEAD[0]} to {HEAD[1]}" if odd else "",
            f"{most} positions of a window are too many for a tile ({ROW})" if most > ROW else "",
            lambda: refused(graph, paths),
        )
