"""drop_path: stochastic depth, the whole branch of a sample dropped at random (1603.09382)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch, attr, need

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class DropRate:
    """A share of the module's `drop_path_rate`: that of block `index` of 0..`last`, or of position `t`."""

    index: int = 0
    last: int = 0
    scale: float = 1.0
    t: float | None = None

    @property
    def share(self) -> float:
        """What `drop_path_rate` is multiplied with."""
        if self.t is not None:
            return float(self.t * self.scale)
        return self.index / self.last * self.scale if self.last else 0.0


@dataclass(frozen=True)
class DropPath(Op):
    """Zeroes whole samples with probability dpr * position * scale while training, and rescales the others.

    In a frame it zeroes whole cells, as TNT's inner blocks do (2103.00112), or with `whole` the samples all the same.

    The position is `t`, or index / last of the scheduled block it stands in (0 where there is only one).
    """

    t: float | None = attr(None, "position in the schedule, 0 to 1; none is the block's own", low=0, high=1)
    scale: float = attr(1, "factor on the rate", low=0, high=1)
    index: int = attr(0, "number of the scheduled block; filled in", low=0)
    last: int = attr(0, "number of the last scheduled block; filled in", low=0)

    whole: bool = attr(False, "whether a sample that is in a frame is dropped as a whole")

    ports: ClassVar[tuple[str, ...]] = ("x", "frame?")
    training: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]] = (
        Example({"index": 2, "last": 11}, (TensorType("map", (3, 2, 4)),)),
        Example({"t": 0.5, "scale": 0.75}, (TensorType("tokens", (5, 3)),)),
        Example(
            {"t": 0.5, "whole": True}, (TensorType("map", (3, 4, 4), (_WINDOW,)), TensorType("frame", (), (_WINDOW,)))
        ),
    )

    def wants_frame(self, *types: TensorType | None) -> bool:
        return self.whole and types[0] is not None and bool(types[0].frames)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec|scores", self)
        if not x.batched:
            raise ShapeError(f"`drop_path` drops samples, but {x.short()} is a parameter", code="E-KIND", port="x")
        if self.index > self.last:
            raise ShapeError(f"`drop_path`: block {self.index} of 0..{self.last}", code="E-ATTR", attr="index")
        return (x,)

    def torch(self, call: Call) -> Torch | str:
        rate = DropRate(self.index, self.last, self.scale, self.t)
        expr = "{self}({x}, {frame}.cells)" if call.has(1) else "{self}({x})"
        return Torch(expr, "DropPath({rate})", {"rate": rate}, ("drop_path",))  # type: ignore[dict-item]
