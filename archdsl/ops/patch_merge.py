"""patch_merge: patches that become positions, with the layer that maps them and its norms, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.sizes import ceil_div
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need, pair


@dataclass(frozen=True)
class PatchMerge(Op):
    """behind(layer(norm(patches of x))) of layers that it is given.

    The layer is a linear one, whose operand is a patch's channels one position after the other, in the order `layout`,
    or a convolution whose stride is its kernel: then the norm is of each position, by itself. What ends within the last
    patches is cropped, or completed with zeros that the norm of a packed patch counts.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "layer", "norm?", "behind?")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    size: int | Pair = attr(doc="rows and columns of a patch", low=1)
    dim: int = attr(1, "output channels", low=1)
    layout: str = attr("", "the order of a packed patch; none of a convolution's", choices=("", "hwc", "whc"))
    clamp: bool = attr(True, "whether a patch is never larger than the map")
    crop: bool = attr(False, "whether positions beyond whole patches are left out")

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        (height, width), (down, right) = x.size, pair(self.size)
        size = (height // down, width // right) if self.crop else (ceil_div(height, down), ceil_div(width, right))
        return (x.with_channels(self.dim).with_size(*size),)

    def packed(self, x: TensorType) -> int:
        """Channels of a patch."""
        height, width = pair(self.size)
        return int(x.channels) * height * width

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * self.packed(inputs[0])

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        patches = outputs[0].with_channels(self.packed(inputs[0])).elements
        return self.macs(inputs, outputs) + 5 * (patches * _has(inputs, 2) + outputs[0].elements * _has(inputs, 3))

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return 8 * (inputs[0].elements * _has(inputs, 2) + outputs[0].elements * _has(inputs, 3))

    def torch(self, call: Call) -> Torch | str:
        args, numbers = ["{x}", "{layer}"], dict[str, Static]()
        args += [f"{port}={{{port}}}" for port, slot in (("norm", 2), ("behind", 3)) if call.has(slot)]
        helpers = (*["windows"] * bool(self.layout), "fused/patch_merge")
        if self.layout:
            height, width = pair(self.size)
            numbers["size"] = height if height == width else (height, width)
            args += ["size={size}", *[f'layout="{self.layout}"'] * (self.layout != "hwc")]
            args += ["clamp=False"] * (not self.clamp)
        return Torch(f"patch_merge({', '.join(args)})", "", numbers, helpers)


def _has(inputs: tuple[TensorType | None, ...], slot: int) -> bool:
    return slot < len(inputs) and inputs[slot] is not None
