"""rel_lookup: gathers a table of relative positions into a score per pair of positions (2103.14030)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.sizes import maximum
from archdsl.ir.types import Frame, Pair, TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class RelLookup(Op):
    """scores[h, i, j] = table[(yi - yj + Hk - 1) * (Wq + Wk - 1) + xi - xj + Wk - 1, h].

    Where not `signed`, the row is that of the distances alone, |yi - yj| and |xi - xj| (2104.01136). Queries stand at
    every `s`-th position of k. q and k (the same where k is not given) are read for their sizes only; tokens count as
    an N x 1 map.
    """

    ports: ClassVar[tuple[str, ...]] = ("table", "q", "k?")
    order: ClassVar[Order] = Order.GROUP
    measured: ClassVar[tuple[str, ...]] = ("q", "k")

    signed: bool = attr(True, "whether the direction of a distance matters")
    s: int = attr(1, "positions of k from one query to the next", low=1, high=1024)

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("tokens", (21, 3), batched=False), TensorType("map", (8, 2, 4)))),
        Example({}, (TensorType("tokens", (49, 3), batched=False), TensorType("map", (8, 4, 4), (_WINDOW,)))),
        Example({}, (TensorType("tokens", (20, 3)), TensorType("map", (8, 3, 4)), TensorType("map", (8, 2, 2)))),
        Example({}, (TensorType("tokens", (9, 3), batched=False), TensorType("tokens", (5, 8)))),
        Example({"signed": False}, (TensorType("tokens", (12, 3), batched=False), TensorType("map", (8, 3, 4)))),
        Example({"s": 2}, (TensorType("tokens", (48, 3)), TensorType("map", (8, 2, 3)), TensorType("map", (8, 4, 4)))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        table, q, k = (*types, None, None)[:3]
        table, q = need(table, "tokens", self, "table"), need(q, "map|tokens", self, "q")
        k = q if k is None else need(k, "map|tokens", self, "k")
        rows, columns = relative_extent(q, k, self.s, self.signed)
        if table.dims[0] != rows * columns:
            raise ShapeError(
                f"`rel_lookup`: the table has {int(table.dims[0])} rows, but there are {int(rows)} x {int(columns)}"
                f" relative positions of {q.short()} and {k.short()}",
                code="E-BIAS",
                port="table",
                help=f"make it param[{int(rows) * int(columns)}, heads]"
                + (", or rel_bias[heads](q) which does" if self.signed and self.s == 1 else ""),
            )
        return (TensorType("scores", (table.channels, q.positions, k.positions), table.frames, table.batched),)

    def torch(self, call: Call) -> Torch | str:
        q, k = call.inputs[1], call.inputs[2] if call.has(2) else call.inputs[1]
        assert q is not None and k is not None
        port = "k" if call.has(2) else "q"
        how = (f", step={self.s}" if self.s > 1 else "") + ("" if self.signed else ", signed=False")
        return Torch(
            f"{{self}}({{table}}, {size_source('q', q, call.axes)}, {size_source(port, k, call.axes)})",
            f"RelativeIndex({{size}}, {{keys}}{how})",
            {"size": q.size, "keys": k.size},
            ("relative_index",),
            recomputed=("size", "keys"),
        )


def relative_extent(q: TensorType, k: TensorType, s: int = 1, signed: bool = True) -> Pair:
    """How many distances there are between positions of q, `s` apart, and of k, on each axis."""
    axes = zip(q.size, k.size, strict=True)
    rows, columns = ((n * s + m - s if signed else maximum(n * s - s + 1, m)) for n, m in axes)
    return rows, columns


def size_source(port: str, t: TensorType, axes: str) -> str:
    """Source of an operand's (H, W) at run time; tokens are (N, 1)."""
    if t.kind == "tokens":
        return f"({{{port}}}.shape[-2], 1)"
    return f"{{{port}}}.shape[{'-3:-1' if axes == 'last' and t.batched else '-2:'}]"
