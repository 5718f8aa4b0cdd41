"""mix: applies scores to values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import TensorType
from archdsl.ops._neighbourhood import same_grid
from archdsl.ops.attend import attention_frames
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, divides, need, spread


@dataclass(frozen=True)
class Mix(Op):
    """a v per head: one weighted sum of the values per query; a map where the scores' queries were one."""

    ports: ClassVar[tuple[str, ...]] = ("a", "v")
    order: ClassVar[Order] = Order.GROUP
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("scores", (2, 12, 5), grid=(3, 4)), TensorType("tokens", (5, 8)))),
        Example({}, (TensorType("scores", (2, 3, 12)), TensorType("map", (8, 3, 4)))),
        Example({}, (TensorType("scores", (2, 3, 5), batched=False), TensorType("tokens", (5, 8)))),
        Example({}, (TensorType("scores", (2, 3, 6)), TensorType("map", (8, 2, 3), batched=False))),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        a, v = (*types, None, None)[:2]
        a, v = need(a, "scores", self, "a"), need(v, "map|tokens", self, "v")
        frames = attention_frames(self, "a", a, v=v)
        if a.dims[2] != v.positions:
            raise ShapeError(
                f"`mix`: {int(a.dims[2])} weights a query for {int(v.positions)} values", code="E-CHANNELS", port="v"
            )
        divides(self, a.dims[0], v.channels, "channels of v", "", "E-HEADS")
        if a.grid is None:
            return (TensorType("tokens", (a.dims[1], v.channels), frames),)
        same_grid(self, "a", a.dims[1], a.grid)
        return (TensorType("map", (v.channels, *a.grid), frames),)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * int(inputs[0].dims[2])

    def torch(self, call: Call) -> Torch | str:
        a, v = call.inputs[:2]
        assert a is not None and v is not None
        numbers: dict[str, Static] = {} if a.grid is None else {"grid": a.grid}
        grid = "" if a.grid is None else ".unflatten(1, {grid})"
        return Torch(f"mix({{a}}, {spread('v', v, 'a')}){grid}", "", numbers, ("mix",))
