"""l2norm: channels scaled to unit length, per group of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Torch, attr, divides, need, torch_dim


@dataclass(frozen=True)
class L2norm(Op):
    """Divides each group of channels (a head) of every position by its L2 norm, at least `eps`."""

    groups: int = attr(1, "number of channel groups", low=1)
    eps: float = attr(1e-12, "the least length that is divided by", low=0)

    slots: ClassVar[int] = 5
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"groups": 3}, (TensorType("map", (6, 4, 5)),)),
        Example({"groups": 2}, (TensorType("tokens", (5, 6)),)),
        Example({"groups": 2}, (TensorType("vec", (6,), batched=False),)),
        Example({"groups": 2}, (TensorType("map", (6, 4, 5), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec", self)
        divides(self, self.groups, x.channels, "channels", "groups", "E-GROUPS")
        return (x,)

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        numbers: dict[str, int | float] = {"groups": self.groups}
        dim = torch_dim(x, "C", call.axes)
        arguments = "{x}, {groups}" + ("" if dim == -1 else f", dim={dim}")
        if self.eps != 1e-12:
            arguments, numbers["eps"] = arguments + ", eps={eps}", self.eps
        return Torch(f"l2norm({arguments})", "", numbers, ("l2norm",))
