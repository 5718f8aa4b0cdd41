"""to_map: gives tokens a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need
from archdsl.ops.rel_lookup import size_source


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
    """tokens[h * w, C] in raster order -> map[C, h, w]. The size of the map `like` is read at run time."""

    ports: ClassVar[tuple[str, ...]] = ("x", "like?")
    order: ClassVar[Order] = Order.SENSITIVE
    view: ClassVar[bool] = True

    h: int | None = attr(None, "rows; none is those of `like`", low=1)
    w: int | None = attr(None, "columns; none is those of `like`", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"h": 3, "w": 4}, (TensorType("tokens", (12, 6)),)),
        Example({"h": 2, "w": 2}, (TensorType("tokens", (4, 6), (Frame("chunk", (3, 1), (4, 1), (12, 1)),)),)),
        Example({"h": 3, "w": 4}, (TensorType("tokens", (12, 6), batched=False),)),
        Example({}, (TensorType("tokens", (12, 6)), TensorType("map", (8, 3, 4)))),
        Example({}, (TensorType("tokens", (12, 6), batched=False), TensorType("map", (8, 3, 4)))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "tokens", self)
        like = types[1] if len(types) > 1 else None
        if like is not None and self.h is None and self.w is None:
            h, w = need(like, "map", self, "like").size
        elif like is None and self.h is not None and self.w is not None:
            h, w = self.h, self.w
        else:
            raise ShapeError(
                "`to_map` needs rows and columns, or a map whose size it takes"
                if like is None
                else "`to_map` has two sizes",
                code="E-ATTR",
                attr="w" if like is None and self.h is not None else "h",
                help="write to_map[h, w](x), or to_map(x, like)",
            )
        if h * w != x.dims[0]:
            raise ShapeError(
                f"`to_map`: a {int(h)}x{int(w)} map needs {int(h) * int(w)} tokens, got {x.short()}",
                code="E-SHAPE",
                port="x",
                help=_way_out(int(x.dims[0])),
            )
        return (TensorType("map", (x.channels, h, w), x.frames, x.batched),)

    def torch(self, call: Call) -> Torch | str:
        x, like = call.inputs[0], call.inputs[1] if call.has(1) else None
        assert x is not None
        size = "({h}, {w})" if like is None else size_source("like", like, call.axes)
        numbers: dict[str, Static] = {} if like is not None else {"h": self.h, "w": self.w}
        if not x.batched:
            return Torch(f"{{x}}.t().unflatten(1, {size})", "", numbers)
        first = "" if call.axes == "last" else ".permute(0, 3, 1, 2)"
        return Torch(f"{{x}}.unflatten(1, {size})" + first, "", numbers)
