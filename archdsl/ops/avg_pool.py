"""avg_pool: the mean of each window of a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops._pooling import Pool
from archdsl.ops.base import Call, Example, Torch, attr, pair


@dataclass(frozen=True)
class AvgPool(Pool):
    """Average pooling inside each frame; `include_pad` counts padded positions in the mean as zeros."""

    affine: ClassVar[bool] = True

    include_pad: bool = attr(True, "count padding in the mean")

    examples: ClassVar[tuple[Example, ...]] = (
        *Pool.examples,
        Example({"k": 3, "s": 1, "p": 1, "include_pad": False}, (TensorType("map", (3, 5, 6)),)),
        Example({"k": 3, "s": 2, "pad": "tf_same", "include_pad": False}, (TensorType("map", (3, 6, 7)),)),
    )

    def is_affine(self, *types: TensorType | None) -> bool:
        """Where padding is not counted, or a window sticks out, the border's weights differ."""
        unpadded = pair(self.p) == (0, 0) and self.pad == "zeros"
        return not self.ceil and (self.include_pad or unpadded)

    def torch(self, call: Call) -> Torch | str:
        arguments, numbers = self.arguments
        if self.pad == "tf_same":
            if self.include_pad:
                return Torch(f"F.avg_pool2d(same_pad({{x}}, {{k}}, {{s}}), {arguments})", "", numbers, ("same_pad",))
            return Torch("same_avg_pool({x}, {k}, {s})", "", numbers, ("same_avg_pool",))
        count = "" if self.include_pad or pair(self.p) == (0, 0) else ", count_include_pad=False"
        return Torch(f"F.avg_pool2d({{x}}, {arguments}{count})", "", numbers)
