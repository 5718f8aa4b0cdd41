"""fft_filter: a learnable filter as large as the map, applied in the frequency domain (2107.00645)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, unpadded


@dataclass(frozen=True)
class FftFilter(Op):
    """irfft2(rfft2(x) * weight) per channel: a circular convolution over the whole map, or frame.

    The weight [C, H, W // 2 + 1, 2] holds real and imaginary parts, so it follows the resolution: `resize`
    says how a checkpoint of another one is brought to this one.
    """

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("first",)

    resize: str | None = attr(
        None, "how to resample the weight at another resolution", choices=("bicubic", "bilinear", "none")
    )

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (3, 4, 6)),), note="an FFT is no matrix product"),
        Example({"resize": "bilinear"}, (TensorType("map", (3, 5, 7)),), note="as above"),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (unpadded(self, need(types[0], "map", self)),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        channels, height, width = types[0].dims
        shape = (channels, height, width // 2 + 1, 2)
        return (Weight("weight", shape, "trunc_normal(0.02)", resize=self.resize or ""),)

    def torch(self, call: Call) -> Torch | str:
        (weight,) = self.weights(*call.inputs)
        numbers = {"c": weight.shape[0], "h": int(weight.shape[1]), "w": int(weight.shape[2])}
        return Torch("{self}({x})", "FftFilter({c}, {h}, {w})", numbers, ("fft_filter",))
