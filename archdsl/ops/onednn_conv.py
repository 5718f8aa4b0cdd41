"""onednn_conv: a 1x1 convolution that CPUs compute by oneDNN whatever the number of threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Torch, pair
from archdsl.ops.conv import Conv


@dataclass(frozen=True)
class OnednnConv(Conv):
    """A 1x1 convolution without stride and padding; with one of these it is a convolution as others are."""

    callable: ClassVar[bool] = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 8}, (TensorType("map", (4, 9, 11)),)),
        Example({"g": 4, "bias": False}, (TensorType("map", (4, 8, 8)),)),
    )

    def torch(self, call: Call) -> Torch | str:
        plain = super().torch(call)
        if isinstance(plain, str) or not pointwise(self):
            return plain
        return replace(plain, module=plain.module.replace("nn.Conv2d", "PointConv2d"), helpers=("point_conv",))


def pointwise(conv: Conv) -> bool:
    """Whether each position is mapped by itself."""
    return pair(conv.k) == (1, 1) == pair(conv.s) and pair(conv.p or 0) == (0, 0)
