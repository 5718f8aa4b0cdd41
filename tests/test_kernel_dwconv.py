"""The depthwise convolution's kernels: in Triton's interpreter against PyTorch in float64, and compiled for GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from types import ModuleType

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor, nn

from archdsl.api import Artefact, compile_spec, elaborate
from archdsl.passes.base import Pass
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.dwconv_norm import DwconvNorm
from archdsl.passes.pipeline import level
from tests.compiled import CAPABILITIES, SHARED_MEMORY, deviations, interpreter, launches, package, poisoned

ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-3}
FUSED = (*level(1), Fuse("dwconv_norm"))
SMALL: dict[str, dict[str, object]] = {
    "convnext_t": {"dims": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "dpr": 0.4},
    "maxvit_t": {"dims": [32, 32, 32, 64], "depths": [2, 1, 1, 1], "width": 16},
}
QUICK = ("three parts", "strided", "maxvit")
SIDE = {"convnext_t": 32, "maxvit_t": 64}


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def of_each_type(cases: Iterable[str]) -> list[ParameterSet]:
    """Each case in float32, and the quick ones in float16."""
    return [
        pytest.param(case, dtype, marks=[pytest.mark.full] * (dtype == torch.float16 and case not in QUICK))
        for case in cases
        for dtype in ROUNDING
    ]


def small(spec: str) -> ModuleType:
    return package(artefact(spec, FUSED).files)


def artefact(spec: str, passes: tuple[Pass, ...]) -> Artefact:
    return compile_spec(spec, input=f"3x{SIDE[spec]}x{SIDE[spec]}", passes=passes, overrides=SMALL[spec])


def given(module: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """A module whose weights are these tensors, with their gradients."""
    for name, value in tensors.items():
        delattr(module, name)
        setattr(module, name, value)
    return module.eval()


def normed(
    dtype: torch.dtype, size: tuple[int, int, int, int], k: int | tuple[int, int] = 3, s: int = 1,
    p: int | tuple[int, int] = 1, d: int = 1, bias: bool = True, norm: bool = True, act: str = "", first: bool = False,
    scattered: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients, with a norm over channels. `scattered`: x's channels are apart."""
    of = small("convnext_t")
    torch.manual_seed(0)
    c = size[-1]
    plain = nn.Conv2d(c, c, k, s, p, d, c, bias=bias)
    x = torch.randn(size)
    if scattered:
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    weights = [torch.randn_like(plain.weight), torch.randn(c) if bias else None]
    weights += [torch.randn(c), torch.randn(c)] if norm else [None, None]

    def compute(x, weight, bias, norm_weight, norm_bias):  # type: ignore[no-untyped-def]
        conv = given(nn.Conv2d(c, c, k, s, p, d, c), weight=weight, bias=bias)
        ln = given(nn.LayerNorm(c, eps=1e-6), weight=norm_weight, bias=norm_bias) if norm else None
        return of.fused.dwconv_norm(x.permute(0, 3, 1, 2) if first else x, conv, ln, act=act, first=first)

    return deviations(compute, [x, *weights], dtype)


TRAINED: dict[str, dict[str, object]] = {
    "convnext": {"size": (2, 5, 9, 24), "k": 7, "p": 3},
    "three parts": {"size": (1, 6, 5, 96), "act": "gelu", "bias": False},
    "strided": {"size": (2, 7, 10, 40), "s": 2, "act": "silu", "first": True},
    "strided and cut": {"size": (1, 8, 10, 16), "k": 5, "s": 2, "p": 1, "act": "hswish", "scattered": True},
    "a row": {"size": (2, 4, 9, 20), "k": (1, 5), "p": (0, 2), "norm": False, "act": "gelu_tanh"},
    "a column": {"size": (1, 13, 3, 36), "k": (11, 1), "p": (5, 0), "norm": False, "act": "relu"},
    "dilated": {"size": (1, 8, 9, 36), "p": 2, "d": 2, "norm": False, "act": "relu6", "scattered": True},
}


@pytest.mark.parametrize(("case", "dtype"), of_each_type(TRAINED))
def test_kernels_compute_what_pytorch_does(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of x and all weights; where kernels do not write, there is NaN."""
    found = interpreting.submit(normed, dtype, **TRAINED[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def by_statistics(
    dtype: torch.dtype, size: tuple[int, int, int, int], k: int | tuple[int, int], s: int,
    p: int | tuple[int, int] | None, act: str, ahead: str | None = None, off: int = 0,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of its mean, with batch normalisations by running statistics; p: or TF's SAME.

    `off`: the kernel is told a corner that lies so many columns aside.
    """
    of = small("maxvit_t")
    torch.manual_seed(0)
    c = size[-1]
    conv = nn.Conv2d(c, c, k, s, p, 1, c, bias=False) if p is not None else of.layers.SameConv2d(c, c, k, s, groups=c)
    layers = nn.ModuleList([conv, nn.BatchNorm2d(c, 1e-3), *([] if ahead is None else [nn.BatchNorm2d(c)])]).eval()
    with torch.no_grad():
        for value in layers.state_dict().values():
            value.copy_(torch.rand_like(value.float()) + 0.25 if value.dim() == 1 else torch.randn(value.shape))
    x, frame = torch.randn(size).permute(0, 3, 1, 2), of.fused.dwconv_frame

    def run(to: torch.dtype) -> tuple[Tensor, Tensor]:
        layers.to(dtype).to(to)
        with torch.no_grad():
            out = of.fused.dwconv_norm(
                x.to(dtype).to(to), *layers, act=act, ahead_act=ahead or "", mean=True, first=True
            )
        return out

    wanted = run(torch.float64)
    of.fused.dwconv_frame = lambda *args: ([frame(*args)[0][0], frame(*args)[0][1] + off], frame(*args)[1])
    try:
        with poisoned():
            found = run(dtype)
    finally:
        of.fused.dwconv_frame = frame
    return [((b.double() - a).norm() / a.norm()).item() for a, b in zip(wanted, found, strict=True)]


MAXVIT = {"size": (2, 9, 11, 70), "k": 3, "s": 2, "p": None, "act": "gelu_tanh"}
INFERRED: dict[str, dict[str, object]] = {
    "maxvit": MAXVIT,
    "ahead": {"size": (1, 9, 6, 20), "k": 5, "s": 1, "p": 2, "act": "", "ahead": "relu6"},
    "wide kernel": {"size": (1, 6, 5, 16), "k": (17, 2), "s": 1, "p": (8, 1), "act": "relu", "ahead": ""},
}


@pytest.mark.parametrize(("case", "dtype"), of_each_type(INFERRED))
def test_norms_by_statistics_and_means_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    found = interpreting.submit(by_statistics, dtype, **INFERRED[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def test_a_kernel_beside_its_place_is_found(interpreting: Executor) -> None:
    """The comparison sees padding on the wrong side, which is where TensorFlow's and others' strided kernels differ."""
    assert min(interpreting.submit(by_statistics, torch.float32, **MAXVIT, off=1).result()) > 1e-2


def kernels_run(spec: str, train: bool, grad: bool) -> list[str]:
    """The kernels that a small network ran."""
    of, ran = small(spec), []
    launch = of.kernels.launch
    of.kernels.launch = lambda kernel, *args, **meta: (ran.append(kernel.fn.__name__), launch(kernel, *args, **meta))
    with torch.set_grad_enabled(grad):
        of.__dict__[spec]().train(train)(torch.randn(1, 3, SIDE[spec], SIDE[spec]))
    of.kernels.launch = launch
    return ran


def test_norms_by_the_batch_and_their_gradients_are_left_to_pytorch(interpreting: Executor) -> None:
    for train, grad, times in ((False, False, 5), (True, False, 0), (False, True, 0)):
        ran = interpreting.submit(kernels_run, "maxvit_t", train, grad).result()
        assert ran == ["dwconv_norm_forward_kernel"] * times, (train, grad)


def networks(spec: str, autocast: bool) -> float:
    """How far a network's result with kernels is from that without, relatively."""
    plain = artefact(spec, level(0)).module().eval()
    ours = small(spec).__dict__[spec]().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for value in ours.state_dict().values():
            value.copy_(torch.rand(value.shape) * 0.5)
        plain.load_state_dict(ours.state_dict())
        x = torch.randn(2, 3, SIDE[spec], SIDE[spec])
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            wanted, found = plain(x), ours(x)
    assert wanted.dtype == found.dtype
    return ((found - wanted).double().norm() / wanted.double().norm()).item()


@pytest.mark.parametrize(("spec", "autocast"), [("convnext_t", True), ("maxvit_t", False)])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, spec: str, autocast: bool) -> None:
    assert interpreting.submit(networks, spec, autocast).result() <= (2e-3 if autocast else 1e-5)


@pytest.mark.parametrize(("spec", "steps"), [("convnext_t", 5), ("maxvit_t", 5)])
@pytest.mark.parametrize("train", [False, True])
def test_every_convolution_is_one_step_and_computes_the_same(spec: str, steps: int, train: bool) -> None:
    """Of the whole model in float64, where PyTorch runs: values and gradients."""
    plain, ours = (artefact(spec, passes) for passes in (level(0), FUSED))
    assert sum(n.op.name == "dwconv_norm" for n in ours.graph.nodes()) == steps
    models = [one.module().double().train(train) for one in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in models[0].state_dict().values():
            value.copy_(torch.rand(value.shape) * 0.5)
    models[1].load_state_dict(models[0].state_dict())
    x, found = torch.randn(2, 3, SIDE[spec], SIDE[spec], dtype=torch.double), []
    for model in models:
        torch.manual_seed(1)
        y = model(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * a.abs().max().item())


FOUND = {
    "x |> dwconv[7] |> ln": ("conv ln", ""),
    "x |> dwconv[3, s = 2] |> bn |> silu": ("conv bn silu", ""),
    "x |> bn |> relu |> dwconv[3] |> bn": ("bn relu conv bn", ""),
    "x |> gelu |> dwconv[3] |> bn": ("conv bn", ""),
    "x |> dwconv[3]": ("conv", "alone"),
    "x |> dwconv[3] |> rms": ("conv rms", "computes no `rms`"),
    "x |> dwconv[3] |> tokens |> ln": ("conv tokens ln", "computes no `tokens`"),
    "x |> dwconv[3] |> tanh": ("conv tanh", "computes no `tanh`"),
    "x |> dwconv[33] |> ln": ("conv ln", "33 is wider than 31"),
}


@pytest.mark.parametrize("body", FOUND)
def test_what_the_kernel_computes(body: str) -> None:
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 40, 40]\n  return {body}\n}}\n")
    rule = DwconvNorm()
    paths = next(paths for node in graph.nodes() if (paths := rule.pattern(graph, node)) is not None)
    ops, reason = FOUND[body]
    assert " ".join(graph.node(p).op.name for p in paths) == ops
    found = rule.check(graph, paths)
    assert reason in found if reason else not found


@pytest.mark.parametrize("spec", ["convnext_t", pytest.param("maxvit_t", marks=pytest.mark.full)])
def test_models_compile_and_export_as_they_are(spec: str) -> None:
    """On a CPU PyTorch runs: in one graph, also with a batch of any size."""
    whole = artefact(spec, FUSED)
    module, x = whole.module().eval(), torch.randn(2, *whole.input)
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = module(x)
        assert torch.equal(torch.compile(module, backend="eager", fullgraph=True)(x), wanted)
        batch = torch.export.Dim("batch", min=1, max=8)
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: batch},)).module()
        assert torch.equal(exported(x), wanted)


GPUS = [
    ("convnext_t", False, torch.bfloat16, (90,)),
    ("convnext_t", True, torch.bfloat16, (90,)),
    ("maxvit_t", False, torch.bfloat16, (90,)),
    pytest.param("maxvit_t", False, torch.bfloat16, CAPABILITIES, marks=pytest.mark.full),
    pytest.param("convnext_t", False, torch.bfloat16, CAPABILITIES, marks=pytest.mark.full),
    pytest.param("convnext_t", True, torch.bfloat16, CAPABILITIES, marks=pytest.mark.full),
    pytest.param("convnext_t", True, torch.float32, CAPABILITIES, marks=pytest.mark.full),
    pytest.param("convnext_t", False, torch.float32, CAPABILITIES, marks=pytest.mark.full),
    pytest.param("maxvit_t", False, torch.float32, CAPABILITIES, marks=pytest.mark.full),
    pytest.param("hornet_t", False, torch.bfloat16, CAPABILITIES, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("spec", "train", "dtype", "capabilities"), GPUS)
def test_kernels_fit_gpus(spec: str, train: bool, dtype: torch.dtype, capabilities: tuple[int, ...]) -> None:
    """At the sizes of a spec: shared memory within a GPU's, nothing spilled, wide loads. There are no products."""
    whole = compile_spec(spec, passes=FUSED)
    made = package(whole.files)
    found = launches(made, getattr(made, whole.name)(), (2, *whole.input), dtype, train)
    backward = {"dwconv_norm_given_kernel", "dwconv_weight_kernel"}
    kinds = {"dwconv_norm_forward_kernel", *(backward if train else ())}
    assert {launch.name for launch in found} == kinds
    for launch in found:
        for capability in capabilities:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads, where
