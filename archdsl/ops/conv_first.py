"""conv_first: a depthwise convolution and the two layers behind it, with norms and residual, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need
from archdsl.ops.dwconv_norm import ACTS as CONV_ACTS
from archdsl.ops.dwconv_norm import DwconvNorm
from archdsl.ops.fused_mlp import NORMS, FusedMlp
from archdsl.ops.norm_linear import ACTS

Types = tuple[TensorType | None, ...]


@dataclass(frozen=True)
class ConvFirst(Op):
    """residual + drop_path(scale * behind(last(act(between(first(conv_act(norm(conv(x))))))))) of layers it is given.

    `conv` is depthwise with a stride of 1. What there is none of is left out. `between` and `behind` are BatchNorms;
    `scale` is a number a channel, or one for all.
    """

    ports: ClassVar[tuple[str, ...]] = (
        "x", "conv", "first", "last", "residual?", "norm?", "between?", "behind?", "scale?", "drop_path?"
    )  # fmt: skip
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    hidden: int = attr(1, "channels between the layers", low=1)
    dim: int = attr(1, "output channels", low=1)
    k: int | Pair = attr(3, "kernel size", low=1)
    p: int | Pair = attr(0, "padding", low=0)
    d: int = attr(1, "dilation", low=1)
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    act: str = attr("gelu", "the activation between the layers", choices=tuple(ACTS))
    conv_act: str = attr("", "the activation before them", choices=("", *CONV_ACTS))
    norm: str = attr("", "the norm behind the convolution", choices=("", *NORMS))
    behind: str = attr("", "the norm behind the layers", choices=("", "bn"))

    def convolution(self) -> DwconvNorm:
        return DwconvNorm(self.k, 1, self.p, self.d, self.pad, self.norm, self.conv_act)

    def layers(self) -> FusedMlp:
        return FusedMlp(self.hidden, self.dim, self.act, "", "", self.behind)

    def between(self, inputs: Types) -> tuple[Types, TensorType, Types]:
        """The operands of the convolution, its result, and the operands of the layers."""
        given = [*inputs, *[None] * (len(self.ports) - len(inputs))]
        x, conv, first, last, residual, norm, *others = given
        (made,) = self.convolution().infer(need(x, "map", self))
        return (x, conv, norm), made, (made, first, last, residual, None, *others)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return self.layers().infer(*self.between(types)[2])

    def macs(self, inputs: Types, outputs: tuple[TensorType, ...]) -> int:
        ahead, made, behind = self.between(inputs)
        return self.convolution().macs(ahead, (made,)) + self.layers().macs(behind, outputs)

    def timm_flops(self, inputs: Types, outputs: tuple[TensorType, ...]) -> int:
        ahead, made, behind = self.between(inputs)
        return self.convolution().timm_flops(ahead, (made,)) + self.layers().timm_flops(behind, outputs)

    def activations(self, inputs: Types, outputs: tuple[TensorType, ...]) -> int:
        ahead, made, behind = self.between(inputs)
        return self.convolution().activations(ahead, (made,)) + self.layers().activations(behind, outputs)

    def instructions(self, inputs: Types, outputs: tuple[TensorType, ...]) -> int:
        ahead, made, behind = self.between(inputs)
        return self.convolution().instructions(ahead, (made,)) + self.layers().instructions(behind, outputs)

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{conv}", "{first}", "{last}"]
        others = [port.strip("?") for slot, port in enumerate(self.ports) if slot > 3 and call.has(slot)]
        args += [f"{port}={{{port}}}" for port in others]
        args += [f'act="{self.act}"'] + [f'conv_act="{self.conv_act}"'] * bool(self.conv_act)
        parts = "dwconv_norm", "norm_linear", "linear_residual", "fused_mlp", "conv_first"
        return Torch(f"conv_first({', '.join(args)})", "", {}, tuple(f"fused/{one}" for one in parts))
