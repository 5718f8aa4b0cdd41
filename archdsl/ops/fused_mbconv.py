"""fused_mbconv: a convolution, an activation and a projection, with norms and residual, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need
from archdsl.ops.bn import Bn
from archdsl.ops.conv import Conv
from archdsl.ops.dwconv_norm import ACTS


@dataclass(frozen=True)
class FusedMbconv(Op):
    """last_act(residual + drop_path(scale * last_norm(last(act(norm(conv(x))))))) of layers that it is given.

    `conv` is of one group or depthwise, `last` a linear layer or a 1x1 convolution. The norms are `bn`. What there is
    none of is left out.
    """

    ports: ClassVar[tuple[str, ...]] = (
        "x", "conv", "last", "residual?", "norm?", "last_norm?", "scale?", "drop_path?"
    )  # fmt: skip
    order: ClassVar[Order] = Order.SENSITIVE
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    hidden: int = attr(1, "channels between the layers", low=1)
    dim: int = attr(1, "output channels", low=1)
    depthwise: bool = attr(False, "whether each channel between the layers is made of one")
    k: int | Pair = attr(3, "kernel size", low=1)
    s: int | Pair = attr(1, "stride", low=1)
    p: int | Pair = attr(0, "padding", low=0)
    d: int = attr(1, "dilation", low=1)
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    act: str = attr("", "the activation between the layers", choices=("", *ACTS))
    last_act: str = attr("", "the activation behind the sum", choices=("", *ACTS))

    def convolution(self) -> Conv:
        return Conv(self.hidden, self.k, self.s, self.p, self.hidden if self.depthwise else 1, self.d, False, self.pad)

    def between(self, types: tuple[TensorType | None, ...]) -> TensorType:
        (found,) = self.convolution().infer(need(types[0], "map", self))
        return found

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (self.between(types).with_channels(self.dim),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        hidden = self.between(inputs)
        return self.convolution().macs(inputs[:1], (hidden,)) + outputs[0].elements * hidden.channels

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        given = [slot < len(inputs) and inputs[slot] is not None for slot in (4, 5)]
        normed = self.between(inputs).elements * given[0] + outputs[0].elements * given[1]
        return self.macs(inputs, outputs) + 2 * normed

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.between(inputs).elements + outputs[0].elements

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        hidden, behind = (ACTS[act].slots if act else 0 for act in (self.act, self.last_act))
        return (hidden + Bn.slots) * self.between(inputs).elements + (behind + Bn.slots + 1) * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{conv}", "{last}"]
        others = [port.strip("?") for slot, port in enumerate(self.ports) if slot > 2 and call.has(slot)]
        args += [f"{port}={{{port}}}" for port in others]
        args += [f'{name}="{act}"' for name, act in (("act", self.act), ("last_act", self.last_act)) if act]
        args += ["first=True"] * (call.axes == "first")
        before = ("fused/conv_norm", *["fused/dwconv_norm"] * self.depthwise)
        return Torch(
            f"fused_mbconv({', '.join(args)})", "", {}, (*before, "fused/linear_residual", "fused/fused_mbconv")
        )
