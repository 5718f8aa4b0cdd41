"""add: the sum of two tensors, or of a tensor and a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ops._arithmetic import Arithmetic


@dataclass(frozen=True)
class Add(Arithmetic):
    """a + b, broadcast as docs/language.md says."""

    affine: ClassVar[bool] = True
    symbol: ClassVar[str] = "+"
