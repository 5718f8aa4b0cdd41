"""Checks shared by the ops on k x k neighbourhoods (2204.07143)."""

from __future__ import annotations

from archdsl.ir.types import Pair
from archdsl.ops.base import Op, ShapeError


def odd(op: Op, k: int) -> None:
    """A neighbourhood has a middle."""
    if k % 2 == 0:
        raise ShapeError(
            f"`{op.name}`: a {k} x {k} neighbourhood has no middle",
            code="E-KERNEL",
            attr="k",
            help=f"use {k - 1} or {k + 1}" if k > 2 else "use 3",
        )


def fits(op: Op, k: int, size: Pair, edge: str) -> None:
    """Neighbourhoods that are shifted to lie inside the map need a map that holds one."""
    if edge == "shift" and (k > size[0] or k > size[1]):
        raise ShapeError(
            f"`{op.name}`: a {k} x {k} neighbourhood does not fit a {int(size[0])}x{int(size[1])} map",
            code="E-KERNEL",
            attr="k",
            help='use a smaller neighbourhood, or edge = "zero"',
        )


def same_grid(op: Op, port: str, positions: int, size: Pair) -> None:
    """Scores are of the positions of a map."""
    if positions != size[0] * size[1]:
        raise ShapeError(
            f"`{op.name}`: scores of {int(positions)} positions do not fit a {int(size[0])}x{int(size[1])} map",
            code="E-SHAPE",
            port=port,
        )
