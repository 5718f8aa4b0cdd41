"""input: the image a graph starts from; written `input img: map[3, 224, 224]`, never called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Op


@dataclass(frozen=True)
class Input(Op):
    """A graph input. Its type is given where it is made, so `infer` has nothing to say."""

    ports: ClassVar[tuple[str, ...]] = ()
    view: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return ()
