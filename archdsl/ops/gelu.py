"""gelu: x times the normal distribution function of x (1606.08415)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Gelu(Pointwise):
    """X times the normal distribution function of x (1606.08415)."""

    expr: ClassVar[str] = "F.gelu({x})"
    slots: ClassVar[int] = 26

    def of_number(self, value: float) -> float:
        return value * 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))
