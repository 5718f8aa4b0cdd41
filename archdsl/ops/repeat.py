"""repeat: each element of a vec several times in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Torch, attr, need


@dataclass(frozen=True)
class Repeat(Op):
    """vec[C] -> vec[C * n], a b -> a a b b: a number per head becomes a number per channel."""

    affine: ClassVar[bool] = True

    n: int = attr(doc="how many times", low=1, high=1 << 16)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"n": 4}, (TensorType("vec", (3,), batched=False),)),
        Example({"n": 2}, (TensorType("vec", (5,)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "vec", self)
        return (x.with_channels(x.channels * self.n),)

    def torch(self, call: Call) -> Torch | str:
        return Torch("{x}.repeat_interleave({n}, dim=-1)", "", {"n": self.n})
