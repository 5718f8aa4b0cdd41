"""gn: group normalisation (1803.08494)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, divides, need, unpadded


@dataclass(frozen=True)
class Gn(Op):
    """Normalises groups of channels over all positions of a sample (of a frame, inside one)."""

    order: ClassVar[Order] = Order.REDUCES
    axes: ClassVar[tuple[str, ...]] = ("first",)

    groups: int = attr(1, "number of groups", low=1)
    eps: float = attr(1e-5, "added to the variance", low=0)
    bias: bool = attr(True, "add a learnable bias")

    slots: ClassVar[int] = 8
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"groups": 2, "eps": 1e-6}, (TensorType("tokens", (5, 6)),)),
        Example({"groups": 3, "bias": False}, (TensorType("map", (6, 4, 5)),)),
        Example({"groups": 2}, (TensorType("vec", (6,)),)),
        Example({"groups": 2}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({"groups": 2}, (TensorType("tokens", (4, 6), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec", self)
        divides(self, self.groups, x.channels, "channels", "groups", "E-GROUPS")
        if x.channels == self.groups and x.positions == 1:
            raise ShapeError(
                f"`gn`: {self.groups} groups of {x.short()} hold one number each, which would become 0",
                code="E-GROUPS",
                attr="groups",
                help="use fewer groups",
            )
        return (unpadded(self, x),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        weight, bias = Weight("weight", (types[0].channels,), "ones"), Weight("bias", (types[0].channels,))
        return (weight, bias) if self.bias else (weight,)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 5 * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        operand, back = ("{x}", "") if x.batched else ("{x}[None]", "[0]")
        if x.kind == "tokens":
            operand, back = f"{operand}.transpose(1, 2)", f".transpose(1, 2){back}"
        expr = f"{{self}}({operand}){back}"
        numbers = {"c": x.channels, "groups": self.groups, "eps": self.eps}
        if self.bias:
            return Torch(expr, "nn.GroupNorm({groups}, {c}, eps={eps})", numbers)
        return Torch(expr, "GroupNormNoBias({groups}, {c}, eps={eps})", numbers, ("group_norm_no_bias",))
