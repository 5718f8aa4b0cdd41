"""dwconv: depthwise convolution, a spelling of conv with g = dim = C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType, Weight
from archdsl.ops.base import Example, Op, Order, attr, need
from archdsl.ops.conv import Conv


@dataclass(frozen=True)
class Dwconv(Op):
    """Depthwise 2-D convolution; resolves to `conv`. The kernel comes first because nobody writes its width."""

    order: ClassVar[Order] = Order.SENSITIVE
    affine: ClassVar[bool] = True

    k: int | Pair = attr(3, "kernel size", low=1, high=1024, search=(3, 5, 7))
    s: int | Pair = attr(1, "stride", low=1, high=1024)
    p: int | Pair | None = attr(None, "padding; none is auto", low=0, high=1024)
    d: int = attr(1, "dilation", low=1, high=1024)
    bias: bool = attr(True, "add a learnable bias")
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    init: str = attr("trunc_normal(0.02)", "initialisation of the weight")
    bias_init: float | str | None = attr(None, "initialisation of the bias; none is zeros, or torch's where init is")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"k": 7}, (TensorType("map", (8, 9, 10)),)),
        Example({"k": (1, 11), "bias": False}, (TensorType("map", (8, 4, 12)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        x = need(types[0], "map", self)
        whole = Conv(
            x.channels, self.k, self.s, self.p, x.channels, self.d, self.bias, self.pad, self.init, self.bias_init
        )
        return whole.resolve(x)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return self.resolve(*types).weights(*types)
