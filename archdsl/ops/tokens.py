"""tokens: flattens a map into a sequence in raster order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, need


@dataclass(frozen=True)
class Tokens(Op):
    """map[C, H, W] -> tokens[H * W, C], row after row."""

    order: ClassVar[Order] = Order.SENSITIVE
    view: ClassVar[bool] = True

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({}, (TensorType("map", (6, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        return (TensorType("tokens", (x.positions, x.channels), x.frames, x.batched),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        if not x.batched:
            return Torch("{x}.flatten(1).t()")
        return Torch("{x}.flatten(1, 2)" if call.axes == "last" else "{x}.flatten(2).transpose(1, 2)")
