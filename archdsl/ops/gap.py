"""gap: global average pooling (1312.4400)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, Torch, need, torch_dim, unpadded


@dataclass(frozen=True)
class Gap(Op):
    """The mean of all positions, as a vec (one for each frame, inside a frame)."""

    order: ClassVar[Order] = Order.REDUCES

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({}, (TensorType("tokens", (5, 6)),)),
        Example({}, (TensorType("map", (6, 4, 5), batched=False),)),
        Example({}, (TensorType("tokens", (5, 6), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, need(types[0], "map|tokens", self))
        return (replace(x, kind="vec", dims=(x.channels,)),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        if x.kind == "tokens":
            return Torch("{x}.mean(dim=-2)")
        dims = torch_dim(x, "H", call.axes), torch_dim(x, "W", call.axes)
        return Torch(f"{{x}}.mean(dim={dims})")
