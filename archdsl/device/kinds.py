"""Turns an op into the kind of work that its multiply-adds are, which decides the unit that does them."""

from __future__ import annotations

from archdsl.ir.graph import Graph
from archdsl.ops.attend import Attend
from archdsl.ops.base import op_of, pair
from archdsl.ops.conv import Conv
from archdsl.ops.linear import Linear
from archdsl.ops.local_mix import LocalMix
from archdsl.ops.local_scores import LocalScores
from archdsl.ops.map_attention import MapAttention
from archdsl.ops.mix import Mix
from archdsl.ops.rel_pos_q import RelPosQ
from archdsl.ops.scores import Scores
from archdsl.ops.window_attention import WindowAttention

KINDS: dict[str, str] = {
    "dense": "convolutions larger than 1x1 that mix channels, grouped ones too",
    "depthwise": "convolutions with one input channel a group",
    "pointwise": "1x1 convolutions and linear layers",
    "attention": "products of queries with keys, or with their positions, and of scores with values",
    "other": "ops from outside",
}
"""What multiply-adds are spent on: every op that has any is of one kind."""

MATRIX = ("dense", "pointwise", "attention")
"""The kinds that matrix units compute."""

_ATTENTION = (Attend, Scores, Mix, LocalScores, LocalMix, RelPosQ, WindowAttention, MapAttention)


def kind_of(graph: Graph, path: str) -> str:
    """Which of KINDS the multiply-adds of an op are."""
    node = graph.node(path)
    op = op_of(node)
    if isinstance(op, Conv):
        x = graph.operand_types(node)[0]
        assert x is not None
        if op.g > 1 and x.channels == op.g:
            return "depthwise"
        return "pointwise" if pair(op.k) == (1, 1) else "dense"
    if isinstance(op, Linear):
        return "pointwise"
    return "attention" if isinstance(op, _ATTENTION) else "other"
