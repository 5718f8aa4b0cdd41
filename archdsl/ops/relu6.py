"""relu6: min(max(x, 0), 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Relu6(Pointwise):
    """Min(max(x, 0), 6)."""

    expr: ClassVar[str] = "F.relu6({x})"

    def of_number(self, value: float) -> float:
        return min(max(value, 0.0), 6.0)
