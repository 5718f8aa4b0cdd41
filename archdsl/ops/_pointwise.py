"""What the pointwise functions share: one number in, one number out, on every kind of value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch, need

ANY = "map|tokens|vec|scores"


@dataclass(frozen=True)
class Pointwise(Op):
    """Applies `expr` to each element, and `fold` to a compile-time number."""

    abstract: ClassVar[bool] = True
    expr: ClassVar[str] = ""
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (3, 2, 4)),)),
        Example({}, (TensorType("tokens", (5, 3)),)),
        Example({}, (TensorType("vec", (3,), batched=False),)),
        Example({}, (TensorType("scores", (2, 3, 4)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (need(types[0], ANY, self),)

    def fold(self, value: float) -> float:
        """The function of one number. Raises ShapeError where it is not defined or overflows."""
        try:
            return self.of_number(value)
        except (ValueError, OverflowError):
            raise ShapeError(f"`{self.name}` of {value} is not a number", code="E-ATTR") from None

    def of_number(self, value: float) -> float:
        """`fold` without its errors: may raise ValueError or OverflowError."""
        raise NotImplementedError

    def torch(self, call: Call) -> Torch | str:
        return Torch(self.expr)
