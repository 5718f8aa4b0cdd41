"""mean_n: the mean token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, need, unpadded


@dataclass(frozen=True)
class MeanN(Op):
    """tokens[N, C] -> tokens[1, C]: the mean over all tokens, kept as a token."""

    order: ClassVar[Order] = Order.REDUCES

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("tokens", (5, 3)),)),
        Example({}, (TensorType("tokens", (5, 3), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, need(types[0], "tokens", self))
        return (replace(x, dims=(1, x.channels)),)

    def torch(self, call: Call) -> Torch | str:
        return Torch("{x}.mean(dim=-2, keepdim=True)")
