"""neg: the negative of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Neg(Pointwise):
    """-x, element by element."""

    ports: ClassVar[tuple[str, ...]] = ("a",)
    affine: ClassVar[bool] = True
    expr: ClassVar[str] = "-{a}"

    def of_number(self, value: float) -> float:
        return -value
