"""fused_mlp: two linear layers and the activation between them, with norms and residual, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Op, Torch, attr, need
from archdsl.ops.bn import Bn
from archdsl.ops.ln import Ln
from archdsl.ops.norm_linear import ACTS

NORMS: dict[str, type[Bn | Ln]] = {"bn": Bn, "ln": Ln}
"""Norms that the kernel computes: of batches in eval mode, and of channels."""
FLOPS = {"": 0, "bn": 2, "ln": 5}
"""What a norm counts for, an element, by timm's convention."""


@dataclass(frozen=True)
class FusedMlp(Op):
    """residual + drop_path(scale * last_act(behind(last(act(between(first(norm(x)))))))) of layers that it is given.

    What there is none of is left out. `between` is a BatchNorm; `scale` is a number a channel, or one for all.
    """

    ports: ClassVar[tuple[str, ...]] = (
        "x",
        "first",
        "last",
        "residual?",
        "norm?",
        "between?",
        "behind?",
        "scale?",
        "drop_path?",
    )
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    hidden: int = attr(1, "channels between the layers", low=1)
    dim: int = attr(1, "output channels", low=1)
    act: str = attr("gelu", "the activation between them", choices=tuple(ACTS))
    last_act: str = attr("", "the activation behind them", choices=("", *ACTS))
    norm: str = attr("", "the norm before them", choices=("", *NORMS))
    behind: str = attr("", "the norm behind them", choices=("", *NORMS))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec", self)
        residual = types[3] if len(types) > 3 else None
        return (x.with_channels(self.dim) if residual is None else residual,)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        x = need(inputs[0], "map|tokens|vec", self)
        return (x.elements + outputs[0].elements) * self.hidden

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        x = need(inputs[0], "map|tokens|vec", self)
        between = FLOPS["bn" if len(inputs) > 5 and inputs[5] is not None else ""]
        norms = FLOPS[self.norm] * x.elements + between * x.with_channels(self.hidden).elements
        return self.macs(inputs, outputs) + norms + FLOPS[self.behind] * outputs[0].elements

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].elements + outputs[0].with_channels(self.hidden).elements

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        x = need(inputs[0], "map|tokens|vec", self)
        between = Bn.slots if len(inputs) > 5 and inputs[5] is not None else 0
        first = NORMS[self.norm].slots if self.norm else 0
        last = (NORMS[self.behind].slots if self.behind else 0) + (ACTS[self.last_act].slots if self.last_act else 0)
        hidden = (between + ACTS[self.act].slots) * x.with_channels(self.hidden).elements
        return first * x.elements + hidden + (last + 1) * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{first}", "{last}"]
        others = ("residual", 3), ("norm", 4), ("between", 5), ("behind", 6), ("scale", 7), ("drop_path", 8)
        args += [f"{port}={{{port}}}" for port, slot in others if call.has(slot)]
        args += [f'act="{self.act}"'] + [f'last_act="{self.last_act}"'] * bool(self.last_act)
        helpers = "fused/norm_linear", "fused/linear_residual", "fused/fused_mlp"
        return Torch(f"fused_mlp({', '.join(args)})", "", {}, helpers)
