"""The compile-time functions of the language: lengths, rounding, logarithms, and folding of activations."""

from __future__ import annotations

import math
from collections.abc import Iterable

from archdsl.frontend.values import Builtin, Data, is_int, is_number
from archdsl.ir import sizes
from archdsl.ir.sizes import Size
from archdsl.ops._initial import NUMBERED


class BuiltinError(Exception):
    """A compile-time function cannot take these arguments."""


def _numbers(name: str, values: tuple[Data, ...]) -> list[int | float]:
    flat = values[0] if len(values) == 1 and isinstance(values[0], tuple) else values
    if not flat:
        raise BuiltinError(f"`{name}` needs at least one number")
    for v in flat:
        if not is_number(v):
            raise BuiltinError(f"`{name}` takes numbers")
    return list(flat)  # type: ignore[arg-type]


def _extreme(name: str) -> Builtin:
    def call(*values: Data) -> Data:
        best, *rest = _numbers(name, values)
        for v in rest:
            if isinstance(v, int) and isinstance(best, int):
                best = sizes.combine(name, best, v)
            else:
                best = min(best, v) if name == "min" else max(best, v)
        return best

    return Builtin(name, call)


def _length(value: Data) -> Data:
    if not isinstance(value, tuple):
        raise BuiltinError("`len` takes a list")
    return len(value)


def _rounded(name: str) -> Builtin:
    def call(value: Data) -> Data:
        if not is_number(value):
            raise BuiltinError(f"`{name}` takes a number")
        if isinstance(value, int):
            return value
        assert isinstance(value, float)
        if not math.isfinite(value):
            raise BuiltinError(f"`{name}` of {value} is not an integer")
        return {"round": math.floor(value + 0.5), "floor": math.floor(value), "ceil": math.ceil(value)}[name]

    return Builtin(name, call)


def _real(name: str) -> Builtin:
    def call(value: Data) -> Data:
        if not is_number(value):
            raise BuiltinError(f"`{name}` takes a number")
        assert isinstance(value, (int, float))
        if value < 0 or (value == 0 and name != "sqrt"):
            raise BuiltinError(f"`{name}` of {value} is not defined")
        return {"log2": math.log2, "sqrt": math.sqrt}[name](value)

    return Builtin(name, call)


def _absolute(value: Data) -> Data:
    if not is_number(value):
        raise BuiltinError("`abs` takes a number")
    assert isinstance(value, (int, float))
    return abs(value)


def _quantified(name: str) -> Builtin:
    def call(values: Data) -> Data:
        if not isinstance(values, tuple) or not all(isinstance(v, bool) for v in values):
            raise BuiltinError(f"`{name}` takes a list of true and false")
        return all(values) if name == "all" else any(values)

    return Builtin(name, call)


def _make_div(value: Data, divisor: Data = 8, limit: Data = 0.0) -> Data:
    """The multiple of `divisor` nearest to `value`, not below limit * value (MobileNet's rounding, 1801.04381)."""
    if not (is_number(value) and is_int(divisor) and is_number(limit)):
        raise BuiltinError("`make_div` takes a number and an integer it is to be a multiple of")
    assert isinstance(value, (int, float)) and isinstance(divisor, int) and isinstance(limit, (int, float))
    if divisor < 1:
        raise BuiltinError("`make_div` needs a divisor of at least 1")
    near = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return near + divisor if near < limit * value else near


def _distribution(name: str) -> Builtin:
    def call(value: Data) -> Data:
        if not is_number(value):
            raise BuiltinError(f"`{name}` takes a number")
        assert isinstance(value, (int, float))
        return f"{name}({float(value)!r})"

    return Builtin(name, call)


BUILTINS: dict[str, Builtin] = {
    b.name: b
    for b in (
        Builtin("len", _length),
        _extreme("max"),
        _extreme("min"),
        _rounded("round"),
        _rounded("floor"),
        _rounded("ceil"),
        _real("log2"),
        _real("sqrt"),
        Builtin("abs", _absolute),
        _quantified("all"),
        _quantified("any"),
        Builtin("make_div", _make_div),
        *map(_distribution, NUMBERED),
    )
}
"""`sum` and `log` also take tensors, so elaboration defines them."""

SYMBOLIC = {"len", "max", "min"}
"""Builtins through which a size keeps its expression."""

CONSTANTS: dict[str, Data] = {"true": True, "false": False, "none": None, "rest": "rest"}


def has_size(values: Iterable[Data]) -> bool:
    return any(isinstance(v, Size) or (isinstance(v, tuple) and has_size(v)) for v in values)
