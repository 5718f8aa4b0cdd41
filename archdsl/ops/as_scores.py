"""as_scores: reads the channels of a map as weights of every position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, divides, need, of_samples


@dataclass(frozen=True)
class AsScores(Op):
    """map[heads * n, H, W] -> scores[heads, H * W, n]: predicted kernels."""

    order: ClassVar[Order] = Order.SENSITIVE
    view: ClassVar[bool] = True

    heads: int = attr(doc="number of heads", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2}, (TensorType("map", (18, 4, 5)),)),
        Example({"heads": 3}, (TensorType("map", (6, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "map", self))
        divides(self, self.heads, x.channels, "channels", "heads", "E-HEADS")
        return (TensorType("scores", (self.heads, x.positions, x.channels // self.heads), x.frames, grid=x.size),)

    def torch(self, call: Call) -> Torch | str:
        if call.axes == "last":
            return Torch("{x}.flatten(1, 2).unflatten(-1, ({heads}, -1)).transpose(1, 2)", "", {"heads": self.heads})
        return Torch("{x}.flatten(2).unflatten(1, ({heads}, -1)).transpose(2, 3)", "", {"heads": self.heads})
