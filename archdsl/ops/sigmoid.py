"""sigmoid: 1 / (1 + exp(-x))."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Sigmoid(Pointwise):
    """1 / (1 + exp(-x))."""

    expr: ClassVar[str] = "torch.sigmoid({x})"
    slots: ClassVar[int] = 9

    def of_number(self, value: float) -> float:
        return sigmoid(value)


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), without overflow on either side."""
    small = math.exp(-abs(value))
    return 1.0 / (1.0 + small) if value >= 0 else small / (1.0 + small)
