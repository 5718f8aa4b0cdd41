"""unraster: undoes a raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, of_samples


@dataclass(frozen=True)
class Unraster(Op):
    """Tokens from `raster` with the same arguments -> the map they came from."""

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)

    axis: str = attr(doc="the axis that stayed with the tokens", choices=("h", "w"))
    r: int = attr(doc="how many blocks the channels were cut into", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"axis": "w", "r": 2}, (TensorType("tokens", (15, 8), grid=(4, 5)),)),
        Example({"axis": "h", "r": 3}, (TensorType("tokens", (8, 15), grid=(4, 5)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "tokens", self))
        if x.grid is None:
            raise ShapeError(
                f"`unraster`: {x.short()} does not come from a raster",
                code="E-SHAPE",
                port="x",
                help="raster a map first",
            )
        kept, mixed = x.grid if self.axis == "h" else x.grid[::-1]
        if x.channels != mixed * self.r or x.dims[0] % kept:
            raise ShapeError(
                f"`unraster`: {x.short()} does not come from a {int(x.grid[0])}x{int(x.grid[1])} map"
                f' by raster["{self.axis}", {self.r}]',
                code="E-SHAPE",
                port="x",
                help="give unraster the arguments of the raster, and keep the number of channels in between",
            )
        return (TensorType("map", (x.dims[0] // kept * self.r, *x.grid), x.frames),)

    def torch(self, call: Call) -> Torch | str:
        numbers = {"r": self.r, "c": call.outputs[0].channels}
        return Torch(f'unraster({{x}}, "{self.axis}", {{r}}, {{c}})', "", numbers, ("raster",))
