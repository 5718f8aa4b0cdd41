"""Kernels of linear layers with a norm before them or a residual behind: in Triton's interpreter, and compiled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.attend_in_place import AttendInPlace
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.norm_linear import NormLinear
from archdsl.passes.fusions.project_residual import ProjectResidual
from archdsl.passes.pipeline import level
from tests.compiled import CAPABILITIES, SHARED_MEMORY, deviations, interpreter, launches, package, recorded

ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3}
PRODUCTS = (*level(1), AttendInPlace(), Fuse("norm_linear+project_residual"))
MLPS = (*level(1), Fuse("mlp+project_residual"))
SMALL = {"depths": [1, 1, 0, 0]}


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def swin() -> ModuleType:
    return package(compile_spec("swin_t", passes=PRODUCTS, overrides=SMALL).files)


def layer(kind: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer whose weights are these tensors, with their gradients."""
    made = kind(*reversed(weight.shape), *[1] * (kind is nn.Conv2d), bias=bias is not None)
    del made.weight, made.bias
    made.weight, made.bias = weight[..., None, None] if kind is nn.Conv2d else weight, bias  # type: ignore[assignment]
    return made


class Kept(nn.Module):
    """A dropped branch whose samples are known."""

    rate = 0.4

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([2.5, 0.0, 1.5])[: x.shape[0]].view(-1, *[1] * (x.dim() - 1)).to(x)


def normed(
    dtype: torch.dtype, size: tuple[int, ...], dim: int, act: str = "", window: int | None = None, shift: bool = True,
    bias: bool = True, mean: float = 0.0, twisted: bool = False, uncompleted: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients. `uncompleted`: the kernel forgets which rows are not there."""
    of = swin()
    torch.manual_seed(0)
    c = size[-1]
    x = torch.randn(size) + mean
    if twisted:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    vectors = torch.randn(c), torch.randn(c) if shift else None
    inputs = [x, *vectors, torch.randn(dim, c), torch.randn(dim) if bias else None]

    def compute(x, gain, shift, weight, bias):  # type: ignore[no-untyped-def]
        norm, linear = layer(nn.LayerNorm, gain, shift), layer(nn.Linear, weight, bias)
        return of.fused.norm_linear(x, norm, linear, size=window, act=act)

    read = of.kernels.norm_linear_rows
    if uncompleted:
        of.kernels.norm_linear_rows = lambda x, source, inside, *args: read(x, source * 0, inside | True, *args)
    return deviations(compute, inputs, dtype)


NORMED: dict[str, dict[str, object]] = {
    "swin": {"size": (2, 9, 12, 96), "dim": 80, "act": "gelu", "window": 7},
    "padded": {"size": (1, 5, 7, 24), "dim": 40, "window": 4},
    "tokens": {"size": (3, 33, 64), "dim": 48, "act": "gelu_tanh", "mean": 10.0},
    "wide": {"size": (1, 70, 192), "dim": 200, "act": "silu", "bias": False},
    "narrow": {"size": (2, 6, 5, 20), "dim": 16, "act": "relu", "shift": False, "twisted": True},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", NORMED)
def test_normed_products_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of x, norm and layer; where kernels do not write, there is NaN."""
    found = interpreting.submit(normed, dtype, **NORMED[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def added(
    dtype: torch.dtype, size: tuple[int, ...], dim: int, scale: bool = True, drop: bool = False, bias: bool = True,
    gate: bool = False, kind: type[nn.Module] = nn.Linear,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients."""
    of = swin()
    torch.manual_seed(0)
    vectors = [torch.randn(dim) if given else None for given in (bias, scale)]
    gates = torch.randn(size[0], size[-1]) if gate else None
    inputs = [torch.randn(size), torch.randn(*size[:-1], dim), torch.randn(dim, size[-1]), gates, *vectors]

    def compute(x, residual, weight, gate, bias, scale):  # type: ignore[no-untyped-def]
        made = layer(kind, weight, bias)
        return of.fused.linear_residual(x, made, residual, gate, scale, Kept() if drop else None)

    return deviations(compute, inputs, dtype)


ADDED: dict[str, dict[str, object]] = {
    "scaled and dropped": {"size": (3, 9, 7, 96), "dim": 24, "drop": True},
    "dropped": {"size": (3, 13, 40), "dim": 96, "scale": False, "drop": True},
    "wide": {"size": (1, 70, 48), "dim": 200},
    "plain": {"size": (1, 5, 3, 20), "dim": 64, "scale": False, "bias": False},
    "without bias": {"size": (2, 5, 64), "dim": 16, "bias": False},
    "gated": {"size": (3, 4, 9, 72), "dim": 48, "gate": True, "scale": False, "drop": True, "kind": nn.Conv2d},
    "gated tokens": {"size": (2, 9, 16), "dim": 16, "gate": True},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", ADDED)
def test_products_with_residuals_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of x, residual, layer, gate and scale; where kernels do not write, there is NaN."""
    found = interpreting.submit(added, dtype, **ADDED[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def test_rows_that_complete_a_map_are_seen(interpreting: Executor) -> None:
    """The comparison finds a kernel that reads a row of the map where there is none."""
    found = interpreting.submit(normed, torch.float32, **NORMED["padded"], uncompleted=True).result()
    assert found[0] > 1e-2


def networks(train: bool, autocast: bool) -> float:
    """How far a model's result with kernels is from that without, relatively, in float32."""
    how = {"overrides": SMALL, "input": "3x32x56"}
    plain = compile_spec("swin_t", **how).module()  # type: ignore[arg-type]
    made = package(compile_spec("swin_t", passes=PRODUCTS, **how).files)  # type: ignore[arg-type]
    ours = made.swin_t(drop_path_rate=0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        for value in ours.state_dict().values():
            value.copy_(torch.randn_like(value) * 0.3)
    plain = type(plain)(drop_path_rate=0.5)
    plain.load_state_dict(ours.state_dict())
    x, results = torch.randn(2, 3, 32, 56), []
    for model in (plain, ours):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.float16, enabled=autocast), torch.no_grad():
            results.append(model.train(train)(x))
    assert results[0].dtype == results[1].dtype
    wanted, found = (y.double() for y in results)
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("mode", ["eval", "train", "autocast"])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, mode: str) -> None:
    """In training the same samples are dropped; in autocast results have the same type."""
    found = interpreting.submit(networks, mode == "train", mode == "autocast").result()
    assert found <= (2e-3 if mode == "autocast" else 1e-5)


@pytest.mark.parametrize(
    ("spec", "counts", "size"),
    [
        ("swin_t", (4, 4), "3x40x64"),
        ("convnext_t", (2, 2), "3x32x64"),
        ("maxvit_t", (8, 10), "3x32x64"),
        ("swin_t", (0, 2, 2), "3x32x64"),
        ("poolformer_s12", (0, 0, 2), "3x32x64"),
    ],
)
def test_every_product_is_one_step_and_computes_the_same(spec: str, counts: tuple[int, ...], size: str) -> None:
    """Of a whole model in float64, where PyTorch runs: values and gradients."""
    how = {"overrides": SMALL, "input": size}
    passes = MLPS if len(counts) == 3 else PRODUCTS
    plain, ours = (compile_spec(spec, passes=p, **how) for p in (level(0), passes))  # type: ignore[arg-type]
    names = [n.op.name for n in ours.graph.nodes()]
    assert tuple(map(names.count, ("norm_linear", "linear_residual", "fused_mlp")[: len(counts)])) == counts
    models = [artefact.module().double() for artefact in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in models[0].state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) * 0.3)
    models[1].load_state_dict(models[0].state_dict())
    x, found = torch.randn(2, *ours.input, dtype=torch.double), []
    for model in models:
        y = model.eval()(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-10 * a.norm()


DECLINED = {
    "return x |> ln |> linear[64] |> tanh": "its kernel does not compute `tanh`",
    "return x |> rms |> linear[64]": "its kernel does not compute `rms`",
    "return x |> ln |> windows[7] |> linear[64] |> merge": "its kernel does not compute `windows`",
    "y = ln(x)\n return relu(linear[64](y)) * linear[64](y)": "its layers have not all one activation",
    "y = ln(x)\n return linear[64](y) + y": "others read the result of its `ln`",
    "return x |> gap |> ln |> linear[10]": "it is not of a sample's positions",
    "return x |> linear[257] |> ln |> linear[10]": "257 channels are too many",
    "return x |> linear[8] |> ln |> linear[10]": "8 channels are too few",
    "y = linear[64](relu(x))\n return y + y": "it is not added to another value",
    "return x + param@p[64] * (param@q[64] * linear[64](x))": "its kernel scales by one parameter",
    "return linear[300](x) + linear[300](relu(x))": "300 channels are too many",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernels_do_not_compute_stays(body: str) -> None:
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 14, 14]\n  {body}\n}}\n")
    rules = NormLinear(), ProjectResidual()
    found = [(r, p) for n in graph.nodes() for r in rules if (p := r.pattern(graph, n)) is not None]
    assert any(DECLINED[body] in (r.check(graph, p) or r.beyond(graph, p)) for r, p in found)


FULL = pytest.mark.full
SPECS = [("swin_t", torch.bfloat16, SMALL), ("swin_t", torch.float32, {})]
SPECS += [(s, torch.bfloat16, {}) for s in ("swin_t", "convnext_t", "maxvit_t", "poolformer_s12")]


@pytest.mark.parametrize(("spec", "dtype", "overrides"), [SPECS[0], *(pytest.param(*s, marks=FULL) for s in SPECS[1:])])
def test_kernels_fit_gpus(spec: str, dtype: torch.dtype, overrides: dict[str, list[int]]) -> None:
    """At a spec's sizes and 64 images: shared memory within a GPU's, nothing spilled, matrix units, wide loads.

    Products of float32 are computed by the general cores, but where TF32 is allowed.
    """
    artefact = compile_spec(spec, passes=PRODUCTS, overrides=overrides)
    made = package(artefact.files)
    every = launches(made, getattr(made, artefact.name)(), (64, *artefact.input), dtype, train=True)
    found = [launch for launch in every if "attention" not in launch.name]
    names = {launch.name for launch in found}
    assert "linear_residual_kernel" in names
    assert names >= {"norm_linear_kernel", "norm_linear_backward_kernel"} or spec == "poolformer_s12"
    if dtype != torch.float32:
        artefact = compile_spec(spec, passes=MLPS, overrides=overrides)
        made = package(artefact.files)
        every = launches(made, getattr(made, artefact.name)(), (64, *artefact.input), dtype, train=False)
        found += [launch for launch in every if launch.name == "fused_mlp_kernel"]
        assert found[-1].name == "fused_mlp_kernel"
    for launch in found:
        for capability in CAPABILITIES:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads, where
            assert compiled.matrix_units or "backward" in launch.name or dtype == torch.float32, where


def test_few_rows_spread_over_a_gpu() -> None:
    """One image's rows are few tiles: programs share a tile's rows, each with a part of the weight."""
    of = package(compile_spec("pvt_v2_b1", passes=PRODUCTS).files)
    x, weight = (torch.empty(n, 96, device="meta", dtype=torch.float16) for n in (3136, 384))
    with recorded(of):
        programs: list[int] = []
        of.kernels.launch = lambda kernel, count, *args, **meta: programs.append(count(meta))
        of.kernels.norm_linear_forward(x, weight[0], None, weight, None, 1e-5, 0, 0, "", False)
    assert programs == [49 * 6]
