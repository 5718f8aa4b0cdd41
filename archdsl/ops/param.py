"""param: a learnable tensor that belongs to no other op."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from archdsl.ir.types import TensorType, Weight
from archdsl.ops._initial import of_number, read_init
from archdsl.ops.base import Call, Example, Ints, Op, ShapeError, Torch, attr

KIND_OF_RANK = {1: "vec", 2: "tokens", 3: "map"}

FILLS = {
    "zeros": "torch.zeros({shape})",
    "ones": "torch.ones({shape})",
    "constant": "torch.full(({tuple}), {{value}})",
    "normal": "nn.init.normal_(torch.empty({shape}), std={{value}})",
    "trunc_normal": "nn.init.trunc_normal_(torch.empty({shape}), std={{value}})",
    "trunc_normal_tf": (
        "nn.init.trunc_normal_(torch.empty({shape}), std={{value}}, a=-2 * {{value}}, b=2 * {{value}})"
    ),
    "uniform": "nn.init.uniform_(torch.empty({shape}), -{{value}}, {{value}})",
}


@dataclass(frozen=True)
class Param(Op):
    """A learnable vec[C], tokens[N, C] or map[C, H, W], by the number of its sizes.

    A parameter whose shape follows the input's resolution must say by `resize` how a checkpoint of another
    resolution is brought to this one; "none" refuses.
    """

    ports: ClassVar[tuple[str, ...]] = ()
    variadic: ClassVar[str] = "shape"
    affine: ClassVar[bool] = True
    view: ClassVar[bool] = True

    shape: Ints = attr(doc="sizes: [C], [N, C] or [C, H, W]", low=1)
    init: float | str = attr("zeros", "a number, or the name of an initialisation")
    resize: str | None = attr(
        None, "how to resample it at another resolution", choices=("bicubic", "bilinear", "linear", "none")
    )

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"shape": (6,), "init": 1e-6}, ()),
        Example({"shape": (1, 8)}, ()),
        Example({"shape": (6,), "init": 1}, ()),
        Example({"shape": (10, 8), "init": "trunc_normal(0.02)", "resize": "bicubic"}, ()),
        Example({"shape": (4, 3, 5), "init": "normal(1)"}, ()),
        Example({"shape": (4, 3, 5), "init": "uniform(0.1)", "resize": "none"}, ()),
    )

    def resolve(self, *types: TensorType | None) -> Op:
        if isinstance(self.init, str):
            return self
        if not math.isfinite(self.init):
            raise ShapeError(f"`param`: {self.init} is not an initial value", code="E-ATTR", attr="init")
        return self.replace(init=of_number(self.init))

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        read_init(self, str(self.init))
        if len(self.shape) not in KIND_OF_RANK or any(d < 1 for d in self.shape):
            raise ShapeError(
                f"`param` has sizes [{', '.join(str(int(d)) for d in self.shape)}]",
                code="E-ATTR",
                attr="shape",
                help="one size makes a vec[C], two tokens[N, C], three a map[C, H, W]; each is at least 1",
            )
        return (TensorType(KIND_OF_RANK[len(self.shape)], self.shape, batched=False),)

    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return (Weight("", self.shape, str(self.init), resize=self.resize or ""),)

    def torch(self, call: Call) -> Torch | str:
        name, value = read_init(self, str(self.init))
        holes = [f"{{d{i}}}" for i in range(len(self.shape))]
        shape, one_tuple = ", ".join(holes), ", ".join(holes) + ("," if len(holes) == 1 else "")
        numbers: dict[str, int | float] = {f"d{i}": int(d) for i, d in enumerate(self.shape)}
        fill = FILLS[name].format(shape=shape, tuple=one_tuple)
        if "{value}" in fill:
            numbers["value"] = value
        return Torch("{self}", f"nn.Parameter({fill})", numbers)
