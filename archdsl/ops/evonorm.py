"""evonorm: a normalisation that is its own activation, EvoNorm-S0 (2004.02967)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, divides, need, unpadded


@dataclass(frozen=True)
class Evonorm(Op):
    """x * sigmoid(v * x) over the standard deviation of a group of channels, all positions of a sample, then scaled."""

    order: ClassVar[Order] = Order.REDUCES
    axes: ClassVar[tuple[str, ...]] = ("first",)

    groups: int = attr(32, "number of groups", low=1)
    eps: float = attr(1e-5, "added to the variance", low=0)

    slots: ClassVar[int] = 14
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"groups": 2}, (TensorType("map", (6, 4, 5)),)),
        Example({"groups": 3, "eps": 1e-3}, (TensorType("map", (6, 4, 5)),)),
        Example({"groups": 2}, (TensorType("map", (6, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        divides(self, self.groups, x.channels, "channels", "groups", "E-GROUPS")
        return (unpadded(self, x),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        shape = (types[0].channels,)
        return (Weight("weight", shape, "ones"), Weight("bias", shape), Weight("v", shape, "ones"))

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        numbers = {"c": x.channels, "groups": self.groups, "eps": self.eps}
        expr = "{self}({x})" if x.batched else "{self}({x}[None])[0]"
        return Torch(expr, "EvoNorm({groups}, {c}, eps={eps})", numbers, ("evonorm",))
