"""window_attention: attention in windows, and the moves of positions around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from archdsl.device.model import Work
from archdsl.ir.graph import Graph, Node
from archdsl.ops.attend import Attend
from archdsl.ops.base import op_of
from archdsl.ops.rel_pos_q import RelPosQ
from archdsl.passes.attend_in_place import SIDE, by_position
from archdsl.passes.fusions.base import ROW, Rule, chain, first, readers, refused, role

HEAD = (8, 128)
"""Channels of a head: as many as a matrix unit takes at once, and as a row of a tile holds."""
AHEAD = ("cut", "windows", "zero", "split", "l2norm")


@dataclass(frozen=True)
class WindowAttention(Rule):
    """Attention whose tile is a window and a head: cutting is an index in its loads, merging one in its store.

    The mask of a shift is computed from the positions instead of read. The bias is looked up before: it is of the
    weights alone, so no sample waits for it. A bias that queries add by rows and columns of keys (2112.01526) is two
    small products before it, and is never written; that also where nothing is cut. FasterTransformer's Swin and
    FlashWindowAttention (2501.06480) have such kernels for windows that were cut before.
    """

    name: ClassVar[str] = "window_attention"
    made_by: ClassVar[str] = "attend_in_place"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        if not isinstance(node.op, Attend):
            return None
        positions = by_position(graph, node)
        if positions is None and not node.outputs[0].frames:
            return None
        found = {node.path: node}
        ahead = [v for v in graph.operands(node) if v is not None]
        while ahead:
            before = graph.node(ahead.pop().node)
            after = [n for v in before.values if v.type.kind != "frame" for n in readers(graph, v)]
            taken = role(graph, before) in AHEAD or (positions is not None and before.path == positions.path)
            if before.path not in found and taken and all(n.path in found for n in after):
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
        positions = by_position(graph, node)
        most, side = max(int(q.positions), int(k.positions)), max(map(int, k.size))
        return first(
            f"a head of {odd} channels is not within {HEAD[0]} to {HEAD[1]}" if odd else "",
            f"{most} positions of a window are too many for a tile ({ROW})" if most > ROW and not positions else "",
            f"keys in {side} rows or columns are too many for a tile ({SIDE})" if positions and side > SIDE else "",
            lambda: refused(graph, paths),
        )

    def again(self, graph: Graph, paths: Sequence[str]) -> Work:
        """What queries add for rows and columns of keys is written, read, and looked up by products with ones.

        Where a row of keys is a tile, it is added as it stands.
        """
        found = next((n for n in map(graph.node, paths) if isinstance(n.op, RelPosQ)), None)
        if found is None:
            return Work(launches=0)
        q, k = graph.operand_types(found)[:2]
        assert q is not None and k is not None and isinstance(found.op, RelPosQ)
        queries, sides = found.op.heads * q.cells * int(q.positions), sum(map(int, k.size))
        aligned = int(k.size[1]) == SIDE and k.frames == q.frames
        ones = 0 if aligned else queries * int(k.positions) * sides
        return Work(matrix=ones, elements=2 * queries * sides, launches=2)
