"""pack: folds every window into one position (2103.14030's patch merging)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need

_WINDOW = Frame("window", (2, 3), (2, 2), (4, 6))
_PADDED = Frame("window", (2, 3), (2, 2), (3, 5))


@dataclass(frozen=True)
class Pack(Op):
    """A map in windows becomes a map of windows: one position each, with the channels of all of its positions.

    `layout` names the new channel axis from slow to fast: (h, w, c), or (w, h, c) as in Swin's patch merging.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "frame?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)

    layout: str = attr("hwc", "the new channels, slow to fast", choices=("hwc", "whc"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 2, 2), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))),
        Example({"layout": "whc"}, (TensorType("map", (6, 2, 2), (_PADDED,)), TensorType("frame", (), (_PADDED,)))),
        Example({"layout": "whc"}, (TensorType("map", (6, 1, 2), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))),
    )

    def wants_frame(self, *types: TensorType | None) -> bool:
        x = types[0]
        return x is not None and bool(x.frames) and x.frames[-1].kind == "window"

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        if not x.frames or x.frames[-1].kind != "window":
            raise ShapeError(
                f"`pack` folds each window into one position, but {x.short()} is not in windows",
                code="E-FRAME",
                port="x",
                help="cut the map first, e.g. x |> windows[2] |> pack",
            )
        frame = x.frames[-1]
        if any(frame.shift):
            raise ShapeError(
                f"`pack`: the windows of {x.short()} are shifted, so their positions would wrap around the map",
                code="E-FRAME",
                port="x",
                help="cut the map without a shift",
            )
        channels = x.dims[0] * x.dims[1] * x.dims[2]
        return (replace(x, dims=(channels, *frame.grid), frames=x.frames[:-1]),)

    def torch(self, call: Call) -> Torch | str:
        windows = "{x}" if self.layout == "hwc" else "{x}.transpose(1, 2)"
        return Torch(windows + ".flatten(1).unflatten(0, (-1, *{frame}.grid))", "", {}, ("windows",))
