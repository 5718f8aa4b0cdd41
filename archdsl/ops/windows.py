"""windows: cuts maps into windows, optionally shifted cyclically first (2103.14030) or overlapping (2103.12731)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.sizes import Size, ceil_div, expr_of, minimum
from archdsl.ir.types import Frame, Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, of_samples, pair


@dataclass(frozen=True)
class Windows(Op):
    """Cuts each map into windows of at most `size`: results are the maps in a window frame, then the frame.

    The window is clamped to the map, unless `clamp = false`, which pads a smaller map to a whole window; the shift
    is dropped on an axis whose map is not larger than the window; the map is shifted first and then padded with
    zeros at the bottom and right. `pad = "before_roll"` pads
    first (torchvision's order), `pad = "none"` refuses maps that do not tile. Attention inside the frame masks
    across the seam of the shift by itself. `halo = h` widens every window by h on all sides (keys that overlap);
    beyond the map it holds zeros.
    """

    ports: ClassVar[tuple[str, ...]] = ("*xs",)
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)

    size: int | Pair = attr(doc="window size", low=1, search=(7, 8, 14))
    shift: int | Pair | None = attr(None, "cyclic shift before cutting; none is never", low=0)
    pad: str = attr("after_roll", "order of padding and shift", choices=("after_roll", "before_roll", "none"))
    halo: int = attr(0, "how far windows reach into their neighbours", low=0)
    clamp: bool = attr(True, "whether a window is never larger than the map")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"size": 4}, (TensorType("map", (6, 8, 12)),)),
        Example({"size": 4, "shift": 2}, (TensorType("map", (6, 9, 12)),)),
        Example({"size": (2, 8)}, (TensorType("map", (6, 4, 4)), TensorType("map", (3, 4, 4)))),
        Example({"size": 4, "shift": 1, "pad": "before_roll"}, (TensorType("map", (6, 9, 5)),)),
        Example({"size": 4, "halo": 1}, (TensorType("map", (6, 8, 6)),)),
        Example({"size": 7, "shift": 3, "clamp": False}, (TensorType("map", (6, 5, 9)),)),
        Example({"size": 5, "halo": 1, "clamp": False}, (TensorType("map", (6, 3, 7)),)),
        Example({"size": 2}, (TensorType("map", (6, 4, 4), (Frame("window", (2, 3), (4, 4), (8, 12)),)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(size=pair(self.size), shift=None if self.shift is None else pair(self.shift))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        maps = [need(t, "map", self, "xs") for t in types]
        if not maps:
            raise ShapeError("`windows` needs a map to cut", code="E-ARITY", port="xs")
        for t in maps:
            of_samples(self, t, "xs")
        if any(t.size != maps[0].size or t.frames != maps[0].frames for t in maps):
            shapes = ", ".join(t.short() for t in maps)
            raise ShapeError(f"`windows` cuts maps of one size together, got {shapes}", code="E-WINDOW", port="xs")
        height, width = maps[0].size
        size, shift = pair(self.size), pair(self.shift or 0)
        inner = (minimum(height, size[0]), minimum(width, size[1])) if self.clamp else size
        for axis, s, w in zip("hw", shift, size, strict=True):
            if s >= w and s:
                raise ShapeError(
                    f"`windows`: a shift of {int(s)} is not smaller than the window {int(w)} ({axis})",
                    code="E-WINDOW",
                    attr="shift",
                    help=f"shift by {int(w) // 2}, half a window",
                )
        if self.halo and any(shift):
            raise ShapeError(
                "`windows`: a shifted frame cannot have a halo, the seam of the shift would lie inside it",
                code="E-WINDOW",
                attr="halo",
                help="drop the shift; with a halo neighbouring windows see each other already",
            )
        grid = ceil_div(height, size[0]), ceil_div(width, size[1])
        dropped = int(height) <= size[0], int(width) <= size[1]
        moved = tuple(0 if d else s for d, s in zip(dropped, shift, strict=True))
        frame = Frame("window", grid, inner, (height, width), (moved[0], moved[1]), self.halo, self.shift is not None)
        if self.pad == "none" and frame.padded:
            axis_at = 0 if height % inner[0] else 1
            n, w = int((height, width)[axis_at]), int(inner[axis_at])
            fits = [d for d in range(2, n + 1) if n % d == 0]
            near = ", ".join(map(str, sorted(sorted(fits, key=lambda d: abs(d - w))[:3])))
            raise ShapeError(
                f"window {w} does not tile the {int(height)}x{int(width)} feature map",
                code="E-WINDOW",
                attr="size",
                label=f"{n} is not a multiple of {w}",
                help=f"use a window that divides {n} ({near}), or let windows pad",
            )
        cell = inner[0] + 2 * self.halo, inner[1] + 2 * self.halo
        out = [replace(t, dims=(t.dims[0], *cell), frames=(*t.frames, frame)) for t in maps]
        return (*out, TensorType("frame", (), out[0].frames))

    def launches(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        frame = outputs[-1].frames[-1]
        return 1 + any(frame.shift) + frame.padded

    def torch(self, call: Call) -> Torch | str:
        together = len(call.inputs) > 1
        numbers: dict[str, Static] = {"size": self.size_source(call)}
        fixed = "" if self.clamp else ", clamp=False"
        order = (", pad_first=True" if self.pad == "before_roll" else "") + fixed
        if self.halo:
            if together:
                return "windows with a halo are cut one map at a time in PyTorch"
            return Torch(
                f"halo_windows({{xs}}, {{size}}, {{halo}}{fixed})", "", numbers | {"halo": self.halo}, ("halo_windows",)
            )
        if self.shift is None and together:
            return Torch(f"windows_alike({{size}}, {{xs}}{order})", "", numbers, ("windows",))
        if self.shift is None:
            return Torch(f"windows({{xs}}, {{size}}{order})", "", numbers, ("windows",))
        shift = pair(self.shift)
        extent = call.outputs[-1].frames[-1].extent
        numbers |= {"extent": extent, "shift": shift[0] if shift[0] == shift[1] else shift}
        cut = f"ShiftedWindows({{extent}}, {{size}}, {{shift}}{order})"
        return Torch("{self}({xs})", cut, numbers, ("shifted_windows",), recomputed=("extent",))

    def size_source(self, call: Call) -> Static:
        """The window as the emitted code states it."""
        x = call.inputs[0]
        assert x is not None
        return window_source(self.size, x.size)


def window_source(size: int | Pair, extent: Pair) -> Static:
    """A window as emitted code states it: an axis that is the map's own, whatever the input, is None."""
    whole = [isinstance(s, Size) and expr_of(s) == expr_of(n) for s, n in zip(pair(size), extent, strict=True)]
    height, width = (None if w else s for w, s in zip(whole, pair(size), strict=True))
    return height if height == width and height is not None else (height, width)
