"""chunks: cuts tokens into contiguous groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, divides, need, of_samples


@dataclass(frozen=True)
class Chunks(Op):
    """Cuts tokens into n groups of neighbours in raster order; what follows sees one group at a time."""

    order: ClassVar[Order] = Order.GROUP

    n: int = attr(doc="number of groups", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"n": 3}, (TensorType("tokens", (12, 8)),)),
        Example({"n": 2}, (TensorType("tokens", (4, 8), (Frame("chunk", (3, 1), (4, 1), (12, 1)),)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "tokens", self))
        divides(self, self.n, x.dims[0], "tokens", "n", "E-SPLIT")
        inner = x.dims[0] // self.n
        frame = Frame("chunk", (self.n, 1), (inner, 1), (x.dims[0], 1))
        return (replace(x, dims=(inner, x.dims[1]), frames=(*x.frames, frame)),)

    def torch(self, call: Call) -> Torch | str:
        return Torch("{x}.unflatten(1, ({n}, -1)).flatten(0, 1)", "", {"n": self.n})
