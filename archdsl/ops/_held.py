"""What layers have in common that a kernel is given, and that are not called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr

_SIDE = 1 << 12


@dataclass(frozen=True)
class Held(Op):
    """A layer's module as a value. A class of it names this before the op of the layer."""

    ports: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[Order] = Order.FREE
    view: ClassVar[bool] = True
    matmul: ClassVar[bool] = False
    callable: ClassVar[bool] = False
    examples: ClassVar[tuple[Example, ...]] = ()
    abstract: ClassVar[bool] = True

    channels: int = attr(1, "channels of what the layer takes", low=1)

    def resolve(self, *types: TensorType | None) -> Op:
        return self

    def ordering(self) -> Order:
        return self.order

    def taken(self) -> TensorType:
        """What the layer takes: its channels are right, and there is room for any kernel."""
        return TensorType("map", (self.channels, _SIDE, _SIDE))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (TensorType("vec", (self.channels,), batched=False),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return super().weights(self.taken())

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 0

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 0

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 0

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 0

    def torch(self, call: Call) -> Torch | str:
        made = super().torch(Call((self.taken(),), (), "last"))
        return made if isinstance(made, str) else replace(made, expr="{self}")
