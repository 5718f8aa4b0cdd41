"""deconv: transposed 2-D convolution, which makes maps larger (1603.07285)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, divides, need, pair
from archdsl.ops.conv import size_text
from archdsl.ops.rel_lookup import size_source


@dataclass(frozen=True)
class Deconv(Op):
    """Transposed 2-D convolution: each position adds its kernel, times its channels, to the result, `s` apart.

    Padding `p = auto`, which is cut off on each side, is (k - s) // 2. Rows and columns beyond the size of the map
    `like` are cut off at the bottom and right; its size is read at run time. Weights start as torch does.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "like?")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("first",)
    matmul: ClassVar[bool] = True

    dim: int | None = attr(None, "output channels; the input's where not given", low=1)
    k: int | Pair = attr(2, "kernel size", low=1, high=1024)
    s: int | Pair = attr(1, "stride", low=1, high=1024)
    p: int | Pair | None = attr(None, "padding that is cut off; none is auto", low=0, high=1024)
    g: int = attr(1, "groups", low=1)
    bias: bool = attr(True, "add a learnable bias")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 8, "k": 4, "s": 2}, (TensorType("map", (4, 3, 5)),)),
        Example({"k": 3, "g": 2, "bias": False}, (TensorType("map", (4, 3, 5)),)),
        Example({"dim": 6, "k": (2, 5), "s": (2, 3), "p": 0}, (TensorType("map", (4, 3, 5)),)),
        Example({"k": 4, "s": 2, "g": 4}, (TensorType("map", (4, 3, 5)), TensorType("map", (2, 5, 10)))),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        x = need(types[0], "map", self)
        k, s = pair(self.k), pair(self.s)
        p = tuple(max(0, (a - b) // 2) for a, b in zip(k, s, strict=True)) if self.p is None else pair(self.p)
        return self.replace(dim=x.channels if self.dim is None else self.dim, k=k, s=s, p=p)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        assert self.dim is not None
        divides(self, self.g, x.channels, "input channels", "g", "E-GROUPS")
        divides(self, self.g, self.dim, "output channels", "g", "E-GROUPS")
        like = need(types[1], "map", self, "like") if len(types) > 1 and types[1] is not None else None
        size = []
        for axis, (n, k, s, p) in enumerate(zip(x.size, pair(self.k), pair(self.s), pair(self.p or 0), strict=True)):
            out = (n - 1) * s + k - 2 * p
            if out < 1:
                raise ShapeError(
                    f"`deconv`: p = {p} leaves nothing of a map of size {int(out) + 2 * p}", code="E-KERNEL", attr="p"
                )
            if like is not None and like.size[axis] > out:
                raise ShapeError(
                    f"`deconv`: the result has a size of {int(out)}, less than the {int(like.size[axis])} of `like`",
                    code="E-KERNEL",
                    port="like",
                    help="use a larger s, or k",
                )
            size.append(out if like is None else like.size[axis])
        return (x.with_channels(self.dim).with_size(size[0], size[1]),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert self.dim is not None and types[0] is not None
        weight = Weight("weight", (types[0].channels, self.dim // self.g, *pair(self.k)), "torch")
        return (weight, Weight("bias", (self.dim,), "torch")) if self.bias else (weight,)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None and self.dim is not None
        kh, kw = pair(self.k)
        return inputs[0].elements * (self.dim // self.g) * kh * kw

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None and self.dim is not None
        args = "{c_in}, {c_out}, " + size_text(self.k)
        if pair(self.s) != (1, 1):
            args += f", stride={size_text(self.s)}"
        if pair(self.p or 0) != (0, 0):
            args += f", padding={size_text(self.p or 0)}"
        if self.g != 1:
            args += ", groups={groups}"
        if not self.bias:
            args += ", bias=False"
        numbers = {"c_in": x.channels, "c_out": self.dim, "groups": self.g}
        like = call.inputs[1] if call.has(1) else None
        if like is None:
            return Torch("{self}({x})", f"nn.ConvTranspose2d({args})", numbers)
        size = size_source("like", like, call.axes)
        return Torch(f"crop({{self}}({{x}}), {size})", f"nn.ConvTranspose2d({args})", numbers, ("crop",))
