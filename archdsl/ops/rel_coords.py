"""rel_coords: all distances between positions, as input of a network that predicts a bias (2111.09883)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need
from archdsl.ops.rel_lookup import relative_extent, size_source


@dataclass(frozen=True)
class RelCoords(Op):
    """const tokens[(Hq + Hk - 1) * (Wq + Wk - 1), 2]: (rows, columns) from key to query, in the order of rel_lookup.

    "linear" scales the longest distance to 1; "log8" scales it to 8 and takes sign(d) * log8(1 + |d|); "none" counts
    positions. q and k (the same where k is not given) are read for their sizes only.
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "k?")
    order: ClassVar[Order] = Order.GROUP
    measured: ClassVar[tuple[str, ...]] = ("q", "k")

    norm: str = attr("linear", "scale of the distances", choices=("linear", "log8", "none"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 3, 4)),)),
        Example({"norm": "log8"}, (TensorType("map", (6, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
        Example({"norm": "log8"}, (TensorType("map", (6, 3, 4)), TensorType("map", (2, 2, 1)))),
        Example({"norm": "none"}, (TensorType("map", (6, 3, 4)), TensorType("map", (2, 2, 5)))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        q, k = (*types, None, None)[:2]
        q = need(q, "map|tokens", self, "q")
        rows, columns = relative_extent(q, q if k is None else need(k, "map|tokens", self, "k"))
        return (TensorType("tokens", (rows * columns, 2), batched=False),)

    def torch(self, call: Call) -> Torch | str:
        q, k = call.inputs[0], call.inputs[1] if call.has(1) else call.inputs[0]
        assert q is not None and k is not None
        keys = size_source("k" if call.has(1) else "q", k, call.axes)
        how = {"linear": "", "log8": ", log=True", "none": ", scaled=False"}[self.norm]
        return Torch(f"rel_coords({size_source('q', q, call.axes)}, {keys}, {{q}}{how})", "", {}, ("rel_coords",))
