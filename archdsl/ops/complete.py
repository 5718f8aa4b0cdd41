"""complete: rows and columns of zeros up to whole windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.sizes import ceil_div, minimum
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, of_samples, pair
from archdsl.ops.windows import window_source


@dataclass(frozen=True)
class Complete(Op):
    """Adds rows below and columns on the right, of zeros, until windows of `size` tile the map.

    What is computed at these positions is what windows that were padded hold there: of a linear layer, its bias.
    """

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    affine: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    size: int | Pair = attr(doc="window size", low=1)
    clamp: bool = attr(True, "whether a window is never larger than the map")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"size": 4}, (TensorType("map", (6, 8, 12)),)),
        Example({"size": (4, 5)}, (TensorType("map", (6, 7, 3)),)),
        Example({"size": 4, "clamp": False}, (TensorType("map", (6, 3, 5)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(size=pair(self.size))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "map", self))
        sides = (
            ceil_div(n, w) * (minimum(n, w) if self.clamp else w) for n, w in zip(x.size, pair(self.size), strict=True)
        )
        height, width = sides
        return (x.with_size(height, width),)

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return int(inputs[0] is not None and inputs[0].size != outputs[0].size)

    def torch(self, call: Call) -> Torch | str:
        x = need(call.inputs[0], "map", self)
        fixed = "" if self.clamp else ", clamp=False"
        return Torch(f"complete({{x}}, {{size}}{fixed})", "", {"size": window_source(self.size, x.size)}, ("complete",))
