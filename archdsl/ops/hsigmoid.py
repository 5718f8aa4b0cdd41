"""hsigmoid: relu6(x + 3) / 6 (1905.02244)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Hsigmoid(Pointwise):
    """Relu6(x + 3) / 6 (1905.02244)."""

    expr: ClassVar[str] = "F.hardsigmoid({x})"
    slots: ClassVar[int] = 3

    def of_number(self, value: float) -> float:
        return min(max(value + 3.0, 0.0), 6.0) / 6.0
