"""fused_mlp: two linear layers and the activation between them, with norm and residual, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Op, Torch, attr, need
from archdsl.ops.norm_linear import ACTS


@dataclass(frozen=True)
class FusedMlp(Op):
    """residual + drop_path(scale * last(act(first(norm(x))))) of layers that it is given, which give x's channels."""

    ports: ClassVar[tuple[str, ...]] = ("x", "first", "last", "residual", "norm?", "scale?", "drop_path?")
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    hidden: int = attr(1, "channels between the layers", low=1)
    act: str = attr("gelu", "the activation between them", choices=ACTS)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[3], "map|tokens", self, "residual"),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 2 * outputs[0].elements * self.hidden

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.macs(inputs, outputs) + 5 * outputs[0].elements * (len(inputs) > 4 and inputs[4] is not None)

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].elements + outputs[0].with_channels(self.hidden).elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{first}", "{last}", "{residual}"]
        others = (("norm", 4), ("scale", 5), ("drop_path", 6))
        args += [f"{port}={{{port}}}" for port, slot in others if call.has(slot)]
        helpers = "fused/norm_linear", "fused/linear_residual", "fused/fused_mlp"
        return Torch(f'fused_mlp({", ".join(args)}, act="{self.act}")', "", {}, helpers)
