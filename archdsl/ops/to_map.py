"""to_map: gives tokens a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need


def _way_out(tokens: int) -> str:
    """Sizes of a square map the tokens fill, or how a class token is taken off them."""
    side = math.isqrt(tokens)
    if side * side == tokens:
        return f"{tokens} tokens are a {side}x{side} map: to_map[{side}, {side}](x)"
    side = math.isqrt(tokens - 1)
    first = 'a class token is taken off by cls, p = split[[1, rest], "n"](x)'
    return f"{first}; to_map[{side}, {side}](p) is left" if side * side == tokens - 1 else first


@dataclass(frozen=True)
class ToMap(Op):
    """tokens[h * w, C] in raster order -> map[C, h, w]."""

    order: ClassVar[Order] = Order.SENSITIVE
    view: ClassVar[bool] = True

    h: int = attr(doc="rows", low=1)
    w: int = attr(doc="columns", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"h": 3, "w": 4}, (TensorType("tokens", (12, 6)),)),
        Example({"h": 2, "w": 2}, (TensorType("tokens", (4, 6), (Frame("chunk", (3, 1), (4, 1), (12, 1)),)),)),
        Example({"h": 3, "w": 4}, (TensorType("tokens", (12, 6), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "tokens", self)
        if self.h * self.w != x.dims[0]:
            raise ShapeError(
                f"`to_map`: a {int(self.h)}x{int(self.w)} map needs {int(self.h) * int(self.w)} tokens,"
                f" got {x.short()}",
                code="E-SHAPE",
                port="x",
                help=_way_out(int(x.dims[0])),
            )
        return (TensorType("map", (x.channels, self.h, self.w), x.frames, x.batched),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        numbers = {"h": self.h, "w": self.w}
        if not x.batched:
            return Torch("{x}.t().unflatten(1, ({h}, {w}))", "", numbers)
        first = "" if call.axes == "last" else ".permute(0, 3, 1, 2)"
        return Torch("{x}.unflatten(1, ({h}, {w}))" + first, "", numbers)
