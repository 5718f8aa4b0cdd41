"""local_scores: the scaled products of every query with the keys of its neighbourhood (2204.07143)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Frame, TensorType
from archdsl.ops._neighbourhood import fits, odd
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, divides, need, of_samples, same_frames

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class LocalScores(Op):
    """scale * q k^T per head over the k x k keys around each query: scores[heads, H * W, k * k].

    Keys outside the map get -100 (`edge = "mask"`) or 0 ("zero"); "shift" moves the neighbourhood into the map.
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "keys")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True

    k: int = attr(3, "neighbourhood size", low=1, search=(3, 5, 7))
    heads: int = attr(1, "number of heads", low=1)
    scale: float | None = attr(None, "factor on the products; none is (C / heads)^-0.5")
    edge: str = attr("mask", "what keys outside the map are", choices=("mask", "zero", "shift"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"k": 3, "heads": 2}, (TensorType("map", (8, 4, 5)),) * 2),
        Example({"k": 5, "scale": 1.0, "edge": "zero"}, (TensorType("map", (8, 4, 5)),) * 2),
        Example({"k": 3, "heads": 2, "edge": "shift"}, (TensorType("map", (8, 4, 4), (_WINDOW,)),) * 2),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        q, keys = (*types, None, None)[:2]
        q = of_samples(self, need(q, "map", self, "q"), "q")
        keys = of_samples(self, need(keys, "map", self, "keys"), "keys")
        same_frames(self, q=q, keys=keys)
        if q.dims != keys.dims:
            raise ShapeError(
                f"`local_scores`: q is {q.short()} but the keys are {keys.short()}", code="E-CHANNELS", port="keys"
            )
        odd(self, self.k)
        fits(self, self.k, q.size, self.edge)
        divides(self, self.heads, q.channels, "channels of q", "heads", "E-HEADS")
        return (TensorType("scores", (self.heads, q.positions, self.k * self.k), q.frames, grid=q.size),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * (inputs[0].channels // self.heads)

    def torch(self, call: Call) -> Torch | str:
        numbers: dict[str, Static] = {"k": self.k, "heads": self.heads}
        args = f'{{q}}, {{keys}}, {{k}}, {{heads}}, edge="{self.edge}"'
        if self.scale is not None:
            numbers["scale"] = self.scale
            args += ", scale={scale}"
        return Torch(f"local_scores({args})", "", numbers, ("local_scores",))
