"""ln: layer normalisation over channels (1607.06450)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops._initial import of_number
from archdsl.ops.base import Call, Example, Op, Torch, attr, need


@dataclass(frozen=True)
class Ln(Op):
    """Normalises the channels of every position to mean 0 and variance 1, then scales and shifts them."""

    axes: ClassVar[tuple[str, ...]] = ("last",)

    eps: float = attr(1e-5, "added to the variance", low=0)
    bias: bool = attr(True, "add a learnable bias")
    init: float = attr(1, "initial value of the weight")

    slots: ClassVar[int] = 8
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"eps": 1e-6}, (TensorType("tokens", (5, 6)),)),
        Example({"bias": False, "init": 0}, (TensorType("vec", (6,)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({}, (TensorType("tokens", (4, 6), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[0], "map|tokens|vec", self),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        weight = Weight("weight", (types[0].channels,), of_number(self.init))
        bias = Weight("bias", (types[0].channels,))
        return (weight, bias) if self.bias else (weight,)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 5 * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        expr = "{self}({x})"
        if x.kind == "map" and not x.batched:
            expr = "{self}({x}.permute(1, 2, 0)).permute(2, 0, 1)"
        bias = "" if self.bias else ", bias=False"
        return Torch(expr, "nn.LayerNorm({c}, eps={eps}" + bias + ")", {"c": x.channels, "eps": self.eps})
