"""split: cuts a value into consecutive parts along one axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from archdsl.ir.graph import Static
from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Example, Op, Parts, ShapeError, Torch, attr, divisors_near, either, need

_WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
KINDS_WITH = {"c": "map|tokens|vec", "n": "tokens", "key": "scores"}
"""The kinds that have an axis, by the name `split` and `concat` give it."""


@dataclass(frozen=True)
class Split(Op):
    """Cuts channels ("c"), tokens ("n") or keys ("key") into `parts` equal parts, or into parts of the given sizes.

    One size may be `rest`: what the others leave.
    """

    view: ClassVar[bool] = True

    parts: Parts = attr(doc='number of parts, or their sizes, one of which may be "rest"', low=1)
    axis: str = attr("c", "axis to cut: channels, tokens or keys", choices=("c", "n", "key"))

    examples: ClassVar[tuple[Example, ...]] = (
        Example({"parts": 3}, (TensorType("map", (12, 4, 5)),)),
        Example({"parts": ("rest", 2, 3)}, (TensorType("map", (12, 4, 4), (_WINDOW,)),)),
        Example({"parts": (1, "rest"), "axis": "n"}, (TensorType("tokens", (17, 8)),)),
        Example({"parts": (9, "rest"), "axis": "key"}, (TensorType("scores", (2, 6, 13), grid=(2, 3)),)),
        Example({"parts": 2}, (TensorType("vec", (8,)),)),
        Example({"parts": (1, 4), "axis": "n"}, (TensorType("tokens", (5, 8), batched=False),)),
        Example({"parts": 2}, (TensorType("map", (8, 2, 3), batched=False),)),
    )

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        x = need(types[0], KINDS_WITH[self.axis], self)
        at = axis_of(x.kind, self.axis)
        grid = None if self.axis == "n" else x.grid
        return tuple(
            replace(x, dims=(*x.dims[:at], size, *x.dims[at + 1 :]), grid=grid) for size in self.sizes(x.dims[at], x)
        )

    def sizes(self, whole: int, x: TensorType) -> list[int]:
        """Sizes of the parts of an axis of `whole`. Raises E-SPLIT where they do not add up."""
        noun = {"c": "channels", "n": "tokens", "key": "keys"}[self.axis]
        if isinstance(self.parts, int):
            if whole % self.parts:
                near = divisors_near(whole, self.parts)
                raise ShapeError(
                    f"`split`: {self.parts} equal parts do not divide the {int(whole)} {noun} of {x.short()}",
                    code="E-SPLIT",
                    attr="parts",
                    help=f"use {either(near)} parts, or list their sizes: [{whole // self.parts or 1}, rest]",
                )
            return [whole // self.parts] * self.parts
        known = [p for p in self.parts if not isinstance(p, str)]
        if len(self.parts) - len(known) > 1 or any(isinstance(p, str) and p != "rest" for p in self.parts):
            raise ShapeError(
                "`split`: one size, and one only, may be `rest`",
                code="E-SPLIT",
                attr="parts",
                help="write the sizes out",
            )
        total = sum(int(p) for p in known)
        left = whole
        for p in known:
            left = left - p
        open_part = len(known) < len(self.parts)
        if (int(left) < 1 if open_part else int(left) != 0) or any(int(p) < 1 for p in known):
            raise ShapeError(
                f"`split`: sizes {self._shown()} add up to {total}, but {x.short()} has {int(whole)} {noun}",
                code="E-SPLIT",
                attr="parts",
                help=self._sizes_that_fit(int(whole)),
            )
        return [left if isinstance(p, str) else p for p in self.parts]

    def _sizes_that_fit(self, whole: int) -> str:
        """Sizes of as many parts that do add up."""
        assert isinstance(self.parts, tuple)
        first = [p for p in self.parts if not isinstance(p, str)][: len(self.parts) - 1]
        if any(int(p) < 1 for p in first) or sum(int(p) for p in first) >= whole:
            return f"sizes are positive and add up to {whole}; one may be `rest`"
        return f"write [{', '.join([*(str(int(p)) for p in first), 'rest'])}], or sizes that add up to {whole}"

    def _shown(self) -> str:
        assert isinstance(self.parts, tuple)
        return f"[{', '.join(p if isinstance(p, str) else str(int(p)) for p in self.parts)}]"

    def torch(self, call: Call) -> Torch | str:
        x = call.inputs[0]
        assert x is not None
        dim = torch_dim(x, self.axis, call.axes)
        if len(call.outputs) == 1:
            return Torch("{x}")
        if isinstance(self.parts, int):
            if self.axis == "c":
                return Torch(f"{{x}}.chunk({self.parts}, dim={dim})")
            # chunk would cut unevenly, without a word, at an input size that the parts do not divide
            return Torch(f"{{x}}.unflatten({dim}, ({self.parts}, -1)).unbind({dim - 1})")
        numbers: dict[str, Static] = {f"p{i}": p for i, p in enumerate(self.parts) if not isinstance(p, str)}
        taken = "".join(f" - {{{name}}}" for name in numbers)
        rest = f"{{x}}.shape[{dim}]{taken}"
        sizes = ", ".join(rest if isinstance(p, str) else f"{{p{i}}}" for i, p in enumerate(self.parts))
        return Torch(f"{{x}}.split([{sizes}], dim={dim})", "", numbers)


def axis_of(kind: str, axis: str) -> int:
    """Where a type's dims hold the axis."""
    if axis == "key":
        return 2
    return {"map": 0, "tokens": 1, "vec": 0}[kind] if axis == "c" else 0


def torch_dim(x: TensorType, axis: str, axes: str) -> int:
    """The axis as a tensor dimension counted from the end; parameters' maps are always [C, H, W]."""
    if x.kind == "map":
        return -1 if axes == "last" and x.batched else -3
    return -2 if axis == "n" else -1
