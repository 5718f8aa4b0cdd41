"""linear_residual: a linear layer or 1x1 convolution, with the residual its result is added to, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Op, Torch, need


@dataclass(frozen=True)
class LinearResidual(Op):
    """residual + drop_path(scale * layer(gate * x)) of layers that it is given; the gate is each sample's own."""

    ports: ClassVar[tuple[str, ...]] = ("x", "layer", "residual", "gate?", "scale?", "drop_path?")
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[2], "map|tokens|vec", self, "residual"),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * inputs[0].channels

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{layer}", "{residual}"]
        args += [f"{port}={{{port}}}" for port, slot in (("gate", 3), ("scale", 4), ("drop_path", 5)) if call.has(slot)]
        return Torch(f"linear_residual({', '.join(args)})", "", {}, ("fused/linear_residual",))
