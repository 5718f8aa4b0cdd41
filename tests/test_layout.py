"""Turns layouts into checks against roll, pad, view and permute, and against the partitions of timm and torch."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import timm.models.hiera as hiera
import timm.models.maxxvit as maxxvit
import timm.models.swin_transformer as swin
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from archdsl.ir.conversions import Conversion, HeadLayouts
from archdsl.ir.digits import Axis, Digit
from archdsl.ir.layout import Layout
from archdsl.ir.types import Frame, image
from archdsl.ops.base import Op
from archdsl.ops.grids import Grids
from archdsl.ops.windows import Windows

EXTENT = st.integers(1, 13)
SIZE = st.integers(1, 8)
Ints = NDArray[np.int64]


def numbered(height: int, width: int) -> Ints:
    return np.arange(height * width).reshape(height, width)


def counted(height: int, width: int) -> Tensor:
    """[1, H, W, 1] of 1, 2, ..., so that the zeros of padding are told apart."""
    return torch.arange(1, height * width + 1).reshape(1, height, width, 1)


def listed(x: Tensor) -> tuple[int, ...]:
    """The raster positions that a tensor cut from `counted` holds, -1 for padding."""
    return tuple(int(v) - 1 for v in x.flatten())


def rolled_and_cut(
    height: int, width: int, size: tuple[int, int], shift: tuple[int, int], clamp: bool, pad_first: bool
) -> tuple[int, ...]:
    """Windows by roll, pad, reshape and transpose."""
    moved = [0 if n <= w else -s for n, w, s in zip((height, width), size, shift, strict=True)]
    h, w = (min(n, s) if clamp else s for n, s in zip((height, width), size, strict=True))
    x = numbered(height, width)
    rest = ((0, -height % h), (0, -width % w))
    if pad_first:
        x = np.roll(np.pad(x, rest, constant_values=-1), moved, (0, 1))
    else:
        x = np.pad(np.roll(x, moved, (0, 1)), rest, constant_values=-1)
    x = x.reshape(x.shape[0] // h, h, x.shape[1] // w, w).transpose(0, 2, 1, 3)
    return tuple(x.flatten().tolist())


# -- against other implementations ---------------------------------------------------------------


@given(EXTENT, EXTENT, SIZE, SIZE, st.data(), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_windows_roll_pad_and_cut(
    height: int, width: int, h: int, w: int, data: st.DataObject, clamp: bool, pad_first: bool
) -> None:
    shift = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    layout = Layout.windows(height, width, (h, w), shift, clamp=clamp, pad_first=pad_first)
    assert layout.index() == rolled_and_cut(height, width, (h, w), shift, clamp, pad_first)
    assert layout.bijective


@given(st.integers(1, 5), SIZE, SIZE, st.data())
@settings(max_examples=50, deadline=None)
def test_windows_are_those_of_timm(size: int, rows: int, columns: int, data: st.DataObject) -> None:
    """Its partition after roll and pad, and its way back: reverse, crop and roll."""
    height, width, shift = size + rows, size + columns, data.draw(st.integers(0, size - 1))
    x = counted(height, width)
    padded = F.pad(torch.roll(x, (-shift, -shift), (1, 2)), (0, 0, 0, -width % size, 0, -height % size))
    cut = swin.window_partition(padded, (size, size))
    layout = Layout.windows(height, width, size, shift)
    assert layout.index() == listed(cut)
    back = swin.window_reverse(cut, (size, size), padded.shape[1], padded.shape[2])[:, :height, :width]
    assert torch.equal(torch.roll(back, (shift, shift), (1, 2)), x)
    assert torch.equal(cut.flatten()[list(layout.inverse())], x.flatten())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_grids_are_those_of_timm(rows: int, columns: int, h: int, w: int) -> None:
    layout = Layout.grid(rows * h, columns * w, (h, w))
    x = counted(rows * h, columns * w)
    assert layout.index() == listed(maxxvit.grid_partition(x, [h, w]))
    assert layout == Layout.dilated(rows * h, columns * w, (h, w), (rows, columns))


@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_merging_is_that_of_timm(height: int, width: int) -> None:
    """Whose 2x2 blocks run down their columns; a pixel unshuffle's run along their rows."""
    merging = swin.PatchMerging(1, norm_layer=nn.Identity)
    merging.reduction = nn.Identity()
    layout = Layout.merged(height, width, columns_first=True)
    assert layout.index() == listed(merging(counted(height, width)))
    even = F.pad(counted(height, width), (0, 0, 0, width % 2, 0, height % 2)).permute(0, 3, 1, 2)
    assert Layout.merged(height, width).index() == listed(F.pixel_unshuffle(even, 2).permute(0, 2, 3, 1))


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), max_size=3))
@settings(max_examples=30, deadline=None)
def test_mask_units_are_those_of_timm(rows: int, columns: int, schedule: list[tuple[int, int]]) -> None:
    height, width = rows * math.prod(s for s, _ in schedule), columns * math.prod(s for _, s in schedule)
    layout = Layout.mask_units(height, width, schedule)
    tokens = counted(height, width).reshape(1, -1, 1)
    unrolled = hiera.Unroll((height, width), (1, 1), schedule)(tokens)
    assert layout.index() == listed(unrolled)
    back = hiera.Reroll((height, width), (1, 1), schedule, [0], 0)(unrolled, 0)
    assert torch.equal(unrolled.flatten()[list(layout.inverse())], back.flatten())


@given(EXTENT, EXTENT, st.tuples(SIZE, SIZE), st.tuples(SIZE, SIZE), st.tuples(SIZE, SIZE))
@settings(max_examples=150, deadline=None)
def test_convolutions_are_unfolded(
    height: int, width: int, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    least = (max(0, -(-(k - n) // 2)) for k, n in zip(kernel, (height, width), strict=True))
    p = tuple(max(a, min(b, k) - 1) for a, b, k in zip(least, padding, kernel, strict=True))
    x = counted(height, width).permute(0, 3, 1, 2).double()
    layout = Layout.convolution(height, width, kernel, stride, p)
    assert layout.index() == listed(F.unfold(x, kernel, padding=p, stride=stride)[0].t())
    rows = Layout.window_rows(height, width, kernel, stride, p)
    assert rows.index() == listed(F.unfold(x, (kernel[0], 1), padding=p, stride=(stride[0], 1))[0].t())


@given(EXTENT, EXTENT, SIZE, SIZE, st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_halos_are_unfolded(height: int, width: int, h: int, w: int, halo: int, clamp: bool) -> None:
    layout = Layout.haloed(height, width, (h, w), halo, clamp=clamp)
    if clamp:
        h, w = min(h, height), min(w, width)
    x = F.pad(counted(height, width).permute(0, 3, 1, 2).double(), (0, -width % w, 0, -height % h))
    cut = F.unfold(x, (h + 2 * halo, w + 2 * halo), padding=halo, stride=(h, w))
    assert layout.index() == listed(cut[0].t())
    assert halo or layout == Layout.windows(height, width, (h, w), clamp=clamp)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_dilated_windows(height: int, width: int, size: int, dilation: int) -> None:
    span = size * dilation
    x = np.pad(numbered(height, width), ((0, -height % span), (0, -width % span)), constant_values=-1)
    x = x.reshape(x.shape[0] // span, size, dilation, x.shape[1] // span, size, dilation)
    expected = x.transpose(0, 2, 3, 5, 1, 4).flatten().tolist()
    assert Layout.dilated(height, width, size, dilation).index() == tuple(expected)


@given(EXTENT, EXTENT)
@settings(max_examples=30, deadline=None)
def test_morton_interleaves_bits(height: int, width: int) -> None:
    def spread(n: int, other: int) -> int:
        """The bits of n, with room for those of `other` below each of them as long as it has any."""
        return sum((n >> i & 1) << i + min(i + other, bits[1 - other]) for i in range(bits[other]))

    bits = (width - 1).bit_length(), (height - 1).bit_length()
    order = [-1] * 2 ** sum(bits)
    for y, x in itertools.product(range(height), range(width)):
        order[spread(y, 1) + spread(x, 0)] = y * width + x
    assert Layout.morton(height, width).index() == tuple(order)


@given(EXTENT, EXTENT, SIZE)
@settings(max_examples=40, deadline=None)
def test_stripes(height: int, width: int, breadth: int) -> None:
    """Horizontal ones that tile the map are raster order; vertical ones are not, unless one spans the map."""
    flat, tall = Layout.stripes(height, width, breadth), Layout.stripes(height, width, breadth, vertical=True)
    if height % breadth == 0:
        assert flat.order == Layout.raster(height, width)
        assert flat.group == breadth * width
    assert (tall.order == Layout.raster(height, width)) == (tall.index() == tuple(range(height * width)))
    cut = [np.pad(c, ((0, 0), (0, min(breadth, width) - c.shape[1])), constant_values=-1).flatten()
           for c in np.split(numbered(height, width), range(breadth, width, breadth), axis=1)]  # fmt: skip
    assert tall.index() == tuple(np.concatenate(cut).tolist())


@pytest.mark.parametrize(
    "op",
    [
        Windows(size=4),
        Windows(size=(3, 5), shift=2),
        Windows(size=(3, 20), shift=(1, 7)),
        Windows(size=4, halo=2),
        Windows(size=(20, 3), halo=1, clamp=False),
        Windows(size=20, shift=3, clamp=False),
        Windows(size=5, shift=3, pad="before_roll"),
        Grids(size=(3, 4)),
        Grids(size=20),
    ],
    ids=str,
)
def test_layouts_of_frames(op: Op) -> None:
    """A frame that an op infers has the layout that is built from the op's attributes."""
    op = op.resolve(None)
    frame = op.infer(image(3, 9, 16))[-1].frames[-1]
    if isinstance(op, Grids):
        assert Layout.of(frame) == Layout.grid(9, 16, op.size)
    elif op.halo:
        assert Layout.of(frame) == Layout.haloed(9, 16, op.size, op.halo, clamp=op.clamp)
    else:
        first = op.pad == "before_roll"
        built = Layout.windows(9, 16, op.size, op.shift or 0, clamp=op.clamp, pad_first=first)
        assert Layout.of(frame, pad_first=first) == built


# -- equality ------------------------------------------------------------------------------------


def digit_systems(positions: int, most: int) -> Iterator[tuple[Digit, ...]]:
    """All digits that number so many positions, with strides of at most `most`."""

    def extents(rest: int) -> Iterator[tuple[int, ...]]:
        yield from ((e, *more) for e in range(2, rest + 1) if rest % e == 0 for more in extents(rest // e))
        if rest == 1:
            yield ()

    for shape in extents(positions):
        for axes in itertools.product("yx", repeat=len(shape)):
            for strides in itertools.product(range(1, most + 1), repeat=len(shape)):
                yield tuple(Digit(a, e, s) for a, e, s in zip(axes, shape, strides, strict=True))


@pytest.mark.parametrize(("height", "width", "positions"), [(1, 1, 4), (2, 1, 8), (3, 2, 4), (4, 1, 6), (3, 2, 6)])
def test_all_small_layouts_are_equal_where_they_list_the_same(height: int, width: int, positions: int) -> None:
    """All digits, all offsets, shifted cyclically or not: partitions, layouts with gaps and with overlaps."""
    axes = [{Axis(n, s, p) for s in range(n) for p in (0, n)} for n in (height, width)]
    found: dict[tuple[int, ...], set[Layout]] = defaultdict(set)
    for digits in digit_systems(positions, 4):
        for pair in itertools.product(*axes):
            layout = Layout(pair, digits)
            assert replace(layout) == layout
            found[layout.index()].add(layout)
    assert all(len(layouts) == 1 for layouts in found.values())
    values = [next(iter(layouts)) for layouts in found.values()]
    assert len(set(values)) == len(found)


def named(height: int, width: int, sizes: list[tuple[int, int]]) -> Iterator[Layout]:
    """What the constructors make of a map with these sizes."""
    yield from (Layout.raster(height, width), Layout.morton(height, width), Layout.grid(height, width, 1))
    for (h, w), columns in itertools.product(sizes, (False, True)):
        yield Layout.merged(height, width, (h, w), columns_first=columns)
        yield Layout.stripes(height, width, h, vertical=columns)
        yield Layout.dilated(height, width, (h, w), 1 + columns)
        yield Layout.haloed(height, width, (h, w), columns + 1, clamp=columns)
        for dy, dx, first in itertools.product(range(h), range(w), (False, True)):
            yield Layout.windows(height, width, (h, w), (dy, dx), clamp=columns, pad_first=first)
        if height % h == 0 and width % w == 0:
            yield Layout.grid(height, width, (h, w))
            yield Layout.mask_units(height, width, [(h, 1), (1, w)] if columns else [(h, w)])
        for s, p in itertools.product(sizes, range(min(h, w))):
            if height + 2 * p >= h and width + 2 * p >= w:
                yield Layout.convolution(height, width, (h, w), s, p)


def certain(layout: Layout) -> bool:
    """Whether each axis that is padded above or left holds two coordinates or more."""
    held = {i for i in layout.index() if i >= 0}
    counts = len({i // layout.width for i in held}), len({i % layout.width for i in held})
    return all(axis.offset >= 0 or n > 1 for axis, n in zip(layout.axes, counts, strict=True))


@given(EXTENT, EXTENT, st.lists(st.tuples(SIZE, SIZE), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_named_layouts_are_equal_where_they_list_the_same(
    height: int, width: int, sizes: list[tuple[int, int]]
) -> None:
    found: dict[tuple[tuple[int, ...], int, bool], set[Layout]] = defaultdict(set)
    orders: dict[tuple[int, ...], set[Layout]] = defaultdict(set)
    for layout in named(height, width, sizes):
        index = layout.index()
        if certain(layout):
            found[index, layout.group, layout.into_channels].add(layout)
            orders[index].add(layout.order)
    for layouts in (*found.values(), *orders.values()):
        assert len(layouts) == 1, layouts
    assert len({next(iter(layouts)) for layouts in orders.values()}) == len(orders)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_refined_digits_are_the_same_layout(data: st.DataObject) -> None:
    """Digits split at random, with digits of extent 1 among them and other strides beyond the map."""
    digit = st.builds(Digit, st.sampled_from("yx"), st.integers(1, 12), st.integers(1, 6))
    digits = data.draw(st.lists(digit, max_size=4))
    axes = tuple(
        data.draw(st.integers(1, 9).flatmap(lambda n: st.builds(Axis, st.just(n), st.integers(0, n - 1), st.just(n))))
        for _ in "yx"
    )
    refined: list[Digit] = []
    for d in digits:
        inner = data.draw(st.sampled_from([e for e in range(1, d.extent + 1) if d.extent % e == 0]))
        parts = [Digit(d.axis, d.extent // inner, d.stride * inner), Digit(d.axis, inner, d.stride)]
        beyond = [replace(p, stride=p.stride + 5) if p.stride >= axes["yx".index(d.axis)].period else p for p in parts]
        refined += [*beyond, Digit(data.draw(st.sampled_from("yx")), 1, data.draw(st.integers(1, 9)))]
    one, other = Layout((axes[0], axes[1]), tuple(digits)), Layout((axes[0], axes[1]), tuple(refined))
    assert one == other and hash(one) == hash(other)
    assert one.index() == other.index()


def test_equal_values() -> None:
    raster = Layout.raster(8, 12)
    assert Layout.windows(8, 12, (8, 12)).order == Layout.windows(8, 12, 99, 5).order == raster
    assert Layout.windows(7, 7, 7, 3) == Layout.windows(7, 7, 7)
    assert Layout.convolution(8, 12, 4, 4) == Layout.windows(8, 12, 4)
    assert Layout.convolution(8, 12, (1, 12), (1, 12)) == Layout.stripes(8, 12, 1)
    assert Layout.convolution(8, 12, 6, 4, 1) == Layout.haloed(8, 12, 4, 1)
    assert Layout.merged(8, 12).order == Layout.windows(8, 12, 2).order
    assert Layout.merged(8, 12) != Layout.windows(8, 12, 2)
    assert Layout.merged(8, 12, 1) == Layout.windows(8, 12, 1) == raster
    assert Layout.morton(4, 4).order == Layout.windows(4, 4, 2).order
    assert Layout.grid(8, 12, (4, 4)) != Layout.windows(8, 12, (4, 4))
    assert Layout.windows(8, 12, 4, 2) == Layout.windows(8, 12, 4, 2, pad_first=True)
    assert Layout.windows(9, 12, 4, 2) != Layout.windows(9, 12, 4, 2, pad_first=True)


# -- facts of one layout -------------------------------------------------------------------------


@given(EXTENT, EXTENT, st.lists(st.tuples(SIZE, SIZE), min_size=1, max_size=1))
@settings(max_examples=15, deadline=None)
def test_facts_are_those_of_the_index(height: int, width: int, sizes: list[tuple[int, int]]) -> None:
    for layout in named(height, width, sizes):
        index = layout.index()
        held = Counter(i for i in index if i >= 0)
        assert layout.positions == len(index) and len(index) % layout.group == 0
        assert layout.padded == (-1 in index)
        assert layout.bijective == (held == dict.fromkeys(range(height * width), 1))
        assert layout.duplication == Fraction(held.total(), len(held))
        assert layout.expansion == Fraction(len(index), height * width)
        if layout.bijective:
            assert [index[i] for i in layout.inverse()] == list(range(height * width))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((2, 4), (2, 4), (0, 0)), ((3, 3), (1, 1), (1, 1)), ((4, 4), (2, 2), (1, 1)), ((5, 6), (1, 2), (2, 2))],
)
def test_duplication_of_convolutions(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    """Where every stride has its output, im2col takes kh kw / (sh sw) times the map's room and im2win kh / sh."""
    (kh, kw), (sh, sw) = kernel, stride
    columns = Layout.convolution(16, 24, kernel, stride, padding)
    assert columns.expansion == Fraction(kh * kw, sh * sw)
    rows = Layout.window_rows(16, 24, kernel, stride, (padding[0], 0))
    assert rows.expansion == Fraction(kh, sh)
    reads = Counter(columns.index())
    if kh % sh == 0 and kw % sw == 0:
        inside = {reads[y * 24 + x] for y in range(kh, 16 - kh) for x in range(kw, 24 - kw)}
        assert inside == {columns.expansion}


def test_windows_of_a_convolution_are_runs_of_window_rows() -> None:
    kernel, stride, padding = (3, 2), (2, 1), (1, 1)
    rows = Layout.window_rows(8, 5, kernel, stride, padding).index()
    columns = Layout.convolution(8, 5, kernel, stride, padding).index()
    for at, (y, x) in enumerate(itertools.product(range(4), range(6))):
        start = (y * (5 + 2) + x * stride[1]) * kernel[0]
        run = np.array(rows[start : start + 6]).reshape(2, 3).T
        assert tuple(run.flatten().tolist()) == columns[6 * at : 6 * at + 6]


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (Layout.raster(4, 4), "y x"),
        (Layout.raster(1, 1), "1"),
        (Layout.windows(4, 4, 2), "y1 x1 | y0 x0"),
        (Layout.windows(4, 4, 4), "| y x"),
        (Layout.windows(4, 4, 2, (1, 0)), "shift 1x0: y1 x1 | y0 x0"),
        (Layout.windows(5, 4, 2, 1, pad_first=True), "shift 1x1 after padding to 6x4: y1 x1 | y0 x0"),
        (Layout.grid(4, 4, 2), "y0 x0 | y1 x1"),
        (Layout.stripes(4, 4, 2), "y1 | y0 x"),
        (Layout.stripes(4, 4, 2, vertical=True), "x1 | y x0"),
        (Layout.merged(4, 4), "y1 x1 | (y0 x0)"),
        (Layout.merged(4, 4, columns_first=True), "y1 x1 | (x0 y0)"),
        (Layout.dilated(8, 8, 2, 2), "y2 y0 x2 x0 | y1 x1"),
        (Layout.mask_units(8, 8, [2, 2]), "y0 x0 y1 x1 y2 x2"),
        (Layout.morton(4, 4), "y1 x1 y0 x0"),
        (Layout.haloed(4, 4, 2, 1), "from -1,-1: y1 x1 | y0 x0"),
        (Layout.convolution(4, 4, 3, 1, (1, 0)), "from -1,0: y1 x1 | y0 x0"),
        (Layout.convolution(4, 4, 3), "y1 x1 | y0 x0"),
        (Layout.windows(1, 1, 7, clamp=False), "| pad"),
    ],
)
def test_text(layout: Layout, text: str) -> None:
    assert str(layout) == text


def test_pictures() -> None:
    assert Layout.windows(3, 3, 2).picture() == "0 1 3 4\n2 . 5 .\n6 7 . .\n8 . . ."
    assert Layout.stripes(2, 2, 1, vertical=True).order.picture() == "0 2 1 3"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Layout.windows(8, 8, 4, 4), "a shift of 4 and a window of 4"),
        (lambda: Layout.haloed(8, 8, 4, -1), "a halo of -1"),
        (lambda: Layout.grid(8, 8, 3), "a 3x3 grid does not tile the 8x8 map"),
        (lambda: Layout.mask_units(8, 6, [2, 2]), "mask units of 4x4 do not tile the 8x6 map"),
        (lambda: Layout.convolution(8, 8, 3, 1, 3), "a padding of 3"),
        (lambda: Layout.convolution(2, 8, 3), "a kernel of 3"),
        (lambda: Layout.raster(0, 4), "no axis, extent or stride"),
        (lambda: Layout((Axis(0), Axis(4)), ()), "no axis of a map"),
        (lambda: Layout((Axis(4), Axis(4, 0, 3)), ()), "no axis of a map"),
        (lambda: Layout((Axis(4, 4), Axis(4)), ()), "no position on the y axis"),
        (lambda: Layout((Axis(4), Axis(4)), (Digit("y", 4, 0),)), "no axis, extent or stride"),
        (lambda: replace(Layout.raster(4, 6), group=4), "does not end at a digit"),
        (lambda: Layout.of(Frame("chunk", (3, 1), (4, 1), (12, 1))), "only windows and grids do"),
        (lambda: Layout.of(Frame("window", (2, 2), (4, 4), (8, 8), (1, 1), 1)), "both a shift and a halo"),
        (lambda: Layout.convolution(8, 8, 3).inverse(), "does not hold every position"),
        (lambda: Conversion(Layout.haloed(8, 8, 4, 1), Layout.raster(8, 8)), "does not hold every position"),
        (lambda: Conversion(Layout.raster(8, 8), Layout.raster(4, 16)), "8x8 and 4x16 maps"),
        (lambda: HeadLayouts(((0, Layout.raster(2, 2)),)), "a group of 0 heads"),
        (lambda: HeadLayouts(((1, Layout.raster(2, 2)), (1, Layout.raster(1, 4)))), "same height and width"),
        (lambda: HeadLayouts(()), "same height and width"),
    ],
)
def test_what_is_no_layout(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


# -- conversions ---------------------------------------------------------------------------------


@given(EXTENT, EXTENT, SIZE, SIZE, st.data())
@settings(max_examples=80, deadline=None)
def test_reverse_roll_roll_and_partition_are_one_conversion(
    height: int, width: int, h: int, w: int, data: st.DataObject
) -> None:
    """Between two blocks of a windowed transformer, padding cropped in between."""
    one, two = (
        Layout.windows(height, width, (h, w), (data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))))
        for _ in range(2)
    )
    raster = Layout.raster(height, width)
    whole = Conversion(one, raster).then(Conversion(raster, two))
    assert whole == Conversion(one, two)
    values = torch.randn(one.positions)
    at_raster = values[list(one.inverse())]
    expected = torch.cat([at_raster, torch.zeros(1)])[list(two.index())]
    read = whole.index()
    assert torch.equal(torch.cat([values, torch.zeros(1)])[list(read)], expected)
    assert whole.identity == (one.index() == two.index())
    assert whole.inverse == Conversion(two, raster).then(Conversion(raster, one))


@pytest.mark.parametrize("extents", [(4, 4), (6, 4), (1, 6), (8, 2)], ids=str)
def test_equal_conversions_read_the_same(extents: tuple[int, int]) -> None:
    """All pairs of named layouts; conversions that only permute digits are equal wherever they read the same."""
    choices = dict.fromkeys(x.order for x in named(*extents, [(2, 2), (2, 3)]) if x.bijective)
    reads: dict[Conversion, tuple[int, ...]] = {}
    permuted: dict[tuple[int, ...], set[Conversion]] = defaultdict(set)
    for one, other in itertools.product(choices, repeat=2):
        conversion = Conversion(one, other)
        assert reads.setdefault(conversion, conversion.index()) == conversion.index()
        assert conversion.identity == (one.index() == other.index())
        if conversion.steps is not None:
            permuted[conversion.index()].add(conversion)
    assert len(reads) < len(choices) ** 2
    assert all(len(values) == 1 for values in permuted.values())


@given(st.sampled_from([(4, 4), (8, 4), (8, 8), (1, 8)]), st.data())
@settings(max_examples=100, deadline=None)
def test_steps_are_strides_of_a_view(extents: tuple[int, int], data: st.DataObject) -> None:
    """All digits of such maps count powers of two, so that they have a common refinement."""
    found = dict.fromkeys(x for x in named(*extents, [(2, 2), (4, 4), (2, 4)]) if x.bijective and not x.padded)
    choices = [x for x in found if not any(axis.period for axis in x.axes)]
    whole = Conversion(data.draw(st.sampled_from(choices)), data.draw(st.sampled_from(choices)))
    assert whole.steps is not None
    sizes, strides = zip(*whole.steps, strict=True)
    view = torch.as_strided(torch.arange(whole.source.positions), sizes, strides)
    assert tuple(view.flatten().tolist()) == whole.index()


def test_steps() -> None:
    """What permutes digits and what does not, on maps of known sizes."""
    raster, cut = Layout.raster(4, 6), Layout.windows(4, 6, 2)
    assert Conversion(raster, cut).steps == ((2, 12), (3, 2), (2, 6), (2, 1))
    assert Conversion(cut, cut).steps == ((24, 1),)
    assert Conversion(cut, Layout.stripes(4, 6, 2, vertical=True)).steps == ((3, 4), (2, 12), (4, 1))
    assert Conversion(cut, Layout.windows(4, 6, 2, 1)).steps is None
    assert Conversion(Layout.windows(4, 6, 2, 1), Layout.grid(4, 6, 2)).steps is None
    assert Conversion(Layout.windows(6, 6, 2), Layout.windows(6, 6, 3)).steps is None
    shifted = [Conversion(Layout.windows(6, 6, 3, s), Layout.windows(6, 6, 3, s + 1)) for s in range(2)]
    assert shifted[0] == shifted[1] and not shifted[0].identity


def test_heads_of_crossed_stripes() -> None:
    crossed = HeadLayouts.crossed(8, 6, 2, 4)
    assert crossed.heads == 4 and crossed.uniform is None
    assert crossed.of(0) == crossed.of(1) == Layout.stripes(8, 6, 2, vertical=True)
    assert crossed.of(2).order == crossed.of(3).order == Layout.raster(8, 6)
    assert str(crossed) == "2 heads x1 | y x0, 2 heads y1 | y0 x"
    assert HeadLayouts(((1, crossed.of(0)), (1, crossed.of(0)), (2, crossed.of(2)))) == crossed
    assert HeadLayouts.crossed(8, 8, 8, 2).uniform == Layout.windows(8, 8, 8)
    with pytest.raises(IndexError, match="no head 4 among 4"):
        crossed.of(4)
