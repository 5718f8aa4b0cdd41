"""local_bias: a learnable bias for every relative position of a k x k neighbourhood (2204.07143)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import TensorType, Weight
from archdsl.ops._neighbourhood import fits, odd, same_grid
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need
from archdsl.ops.rel_lookup import size_source


@dataclass(frozen=True)
class LocalBias(Op):
    """const scores[heads, H * W, k * k] for neighbourhoods moved into the map (`edge = "shift"` of local_mix).

    `a`, scores of a map's positions or the map itself, is read for its size only; a map's size is read at run time.
    """

    ports: ClassVar[tuple[str, ...]] = ("a",)
    order: ClassVar[Order] = Order.GROUP
    measured: ClassVar[tuple[str, ...]] = ("a",)

    heads: int = attr(doc="number of heads", low=1)
    k: int = attr(doc="neighbourhood size", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2, "k": 3}, (TensorType("scores", (2, 20, 9), grid=(4, 5)),)),
        Example({"heads": 1, "k": 5}, (TensorType("scores", (1, 25, 25), grid=(5, 5)),)),
        Example({"heads": 2, "k": 3}, (TensorType("map", (8, 4, 5)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        a = need(types[0], "scores|map", self, "a")
        odd(self, self.k)
        grid = a.size if a.kind == "map" else a.grid
        if grid is None:
            raise ShapeError(
                f"`local_bias` needs scores whose queries are a map, got {a.short()}",
                code="E-SHAPE",
                port="a",
                help="compute the scores from a map: scores(q, k) with q a map",
            )
        positions = grid[0] * grid[1]
        same_grid(self, "a", positions if a.kind == "map" else a.dims[1], grid)
        fits(self, self.k, grid, "shift")
        return (TensorType("scores", (self.heads, positions, self.k * self.k), batched=False, grid=grid),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return (Weight("table", (self.heads, 2 * self.k - 1, 2 * self.k - 1), "zeros"),)

    def torch(self, call: Call) -> Torch | str:
        a = call.inputs[0]
        assert a is not None
        numbers: dict[str, Static] = {"heads": self.heads, "k": self.k}
        if a.kind == "map":
            return Torch(
                f"{{self}}({size_source('a', a, call.axes)})", "LocalBias({heads}, {k})", numbers, ("local_bias",)
            )
        assert a.grid is not None
        numbers["grid"] = a.grid
        return Torch("{self}({grid})", "LocalBias({heads}, {k})", numbers, ("local_bias",))
