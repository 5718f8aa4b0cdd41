"""scores: the scaled products of queries and keys, before any softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Frame, TensorType
from archdsl.ops.attend import attention_frames, mask_fits, masked
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, divides, need, spread

_SHIFTED = Frame("window", (2, 2), (4, 4), (7, 8), (2, 1), shifts=True)


@dataclass(frozen=True)
class Scores(Op):
    """scale * q k^T per head: scores[heads, Nq, Nk], which remembers the grid of q if q is a map.

    In a shifted window frame, pairs across the seam get -100 (2103.14030).
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "k", "frame?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True

    heads: int = attr(1, "number of heads", low=1)
    scale: float | None = attr(None, "factor on the products; none is (C / heads)^-0.5")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2}, (TensorType("map", (8, 4, 3)), TensorType("map", (8, 2, 2)))),
        Example(
            {"heads": 4, "scale": 1.0}, (TensorType("tokens", (3, 8), batched=False), TensorType("tokens", (5, 8)))
        ),
        Example(
            {"heads": 2}, (*(TensorType("map", (8, 4, 4), (_SHIFTED,)),) * 2, TensorType("frame", (), (_SHIFTED,)))
        ),
    )

    def wants_frame(self, *types: TensorType | None) -> bool:
        return masked(types)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        q, k = (*types, None, None)[:2]
        q, k = need(q, "map|tokens", self, "q"), need(k, "map|tokens", self, "k")
        frames = attention_frames(self, "q", q, k=k)
        mask_fits(self, frames, q=q, k=k)
        if q.channels != k.channels:
            message = f"`scores`: q has {q.channels} channels but k has {k.channels}"
            raise ShapeError(message, code="E-CHANNELS", port="k")
        divides(self, self.heads, q.channels, "channels of q", "heads", "E-HEADS")
        grid = q.size if q.kind == "map" else None
        return (TensorType("scores", (self.heads, q.positions, k.positions), frames, grid=grid),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * (inputs[0].channels // self.heads)

    def torch(self, call: Call) -> Torch | str:
        q, k = call.inputs[:2]
        assert q is not None and k is not None
        args = f"{spread('q', q, 'k')}, {spread('k', k, 'q')}, {{heads}}"
        numbers: dict[str, Static] = {"heads": self.heads}
        if self.scale is not None:
            args += ", scale={scale}"
            numbers["scale"] = self.scale
        if call.has(2):
            args += ", mask={frame}.mask"
        return Torch(f"scores({args})", "", numbers, ("scores",))
