"""pool_mixer: a norm of whole samples, pooling less what is pooled, and the residual, as kernels (2111.11418)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Op, Order, Torch, attr, need


@dataclass(frozen=True)
class PoolMixer(Op):
    """x + drop_path(scale * (pool(norm(x)) - norm(x))), where pool is the mean of 3 x 3 positions.

    With the layer `then`, a norm of the result comes with it.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "norm", "scale?", "drop_path?", "then?")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    slots: ClassVar[int] = 16
    callable: ClassVar[bool] = False

    include_pad: bool = attr(True, "count padding in the mean")

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        return (x, x) if len(types) > 4 and types[4] is not None else (x,)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 5 * sum(t.elements for t in outputs)

    def torch(self, call: Call) -> Torch | str:
        args = ["{x}", "{norm}"]
        args += [f"{port}={{{port}}}" for port, slot in (("scale", 2), ("drop_path", 3), ("then", 4)) if call.has(slot)]
        args += ["include_pad=True"] * self.include_pad
        return Torch(f"pool_mixer({', '.join(args)})", "", {}, ("fused/pool_mixer",))
