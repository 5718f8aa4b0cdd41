"""rms: root-mean-square normalisation over channels (1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Torch, attr, need


@dataclass(frozen=True)
class Rms(Op):
    """Divides the channels of every position by their root mean square, then scales them."""

    axes: ClassVar[tuple[str, ...]] = ("last",)

    eps: float = attr(1e-6, "added to the mean square", low=0)

    slots: ClassVar[int] = 6
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"eps": 1e-5}, (TensorType("tokens", (5, 6)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[0], "map|tokens|vec", self),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        return (Weight("weight", (types[0].channels,), "ones"),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        expr = "{self}({x})"
        if x.kind == "map" and not x.batched:
            expr = "{self}({x}.permute(1, 2, 0)).permute(2, 0, 1)"
        return Torch(expr, "nn.RMSNorm({c}, eps={eps})", {"c": x.channels, "eps": self.eps})
