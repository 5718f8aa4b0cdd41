"""l2: the L2 norm over positions, tokens or channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._reduction import Reduction


@dataclass(frozen=True)
class L2(Reduction):
    """The root of the sum of squares over an axis."""

    expr: ClassVar[str] = "torch.linalg.vector_norm({x}, DIMS)"
