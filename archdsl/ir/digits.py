"""Turns the digits of a layout into their canonical form: what they add up to on an axis, merged where they run on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Axis:
    """How the sum u of an axis' digits stands for a coordinate of `extent` ones: u + offset.

    With a `period` the axis is cyclic: u counts from 0 to the period, (u + offset) modulo the period is the coordinate.
    A period equal to the extent shifts the map and pads then; a larger one pads to the period and shifts then.
    """

    extent: int
    offset: int = 0
    period: int = 0

    def at(self, u: int) -> int:
        """The coordinate, -1 for padding."""
        if self.period and u >= self.period:
            return -1
        coordinate = (u + self.offset) % self.period if self.period else u + self.offset
        return coordinate if 0 <= coordinate < self.extent else -1

    @property
    def reach(self) -> int:
        """From here on every sum is padding."""
        return self.period or self.extent - self.offset


@dataclass(frozen=True, slots=True)
class Digit:
    """`extent` steps of `stride` coordinates along an axis.

    A digit of "pad" is one of which only 0 is inside the map, whatever the axis it was written for.
    """

    axis: str
    extent: int
    stride: int


def count(digits: Iterable[Digit]) -> int:
    """How many positions digits number."""
    return math.prod(d.extent for d in digits)


def sums(digits: Iterable[Digit], axis: str) -> list[int]:
    """What the digits of an axis add up to, over all of their values."""
    mine = [d for d in digits if d.axis == axis]
    return [sum(steps) for steps in product(*(range(0, d.extent * d.stride, d.stride) for d in mine))]


def reduced(axis: Axis, digits: Sequence[Digit], name: str) -> Axis:
    """The axis without a period where nothing wraps around it; ValueError where it is none of a layout."""
    if axis.extent < 1 or (axis.period and axis.period < axis.extent):
        raise ValueError(f"{axis} is no axis of a map")
    offset = axis.offset % axis.period if axis.period else axis.offset
    out = Axis(axis.extent, offset, axis.period)
    reached = sums(digits, name)
    if not offset or (axis.period and not any(axis.period - offset <= u < axis.period for u in reached)):
        out = Axis(axis.extent, offset)
    if all(out.at(u) < 0 for u in reached):
        raise ValueError(f"no position on the {name} axis lies inside the map of {axis.extent}")
    return out


def merged(digits: Iterable[Digit], axes: tuple[Axis, Axis]) -> tuple[Digit, ...]:
    """The canonical digits, slowest first: none of extent 1, none that runs on from the next faster one."""
    reach = {"y": axes[0].reach, "x": axes[1].reach}
    out: list[Digit] = []
    for digit in reversed([d for d in digits if d.extent > 1]):
        if digit.axis != "pad" and digit.stride >= reach[digit.axis]:
            digit = Digit("pad", digit.extent, 0)
        if out and _runs_on(digit, out[-1], reach):
            out[-1] = Digit(out[-1].axis, digit.extent * out[-1].extent, out[-1].stride)
        else:
            out.append(digit)
    return tuple(reversed(out))


def _runs_on(slow: Digit, fast: Digit, reach: dict[str, int]) -> bool:
    """Whether two neighbours count like one digit of the faster one's stride."""
    if slow.axis == "pad":
        return fast.axis == "pad" or fast.extent * fast.stride >= reach[fast.axis]
    return slow.axis == fast.axis and slow.stride == fast.extent * fast.stride


def cut(digits: Sequence[Digit], group: int) -> tuple[tuple[Digit, ...], tuple[Digit, ...]] | None:
    """The digits outside and inside of groups of so many positions; None where a group does not end at a digit."""
    inner: list[Digit] = []
    rest = group
    for at in range(len(digits) - 1, -1, -1):
        if rest == 1:
            return tuple(digits[: at + 1]), tuple(inner)
        d = digits[at]
        taken = math.gcd(rest, d.extent)
        if taken not in (rest, d.extent):
            return None
        inner.insert(0, Digit(d.axis, taken, d.stride))
        rest //= taken
        if taken < d.extent:
            return (*digits[:at], Digit(d.axis, d.extent // taken, d.stride * taken)), tuple(inner)
    return ((), tuple(inner)) if rest == 1 else None
