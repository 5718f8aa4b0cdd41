"""rel_pos_axes: products of queries and learnable relative positions, rows and columns apart (2112.01526)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import Pair, TensorType
from archdsl.ops.base import Call, Example, Torch, attr, divides, need, of_samples, pair
from archdsl.ops.map_attention import cut_source, sides
from archdsl.ops.rel_pos_q import RelPosQ

_MAP = TensorType("map", (8, 8, 12))


@dataclass(frozen=True)
class RelPosAxes(RelPosQ):
    """The two terms of `rel_pos_q` for the rows and the columns of keys, on the map of queries, which is not cut.

    Windows are those of `map_attention`.
    """

    callable: ClassVar[bool] = False

    size: int | Pair | None = attr(None, "window size of the keys; none is the whole map", low=1)
    halo: int = attr(0, "how far windows of keys reach into their neighbours", low=0)
    clamp: bool = attr(True, "whether a window is never larger than the map")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"heads": 2}, (_MAP, TensorType("map", (8, 4, 6)))),
        Example({"heads": 2, "size": 4}, (_MAP, _MAP)),
        Example({"heads": 2, "size": 4, "halo": 1, "init": "lecun"}, (TensorType("map", (8, 4, 6)), _MAP)),
        Example({"heads": 1, "size": (2, 4), "halo": 1}, (_MAP, TensorType("map", (8, 7, 9)))),
    )

    def resolve(self, *types: TensorType | None) -> RelPosAxes:
        made = self if self.size is None else self.replace(size=pair(self.size))
        assert isinstance(made, RelPosAxes)
        return made

    def windows(self, *types: TensorType | None) -> tuple[TensorType, TensorType]:
        """q and k in one window."""
        q, k = (*types, None, None)[:2]
        q = of_samples(self, need(q, "map", self, "q"), "q")
        k = of_samples(self, need(k, "map", self, "k"), "k")
        queries, keys = sides(q, k, self.size, self.halo, self.clamp)
        return q.with_size(*queries), k.with_size(*keys)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        _, k = self.windows(*types)
        q = need(types[0], "map", self, "q")
        divides(self, self.heads, q.channels, "channels of q", "heads", "E-HEADS")
        return tuple(q.with_channels(self.heads * n) for n in k.size)

    def _rows(self, q: TensorType, k: TensorType) -> Pair:
        return super()._rows(*self.windows(q, k))

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        q = need(inputs[0], "map", self, "q")
        return super().macs((q, self.windows(*inputs)[1]), outputs)

    def torch(self, call: Call) -> Torch | str:
        q, k = call.inputs[:2]
        assert q is not None and k is not None
        rows, columns = self._rows(q, k)
        more, windows = cut_source(k, self.size, self.halo, self.clamp)
        numbers = {"rows": rows, "columns": columns, "dim": q.channels // self.heads, **windows}
        how = {"lecun": ", lecun=True", "zeros": ", zeros=True"}.get(self.init, "") + ", halo=True" * (self.halo > 0)
        made = f"RelPosAxes({{rows}}, {{columns}}, {{dim}}{how})"
        return Torch(f"{{self}}({{q}}, {{k}}{more})", made, numbers, ("rel_pos_axes",))
