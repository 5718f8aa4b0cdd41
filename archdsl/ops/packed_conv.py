"""packed_conv: a convolution and the activation behind it, whose weight CPUs read in an order made once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Torch, attr
from archdsl.ops.conv import Conv

ACTIVATIONS = ("relu", "relu6", "gelu", "silu", "hswish")
"""What the same call of oneDNN computes."""


@dataclass(frozen=True)
class PackedConv(Conv):
    """A convolution that pads by zeros, and an activation of its result."""

    callable: ClassVar[bool] = False
    affine: ClassVar[bool] = False

    act: str = attr("", "the activation behind it", choices=("", *ACTIVATIONS))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 8, "k": 3, "s": 2, "act": "relu"}, (TensorType("map", (4, 9, 11)),)),
        Example({"dim": 8, "g": 4, "bias": False, "act": "gelu"}, (TensorType("map", (4, 8, 8)),)),
        Example({"dim": 8, "k": (1, 5), "g": 8, "act": "hswish"}, (TensorType("map", (8, 8, 9)),)),
        Example({"k": 3, "d": 2, "act": "relu6"}, (TensorType("map", (4, 9, 8)),)),
        Example({"dim": 6, "k": 2, "s": 2}, (TensorType("map", (4, 8, 8)),)),
    )

    def torch(self, call: Call) -> Torch | str:
        plain = super().torch(call)
        if isinstance(plain, str):
            return plain
        if plain.helpers:
            return "a packed convolution pads alike on both sides"
        module = packed(plain.module, "nn.Conv2d", "PackedConv2d", self.act)
        return replace(plain, module=module, helpers=("packed_conv",))


def packed(module: str, name: str, new: str, act: str) -> str:
    """A layer's constructor as that of the packed layer."""
    written = module.replace(name, new)
    return f'{written[:-1]}, act="{act}")' if act else written
