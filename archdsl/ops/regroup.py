"""regroup: takes a map from the windows or cells that it is in to others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Frame, Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, of_samples, pair
from archdsl.ops.grids import Grids
from archdsl.ops.windows import Windows

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
_SHIFTED = Frame("window", (2, 3), (4, 4), (7, 9), (2, 1), shifts=True)
_GRID = Frame("grid", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class Regroup(Op):
    """What `merge` and then `windows` or `grids` do, in one move: the map in its new frame, then that frame.

    `since` is the shift of the windows that the move is prepared for, where it is not that of the windows x is in.
    """

    ports: ClassVar[tuple[str, ...]] = ("x", "frame?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    callable: ClassVar[bool] = False

    size: int | Pair = attr(doc="positions of a window or cell on each axis", low=1)
    to: str = attr("windows", "what to cut into", choices=("windows", "grids"))
    shift: int | Pair | None = attr(None, "cyclic shift before cutting; none is never", low=0)
    pad: str = attr("after_roll", "order of padding and shift", choices=("after_roll", "before_roll", "none"))
    clamp: bool = attr(True, "whether a window is never larger than the map")
    since: int | Pair | None = attr(None, "the shift that is usually undone", low=0)

    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            {"size": 4, "to": "grids"}, (TensorType("map", (6, 4, 4), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))
        ),
        Example({"size": 4}, (TensorType("map", (6, 4, 4), (_GRID,)), TensorType("frame", (), (_GRID,)))),
        Example(
            {"size": 4, "shift": 0, "since": 0},
            (TensorType("map", (6, 4, 4), (_SHIFTED,)), TensorType("frame", (), (_SHIFTED,))),
        ),
        Example(
            {"size": 4, "shift": (2, 1)},
            (TensorType("map", (6, 4, 4), (_SHIFTED,)), TensorType("frame", (), (_SHIFTED,))),
        ),
        Example({"size": (2, 5)}, (TensorType("map", (6, 4, 4), (_SHIFTED,)), TensorType("frame", (), (_SHIFTED,)))),
    )

    @classmethod
    def into(cls, cut: Windows | Grids, since: Pair | None = None) -> Regroup:
        """The move into what `cut` makes of a map."""
        if isinstance(cut, Grids):
            return cls(cut.size, "grids")
        return cls(cut.size, "windows", cut.shift, cut.pad, cut.clamp, since)

    @property
    def cut(self) -> Windows | Grids:
        """The op that makes the new frame of a map."""
        if self.to == "grids":
            return Grids(self.size)
        return Windows(self.size, self.shift, self.pad, clamp=self.clamp)

    def wants_frame(self, *types: TensorType | None) -> bool:
        return True

    def resolve(self, *types: TensorType | None) -> Op:
        shift, since = (None if s is None else pair(s) for s in (self.shift, self.since))
        return self.replace(size=pair(self.size), shift=shift, since=since)

    def whole(self, x: TensorType) -> TensorType:
        """The map that is in the frame. Raises ShapeError."""
        of_samples(self, x)
        frame = x.frames[-1] if x.frames else None
        if frame is None or frame.kind not in ("window", "grid") or frame.halo or x.size != frame.inner:
            raise ShapeError(f"`regroup` moves maps in windows or grids, not {x.short()}", code="E-FRAME", port="x")
        return replace(x, dims=(x.dims[0], *frame.extent), frames=x.frames[:-1])

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return self.cut.infer(self.whole(need(types[0], "map", self)))

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return int(inputs[0].frames != outputs[0].frames)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        frame = x.frames[-1]
        order = (", pad_first=True" if self.pad == "before_roll" else "") + ("" if self.clamp else ", clamp=False")
        numbers: dict[str, Static] = {"extent": frame.extent}
        recomputed = ["extent"]
        if self.to == "grids":
            (h, w), after = pair(self.size), "Grids({size})"
            numbers["size"] = h if h == w else (h, w)
        else:
            numbers["size"] = self.cut.size_source(replace(call, inputs=(self.whole(x),)))  # type: ignore[union-attr]
            shift = "" if self.shift is None else ", {shift}"
            after = "Windows({size}" + shift + order + ")"
            if self.shift is not None:
                numbers["shift"] = _one(pair(self.shift))
        since = _one(frame.shift if self.since is None else pair(self.since))
        if frame.kind == "grid":
            before, numbers["was"] = "Grids({was})", _one(frame.inner)
            recomputed.append("was")
        elif self.to == "windows" and frame.inner == call.outputs[0].frames[-1].inner:
            before = "Windows({size}, {since}" + order + ")"
        else:
            before, numbers["was"] = "Windows({was}, {since})", _one(frame.inner)
            recomputed.append("was")
        if "{since}" in before:
            numbers["since"] = since
            recomputed.append("since")
        helpers = ("regroup", "grid_cells") if "Grids" in before + after else ("regroup",)
        module = f"Regroup({{extent}}, {before}, {after})"
        return Torch("{self}({x}, {frame})", module, numbers, helpers, tuple(recomputed))


def _one(numbers: Pair) -> Static:
    """A pair, or the number that both of it are."""
    return numbers[0] if numbers[0] == numbers[1] else numbers
