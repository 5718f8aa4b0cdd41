"""tanh: the hyperbolic tangent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Tanh(Pointwise):
    """The hyperbolic tangent."""

    expr: ClassVar[str] = "torch.tanh({x})"
    slots: ClassVar[int] = 11

    def of_number(self, value: float) -> float:
        return math.tanh(value)
