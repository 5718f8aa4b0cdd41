"""norm_linear: a layer normalisation, the linear layers that read it and their activation as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Pair, TensorType
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.base import Call, Ints, Op, Order, Torch, attr, need, pair
from archdsl.ops.complete import Complete
from archdsl.ops.gelu import Gelu
from archdsl.ops.gelu_tanh import GeluTanh
from archdsl.ops.hsigmoid import Hsigmoid
from archdsl.ops.hswish import Hswish
from archdsl.ops.relu import Relu
from archdsl.ops.relu6 import Relu6
from archdsl.ops.sigmoid import Sigmoid
from archdsl.ops.silu import Silu

ACTS: dict[str, type[Pointwise]] = {
    "gelu": Gelu,
    "gelu_tanh": GeluTanh,
    "hsigmoid": Hsigmoid,
    "hswish": Hswish,
    "relu": Relu,
    "relu6": Relu6,
    "sigmoid": Sigmoid,
    "silu": Silu,
}
"""Activations that the kernel computes."""


@dataclass(frozen=True)
class NormLinear(Op):
    """act(linear(norm(x))) of layers that it is given, a result each of several linear layers.

    With `size`, the map is completed between norm and linear layers.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "norm", "*linears")
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    slots: ClassVar[int] = 8
    callable: ClassVar[bool] = False

    dims: Ints = attr((1,), "output channels of each linear layer", low=1)
    act: str = attr("", "the activation behind them", choices=("", *ACTS))
    size: int | Pair | None = attr(None, "size of the windows that the map is completed to", low=1)
    clamp: bool = attr(True, "whether a window is never larger than the map")

    def ordering(self) -> Order:
        return Order.FREE if self.size is None else Order.SENSITIVE

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec" if self.size is None else "map", self)
        if self.size is not None:
            (x,) = Complete(pair(self.size), self.clamp).infer(x)
        return tuple(x.with_channels(dim) for dim in self.dims)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return sum(out.elements for out in outputs) * inputs[0].channels

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return self.macs(inputs, outputs) + 5 * inputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        args, numbers = ["{x}", "{norm}", "{linears}"], dict[str, Static]()
        if self.size is not None:
            height, width = pair(self.size)
            args.append("size={size}")
            numbers["size"] = height if height == width else (height, width)
            args += ["clamp=False"] * (not self.clamp)
        if self.act:
            args.append(f'act="{self.act}"')
        helpers = (*["complete"] * (self.size is not None), "fused/norm_linear")
        return Torch(f"norm_linear({', '.join(args)})", "", numbers, helpers)
