"""adaptive_pool: average pooling to a size that is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, pair, unpadded


@dataclass(frozen=True)
class AdaptivePool(Op):
    """The mean of each cell of a grid laid over the map; cells overlap where they do not tile it."""

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("first",)

    size: int | Pair = attr(doc="size of the result", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"size": 2}, (TensorType("map", (3, 5, 8)),)),
        Example({"size": (3, 2)}, (TensorType("map", (3, 6, 7)),)),
        Example({"size": 2}, (TensorType("map", (3, 5, 8), batched=False),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(size=pair(self.size))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, need(types[0], "map", self))
        return (x.with_size(*pair(self.size)),)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return inputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        return Torch("F.adaptive_avg_pool2d({x}, {size})", "", {"size": pair(self.size)})
