"""merged_linear: linear layers or 1x1 convolutions of one value as one product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Ints, Op, Torch, attr, need


@dataclass(frozen=True)
class MergedLinear(Op):
    """The result of each of the layers that it is given, which are parts of one tensor."""

    ports: ClassVar[tuple[str, ...]] = ("x", "*layers")
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    dims: Ints = attr((1,), "output channels of each layer", low=1)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec", self)
        return tuple(x.with_channels(dim) for dim in self.dims)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return sum(out.elements for out in outputs) * inputs[0].channels

    def torch(self, call: Call) -> Torch | str:
        first = ", first=True" * (call.axes == "first" and call.outputs[0].kind == "map")
        return Torch(f"merged_linear({{x}}, {{layers}}{first})", "", {}, ("merged_linear",))
