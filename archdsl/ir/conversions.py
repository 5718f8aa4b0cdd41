"""Turns pairs of layouts into the one conversion between them, and layouts a head group into one value.

What stands between two window attentions (reverse, roll, roll, partition) is one conversion: compose what the source
says of the map with what the target asks of it. Nothing in between is ever an order of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archdsl.ir.digits import Axis, Digit
from archdsl.ir.layout import Layout


@dataclass(frozen=True, eq=False)
class Conversion:
    """From a buffer in one order to one in another, over the same map; the source must hold every position once.

    Equal conversions read the same positions. Where both only permute digits (`steps`) the opposite holds too;
    between orders that are shifted or padded differently, conversions are equal where their orders are, once a shift
    that both share is taken out. Whether one is the identity is decided exactly where equality of layouts is.
    """

    source: Layout
    target: Layout

    def __post_init__(self) -> None:
        a, b = self.source, self.target
        if (a.height, a.width) != (b.height, b.width):
            raise ValueError(f"{a.height}x{a.width} and {b.height}x{b.width} maps are not in one another's order")
        if not a.bijective:
            raise ValueError(f"{a} does not hold every position of its {a.height}x{a.width} map once")
        object.__setattr__(self, "source", a.order)
        object.__setattr__(self, "target", b.order)

    @property
    def identity(self) -> bool:
        """Whether nothing moves: decided by the canonical forms, not position by position."""
        return self.source == self.target

    @property
    def inverse(self) -> Conversion:
        """The way back; ValueError where the target drops or repeats positions."""
        return Conversion(self.target, self.source)

    def then(self, other: Conversion) -> Conversion:
        """This conversion and then the other one, as one."""
        if self.target != other.source:
            raise ValueError(f"a conversion to {self.target} cannot be followed by one from {other.source}")
        return Conversion(self.source, other.target)

    def index(self) -> tuple[int, ...]:
        """For every position of the target the one of the source to read, -1 for padding."""
        at = self.source.inverse()
        return tuple(at[position] if position >= 0 else -1 for position in self.target.index())

    @property
    def steps(self) -> tuple[tuple[int, int], ...] | None:
        """(extent, step in the source) of the target's digits, slowest first: a view, a permutation and a reshape.

        None where the conversion permutes no digits: the orders are shifted or padded differently, or their digits
        have no common refinement.
        """
        linear = self._linear()
        return None if linear is None else tuple((d.extent, d.stride) for d in linear.digits)

    def _linear(self) -> Layout | None:
        """The target as an order of the source's positions in one row."""
        a, b = self.source, self.target
        if a.axes != b.axes or a.padded or b.padded or not b.bijective:
            return None
        places = {name: _places(a, name) for name in "yx"}
        digits: list[Digit] = []
        for digit in b.digits:
            parts = list(_refined(digit, places[digit.axis]))
            if not parts:
                return None
            digits += parts
        return Layout((Axis(1), Axis(a.positions)), tuple(digits))

    def _canonical(self) -> tuple[Layout, Layout]:
        linear = self._linear()
        if linear is not None:
            return Layout.raster(1, linear.width), linear
        a, b = self.source, self.target
        if a.padded or b.padded:
            return a, b
        moved = [
            (Axis(u.extent), Axis(u.extent, v.offset - u.offset, u.extent)) for u, v in zip(a.axes, b.axes, strict=True)
        ]
        (y, y2), (x, x2) = moved
        return Layout((y, x), a.digits), Layout((y2, x2), b.digits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conversion) and self._canonical() == other._canonical()

    def __hash__(self) -> int:
        return hash(self._canonical())

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def _places(layout: Layout, axis: str) -> list[tuple[int, int, int]]:
    """(first, last stride of a digit on the axis, step of that digit in the layout), by stride."""
    out, step = [], 1
    for d in reversed(layout.digits):
        if d.axis == axis:
            out.append((d.stride, d.stride * d.extent, step))
        step *= d.extent
    return sorted(out)


def _refined(digit: Digit, places: list[tuple[int, int, int]]) -> Iterator[Digit]:
    """The digit, slowest part first, with its steps in the other layout; nothing where digits cross."""
    parts = []
    low, end = digit.stride, digit.stride * digit.extent
    for first, last, step in places:
        if last <= low or first >= end:
            continue
        top = min(last, end)
        if low % first or top % low:
            return
        parts.append(Digit("x", top // low, low // first * step))
        low = top
    if low == end:
        yield from reversed(parts)


@dataclass(frozen=True)
class HeadLayouts:
    """The layout of each group of heads, in the order of their channels: (heads, layout) pairs.

    Neighbouring groups of one layout are one group, so equal values give every head the same layout.
    """

    groups: tuple[tuple[int, Layout], ...]

    def __post_init__(self) -> None:
        merged: list[tuple[int, Layout]] = []
        for heads, layout in self.groups:
            if heads < 1:
                raise ValueError(f"a group of {heads} heads has no layout")
            if merged and merged[-1][1] == layout:
                merged[-1] = (merged[-1][0] + heads, layout)
            else:
                merged.append((heads, layout))
        if len({(layout.height, layout.width) for _, layout in merged}) != 1:
            raise ValueError("head groups order one map: give layouts of the same height and width")
        object.__setattr__(self, "groups", tuple(merged))

    @classmethod
    def crossed(cls, height: int, width: int, breadth: int, heads: int) -> HeadLayouts:
        """The first half of the heads in vertical stripes, the others in horizontal ones (2107.00652)."""
        half = heads // 2
        vertical = Layout.stripes(height, width, breadth, vertical=True)
        return cls(((half, vertical), (heads - half, Layout.stripes(height, width, breadth))))

    @property
    def heads(self) -> int:
        return sum(heads for heads, _ in self.groups)

    @property
    def uniform(self) -> Layout | None:
        """The one layout of all heads, None where they differ."""
        return self.groups[0][1] if len(self.groups) == 1 else None

    def of(self, head: int) -> Layout:
        """The layout of one head; IndexError where there is no such head."""
        if 0 <= head < self.heads:
            for heads, layout in self.groups:
                if head < heads:
                    return layout
                head -= heads
        raise IndexError(f"there is no head {head} among {self.heads}")

    def __str__(self) -> str:
        return ", ".join(f"{heads} heads {layout}" for heads, layout in self.groups)
