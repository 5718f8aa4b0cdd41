"""relu: max(x, 0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Relu(Pointwise):
    """Max(x, 0)."""

    expr: ClassVar[str] = "F.relu({x})"

    def of_number(self, value: float) -> float:
        return max(value, 0.0)
