"""merge: undoes the innermost frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, need

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
_PADDED = Frame("window", (2, 3), (4, 4), (7, 9), (2, 1), shifts=True)
_GRID = Frame("grid", (2, 3), (4, 4), (8, 12))
_CHUNK = Frame("chunk", (3, 1), (4, 1), (12, 1))
_HEAD = Frame("head", (2, 1), (1, 1), (2, 1))


@dataclass(frozen=True)
class Merge(Op):
    """Puts the cells of the innermost frame back into one space, cropping padding and rolling a shift back.

    Where an op shrank the cells (a strided conv inside windows), the result is grid x inner; that is an error
    under padding, shift or halo, where cropping and rolling back have no meaning any more.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "frame?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 4), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))),
        Example({}, (TensorType("map", (6, 4, 4), (_PADDED,)), TensorType("frame", (), (_PADDED,)))),
        Example({}, (TensorType("map", (6, 2, 2), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))),
        Example({}, (TensorType("map", (6, 4, 4), (_GRID,)), TensorType("frame", (), (_GRID,)))),
        Example({}, (TensorType("tokens", (4, 6), (_CHUNK,)),)),
        Example({}, (TensorType("map", (6, 4, 5), (_HEAD,)),)),
        Example({}, (TensorType("tokens", (5, 6), (_WINDOW, _HEAD)),)),
        Example({}, (TensorType("vec", (6,), (_HEAD,)),)),
    )

    def wants_frame(self, *types: TensorType | None) -> bool:
        x = types[0]
        return x is not None and bool(x.frames) and x.frames[-1].kind in ("window", "grid")

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0] if types else None, "map|tokens|vec", self)
        if not x.frames:
            raise ShapeError(
                f"`merge` undoes windows, grids, chunks or by_head, but {x.short()} is not in any frame",
                code="E-FRAME",
                port="x",
                help="remove the merge, or cut the value first, e.g. x |> windows[7]",
            )
        frame, outer = x.frames[-1], x.frames[:-1]
        if frame.kind == "head":
            return (replace(x.with_channels(x.channels * frame.grid[0]), frames=outer),)
        if frame.kind == "chunk":
            need(x, "tokens", self)
            return (replace(x, dims=(x.dims[0] * frame.grid[0], x.dims[1]), frames=outer),)
        need(x, "map", self)
        if frame.halo:
            raise ShapeError(
                f"`merge`: the windows of {x.short()} overlap by a halo of {frame.halo}, so they cannot be put back",
                code="E-FRAME",
                port="x",
                help="attend from windows without a halo, and merge the result",
            )
        if x.size == frame.inner:
            return (replace(x, dims=(x.dims[0], *frame.extent), frames=outer),)
        if frame.padded or any(frame.shift):
            raise ShapeError(
                f"`merge`: {x.short()} changed size inside a padded or shifted {frame.kind} frame",
                code="E-FRAME",
                port="x",
                help="choose a window that tiles the map and no shift where a strided op runs inside windows",
            )
        height, width = frame.grid[0] * x.dims[1], frame.grid[1] * x.dims[2]
        return (replace(x, dims=(x.dims[0], height, width), frames=outer),)

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return 1 + any(inputs[0].frames[-1].shift)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        frame = x.frames[-1]
        if frame.kind in ("window", "grid"):
            helper = {"window": "windows", "grid": "grids"}[frame.kind]
            return Torch(f"merge_{helper}({{x}}, {{frame}})", "", {}, (helper,))
        if frame.kind == "chunk":
            return Torch("{x}.unflatten(0, (-1, {n})).flatten(1, 2)", "", {"n": frame.grid[0]})
        return Torch("merge_heads({x}, {heads})", "", {"heads": frame.grid[0]}, ("by_head",))
