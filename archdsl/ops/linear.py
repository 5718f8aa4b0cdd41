"""linear: one affine map of the channels, shared by all positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops._initial import known_init
from archdsl.ops.base import Call, Example, Op, Torch, attr, need


@dataclass(frozen=True)
class Linear(Op):
    """y = W x + b at every position. `axis = "key"` maps the key axis of scores instead of channels."""

    axes: ClassVar[tuple[str, ...]] = ("last",)
    affine: ClassVar[bool] = True
    matmul: ClassVar[bool] = True

    dim: int | None = attr(None, "output channels; the input's where not given", low=1)
    bias: bool = attr(True, "add a learnable bias")
    axis: str = attr("c", "the axis to map: channels, or the keys of scores", choices=("c", "key"))
    init: str = attr("trunc_normal(0.02)", "initialisation of the weight; the bias starts at zero")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 24}, (TensorType("map", (16, 4, 6)),)),
        Example({"bias": False}, (TensorType("tokens", (10, 16)),)),
        Example({"dim": 10}, (TensorType("vec", (16,)),)),
        Example({"dim": 9, "axis": "key"}, (TensorType("scores", (2, 6, 4)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        x = need(types[0], "scores" if self.axis == "key" else "map|tokens|vec", self)
        return self if self.dim is not None else self.replace(dim=x.channels)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        assert self.dim is not None and types[0] is not None
        known_init(self, self.init)
        return (types[0].with_channels(self.dim),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert self.dim is not None and types[0] is not None
        weight = Weight("weight", (self.dim, types[0].channels), self.init)
        bias = Weight("bias", (self.dim,), "torch" if self.init == "torch" else "zeros")
        return (weight, bias) if self.bias else (weight,)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * inputs[0].channels

    def torch(self, call: Call) -> Torch | str:
        assert call.inputs[0] is not None and self.dim is not None
        bias = "" if self.bias else ", bias=False"
        numbers = {"c_in": call.inputs[0].channels, "c_out": self.dim}
        x = call.inputs[0]
        stored_first = x.kind == "map" and not x.batched
        expr = "{self}({x}.permute(1, 2, 0)).permute(2, 0, 1)" if stored_first else "{self}({x})"
        return Torch(expr, "nn.Linear({c_in}, {c_out}" + bias + ")", numbers)
