"""linear_residual: a linear layer or 1x1 convolution and what is behind it, up to a residual, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Op, Torch, attr, need
from archdsl.ops.bn import Bn
from archdsl.ops.dwconv_norm import ACTS


@dataclass(frozen=True)
class LinearResidual(Op):
    """act(residual + drop_path(scale * times * branch_act(norm(layer(gate * x))))) of layers that it is given.

    The gate is each sample's own. What there is none of is left out.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "layer", "residual?", "gate?", "scale?", "drop_path?", "norm?")
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    dim: int = attr(1, "output channels", low=1)
    branch_act: str = attr("", "the activation of the branch", choices=("", *ACTS))
    times: float = attr(1.0, "a number that the branch is multiplied with")
    act: str = attr("", "the activation behind the sum", choices=("", *ACTS))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        if len(types) > 2 and types[2] is not None:
            return (need(types[2], "map|tokens", self, "residual"),)
        return (need(types[0], "map|tokens", self).with_channels(self.dim),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * inputs[0].channels

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.macs(inputs, outputs) + 2 * outputs[0].elements * (len(inputs) > 6 and inputs[6] is not None)

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        normed = len(inputs) > 6 and inputs[6] is not None
        slots = self.slots + Bn.slots * normed + sum(ACTS[a].slots for a in (self.branch_act, self.act) if a)
        return slots * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{layer}"] + ["{residual}"] * call.has(2)
        others = ("gate", 3), ("scale", 4), ("drop_path", 5), ("norm", 6)
        args += [f"{port}={{{port}}}" for port, slot in others if call.has(slot)]
        args += [f'branch_act="{self.branch_act}"'] * bool(self.branch_act) + ["times={times}"] * (self.times != 1)
        args += [f'act="{self.act}"'] * bool(self.act)
        numbers = {"times": self.times} if self.times != 1 else {}
        return Torch(f"linear_residual({', '.join(args)})", "", numbers, ("fused/linear_residual",))
