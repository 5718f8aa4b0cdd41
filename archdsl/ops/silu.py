"""silu: x * sigmoid(x) (1702.03118)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise
from archdsl.ops.sigmoid import sigmoid


@dataclass(frozen=True)
class Silu(Pointwise):
    """X * sigmoid(x) (1702.03118)."""

    expr: ClassVar[str] = "F.silu({x})"
    slots: ClassVar[int] = 10

    def of_number(self, value: float) -> float:
        return value * sigmoid(value)
