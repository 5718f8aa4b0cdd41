"""interleave: shuffles channels between groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Torch, attr, divides, need
from archdsl.ops.split import torch_dim


@dataclass(frozen=True)
class Interleave(Op):
    """Takes the channels of g contiguous groups in turns: the first of each, the second of each, ... (1707.01083)."""

    affine: ClassVar[bool] = True

    g: int = attr(doc="number of groups", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"g": 2}, (TensorType("map", (6, 4, 5)),)),
        Example({"g": 3}, (TensorType("tokens", (5, 6)),)),
        Example({"g": 3}, (TensorType("vec", (6,), batched=False),)),
        Example({"g": 3}, (TensorType("map", (6, 2, 2), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec", self)
        divides(self, self.g, x.channels, "channels", "g", "E-GROUPS")
        return (x,)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        dim = torch_dim(x, "c", call.axes)
        swap = f"{{x}}.unflatten({dim}, ({{g}}, -1)).transpose({dim - 1}, {dim}).flatten({dim - 1}, {dim})"
        return Torch(swap, "", {"g": self.g})
