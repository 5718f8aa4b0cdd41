"""softmax: exponentials along an axis, scaled to sum to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, torch_dim, unpadded

KINDS = {"key": "scores", "c": "map|tokens|vec", "n": "tokens"}


@dataclass(frozen=True)
class Softmax(Op):
    """exp(x) / sum(exp(x)) over the keys of scores, over channels, or over tokens."""

    order: ClassVar[Order] = Order.REDUCES

    axis: str = attr("key", "the axis that sums to one", choices=("key", "c", "n"))

    slots: ClassVar[int] = 12
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("scores", (2, 3, 4)),)),
        Example({}, (TensorType("scores", (2, 3, 4), batched=False),)),
        Example({"axis": "c"}, (TensorType("map", (6, 4, 5)),)),
        Example({"axis": "c"}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({"axis": "n"}, (TensorType("tokens", (5, 6)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], KINDS[self.axis], self)
        return (unpadded(self, x) if self.axis == "n" else x,)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        dim = torch_dim(x, {"key": "Nk", "c": "C", "n": "N"}[self.axis], call.axes)
        return Torch(f"{{x}}.softmax(dim={dim})")
