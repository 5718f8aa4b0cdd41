"""norm_linear: a layer normalisation, a linear layer and an activation as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need, pair
from archdsl.ops.complete import Complete

ACTS = ("gelu", "gelu_tanh", "relu", "silu")
"""Activations that the kernel computes."""


@dataclass(frozen=True)
class NormLinear(Op):
    """act(linear(norm(x))) of layers that it is given; with `size`, the map is completed between norm and linear."""

    ports: ClassVar[tuple[str, ...]] = ("x", "norm", "linear")
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    slots: ClassVar[int] = 8
    callable: ClassVar[bool] = False

    dim: int = attr(1, "output channels", low=1)
    act: str = attr("", "the activation behind it", choices=("", *ACTS))
    size: int | Pair | None = attr(None, "size of the windows that the map is completed to", low=1)
    clamp: bool = attr(True, "whether a window is never larger than the map")

    def ordering(self) -> Order:
        return Order.FREE if self.size is None else Order.SENSITIVE

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec" if self.size is None else "map", self)
        if self.size is not None:
            (x,) = Complete(pair(self.size), self.clamp).infer(x)
        return (x.with_channels(self.dim),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * inputs[0].channels

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return self.macs(inputs, outputs) + 5 * inputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args, numbers = ["{x}", "{norm}", "{linear}"], dict[str, Static]()
        if self.size is not None:
            height, width = pair(self.size)
            args.append("size={size}")
            numbers["size"] = height if height == width else (height, width)
            args += ["clamp=False"] * (not self.clamp)
        if self.act:
            args.append(f'act="{self.act}"')
        helpers = (*["complete"] * (self.size is not None), "fused/norm_linear")
        return Torch(f"norm_linear({', '.join(args)})", "", numbers, helpers)
