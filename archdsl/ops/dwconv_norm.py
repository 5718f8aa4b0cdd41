"""dwconv_norm: a depthwise convolution with the norms and activations around it, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Pair, TensorType
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.base import Call, Op, Order, Torch, attr, need, pair
from archdsl.ops.bn import Bn
from archdsl.ops.conv import Conv
from archdsl.ops.gap import Gap
from archdsl.ops.gelu import Gelu
from archdsl.ops.gelu_tanh import GeluTanh
from archdsl.ops.hswish import Hswish
from archdsl.ops.ln import Ln
from archdsl.ops.relu import Relu
from archdsl.ops.relu6 import Relu6
from archdsl.ops.silu import Silu

ACTS: dict[str, type[Pointwise]] = {
    "gelu": Gelu,
    "gelu_tanh": GeluTanh,
    "hswish": Hswish,
    "relu": Relu,
    "relu6": Relu6,
    "silu": Silu,
}
"""Activations that the kernel computes."""


@dataclass(frozen=True)
class DwconvNorm(Op):
    """act(norm(conv(ahead_act(ahead(x))))) of layers that it is given, and with `mean` the mean over its positions.

    `norm` is `ln` over channels, or `bn`; what there is none of is left out. With a gate, a map of some channels, the
    result times `factor` is two maps: as many first channels times the gate, and the others.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "conv", "norm?", "ahead?", "gate?")
    order: ClassVar[Order] = Order.SENSITIVE
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    k: int | Pair = attr(3, "kernel size", low=1)
    s: int | Pair = attr(1, "stride", low=1)
    p: int | Pair = attr(0, "padding", low=0)
    d: int = attr(1, "dilation", low=1)
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    norm: str = attr("", "the norm behind the convolution", choices=("", "ln", "bn"))
    act: str = attr("", "the activation behind it", choices=("", *ACTS))
    ahead_act: str = attr("", "the activation ahead of the convolution", choices=("", *ACTS))
    mean: bool = attr(False, "whether the mean over positions is a second result")
    factor: float = attr(1.0, "what the result is multiplied with, where it is gated")

    def convolution(self, x: TensorType | None) -> Conv:
        x = need(x, "map", self)
        return Conv(x.channels, self.k, self.s, self.p, x.channels, self.d, False, self.pad)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        (out,) = self.convolution(types[0]).infer(types[0])
        gate = types[4] if len(types) > 4 else None
        if gate is not None:
            return out.with_channels(gate.channels), out.with_channels(out.channels - gate.channels)
        return (out, *(Gap().infer(out) if self.mean else ()))

    def written(self, outputs: tuple[TensorType, ...]) -> int:
        """Elements of the convolution's result."""
        return sum(t.elements for t in outputs if t.kind == "map")

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        height, width = pair(self.k)
        return self.written(outputs) * height * width

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        behind = {"": 0, "ln": 5, "bn": 2}[self.norm] * self.written(outputs)
        ahead = 2 * inputs[0].elements * (len(inputs) > 3 and inputs[3] is not None)
        return self.macs(inputs, outputs) + behind + ahead

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.written(outputs)

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        behind = {"": 0, "ln": Ln.slots, "bn": Bn.slots}[self.norm] + self.mean
        behind += ACTS[self.act].slots if self.act else 0
        ahead = Bn.slots * (len(inputs) > 3 and inputs[3] is not None)
        ahead += ACTS[self.ahead_act].slots if self.ahead_act else 0
        behind += len(inputs) > 4 and inputs[4] is not None
        return behind * self.written(outputs) + ahead * inputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{conv}"]
        args += ["{norm}"] if call.has(2) else ["None"] * call.has(3)
        args += ["{ahead}"] * call.has(3)
        args += [f'act="{self.act}"'] * bool(self.act) + [f'ahead_act="{self.ahead_act}"'] * bool(self.ahead_act)
        args += ["mean=True"] * self.mean + ["gate={gate}, factor={factor}"] * call.has(4)
        args += ["first=True"] * (call.axes == "first")
        numbers: dict[str, Static] = {"factor": self.factor} if call.has(4) else {}
        return Torch(f"dwconv_norm({', '.join(args)})", "", numbers, ("fused/dwconv_norm",))
