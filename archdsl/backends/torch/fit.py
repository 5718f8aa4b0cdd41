"""Finds the plainest source for numbers that differ between instances: a multiple of an argument, a rule in j."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from archdsl.ir.graph import Static
from archdsl.ops.drop_path import DropRate

Number: TypeAlias = "Static | DropRate | Missing | Symbol"


class Missing:
    """The number of a step that an instance does not have; fits anything."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True)
class Symbol:
    """A number that the model's own constructor decides: `in_chans`."""

    name: str


Column = tuple[Number, ...]
"""One number for each instance of a class."""

CHANNELS = frozenset({"c_in", "c_out", "groups", "c", "channels", "dim", "dim_in", "features", "n"})
LARGEST_FACTOR = 64


def literal(value: Number) -> str:
    """A number as Python source."""
    if isinstance(value, DropRate):
        return drop_rate(value, None)
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, tuple):
        inner = ", ".join(map(literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return repr(value)
    if isinstance(value, int):
        return str(int(value))
    return repr(value)


def drop_rate(rate: DropRate, index: str | None) -> str:
    """Source of a share of `drop_path_rate`; `index` replaces the block's number."""
    if rate.t is not None:
        share = rate.t * rate.scale
        return "drop_path_rate" if share == 1 else f"drop_path_rate * {share!r}" if share else "0.0"
    if not rate.last or (index is None and not rate.index):
        return "0.0"
    out = f"drop_path_rate * {rate.index if index is None else index} / {rate.last}"
    return out if rate.scale == 1 else f"{out} * {rate.scale!r}"


def constant(column: Sequence[Number]) -> Number:
    """The one value a column has, or MISSING if it has several."""
    present = [v for v in column if v is not MISSING]
    if not present:
        return MISSING
    return present[0] if all(same(v, present[0]) for v in present) else MISSING


def same(a: Number, b: Number) -> bool:
    return a is MISSING or b is MISSING or (a == b and isinstance(a, bool) == isinstance(b, bool))


def relate(name: str, column: Column, basis: Mapping[str, Column]) -> str | None:
    """The column as an expression of one basis column: p, k * p or p // k; None where there is none.

    Multiples are tried only for widths: a head count that happens to be twice the depth is a coincidence.
    """
    exact = [p for p, values in basis.items() if all(same(a, b) for a, b in zip(column, values, strict=True))]
    if exact:
        return name if name in exact else exact[0] if name in CHANNELS or _width(name) else None
    if not (name in CHANNELS or _width(name)) or not all(isinstance(v, int) or v is MISSING for v in column):
        return None
    best: tuple[int, str] | None = None
    for p, values in basis.items():
        pairs = [(a, b) for a, b in zip(column, values, strict=True) if a is not MISSING]
        if not all(isinstance(a, int) and isinstance(b, int) and a > 0 and b > 0 for a, b in pairs):
            continue
        a, b = pairs[0]
        assert isinstance(a, int) and isinstance(b, int)
        if a % b == 0 and all(x == y * (a // b) for x, y in pairs):  # type: ignore[operator]
            found = (a // b, f"{a // b} * {p}")
        elif b % a == 0 and all(x == y // (b // a) and y % (b // a) == 0 for x, y in pairs):  # type: ignore[operator]
            found = (b // a, f"{p} // {b // a}")
        else:
            continue
        if found[0] <= LARGEST_FACTOR and (best is None or found[0] < best[0]):
            best = found
    return best[1] if best is not None else None


def _width(name: str) -> bool:
    return len(name) > 1 and name[0] == "d" and name[1:].isdigit()


@dataclass(frozen=True)
class Rule:
    """A sequence over j as a form with coefficient columns: `kind` is constant, periodic, first, affine or table."""

    kind: str
    coefficients: tuple[Column, ...]

    def source(self, codes: Sequence[str], values: Sequence[Sequence[Number]]) -> str:
        """Python source in j, given the source of each coefficient."""
        if self.kind == "constant":
            return codes[0]
        if self.kind == "affine":
            rate = next(v for row in values for v in row if isinstance(v, DropRate))
            return drop_rate(rate, "j" if codes[0] == "0" else f"({codes[0]} + j)")
        if self.kind == "table":
            return f"{codes[0]}[j]"
        test = "j % 2 == 0" if self.kind == "periodic" else "j == 0"
        if sorted(codes) == ["False", "True"]:
            return test if codes[0] == "True" else test.replace("==", "!=")
        if self.kind == "periodic" and codes[0] == "0":
            return f"{codes[1]} * (j % 2)"
        return f"{codes[0]} if {test} else {codes[1]}"


def sequence(rows: Sequence[Sequence[Number]]) -> Rule:
    """The plainest rule in j that every row (one a loop) follows."""
    if all(constant(row) is not MISSING or not row for row in rows):
        return Rule("constant", (tuple(constant(row) for row in rows),))
    if any(isinstance(v, DropRate) for row in rows for v in row):
        rates = [v for row in rows for v in row if isinstance(v, DropRate)]
        alike = len({(r.last, r.scale, r.t) for r in rates}) == 1 and rates[0].t is None
        starts = [row[0].index if row and isinstance(row[0], DropRate) else 0 for row in rows]
        steps = all(
            isinstance(v, DropRate) and v.index == s + j
            for s, row in zip(starts, rows, strict=True)
            for j, v in enumerate(row)
        )
        if alike and steps:
            return Rule("affine", (tuple(starts),))
        return Rule("table", (tuple(tuple(row) for row in rows),))  # type: ignore[arg-type]
    for kind in ("periodic", "first"):
        sides = [_sides(kind, row) for row in rows]
        columns = [tuple(constant(pair[k]) for pair in sides) for k in (0, 1)]
        if not any(c is MISSING and pair[k] for k in (0, 1) for c, pair in zip(columns[k], sides, strict=True)):
            return Rule(kind, (columns[0], columns[1]))
    return Rule("table", (tuple(tuple(row) for row in rows),))  # type: ignore[arg-type]


def _sides(kind: str, row: Sequence[Number]) -> tuple[Sequence[Number], Sequence[Number]]:
    """A row's even and odd entries, or its first and the rest."""
    return (row[::2], row[1::2]) if kind == "periodic" else (row[:1], row[1:])
