"""tile: repeats a value in every frame of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch, need

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class Tile(Op):
    """Repeats x in each of the frames that `like` has and x has not (2206.09959's global query)."""

    ports: ClassVar[tuple[str, ...]] = ("x", "like")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (8, 4, 4)), TensorType("map", (6, 4, 4), (_WINDOW,)))),
        Example({}, (TensorType("vec", (8,)), TensorType("tokens", (5, 6), (_WINDOW,)))),
        Example({}, (TensorType("tokens", (3, 8), batched=False), TensorType("map", (6, 4, 4), (_WINDOW,)))),
        Example({}, (TensorType("map", (8, 2, 3), batched=False), TensorType("map", (6, 4, 4), (_WINDOW,)))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x, like = (*types, None, None)[:2]
        x = need(x, "map|tokens|vec", self)
        like = need(like, "map|tokens|vec|scores", self, "like")
        if not like.batched or not like.frames:
            raise ShapeError(
                f"`tile` repeats x in the frames of `like`, but {like.short()} is not in any frame",
                code="E-FRAME",
                port="like",
                help="drop the tile, or cut `like` first, e.g. k |> windows[7]",
            )
        if like.frames[: len(x.frames)] != x.frames:
            raise ShapeError(
                f"`tile`: x is {x.short()}, which is not around the frames of {like.short()}",
                code="E-FRAME",
                port="x",
                help="merge(...) x first",
            )
        return (replace(x, frames=like.frames, batched=True),)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        if x.batched:
            return Torch("{x}.repeat_interleave({like}.shape[0] // {x}.shape[0], 0)")
        stored = "{x}.permute(1, 2, 0)" if x.kind == "map" and call.axes == "last" else "{x}"
        return Torch(stored + ".expand({like}.shape[0]" + ", -1" * len(x.dims) + ")")
