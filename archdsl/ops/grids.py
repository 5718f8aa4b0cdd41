"""grids: cuts a map into dilated cells that each span the whole map (2204.01697)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.sizes import minimum
from archdsl.ir.types import Frame, Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, divides, need, of_samples, pair


@dataclass(frozen=True)
class Grids(Op):
    """Cuts a map into cells of `size` positions each, evenly spread over the map: the result, then the frame.

    The size is clamped to the map, which it must divide.
    """

    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)

    size: int | Pair = attr(doc="positions of a cell on each axis", low=1, search=(7, 8, 14))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"size": 4}, (TensorType("map", (6, 8, 12)),)),
        Example({"size": (2, 16)}, (TensorType("map", (6, 4, 6)),)),
        Example({"size": 2}, (TensorType("map", (6, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(size=pair(self.size))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "map", self))
        (height, width), size = x.size, pair(self.size)
        inner = minimum(height, size[0]), minimum(width, size[1])
        divides(self, inner[0], height, "rows", "size", "E-WINDOW")
        divides(self, inner[1], width, "columns", "size", "E-WINDOW")
        frame = Frame("grid", (height // inner[0], width // inner[1]), inner, (height, width))
        out = replace(x, dims=(x.dims[0], *inner), frames=(*x.frames, frame))
        return out, TensorType("frame", (), out.frames)

    def torch(self, call: Call) -> Torch | str:
        h, w = pair(self.size)
        return Torch("grids({x}, {size})", "", {"size": h if h == w else (h, w)}, ("grids",))
