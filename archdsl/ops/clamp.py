"""clamp: elements kept between two numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.base import Call, Example, ShapeError, Torch, attr


@dataclass(frozen=True)
class Clamp(Pointwise):
    """min(max(x, lo), hi); a bound that is not given does not bind."""

    lo: float | None = attr(None, "lower bound")
    hi: float | None = attr(None, "upper bound")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"hi": 4.6}, (TensorType("vec", (3,), batched=False),)),
        Example({"lo": -1, "hi": 1.5}, (TensorType("map", (3, 2, 4)),)),
        Example({"lo": 0.0}, (TensorType("scores", (2, 3, 4)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        self.check()
        return super().infer(*types)

    def check(self) -> None:
        """The bounds make sense. Raises ShapeError."""
        if self.lo is None and self.hi is None:
            raise ShapeError("`clamp` has no bound", code="E-ATTR", help="give lo, hi or both: clamp[lo = 0](x)")
        if self.lo is not None and self.hi is not None and self.lo > self.hi:
            raise ShapeError(
                f"`clamp`: lo = {self.lo} is above hi = {self.hi}",
                code="E-ATTR",
                attr="lo",
                help=f"clamp[lo = {self.hi}, hi = {self.lo}]",
            )

    def of_number(self, value: float) -> float:
        self.check()
        low = value if self.lo is None else max(value, self.lo)
        return low if self.hi is None else min(low, self.hi)

    def torch(self, call: Call) -> Torch | str:
        bounds = {name: v for name, v in (("lo", self.lo), ("hi", self.hi)) if v is not None}
        keyword = {"lo": "min", "hi": "max"}
        arguments = ", ".join(f"{keyword[name]}={{{name}}}" for name in bounds)
        return Torch(f"torch.clamp({{x}}, {arguments})", "", bounds)
