"""softplus: log(1 + exp(x))."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Softplus(Pointwise):
    """Log(1 + exp(x))."""

    expr: ClassVar[str] = "F.softplus({x})"
    slots: ClassVar[int] = 14

    def of_number(self, value: float) -> float:
        return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
