"""Holds every op to its contract, and ops whose PyTorch is more than one call to independent formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archdsl.backends.torch.alone import bench
from archdsl.ir.sizes import Size, text
from archdsl.ir.types import Frame, TensorType, Weight, image
from archdsl.ops._arithmetic import Arithmetic
from archdsl.ops._held import Held
from archdsl.ops._pointwise import Pointwise
from archdsl.ops.base import Call, Example, Op, ShapeError, Torch
from archdsl.ops.drop_path import DropRate
from archdsl.ops.linear import Linear
from archdsl.ops.vocabulary import Vocabulary
from archdsl.testing import check_export, check_neighbours, check_op, run_op

VOCABULARY = Vocabulary.of()
CHECKED = [name for name, cls in VOCABULARY.items() if cls.examples]
GIVEN_LAYERS = (
    "conv_first",
    "conv_norm",
    "dwconv_norm",
    "fused_mbconv",
    "fused_mlp",
    "linear_residual",
    "mbconv",
    "merged_linear",
    "norm_linear",
    "patch_merge",
    "pool_mixer",
    "scale_residual",
)
"""Ops whose operands are layers: the tests of their kernels check them."""

MAP = TensorType("map", (6, 5, 7))
TOKENS = TensorType("tokens", (8, 6))
VEC = TensorType("vec", (6,))
SCORES = TensorType("scores", (2, 4, 5))
PADDED = Frame("window", (2, 2), (3, 4), (5, 7))
TILED = Frame("window", (2, 2), (3, 4), (6, 8))


def op(name: str, **attrs: Any) -> Op:
    return VOCABULARY[name](**attrs)


def const(t: TensorType) -> TensorType:
    return replace(t, batched=False)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def run(node: Op, *operands: tuple[TensorType, Tensor], axes: str = "first") -> Tensor:
    (out,) = run_op(node, tuple(t for t, _ in operands), [x for _, x in operands], axes)
    assert isinstance(out, Tensor)
    return out


# -- the contract ---------------------------------------------------------------------------------


def test_only_ops_that_are_never_called_lack_examples() -> None:
    """A layer that a kernel is given is a module: it has no value that could be checked. Nor has what takes one."""
    lacking = {name for name in VOCABULARY if name not in CHECKED}
    unheld = {name for name in lacking if not issubclass(VOCABULARY[name], Held)}
    assert unheld <= {"input", "extern", *GIVEN_LAYERS}
    assert not any(VOCABULARY[name].callable for name in GIVEN_LAYERS)


@pytest.mark.parametrize("name", CHECKED)
def test_op_keeps_its_contract(name: str) -> None:
    check_op(VOCABULARY[name])


@pytest.mark.parametrize("name", CHECKED)
def test_neighbours_of_examples_run_or_are_refused(name: str) -> None:
    check_neighbours(VOCABULARY[name])


@pytest.mark.parametrize("name", CHECKED)
def test_op_is_captured_by_export(name: str) -> None:
    check_export(VOCABULARY[name])


@dataclass(frozen=True)
class Honest(Linear):
    """A linear map, to be told lies about."""

    abstract: ClassVar[bool] = True
    examples: ClassVar[tuple[Example, ...]] = (Example({"dim": 5}, (TensorType("map", (4, 2, 3)),)),)


class WrongShape(Honest):
    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        return (super().infer(*types)[0].with_channels(7),)


class WrongMacs(Honest):
    def macs(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> int:
        return super().macs(inputs, outputs) + 1


class WrongWeights(Honest):
    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        return super().weights(*types)[:1]


class WrongName(Honest):
    def weights(self, *types: TensorType | None) -> tuple[Weight, ...]:
        weight, bias = super().weights(*types)
        return replace(weight, role="kernel"), bias


class Restless(Honest):
    def resolve(self, *types: TensorType | None) -> Op:
        return self.replace(bias=not self.bias)


class WrongAxes(Honest):
    axes: ClassVar[tuple[str, ...]] = ("last", "first")


class Single(Honest):
    def torch(self, call: Call) -> Torch | str:
        lowering = super().torch(call)
        assert isinstance(lowering, Torch)
        return replace(lowering, expr="{self}({x}).float()")


class Rigid(Honest):
    def torch(self, call: Call) -> Torch | str:
        lowering = super().torch(call)
        assert isinstance(lowering, Torch)
        return replace(lowering, expr="{self}({x})[:, :2, :3]")


class Mute(Honest):
    def torch(self, call: Call) -> Torch | str:
        return ""


def test_the_contract_accepts_the_truth() -> None:
    check_op(Honest)


@pytest.mark.parametrize(
    "cls", [WrongShape, WrongMacs, WrongWeights, WrongName, Restless, WrongAxes, Single, Rigid, Mute]
)
def test_the_contract_finds_a_lie(cls: type[Op]) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        check_op(cls)


@dataclass(frozen=True)
class Crashes(Pointwise):
    """A function that cannot be applied to a map of width 1."""

    abstract: ClassVar[bool] = True
    expr: ClassVar[str] = "{x}"

    def infer(self, *types: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = super().infer(*types)
        assert 1 % (int(x.size[1]) - 1) in (0, 1)
        return (x,)


def test_neighbours_find_a_crash() -> None:
    with pytest.raises(ZeroDivisionError):
        check_neighbours(Crashes)


# -- refusals: the code, and what is underlined ---------------------------------------------------

REFUSALS: list[tuple[Op, tuple[TensorType | None, ...], str, str]] = [
    (op("param", shape=(1, 2, 3, 4)), (), "E-ATTR", "shape"),
    (op("param", shape=(4,), init="normal"), (), "E-ATTR", "init"),
    (op("param", shape=(4,), init="normal(-1)"), (), "E-ATTR", "init"),
    (op("param", shape=(4,), init=math.inf), (), "E-ATTR", "init"),
    (op("linear", dim=4, bias_init="normal"), (VEC,), "E-ATTR", "bias_init"),
    (op("linear", dim=4, init="identity"), (VEC,), "E-ATTR", "init"),
    (op("conv", dim=6, init="identity"), (MAP,), "E-ATTR", "init"),
    (op("linear", dim=2, init=((1.0,) * 6,)), (VEC,), "E-ATTR", "init"),
    (op("linear", dim=2, init=((1.0,) * 6, (1.0,) * 5)), (VEC,), "E-ATTR", "init"),
    (op("linear", dim=1, init=((1.0, 1.0, 1.0, 1.0, 1.0, math.inf),)), (VEC,), "E-ATTR", "init"),
    (op("conv", dim=4, bias_init="fan_out"), (MAP,), "E-ATTR", "bias_init"),
    (op("ln"), (SCORES,), "E-KIND", "x"),
    (op("ln"), (None,), "E-ARITY", "x"),
    (op("bn"), (const(MAP),), "E-KIND", "x"),
    (op("bn"), (replace(MAP, frames=(PADDED,)),), "E-FRAME", "x"),
    (op("gn", groups=4), (MAP,), "E-GROUPS", "groups"),
    (op("gn", groups=6), (VEC,), "E-GROUPS", "groups"),
    (op("gn"), (replace(MAP, frames=(PADDED,)),), "E-FRAME", "x"),
    (op("l2norm", groups=4), (VEC,), "E-GROUPS", "groups"),
    (op("clamp"), (VEC,), "E-ATTR", ""),
    (op("clamp", lo=2.0, hi=1.0), (VEC,), "E-ATTR", "lo"),
    (op("softmax"), (MAP,), "E-KIND", "x"),
    (op("drop_path"), (const(VEC),), "E-KIND", "x"),
    (op("drop_path", index=3, last=2), (MAP,), "E-ATTR", "index"),
    (op("repeat", n=2), (TOKENS,), "E-KIND", "x"),
    (op("gap"), (VEC,), "E-KIND", "x"),
    (op("gap"), (replace(MAP, frames=(PADDED,)),), "E-FRAME", "x"),
    (op("mean"), (TOKENS,), "E-KIND", "x"),
    (op("mean_n"), (MAP,), "E-KIND", "x"),
    (op("token", i=8), (TOKENS,), "E-ATTR", "i"),
    (op("token", i=-9), (TOKENS,), "E-ATTR", "i"),
    (op("avg_pool", k=9), (MAP,), "E-KERNEL", "k"),
    (op("max_pool", k=3, p=2), (MAP,), "E-KERNEL", "p"),
    (op("avg_pool", k=3, p=1, pad="tf_same"), (MAP,), "E-ATTR", "p"),
    (op("max_pool", k=3, ceil=True, pad="tf_same"), (MAP,), "E-ATTR", "ceil"),
    (op("avg_pool"), (replace(MAP, frames=(PADDED,)),), "E-FRAME", "x"),
    (op("avg_pool_n", k=9), (TOKENS,), "E-KERNEL", "k"),
    (op("adaptive_pool", size=2), (TOKENS,), "E-KIND", "x"),
    (op("deconv", g=4), (MAP,), "E-GROUPS", "g"),
    (op("deconv", k=3, p=9), (MAP,), "E-KERNEL", "p"),
    (op("deconv", k=4, s=2), (MAP, MAP.with_size(10, 15)), "E-KERNEL", "like"),
    (op("resize", size=2, mode="nearest", align_corners=True), (MAP,), "E-ATTR", "align_corners"),
    (op("pad", top=-3, bottom=-2), (MAP,), "E-ATTR", "top"),
    (op("fft_filter"), (TOKENS,), "E-KIND", "x"),
    (op("lstm", dim=2), (TOKENS,), "E-KIND", "x"),
    (op("lstm", dim=2), (const(MAP),), "E-FRAME", "x"),
    (op("lstm", dim=2), (replace(MAP, frames=(PADDED,)),), "E-FRAME", "x"),
    (op("add"), (MAP,), "E-ARITY", "b"),
    (op("mul", by=2.0), (MAP, MAP), "E-ARITY", "b"),
    (op("add"), (MAP, MAP.with_size(5, 6)), "E-BROADCAST", ""),
    (op("add"), (MAP, TOKENS), "E-BROADCAST", ""),
    (op("add"), (SCORES, VEC), "E-BROADCAST", ""),
    (op("add"), (MAP, replace(MAP, frames=(TILED,))), "E-FRAME", ""),
    (op("add"), (VEC, replace(MAP, frames=(TILED,))), "E-FRAME", ""),
]


@pytest.mark.parametrize(("node", "types", "code", "place"), REFUSALS)
def test_refusal(node: Op, types: tuple[TensorType | None, ...], code: str, place: str) -> None:
    with pytest.raises(ShapeError) as caught:
        node.resolve(*types).infer(*types)
    assert (caught.value.code, caught.value.attr or caught.value.port) == (code, place)


def message(node: Op, *types: TensorType) -> tuple[str, str]:
    with pytest.raises(ShapeError) as caught:
        node.infer(*types)
    return caught.value.message, caught.value.help


def test_messages_of_a_forgotten_merge_stride_and_projection() -> None:
    whole = TensorType("map", (96, 56, 56))
    cut = TensorType("map", (96, 7, 7), (Frame("window", (8, 8), (7, 7), (56, 56)),))
    assert message(op("add"), whole, cut) == (
        "cannot combine map[96, 56, 56] + map[96, 7, 7] in 64 windows",
        "one side is still split into windows; merge(...) it first",
    )
    assert message(op("add"), whole, whole.with_size(28, 28)) == (
        "cannot combine map[96, 56, 56] + map[96, 28, 28]",
        "spatial sizes differ: a stride or resize is missing on one path; avg_pool[2](x) brings 56x56 to 28x28",
    )
    assert message(op("mul"), whole, whole.with_channels(64)) == (
        "cannot combine map[96, 56, 56] * map[64, 56, 56]",
        "channels differ: project one side, e.g. linear[96]",
    )
    assert "tokens(...)" in message(op("sub"), whole, TensorType("tokens", (3136, 96)))[1]


# -- broadcasting ---------------------------------------------------------------------------------

PAIRS = [
    (MAP, MAP),
    (MAP, const(MAP)),
    (MAP, VEC),
    (MAP, const(VEC)),
    (MAP, MAP.with_channels(1)),
    (MAP.with_size(1, 1), const(MAP)),
    (MAP.with_size(1, 7), MAP.with_size(5, 1)),
    (const(MAP), VEC),
    (const(MAP), const(VEC)),
    (MAP, TensorType("vec", (1,))),
    (MAP.with_channels(1), VEC),
    (TOKENS, VEC),
    (TOKENS, const(TOKENS)),
    (TOKENS, TensorType("tokens", (1, 6))),
    (const(TOKENS), VEC),
    (VEC, const(VEC)),
    (SCORES, SCORES),
    (SCORES, TensorType("map", (2, 1, 5), batched=False)),
    (TensorType("map", (2, 4, 5), batched=False), SCORES),
]


def spread(x: Tensor, t: TensorType, kind: str) -> Tensor:
    """The operand in the result's axes, batch first: written from the rule, not from the lowering."""
    x = x if t.batched else x[None]
    if t.kind == "vec" and kind == "map":
        return x.reshape(*x.shape, 1, 1)
    if t.kind == "vec" and kind == "tokens":
        return x.reshape(x.shape[0], 1, x.shape[1])
    return x


def place(x: Tensor, t: TensorType, axes: str) -> Tensor:
    return x.permute(0, 2, 3, 1) if t.kind == "map" and t.batched and axes == "last" else x


@pytest.mark.parametrize("axes", ["first", "last"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
@pytest.mark.parametrize(("a", "b"), [*PAIRS, *[(b, a) for a, b in PAIRS]])
def test_broadcasting(a: TensorType, b: TensorType, name: str, axes: str) -> None:
    node = op(name)
    (out,) = node.infer(a, b)
    assert out.batched == (a.batched or b.batched)
    x, y = (draw(*((3,) if t.batched else ()), *t.dims) for t in (a, b))
    got = run(node, (a, place(x, a, axes)), (b, place(y, b, axes)), axes=axes)
    apply: Callable[[Tensor, Tensor], Tensor] = getattr(torch, name)
    wanted = apply(spread(x, a, out.kind), spread(y, b, out.kind))
    wanted = wanted if out.batched else wanted[0]
    torch.testing.assert_close(got, place(wanted, out, axes))
    assert tuple(wanted.shape)[out.batched :] == out.dims


def test_a_parameter_is_seen_by_every_frame() -> None:
    inside = replace(MAP.with_size(3, 4), frames=(TILED,))
    (out,) = op("add").infer(inside, const(VEC))
    assert out == inside
    (out,) = op("mul").infer(const(MAP.with_size(3, 4)), inside)
    assert out == inside
    x, bias = draw(2 * 4, 6, 3, 4), draw(6, 3, 4)
    got = run(op("add"), (inside, x), (const(MAP.with_size(3, 4)), bias))
    torch.testing.assert_close(got, torch.stack([window + bias for window in x]))


def test_sizes_keep_the_expression_of_the_feature_map() -> None:
    img = image(3, 56, 56)
    table = TensorType("map", (3, 56, 56), batched=False)
    for pair in ((img, table), (table, img)):
        (out,) = op("add").infer(*pair)
        assert [text(d) for d in out.dims] == ["3", "H", "W"]


def test_numbers_on_either_side() -> None:
    x = draw(2, 6)
    torch.testing.assert_close(run(op("sub", by=1, swap=True), (VEC, x)), 1 - x)
    torch.testing.assert_close(run(op("sub", by=1), (VEC, x)), x - 1)
    torch.testing.assert_close(run(op("div", by=2.0, swap=True), (VEC, x)), 2.0 / x)
    torch.testing.assert_close(run(op("neg"), (VEC, x)), -x)


def test_affinity() -> None:
    assert op("mul").is_affine(MAP, const(VEC)) and op("mul", by=2.0).is_affine(MAP)
    assert not op("mul").is_affine(MAP, MAP)
    assert op("div").is_affine(MAP, const(VEC)) and not op("div").is_affine(const(VEC), MAP)
    assert not op("div", by=1.0, swap=True).is_affine(MAP)
    assert op("add").is_affine(MAP, MAP) and op("identity").is_affine(MAP) and not op("gelu").is_affine(MAP)
    assert op("avg_pool", k=3, s=1, p=1).is_affine(MAP)
    assert not op("avg_pool", k=3, s=1, p=1, include_pad=False).is_affine(MAP)


# -- pointwise ------------------------------------------------------------------------------------

POINTWISE = [n for n, cls in VOCABULARY.items() if issubclass(cls, Pointwise)]


@pytest.mark.parametrize("name", POINTWISE)
def test_a_number_folds_to_what_a_tensor_becomes(name: str) -> None:
    node = VOCABULARY[name](**VOCABULARY[name].examples[0].attrs)
    assert isinstance(node, Pointwise)
    values = [0.1, 0.5, 1.0, 3.5, 8.0] if name == "log" else [-8.0, -1.5, -0.1, 0.0, 0.5, 3.5, 8.0]
    x = torch.tensor(values, dtype=torch.float64)
    got = run(node, (TensorType("vec", (len(values),), batched=False), x))
    torch.testing.assert_close(got, torch.tensor([node.fold(v) for v in values], dtype=torch.float64))


def test_a_fold_that_has_no_value_is_refused() -> None:
    for name, value in (("log", 0.0), ("log", -1.0), ("exp", 1e6)):
        node = op(name)
        assert isinstance(node, Pointwise)
        with pytest.raises(ShapeError, match="is not a number"):
            node.fold(value)
    for name in ("sigmoid", "softplus", "tanh", "silu"):
        node = op(name)
        assert isinstance(node, Pointwise)
        assert all(math.isfinite(node.fold(v)) for v in (-1e4, 1e4))


# -- norms ----------------------------------------------------------------------------------------


def test_ln_normalises_channels() -> None:
    x = draw(2, 5, 7, 6)
    centred = x - x.mean(3, keepdim=True)
    wanted = centred / (centred.square().mean(3, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(run(op("ln", eps=1e-3), (MAP, x), axes="last"), wanted)
    (table,) = (draw(6, 5, 7),)
    centred = table - table.mean(0)
    wanted = centred / (centred.square().mean(0) + 1e-3).sqrt()
    torch.testing.assert_close(run(op("ln", eps=1e-3), (const(MAP), table), axes="last"), wanted)


def test_rms_divides_by_the_root_mean_square() -> None:
    x = draw(2, 8, 6)
    wanted = x / (x.square().mean(2, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(run(op("rms"), (TOKENS, x)), wanted)


@pytest.mark.parametrize("bias", [True, False])
def test_gn_normalises_groups_over_positions(bias: bool) -> None:
    x = draw(2, 8, 6)
    groups = x.reshape(2, 8, 3, 2)
    centred = groups - groups.mean((1, 3), keepdim=True)
    wanted = (centred / (centred.square().mean((1, 3), keepdim=True) + 1e-5).sqrt()).reshape(2, 8, 6)
    torch.testing.assert_close(run(op("gn", groups=3, bias=bias), (TOKENS, x)), wanted)


def test_bn_treats_tokens_as_positions() -> None:
    with bench() as room:
        module = room.module(op("bn"), (TOKENS,), "first").train().double()
        x = draw(4, 8, 6)
        centred = x - x.mean((0, 1))
        wanted = centred / (centred.square().mean((0, 1)) + 1e-5).sqrt()
        torch.testing.assert_close(module(x), wanted)
        torch.testing.assert_close(module.state_dict()["op.running_mean"], 0.1 * x.mean((0, 1)))
        slow = room.module(op("bn", momentum=0.03), (TOKENS,), "first").train().double()
        slow(x)
        torch.testing.assert_close(slow.state_dict()["op.running_mean"], 0.03 * x.mean((0, 1)))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("axes", ["first", "last"])
def test_l2norm_makes_groups_unit_long(groups: int, axes: str) -> None:
    x = draw(2, 6, 5, 7)
    parts = [part / part.square().sum(1, keepdim=True).sqrt() for part in x.chunk(groups, 1)]
    got = run(op("l2norm", groups=groups), (MAP, place(x, MAP, axes)), axes=axes)
    torch.testing.assert_close(got, place(torch.cat(parts, 1), MAP, axes))


# -- reductions, pooling, resizing ----------------------------------------------------------------


@pytest.mark.parametrize("axes", ["first", "last"])
def test_reductions(axes: str) -> None:
    x = draw(2, 6, 5, 7)
    placed = (MAP, place(x, MAP, axes))
    torch.testing.assert_close(run(op("gap"), placed, axes=axes), x.sum((2, 3)) / 35)
    torch.testing.assert_close(run(op("mean"), placed, axes=axes), x.sum((2, 3)) / 35)
    torch.testing.assert_close(run(op("l2"), placed, axes=axes), x.square().sum((2, 3)).sqrt())
    one = TensorType("map", (1, 5, 7))
    wanted = place(x.sum(1, keepdim=True) / 6, one, axes)
    torch.testing.assert_close(run(op("mean", axis="c"), placed, axes=axes), wanted)
    wanted = place(x.square().sum(1, keepdim=True).sqrt(), one, axes)
    torch.testing.assert_close(run(op("l2", axis="c"), placed, axes=axes), wanted)
    weights = draw(2, 2, 4, 5)
    got = run(op("mean", axis="key"), (SCORES, weights), axes=axes)
    torch.testing.assert_close(got, weights.sum(3, keepdim=True) / 5)


def test_tokens() -> None:
    x = draw(2, 8, 6)
    torch.testing.assert_close(run(op("token", i=-1), (TOKENS, x)), x[:, 7])
    torch.testing.assert_close(run(op("mean_n"), (TOKENS, x)), (x.sum(1) / 8)[:, None])
    runs = torch.stack([x[:, 0:3].mean(1), x[:, 3:6].mean(1)], 1)
    torch.testing.assert_close(run(op("avg_pool_n", k=3), (TOKENS, x)), runs)
    torch.testing.assert_close(run(op("softmax", axis="n"), (TOKENS, x)), x.exp() / x.exp().sum(1, keepdim=True))


def test_repeat_gives_each_head_its_channels() -> None:
    got = run(op("repeat", n=2), (TensorType("vec", (3,), batched=False), torch.tensor([1.0, 2.0, 3.0])))
    assert got.tolist() == [1, 1, 2, 2, 3, 3]


def windows_of(n: int, kernel: int, stride: int, before: int, count: int) -> list[range]:
    """The positions each output of a pooling sees along one axis, without the padding."""
    starts = [i * stride - before for i in range(count)]
    return [range(max(s, 0), min(s + kernel, n)) for s in starts]


@pytest.mark.parametrize("size", [(5, 7), (6, 6), (7, 4)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_same_padded_pooling_sees_tensorflows_windows(kernel: int, stride: int, size: tuple[int, int]) -> None:
    t = TensorType("map", (2, *size))
    x = draw(1, 2, *size)
    seen = []
    for n in size:
        count = math.ceil(n / stride)
        total = max((count - 1) * stride + kernel - n, 0)
        seen.append(windows_of(n, kernel, stride, total // 2, count))

    def pooled(reduce: Callable[[Tensor], Tensor]) -> Tensor:
        rows = [[reduce(x[..., r.start : r.stop, c.start : c.stop]) for c in seen[1]] for r in seen[0]]
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    common = {"k": kernel, "s": stride, "pad": "tf_same"}
    torch.testing.assert_close(run(op("max_pool", **common), (t, x)), pooled(lambda w: w.amax((2, 3))))
    got = run(op("avg_pool", include_pad=False, **common), (t, x))
    torch.testing.assert_close(got, pooled(lambda w: w.mean((2, 3))))
    got = run(op("avg_pool", **common), (t, x))
    torch.testing.assert_close(got, pooled(lambda w: w.sum((2, 3)) / kernel**2))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (5, 2, 1), (3, 1, 2), (2, 3, 1)])
def test_same_padded_convolution(kernel: int, stride: int, dilation: int) -> None:
    node = op("conv", dim=4, k=kernel, s=stride, d=dilation, pad="tf_same").resolve(MAP)
    with bench() as room:
        module = room.module(node, (MAP,), "first").double()
        x, weight, bias = draw(2, 6, 5, 7), *(p.detach() for p in module.parameters())
        got = module(x)
    assert tuple(got.shape[2:]) == (math.ceil(5 / stride), math.ceil(7 / stride))
    for i in range(got.shape[2]):
        for j in range(got.shape[3]):
            patch = torch.zeros(2, 6, kernel, kernel, dtype=torch.float64)
            for a in range(kernel):
                for b in range(kernel):
                    span = dilation * (kernel - 1) + 1
                    top = max((got.shape[2] - 1) * stride + span - 5, 0) // 2
                    left = max((got.shape[3] - 1) * stride + span - 7, 0) // 2
                    y, z = i * stride + a * dilation - top, j * stride + b * dilation - left
                    if 0 <= y < 5 and 0 <= z < 7:
                        patch[:, :, a, b] = x[:, :, y, z]
            wanted = torch.einsum("bcij,ocij->bo", patch, weight) + bias
            torch.testing.assert_close(got[:, :, i, j], wanted)


@pytest.mark.parametrize("kernel", range(1, 6))
@pytest.mark.parametrize("stride", range(1, 5))
@pytest.mark.parametrize("ceil", [False, True])
def test_pooled_sizes_are_torchs_and_stay_symbolic(kernel: int, stride: int, ceil: bool) -> None:
    for padding in range(kernel // 2 + 1):
        for n in range(kernel, 14):
            node = op("max_pool", k=kernel, s=stride, p=padding, ceil=ceil).resolve()
            (out,) = node.infer(TensorType("map", (1, Size.axis("H", n), 9)))
            real = F.max_pool2d(torch.zeros(1, n, 9), kernel, stride, padding, ceil_mode=ceil)
            assert out.dims[1] == real.shape[1]
            assert isinstance(out.dims[1], Size)


@pytest.mark.parametrize(("k", "s", "p", "g"), [(4, 2, 1, 1), (3, 1, 1, 2), ((2, 5), (2, 3), 0, 3)], ids=str)
def test_deconv_is_the_transpose_of_a_convolution(k: Any, s: Any, p: int, g: int) -> None:
    """What it adds up for each result is what a convolution with its weights would read there: <Ax, y> = <x, A'y>."""
    node = op("deconv", dim=9 if g == 3 else 4, k=k, s=s, p=p, g=g, bias=False).resolve(MAP)
    (out,) = node.infer(MAP)
    with bench() as room, torch.no_grad():
        module = room.module(node, (MAP,), "first").double()
        (weight,) = (w.normal_() for w in module.parameters())
        x, y = draw(2, *MAP.dims), draw(2, *out.dims)
        left, right = module(x) * y, F.conv2d(y, weight, stride=s, padding=p, groups=g) * x
    torch.testing.assert_close(left.sum(), right.sum())


def test_deconv_is_cut_to_the_size_of_a_map() -> None:
    like = MAP.with_size(9, 13)
    node, whole = (op("deconv", k=4, s=2).resolve(*types) for types in ((MAP, like), (MAP,)))
    assert node.infer(MAP, like)[0].size == (9, 13)
    with bench() as room, torch.no_grad():
        module, plain = room.module(node, (MAP, like), "first").double(), room.module(whole, (MAP,), "first").double()
        plain.load_state_dict(module.state_dict())
        x = draw(2, *MAP.dims)
        for size in ((9, 13), (10, 14)):
            torch.testing.assert_close(module(x, draw(2, 6, *size)), plain(x)[..., : size[0], : size[1]])


def test_resize_is_bilinear_between_pixel_centres() -> None:
    x = draw(1, 1, 1, 4)
    got = run(op("resize", size=(1, 8)), (TensorType("map", (1, 1, 4)), x))[0, 0, 0]
    at = [min(max((j + 0.5) / 2 - 0.5, 0.0), 3.0) for j in range(8)]
    wanted = [x[0, 0, 0, int(a)] * (1 - a % 1) + x[0, 0, 0, min(int(a) + 1, 3)] * (a % 1) for a in at]
    torch.testing.assert_close(got, torch.stack(wanted))


@pytest.mark.parametrize("axes", ["first", "last"])
def test_pad_shifts_a_map(axes: str) -> None:
    x = draw(2, 6, 5, 7)
    got = run(op("pad", top=-1, bottom=1, left=-1, right=1), (MAP, place(x, MAP, axes)), axes=axes)
    wanted = torch.zeros_like(x)
    wanted[:, :, :-1, :-1] = x[:, :, 1:, 1:]
    torch.testing.assert_close(got, place(wanted, MAP, axes))


# -- drop path, parameters, the FFT filter --------------------------------------------------------


def test_drop_rates() -> None:
    assert DropRate(3, 11).share == 3 / 11
    assert DropRate(3, 11, scale=0.5).share == 3 / 22
    assert DropRate(0, 0).share == 0.0
    assert DropRate(3, 11, scale=0.5, t=0.8).share == 0.4


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    with bench() as room:
        module = room.module(op("drop_path", t=1.0), (TOKENS,))
    x = torch.ones(4000, 8, 6)
    dropped = module.train()(x)
    factors = dropped.flatten(1)
    assert (factors == factors[:, :1]).all(), "a sample is dropped as a whole"
    assert {round(v, 3) for v in factors[:, 0].tolist()} == {0.0, 1.25}
    assert abs(dropped.mean() - 1) < 0.03
    assert module.eval()(x) is x


@pytest.mark.parametrize(
    ("init", "check"),
    [
        ("zeros", lambda p: (p == 0).all()),
        (1, lambda p: (p == 1).all()),
        (1e-6, lambda p: (p == 1e-6).all()),
        ("normal(2)", lambda p: abs(p.std() - 2) < 0.1),
        ("trunc_normal(0.02)", lambda p: abs(p.std() - 0.02) < 0.002),
        ("trunc_normal_tf(0.02)", lambda p: abs(p.std() - 0.0176) < 0.001 and 0.039 < p.abs().max() <= 0.04),
        ("uniform(3)", lambda p: p.abs().max() <= 3 and p.min() < -2.8 and p.max() > 2.8),
    ],
)
def test_parameters_start_as_stated(init: float | str, check: Callable[[Tensor], bool]) -> None:
    torch.manual_seed(0)
    node = op("param", shape=(50, 80), init=init).resolve()
    (value,) = run_op(node, (), [])
    assert value.shape == (50, 80) and value.dtype == torch.float32
    assert bool(check(value))


def test_kind_of_a_parameter_follows_its_rank() -> None:
    kinds = [op("param", shape=shape).infer()[0] for shape in ((4,), (3, 4), (2, 3, 4))]
    assert [t.kind for t in kinds] == ["vec", "tokens", "map"] and not any(t.batched for t in kinds)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_fft_filter_is_a_circular_convolution(size: tuple[int, int]) -> None:
    h, w = size
    t = TensorType("map", (3, h, w))
    kernel = draw(3, h, w)
    with bench() as room:
        module = room.module(op("fft_filter"), (t,), "first").double()
    spectrum = torch.view_as_real(torch.fft.rfft2(kernel))
    module.load_state_dict({"op.weight": spectrum})
    x = draw(2, 3, h, w)
    wanted = torch.zeros_like(x)
    for i in range(h):
        for j in range(w):
            wanted += kernel[:, i, j, None, None] * x.roll((i, j), (2, 3))
    torch.testing.assert_close(module(x), wanted)
    with pytest.raises(ValueError, match="resample its weight"):
        module(draw(2, 3, h + 1, w))


def test_batch_norm_of_tokens_goes_through_a_compiler() -> None:
    x = draw(2, 8, 6)
    with bench() as room:
        model = torch.nn.Sequential(room.module(op("bn"), (TOKENS,)), torch.nn.Linear(6, 3)).double().eval()
        torch._dynamo.reset()
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("axis", ["h", "w"])
def test_lstm_is_torchs_on_each_line(axis: str, bidirectional: bool) -> None:
    """With its names, shapes and order of weights, and started as it starts."""
    wanted = torch.nn.LSTM(6, 4, batch_first=True, bidirectional=bidirectional)
    with bench() as room:
        made = room.module(op("lstm", dim=4, axis=axis, bidirectional=bidirectional), (MAP,)).get_submodule("op")
    assert list(made.state_dict()) == list(wanted.state_dict())
    for fresh in (made, wanted):
        assert all(0.3 < p.abs().max() <= 0.5 and p.min() < 0 for p in fresh.parameters())
    wanted.double()
    made.double().load_state_dict(wanted.state_dict())
    x = draw(2, *MAP.size, 6)
    lines = x.unbind(2) if axis == "h" else x.unbind(1)
    torch.testing.assert_close(made(x), torch.stack([wanted(line)[0] for line in lines], 2 if axis == "h" else 1))


def test_every_arithmetic_op_is_a_symbol() -> None:
    symbols = {n: cls.symbol for n, cls in VOCABULARY.items() if issubclass(cls, Arithmetic)}
    assert symbols == {"add": "+", "div": "/", "mul": "*", "sub": "-"}
