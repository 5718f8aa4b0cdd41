"""scale_residual: a layer scale, a dropped branch and the residual as one kernel (2103.17239)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Op, Torch, attr, need
from archdsl.ops.bn import Bn
from archdsl.ops.dwconv_norm import ACTS


@dataclass(frozen=True)
class ScaleResidual(Op):
    """act(residual + drop_path(scale * times * norm(x))), where the norm is a layer that it is given.

    What there is none of is left out.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "residual", "scale?", "drop_path?", "norm?")
    callable: ClassVar[bool] = False

    times: float = attr(1.0, "a number that x is multiplied with")
    act: str = attr("", "the activation behind the sum", choices=("", *ACTS))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[1], "map|tokens", self, "residual"),)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 2 * outputs[0].elements * (len(inputs) > 4 and inputs[4] is not None)

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        normed = len(inputs) > 4 and inputs[4] is not None
        return (2 + Bn.slots * normed + (ACTS[self.act].slots if self.act else 0)) * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args, numbers = ["{x}", "{residual}"], dict[str, Static]()
        others = ("scale", 2), ("drop_path", 3), ("norm", 4)
        args += [f"{port}={{{port}}}" for port, slot in others if call.has(slot)]
        if self.times != 1:
            args.append("times={times}")
            numbers["times"] = self.times
        args += [f'act="{self.act}"'] * bool(self.act) + ["first=True"] * (call.axes == "first")
        return Torch(f"scale_residual({', '.join(args)})", "", numbers, ("fused/scale_residual",))
