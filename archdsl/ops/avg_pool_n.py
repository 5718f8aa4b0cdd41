"""avg_pool_n: the mean of each run of tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, unpadded


@dataclass(frozen=True)
class AvgPoolN(Op):
    """tokens[N, C] -> tokens[N // k, C]: means of `k` successive tokens, an incomplete last run dropped."""

    order: ClassVar[Order] = Order.SENSITIVE

    k: int = attr(doc="tokens in a run", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"k": 4}, (TensorType("tokens", (16, 3)),)),
        Example({"k": 3}, (TensorType("tokens", (11, 3)),)),
        Example({"k": 1}, (TensorType("tokens", (4, 3), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, need(types[0], "tokens", self))
        if self.k > x.dims[0]:
            raise ShapeError(
                f"`avg_pool_n`: runs of {self.k} tokens do not fit {x.short()}",
                code="E-KERNEL",
                attr="k",
                help=f"k is at most {int(x.dims[0])} here",
            )
        return (replace(x, dims=(x.dims[0] // self.k, x.channels)),)

    def torch(self, call: Call) -> Torch | str:
        return Torch("F.avg_pool1d({x}.transpose(-2, -1), {k}).transpose(-2, -1)", "", {"k": self.k})
