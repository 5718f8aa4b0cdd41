"""resize: interpolates maps to a size that is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, pair
from archdsl.ops.rel_lookup import size_source


@dataclass(frozen=True)
class Resize(Op):
    """Interpolates to `size`, or to the size of the map `like`, without smoothing first.

    Pixels are areas unless `align_corners`. The size of `like` is read at run time.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "like?")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("first",)

    size: int | Pair | None = attr(None, "size of the result; none is that of `like`", low=1)
    mode: str = attr("bilinear", "interpolation", choices=("bilinear", "bicubic", "nearest"))
    align_corners: bool = attr(False, "corner pixels keep their centres")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"size": (6, 9)}, (TensorType("map", (3, 5, 8)),)),
        Example({"size": 4, "mode": "bicubic"}, (TensorType("map", (3, 5, 8)),)),
        Example({"size": 7, "mode": "nearest"}, (TensorType("map", (3, 5, 8)),)),
        Example({"size": 7, "align_corners": True}, (TensorType("map", (3, 5, 8), batched=False),)),
        Example({}, (TensorType("map", (3, 5, 8)), TensorType("map", (6, 10, 16)))),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self if self.size is None else self.replace(size=pair(self.size))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        like = types[1] if len(types) > 1 else None
        if (like is None) == (self.size is None):
            raise ShapeError(
                "`resize` needs a size, or a map whose size it takes" if like is None else "`resize` has two sizes",
                code="E-ATTR",
                attr="size",
                help="write resize[size](x), or resize(x, like)",
            )
        if self.align_corners and self.mode == "nearest":
            raise ShapeError(
                '`resize`: align_corners has no meaning where mode = "nearest"',
                code="E-ATTR",
                attr="align_corners",
                help='leave it out, or use mode = "bilinear"',
            )
        size = need(like, "map", self, "like").size if self.size is None else pair(self.size)
        return (x.with_size(*size),)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return {"bilinear": 4, "nearest": 1, "bicubic": 0}[self.mode] * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        operand, back = ("{x}", "") if x.batched else ("{x}[None]", "[0]")
        corners = ", align_corners=True" if self.align_corners else ""
        like = call.inputs[1] if call.has(1) else None
        size = "{size}" if like is None else size_source("like", like, call.axes)
        expr = f'F.interpolate({operand}, size={size}, mode="{self.mode}"{corners}){back}'
        return Torch(expr, "", {"size": pair(self.size)} if self.size is not None else {})
