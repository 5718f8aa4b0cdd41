"""map_attention: attention between two maps that are not cut, in windows of each, as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.sizes import ceil_div, minimum
from archdsl.ir.types import Pair, TensorType
from archdsl.ops.attend import Attend
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, pair
from archdsl.ops.windows import window_source

_MAP, _SMALL = TensorType("map", (8, 8, 12)), TensorType("map", (8, 4, 6))


@dataclass(frozen=True)
class MapAttention(Op):
    """What `attend` computes where queries and keys are cut differently, or positions count by axis; nothing is cut.

    Keys are in windows of `size` that reach into their neighbours by `halo` and hold zeros beyond the map; queries,
    already completed to whole windows, in as many. Where there is no size, all queries meet all keys. `rows` and
    `columns` are what each query adds to its scores with a row and a column of its keys (`rel_pos_axes`). `like` has
    the size of the result, if queries were completed, and is read for it alone; `pooled` is it, if they were pooled.
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "k", "v", "rows?", "columns?", "like?")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    measured: ClassVar[tuple[str, ...]] = ("like",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    heads: int = attr(1, "number of heads", low=1)
    scale: float | None = attr(None, "factor on the scores; none is (C / heads)^-0.5")
    size: int | Pair | None = attr(None, "window size of the keys; none is the whole map", low=1)
    halo: int = attr(0, "how far windows of keys reach into their neighbours", low=0)
    clamp: bool = attr(True, "whether a window is never larger than the map")
    pooled: Pair | None = attr(
        None, "size of the map of queries that were pooled in windows; none is of those that were not"
    )

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2, "size": 4, "halo": 1}, (_MAP, _MAP, TensorType("map", (6, 8, 12)))),
        Example(
            {"heads": 2, "size": 4, "halo": 2, "scale": 1.0, "pooled": (4, 6)},
            (_SMALL, _MAP, _MAP, TensorType("map", (16, 4, 6)), TensorType("map", (16, 4, 6))),
        ),
        Example(
            {"heads": 2},
            (_MAP, _SMALL, _SMALL, TensorType("map", (8, 8, 12)), TensorType("map", (12, 8, 12))),
        ),
        Example(
            {"heads": 2, "size": 4, "halo": 1},
            (_MAP, *(TensorType("map", (8, 7, 9)),) * 2, None, None, TensorType("map", (8, 7, 9))),
        ),
        Example(
            {"heads": 2, "size": 4, "halo": 1, "clamp": False},
            (TensorType("map", (8, 4, 8)), *(TensorType("map", (8, 3, 5)),) * 2, None, None, None),
        ),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        return self if self.size is None else self.replace(size=pair(self.size))

    def attention(self, *types: TensorType | None) -> tuple[Attend, list[TensorType | None], int]:
        """The same with windows as samples: the op, the types of its operands, and how many windows there are."""
        q, k, v, rows, columns = (*types, None, None, None, None, None)[:5]
        q, k, v = need(q, "map", self, "q"), need(k, "map", self, "k"), need(v, "map", self, "v")
        if any(t.frames or not t.batched for t in (q, k, v)) or k.size != v.size:
            raise ShapeError("`map_attention` needs maps of each sample, in no frame, and v of k's size", port="k")
        queries, keys = sides(q, k, self.size, self.halo, self.clamp)
        if self.size is not None and any(
            n != w * ceil_div(m, s) for n, w, m, s in zip(q.size, queries, k.size, pair(self.size), strict=True)
        ):
            raise ShapeError(f"`map_attention`: {q.short()} is not cut into as many windows as {k.short()}", port="q")
        for port, given, side in (("rows", rows, keys[0]), ("columns", columns, keys[1])):
            if given is not None and (given.size != q.size or given.channels != self.heads * side):
                message = f"`map_attention`: {port} is {given.short()}, not {int(self.heads * side)} for each of q"
                raise ShapeError(message, port=port)
        if (rows is None) != (columns is None):
            raise ShapeError("`map_attention` takes rows and columns, or none of the two", port="rows")
        cut: list[TensorType | None] = [q.with_size(*queries), k.with_size(*keys), v.with_size(*keys)]
        cells = int(q.positions) // max(1, int(queries[0]) * int(queries[1]))
        return Attend(self.heads, self.scale), cut, cells

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        op, operands, _ = self.attention(*types)
        (out,) = op.infer(*operands)
        q, like = need(types[0], "map", self, "q"), types[5] if len(types) > 5 else None
        if self.pooled is not None and (like is not None or self.pooled != q.size):
            raise ShapeError(f"`map_attention`: {q.short()} is not what pooled queries are", attr="pooled")
        like = q if like is None else need(like, "map", self, "like")
        result = like.with_channels(out.channels)
        return (result if self.pooled is None else result.with_size(*self.pooled),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        op, operands, cells = self.attention(*inputs)
        return cells * op.macs(tuple(operands), op.infer(*operands))

    def instructions(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        op, operands, cells = self.attention(*inputs)
        return cells * op.instructions(tuple(operands), op.infer(*operands))

    def activations(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        op, operands, cells = self.attention(*inputs)
        return cells * op.activations(tuple(operands), op.infer(*operands))

    def torch(self, call: Call) -> Torch | str:
        given = "{q}, {k}, {v}" + (", {rows}, {columns}" if call.has(3) else "")
        k = need(call.inputs[1], "map", self, "k")
        cut, sizes = cut_source(k, self.size, self.halo, self.clamp)
        args = f"{given}, heads={{heads}}{cut}" + (", extent={like}.shape[1:3]" if call.has(5) else "")
        numbers: dict[str, Static] = {"heads": self.heads, **sizes}
        if self.scale is not None:
            args += ", scale={scale}"
            numbers["scale"] = self.scale
        helpers = ("windows", "halo_windows", "attend", "fused/map_attention")
        return Torch(f"map_attention({args})", "", numbers, helpers)


def sides(q: TensorType, k: TensorType, size: int | Pair | None, halo: int, clamp: bool) -> tuple[Pair, Pair]:
    """Rows and columns of a window of queries, and of one of keys with its halo."""
    if size is None:
        return q.size, k.size
    found = []
    for n, m, w in zip(q.size, k.size, pair(size), strict=True):
        found.append((ceil_div(n, ceil_div(m, w)), (minimum(m, w) if clamp else w) + 2 * halo))
    (height, below), (width, beside) = found
    return (height, width), (below, beside)


def cut_source(k: TensorType, size: int | Pair | None, halo: int, clamp: bool) -> tuple[str, dict[str, Static]]:
    """How emitted code states the windows of keys, with the numbers in it."""
    if size is None:
        return "", {}
    text, numbers = ", size={size}", dict[str, Static](size=window_source(size, k.size))
    if halo:
        text, numbers = text + ", halo={halo}", {**numbers, "halo": halo}
    return text + ("" if clamp else ", clamp=False"), numbers
