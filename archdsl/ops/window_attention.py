"""window_attention: attention in the windows of a map that is not cut, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.attend import Attend
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, pair
from archdsl.ops.complete import Complete
from archdsl.ops.grids import Grids
from archdsl.ops.windows import Windows, window_source

_QKV, _MAP = TensorType("map", (24, 8, 12)), TensorType("map", (8, 8, 12))
_PARTS = (_MAP, _MAP, _MAP)


@dataclass(frozen=True)
class WindowAttention(Op):
    """What `attend` computes between cutting q, k and v and merging its result; q, k and v stay as they lie.

    A kernel finds the positions of a window by their indices. q may hold q, k and v one after the other, or k both of
    k and v. They have the size that `complete` gives a map; `like` has that of the result, and is read for it alone.
    Its rows and columns are shifted before what completes them is added, or after (`pad_first`). `grid`: cells that
    are spread over the map, as `grids` cuts them. `shared`: q is a window's, and every window has it (2206.09959).
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "k?", "v?", "bias?", "tau?", "like?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    measured: ClassVar[tuple[str, ...]] = ("like",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    heads: int = attr(1, "number of heads", low=1)
    scale: float | None = attr(None, "factor on the scores; none is (C / heads)^-0.5")
    size: int | Pair = attr(7, "window size", low=1)
    shift: int | Pair | None = attr(None, "cyclic shift; none is never", low=0)
    grid: bool = attr(False, "whether windows are spread over the map")
    pad_first: bool = attr(False, "whether what completes the map is shifted, too")
    clamp: bool = attr(True, "whether a window is never larger than the map")
    shared: bool = attr(False, "whether q is one window's, and those of all")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2, "size": 4}, (_QKV, None, None, None, None, _MAP)),
        Example(
            {"heads": 2, "size": 4, "shift": 2},
            (*_PARTS, TensorType("scores", (2, 16, 16), batched=False), None, _MAP),
        ),
        Example({"heads": 2, "size": 4, "grid": True}, (*_PARTS, None, None, _MAP)),
        Example(
            {"heads": 2, "size": 4, "shared": True},
            (TensorType("map", (8, 4, 4)), TensorType("map", (16, 8, 12)), None, None, None, _MAP),
        ),
        Example({"heads": 2, "size": (2, 4)}, (_MAP, TensorType("map", (16, 8, 12)), None, None, None, _MAP)),
        Example(
            {"heads": 2, "size": 4, "shift": 1, "scale": 1.0},
            (_QKV, None, None, None, TensorType("vec", (2,), batched=False), TensorType("map", (8, 7, 9))),
        ),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(size=pair(self.size), shift=None if self.shift is None else pair(self.shift))

    def cut(self) -> Windows | Grids:
        """What cuts a map of the result's size as this does."""
        if self.grid:
            return Grids(self.size)
        return Windows(self.size, self.shift, "before_roll" if self.pad_first else "after_roll", 0, self.clamp)

    def parts(self, *types: TensorType | None) -> tuple[TensorType, TensorType, TensorType]:
        """The maps that q, k and v are, or are parts of."""
        q, k, v = (*types, None, None)[:3]
        q = need(q, "map", self, "q")
        if k is None:
            third = q.with_channels(q.channels // 3)
            return third, third, third
        k = need(k, "map", self, "k")
        if v is None:
            half = k.with_channels(k.channels // 2)
            return q, half, half
        return q, k, need(v, "map", self, "v")

    def attention(self, *types: TensorType | None) -> tuple[Attend, list[TensorType | None]]:
        """The same in windows that were cut: the op and the types of its operands."""
        bias, tau, like = (*types, None, None, None)[3:6]
        like = need(like, "map", self, "like")
        parts = self.parts(*types)
        whole = like if self.grid else Complete(self.size, self.clamp).infer(like)[0]
        lying = parts[1:] if self.shared else parts
        if any(t.size != whole.size for t in lying) or any(t.frames or not t.batched for t in (*parts, whole)):
            raise ShapeError(f"`window_attention` needs q, k and v of {whole.short()}'s size, in no frame", port="q")
        made = [self.cut().infer(like.with_channels(t.channels)) for t in parts]
        cut: list[TensorType | None] = [one[0] for one in made]
        if self.shared and parts[0].size != made[0][0].size:
            raise ShapeError(f"`window_attention`: {parts[0].short()} is not a window's q", port="q")
        masked = self.shift is not None and not self.grid
        return Attend(self.heads, self.scale), [*cut, bias, tau, made[0][1] if masked else None]

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        op, operands = self.attention(*types)
        if any(t is not None and t.batched for t in operands[3:5]):
            raise ShapeError("`window_attention` takes no bias of each sample", code="E-BIAS", port="bias")
        (out,) = op.infer(*operands)
        like = need(types[5] if len(types) > 5 else None, "map", self, "like")
        return (like.with_channels(out.channels),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        op, operands = self.attention(*inputs)
        return op.macs(tuple(operands), op.infer(*operands))

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        op, operands = self.attention(*inputs)
        return op.instructions(tuple(operands), op.infer(*operands))

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        op, operands = self.attention(*inputs)
        return op.activations(tuple(operands), op.infer(*operands))

    def torch(self, call: Call) -> Torch | str:
        def one(numbers: Pair) -> Static:
            return numbers[0] if numbers[0] == numbers[1] else numbers

        like = need(call.inputs[5] if call.has(5) else None, "map", self, "like")
        numbers: dict[str, Static] = {"heads": self.heads, "size": window_source(self.size, like.size)}
        given = [f"{{{port}}}" for port, slot in (("q", 0), ("k", 1), ("v", 2)) if call.has(slot)]
        args = [*given, "heads={heads}", "size={size}", "extent={like}.shape[1:3]"]
        if self.shift is not None and not self.grid:
            args.append("shift={shift}")
            numbers["shift"] = one(pair(self.shift))
        args += ["grid=True"] * self.grid + ["pad_first=True"] * self.pad_first + ["clamp=False"] * (not self.clamp)
        args += ["shared=True"] * self.shared
        args += [f"{port}={{{port}}}" for port, slot in (("bias", 3), ("tau", 4)) if call.has(slot)]
        if self.scale is not None:
            args.append("scale={scale}")
            numbers["scale"] = self.scale
        helpers = ("windows", "seam_mask", "attend", *["grids"] * self.grid, "fused/window_attention")
        return Torch(f"window_attention({', '.join(args)})", "", numbers, helpers)
