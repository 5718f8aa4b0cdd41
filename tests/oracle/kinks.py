"""Turns a backward pass into the sides of kinks that it took, and such sides into another backward pass on them.

The gradient of a ReLU jumps where its input is 0, that of max pooling where two values are equal. Which side an input
within rounding of a kink comes to lie on follows from the order of summation, and so differs between precisions and
between modules that are equally precise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
POINTS: Mapping[object, tuple[float, ...]] = {
    aten.threshold_backward.default: (0.0,),
    aten.hardsigmoid_backward.default: (-3.0, 3.0),
    aten.hardswish_backward.default: (-3.0, 3.0),
}
"""Where the kinks of a function are, by its backward op, whose second argument is the input or the result."""
POOLED = aten.max_pool2d_with_indices_backward.default
"""Its last argument are the indices of the largest values."""
LARGEST = aten.eq.Tensor
"""What the backward pass of `amax` asks of each value: whether it is the largest."""


class Sides(TorchDispatchMode):
    """Keeps the sides that the passes under it take, in their order; makes them take the `given` ones, if any."""

    def __init__(self, given: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.given = None if given is None else iter(given)
        self.taken: list[Tensor] = []

    def __torch_dispatch__(
        self, op: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if op in POINTS:
            grad, x, *rest = args
            return op(grad, self._moved(x, POINTS[op]), *rest)
        if op is POOLED:
            return op(*args[:-1], self._chosen(args[-1]))
        found = op(*args, **(kwargs or {}))
        return self._chosen(found) if op is LARGEST else found

    def _chosen(self, side: Tensor) -> Tensor:
        if self.given is not None:
            side = next(self.given)
        self.taken.append(side)
        return side

    def _moved(self, x: Tensor, points: tuple[float, ...]) -> Tensor:
        """`x`, and where it lies on another side than it should, the number next to the kink on that side."""
        here = side_of(x, points)
        side = self._chosen(here)
        if side is here:
            return x
        for i, point in enumerate(points):
            x = torch.where((side > i) & (here <= i), x.clamp(min=math.nextafter(point, math.inf)), x)
            x = torch.where((side <= i) & (here > i), x.clamp(max=math.nextafter(point, -math.inf)), x)
        return x


def side_of(x: Tensor, points: tuple[float, ...]) -> Tensor:
    """How many of the points lie below each number; torch counts one at 3 as beyond it, those at 0 and -3 as not."""
    return torch.stack([x >= point if point > 0 else x > point for point in points]).sum(0, dtype=torch.int8)


def differing(a: Sequence[Tensor], b: Sequence[Tensor]) -> int:
    """In how many places two runs of one module took other sides."""
    return sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
