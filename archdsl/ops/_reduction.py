"""What mean and l2 share: one axis reduced, to a vec over positions or to one channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, torch_dim, unpadded

KINDS = {"hw": "map", "n": "tokens", "c": "map|tokens|vec"}


@dataclass(frozen=True)
class Reduction(Op):
    """Over "hw" or "n" the result is a vec[C]; over "c" it is the value with one channel."""

    abstract: ClassVar[bool] = True
    order: ClassVar[Order] = Order.REDUCES
    expr: ClassVar[str] = ""
    """A PyTorch expression of {x} and the placeholder DIMS, the arguments that name dimensions."""

    axis: str = attr("hw", "positions of a map, tokens, or channels", choices=("hw", "n", "c"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"axis": "n"}, (TensorType("tokens", (5, 6)),)),
        Example({"axis": "c"}, (TensorType("map", (6, 4, 5)),)),
        Example({"axis": "c"}, (TensorType("tokens", (5, 6)),)),
        Example({"axis": "c"}, (TensorType("vec", (6,)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({"axis": "c"}, (TensorType("map", (6, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], KINDS[self.axis], self)
        if self.axis == "c":
            return (x.with_channels(1),)
        return (replace(unpadded(self, x), kind="vec", dims=(x.channels,)),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        if self.axis == "c":
            dims = f"dim={torch_dim(x, 'C', call.axes)}, keepdim=True"
        elif self.axis == "n":
            dims = "dim=-2"
        else:
            dims = f"dim={(torch_dim(x, 'H', call.axes), torch_dim(x, 'W', call.axes))}"
        return Torch(self.expr.replace("DIMS", dims))
