"""gelu_tanh: the tanh approximation of gelu (1606.08415)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class GeluTanh(Pointwise):
    """The tanh approximation of gelu (1606.08415)."""

    expr: ClassVar[str] = 'F.gelu({x}, approximate="tanh")'
    slots: ClassVar[int] = 16

    def of_number(self, value: float) -> float:
        return value * 0.5 * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (value + 0.044715 * value**3)))
