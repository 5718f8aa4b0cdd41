"""rel_pos_q: a bias from products of queries and learnable relative positions, per axis (2112.01526)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.sizes import maximum
from archdsl.ir.types import Frame, Pair, TensorType, Weight
from archdsl.ops.attend import attention_frames
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, divides, need, of_samples

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))


@dataclass(frozen=True)
class RelPosQ(Op):
    """scores[h, i, j] = q[i] . rel_h[row distance] + q[i] . rel_w[column distance], q unscaled.

    Where q and k differ in size, distances are counted in steps of the finer one; where k reaches out of q's window by
    a halo, from the first position of one to the first position of the other (2103.12731).
    """

    ports: ClassVar[tuple[str, ...]] = ("q", "k")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True

    heads: int = attr(doc="number of heads", low=1)
    init: str = attr(
        "trunc_normal_tf(0.02)",
        "initialisation of rel_h and rel_w",
        choices=("trunc_normal_tf(0.02)", "lecun", "zeros"),
    )

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2}, (TensorType("map", (8, 4, 6)), TensorType("map", (8, 2, 3)))),
        Example({"heads": 1}, (TensorType("map", (8, 3, 2)), TensorType("map", (8, 3, 4)))),
        Example({"heads": 2}, (TensorType("map", (8, 4, 4), (_WINDOW,)),) * 2),
        Example(
            {"heads": 2, "init": "lecun"},
            (TensorType("map", (8, 4, 4), (_WINDOW,)), TensorType("map", (8, 6, 6), (replace(_WINDOW, halo=1),))),
        ),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        q, k = (*types, None, None)[:2]
        q = of_samples(self, need(q, "map", self, "q"), "q")
        k = of_samples(self, need(k, "map", self, "k"), "k")
        frames = attention_frames(self, "q", q, k=k)
        divides(self, self.heads, q.channels, "channels of q", "heads", "E-HEADS")
        return (TensorType("scores", (self.heads, q.positions, k.positions), frames, grid=q.size),)

    def _rows(self, q: TensorType, k: TensorType) -> Pair:
        return 2 * maximum(q.size[0], k.size[0]) - 1, 2 * maximum(q.size[1], k.size[1]) - 1

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        q, k = types[0], types[1]
        assert q is not None and k is not None
        dim = q.channels // self.heads
        return tuple(
            Weight(f"rel_{axis}", (rows, dim), self.init, resize="linear")
            for axis, rows in zip("hw", self._rows(q, k), strict=True)
        )

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        q, k = inputs[:2]
        assert q is not None and k is not None
        return q.elements * (int(k.size[0]) + int(k.size[1]))

    def torch(self, call: Call) -> Torch | str:
        q, k = call.inputs[:2]
        assert q is not None and k is not None
        rows, columns = self._rows(q, k)
        numbers = {"rows": rows, "columns": columns, "dim": q.channels // self.heads}
        how = {"lecun": ", lecun=True", "zeros": ", zeros=True"}.get(self.init, "")
        how += ", halo=True" if k.frames != q.frames else ""
        return Torch("{self}({q}, {k})", f"RelPosQ({{rows}}, {{columns}}, {{dim}}{how})", numbers, ("rel_pos_q",))
