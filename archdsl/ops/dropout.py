"""dropout: elements dropped at random (1207.0580)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Torch, attr, need


@dataclass(frozen=True)
class Dropout(Op):
    """Zeroes elements with probability `p` while training, and rescales the others."""

    p: float = attr(0.0, "probability of dropping an element", low=0, high=1)

    training: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (3, 2, 4)),)),
        Example({"p": 0.1}, (TensorType("tokens", (5, 3)),)),
        Example({"p": 0.1}, (TensorType("vec", (3,), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[0], "map|tokens|vec|scores", self),)

    def torch(self, call: Call) -> Torch | str:
        return Torch("{self}({x})", "nn.Dropout({p})", {"p": self.p})
