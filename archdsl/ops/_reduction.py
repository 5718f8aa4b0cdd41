"""What mean and l2 share: one axis reduced, to a vec over positions or to one channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, torch_dim, unpadded

KINDS = {"hw": "map", "n": "tokens", "c": "map|tokens|vec", "key": "scores"}


@dataclass(frozen=True)
class Reduction(Op):
    """Over "hw" or "n" the result is a vec[C]; over "c" or "key" it is the value with one channel, or one key."""

    abstract: ClassVar[bool] = True
    order: ClassVar[Order] = Order.REDUCES
    expr: ClassVar[str] = ""
    """A PyTorch expression of {x} and the placeholder DIMS, the arguments that name dimensions."""

    axis: str = attr("hw", "positions of a map, tokens, channels, or keys", choices=("hw", "n", "c", "key"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"axis": "n"}, (TensorType("tokens", (5, 6)),)),
        Example({"axis": "c"}, (TensorType("map", (6, 4, 5)),)),
        Example({"axis": "c"}, (TensorType("tokens", (5, 6)),)),
        Example({"axis": "c"}, (TensorType("vec", (6,)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({"axis": "c"}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({"axis": "key"}, (TensorType("scores", (2, 6, 5), grid=(2, 3)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], KINDS[self.axis], self)
        if self.axis in ("c", "key"):
            return (x.with_channels(1),)
        return (replace(unpadded(self, x), kind="vec", dims=(x.channels,)),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        if self.axis in ("c", "key"):
            dims = f"dim={torch_dim(x, 'C' if self.axis == 'c' else 'Nk', call.axes)}, keepdim=True"
        elif self.axis == "n":
            dims = "dim=-2"
        else:
            dims = f"dim={(torch_dim(x, 'H', call.axes), torch_dim(x, 'W', call.axes))}"
        return Torch(self.expr.replace("DIMS", dims))
