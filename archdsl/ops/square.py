"""square: x * x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Square(Pointwise):
    """X * x."""

    expr: ClassVar[str] = "torch.square({x})"

    def of_number(self, value: float) -> float:
        return value * value
