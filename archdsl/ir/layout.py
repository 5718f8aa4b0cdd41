"""Turns orders of a map's positions into values: cyclic shift, ordered digits of the coordinates, size of a group.

A position of a layout is read in mixed radix, slowest digit first; each digit counts steps of one axis, and what the
digits of an axis add up to, moved by the axis' offset, is the coordinate it stands for. A coordinate outside of the
map is padding, a predicate that no buffer has to hold. The batch stays outside of all digits, channels inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from archdsl.ir.digits import Axis, Digit, count, cut, merged, reduced, sums
from archdsl.ir.types import Frame, Pair


@dataclass(frozen=True)
class Layout:
    """An order of the H x W positions of one sample; equal values are equal orders cut into equal groups.

    `group` is how many neighbouring positions form one group (a window), 1 where there are none; it ends at a digit.
    `into_channels` says that a group is one token with the channels of all its positions (patch merging).

    Values are kept in canonical form: digits of extent 1 dropped, digits that run on merged, digits beyond the map
    made "pad", shifts reduced. Equal values always list the same positions. The opposite holds for all digits where
    the padding lies below and right of a map that is shifted first, and for whatever `windows` makes; under padding
    above and left (a halo, a padded convolution) it holds where each axis so padded holds two coordinates or more.
    """

    axes: tuple[Axis, Axis]
    digits: tuple[Digit, ...]
    group: int = 1
    into_channels: bool = False

    def __post_init__(self) -> None:
        for digit in self.digits:
            if digit.axis not in ("y", "x", "pad") or digit.extent < 1 or (digit.stride < 1 and digit.axis != "pad"):
                raise ValueError(f"{digit} has no axis, extent or stride of a layout")
        axes = (reduced(self.axes[0], self.digits, "y"), reduced(self.axes[1], self.digits, "x"))
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "digits", merged(self.digits, axes))
        object.__setattr__(self, "into_channels", self.into_channels and self.group > 1)
        if self.group < 1 or cut(self.digits, self.group) is None:
            raise ValueError(f"a group of {self.group} positions does not end at a digit of {self.digits}")

    # -- layouts by the field's names ------------------------------------------------------------

    @classmethod
    def raster(cls, height: int, width: int) -> Layout:
        """Row after row."""
        return cls((Axis(height), Axis(width)), (Digit("y", height, 1), Digit("x", width, 1)))

    @classmethod
    def windows(
        cls,
        height: int,
        width: int,
        size: int | Pair,
        shift: int | Pair = 0,
        *,
        clamp: bool = True,
        pad_first: bool = False,
    ) -> Layout:
        """Window after window, after a cyclic shift (2103.14030); a map that is not tiled is padded below and right.

        The shift is dropped on an axis that is not larger than the window, which `clamp` cuts down to the axis. The
        map is shifted and then padded, as timm does; `pad_first` pads and then shifts, as torchvision does.
        """
        axes, cells, inner = [], [], []
        for n, w, s in zip((height, width), _pair(size), _pair(shift), strict=True):
            if w < 1 or s < 0 or (s and s >= w):
                raise ValueError(f"a shift of {s} and a window of {w} do not go together")
            fit = min(n, w) if clamp else w
            cells.append(-(-n // w))
            inner.append(fit)
            axes.append(_shifted(n, 0 if n <= w else s, cells[-1] * fit, pad_first))
        return cls._grouped(axes, cells, inner, inner)

    @classmethod
    def haloed(cls, height: int, width: int, size: int | Pair, halo: int | Pair, *, clamp: bool = True) -> Layout:
        """Windows that reach `halo` positions into their neighbours on every side, padded around the map (2103.12731).

        A gather: positions near a border of windows are listed more than once.
        """
        axes, cells, inner, seen = [], [], [], []
        for n, w, h in zip((height, width), _pair(size), _pair(halo), strict=True):
            if w < 1 or h < 0:
                raise ValueError(f"a halo of {h} and a window of {w} do not go together")
            cells.append(-(-n // w))
            inner.append(min(n, w) if clamp else w)
            seen.append(inner[-1] + 2 * h)
            axes.append(Axis(n, -h))
        return cls._grouped(axes, cells, inner, seen)

    @classmethod
    def grid(cls, height: int, width: int, size: int | Pair) -> Layout:
        """Cells of `size` positions spread evenly over the map, which they must tile (2204.01697)."""
        cell = min(height, _pair(size)[0]), min(width, _pair(size)[1])
        if cell[0] < 1 or cell[1] < 1 or height % cell[0] or width % cell[1]:
            raise ValueError(f"a {cell[0]}x{cell[1]} grid does not tile the {height}x{width} map")
        return cls.dilated(height, width, cell, (height // cell[0], width // cell[1]))

    @classmethod
    def dilated(cls, height: int, width: int, size: int | Pair, dilation: int | Pair) -> Layout:
        """Windows of `size` positions that stand `dilation` apart; padded below and right (2209.15001)."""
        axes, outer, inner = [], [], []
        for name, n, w, d in zip("yx", (height, width), _pair(size), _pair(dilation), strict=True):
            axes.append(Axis(n))
            outer += [Digit(name, -(-n // (w * d)), w * d), Digit(name, d, 1)]
            inner.append(Digit(name, w, d))
        return cls((axes[0], axes[1]), (*outer, *inner), count(inner))

    @classmethod
    def stripes(cls, height: int, width: int, breadth: int, *, vertical: bool = False) -> Layout:
        """Stripes of `breadth` whole rows, or columns (2107.00652)."""
        return cls.windows(height, width, (height, breadth) if vertical else (breadth, width))

    @classmethod
    def merged(cls, height: int, width: int, size: int | Pair = 2, *, columns_first: bool = False) -> Layout:
        """Patch merging: each `size` block is one token. `columns_first` lists a block down its columns, as Swin does.

        In memory it is the order of windows of that size: from there merging costs nothing.
        """
        h, w = _pair(size)
        outer = (Digit("y", -(-height // h), h), Digit("x", -(-width // w), w))
        inner = (Digit("y", h, 1), Digit("x", w, 1))
        digits = (*outer, *(inner[::-1] if columns_first else inner))
        return cls((Axis(height), Axis(width)), digits, h * w, into_channels=True)

    @classmethod
    def mask_units(cls, height: int, width: int, schedule: Sequence[int | Pair]) -> Layout:
        """Hiera's order (2306.00989): `schedule` holds the strides of its poolings, the first one outermost.

        What one pooling joins stands farthest apart, so that it is a reduction of the slowest digits; positions of
        one mask unit differ in all but the fastest two digits. The strides must divide the map.
        """
        digits, stride = [], {"y": 1, "x": 1}
        for step in schedule:
            for name, s in zip("yx", _pair(step), strict=True):
                digits.append(Digit(name, s, stride[name]))
                stride[name] *= s
        if height % stride["y"] or width % stride["x"]:
            raise ValueError(f"mask units of {stride['y']}x{stride['x']} do not tile the {height}x{width} map")
        units = [Digit(name, n // stride[name], stride[name]) for name, n in zip("yx", (height, width), strict=True)]
        return cls((Axis(height), Axis(width)), (*digits, *units))

    @classmethod
    def morton(cls, height: int, width: int) -> Layout:
        """The bits of the coordinates interleaved, x fastest; padded to powers of two."""
        bits = {"y": (height - 1).bit_length(), "x": (width - 1).bit_length()}
        levels = range(max(bits.values()) - 1, -1, -1)
        digits = tuple(Digit(name, 2, 2**i) for i in levels for name in "yx" if i < bits[name])
        return cls((Axis(height), Axis(width)), digits)

    @classmethod
    def convolution(
        cls, height: int, width: int, kernel: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0
    ) -> Layout:
        """The windows of a convolution, one after the other (im2col): a partition where the kernel is the stride."""
        axes, cells = _outputs((height, width), _pair(kernel), _pair(stride), _pair(padding))
        return cls._grouped(axes, cells, _pair(stride), _pair(kernel))

    @classmethod
    def window_rows(
        cls, height: int, width: int, kernel: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0
    ) -> Layout:
        """The order of im2win (2306.14316): the kernel's rows under each row of outputs, column after column.

        Windows that follow each other in a row overlap in memory, so only overlapping rows are listed twice.
        """
        (k, _), (s, _), p = _pair(kernel), _pair(stride), _pair(padding)
        axes, (rows, _) = _outputs((height, width), _pair(kernel), _pair(stride), p)
        digits = (Digit("y", rows, s), Digit("x", width + 2 * p[1], 1), Digit("y", k, 1))
        return cls((axes[0], axes[1]), digits, k)

    @classmethod
    def of(cls, frame: Frame, *, pad_first: bool = False) -> Layout:
        """The order of a value inside a window or grid frame; the frame does not hold whether padding came first."""
        (height, width), (rows, columns), (h, w) = (
            (int(pair[0]), int(pair[1])) for pair in (frame.extent, frame.grid, frame.inner)
        )
        if frame.kind == "grid":
            return cls.grid(height, width, (h, w))
        if frame.kind != "window":
            raise ValueError(f"{frame} does not order the positions of a map: only windows and grids do")
        if frame.halo and any(frame.shift):
            raise ValueError(f"{frame} has both a shift and a halo")
        axes = [Axis(height, -frame.halo), Axis(width, -frame.halo)]
        if not frame.halo:
            sizes = zip((height, width), frame.shift, (rows * h, columns * w), strict=True)
            axes = [_shifted(n, int(s), covered, pad_first) for n, s, covered in sizes]
        return cls._grouped(axes, (rows, columns), (h, w), (h + 2 * frame.halo, w + 2 * frame.halo))

    @classmethod
    def _grouped(cls, axes: Sequence[Axis], cells: Sequence[int], steps: Sequence[int], inner: Sequence[int]) -> Layout:
        """y1 x1 | y0 x0: `cells` groups, `steps` apart, of `inner` positions each."""
        outer = (Digit("y", cells[0], steps[0]), Digit("x", cells[1], steps[1]))
        return cls((axes[0], axes[1]), (*outer, Digit("y", inner[0], 1), Digit("x", inner[1], 1)), inner[0] * inner[1])

    # -- what a layout says ----------------------------------------------------------------------

    @property
    def height(self) -> int:
        return self.axes[0].extent

    @property
    def width(self) -> int:
        return self.axes[1].extent

    @property
    def positions(self) -> int:
        """How many there are, padding included."""
        return count(self.digits)

    @property
    def order(self) -> Layout:
        """The same order without groups: layouts of equal order need no conversion."""
        return replace(self, group=1, into_channels=False)

    def lifted(self, height: int, width: int) -> Layout:
        """The order of a map `height` x `width` times as large whose blocks follow each other as positions do here.

        What is in this order is folded from it, and unfolded to it, without a move.
        """
        axes = [Axis(a.extent * n, a.offset * n, a.period * n) for a, n in zip(self.axes, (height, width), strict=True)]
        scale = {"y": height, "x": width, "pad": 1}
        outer = tuple(replace(d, stride=d.stride * scale[d.axis]) for d in self.digits)
        block = (Digit("y", height, 1), Digit("x", width, 1))
        return Layout((axes[0], axes[1]), (*outer, *block), height * width)

    @property
    def padded(self) -> bool:
        """Whether some position lies outside of the map."""
        rows, columns = self._reads()
        return sum(rows) * sum(columns) != self.positions

    def index(self) -> tuple[int, ...]:
        """The position in raster order that each position of the layout holds, -1 for padding."""
        at = [(0, 0, True)]
        for d in self.digits:
            y, x = (d.stride if d.axis == name else 0 for name in "yx")
            inside = [d.axis != "pad" or i == 0 for i in range(d.extent)]
            at = [(u + i * y, v + i * x, ok and inside[i]) for u, v, ok in at for i in range(d.extent)]
        rows = [self.axes[0].at(u) if ok else -1 for u, _, ok in at]
        columns = [self.axes[1].at(v) for _, v, _ in at]
        return tuple(r * self.width + c if r >= 0 and c >= 0 else -1 for r, c in zip(rows, columns, strict=True))

    def inverse(self) -> tuple[int, ...]:
        """The layout's position that holds each position of the map, in raster order.

        Raises ValueError where there is none, or more than one.
        """
        if not self.bijective:
            raise ValueError(f"{self} does not hold every position of its {self.height}x{self.width} map once")
        out = [0] * (self.height * self.width)
        for at, source in enumerate(self.index()):
            if source >= 0:
                out[source] = at
        return tuple(out)

    @property
    def bijective(self) -> bool:
        """Whether every position of the map is held exactly once."""
        return all(set(reads) == {1} for reads in self._reads())

    @property
    def expansion(self) -> Fraction:
        """Positions of the layout, padding included, for each one of the map: what a buffer in this order takes."""
        return Fraction(self.positions, self.height * self.width)

    @property
    def duplication(self) -> Fraction:
        """How often a position of the map is held, over those that are held at all."""
        rows, columns = ([n for n in reads if n] for reads in self._reads())
        return Fraction(sum(rows), len(rows)) * Fraction(sum(columns), len(columns))

    def picture(self) -> str:
        """`index()`, one group a line (one line without groups), a dot for padding."""
        index, step = self.index(), self.group if self.group > 1 else self.positions
        cells = ["." if i < 0 else str(i) for i in index]
        wide = max(map(len, cells))
        return "\n".join(" ".join(c.rjust(wide) for c in cells[i : i + step]) for i in range(0, len(cells), step))

    def __str__(self) -> str:
        """Digits slowest first, the largest step of an axis with the largest number: `shift 3x3: y1 x1 | y0 x0`."""
        outer, inner = cut(self.digits, self.group) or ((), ())
        ranks = {a: sorted((d.stride, -i) for i, d in enumerate((*outer, *inner)) if d.axis == a) for a in "yx"}
        names = []
        for i, d in enumerate((*outer, *inner)):
            if d.axis == "pad" or len(ranks[d.axis]) == 1:
                names.append(d.axis)
            else:
                names.append(f"{d.axis}{ranks[d.axis].index((d.stride, -i))}")
        before, after = " ".join(names[: len(outer)]), " ".join(names[len(outer) :])
        text = f"{before} | {f'({after})' if self.into_channels else after}".strip() if after else before
        return "".join(f"{said}: " for said in self._moves()) + (text or "1")

    def _moves(self) -> Iterable[str]:
        """How the axes are shifted and padded, where they are."""
        y, x = self.axes
        if y.period or x.period:
            later = [max(a.period, a.extent) for a in self.axes]
            first = f" after padding to {later[0]}x{later[1]}" if later != [y.extent, x.extent] else ""
            yield f"shift {y.offset if y.period else 0}x{x.offset if x.period else 0}{first}"
        plain = [0 if a.period else a.offset for a in self.axes]
        if any(plain):
            yield f"from {plain[0]},{plain[1]}"

    def _reads(self) -> tuple[list[int], list[int]]:
        """How often each coordinate of each axis is held."""
        out: tuple[list[int], list[int]] = [0] * self.height, [0] * self.width
        for axis, reads, name in zip(self.axes, out, "yx", strict=True):
            for u in sums(self.digits, name):
                if axis.at(u) >= 0:
                    reads[axis.at(u)] += 1
        return out


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _shifted(extent: int, shift: int, covered: int, pad_first: bool) -> Axis:
    return Axis(extent, shift, covered if pad_first else extent)


def _outputs(extents: Pair, kernel: Pair, stride: Pair, padding: Pair) -> tuple[list[Axis], list[int]]:
    """The axes under a convolution, and how many windows stand on each."""
    axes, cells = [], []
    for n, k, s, p in zip(extents, kernel, stride, padding, strict=True):
        if k < 1 or s < 1 or not 0 <= p < k or n + 2 * p < k:
            raise ValueError(
                f"a kernel of {k}, a stride of {s} and a padding of {p} do not go together on {n} positions"
            )
        axes.append(Axis(n, -p))
        cells.append((n + 2 * p - k) // s + 1)
    return axes, cells
