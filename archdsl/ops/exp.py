"""exp: e to the power x."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Exp(Pointwise):
    """E to the power x."""

    expr: ClassVar[str] = "torch.exp({x})"
    slots: ClassVar[int] = 4

    def of_number(self, value: float) -> float:
        return math.exp(value)
