"""local_scores_in_place: products of every query with the keys of its neighbourhood, as one kernel (2204.07143)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ops.base import Call, Torch
from archdsl.ops.local_scores import LocalScores


@dataclass(frozen=True)
class LocalScoresInPlace(LocalScores):
    """What `local_scores` computes, with no copies of the neighbourhoods."""

    callable: ClassVar[bool] = False

    def torch(self, call: Call) -> Torch | str:
        made = super().torch(call)
        assert isinstance(made, Torch)
        expr = made.expr.replace("local_scores(", "local_scores_in_place(")
        return replace(made, expr=expr, helpers=(*made.helpers, "fused/local_scores_in_place"))
