"""conv_norm: a convolution of few channels with the norm and the activation behind it, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need
from archdsl.ops.bn import Bn
from archdsl.ops.conv import Conv
from archdsl.ops.dwconv_norm import ACTS
from archdsl.ops.ln import Ln


@dataclass(frozen=True)
class ConvNorm(Op):
    """act(norm(conv(x))) of layers that it is given; a convolution of one group, `ln` over channels or `bn`, if any."""

    ports: ClassVar[tuple[str, ...]] = ("x", "conv", "norm?")
    order: ClassVar[Order] = Order.SENSITIVE
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    dim: int = attr(1, "output channels", low=1)
    k: int | Pair = attr(3, "kernel size", low=1)
    s: int | Pair = attr(1, "stride", low=1)
    p: int | Pair = attr(0, "padding", low=0)
    d: int = attr(1, "dilation", low=1)
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    norm: str = attr("", "the norm behind the convolution", choices=("", "ln", "bn"))
    act: str = attr("", "the activation behind it", choices=("", *ACTS))

    def convolution(self) -> Conv:
        return Conv(self.dim, self.k, self.s, self.p, 1, self.d, False, self.pad)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return self.convolution().infer(need(types[0], "map", self))

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.convolution().macs(inputs[:1], outputs[:1])

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.macs(inputs, outputs) + {"": 0, "ln": 5, "bn": 2}[self.norm] * outputs[0].elements

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        behind = {"": 0, "ln": Ln.slots, "bn": Bn.slots}[self.norm] + (ACTS[self.act].slots if self.act else 0)
        return behind * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{conv}"] + ["{norm}"] * call.has(2)
        args += [f'act="{self.act}"'] * bool(self.act) + ["first=True"] * (call.axes == "first")
        return Torch(f"conv_norm({', '.join(args)})", "", {}, ("fused/conv_norm",))
