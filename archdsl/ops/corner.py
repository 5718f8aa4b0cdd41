"""corner: the part of a map that its first window covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.sizes import minimum
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, of_samples, pair


@dataclass(frozen=True)
class Corner(Op):
    """The upper left corner of a map, as large as a window: for what asks how large windows are.

    A window that is not clamped has to fit into the map.
    """

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    view: ClassVar[bool] = True
    affine: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    size: int | Pair = attr(doc="window size", low=1)
    clamp: bool = attr(True, "whether a window is never larger than the map")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"size": 4}, (TensorType("map", (6, 8, 12)),)),
        Example({"size": (4, 5)}, (TensorType("map", (6, 7, 3)),)),
        Example({"size": 4, "clamp": False}, (TensorType("map", (6, 8, 4)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(size=pair(self.size))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "map", self))
        sides = list(zip(x.size, pair(self.size), strict=True))
        if not self.clamp and any(n < w for n, w in sides):
            raise ShapeError(f"`corner`: {x.short()} is smaller than a window", code="E-WINDOW", attr="size")
        height, width = (minimum(n, w) if self.clamp else w for n, w in sides)
        return (x.with_size(height, width),)

    def torch(self, call: Call) -> Torch | str:
        height, width = pair(self.size)
        return Torch("{x}[:, :{rows}, :{columns}]", "", {"rows": height, "columns": width})
