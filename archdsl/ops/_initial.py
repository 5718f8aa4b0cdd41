"""Reads initialisations: the text of a weight's `init` to the distribution and its number."""

from __future__ import annotations

import math
import re

from archdsl.ops.base import Op, ShapeError

PLAIN = ("zeros", "ones")
BY_SHAPE = ("torch", "fan_out", "xavier")
"""For weights of linear layers and convolutions only: torch's own, normal with variance 2 / fan-out of a group
(1502.01852), and Glorot's uniform."""
NUMBERED = ("constant", "normal", "trunc_normal", "uniform")
_CALL = re.compile(r"(\w+)\(\s*([^()\s]+)\s*\)")


def of_number(value: float) -> str:
    """The initialisation that fills a weight with one number."""
    return {0.0: "zeros", 1.0: "ones"}.get(float(value), f"constant({float(value)!r})")


def read_init(op: Op, text: str) -> tuple[str, float]:
    """(distribution, its number); the number of zeros and ones is 0 and 1. Raises ShapeError."""
    if text in PLAIN:
        return text, float(PLAIN.index(text))
    match = _CALL.fullmatch(text)
    if match and match[1] in NUMBERED:
        try:
            number = float(match[2])
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (match[1] == "constant" or number >= 0):
            return match[1], number
    known = ", ".join((*PLAIN, *(f"{n}(0.02)" for n in NUMBERED)))
    raise ShapeError(
        f'`{op.name}`: "{text}" is not an initialisation',
        code="E-ATTR",
        attr="init",
        help=f"a number, or one of {known}",
    )


def known_init(op: Op, text: str) -> None:
    """Refuses what is no initialisation of a linear or convolution weight. Raises ShapeError."""
    if text in BY_SHAPE:
        return
    try:
        read_init(op, text)
    except ShapeError as e:
        raise ShapeError(e.message, code=e.code, attr="init", help=f"{e.help}, {', '.join(BY_SHAPE)}") from None
