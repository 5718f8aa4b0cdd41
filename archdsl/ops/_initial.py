"""Reads initialisations: the text of a weight's `init` to the distribution and its number."""

from __future__ import annotations

import math
import re

from archdsl.ops.base import Op, Rows, ShapeError

PLAIN = ("zeros", "ones")
BY_SHAPE = ("torch", "fan_out", "kaiming_fan_out", "lecun", "xavier")
"""For weights of linear layers and convolutions only: torch's own, normal with variance 2 / fan-out (1502.01852) of a
group and of all groups, normal with variance 1 / fan-in, and Glorot's uniform."""
NUMBERED = ("constant", "normal", "trunc_normal", "trunc_normal_tf", "uniform")
"""Of the truncated normals torch's is cut off at -2 and 2, TensorFlow's at two standard deviations."""
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


def known_init(op: Op, text: str, more: tuple[str, ...] = ()) -> None:
    """Refuses what is no initialisation of a weight of a layer, `more` being the op's own ones. Raises ShapeError."""
    if text in BY_SHAPE or text in more:
        return
    try:
        read_init(op, text)
    except ShapeError as e:
        help = f"{e.help}, {', '.join((*BY_SHAPE, *more))}"
        raise ShapeError(e.message, code=e.code, attr="init", help=help) from None


def bias_init(op: Op, weight: str, bias: float | str | None) -> str:
    """How the bias of a layer starts whose weight starts as `weight` says. Raises ShapeError."""
    if bias is None:
        return "torch" if weight == "torch" else "zeros"
    if bias == "torch":
        return "torch"
    text = bias if isinstance(bias, str) else of_number(bias)
    try:
        read_init(op, text)
    except ShapeError as e:
        raise ShapeError(e.message, code=e.code, attr="bias_init", help=f"{e.help}, torch") from None
    return text


def of_rows(op: Op, rows: Rows, shape: tuple[int, int]) -> str:
    """The initialisation that fills a matrix of this shape with these numbers. Raises ShapeError."""
    if [len(row) for row in rows] != [shape[1]] * shape[0] or not all(map(math.isfinite, sum(rows, ()))):
        raise ShapeError(
            f"`{op.name}`: init is not the rows of a {int(shape[0])} x {int(shape[1])} weight",
            code="E-ATTR",
            attr="init",
            help="a row of numbers for each output, a number in it for each input",
        )
    return str([[float(number) for number in row] for row in rows])
