"""linear: one affine map of the channels, shared by all positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops._initial import bias_init, known_init, of_rows
from archdsl.ops.base import Call, Example, Op, Rows, ShapeError, Torch, attr, need


@dataclass(frozen=True)
class Linear(Op):
    """y = W x + b at every position. `axis = "key"` maps the keys of scores instead of channels, "head" their heads.

    W starts as `init` says: a distribution, "identity" where it is square, or its rows.
    """

    axes: ClassVar[tuple[str, ...]] = ("last",)
    affine: ClassVar[bool] = True
    matmul: ClassVar[bool] = True

    dim: int | None = attr(None, "output channels; the input's where not given", low=1)
    bias: bool = attr(True, "add a learnable bias")
    axis: str = attr("c", "the axis to map: channels, or the keys or heads of scores", choices=("c", "key", "head"))
    init: str | Rows = attr("trunc_normal(0.02)", "initialisation of the weight")
    bias_init: float | str | None = attr(None, "initialisation of the bias; none is zeros, or torch's where init is")

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"dim": 24}, (TensorType("map", (16, 4, 6)),)),
        Example({"bias": False}, (TensorType("tokens", (10, 16)),)),
        Example({"dim": 10}, (TensorType("vec", (16,)),)),
        Example({"dim": 9, "axis": "key"}, (TensorType("scores", (2, 6, 4)),)),
        Example({"dim": 3, "axis": "head"}, (TensorType("scores", (2, 6, 4), grid=(2, 3)),)),
        Example({"dim": 2, "init": ((1.0, -0.5, 0.0), (0.0, 2.0, 1.0))}, (TensorType("tokens", (5, 3)),)),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        x = need(types[0], "map|tokens|vec" if self.axis == "c" else "scores", self)
        return self if self.dim is not None else self.replace(dim=self._mapped(x))

    def _mapped(self, x: TensorType) -> int:
        """The length of the axis it maps."""
        return x.dims[0] if self.axis == "head" else x.channels

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        assert self.dim is not None and types[0] is not None
        self._start(self._mapped(types[0]))
        bias_init(self, str(self.init), self.bias_init)
        if self.axis == "head":
            return (replace(types[0], dims=(self.dim, *types[0].dims[1:])),)
        return (types[0].with_channels(self.dim),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        assert self.dim is not None and types[0] is not None
        mapped = self._mapped(types[0])
        weight = Weight("weight", (self.dim, mapped), self._start(mapped))
        bias = Weight("bias", (self.dim,), bias_init(self, str(self.init), self.bias_init))
        return (weight, bias) if self.bias else (weight,)

    def _start(self, channels: int) -> str:
        """How the weight starts, as text. Raises ShapeError."""
        assert self.dim is not None
        if not isinstance(self.init, str):
            return of_rows(self, self.init, (self.dim, channels))
        known_init(self, self.init, ("identity",))
        if self.init == "identity" and self.dim != channels:
            message = f'`linear`: "identity" needs as many outputs as inputs, not {self.dim} and {int(channels)}'
            raise ShapeError(message, code="E-ATTR", attr="init")
        return self.init

    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        assert inputs[0] is not None
        return outputs[0].elements * self._mapped(inputs[0])

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None and self.dim is not None
        bias = "" if self.bias else ", bias=False"
        numbers = {"c_in": self._mapped(x), "c_out": self.dim}
        expr = "{self}({x})"
        if self.axis == "head":
            expr = "{self}({x}.movedim(-3, -1)).movedim(-1, -3)"
        elif x.kind == "map" and not x.batched:
            expr = "{self}({x}.permute(1, 2, 0)).permute(2, 0, 1)"
        return Torch(expr, "nn.Linear({c_in}, {c_out}" + bias + ")", numbers)
