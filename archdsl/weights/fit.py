"""Turns a shape that does not fit into the transform that makes it fit, where the spec or the user allows one."""

from __future__ import annotations

import math

from archdsl.ir.graph import Parameter
from archdsl.weights.match import Shape, bare, squeezed
from archdsl.weights.transforms import AdaptInputs, Geometry, Resample, ResamplePatch, Transform

ADAPT = ("inputs", "patch", "classes")
"""What no spec declares, so that it must be asked for: image channels, patch size, number of classes."""


class Refusal(ValueError):
    """Why a stored shape is not brought to the wanted one; `help` says what would."""

    def __init__(self, reason: str, help: str = "", resizable: bool = False) -> None:
        super().__init__(reason)
        self.help, self.resizable = help, resizable


def fit(stored: Shape, wanted: Parameter, known: Geometry, adapt: tuple[str, ...] = ()) -> tuple[Transform, ...]:
    """What brings a tensor to the shape of `wanted`, () where it has it. Raises Refusal."""
    if bare(stored) == bare(wanted.shape):
        return squeezed(stored, wanted.shape)
    if wanted.resize == "none":
        raise Refusal('its spec says resize = "none"', "build the spec for the size the weights are of", True)
    if wanted.resize:
        return (_resample(stored, wanted, known),)
    if len(stored) == len(wanted.shape) == 4 and known.image:
        return _kernel(stored, wanted.shape, known, adapt)
    if known.classifier and stored[1:] == wanted.shape[1:] and "classes" not in adapt:
        help = "give --adapt classes to start with a new classifier"
        raise Refusal(f"{stored[0]} classes are stored, the spec has {wanted.shape[0]}", help, True)
    raise Refusal("its spec declares no `resize`")


def _resample(stored: Shape, wanted: Parameter, known: Geometry) -> Transform:
    shape, mode = wanted.shape, wanted.resize
    if len(stored) != len(shape):
        raise Refusal("its number of axes differs", "", True)
    if len(shape) == 2 and stored[1] == shape[1]:
        if mode == "linear":
            return Resample((stored[0], 1), (shape[0], 1), mode, antialias=False)
        if known.table is not None:
            return Resample(_square(stored[0], "relative positions"), known.table, mode, antialias=False)
        if known.grid is not None:
            prefix = shape[0] - math.prod(known.grid)
            return Resample(_square(stored[0] - prefix, "positions"), known.grid, mode, prefix)
    if len(shape) == 3 and stored[0] == shape[0]:
        return Resample(stored[1:], shape[1:], mode, flat=False)  # type: ignore[arg-type]
    raise Refusal("what its rows stand for is not known", "", True)


def _square(rows: int, what: str) -> tuple[int, int]:
    side = math.isqrt(max(0, rows))
    if side * side != rows or not side:
        raise Refusal(f"{rows} stored {what} are not those of a square", "", True)
    return side, side


def _kernel(stored: Shape, wanted: Shape, known: Geometry, adapt: tuple[str, ...]) -> tuple[Transform, ...]:
    if stored[0] != wanted[0]:
        raise Refusal("the numbers of output channels differ")
    out: list[Transform] = []
    if stored[1] != wanted[1]:
        if "inputs" not in adapt:
            help = "give --adapt inputs to sum or repeat them"
            raise Refusal(f"{stored[1]} image channels are stored, the spec has {wanted[1]}", help, True)
        out.append(AdaptInputs(wanted[1]))
    if stored[2:] != wanted[2:]:
        if not known.patch or "patch" not in adapt:
            help = "give --adapt patch to resample it" if known.patch else ""
            raise Refusal("the kernels' sizes differ", help, True)
        out.append(ResamplePatch((wanted[2], wanted[3])))
    return tuple(out)
