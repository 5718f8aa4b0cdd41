"""Kernels of patches that become positions, and of heads: in Triton's interpreter, and compiled for GPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.dwconv_norm import DwconvNorm
from archdsl.passes.fusions.patch_merge import PatchMerge
from archdsl.passes.fusions.pool_head import PoolHead
from archdsl.passes.pipeline import level, optimize, with_kernels
from tests.compiled import (
    CAPABILITIES,
    SHARED_MEMORY,
    compiled_graphs,
    deviations,
    interpreter,
    launches,
    package,
    poisoned,
)

ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3}
PATCHES = with_kernels(level(1), Fuse("patch_merge"))
HEADS = with_kernels(level(1), Fuse("pool_head"))
GATES = with_kernels(level(1), Fuse("dwconv_norm"))
GATED = {"hornet_t": {"dim": 32, "depths": [1, 1, 0, 0]}}
SMALL = {"dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
NETWORK = """\
language 1
arch merging[classes = 10] {
  input img: map[3, 36, 52]
  stem { x = img |> conv[16, k = 4, s = 4] |> ln }
  stage i in 1 -> x {
    x = x |> windows[2] |> pack["whc"] |> ln |> linear[32, bias = false]
    x = x |> relu |> ln |> conv[24, k = 2, s = 2, pad = "tf_same"]
    x = x |> windows[(1, 2)] |> pack |> linear[40] |> ln[bias = false]
  }
  head { return x |> gap |> linear[classes] }
}
"""
"""Each form of it, at a size that no patch tiles but the first."""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def norm_of(weight: Tensor | None, bias: Tensor | None) -> nn.Module | None:
    """A norm whose weights are these tensors, with their gradients."""
    if weight is None:
        return None
    norm = nn.LayerNorm(len(weight))
    del norm.weight, norm.bias
    norm.weight, norm.bias = weight, bias  # type: ignore[assignment]
    return norm


def layer_of(kind: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A linear layer, or a convolution whose stride is its kernel, of these tensors, with their gradients."""
    n, c, *kernel = weight.shape
    made = kind(c, n, *[tuple(kernel)] * 2 * bool(kernel), bias=bias is not None)
    del made.weight, made.bias
    made.weight, made.bias = weight, bias  # type: ignore[assignment]
    return made


def merged(
    dtype: torch.dtype, size: tuple[int, ...], dim: int, patch: tuple[int, int] = (2, 2), conv: str = "",
    norm: bool = True, behind: bool = False, bias: bool = True, mean: float = 0.0, first: bool = False,
    packing: str = "whc", misplaced: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients. `misplaced`: the kernel takes rows of a patch for columns."""
    of = package(compile_spec(NETWORK, passes=PATCHES).files)
    torch.manual_seed(0)
    c, packed = size[-1], size[-1] * patch[0] * patch[1]
    x = torch.randn(size) + mean
    if first:
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    wide = c if conv else packed
    weight = torch.randn(dim, c, *patch) if conv else torch.randn(dim, packed)
    vectors = [torch.randn(n) if there else None for n, there in ((wide, norm), (wide, norm), (dim, behind))]
    inputs = [x, weight, torch.randn(dim) if bias else None, *vectors, torch.randn(dim) if behind and bias else None]
    kind = {"": nn.Linear, "zeros": nn.Conv2d, "same": of.layers.SameConv2d}[conv]

    def compute(x, weight, bias, gain, shift, last_gain, last_shift):  # type: ignore[no-untyped-def]
        norms = norm_of(gain, shift), norm_of(last_gain, last_shift)
        how = {} if conv else {"size": patch, "layout": packing}
        return of.fused.patch_merge(x, layer_of(kind, weight, bias), *norms, **how)

    places = of.kernels.patch_places
    if misplaced:
        of.kernels.patch_places = lambda *args: places(*args[:10], not args[10], *args[11:])
    try:
        return deviations(compute, inputs, dtype)
    finally:
        of.kernels.patch_places = places


MERGED: dict[str, dict[str, object]] = {
    "swin": {"size": (2, 4, 6, 24), "dim": 48, "bias": False, "mean": 10.0},
    "padded": {"size": (1, 5, 3, 20), "dim": 16},
    "behind": {"size": (1, 4, 7, 16), "dim": 40, "patch": (2, 3), "norm": False, "behind": True, "packing": "hwc"},
    "both norms": {"size": (2, 3, 4, 8), "dim": 24, "behind": True, "bias": False},
    "cropped": {"size": (2, 5, 7, 24), "dim": 24, "conv": "zeros", "mean": 10.0},
    "same": {"size": (1, 5, 3, 20), "dim": 96, "conv": "same"},
    "image": {
        "size": (2, 8, 12, 3), "dim": 24, "patch": (4, 4), "conv": "zeros", "norm": False, "behind": True,
        "first": True,
    },
    "wide": {"size": (1, 2, 6, 8), "dim": 400},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", MERGED)
def test_merged_patches_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of x, layer and norms; where kernels do not write, there is NaN."""
    found = interpreting.submit(merged, dtype, **MERGED[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def test_a_kernel_that_mistakes_the_order_of_a_patch_is_found(interpreting: Executor) -> None:
    found = interpreting.submit(merged, torch.float32, **MERGED["swin"], misplaced=True).result()
    assert min(found[:3]) > 1e-2


def headed(
    dtype: torch.dtype, size: tuple[int, ...], dim: int, norm: str = "", bias: bool = True, first: bool = False,
    mean: float = 0.0, whole: bool = True,
) -> float:  # fmt: skip
    """Deviation of a head's result. `whole`: of all positions; else the kernel leaves out the last one."""
    of = package(compile_spec("convnext_t", passes=HEADS, overrides=SMALL).files)
    torch.manual_seed(0)
    c = size[-1]
    x = torch.randn(size) + mean
    if first:
        x = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    made = {"": lambda: None, "ln": lambda: nn.LayerNorm(c), "bn": lambda: nn.BatchNorm1d(c)}[norm]()
    linear = nn.Linear(c, dim, bias=bias)
    layers = nn.ModuleList([linear, *([] if made is None else [made])]).eval()
    for value in layers.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5)
    launch = of.kernels.launch
    if not whole:
        of.kernels.launch = lambda kernel, n, *args, **meta: launch(
            kernel, n, *args[:11], args[11] - 1, args[12], **meta
        )
    try:
        with torch.no_grad():
            layers.to(dtype).double()
            wanted = of.fused.pool_head(x.to(dtype).double(), linear, made)
            layers.to(dtype)
            with poisoned():
                found = of.fused.pool_head(x.to(dtype), linear, made)
    finally:
        of.kernels.launch = launch
    assert found.dtype == dtype
    return ((found.double() - wanted).norm() / wanted.norm()).item()


HEADED: dict[str, dict[str, object]] = {
    "plain": {"size": (2, 5, 3, 24), "dim": 70},
    "normed": {"size": (1, 7, 6, 200), "dim": 33, "norm": "ln", "mean": 10.0},
    "by statistics": {"size": (3, 4, 1, 20), "dim": 10, "norm": "bn", "bias": False},
    "channels first": {"size": (2, 7, 7, 40), "dim": 16, "norm": "ln", "first": True},
    "tokens": {"size": (2, 65, 16), "dim": 8},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", HEADED)
def test_heads_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    assert interpreting.submit(headed, dtype, **HEADED[case]).result() <= ROUNDING[dtype]


def test_a_kernel_that_forgets_a_position_is_found(interpreting: Executor) -> None:
    assert interpreting.submit(headed, torch.float32, **HEADED["plain"], whole=False).result() > 1e-2


def gated(
    dtype: torch.dtype, size: tuple[int, ...], gates: int, first: bool = False, factor: float = 0.5
) -> list[float]:
    """Deviations of the two results of a depthwise convolution that gates; all of them are parts of larger maps."""
    of = package(compile_spec("hornet_t", passes=GATES, overrides=GATED["hornet_t"]).files)
    torch.manual_seed(0)
    c = size[-1]
    whole, conv = torch.randn(*size[:-1], gates + c), nn.Conv2d(c, c, 7, padding=3, groups=c)
    if first:
        whole = whole.permute(0, 3, 1, 2).contiguous()

    def compute(to: torch.dtype) -> list[Tensor]:
        gate, x = whole.to(dtype).to(to).split([gates, c], 1 if first else 3)
        return list(of.fused.dwconv_norm(x, conv.to(dtype).to(to), gate=gate, factor=factor, first=first))

    with torch.no_grad():
        wanted = compute(torch.float64)
        conv.to(dtype)
        launch, names = of.kernels.launch, []
        of.kernels.launch = lambda kernel, *args, **meta: names.append(meta["GATED"]) or launch(kernel, *args, **meta)
        with poisoned():
            found = compute(dtype)
    assert names == [gates], "the kernel ran"
    assert all(y.dtype == dtype and y.shape == z.shape for y, z in zip(found, wanted, strict=True))
    return [((b.double() - a).norm() / a.norm()).item() for a, b in zip(wanted, found, strict=True)]


FOR_GATES: dict[str, dict[str, object]] = {
    "hornet": {"size": (2, 9, 7, 56), "gates": 8},
    "odd": {"size": (1, 5, 11, 21), "gates": 13, "factor": 1.0},
    "channels first": {"size": (2, 4, 6, 24), "gates": 16, "first": True},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", FOR_GATES)
def test_gates_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    found = interpreting.submit(gated, dtype, **FOR_GATES[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def networks(spec: str, size: str, autocast: bool) -> float:
    """How far a model's result with kernels is from that without, relatively, in float32."""
    plain = compile_spec(spec, input=size).module()
    made = package(compile_spec(spec, input=size, passes=PATCHES).files)
    ours = next(m for m in vars(made).values() if isinstance(m, type) and issubclass(m, nn.Module))()
    torch.manual_seed(0)
    with torch.no_grad():
        for value in ours.state_dict().values():
            value.copy_(torch.randn_like(value) * 0.3)
    plain.load_state_dict(ours.state_dict())
    x, results = torch.randn(2, *map(int, size.split("x"))), []
    for model in (plain, ours):
        with torch.autocast("cpu", torch.float16, enabled=autocast), torch.no_grad():
            results.append(model.eval()(x))
    assert results[0].dtype == results[1].dtype
    wanted, found = (y.double() for y in results)
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, autocast: bool) -> None:
    found = interpreting.submit(networks, NETWORK, "3x36x52", autocast).result()
    assert found <= (2e-3 if autocast else 2e-6)


SPECS = {
    "swin_t": ({"depths": [1, 1, 0, 0]}, "3x36x44", 4),
    "swinv2_t": ({"depths": [1, 1, 0, 0]}, "3x32x64", 4),
    "convnext_t": (SMALL, "3x40x64", 4),
    "davit_t": ({"depths": [1, 1, 0, 0]}, "3x36x64", 3),
}
"""What is small of an architecture, a size, and how many patches are merged."""


@pytest.mark.parametrize("spec", SPECS)
def test_every_patch_is_merged_in_one_step_that_computes_the_same(spec: str) -> None:
    """Of a whole model in float64, where PyTorch runs: values and gradients."""
    overrides, size, steps = SPECS[spec]
    how = {"overrides": overrides, "input": size}
    plain, ours = (compile_spec(spec, passes=p, **how) for p in (level(0), PATCHES))  # type: ignore[arg-type]
    assert sum(n.op.name == "patch_merge" for n in ours.graph.nodes()) == steps
    models = [artefact.module().double() for artefact in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in models[0].state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn_like(value) * 0.3)
    models[1].load_state_dict(models[0].state_dict())
    x, found = torch.randn(2, *ours.input, dtype=torch.double), []
    for model in models:
        y = model.eval()(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-10 * a.norm()


def test_other_images_have_other_channels() -> None:
    """A stem whose layer is handed on takes the channels that the model is built for."""
    made = compile_spec("convnext_t", passes=PATCHES, overrides=SMALL).module()
    model = type(made)(in_chans=5).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 5, *made.input_size[1:])).shape == (1, 1000)


@pytest.mark.parametrize("spec", ["convnext_t", "swin_t"])
def test_heads_compute_the_same_whatever_is_asked_of_them(spec: str) -> None:
    """Logits, what is before them, unpooled features, and with dropout; a new classifier is the kernel's, too."""
    overrides = SPECS[spec][0]
    plain, ours = (compile_spec(spec, passes=p, overrides=overrides).module().double() for p in (level(0), HEADS))
    with torch.no_grad():
        for value in plain.head.parameters():
            value.copy_(torch.rand_like(value))
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, plain.head.logits["fc"], 3, 5, dtype=torch.double, requires_grad=True)
    calls, names = [], vars(sys.modules[type(ours).__module__])
    whole = names["pool_head"]
    names["pool_head"] = lambda *args: calls.append(len(args)) or whole(*args)
    for model in (plain, ours):
        model.eval().head.drop_rate = 0.5

    def same(**how: bool) -> None:
        found = []
        for model in (plain, ours):
            torch.manual_seed(0)
            y = model.forward_head(x, **how)
            found.append([y, *torch.autograd.grad(y.square().sum(), [*model.head.parameters()], allow_unused=True)])
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, rtol=1e-10, atol=1e-12)

    same()
    assert len(calls) == 1
    same(pre_logits=True)
    plain.train(), ours.train()
    same()
    for model in (plain, ours):
        model.eval().head.set_pool("")
    same()
    assert len(calls) == 1
    for model in (plain, ours):
        torch.manual_seed(1)
        model.double().reset_classifier(7, "avg")
    same()
    assert len(calls) == 2


NOT_A_HEAD = {
    "head { return x |> norm |> gap |> linear@fc[classes] }": "a head gives its features as well",
    "head { return x |> gap |> rms |> linear@fc[classes] }": "its kernel does not compute `rms`",
    "head { return x |> gap |> linear@fc[classes] |> linear@other[classes] }": "are not all that a network gives",
    "head { return x |> linear@wide[2049] |> gap |> linear@fc[classes] }": "2049 channels are too many",
}


@pytest.mark.parametrize("head", NOT_A_HEAD)
def test_what_is_no_head_for_the_kernel_stays(head: str) -> None:
    text = NETWORK[: NETWORK.index("head {")] + head.replace("norm", "ln") + "\n}\n"
    rule, graph = PoolHead(), elaborate(text)
    found = [paths for n in graph.nodes() if (paths := rule.pattern(graph, n)) is not None]
    assert any(NOT_A_HEAD[head] in (rule.check(graph, p) or rule.beyond(graph, p)) for p in found)


def test_a_mean_within_a_network_is_no_head() -> None:
    graph = elaborate("language 1\narch cell[] {\n  input x: map[16, 14, 14]\n  return linear[16](gap(x)) * x\n}\n")
    (paths,) = (p for n in graph.nodes() if (p := PoolHead().pattern(graph, n)) is not None)
    assert PoolHead().beyond(graph, paths) == "its kernel is that of a head"


def test_compilers_see_the_kernels() -> None:
    """In one graph, forward and backward: each launch a node that Inductor knows."""
    artefact = compile_spec(NETWORK, passes=PATCHES)
    made = package(artefact.files)
    forward, backward = compiled_graphs(made, made.merging(), (2, *artefact.input))
    for graph, kernels in ((forward, 4), (backward, 4)):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert sum("triton_kernel_wrapper" in target for target in targets) == kernels


DECLINED = {
    "return x |> windows[2] |> pack |> rms |> linear[32]": "its kernel does not compute `rms`",
    "return x |> rms |> conv[32, k = 2, s = 2]": "its kernel does not compute `rms`",
    "return x |> windows[2] |> pack |> conv[32]": "its kernel takes windows to a linear layer",
    "return x |> windows[2] |> pack |> linear[8]": "8 channels are too few",
    "return x |> conv[32, k = 2, s = 2] |> tokens |> ln": "its kernel does not compute `tokens`",
    "return x |> windows[7] |> windows[1] |> pack |> linear[32] |> merge": "it is not of a whole map",
    "y = ln(x)\n return conv[16, k = 2, s = 2](y) + avg_pool[2](y)": "others read the result of its `ln`",
    "x = linear[400](x)\n return x |> windows[2] |> pack |> linear[32]": "1600 channels are too many",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernel_does_not_compute_stays(body: str) -> None:
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[16, 14, 14]\n  {body}\n}}\n")
    rule = PatchMerge()
    found = [paths for n in graph.nodes() if (paths := rule.pattern(graph, n)) is not None]
    assert any(DECLINED[body] in (rule.check(graph, p) or rule.beyond(graph, p)) for p in found)


BEHIND_IT = "what it gates is computed behind it"
GATING = {
    "a, b = split[[4, 12]](dwconv[7](x) * 0.5)\n return linear[12](y * a) * b": "",
    "a, b, c = dwconv[7](x) |> split[[4, 4, 8]]\n return linear[8](concat(y * a, b)) * c": "",
    "a, b = dwconv[7](x) |> split[[4, 12]]\n return linear[12](a * linear[4](b)) * b": BEHIND_IT,
    "a, b = split[[4, 12]](dwconv[7](x) * param@p[16])\n return linear[12](y * a) * b": "its kernel multiplies",
    "a, b = dwconv[7](x) |> split[[4, 12]]\n return linear[12](y * a) * linear[12](a) * b": None,
    "a, b = dwconv[7](x) |> split[[4, 12]]\n return linear[12](a * param@p[4, 14, 14]) * b": None,
}
"""What gates, and why no kernel computes it; None where no rule sees a gate."""


@pytest.mark.parametrize("body", GATING)
def test_what_gates(body: str) -> None:
    text = f"language 1\narch cell[] {{\n  input x: map[16, 14, 14]\n  y = linear[4](x)\n  {body}\n}}\n"
    rule, graph = DwconvNorm(), elaborate(text)
    (paths,) = (p for n in graph.nodes() if (p := rule.pattern(graph, n)) is not None)
    reason = GATING[body]
    if reason is None:
        assert len(paths) == 1
        return
    assert graph.node(paths[-1]).op.name == "mul" and (found := rule.check(graph, paths)).startswith(reason)
    if not reason:
        assert not found
        fused = optimize(graph, (Fuse("dwconv_norm"),))
        assert [len(n.outputs) for n in fused.nodes() if n.op.name == "dwconv_norm"] == [2]


FULL = pytest.mark.full
GPUS = [("swin_t", torch.bfloat16), ("swinv2_t", torch.bfloat16), ("convnext_t", torch.bfloat16)]
GPUS += [("swin_t", torch.float32), ("convnext_t", torch.float32)]


@pytest.mark.parametrize(
    ("spec", "dtype", "capabilities"),
    [("swin_t", torch.bfloat16, (90,)), *(pytest.param(*s, CAPABILITIES, marks=FULL) for s in GPUS)],
)
def test_kernels_fit_gpus(spec: str, dtype: torch.dtype, capabilities: tuple[int, ...]) -> None:
    """At a spec's sizes and 64 images: shared memory within a GPU's, nothing spilled, matrix units, wide loads."""
    artefact = compile_spec(spec, passes=PATCHES)
    made = package(artefact.files)
    every = launches(made, getattr(made, artefact.name)(), (64, *artefact.input), dtype, train=True)
    found = [launch for launch in every if launch.name.startswith("patch_merge")]
    assert {launch.name for launch in found} == {"patch_merge_kernel", "patch_merge_backward_kernel"}
    for launch in found:
        for capability in capabilities:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers, {dict(launch.constants)}"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads or dict(launch.constants)["K"] == 48, where  # three channels are few
            assert compiled.matrix_units or "backward" in launch.name or dtype == torch.float32, where


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=FULL)], ids=str)
def test_kernels_of_heads_fit_gpus(dtype: torch.dtype) -> None:
    artefact = compile_spec("convnext_t", passes=HEADS)
    made = package(artefact.files)
    (launch,) = launches(made, getattr(made, artefact.name)(), (1, *artefact.input), dtype, train=False)
    assert launch.name == "pool_head_kernel"
    for capability in CAPABILITIES:
        compiled = launch.compile(capability)
        assert compiled.shared <= SHARED_MEMORY[capability] and compiled.spilled == 0, capability
        assert compiled.wide_loads, capability
