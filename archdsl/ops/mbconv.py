"""mbconv: an expansion, a depthwise convolution and a projection, with norms and residual, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need
from archdsl.ops.bn import Bn
from archdsl.ops.conv import Conv
from archdsl.ops.dwconv_norm import ACTS


@dataclass(frozen=True)
class Mbconv(Op):
    """residual + drop_path(scale * last_norm(last(act(norm(conv(expand_norm(expand(x)))))))) of layers it is given.

    `conv` is depthwise, `expand` and `last` are linear layers or 1x1 convolutions. The norms are `bn`. What there is
    none of is left out.
    """

    ports: ClassVar[tuple[str, ...]] = (
        "x", "expand", "conv", "last", "residual?", "expand_norm?", "norm?", "last_norm?", "scale?", "drop_path?"
    )  # fmt: skip
    order: ClassVar[Order] = Order.SENSITIVE
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    hidden: int = attr(1, "channels between the layers", low=1)
    dim: int = attr(1, "output channels", low=1)
    k: int | Pair = attr(3, "kernel size", low=1)
    s: int | Pair = attr(1, "stride", low=1)
    p: int | Pair = attr(0, "padding", low=0)
    d: int = attr(1, "dilation", low=1)
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    act: str = attr("", "the activation ahead of the projection", choices=("", *ACTS))

    def convolution(self) -> Conv:
        return Conv(self.hidden, self.k, self.s, self.p, self.hidden, self.d, False, self.pad)

    def expanded(self, types: tuple[TensorType | None, ...]) -> TensorType:
        return need(types[0], "map", self).with_channels(self.hidden)

    def between(self, types: tuple[TensorType | None, ...]) -> TensorType:
        (found,) = self.convolution().infer(self.expanded(types))
        return found

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (self.between(types).with_channels(self.dim),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        x, hidden = need(inputs[0], "map", self), self.between(inputs)
        taps = self.convolution().macs((self.expanded(inputs),), (hidden,))
        return x.elements * self.hidden + taps + outputs[0].elements * self.hidden

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        made = self.expanded(inputs), self.between(inputs), outputs[0]
        normed = sum(t.elements for slot, t in enumerate(made, 5) if slot < len(inputs) and inputs[slot] is not None)
        return self.macs(inputs, outputs) + 2 * normed

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.expanded(inputs).elements + self.between(inputs).elements + outputs[0].elements

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        behind = (ACTS[self.act].slots if self.act else 0) + Bn.slots
        return behind * self.between(inputs).elements + (Bn.slots + 1) * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{expand}", "{conv}", "{last}"]
        others = [port.strip("?") for slot, port in enumerate(self.ports) if slot > 3 and call.has(slot)]
        args += [f"{port}={{{port}}}" for port in others]
        args += [f'act="{self.act}"'] * bool(self.act) + ["first=True"] * (call.axes == "first")
        before = "conv_norm", "dwconv_norm", "linear_residual", "fused_mbconv"
        return Torch(f"mbconv({', '.join(args)})", "", {}, (*(f"fused/{name}" for name in before), "fused/mbconv"))
