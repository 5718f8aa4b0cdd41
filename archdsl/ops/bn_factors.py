"""bn_factors: what a frozen batch normalisation multiplies by and adds, for the layer before it to take in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Example, Op, Torch, attr
from archdsl.ops.bn import Bn


@dataclass(frozen=True)
class BnFactors(Op):
    """What a frozen bn multiplies each channel by, and what it then adds, as two rows."""

    ports: ClassVar[tuple[str, ...]] = ()
    callable: ClassVar[bool] = False

    dim: int = attr(doc="channels", low=1)
    eps: float = attr(1e-5, "added to the variance", low=0)

    examples: ClassVar[tuple[Example, ...]] = (Example({"dim": 6}, ()), Example({"dim": 6, "eps": 1e-3}, ()))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (TensorType("tokens", (2, self.dim), batched=False),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return Bn(eps=self.eps).weights(TensorType("vec", (self.dim,)))

    def torch(self, call: Call) -> Torch | str:
        numbers = {"c": self.dim, "eps": self.eps}
        return Torch("{self}.factors()", "FrozenBatchNorm({c}, eps={eps})", numbers, ("frozen_batch_norm",))
