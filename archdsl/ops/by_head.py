"""by_head: puts groups of channels into a batch-like axis, so that one set of weights serves all heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Torch, attr, divides, need, of_samples


@dataclass(frozen=True)
class ByHead(Op):
    """Cuts the channels into n contiguous groups; what follows works on each group with the same weights."""

    n: int = attr(doc="number of groups", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"n": 2}, (TensorType("map", (8, 4, 5)),)),
        Example({"n": 4}, (TensorType("tokens", (5, 8)),)),
        Example({"n": 2}, (TensorType("vec", (8,)),)),
        Example({"n": 2}, (TensorType("map", (8, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = of_samples(self, need(types[0], "map|tokens|vec", self))
        divides(self, self.n, x.channels, "channels", "n", "E-HEADS")
        frame = Frame("head", (self.n, 1), (1, 1), (self.n, 1))
        return (replace(x.with_channels(x.channels // self.n), frames=(*x.frames, frame)),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        if x is not None and x.kind == "map" and call.axes == "first":
            return Torch("{x}.unflatten(1, ({n}, -1)).flatten(0, 1)", "", {"n": self.n})
        return Torch("by_head({x}, {n})", "", {"n": self.n}, ("by_head",))
