"""shuffle: puts tokens into a random order, the same for the whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, need


@dataclass(frozen=True)
class Shuffle(Op):
    """The tokens in an order drawn anew in every call, in training and in eval, and the order (2111.05297)."""

    order: ClassVar[Order] = Order.SENSITIVE

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("tokens", (8, 6)),)),
        Example({}, (TensorType("tokens", (8, 6), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "tokens", self)
        return x, TensorType("vec", (x.dims[0],), batched=False)

    def torch(self, call: Call) -> Torch | str:
        return Torch("shuffle({x})", "", {}, ("shuffle",))
