"""constant: a tensor that a pass has computed of parameters, in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import AXES, Pair, TensorType, Weight
from archdsl.ops.base import Call, Example, Ints, Op, ShapeError, Torch, attr


@dataclass(frozen=True)
class Constant(Op):
    """A value of any kind that is the same for all samples. Only passes make one, in deploy mode."""

    ports: ClassVar[tuple[str, ...]] = ()
    view: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    kind: str = attr(doc="kind of value", choices=("map", "tokens", "vec", "scores"))
    shape: Ints = attr(doc="its sizes", low=1)
    grid: Pair | None = attr(None, "the grid of the queries of scores")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"kind": "scores", "shape": (2, 6, 4), "grid": (2, 3)}, ()),
        Example({"kind": "map", "shape": (3, 2, 4)}, ()),
        Example({"kind": "tokens", "shape": (5, 3)}, ()),
        Example({"kind": "vec", "shape": (3,)}, ()),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        if len(self.shape) != len(AXES[self.kind]):
            raise ShapeError(f"`constant`: {self.kind} has {len(AXES[self.kind])} sizes", code="E-ATTR", attr="shape")
        return (TensorType(self.kind, self.shape, batched=False, grid=self.grid),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return (Weight("", self.shape, "zeros"),)

    def torch(self, call: Call) -> Torch | str:
        holes = ", ".join(f"{{d{i}}}" for i in range(len(self.shape)))
        return Torch("{self}", f"nn.Parameter(torch.zeros({holes}))", {f"d{i}": d for i, d in enumerate(self.shape)})
