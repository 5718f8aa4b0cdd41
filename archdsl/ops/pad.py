"""pad: zeros added around a map, or rows and columns cut off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need


@dataclass(frozen=True)
class Pad(Op):
    """Adds rows and columns of zeros on each side; a negative number cuts."""

    order: ClassVar[Order] = Order.SENSITIVE

    top: int = attr(0, "rows above", low=-(1 << 16), high=1 << 16)
    bottom: int = attr(0, "rows below", low=-(1 << 16), high=1 << 16)
    left: int = attr(0, "columns on the left", low=-(1 << 16), high=1 << 16)
    right: int = attr(0, "columns on the right", low=-(1 << 16), high=1 << 16)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"top": 1, "right": 2}, (TensorType("map", (3, 4, 5)),)),
        Example({"top": -1, "bottom": 1, "left": -1, "right": 1}, (TensorType("map", (3, 4, 5)),)),
        Example({"left": 3}, (TensorType("map", (3, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        out = []
        for n, before, after in zip(x.size, ("top", "left"), ("bottom", "right"), strict=True):
            first, last = getattr(self, before), getattr(self, after)
            size = n + first + last
            if n + first < 0 or n + last < 0 or size < 1:
                raise ShapeError(
                    f"`pad`: {before} = {int(first)} and {after} = {int(last)} leave nothing of {x.short()}",
                    code="E-ATTR",
                    attr=before if first <= last else after,
                    help=f"at most {int(n) - 1} of {int(n)} can be cut",
                )
            out.append(size)
        return (x.with_size(out[0], out[1]),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        last = call.axes == "last" and x.batched
        sides = "{left}, {right}, {top}, {bottom}"
        numbers = {"left": self.left, "right": self.right, "top": self.top, "bottom": self.bottom}
        return Torch(f"F.pad({{x}}, ({'0, 0, ' if last else ''}{sides}))", "", numbers)
