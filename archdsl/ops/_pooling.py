"""What pooling ops share: kernels, strides, paddings, and the sizes that come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.sizes import ceil_div, minimum
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Example, Op, Order, ShapeError, attr, need, pair, unpadded


def literal(value: int | Pair) -> int | Pair:
    """A pair as torch takes it: one int where both axes agree."""
    a, b = pair(value)
    return a if a == b else (a, b)


@dataclass(frozen=True)
class Pool(Op):
    """Slides a kernel over maps. `pad = "tf_same"` pads as TensorFlow's SAME does, from the map's size."""

    abstract: ClassVar[bool] = True
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("first",)

    k: int | Pair = attr(2, "kernel size", low=1, high=1024, search=(2, 3))
    s: int | Pair | None = attr(None, "stride; none is the kernel size", low=1, high=1024)
    p: int | Pair = attr(0, "padding on every side", low=0, high=1024)
    ceil: bool = attr(False, "keep a last window that is only partly inside")
    pad: str = attr("zeros", "how borders are padded", choices=("zeros", "tf_same"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (3, 5, 6)),)),
        Example({"k": 3, "s": 1, "p": 1}, (TensorType("map", (3, 5, 6)),)),
        Example({"k": 3, "s": 2, "p": 1, "ceil": True}, (TensorType("map", (3, 6, 7)),)),
        Example({"k": (3, 2), "s": (2, 1)}, (TensorType("map", (3, 6, 7)),)),
        Example({"k": 3, "s": 2, "pad": "tf_same"}, (TensorType("map", (3, 6, 7)),)),
        Example({"k": 2}, (TensorType("map", (3, 4, 4), batched=False),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(k=pair(self.k), s=pair(self.k if self.s is None else self.s), p=pair(self.p))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, need(types[0], "map", self))
        return (x.with_size(*self.out_size(x)),)

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        height, width = pair(self.k)
        return height * width * outputs[0].elements

    def out_size(self, x: TensorType) -> Pair:
        """(H, W) of the result."""
        assert self.s is not None
        out = []
        for n, k, s, p in zip(x.size, pair(self.k), pair(self.s), pair(self.p), strict=True):
            if self.pad == "tf_same" and (p or self.ceil):
                name = "p" if p else "ceil"
                raise ShapeError(
                    f'`{self.name}`: `{name}` has no meaning where pad = "tf_same" decides the padding',
                    code="E-ATTR",
                    attr=name,
                    help=f"leave out `{name}`",
                )
            if 2 * p > k:
                raise ShapeError(
                    f"`{self.name}`: a padding of {p} is more than half of the kernel {k}",
                    code="E-KERNEL",
                    attr="p",
                    help=f"p = {k // 2} is the most a kernel of {k} can use",
                )
            if self.pad == "tf_same":
                out.append(ceil_div(n, s))
            elif n + 2 * p < k:
                raise ShapeError(
                    f"`{self.name}`: a kernel {k} wide does not fit a map of size {int(n)}",
                    code="E-KERNEL",
                    attr="k",
                    help=f"use a kernel of at most {int(n) + 2 * p}, or stride less before",
                )
            elif self.ceil:  # the last window must start inside the map or its left padding
                out.append(minimum(ceil_div(n + (2 * p - k), s) + 1, ceil_div(n + p, s)))
            else:
                out.append((n + (2 * p - k + s)) // s)
        return out[0], out[1]

    @property
    def arguments(self) -> tuple[str, dict[str, int | Pair]]:
        """The arguments after the operand (kernel, stride, padding, rounding) with the numbers in them."""
        assert self.s is not None
        text, numbers = "{k}, stride={s}", {"k": literal(self.k), "s": literal(self.s)}
        if pair(self.p) != (0, 0):
            text, numbers = text + ", padding={p}", numbers | {"p": literal(self.p)}
        return text + (", ceil_mode=True" if self.ceil else ""), numbers
