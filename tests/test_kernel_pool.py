"""The pooling mixer's kernels: in Triton's interpreter against PyTorch in float64, and compiled for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.pool_mixer import PoolMixer
from archdsl.passes.pipeline import level
from tests.compiled import CAPABILITIES, SHARED_MEMORY, deviations, interpreter, launches, package

ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-3}
MIXERS = (*level(1), Fuse("pool_mixer"))
SMALL = {"dims": [16, 16, 24, 32], "depths": [1, 1, 1, 1], "dpr": 0.4}


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def norm_of(weight: Tensor, bias: Tensor) -> nn.GroupNorm:
    """A norm of whole samples whose weights are these tensors, with their gradients."""
    norm = nn.GroupNorm(1, len(weight))
    del norm.weight, norm.bias
    norm.weight, norm.bias = weight, bias  # type: ignore[assignment]
    return norm


class Kept(nn.Module):
    """A dropped branch whose samples are known."""

    rate = 0.4

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([2.5, 0.0, 1.5])[: x.shape[0]].view(-1, *[1] * (x.dim() - 1)).to(x)


def mixer(
    dtype: torch.dtype, size: tuple[int, ...], scale: bool = True, drop: bool = False, include_pad: bool = False,
    mean: float = 0.0, first: bool = False, then: bool = False, borderless: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the results and of all gradients, the norm's bias apart where it does not count.

    `borderless`: the kernels are made to take all positions for inner ones.
    """
    of = package(compile_spec("poolformer_s12", passes=MIXERS, overrides=SMALL).files)
    torch.manual_seed(0)
    channels = size[-1]
    x, weight, bias = torch.randn(size) + mean, torch.randn(channels), torch.randn(channels)
    if first:  # a map whose channels lie first in memory
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    inputs = [x, weight, bias if include_pad else None, torch.randn(channels) if scale else None]
    inputs += [torch.randn(channels), torch.randn(channels)] if then else []

    def compute(x, weight, bias, scale, *behind):  # type: ignore[no-untyped-def]
        norm = norm_of(weight, torch.zeros_like(weight) if bias is None else bias)
        after = norm_of(*behind) if then else None
        made = of.fused.pool_mixer(x, norm, scale, Kept() if drop else None, after, include_pad=include_pad)
        return torch.stack(made) if then else made

    sides = of.kernels.pool_sides
    if borderless:
        of.kernels.pool_sides = lambda i, n: sides(i * 0 + 1, 3)
    try:
        return deviations(compute, inputs, dtype)
    finally:
        of.kernels.pool_sides = sides


CASES: dict[str, dict[str, object]] = {
    "strips": {"size": (2, 10, 11, 40), "then": True},
    "wide": {"size": (1, 5, 7, 96), "mean": 5.0, "then": True},
    "padded": {"size": (2, 5, 9, 24), "include_pad": True, "drop": True},
    "dropped": {"size": (3, 4, 3, 64), "drop": True},
    "plain": {"size": (1, 1, 9, 16), "scale": False, "first": True, "then": True},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_pytorch_does(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of x, weight, bias and scale; where kernels do not write, there is NaN."""
    found = interpreting.submit(mixer, dtype, **CASES[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def test_a_kernel_that_forgets_the_borders_is_found(interpreting: Executor) -> None:
    """It is kernels that are compared, and the comparison sees what they do at borders."""
    found = interpreting.submit(mixer, torch.float32, **CASES["dropped"], borderless=True).result()
    assert min(found) > 1e-2


def moments(mean: float) -> list[float]:
    """How far the kernels' means and inverse deviations of x and of the result are from float64's, relatively."""
    of = package(compile_spec("poolformer_s12", passes=MIXERS, overrides=SMALL).files)
    of.kernels.SAMPLE_PARTS = 2
    torch.manual_seed(0)
    x, weight = torch.randn(2, 1, 18, 512) + mean, torch.randn(512)
    out, before, measured = of.kernels.pool_mixer_forward(x, weight, None, None, None, 1e-5, False, True)
    _, after = of.kernels.sample_norm_forward(out, measured, weight, None, 1e-5)
    found = []
    for normal, values in ((before, x), (after, out)):
        whole = values.double().flatten(1)
        wanted = torch.stack([whole.mean(1), (whole.var(1, correction=0) + 1e-5).rsqrt()], 1)
        found += ((normal.double() - wanted) / wanted).abs().amax(0).tolist()
    return found


def test_statistics_of_many_parts_keep_their_digits(interpreting: Executor) -> None:
    """A mean a thousand times the deviation: the mean of squares less the square of the mean would keep no digit."""
    found = interpreting.submit(moments, 1000.0).result()
    assert max(found[::2]) <= 1e-6 and max(found[1::2]) <= 2e-5, found


def networks(train: bool, autocast: bool) -> float:
    """How far a model's result with kernels is from that without, relatively, in float32."""
    plain = compile_spec("poolformer_s12", overrides=SMALL).module()
    artefact = compile_spec("poolformer_s12", passes=MIXERS, overrides=SMALL)
    made = package(artefact.files)
    ours = getattr(made, artefact.name)(drop_path_rate=0.4)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in ours.state_dict().values():
            value.copy_(torch.randn_like(value) * 0.3)
    plain = type(plain)(drop_path_rate=0.4)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 3, 36, 68)
    results = []
    for model in (plain, ours):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.float16, enabled=autocast), torch.no_grad():
            results.append(model.train(train)(x))
    assert results[0].dtype == results[1].dtype
    wanted, found = (y.double() for y in results)
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("mode", ["eval", "train", "autocast"])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, mode: str) -> None:
    """In training the same samples are dropped; in autocast results have the same type, and sums stay in float32."""
    found = interpreting.submit(networks, mode == "train", mode == "autocast").result()
    assert found <= (2e-3 if mode == "autocast" else 1e-5)


def test_every_mixer_is_one_step_and_computes_the_same() -> None:
    """Of the whole model in float64, where PyTorch runs: values and gradients, also at another size."""
    plain, ours = (compile_spec("poolformer_s12", passes=p, overrides=SMALL) for p in (level(0), MIXERS))
    names = [n.op.name for n in ours.graph.nodes()]
    assert [names.count(n) for n in ("pool_mixer", "gn")] == [4, 0]
    models = [artefact.module().double() for artefact in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in models[0].state_dict().values():
            value.copy_(torch.randn_like(value) * 0.3)
    models[1].load_state_dict(models[0].state_dict())
    for size in ((64, 64), (36, 68)):
        x, found = torch.randn(2, 3, *size, dtype=torch.double), []
        for model in models:
            y = model.eval()(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


DECLINED = {
    "y = ln(x)\n return x + (avg_pool[3, s = 1, p = 1](y) - y)": "its kernel does not compute `ln`",
    "y = gn[groups = 2](x)\n return x + (avg_pool[3, s = 1, p = 1](y) - y)": "its kernel norms whole samples",
    "y = gn(x)\n return x + (avg_pool[5, s = 1, p = 2](y) - y)": "its kernel pools 3 x 3",
    "y = gn(x)\n return x + (y - avg_pool[3, s = 1, p = 1](y))": "its kernel takes what is pooled from the mean",
    "y = gn(x)\n return relu(x) + (avg_pool[3, s = 1, p = 1](y) - y)": "its kernel adds what the norm took",
    "y = gn(x)\n return x + (avg_pool[3, s = 1, p = 1](y) - y) * 0.5": "its kernel scales by a number a channel",
    "y = gn(x)\n return avg_pool[3, s = 1, p = 1](y) - y": "scales once, drops, then adds",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernel_does_not_compute_stays(body: str) -> None:
    graph, rule = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 14, 14]\n  {body}\n}}\n"), PoolMixer()
    found = [paths for node in graph.nodes() if (paths := rule.pattern(graph, node)) is not None]
    assert [DECLINED[body] in rule.check(graph, paths) for paths in found] == [True]


WIDTHS = (64, 128, 320, 512)


@pytest.mark.parametrize(
    ("dtype", "widths"),
    [
        pytest.param(torch.bfloat16, (64, 320), id="two stages"),
        pytest.param(torch.bfloat16, WIDTHS, id="bfloat16", marks=pytest.mark.full),
        pytest.param(torch.float32, WIDTHS, id="float32", marks=pytest.mark.full),
    ],
)
def test_kernels_fit_gpus(dtype: torch.dtype, widths: tuple[int, ...]) -> None:
    """At the sizes of the spec: shared memory within a GPU's, nothing spilled, wide loads. There are no products."""
    artefact = compile_spec("poolformer_s12", passes=MIXERS)
    made = package(artefact.files)
    found = launches(made, made.poolformer_s12(), (2, *artefact.input), dtype, train=True)
    assert {launch.name for launch in found} >= {"pool_mixer_backward_kernel", "sample_norm_backward_kernel"}
    assert {dict(launch.constants).get("C") for launch in found} == {None, *WIDTHS}
    for launch in found:
        if dict(launch.constants).get("C", widths[0]) not in widths:
            continue
        for capability in CAPABILITIES:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads, where
