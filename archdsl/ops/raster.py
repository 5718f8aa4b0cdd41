"""raster: moves a spatial axis into the channels, so that a linear map mixes along it (2108.04384)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, divides, need, of_samples


@dataclass(frozen=True)
class Raster(Op):
    """map[r * o, H, W] -> tokens[o * W, r * H] for axis "w", tokens[o * H, r * W] for axis "h".

    `axis` is the one that stays with the tokens; r neighbouring blocks of channels are mixed together.
    """

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)

    axis: str = attr(doc="the axis that stays with the tokens", choices=("h", "w"))
    r: int = attr(doc="how many blocks the channels are cut into", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"axis": "w", "r": 2}, (TensorType("map", (6, 4, 5)),)),
        Example({"axis": "h", "r": 3}, (TensorType("map", (6, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "map", self))
        divides(self, self.r, x.channels, "channels", "r", "E-GROUPS")
        kept, mixed = x.size if self.axis == "h" else x.size[::-1]
        return (TensorType("tokens", (kept * (x.channels // self.r), mixed * self.r), x.frames, grid=x.size),)

    def torch(self, call: Call) -> Torch | str:
        return Torch(f'raster({{x}}, "{self.axis}", {{r}})', "", {"r": self.r}, ("raster",))
