"""mean: the mean over positions, tokens or channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._reduction import Reduction


@dataclass(frozen=True)
class Mean(Reduction):
    """The mean over an axis."""

    expr: ClassVar[str] = "{x}.mean(DIMS)"
