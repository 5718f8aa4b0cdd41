"""scaled_conv: a convolution that takes in the frozen batch normalisation behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Torch
from archdsl.ops.conv import Conv
from archdsl.ops.scaled_linear import FACTORS, scaled, with_factors


@dataclass(frozen=True)
class ScaledConv(Conv):
    """A factor times conv(x), plus a shift, for each output channel: one layer with other weights (2305.11624)."""

    ports: ClassVar[tuple[str, ...]] = ("x", "factors")
    affine: ClassVar[bool] = False
    callable: ClassVar[bool] = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 8, "k": 3, "s": 2}, (TensorType("map", (4, 9, 11)), FACTORS)),
        Example({"dim": 8, "k": (1, 5), "g": 4, "bias": False}, (TensorType("map", (8, 8, 8)), FACTORS)),
        Example({"dim": 8, "k": 3, "s": 2, "pad": "tf_same"}, (TensorType("map", (4, 9, 8)), FACTORS)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return with_factors(self, super().infer(types[0]), types[1])

    def torch(self, call: Call) -> Torch | str:
        return scaled(super().torch(call))
