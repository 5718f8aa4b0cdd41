"""local_mix_in_place: predicted k x k kernels and the softmax they come from, as one kernel (2103.06255)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need
from archdsl.ops.local_mix import LocalMix

_SCORES, _MAP = TensorType("scores", (2, 20, 9), grid=(4, 5)), TensorType("map", (16, 4, 5))


@dataclass(frozen=True)
class LocalMixInPlace(Op):
    """What `local_mix` computes from a + bias, or from its softmax, with no copies of the neighbourhoods."""

    ports: ClassVar[tuple[str, ...]] = ("a", "v", "bias?")
    order: ClassVar[Order] = Order.SENSITIVE
    axes: ClassVar[tuple[str, ...]] = ("last",)
    matmul: ClassVar[bool] = True
    callable: ClassVar[bool] = False

    k: int = attr(3, "neighbourhood size", low=1)
    edge: str = attr("zero", "what values outside the map are", choices=("zero", "shift"))
    softmax: bool = attr(False, "whether the weights are the softmax of the scores")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (_SCORES, _MAP)),
        Example(
            {"edge": "shift", "softmax": True},
            (_SCORES, _MAP, TensorType("scores", (2, 20, 9), batched=False, grid=(4, 5))),
        ),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        a, v, bias = (*types, None, None, None)[:3]
        a = need(a, "scores", self, "a")
        if not a.batched or (bias is not None and (bias.batched or bias.kind != "scores" or bias.dims != a.dims)):
            raise ShapeError("`local_mix_in_place` takes scores of each sample, and a bias of their size", port="a")
        return LocalMix(self.k, self.edge).infer(a, v)

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return outputs[0].elements * self.k * self.k

    def torch(self, call: Call) -> Torch | str:
        args = f'{{a}}, {{v}}, {{k}}, edge="{self.edge}"' + ", softmax=True" * self.softmax
        args += ", bias={bias}" * call.has(2)
        return Torch(f"local_mix_in_place({args})", "", {"k": self.k}, ("local_mix", "fused/local_mix_in_place"))
