"""unshuffle: undoes a shuffle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, need


@dataclass(frozen=True)
class Unshuffle(Op):
    """Puts shuffled tokens back where they were; `order` is the second result of `shuffle`."""

    ports: ClassVar[tuple[str, ...]] = ("x", "order")
    order: ClassVar[Order] = Order.SENSITIVE

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("tokens", (8, 6)), TensorType("vec", (8,), batched=False))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x, order = (*types, None, None)[:2]
        x, order = need(x, "tokens", self), need(order, "vec", self, "order")
        if order.batched or order.channels != x.dims[0]:
            raise ShapeError(
                f"`unshuffle`: {order.short()} is not the order of {x.short()}",
                code="E-SHAPE",
                port="order",
                help="give it the second result of the shuffle: x, order = shuffle(x)",
            )
        return (x,)

    def torch(self, call: Call) -> Torch | str:
        return Torch("{x}.index_select(-2, {order}.argsort())")
