"""scaled_linear: a linear layer that takes in the frozen batch normalisation behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch
from archdsl.ops.linear import Linear

FACTORS = TensorType("tokens", (2, 8), batched=False)
HELPERS = {"SameConv2d": "scaled_same_conv", "nn.Conv2d": "scaled_conv", "nn.Linear": "scaled_linear"}


@dataclass(frozen=True)
class ScaledLinear(Linear):
    """A factor times linear(x), plus a shift, for each output channel: one layer with other weights (2305.11624)."""

    ports: ClassVar[tuple[str, ...]] = ("x", "factors")
    affine: ClassVar[bool] = False
    callable: ClassVar[bool] = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 8}, (TensorType("map", (16, 4, 6)), FACTORS)),
        Example({"dim": 8, "bias": False}, (TensorType("tokens", (10, 16)), FACTORS)),
        Example({"dim": 8}, (TensorType("vec", (16,)), FACTORS)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return with_factors(self, super().infer(types[0]), types[1])

    def torch(self, call: Call) -> Torch | str:
        return scaled(super().torch(call))


def with_factors(op: Op, outputs: tuple[TensorType, ...], factors: TensorType | None) -> tuple[TensorType, ...]:
    """The layer's result types, once there are two factors for each channel. Raises ShapeError."""
    wanted = TensorType("tokens", (2, outputs[0].channels), batched=False)
    if factors != wanted:
        found = "nothing" if factors is None else factors.short()
        raise ShapeError(f"`{op.name}` needs factors {wanted.short()}, got {found}", port="factors")
    return outputs


def scaled(layer: Torch | str) -> Torch | str:
    """A layer's lowering with the factors of its result as a further argument."""
    if isinstance(layer, str):
        return layer
    if layer.expr != "{self}({x})":
        return "only layers that map the channels of samples are scaled"
    name, _, arguments = layer.module.partition("(")
    module = f"Scaled{name.removeprefix('nn.')}({arguments}"
    return replace(layer, expr="{self}({x}, {factors})", module=module, helpers=(HELPERS[name],))
