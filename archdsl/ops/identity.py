"""identity: the value itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Identity(Pointwise):
    """The value itself."""

    affine: ClassVar[bool] = True
    view: ClassVar[bool] = True
    expr: ClassVar[str] = "{x}"

    def of_number(self, value: float) -> float:
        return value
