"""max_pool: the largest element of each window of a map."""

from __future__ import annotations

from dataclasses import dataclass

from archdsl.ops._pooling import Pool
from archdsl.ops.base import Call, Torch


@dataclass(frozen=True)
class MaxPool(Pool):
    """Max pooling inside each frame; padding never wins."""

    def torch(self, call: Call) -> Torch | str:
        arguments, numbers = self.arguments
        if self.pad == "tf_same":
            padded = 'same_pad({x}, {k}, {s}, float("-inf"))'
            return Torch(f"F.max_pool2d({padded}, {arguments})", "", numbers, ("same_pad",))
        return Torch(f"F.max_pool2d({{x}}, {arguments})", "", numbers)
