"""local_mix: applies predicted k x k kernels: involution, neighbourhood attention, dynamic convolution (2103.06255)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops._neighbourhood import fits, odd, same_grid
from archdsl.ops.base import (
    Call,
    Example,
    Op,
    Order,
    ShapeError,
    Torch,
    attr,
    divides,
    need,
    of_samples,
    same_frames,
    spread,
)

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class LocalMix(Op):
    """Every position becomes the sum of its k x k neighbours, weighted by its k * k scores.

    The scores' heads are contiguous groups of v's channels. Values outside the map are zero (`edge = "zero"`),
    or the neighbourhood is moved into the map ("shift", 2204.07143).
    """

    ports: ClassVar[tuple[str, ...]] = ("a", "v")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True

    k: int = attr(3, "neighbourhood size", low=1, search=(3, 5, 7))
    edge: str = attr("zero", "what values outside the map are", choices=("zero", "shift"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"k": 3}, (TensorType("scores", (2, 20, 9), grid=(4, 5)), TensorType("map", (6, 4, 5)))),
        Example(
            {"k": 3, "edge": "shift"}, (TensorType("scores", (1, 20, 9), grid=(4, 5)), TensorType("map", (6, 4, 5)))
        ),
        Example({"k": 5}, (TensorType("scores", (2, 16, 25), batched=False), TensorType("map", (6, 4, 4), (_WINDOW,)))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        a, v = (*types, None, None)[:2]
        a, v = need(a, "scores", self, "a"), of_samples(self, need(v, "map", self, "v"), "v")
        if a.batched:
            same_frames(self, a=a, v=v)
        odd(self, self.k)
        fits(self, self.k, v.size, self.edge)
        if a.dims[2] != self.k * self.k:
            raise ShapeError(
                f"`local_mix[{self.k}]` applies {self.k * self.k} weights a position, got {int(a.dims[2])}"
                f" in {a.short()}",
                code="E-CHANNELS",
                port="a",
            )
        same_grid(self, "a", a.dims[1], v.size)
        divides(self, a.dims[0], v.channels, "channels of v", "", "E-HEADS")
        return (replace(v, batched=True),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].elements * self.k * self.k

    def torch(self, call: Call) -> Torch | str:
        a = call.inputs[0]
        assert a is not None
        call_text = f'local_mix({spread("a", a, "v")}, {{v}}, {{k}}, edge="{self.edge}")'
        return Torch(call_text, "", {"k": self.k}, ("local_mix",))
