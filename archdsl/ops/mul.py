"""mul: the product of two tensors, or of a tensor and a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops._arithmetic import Arithmetic


@dataclass(frozen=True)
class Mul(Arithmetic):
    """a * b element by element, broadcast as docs/language.md says."""

    affine: ClassVar[bool] = True
    symbol: ClassVar[str] = "*"

    def is_affine(self, *types: TensorType | None) -> bool:
        """Scaling by a number or a parameter is; the product of two features is not."""
        return sum(t is not None and t.batched for t in types) < 2
