"""Turns attention ops into checks against timm and formulas written independently of the lowerings."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archdsl.backends.torch.alone import bench
from archdsl.ir.types import Frame, TensorType
from archdsl.ops.as_scores import AsScores
from archdsl.ops.attend import Attend
from archdsl.ops.base import Op, ShapeError
from archdsl.ops.key_count import KeyCount
from archdsl.ops.linear import Linear
from archdsl.ops.local_bias import LocalBias
from archdsl.ops.local_mix import LocalMix
from archdsl.ops.local_scores import LocalScores
from archdsl.ops.mix import Mix
from archdsl.ops.rel_coords import RelCoords
from archdsl.ops.rel_lookup import RelLookup
from archdsl.ops.rel_pos_q import RelPosQ
from archdsl.ops.scores import Scores
from archdsl.ops.softmax import Softmax
from archdsl.testing import run_op

EXACT = {"rtol": 0.0, "atol": 1e-12}
B, C, HEADS = 2, 6, 3


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def feature_map(height: int, width: int, channels: int = C, *frames: Frame) -> TensorType:
    return TensorType("map", (channels, height, width), frames)


def tokens(n: int, channels: int = C, batched: bool = True) -> TensorType:
    return TensorType("tokens", (n, channels), batched=batched)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, extra: Tensor | float = 0.0) -> Tensor:
    """[B, N, C] operands, head by head."""
    out = []
    for h, (a, b, c) in enumerate(zip(q.chunk(HEADS, -1), k.chunk(HEADS, -1), v.chunk(HEADS, -1), strict=True)):
        bias = extra[:, h] if isinstance(extra, Tensor) else extra
        weight = torch.exp(scale * torch.einsum("bic,bjc->bij", a, b) + bias)
        out.append(torch.einsum("bij,bjc->bic", weight / weight.sum(-1, keepdim=True), c))
    return torch.cat(out, -1)


# -- attend ---------------------------------------------------------------------------------------


def test_attend_is_softmax_attention() -> None:
    q, k, v = random(B, 2, 5, C), random(B, 7, C), random(B, 7, 9)
    bias, tau = random(B, HEADS, 10, 7), random(B, HEADS)
    types = feature_map(2, 5), tokens(7), tokens(7, 9)
    (plain,) = run_op(Attend(HEADS), types, [q, k, v])
    wanted = softmax_attention(q.flatten(1, 2), k, v, (C / HEADS) ** -0.5)
    torch.testing.assert_close(plain, wanted.unflatten(1, (2, 5)), **EXACT)
    scores, per_head = TensorType("scores", (HEADS, 10, 7)), TensorType("vec", (HEADS,))
    (y,) = run_op(Attend(HEADS, 0.3), (*types, scores, per_head), [q, k, v, bias, tau])
    hot = (q.flatten(1, 2).unflatten(-1, (HEADS, -1)) * tau[:, None, :, None]).flatten(2)
    torch.testing.assert_close(y, softmax_attention(hot, k, v, 0.3, bias).unflatten(1, (2, 5)), **EXACT)


def test_learned_queries_attend_in_every_sample() -> None:
    q, x = random(4, C), random(B, 3, 5, C)
    flat = x.flatten(1, 2)
    wanted = softmax_attention(q.expand(B, -1, -1), flat, flat, (C / HEADS) ** -0.5)
    (y,) = run_op(Attend(HEADS), (tokens(4, batched=False), feature_map(3, 5), feature_map(3, 5)), [q, x, x])
    torch.testing.assert_close(y, wanted, **EXACT)
    grid = q.t().unflatten(1, (2, 2))
    const = TensorType("map", (C, 2, 2), batched=False)
    (y,) = run_op(Attend(HEADS), (const, feature_map(3, 5), feature_map(3, 5)), [grid, x, x])
    torch.testing.assert_close(y.flatten(1, 2), wanted, **EXACT)


def test_scores_softmax_mix_is_attend_also_across_the_seam_of_a_shift() -> None:
    shifted = Frame("window", (2, 3), (4, 4), (7, 12), (2, 1), shifts=True)
    for frame in (shifted, replace(shifted, shift=(0, 0))):
        t = feature_map(4, 4, C, frame)
        q, k, v = random(12, 4, 4, C), random(12, 4, 4, C), random(12, 4, 4, C)
        (a,) = run_op(Scores(HEADS), (t, t), [q, k])
        (kind,) = Scores(HEADS).infer(t, t)
        (weights,) = run_op(Softmax(), (kind,), [a])
        (y,) = run_op(Mix(), (kind, t), [weights, v])
        (wanted,) = run_op(Attend(HEADS), (t, t, t), [q, k, v])
        torch.testing.assert_close(y, wanted, **EXACT)
        assert (a < -50).any() == any(frame.shift)


def test_linear_mixes_the_heads_of_scores() -> None:
    t, a = TensorType("scores", (HEADS, 4, 5), grid=(2, 2)), random(B, HEADS, 4, 5)
    assert Linear(5, axis="head").infer(t) == (TensorType("scores", (5, 4, 5), grid=(2, 2)),)
    with bench() as room, torch.no_grad():
        module = room.module(Linear(5, axis="head"), (t,)).double()
        weight, bias = (p.normal_() for p in module.parameters())
        torch.testing.assert_close(module(a), F.conv2d(a, weight[:, :, None, None], bias), **EXACT)


# -- relative positions ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 6)], ids=str)
def test_rel_lookup_has_the_index_of_timm(size: tuple[int, int]) -> None:
    swin = pytest.importorskip("timm.models.swin_transformer")
    rows = (2 * size[0] - 1) * (2 * size[1] - 1)
    table = random(rows, HEADS)
    wanted = table[swin.get_relative_position_index(*size)].permute(2, 0, 1)
    for axes, q in (("last", random(B, *size, C)), ("first", random(B, C, *size))):
        (got,) = run_op(RelLookup(), (tokens(rows, HEADS, False), feature_map(*size)), [table, q], axes)
        assert torch.equal(got, wanted)


def test_rel_lookup_between_maps_of_different_sizes_and_at_another_size() -> None:
    (hq, wq), (hk, wk) = (3, 4), (2, 5)
    table = random(B, 4 * 8, HEADS)
    op, types = RelLookup(), (tokens(4 * 8, HEADS), feature_map(hq, wq), feature_map(hk, wk))
    operands = [table, random(B, hq, wq, C), random(B, hk, wk, C)]
    (got,) = run_op(op, types, operands)
    for (yq, xq), (yk, xk) in itertools.product(
        itertools.product(range(hq), range(wq)), itertools.product(range(hk), range(wk))
    ):
        row = (yq - yk + hk - 1) * (wq + wk - 1) + xq - xk + wk - 1
        assert torch.equal(got[:, :, yq * wq + xq, yk * wk + xk], table[:, row])
    with bench() as room:
        built = room.module(op, (tokens(9 * 9, HEADS), feature_map(5, 5), feature_map(5, 5)))
        assert torch.equal(built(*operands), got)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 6)], ids=str)
def test_rel_lookup_without_directions_has_the_index_of_timm(size: tuple[int, int]) -> None:
    timms = pytest.importorskip("timm.models.efficientformer_v2")
    table, t = random(size[0] * size[1], HEADS), tokens(size[0] * size[1], HEADS, False)
    index = timms.Attention2d(C, resolution=size).attention_bias_idxs
    (got,) = run_op(RelLookup(signed=False), (t, feature_map(*size)), [table, random(B, *size, C)])
    assert torch.equal(got, table[index].permute(2, 0, 1))

    strided = timms.Attention2dDownsample(C, resolution=size)
    q = strided.resolution2
    index = strided.attention_bias_idxs
    types = (t, feature_map(*q), feature_map(*size))
    (got,) = run_op(RelLookup(signed=False, s=2), types, [table, random(B, *q, C), random(B, *size, C)])
    assert torch.equal(got, table[index].permute(2, 0, 1))


def test_rel_lookup_of_strided_queries() -> None:
    (hq, wq), (hk, wk) = (2, 3), (5, 4)
    table = random(8 * 10, HEADS)
    types = (tokens(8 * 10, HEADS, False), feature_map(hq, wq), feature_map(hk, wk))
    with pytest.raises(ShapeError, match="7 x 8 relative positions"):
        RelLookup(s=2).infer(*types)
    (got,) = run_op(RelLookup(s=3), types, [table, random(B, hq, wq, C), random(B, hk, wk, C)])
    for i, j in itertools.product(range(hq * wq), range(hk * wk)):
        down, right = 3 * (i // wq) - j // wk, 3 * (i % wq) - j % wk
        assert torch.equal(got[:, i, j], table[(down + hk - 1) * (2 * 3 + wk) + right + wk - 1])


@pytest.mark.parametrize("size", [(8, 8), (4, 6), (1, 3)], ids=str)
def test_rel_coords_are_those_of_swin_v2(size: tuple[int, int]) -> None:
    swin = pytest.importorskip("timm.models.swin_transformer_v2")
    attention = swin.WindowAttention(C, size, HEADS)
    wanted = attention.relative_coords_table.reshape(-1, 2).double()
    (got,) = run_op(RelCoords("log8"), (feature_map(*size),), [random(B, *size, C)])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    (linear,) = run_op(RelCoords(), (feature_map(*size),), [random(B, *size, C)])
    torch.testing.assert_close(linear.sign() * torch.log2(1 + 8 * linear.abs()) / 3, got, rtol=0, atol=1e-6)


def test_rel_coords_may_count_positions() -> None:
    (got,) = run_op(RelCoords("none"), (feature_map(2, 3), feature_map(4, 1)), [random(B, 2, 3, C), random(B, 4, 1, C)])
    assert got.tolist() == [[down, right] for down in range(-3, 2) for right in range(3)]


@pytest.mark.parametrize("sizes", [((4, 6), (2, 3)), ((4, 4), (4, 4)), ((3, 2), (6, 8)), ((7, 5), (3, 2))], ids=str)
def test_rel_pos_q_is_that_of_mvit_v2(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    mvit = pytest.importorskip("timm.models.mvitv2")
    q_size, k_size = sizes
    q, k = random(B, *q_size, C), random(B, *k_size, C)
    with bench() as room, torch.no_grad():
        module = room.module(RelPosQ(HEADS), (feature_map(*q_size), feature_map(*k_size))).double()
        for p in module.parameters():
            p.normal_()
        got = module(q, k)
        heads = q.flatten(1, 2).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        zeros = torch.zeros(B, HEADS, math.prod(q_size), math.prod(k_size)).double()
        wanted = mvit.cal_rel_pos_type(zeros, heads, False, q_size, k_size, module.op.rel_h, module.op.rel_w)
    torch.testing.assert_close(got, wanted, **EXACT)


@pytest.mark.parametrize("queries", [4, 2])
def test_rel_pos_q_of_keys_with_a_halo_is_that_of_halonet(queries: int) -> None:
    halo_attn = pytest.importorskip("timm.layers.halo_attn")
    frame, windows, keys = Frame("window", (2, 3), (4, 4), (8, 12)), 6 * B, 4 + 2
    q, k = random(windows, queries, queries, C), random(windows, keys, keys, C)
    types = feature_map(queries, queries, C, frame), feature_map(keys, keys, C, replace(frame, halo=1))
    with bench() as room, torch.no_grad():
        module = room.module(RelPosQ(HEADS, "lecun"), types).double()
        for p in module.parameters():
            p.normal_()
        got = module(q, k)
        timms = halo_attn.PosEmbedRel(queries, keys, C // HEADS, 1.0).double()
        timms.height_rel.copy_(module.op.rel_h.flip(0))  # by key minus query
        timms.width_rel.copy_(module.op.rel_w.flip(0))
        wanted = timms(q.flatten(1, 2).unflatten(-1, (HEADS, -1)).transpose(1, 2))
    torch.testing.assert_close(got, wanted, **EXACT)


def test_rel_pos_q_starts_as_stated() -> None:
    torch.manual_seed(0)
    found = {}
    for init in ("trunc_normal_tf(0.02)", "lecun", "zeros"):
        t = TensorType("map", (64, 30, 30))
        with bench() as room:
            found[init] = room.module(RelPosQ(heads=1, init=init), (t, t), "last").op
    for table in ("rel_h", "rel_w"):
        usual, lecun, zeros = (getattr(module, table).detach() for module in found.values())
        assert abs(usual.std() - 0.0176) < 0.001 and usual.abs().max() <= 0.04
        assert abs(lecun.std() - 1 / 8) < 0.005 and lecun.abs().max() > 0.3
        assert not zeros.any()


def test_rel_pos_q_raises_at_a_size_its_table_does_not_fit() -> None:
    with bench() as room, pytest.raises(ValueError, match="do not fit"):
        module = room.module(RelPosQ(HEADS), (feature_map(4, 4), feature_map(4, 4))).double()
        module(random(B, 6, 4, C), random(B, 6, 4, C))


# -- neighbourhoods -------------------------------------------------------------------------------


def around(y: int, x: int, size: tuple[int, int], k: int, edge: str) -> list[tuple[int, int]]:
    """The k * k positions that (y, x) sees, which may lie outside of the map."""
    top, left = y - k // 2, x - k // 2
    if edge == "shift":
        top, left = max(0, min(top, size[0] - k)), max(0, min(left, size[1] - k))
    return [(top + i, left + j) for i in range(k) for j in range(k)]


@pytest.mark.parametrize("edge", ["mask", "zero", "shift"])
@pytest.mark.parametrize("k", [3, 5])
def test_local_scores_are_products_with_what_stands_around(edge: str, k: int) -> None:
    size = (5, 6)
    q, keys = random(B, *size, C), random(B, *size, C)
    (got,) = run_op(LocalScores(k, HEADS, 0.7, edge), (feature_map(*size),) * 2, [q, keys])
    for y, x in itertools.product(range(size[0]), range(size[1])):
        for j, (row, column) in enumerate(around(y, x, size, k, edge)):
            inside = 0 <= row < size[0] and 0 <= column < size[1]
            wanted = torch.full((B, HEADS), -100.0 if edge == "mask" else 0.0).double()
            if inside:
                wanted = 0.7 * (q[:, y, x] * keys[:, row, column]).unflatten(1, (HEADS, -1)).sum(-1)
            torch.testing.assert_close(got[:, :, y * size[1] + x, j], wanted, **EXACT)


def test_local_mix_is_unfold() -> None:
    a, v = random(B, HEADS, 20, 9), random(B, 4, 5, C)
    kind = TensorType("scores", (HEADS, 20, 9), grid=(4, 5))
    (got,) = run_op(LocalMix(3), (kind, feature_map(4, 5)), [a, v])
    patches = F.unfold(v.permute(0, 3, 1, 2), 3, padding=1).unflatten(1, (HEADS, C // HEADS, 9))
    wanted = torch.einsum("bhpj,bhcjp->bphc", a, patches).flatten(2).unflatten(1, (4, 5))
    torch.testing.assert_close(got, wanted, **EXACT)


def test_local_mix_moves_neighbourhoods_into_the_map() -> None:
    size = (5, 6)
    a, v = random(B, 1, 30, 25), random(B, *size, C)
    kind = TensorType("scores", (1, 30, 25), grid=size)
    (got,) = run_op(LocalMix(5, "shift"), (kind, feature_map(*size)), [a, v])
    for y, x in itertools.product(range(size[0]), range(size[1])):
        seen = torch.stack([v[:, r, c] for r, c in around(y, x, size, 5, "shift")], 1)
        torch.testing.assert_close(got[:, y, x], (a[:, 0, y * 6 + x, :, None] * seen).sum(1), **EXACT)


def test_local_bias_is_read_by_relative_position() -> None:
    size, k = (5, 6), 3
    kind = TensorType("scores", (2, 30, k * k), grid=size)
    with bench() as room, torch.no_grad():
        module = room.module(LocalBias(2, k), (kind,)).double()
        table = module.op.table.normal_()
        got = module(random(B, 2, 30, k * k))
    for y, x in itertools.product(range(size[0]), range(size[1])):
        for j, (row, column) in enumerate(around(y, x, size, k, "shift")):
            assert torch.equal(got[:, y * 6 + x, j], table[:, row - y + k - 1, column - x + k - 1])


def test_as_scores_reads_channels_head_by_head() -> None:
    x = random(B, 2 * 9, 4, 5)
    for axes, laid in (("first", x), ("last", x.permute(0, 2, 3, 1))):
        (got,) = run_op(AsScores(2), (feature_map(4, 5, 18),), [laid], axes)
        assert torch.equal(got[:, 1, 7, 4], x[:, 9 + 4, 1, 2])


def test_key_count_counts_ones() -> None:
    for k, size in ((3, (4, 5)), (7, (3, 9))):
        (got,) = run_op(KeyCount(k), (feature_map(*size),), [random(B, *size, C)])
        ones = torch.ones(1, 1, k, k).double()
        assert torch.equal(got, F.conv2d(torch.ones(1, *size).double(), ones, padding=k // 2))


# -- mistakes -------------------------------------------------------------------------------------

WINDOW = Frame("window", (2, 3), (4, 4), (8, 12))
SHIFTED = replace(WINDOW, shift=(2, 2), shifts=True)
HEAD = Frame("head", (2, 1), (1, 1), (2, 1))
CELL = feature_map(4, 4, C, WINDOW)
KERNEL = TensorType("scores", (2, 64, 9), grid=(8, 8))
CONST = tokens(5, batched=False)


@pytest.mark.parametrize(
    ("op", "types", "code", "attr", "port"),
    [
        (Attend(), (feature_map(8, 8), CELL, CELL), "E-FRAME", "", ""),
        (Attend(), (CELL, CELL, feature_map(6, 6, C, replace(WINDOW, halo=1))), "E-FRAME", "", ""),
        (Attend(), (CONST, CONST, CONST), "E-FRAME", "", "q"),
        (Attend(), (feature_map(2, 2, C, SHIFTED), *(feature_map(4, 4, C, SHIFTED),) * 2), "E-FRAME", "", "q"),
        (Attend(), (feature_map(4, 4, C, SHIFTED, HEAD),) * 3, "E-FRAME", "", ""),
        (Attend(), (tokens(5), tokens(5, 8), tokens(5)), "E-CHANNELS", "", "k"),
        (Attend(), (tokens(5), tokens(5), tokens(4)), "E-CHANNELS", "", "v"),
        (Attend(4), (tokens(5), tokens(5), tokens(5)), "E-HEADS", "heads", ""),
        (Attend(2), (tokens(5), tokens(5), tokens(5, 3)), "E-HEADS", "heads", ""),
        (Attend(), (*(tokens(5),) * 3, TensorType("scores", (1, 5, 4))), "E-BIAS", "", "bias"),
        (Attend(), (*(tokens(5),) * 3, None, TensorType("vec", (2,))), "E-BIAS", "", "tau"),
        (Attend(), (*(CELL,) * 3, TensorType("scores", (1, 16, 16))), "E-FRAME", "", "bias"),
        (Attend(), (tokens(5), tokens(5)), "E-ARITY", "", "v"),
        (Attend(), (TensorType("vec", (6,)), tokens(5), tokens(5)), "E-KIND", "", "q"),
        (Scores(), (tokens(5), tokens(5, 8)), "E-CHANNELS", "", "k"),
        (Scores(4), (tokens(5), tokens(5)), "E-HEADS", "heads", ""),
        (Mix(), (KERNEL, tokens(5)), "E-CHANNELS", "", "v"),
        (Mix(), (TensorType("scores", (4, 3, 5)), tokens(5)), "E-HEADS", "", ""),
        (RelLookup(), (tokens(48, 3, False), CELL), "E-BIAS", "", "table"),
        (RelPosQ(4), (feature_map(4, 4), feature_map(2, 2)), "E-HEADS", "heads", ""),
        (LocalScores(4), (feature_map(8, 8),) * 2, "E-KERNEL", "k", ""),
        (LocalScores(9, edge="shift"), (feature_map(8, 8),) * 2, "E-KERNEL", "k", ""),
        (LocalScores(), (feature_map(8, 8), feature_map(8, 8, 4)), "E-CHANNELS", "", "keys"),
        (LocalMix(5), (KERNEL, feature_map(8, 8)), "E-CHANNELS", "", "a"),
        (LocalMix(), (KERNEL, feature_map(8, 9)), "E-SHAPE", "", "a"),
        (LocalMix(), (replace(KERNEL, dims=(4, 64, 9)), feature_map(8, 8)), "E-HEADS", "", ""),
        (LocalBias(2, 3), (replace(KERNEL, grid=None),), "E-SHAPE", "", "a"),
        (LocalBias(2, 9), (KERNEL,), "E-KERNEL", "k", ""),
        (AsScores(4), (feature_map(8, 8),), "E-HEADS", "heads", ""),
        (KeyCount(2), (feature_map(8, 8),), "E-KERNEL", "k", ""),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else None,
)
def test_mistakes_name_what_is_wrong(
    op: Op, types: tuple[TensorType | None, ...], code: str, attr: str, port: str
) -> None:
    with pytest.raises(ShapeError) as caught:
        op.resolve(*types).infer(*types)
    error = caught.value
    assert (error.code, error.attr, error.port) == (code, attr, port)
    assert f"`{op.name}" in error.message
