"""div: the quotient of two tensors, or of a tensor and a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops._arithmetic import Arithmetic


@dataclass(frozen=True)
class Div(Arithmetic):
    """a / b element by element, broadcast as docs/language.md says."""

    affine: ClassVar[bool] = True
    symbol: ClassVar[str] = "/"

    def is_affine(self, *types: TensorType | None) -> bool:
        """Division by a number or a parameter is."""
        divisor = types[1] if len(types) > 1 else None
        return not self.swap if divisor is None else not divisor.batched
