"""log: the natural logarithm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._pointwise import Pointwise


@dataclass(frozen=True)
class Log(Pointwise):
    """The natural logarithm."""

    expr: ClassVar[str] = "torch.log({x})"
    slots: ClassVar[int] = 5

    def of_number(self, value: float) -> float:
        return math.log(value)
