"""zero_padding: makes zero what windows hold beyond the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, need

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
_PADDED = Frame("window", (2, 3), (4, 4), (7, 9), (2, 1), shifts=True)


@dataclass(frozen=True)
class ZeroPadding(Op):
    """A map in windows with zeros at the positions that are padding: as if it had only now been cut.

    What is computed of padding inside windows is not zero (a norm gives its bias), and attention sees it.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "frame?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    affine: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 4), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))),
        Example({}, (TensorType("map", (6, 4, 4), (_PADDED,)), TensorType("frame", (), (_PADDED,)))),
    )

    def wants_frame(self, *types: TensorType | None) -> bool:
        return True

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        frame = x.frames[-1] if x.frames else None
        if frame is None or frame.kind not in ("window", "grid") or frame.halo or x.size != frame.inner:
            raise ShapeError(f"`zero_padding` is for maps in windows, not {x.short()}", code="E-FRAME", port="x")
        return (x,)

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return int(outputs[0].frames[-1].padded)

    def torch(self, call: Call) -> Torch | str:
        return Torch("zero_padding({x}, {frame})", "", {}, ("zero_padding",))
