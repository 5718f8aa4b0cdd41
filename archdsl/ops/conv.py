"""conv: 2-D convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.sizes import ceil_div
from archdsl.ir.types import Pair, TensorType, Weight
from archdsl.ops._initial import bias_init, known_init
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, divides, need, pair


@dataclass(frozen=True)
class Conv(Op):
    """2-D convolution, zero-padded inside each frame.

    Padding `p = auto` is 0 where kernel = stride (a patchify) and d*(k-1)//2 otherwise; `pad = "tf_same"` pads
    as TensorFlow's SAME does (the odd pixel at the bottom and right, computed from the map's size).
    """

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("first",)
    affine: ClassVar[bool] = True
    matmul: ClassVar[bool] = True

    dim: int | None = attr(None, "output channels; the input's where not given", low=1)
    k: int | Pair = attr(1, "kernel size", low=1, high=1024)
    s: int | Pair = attr(1, "stride", low=1, high=1024)
    p: int | Pair | None = attr(None, "padding; none is auto", low=0, high=1024)
    g: int = attr(1, "groups", low=1)
    d: int = attr(1, "dilation", low=1, high=1024)
    bias: bool = attr(True, "add a learnable bias")
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))
    init: str = attr("trunc_normal(0.02)", "initialisation of the weight")
    bias_init: float | str | None = attr(None, "initialisation of the bias; none is zeros, or torch's where init is")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 8, "k": 3, "s": 2}, (TensorType("map", (4, 9, 11)),)),
        Example({"dim": 8, "k": (1, 5), "g": 2, "bias": False}, (TensorType("map", (4, 8, 8)),)),
        Example({"dim": 6, "k": 3, "s": 2, "pad": "tf_same"}, (TensorType("map", (4, 9, 8)),)),
        Example({"k": 3, "d": 2}, (TensorType("map", (4, 9, 8)),)),
        Example({"dim": 8, "k": 4, "s": 4}, (TensorType("map", (3, 10, 8)),)),
    )

    def ordering(self) -> Order:
        return Order.FREE if pair(self.k) == (1, 1) == pair(self.s) else self.order

    def resolve(self, *types: TensorType | None) -> Op:
        x = need(types[0], "map", self)
        k, s = pair(self.k), pair(self.s)
        if self.p is None:
            p = tuple(0 if a == b and self.d == 1 else self.d * (a - 1) // 2 for a, b in zip(k, s, strict=True))
        else:
            p = pair(self.p)
        return self.replace(dim=x.channels if self.dim is None else self.dim, k=k, s=s, p=p)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        assert self.dim is not None
        known_init(self, self.init)
        bias_init(self, self.init, self.bias_init)
        divides(self, self.g, x.channels, "input channels", "g", "E-GROUPS")
        divides(self, self.g, self.dim, "output channels", "g", "E-GROUPS")
        return (x.with_channels(self.dim).with_size(*self.out_size(x)),)

    def out_size(self, x: TensorType) -> Pair:
        """(H, W) of the result."""
        out = []
        for n, k, s, p in zip(x.size, pair(self.k), pair(self.s), pair(self.p or 0), strict=True):
            if self.pad == "tf_same":
                out.append(ceil_div(n, s))
                continue
            span = self.d * (k - 1) + 1
            if n + 2 * p < span:
                raise ShapeError(
                    f"`{self.name}`: a kernel {span} wide does not fit a map of size {int(n)}",
                    code="E-KERNEL",
                    attr="k",
                    help=f"pad with p = {(span - int(n) + 1) // 2}, use a smaller k or d, or stride less before",
                )
            out.append((n + (2 * p - span + s)) // s)
        return out[0], out[1]

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert self.dim is not None and types[0] is not None
        weight = Weight("weight", (self.dim, types[0].channels // self.g, *pair(self.k)), self.init)
        bias = Weight("bias", (self.dim,), bias_init(self, self.init, self.bias_init))
        return (weight, bias) if self.bias else (weight,)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        kh, kw = pair(self.k)
        return outputs[0].elements * (inputs[0].channels // self.g) * kh * kw

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None and self.dim is not None
        numbers = {"c_in": x.channels, "c_out": self.dim, "groups": self.g}
        args = "{c_in}, {c_out}, " + size_text(self.k)
        if pair(self.s) != (1, 1):
            args += f", stride={size_text(self.s)}"
        padding = self.padding()
        if padding is not None and padding != (0, 0):
            args += f", padding={size_text(padding)}"
        if self.d != 1:
            args += f", dilation={self.d}"
        if self.g != 1:
            args += ", groups={groups}"
        if not self.bias:
            args += ", bias=False"
        if padding is None:
            return Torch("{self}({x})", f"SameConv2d({args})", numbers, ("same_conv",))
        return Torch("{self}({x})", f"nn.Conv2d({args})", numbers)

    def padding(self) -> Pair | None:
        """What is added on either side of each axis; none where it depends on the map's size."""
        if self.pad == "zeros":
            return pair(self.p or 0)
        spans = [self.d * (k - 1) for k in pair(self.k)]
        if pair(self.s) == (1, 1) and not any(span % 2 for span in spans):
            return spans[0] // 2, spans[1] // 2
        return None


def size_text(value: int | Pair) -> str:
    """A kernel size as torch takes it: one int where both axes agree."""
    a, b = pair(value)
    return str(a) if a == b else f"({a}, {b})"
