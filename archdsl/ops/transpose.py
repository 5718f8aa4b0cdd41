"""transpose: turns channels into tokens, so that what works on tokens works on channels (2106.09681, 2105.01601)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, need, unpadded


@dataclass(frozen=True)
class Transpose(Op):
    """tokens[N, C], or map[C, H, W] with H * W = N, -> tokens[C, N]: channels and positions trade places."""

    order: ClassVar[Order] = Order.SENSITIVE
    view: ClassVar[bool] = True

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("tokens", (5, 6)),)),
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({}, (TensorType("tokens", (5, 4), (Frame("head", (2, 1), (1, 1), (2, 1)),)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({}, (TensorType("tokens", (5, 6), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, need(types[0], "map|tokens", self))
        return (TensorType("tokens", (x.channels, x.positions), x.frames, x.batched),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        if x.kind == "tokens":
            return Torch("{x}.transpose(-2, -1)")
        if not x.batched or call.axes == "first":
            return Torch("{x}.flatten(-2)")
        return Torch("{x}.flatten(1, 2).transpose(1, 2)")
