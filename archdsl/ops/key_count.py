"""key_count: how many positions of a k x k neighbourhood lie inside the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops._neighbourhood import odd
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need
from archdsl.ops.rel_lookup import size_source


@dataclass(frozen=True)
class KeyCount(Op):
    """map[C, H, W] -> const map[1, H, W], k * k inside and less at the borders; x is read for its size only."""

    order: ClassVar[Order] = Order.GROUP
    measured: ClassVar[tuple[str, ...]] = ("x",)

    k: int = attr(doc="neighbourhood size", low=1)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"k": 3}, (TensorType("map", (6, 4, 5)),)),
        Example({"k": 7}, (TensorType("map", (6, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        odd(self, self.k)
        return (TensorType("map", (1, *x.size), batched=False),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        return Torch(f"key_count({size_source('x', x, call.axes)}, {{k}}, {{x}})", "", {"k": self.k}, ("key_count",))
