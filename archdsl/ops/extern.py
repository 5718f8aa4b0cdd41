"""extern: a user's PyTorch module with a declared type and cost; only emitted code imports it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import TensorType, Weight
from archdsl.ops.base import Call, Op, Order, Torch, attr


@dataclass(frozen=True)
class Extern(Op):
    """An opaque module "package.module:Class", constructed with the call's compile-time arguments.

    `results` are (kind, dim, ...) tuples; `flops` are multiply-accumulates per sample, `params` a count.
    """

    ports: ClassVar[tuple[str, ...]] = ("*xs",)
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    callable: ClassVar[bool] = False

    target: str = attr(doc="the class, as package.module:Class")
    results: tuple[tuple[Static, ...], ...] = attr(doc="result types as (kind, dim, ...)")
    statics: tuple[tuple[str, Static], ...] = attr((), "constructor arguments")
    flops: int = attr(0, "multiply-accumulates per sample", low=0)
    params: int = attr(0, "parameters", low=0)

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        first = types[0]
        assert first is not None
        out = []
        for kind, *dims in self.results:
            out.append(replace(first, kind=str(kind), dims=tuple(d for d in dims if isinstance(d, int)), batched=True))
        return tuple(out)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return (Weight("opaque", (self.params,), "torch"),) if self.params else ()

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return self.flops

    def torch(self, call: Call) -> Torch | str:
        return f"the extern {self.target} has no PyTorch lowering yet"
