"""What arithmetic on tensors shares: the broadcasting rule and how operands are aligned at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch, attr, need

ANY = "map|tokens|vec|scores"
CHANNELLED = ("map", "tokens")


def broadcast(op: Op, symbol: str, a: TensorType, b: TensorType) -> TensorType:
    """The type of `a symbol b`.

    Allowed are equal kinds with equal or size-1 axes, a vec onto channels, a parameter onto frames. A parameter
    of three axes combines with scores as [heads, Nq, Nk], for there is no other way to write one.
    Raises ShapeError E-FRAME where the frames disagree, else E-BROADCAST.
    """
    dims = _joint_dims(a, b)
    apart = a.frames != b.frames and not _spreads(a, b) and not _spreads(b, a)
    if dims is None or apart:
        code = "E-FRAME" if apart else "E-BROADCAST"
        raise ShapeError(f"cannot combine {a.short()} {symbol} {b.short()}", code=code, help=_way_out(a, b))
    shape_giver = _giver(a, b)
    return replace(
        shape_giver,
        dims=dims,
        frames=a.frames or b.frames,
        batched=a.batched or b.batched,
        grid=a.grid if a.grid is not None else b.grid,
    )


def _giver(a: TensorType, b: TensorType) -> TensorType:
    """The operand whose kind the result has."""
    rank = {"vec": 0, "tokens": 1, "map": 1, "scores": 2}
    return b if rank[b.kind] > rank[a.kind] else a


def _spreads(small: TensorType, large: TensorType) -> bool:
    """Whether `small` is a parameter outside all frames, which every frame of `large` sees alike."""
    return not small.batched and not small.frames and large.batched


def _joint_dims(a: TensorType, b: TensorType) -> tuple[int, ...] | None:
    if a.kind == b.kind or _as_scores(a, b) or _as_scores(b, a):
        pairs = zip(a.dims, b.dims, strict=True)
        return _joined([(x, y) if a.batched else (y, x) for x, y in pairs])
    for vec, other in ((a, b), (b, a)):
        if vec.kind == "vec" and other.kind in CHANNELLED:
            channels = _joined([(other.channels, vec.channels)])
            return None if channels is None else other.with_channels(channels[0]).dims
    return None


def _as_scores(param: TensorType, scores: TensorType) -> bool:
    return scores.kind == "scores" and param.kind == "map" and not param.batched


def _joined(axes: Sequence[tuple[int, int]]) -> tuple[int, ...] | None:
    """Sizes of the result; of two equal sizes the first, whose expression is the feature map's, is kept."""
    if any(x != y and x != 1 and y != 1 for x, y in axes):
        return None
    return tuple(x if x == y or y == 1 else y for x, y in axes)


def _way_out(a: TensorType, b: TensorType) -> str:
    framed = [t for t in (a, b) if t.frames]
    if a.frames != b.frames:
        if len(framed) == 1 and framed[0].frames[-1].kind == "window":
            return "one side is still split into windows; merge(...) it first"
        if len(framed) == 1:
            return f"one side is still in a {framed[0].frames[-1].kind} frame; merge(...) it first"
        return "the two sides were cut differently; merge(...) them first"
    kinds = {a.kind, b.kind}
    if kinds == {"map"}:
        if a.size != b.size:
            return "spatial sizes differ: a stride or resize is missing on one path" + _pooled(a, b)
        return f"channels differ: project one side, e.g. linear[{a.channels}]"
    if kinds == {"map", "tokens"}:
        return "flatten with tokens(...) or rebuild a map with to_map[H, W](...)"
    if kinds == {"tokens"}:
        if a.channels != b.channels:
            return f"channels differ: project one side, e.g. linear[{a.channels}]"
        by_one = abs(a.positions - b.positions) == 1
        return "the numbers of tokens differ" + (": a class token is on one side only" if by_one else "")
    vec, other = (a, b) if a.kind == "vec" else (b, a)
    if vec.kind == "vec" and other.kind in CHANNELLED:
        return f"channels differ: here a vec has {other.channels}"
    if "vec" in kinds and "scores" not in kinds:
        return f"channels differ: project one side, e.g. linear[{a.channels}]"
    return ""


def _pooled(a: TensorType, b: TensorType) -> str:
    """What brings the larger of two maps to the size of the smaller, where a whole factor does."""
    large, small = (a, b) if a.positions > b.positions else (b, a)
    (height, width), (h, w) = large.size, small.size
    if height % h or width % w or height // h != width // w:
        return ""
    return f"; avg_pool[{int(height // h)}](x) brings {int(height)}x{int(width)} to {int(h)}x{int(w)}"


def aligned(hole: str, t: TensorType, result: TensorType, axes: str) -> str:
    """The operand in `hole`, indexed or permuted so that PyTorch's broadcasting does what the rule says."""
    if t.kind == "map" and result.kind == "map" and not t.batched and result.batched and axes == "last":
        return f"{hole}.permute(1, 2, 0)"
    if t.kind != "vec" or result.kind == "vec":
        return hole
    if result.kind == "tokens":
        return f"{hole}[:, None]" if t.batched else hole
    first = axes == "first" or not result.batched
    if first:
        return f"{hole}[:, :, None, None]" if t.batched else f"{hole}[:, None, None]"
    return f"{hole}[:, None, None]" if t.batched else hole


@dataclass(frozen=True)
class Arithmetic(Op):
    """`a symbol b`, or `a symbol by` with a compile-time number, or `by symbol a` where `swap`."""

    abstract: ClassVar[bool] = True
    ports: ClassVar[tuple[str, ...]] = ("a", "b?")
    symbol: ClassVar[str] = ""

    by: float | None = attr(None, "the other side, where it is a number")
    swap: bool = attr(False, "the number is on the left")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (3, 2, 4)),) * 2),
        Example({}, (TensorType("map", (3, 2, 4)), TensorType("vec", (3,), batched=False))),
        Example({}, (TensorType("vec", (3,)), TensorType("map", (3, 2, 4)))),
        Example({}, (TensorType("map", (3, 2, 4)), TensorType("map", (1, 2, 4)))),
        Example({}, (TensorType("map", (3, 2, 4)), TensorType("map", (3, 2, 4), batched=False))),
        Example({}, (TensorType("map", (3, 1, 1)), TensorType("map", (3, 2, 4), batched=False))),
        Example({}, (TensorType("vec", (3,), batched=False), TensorType("map", (3, 2, 4), batched=False))),
        Example({}, (TensorType("vec", (3,)), TensorType("map", (3, 2, 4), batched=False))),
        Example({}, (TensorType("tokens", (5, 3)), TensorType("tokens", (5, 3), batched=False))),
        Example({}, (TensorType("tokens", (5, 3)), TensorType("vec", (3,)))),
        Example({}, (TensorType("tokens", (1, 3), batched=False), TensorType("vec", (3,)))),
        Example({}, (TensorType("vec", (3,)), TensorType("vec", (1,)))),
        Example({}, (TensorType("scores", (2, 5, 3)), TensorType("map", (2, 1, 3), batched=False))),
        Example({}, (TensorType("scores", (2, 5, 3), batched=False), TensorType("scores", (2, 5, 3)))),
        Example({"by": 0.5}, (TensorType("map", (3, 2, 4)),)),
        Example({"by": 2, "swap": True}, (TensorType("vec", (3,), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        a, b = need(types[0], ANY, self, "a"), types[1] if len(types) > 1 else None
        if b is None:
            if self.by is None:
                raise ShapeError(f"`{self.symbol}` needs two sides", code="E-ARITY", port="b")
            return (a,)
        if self.by is not None:
            raise ShapeError(
                f"`{self.symbol}` has both a tensor and the number {self.by} on one side",
                code="E-ARITY",
                port="b",
            )
        return (broadcast(self, self.symbol, a, need(b, ANY, self, "b")),)

    def torch(self, call: Call) -> Torch | str:
        a = call.inputs[0]
        assert a is not None
        if not call.has(1):
            sides = ("{by}", "{a}") if self.swap else ("{a}", "{by}")
            return Torch(f"{sides[0]} {self.symbol} {sides[1]}", "", {"by": self.by})
        b, result = call.inputs[1], call.outputs[0]
        assert b is not None
        left, right = aligned("{a}", a, result, call.axes), aligned("{b}", b, result, call.axes)
        return Torch(f"{left} {self.symbol} {right}")
