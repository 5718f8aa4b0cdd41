"""lstm: a long short-term memory along the rows or columns of a map (2205.01972)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Order, Torch, attr, need, of_samples, unpadded


@dataclass(frozen=True)
class Lstm(Op):
    """Reads each row ("w") or column ("h") of a map, or of a frame, forth and back: map[2 * dim, H, W].

    Weights are those of torch.nn.LSTM. MACs are the products for the four gates, of inputs and of states; timm's
    tables count none of them.
    """

    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)

    dim: int = attr(doc="channels of the state: results of each direction", low=1)
    axis: str = attr("w", "the axis it runs along", choices=("h", "w"))
    bidirectional: bool = attr(True, "also run backwards, and join both results")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 4}, (TensorType("map", (6, 3, 5)),)),
        Example({"dim": 3, "axis": "h"}, (TensorType("map", (6, 4, 2)),)),
        Example({"dim": 5, "axis": "h", "bidirectional": False}, (TensorType("map", (4, 3, 3)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = unpadded(self, of_samples(self, need(types[0], "map", self)))
        return (x.with_channels(len(self._directions()) * self.dim),)

    def _directions(self) -> tuple[str, ...]:
        """What the names of each direction's weights end in."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        gates, init = 4 * self.dim, f"uniform({self.dim**-0.5!r})"
        shapes = {
            "weight_ih": (gates, types[0].channels),
            "weight_hh": (gates, self.dim),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
        }
        return tuple(Weight(f"{n}_l0{end}", s, init) for end in self._directions() for n, s in shapes.items())

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * 4 * (inputs[0].channels + self.dim)

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 0

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        one_way = "" if self.bidirectional else ", bidirectional=False"
        numbers = {"c": x.channels, "dim": self.dim, "axis": 1 if self.axis == "h" else 2}
        return Torch("{self}({x})", "LSTM({c}, {dim}, {axis}" + one_way + ")", numbers, ("lstm",))
