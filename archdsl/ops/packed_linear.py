"""packed_linear: a linear layer and the activation behind it, whose weight CPUs read in an order made once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Torch, attr
from archdsl.ops.linear import Linear
from archdsl.ops.packed_conv import ACTIVATIONS, packed


@dataclass(frozen=True)
class PackedLinear(Linear):
    """y = act(W x + b) at every position of a map or of tokens; a CPU computes it as the 1x1 convolution that it is."""

    callable: ClassVar[bool] = False
    affine: ClassVar[bool] = False

    act: str = attr("", "the activation behind it", choices=("", *ACTIVATIONS))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 24, "act": "gelu"}, (TensorType("map", (16, 4, 6)),)),
        Example({"bias": False, "act": "silu"}, (TensorType("tokens", (10, 16)),)),
        Example({"dim": 9}, (TensorType("tokens", (10, 16)),)),
    )

    def torch(self, call: Call) -> Torch | str:
        plain, x = super().torch(call), call.inputs[0]
        assert x is not None
        if isinstance(plain, str):
            return plain
        if self.axis != "c" or x.kind == "vec" or not x.batched:
            return "a packed linear layer maps the channels of maps or tokens"
        module = packed(plain.module, "nn.Linear", "PackedLinear", self.act)
        return replace(plain, module=module, helpers=("packed_linear",))
