"""Sizes that remember where they came from: ints carrying an expression in the input's height and width.

A feature map's H and W are concrete while a spec is elaborated, yet the module emitted for one input size
must know what it computes at another (the law of sizes, docs/language.md). A `Size` is an `int` that also
carries its expression in the input's axes; arithmetic keeps the expression, so a decision taken on a size
(a parameter's shape, an `if`, a loop count) can be recorded as a guard and checked at run time.

    >>> h = Size.axis("H", 224)
    >>> (h // 4 + 1) // 2, text((h // 4 + 1) // 2)
    (28, '(H + 4) // 8')
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

Expr: TypeAlias = "int | str | tuple[str, Expr, Expr]"
"""An int, an axis name ("H", "W"), or (op, left, right) with op one of + - * // % min max."""


class Size(int):
    """An int with `expr`, its expression in the axes of the input. Compares and hashes as the int it is."""

    expr: Expr

    @staticmethod
    def axis(name: str, value: int) -> Size:
        """The size of one axis of the input image, by its name in expressions."""
        return _size(value, name)

    def __add__(self, other: int) -> int:
        return combine("+", self, other)

    def __radd__(self, other: int) -> int:
        return combine("+", other, self)

    def __sub__(self, other: int) -> int:
        return combine("-", self, other)

    def __rsub__(self, other: int) -> int:
        return combine("-", other, self)

    def __mul__(self, other: int) -> int:
        return combine("*", self, other)

    def __rmul__(self, other: int) -> int:
        return combine("*", other, self)

    def __floordiv__(self, other: int) -> int:
        return combine("//", self, other)

    def __rfloordiv__(self, other: int) -> int:
        return combine("//", other, self)

    def __mod__(self, other: int) -> int:
        return combine("%", self, other)

    def __rmod__(self, other: int) -> int:
        return combine("%", other, self)

    def __repr__(self) -> str:
        return int.__repr__(self)

    def __reduce__(self) -> tuple[object, tuple[int, Expr]]:
        return _size, (int(self), self.expr)


def _size(value: int, expr: Expr) -> Size:
    size = Size(value)
    size.expr = expr
    return size


def of(value: int, expr: Expr) -> int:
    """`value` with its expression; a plain int where the expression is a constant."""
    return value if isinstance(expr, int) else _size(value, expr)


def expr_of(value: int) -> Expr:
    return value.expr if isinstance(value, Size) else value


_CONCRETE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": lambda a, b: a if a < b else b,
    "max": lambda a, b: a if a > b else b,
}


def combine(op: str, left: int, right: int) -> int:
    """`left op right`, keeping the expression when either side has one."""
    value = int(_CONCRETE[op](int(left), int(right)))
    return of(value, simplify(op, expr_of(left), expr_of(right)))


def minimum(left: int, right: int) -> int:
    """min(left, right) that stays symbolic, unlike the built-in."""
    return combine("min", left, right)


def maximum(left: int, right: int) -> int:
    """max(left, right) that stays symbolic, unlike the built-in."""
    return combine("max", left, right)


def ceil_div(size: int, by: int) -> int:
    """ceil(size / by), in the canonical form (size + by - 1) // by."""
    return (size + (by - 1)) // by


def simplify(op: str, a: Expr, b: Expr) -> Expr:
    """(op, a, b) in the small canonical form that strided chains collapse to: (axis + c) // s."""
    if isinstance(a, int) and isinstance(b, int):
        return int(_CONCRETE[op](a, b))
    if op == "-" and isinstance(b, int):
        op, b = "+", -b
    if op in ("+", "*") and isinstance(a, int):
        a, b = b, a
    if a == b and op in ("min", "max"):
        return a
    if not isinstance(b, int):
        return (op, a, b)
    if (op == "+" and b == 0) or (op in ("*", "//") and b == 1):
        return a
    if op == "*" and b == 0:
        return 0
    if isinstance(a, tuple) and isinstance(a[2], int):
        inner, x, c = a[0], a[1], a[2]
        if op == "+" and inner == "+":
            return simplify("+", x, c + b)
        if op == "*" and inner == "*":
            return simplify("*", x, c * b)
        if op in ("min", "max") and inner == op:
            return (op, x, _CONCRETE[op](c, b))
        if op == "//" and inner == "//" and c > 0 and b > 0:
            return simplify("//", x, c * b)
        if op == "//" and inner == "*" and b > 0 and c % b == 0:
            return simplify("*", x, c // b)
        if op == "%" and inner == "*" and b > 0 and c % b == 0:
            return 0
        if op == "//" and inner == "+" and isinstance(x, tuple) and x[0] == "//" and isinstance(x[2], int):
            y, p = x[1], x[2]
            if p > 0 and b > 0:  # (y // p + c) // q == (y + c * p) // (p * q)
                return simplify("//", simplify("+", y, c * p), p * b)
    return (op, a, b)


_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "//": 2, "%": 2}


def text(value: int | Expr, names: Mapping[str, str] | None = None) -> str:
    """The expression as Python source; `names` maps axis names to the source that reads them."""
    expr = value.expr if isinstance(value, Size) else value
    if isinstance(expr, int) and expr >= 0:
        return str(int(expr))

    def show(e: Expr, outer: int) -> str:
        if isinstance(e, int):
            return str(int(e)) if e >= 0 else f"({int(e)})"
        if isinstance(e, str):
            return names[e] if names else e
        op, a, b = e
        if op in ("min", "max"):
            return f"{op}({show(a, 0)}, {show(b, 0)})"
        own = _PRECEDENCE[op]
        if op == "+" and isinstance(b, int) and b < 0:
            out = f"{show(a, own)} - {-b}"
        else:
            out = f"{show(a, own)} {op} {show(b, own + 1)}"
        return f"({out})" if own < outer else out

    return show(expr, 0)


def evaluate(expr: Expr, axes: Mapping[str, int]) -> int:
    """The value of an expression at another input size."""
    if isinstance(expr, int):
        return expr
    if isinstance(expr, str):
        return axes[expr]
    op, a, b = expr
    return int(_CONCRETE[op](evaluate(a, axes), evaluate(b, axes)))


def rebuild(expr: Expr, axes: Mapping[str, int]) -> int:
    """The Size an expression denotes when the input's axes are `axes` (used when reading the text IR)."""
    if isinstance(expr, int):
        return expr
    if isinstance(expr, str):
        return Size.axis(expr, axes[expr])
    op, a, b = expr
    return combine(op, rebuild(a, axes), rebuild(b, axes))


def atoms(expr: Expr) -> Iterator[Expr]:
    """The maximal sub-expressions below + and *: pinning each of them pins the whole expression."""
    if isinstance(expr, int):
        return
    if isinstance(expr, tuple) and expr[0] in ("+", "-", "*"):
        yield from atoms(expr[1])
        yield from atoms(expr[2])
    else:
        yield expr


@dataclass(frozen=True)
class Condition:
    """`left op right` over sizes, op one of == != < <= > >=: a decision that elaboration took as true."""

    op: str
    left: Expr
    right: Expr

    def holds(self, axes: Mapping[str, int]) -> bool:
        a, b = evaluate(self.left, axes), evaluate(self.right, axes)
        return {"==": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[self.op]

    def __str__(self) -> str:
        return f"{text(self.left)} {self.op} {text(self.right)}"

    def plain(self) -> Condition:
        """The same condition on the bare axis where it is a bound: (H + 28) // 32 >= 7 is H >= 196."""
        op, x, k = self.op, self.left, self.right
        if isinstance(x, int) and not isinstance(k, int):
            mirrored = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
            return Condition(mirrored.get(op, op), k, x).plain()
        if not isinstance(k, int) or op not in (">=", ">", "<", "<="):
            return self
        if op in (">", "<="):
            op, k = {">": ">=", "<=": "<"}[op], k + 1
        while isinstance(x, tuple) and isinstance(x[2], int):
            inner, y, c = x[0], x[1], x[2]
            if inner == "+":
                x, k = y, k - c
            elif inner == "//" and c > 0:
                x, k = y, k * c
            elif inner == "*" and c > 0:
                x, k = y, -(-k // c)
            else:
                break
        return Condition(op, x, k)


def pins(value: int, axes: Mapping[str, int]) -> tuple[Condition, ...]:
    """The conditions under which `value` stays what it is at input `axes`; empty for a plain int."""
    found = []
    for atom in atoms(expr_of(value)):
        now = evaluate(atom, axes)
        if isinstance(atom, tuple) and atom[0] == "min" and atom[2] == now:
            found.append(Condition(">=", atom[1], now))
        else:
            found.append(Condition("==", atom, now))
    return tuple(dict.fromkeys(found))
