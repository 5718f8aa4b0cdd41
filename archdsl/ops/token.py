"""token: one token out of a sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need


@dataclass(frozen=True)
class Token(Op):
    """The `i`-th token as a vec; negative `i` counts from the end."""

    order: ClassVar[Order] = Order.SENSITIVE
    view: ClassVar[bool] = True

    i: int = attr(0, "which token")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("tokens", (5, 3)),)),
        Example({"i": -1}, (TensorType("tokens", (5, 3)),)),
        Example({"i": 2}, (TensorType("tokens", (5, 3), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "tokens", self)
        n = int(x.dims[0])
        if not -n <= self.i < n:
            raise ShapeError(
                f"`token`: there is no token {self.i} in {x.short()}",
                code="E-ATTR",
                attr="i",
                help=f"tokens are numbered 0 to {n - 1}",
            )
        return (replace(x, kind="vec", dims=(x.channels,)),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        return Torch("{x}[:, {i}]" if x.batched else "{x}[{i}]", "", {"i": self.i})
