"""An op of one's own in one file: `roll`, a cyclic shift, which specs then call like any other.

archdsl check examples/shift_mixer.arch --ops examples/custom_op.py
archdsl build examples/shift_mixer.arch --ops examples/custom_op.py
python examples/custom_op.py     holds the op to its contract: shapes, costs and lowering agree with PyTorch

A class is an op; its name in snake case is what specs call. Running the file is how the op gets in, so give
`--ops` only files that you trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, torch_dim


@dataclass(frozen=True)
class Roll(Op):
    """Shifts a map cyclically by (down, right) positions: what leaves on one side comes back on the other."""

    order: ClassVar[Order] = Order.SENSITIVE

    down: int = attr(0, "rows to shift by; negative is up")
    right: int = attr(0, "columns to shift by; negative is left")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"down": 1}, (TensorType("map", (6, 4, 5)),)),
        Example({"down": -1, "right": 2}, (TensorType("map", (6, 4, 5)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map", self)
        for name, by, size in (("down", self.down, x.size[0]), ("right", self.right, x.size[1])):
            if abs(by) >= size:
                raise ShapeError(
                    f"`roll`: a shift of {by} on a map of {int(size)}", code="E-ATTR", attr=name, help="shift by less"
                )
        return (x,)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        dims = torch_dim(x, "H", call.axes), torch_dim(x, "W", call.axes)
        return Torch(f"{{x}}.roll(({{down}}, {{right}}), dims={dims})", "", {"down": self.down, "right": self.right})


if __name__ == "__main__":
    from archdsl.testing import check_op

    check_op(Roll)
    print("roll keeps its contract")
