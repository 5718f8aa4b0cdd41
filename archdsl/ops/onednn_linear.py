"""onednn_linear: a linear layer that CPUs compute by a kernel for convolutions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Torch
from archdsl.ops.linear import Linear


@dataclass(frozen=True)
class OnednnLinear(Linear):
    """y = W x + b at every position of a map or of tokens; a CPU computes it as the 1x1 convolution that it is."""

    callable: ClassVar[bool] = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 24}, (TensorType("map", (16, 4, 6)),)),
        Example({"bias": False}, (TensorType("tokens", (10, 16)),)),
    )

    def torch(self, call: Call) -> Torch | str:
        plain, x = super().torch(call), call.inputs[0]
        assert x is not None
        if isinstance(plain, str) or self.axis != "c" or x.kind == "vec" or not x.batched:
            return plain
        module = plain.module.replace("nn.Linear", "PointLinear")
        return replace(plain, module=module, helpers=("point_linear",))
