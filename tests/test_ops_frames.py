"""Turns frames into checks against timm, torchvision and formulas written independently of the lowerings."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archdsl.backends.torch.alone import HEADER, bench
from archdsl.ir.sizes import Size, text
from archdsl.ir.types import Frame, TensorType, image
from archdsl.ops.attend import Attend
from archdsl.ops.base import Op, ShapeError
from archdsl.ops.by_head import ByHead
from archdsl.ops.chunks import Chunks
from archdsl.ops.concat import Concat
from archdsl.ops.grids import Grids
from archdsl.ops.interleave import Interleave
from archdsl.ops.merge import Merge
from archdsl.ops.pack import Pack
from archdsl.ops.raster import Raster
from archdsl.ops.rel_lookup import RelLookup
from archdsl.ops.select import Select
from archdsl.ops.shuffle import Shuffle
from archdsl.ops.split import Split
from archdsl.ops.tile import Tile
from archdsl.ops.to_map import ToMap
from archdsl.ops.tokens import Tokens
from archdsl.ops.transpose import Transpose
from archdsl.ops.unraster import Unraster
from archdsl.ops.unshuffle import Unshuffle
from archdsl.ops.windows import Windows
from archdsl.resources import template_dir
from archdsl.testing import completed, run_op

EXACT = {"rtol": 0.0, "atol": 1e-12}
B, C, HEADS = 2, 6, 3

MAPS = [(8, 8), (7, 7), (9, 12), (5, 13), (4, 4), (16, 7)]
WINDOWS = [(4, 4), (7, 7), (4, 3), (3, 8)]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def feature_map(height: int, width: int, channels: int = C, *frames: Frame) -> TensorType:
    return TensorType("map", (channels, height, width), frames)


def cut(op: Op, x: Tensor) -> tuple[TensorType, Tensor, object]:
    """A [B, H, W, C] map in the frames of `op`: its type, its tensor, the run-time frame."""
    t = feature_map(*x.shape[1:])
    inner, _ = op.resolve(t).infer(t)
    tensor, frame = run_op(op, (t,), [x])
    return inner, tensor, frame


# -- windows, shift, mask -------------------------------------------------------------------------


@pytest.mark.parametrize("size", MAPS, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("shifted", [False, True], ids=["still", "shifted"])
def test_window_attention_is_that_of_timm(size: tuple[int, int], window: tuple[int, int], shifted: bool) -> None:
    block_of = pytest.importorskip("timm.models.swin_transformer").SwinTransformerBlock
    shift = (window[0] // 2, window[1] // 2) if shifted else (0, 0)
    block = block_of(C, size, num_heads=HEADS, window_size=window, shift_size=shift).double()
    with torch.no_grad():
        for p in block.parameters():
            p.normal_()
    x = random(B, *size, C)
    t, cells, frame = cut(Windows(window, shift), x)
    assert t.size == tuple(block.window_size) and t.frames[-1].shift == tuple(block.shift_size)
    attn = block.attn
    with torch.no_grad():
        qkv = run_op(Split(3), (t.with_channels(3 * C),), [attn.qkv(cells)])
        table = TensorType("tokens", tuple(attn.relative_position_bias_table.shape), batched=False)
        (bias,) = run_op(RelLookup(), (table, t), [attn.relative_position_bias_table, cells])
        scores = RelLookup().infer(table, t)[0]
        (y,) = run_op(Attend(HEADS), (t, t, t, scores), [*qkv, bias, frame])
        (y,) = run_op(Merge(), (t,), [attn.proj(y), frame])
        torch.testing.assert_close(y, block._attn(x), **EXACT)


def test_windows_pad_first_as_torchvision_does() -> None:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    for size in [(8, 8), (9, 13), (8, 14), (15, 5)]:
        x, weight, bias = random(B, *size, C), random(3 * C, C), random(3 * C)
        proj, table = random(C, C), random(HEADS, 16, 16)
        wanted = swin.shifted_window_attention(
            x, weight, proj, table[None], [4, 4], HEADS, [2, 2], qkv_bias=bias, proj_bias=torch.zeros(C).double()
        )
        t, cells, frame = cut(Windows(4, 2, "before_roll"), x)
        qkv = F.linear(cells, weight, bias).chunk(3, -1)
        scores = TensorType("scores", (HEADS, 16, 16), batched=False)
        (y,) = run_op(Attend(HEADS), (t, t, t, scores), [*qkv, table, frame])
        (y,) = run_op(Merge(), (t,), [F.linear(y, proj), frame])
        torch.testing.assert_close(y, wanted, **EXACT)


@pytest.mark.parametrize("size", [(5, 9), (3, 4), (8, 15)], ids=str)
def test_windows_that_are_not_clamped_pad_a_smaller_map(size: tuple[int, int]) -> None:
    twins = pytest.importorskip("timm.models.twins")
    attn, x = twins.LocallyGroupedAttn(C, HEADS, ws=7).double(), random(B, *size, C)
    t, cells, frame = cut(Windows(7, clamp=False), x)
    assert t.size == (7, 7)
    with torch.no_grad():
        (y,) = run_op(Attend(HEADS), (t, t, t), attn.qkv(cells).chunk(3, -1))
        (y,) = run_op(Merge(), (t,), [y, frame])
        torch.testing.assert_close(attn.proj(y), attn(x.flatten(1, 2), size).unflatten(1, size), **EXACT)


def test_shifted_windows_that_are_not_clamped_are_those_of_torchvision() -> None:
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    for size in [(3, 5), (9, 2)]:
        x, weight, bias = random(B, *size, C), random(3 * C, C), random(3 * C)
        proj, table = random(C, C), random(HEADS, 16, 16)
        wanted = swin.shifted_window_attention(
            x, weight, proj, table[None], [4, 4], HEADS, [2, 2], qkv_bias=bias, proj_bias=torch.zeros(C).double()
        )
        t, cells, frame = cut(Windows(4, 2, "before_roll", clamp=False), x)
        scores = TensorType("scores", (HEADS, 16, 16), batched=False)
        qkv = F.linear(cells, weight, bias).chunk(3, -1)
        (y,) = run_op(Attend(HEADS), (t, t, t, scores), [*qkv, table, frame])
        (y,) = run_op(Merge(), (t,), [F.linear(y, proj), frame])
        torch.testing.assert_close(y, wanted, **EXACT)


def test_a_mask_built_at_one_size_is_right_at_another() -> None:
    small, large = feature_map(4, 4), feature_map(9, 12)
    windows = Windows(4, 2)
    t_small, t_large = windows.resolve(small).infer(small)[0], windows.resolve(large).infer(large)[0]
    assert t_small.frames[-1].shift == (0, 0) and t_large.frames[-1].shift == (2, 2)
    _, cells, frame = cut(windows, random(B, 9, 12, C))
    with bench() as room:
        got = []
        for t in (t_small, t_large):
            types = completed(Attend(HEADS), (t, t, t))
            got.append(room.module(Attend(HEADS), types)(cells, cells, cells, frame))
    torch.testing.assert_close(*got, **EXACT)


def test_windows_given_no_shift_ask_for_no_mask() -> None:
    t = feature_map(8, 8)
    for op, masked in ((Windows(4), False), (Windows(4, 0), True), (Windows(4, 2), True), (Windows(8, 2), True)):
        inner = op.resolve(t).infer(t)[0]
        assert Attend().wants_frame(inner, inner, inner) is masked


@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    window=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    shifted=st.booleans(),
    pad=st.sampled_from(["after_roll", "before_roll"]),
    clamp=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_merge_undoes_windows(
    size: tuple[int, int], window: tuple[int, int], shifted: bool, pad: str, clamp: bool
) -> None:
    x = random(B, *size, 2)
    shift = (window[0] // 2, window[1] // 2) if shifted else None
    t, cells, frame = cut(Windows(window, shift, pad, clamp=clamp), x)
    assert Merge().infer(t) == (feature_map(*size, 2),)
    (y,) = run_op(Merge(), (t,), [cells, frame])
    assert torch.equal(x, y)


def test_several_maps_are_cut_alike() -> None:
    x, y = random(B, 9, 7, C), random(B, 9, 7, 2)
    types = feature_map(9, 7), feature_map(9, 7, 2)
    *cells, frame = run_op(Windows((4, 9)), types, [x, y])
    for one, whole in zip(cells, (x, y), strict=True):
        alone, frame_alone = run_op(Windows((4, 9)), (feature_map(*whole.shape[1:]),), [whole])
        assert torch.equal(one, alone) and tuple(frame) == tuple(frame_alone)


def test_halo_windows_are_unfold() -> None:
    for size in [(8, 12), (7, 9)]:
        x = random(B, *size, C)
        t, cells, _ = cut(Windows(4, halo=1), x)
        bottom, right = -size[0] % 4, -size[1] % 4
        channels = F.pad(x.permute(0, 3, 1, 2), (1, 1 + right, 1, 1 + bottom))
        wanted = F.unfold(channels, 6, stride=4).unflatten(1, (C, 6, 6)).permute(0, 4, 2, 3, 1).flatten(0, 1)
        assert t.size == (6, 6) and torch.equal(cells, wanted)


def test_nested_windows_fold_inner_frames_innermost() -> None:
    x = random(B, 8, 8, C)
    outer, cells, frame = cut(Windows(4), x)
    inner = Windows(2).resolve(outer).infer(outer)[0]
    small, small_frame = run_op(Windows(2), (outer,), [cells])
    assert inner.cells == 16 and torch.equal(small[5], x[0, 0:2, 6:8])
    (back,) = run_op(Merge(), (inner,), [small, small_frame])
    (back,) = run_op(Merge(), (outer,), [back, frame])
    assert torch.equal(back, x)


def test_sizes_stay_expressions_of_the_input() -> None:
    x = image(3, 224, 160)
    t = Windows(7).resolve(x).infer(x)[0]
    assert isinstance(t.dims[1], Size) and text(t.dims[1]) == "min(H, 7)"
    assert all(isinstance(n, Size) for n in t.frames[-1].grid)
    assert [text(n) for n in Merge().infer(t)[0].size] == ["H", "W"]


# -- other frames ---------------------------------------------------------------------------------


def test_grids_are_those_of_timm() -> None:
    maxxvit = pytest.importorskip("timm.models.maxxvit")
    x = random(B, 8, 12, C)
    t, cells, frame = cut(Grids((4, 6)), x)
    assert t.frames[-1].grid == (2, 2)
    assert torch.equal(cells, maxxvit.grid_partition(x, [4, 6]))
    (y,) = run_op(Merge(), (t,), [cells, frame])
    assert torch.equal(y, x)


def test_grids_raise_at_a_size_they_do_not_tile() -> None:
    with bench() as room, pytest.raises(ValueError, match="does not tile"):
        room.module(Grids((4, 4)), (feature_map(8, 8),))(random(B, 9, 8, C))


def test_cells_that_shrank_merge_to_grid_by_inner() -> None:
    x = random(B, 8, 12, C)
    t, cells, frame = cut(Windows(4), x)
    small = cells[:, ::2, ::2]
    (y,) = run_op(Merge(), (t.with_size(2, 2),), [small, frame])
    assert torch.equal(y, x[:, ::2, ::2])


def test_chunks_are_neighbours_and_merge_back() -> None:
    x = random(B, 12, C)
    t = TensorType("tokens", (12, C))
    (inner,) = Chunks(3).infer(t)
    (cells,) = run_op(Chunks(3), (t,), [x])
    assert torch.equal(cells[4], x[1, 4:8]) and inner.dims == (4, C)
    (y,) = run_op(Merge(), (inner,), [cells])
    assert torch.equal(x, y) and Merge().infer(inner) == (t,)


@pytest.mark.parametrize("axes", ["first", "last"])
def test_by_head_gives_each_group_of_channels_the_same_weights(axes: str) -> None:
    x, kernel = random(B, C, 5, 4), random(2, 1, 3, 3)
    wanted = F.conv2d(x, kernel.repeat(3, 1, 1, 1), groups=C)
    laid = x if axes == "first" else x.permute(0, 2, 3, 1)
    (cells,) = run_op(ByHead(3), (feature_map(5, 4),), [laid], axes)
    first = cells if axes == "first" else cells.permute(0, 3, 1, 2)
    y = F.conv2d(first, kernel, groups=2).permute(0, 2, 3, 1)
    (inner,) = ByHead(3).infer(feature_map(5, 4))
    (y,) = run_op(Merge(), (inner.with_size(3, 2),), [y])
    torch.testing.assert_close(y.permute(0, 3, 1, 2), wanted, **EXACT)


def test_tile_repeats_a_sample_in_its_own_windows() -> None:
    t, cells, _ = cut(Windows(4), random(B, 8, 12, C))
    x = random(B, 3, C)
    (y,) = run_op(Tile(), (TensorType("tokens", (3, C)), t), [x, cells])
    assert y.shape[0] == B * 6 and all(torch.equal(y[i], x[i // 6]) for i in range(B * 6))


def test_pack_is_the_patch_merging_of_timm() -> None:
    merging = pytest.importorskip("timm.models.swin_transformer").PatchMerging(C).double()
    for size in [(8, 6), (7, 9)]:
        x = random(B, *size, C)
        t, cells, frame = cut(Windows(2), x)
        (y,) = run_op(Pack("whc"), (t,), [cells, frame])
        with torch.no_grad():
            torch.testing.assert_close(merging.reduction(merging.norm(y)), merging(x), **EXACT)
            (hwc,) = run_op(Pack(), (t,), [cells, frame])
        assert torch.equal(hwc.unflatten(-1, (2, 2, C)), y.unflatten(-1, (2, 2, C)).transpose(-2, -3))


# -- structure ------------------------------------------------------------------------------------


def test_split_has_one_rest_and_reads_it_from_the_tensor() -> None:
    t = TensorType("tokens", (10, C))
    op = Split((1, "rest", 2), "n")
    assert [o.dims[0] for o in op.infer(t)] == [1, 7, 2]
    x = random(B, 14, C)
    with bench() as room:
        parts = room.module(op, (t,))(x)
    assert [p.shape[1] for p in parts] == [1, 11, 2] and torch.equal(torch.cat(parts, 1), x)


def test_split_into_equal_parts_raises_where_another_size_does_not_divide() -> None:
    with bench() as room, pytest.raises(RuntimeError):
        room.module(Split(2, "n"), (TensorType("tokens", (10, C)),))(random(B, 11, C))


@pytest.mark.parametrize("axes", ["first", "last"])
def test_concat_repeats_a_parameter_in_every_sample(axes: str) -> None:
    token, x = random(1, C), random(B, 4, C)
    const = TensorType("tokens", (1, C), batched=False)
    (y,) = run_op(Concat("n"), (const, TensorType("tokens", (4, C))), [token, x], axes)
    assert torch.equal(y[:, 0], token.expand(B, C)) and torch.equal(y[:, 1:], x)
    plane, z = random(2, 3, 4), random(B, C, 3, 4)
    types = feature_map(3, 4), TensorType("map", (2, 3, 4), batched=False)
    (y,) = run_op(Concat(), types, [z if axes == "first" else z.permute(0, 2, 3, 1), plane], axes)
    y = y if axes == "first" else y.permute(0, 3, 1, 2)
    assert torch.equal(y[:, :C], z) and torch.equal(y[1, C:], plane)


def test_interleave_is_a_channel_shuffle() -> None:
    x = random(B, C, 3, 4)
    (y,) = run_op(Interleave(2), (feature_map(3, 4),), [x], "first")
    assert torch.equal(y, F.channel_shuffle(x, 2))


def test_tokens_and_to_map_are_raster_order() -> None:
    x = random(B, C, 3, 4)
    for axes, laid in (("first", x), ("last", x.permute(0, 2, 3, 1))):
        (y,) = run_op(Tokens(), (feature_map(3, 4),), [laid], axes)
        assert torch.equal(y[:, 7], x[:, :, 1, 3])
        (back,) = run_op(ToMap(3, 4), (TensorType("tokens", (12, C)),), [y], axes)
        assert torch.equal(back, laid)


def test_to_map_takes_the_size_of_another_map() -> None:
    x, types = random(B, 12, C), (TensorType("tokens", (12, C)), feature_map(3, 4, 2))
    for axes, laid, like in (("last", (B, 3, 4, C), (B, 3, 4, 2)), ("first", (B, C, 3, 4), (B, 2, 3, 4))):
        (y,) = run_op(ToMap(), types, [x, random(*like)], axes)
        assert y.shape == laid and torch.equal(y.permute(0, 2, 3, 1) if axes == "first" else y, x.unflatten(1, (3, 4)))
        with bench() as room:  # built for a 3x4 map, called with a 6x2 one
            at = room.module(ToMap(), types, axes)(x, random(B, *((6, 2, 2) if axes == "last" else (2, 6, 2))))
        assert at.shape == ((B, 6, 2, C) if axes == "last" else (B, C, 6, 2))


def test_attention_of_transposed_channels_is_that_of_timm() -> None:
    davit = pytest.importorskip("timm.models.davit")
    attn, x = davit.ChannelAttention(C, HEADS).double(), random(B, 4, 5, C)
    t = feature_map(4, 5)
    with torch.no_grad():
        parts = [run_op(ByHead(HEADS), (t,), [y])[0] for y in attn.qkv(x).chunk(3, -1)]
        (head,) = ByHead(HEADS).infer(t)
        q, k, v = (run_op(Transpose(), (head,), [y])[0] for y in parts)
        (channels,) = Transpose().infer(head)
        (y,) = run_op(Attend(scale=(C / HEADS) ** -0.5), (channels,) * 3, [k, v, q])
        (y,) = run_op(Transpose(), (channels,), [y])
        (y,) = run_op(Merge(), Transpose().infer(channels), [y])
        torch.testing.assert_close(attn.proj(y), attn(x.flatten(1, 2)), **EXACT)


def test_transpose_is_its_own_inverse_but_for_the_grid() -> None:
    x, t = random(B, C, 3, 4), feature_map(3, 4)
    for axes, laid in (("first", x), ("last", x.permute(0, 2, 3, 1))):
        (y,) = run_op(Transpose(), (t,), [laid], axes)
        assert torch.equal(y, x.flatten(2))
        (back,) = run_op(Transpose(), Transpose().infer(t), [y], axes)
        assert torch.equal(back, x.flatten(2).transpose(1, 2))


def test_select_keeps_the_highest_scores() -> None:
    x, score = random(B, 8, C), random(B, 8, 1)
    kept, dropped = run_op(Select(3), (TensorType("tokens", (8, C)), TensorType("tokens", (8, 1))), [x, score])
    for b in range(B):
        ranked = sorted(range(8), key=lambda i: -score[b, i].item())
        assert torch.equal(torch.cat([kept, dropped], 1)[b], x[b, ranked])


def test_unshuffle_undoes_shuffle() -> None:
    x, t = random(B, 50, C), TensorType("tokens", (50, C))
    y, order = run_op(Shuffle(), (t,), [x])
    assert not torch.equal(x, y) and torch.equal(x[:, order], y)
    (back,) = run_op(Unshuffle(), (t, Shuffle().infer(t)[1]), [y, order])
    assert torch.equal(back, x)


@pytest.mark.parametrize("axis", ["w", "h"])
def test_raster_moves_an_axis_into_the_channels(axis: str) -> None:
    x = random(B, 4, 5, C)
    (t,) = Raster(axis, 2).infer(feature_map(4, 5))
    (y,) = run_op(Raster(axis, 2), (feature_map(4, 5),), [x])
    kept, mixed = (5, 4) if axis == "w" else (4, 5)
    o = C // 2
    for h in range(4):
        for w in range(5):
            for c in range(C):
                stays, moves = (w, h) if axis == "w" else (h, w)
                assert torch.equal(y[:, c % o * kept + stays, c // o * mixed + moves], x[:, h, w, c])
    (back,) = run_op(Unraster(axis, 2), (t,), [y])
    assert torch.equal(back, x) and Unraster(axis, 2).infer(t) == (feature_map(4, 5),)


# -- mistakes -------------------------------------------------------------------------------------

WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
SHIFTED = replace(WINDOW, shift=(2, 2), shifts=True)
PADDED = Frame("window", (2, 3), (4, 4), (7, 12))
SEQUENCE = TensorType("tokens", (10, C))
CONST = TensorType("map", (C, 8, 8), batched=False)


@pytest.mark.parametrize(
    ("op", "types", "code", "attr", "port"),
    [
        (Windows(4, 4), (feature_map(8, 8),), "E-WINDOW", "shift", ""),
        (Windows(3, pad="none"), (feature_map(8, 8),), "E-WINDOW", "size", ""),
        (Windows(4, 1, halo=1), (feature_map(8, 8),), "E-WINDOW", "halo", ""),
        (Windows(4), (feature_map(8, 8), feature_map(8, 4)), "E-WINDOW", "", "xs"),
        (Windows(4), (SEQUENCE,), "E-KIND", "", "xs"),
        (Windows(4), (CONST,), "E-FRAME", "", "xs"),
        (Merge(), (feature_map(8, 8),), "E-FRAME", "", "x"),
        (Merge(), (feature_map(2, 2, C, PADDED),), "E-FRAME", "", "x"),
        (Merge(), (feature_map(2, 2, C, SHIFTED),), "E-FRAME", "", "x"),
        (Merge(), (feature_map(6, 6, C, replace(WINDOW, halo=1)),), "E-FRAME", "", "x"),
        (Merge(), (replace(SEQUENCE, frames=(WINDOW,)),), "E-KIND", "", "x"),
        (Grids(3), (feature_map(8, 9),), "E-WINDOW", "size", ""),
        (Chunks(4), (SEQUENCE,), "E-SPLIT", "n", ""),
        (ByHead(4), (SEQUENCE,), "E-HEADS", "n", ""),
        (Tile(), (SEQUENCE, feature_map(8, 8)), "E-FRAME", "", "like"),
        (Tile(), (replace(SEQUENCE, frames=(PADDED,)), feature_map(4, 4, C, WINDOW)), "E-FRAME", "", "x"),
        (Pack(), (feature_map(8, 8),), "E-FRAME", "", "x"),
        (Pack(), (feature_map(4, 4, C, SHIFTED),), "E-FRAME", "", "x"),
        (Split(4), (feature_map(8, 8),), "E-SPLIT", "parts", ""),
        (Split((2, 3)), (feature_map(8, 8),), "E-SPLIT", "parts", ""),
        (Split(("rest", "rest")), (feature_map(8, 8),), "E-SPLIT", "parts", ""),
        (Split((6, "rest")), (feature_map(8, 8),), "E-SPLIT", "parts", ""),
        (Split(2, "n"), (feature_map(8, 8),), "E-KIND", "", "x"),
        (Concat(), (feature_map(8, 8), feature_map(8, 4)), "E-SPLIT", "", "xs"),
        (Concat(), (feature_map(4, 4), feature_map(4, 4, C, WINDOW)), "E-FRAME", "", "xs"),
        (Concat("n"), (feature_map(8, 8),), "E-KIND", "", "xs"),
        (Interleave(4), (SEQUENCE,), "E-GROUPS", "g", ""),
        (ToMap(3, 4), (SEQUENCE,), "E-SHAPE", "", "x"),
        (ToMap(), (SEQUENCE, feature_map(3, 4)), "E-SHAPE", "", "x"),
        (ToMap(5), (SEQUENCE,), "E-ATTR", "w", ""),
        (ToMap(), (SEQUENCE,), "E-ATTR", "h", ""),
        (ToMap(5, 2), (SEQUENCE, feature_map(5, 2)), "E-ATTR", "h", ""),
        (Transpose(), (feature_map(4, 4, C, PADDED),), "E-FRAME", "", "x"),
        (Select(10), (SEQUENCE, TensorType("tokens", (10, 1))), "E-ATTR", "k", ""),
        (Select(3), (SEQUENCE, SEQUENCE), "E-SHAPE", "", "score"),
        (Unshuffle(), (SEQUENCE, TensorType("vec", (10,))), "E-SHAPE", "", "order"),
        (Raster("w", 4), (feature_map(8, 8),), "E-GROUPS", "r", ""),
        (Unraster("w", 2), (SEQUENCE,), "E-SHAPE", "", "x"),
        (Unraster("w", 2), (replace(SEQUENCE, grid=(4, 5)),), "E-SHAPE", "", "x"),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else None,
)
def test_mistakes_name_what_is_wrong(op: Op, types: tuple[TensorType, ...], code: str, attr: str, port: str) -> None:
    with pytest.raises(ShapeError) as caught:
        op.resolve(*types).infer(*types)
    error = caught.value
    assert (error.code, error.attr, error.port) == (code, attr, port)
    assert f"`{op.name}" in error.message or code == "E-WINDOW"


# -- capture --------------------------------------------------------------------------------------


SHIFTED_ATTENTION = """

class ShiftedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.windows = ShiftedWindows((7, 8), 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x, frame = self.windows(x)
        return merge_windows(attend(x, x, x, 3, mask=frame.mask), frame)
"""


def test_shifted_windows_are_captured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("windows", "seam_mask", "shifted_windows", "attend")
    helpers = [(template_dir() / "torch" / f"{n}.py.j2").read_text() for n in names]
    source = [re.sub(r"\{#.*#\}", "", text) for text in helpers]
    (tmp_path / "shifted_attention.py").write_text("\n\n".join([HEADER, *source, SHIFTED_ATTENTION]))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("shifted_attention").ShiftedAttention().double()
    x, larger = random(B, 7, 8, C), random(B, 9, 12, C)
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x), **EXACT)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    for y in (x, larger):
        torch.testing.assert_close(compiled(y), module(y), **EXACT)


def test_buffers_of_a_module_built_on_meta_are_made_afterwards() -> None:
    t = feature_map(7, 8)
    cut = Windows(4, 2).resolve(t)
    with bench() as room:
        built = room.module(cut, (t,)).op
        with torch.device("meta"):
            later = room.module(cut, (t,)).op
        later.to_empty(device="cpu")
        later.init_non_persistent_buffers()
    assert torch.equal(built.mask, later.mask) and not built.state_dict()
