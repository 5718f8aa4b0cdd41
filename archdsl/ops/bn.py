"""bn: batch normalisation (1502.03167)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops._initial import of_number
from archdsl.ops.base import Call, Example, Op, Order, ShapeError, Torch, attr, need, unpadded


@dataclass(frozen=True)
class Bn(Op):
    """Normalises each channel over batch, positions and frames; in eval mode, or `frozen`, by running statistics."""

    order: ClassVar[Order] = Order.REDUCES
    axes: ClassVar[tuple[str, ...]] = ("first",)
    affine: ClassVar[bool] = True

    eps: float = attr(1e-5, "added to the variance", low=0)
    init: float = attr(1, "initial value of the weight")
    momentum: float = attr(0.1, "weight of a new batch in the running statistics", low=0, high=1)
    frozen: bool = attr(False, "use the running statistics in training, too")

    slots: ClassVar[int] = 2
    examples: ClassVar[tuple[Example, ...]] = (
        Example({}, (TensorType("map", (6, 4, 5)),)),
        Example({"init": 0, "eps": 1e-3}, (TensorType("tokens", (5, 6)),)),
        Example({"momentum": 0.03}, (TensorType("vec", (6,)),)),
        Example({"frozen": True}, (TensorType("map", (6, 4, 5)),)),
        Example({"frozen": True, "eps": 1e-3}, (TensorType("tokens", (5, 6)),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], "map|tokens|vec", self)
        if not x.batched:
            raise ShapeError(
                f"`bn` normalises over the batch, but {x.short()} is a parameter and has none",
                code="E-KIND",
                port="x",
                help="use ln, or apply bn after combining the parameter with the features",
            )
        return (unpadded(self, x),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert types[0] is not None
        shape = (types[0].channels,)
        return (
            Weight("weight", shape, of_number(self.init)),
            Weight("bias", shape),
            Weight("running_mean", shape, kind="buffer"),
            Weight("running_var", shape, "ones", kind="buffer"),
            Weight("num_batches_tracked", (), kind="buffer", dtype="int64"),
        )

    def timm_flops(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return 2 * outputs[0].elements

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        numbers: dict[str, int | float] = {"c": x.channels, "eps": self.eps}
        momentum = ""
        expr = "{self}({x})"
        if x.kind == "tokens":  # contiguous: torch.compile foresees other strides than the kernel leaves
            expr = "{self}({x}.transpose(1, 2).contiguous()).transpose(1, 2)"
        if self.frozen:
            return Torch(expr, "FrozenBatchNorm({c}, eps={eps})", numbers, ("frozen_batch_norm",))
        if self.momentum != 0.1:
            momentum, numbers["momentum"] = ", momentum={momentum}", self.momentum
        return Torch(expr, f"nn.BatchNorm{2 if x.kind == 'map' else 1}d({{c}}, eps={{eps}}{momentum})", numbers)
