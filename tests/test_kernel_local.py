"""Kernels of predicted and attended neighbourhoods: in Triton's interpreter against PyTorch, and compiled for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
import torch

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.local_mix import LocalMix
from archdsl.passes.pipeline import level
from tests.compiled import CAPABILITIES, SHARED_MEMORY, deviations, interpreter, package, recorded

ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-3}
IN_PLACE = (*level(1), Fuse("local_mix"))
SPEC = """language 1
def attended[heads, k, edge](x: map[C]) {
  q, y, v = [linear@q[32](x), linear@k[32](x), linear@v[C](x)]
  a = local_scores[k, heads = heads, edge = edge](q, y) + local_bias@rpb[heads, k](q)
  return local_mix[k, edge = edge](softmax(a), v)
}
def predicted[k, groups](x: map[C]) =
  local_mix[k](scores[groups](x, adaptive_pool[3](x)) |> linear@w[k^2, axis = "key"], x)
def masked(x: map) = local_mix[3](softmax(local_scores[3, heads = 2](x, x)), x)

arch local[classes = 10] {
  input x: map[3, 36, 28]
  stem { y = conv[48, k = 4, s = 4](x) }
  stage i in 1 -> y { y = attended@a[2, 3, "shift"](y) + predicted@b[5, 3](y) + masked@c(y) }
  head { return y |> gap |> linear@fc[classes] }
}
"""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def mix(
    dtype: torch.dtype, size: tuple[int, int, int], groups: int, dim: int, k: int, edge: str = "shift",
    softmax: bool = True, bias: bool = False, parts: bool = False, unmoved: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients. `parts`: scores and map are channels of larger ones.

    `unmoved`: the kernels are made to forget that neighbourhoods at borders are moved.
    """
    of = package(compile_spec(SPEC, passes=IN_PLACE).files)
    torch.manual_seed(0)
    batch, height, width = size
    wide, deep = (groups * dim + 8, k * k + 3) if parts else (groups * dim, k * k)
    inputs = [torch.randn(batch, groups, height * width, deep), torch.randn(batch, height, width, wide)]
    common = torch.randn(groups, height * width, k * k) if bias else None

    def compute(a, v, bias):  # type: ignore[no-untyped-def]
        a, v = a[..., deep - k * k :], v[..., : groups * dim]
        return of.fused.local_mix_in_place(a, v, k, edge=edge, softmax=softmax, bias=bias)

    begins = of.kernels.first_neighbour
    if unmoved:
        of.kernels.first_neighbour = lambda i, n, k, shifted: begins(i, n, k, False)
    try:
        return deviations(compute, [*inputs, common], dtype)
    finally:
        of.kernels.first_neighbour = begins


def products(
    dtype: torch.dtype, size: tuple[int, int, int], heads: int, dim: int, k: int, edge: str, scale: float | None = None
) -> list[float]:
    """Deviations of scores and of the gradients of q and k, which are parts of one map."""
    of = package(compile_spec(SPEC, passes=IN_PLACE).files)
    torch.manual_seed(0)

    def compute(x):  # type: ignore[no-untyped-def]
        q, keys = x.chunk(2, dim=-1)
        return of.fused.local_scores_in_place(q, keys, k, heads, edge=edge, scale=scale)

    return deviations(compute, [torch.randn(*size, 2 * heads * dim)], dtype)


MIXES: dict[str, dict[str, object]] = {
    "predicted": {"size": (2, 5, 4), "groups": 2, "dim": 12, "k": 3, "edge": "zero", "softmax": False, "parts": True},
    "attended": {"size": (1, 6, 7), "groups": 2, "dim": 16, "k": 3, "bias": True, "parts": True},
    "wide": {"size": (1, 5, 6), "groups": 1, "dim": 32, "k": 5},
    "whole": {"size": (1, 5, 5), "groups": 1, "dim": 14, "k": 5, "bias": True},
    "zero": {"size": (1, 4, 5), "groups": 1, "dim": 16, "k": 5, "edge": "zero", "bias": True},
    "moved": {"size": (1, 3, 11), "groups": 1, "dim": 8, "k": 3, "softmax": False, "bias": True},
}
PRODUCTS: dict[str, dict[str, object]] = {
    "shift": {"size": (2, 5, 4), "heads": 2, "dim": 12, "k": 3, "edge": "shift"},
    "mask": {"size": (1, 4, 5), "heads": 1, "dim": 16, "k": 5, "edge": "mask", "scale": 0.3},
    "zero": {"size": (1, 6, 3), "heads": 2, "dim": 8, "k": 3, "edge": "zero"},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", MIXES)
def test_mixes_are_what_pytorch_computes(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of scores, map and bias; where kernels do not write, there is NaN."""
    found = interpreting.submit(mix, dtype, **MIXES[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def test_kernels_that_do_not_move_neighbourhoods_are_found(interpreting: Executor) -> None:
    """It is kernels that are compared, and the comparison sees what they do at borders."""
    found = interpreting.submit(mix, torch.float32, **MIXES["wide"], unmoved=True).result()
    assert min(found) > 1e-2


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", PRODUCTS)
def test_scores_are_what_pytorch_computes(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    found = interpreting.submit(products, dtype, **PRODUCTS[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def networks(autocast: bool) -> float:
    """How far a network's result with kernels is from that without, relatively, in float32."""
    torch.manual_seed(0)
    plain, ours = compile_spec(SPEC).module(), compile_spec(SPEC, passes=IN_PLACE).module()
    with torch.no_grad():
        for value in ours.state_dict().values():
            value.copy_(torch.randn_like(value) * 0.3)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 24, 28)
    with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=autocast):
        wanted, found = plain.eval()(x), ours.eval()(x)
    assert wanted.dtype == found.dtype
    return ((found - wanted).double().norm() / wanted.double().norm()).item()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, autocast: bool) -> None:
    """In autocast, too, results have the types that PyTorch gives them."""
    found = interpreting.submit(networks, autocast).result()
    assert found <= (5e-3 if autocast else 1e-5)


def test_a_network_computes_the_same() -> None:
    """In float64, where PyTorch runs: values and gradients, also at another size."""
    plain, ours = (compile_spec(SPEC, passes=p) for p in (level(0), IN_PLACE))
    names = [n.op.name for n in ours.graph.nodes()]
    assert (names.count("local_mix_in_place"), names.count("local_scores_in_place"), names.count("softmax")) == (
        3,
        2,
        0,
    )
    models = [artefact.module().double() for artefact in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in models[0].state_dict().values():
            value.copy_(torch.randn_like(value) * 0.3)
    models[1].load_state_dict(models[0].state_dict())
    for size in ((36, 28), (40, 64)):
        x, found = torch.randn(2, 3, *size, dtype=torch.double), []
        for model in models:
            y = model.eval()(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.full
def test_dynamic_kernels_of_overlock_compute_the_same() -> None:
    plain, ours = (compile_spec("overlock_xt", passes=p) for p in (level(0), IN_PLACE))
    assert sum(n.op.name == "local_mix_in_place" for n in ours.graph.nodes()) == 16
    models = [artefact.module().double().eval() for artefact in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in models[0].state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1 else torch.randn_like(value) * 0.1)
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(1, *ours.input, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(models[1](x), models[0](x), rtol=1e-9, atol=1e-9)


DECLINED = {
    'return local_mix[3, edge = "shift"](softmax(local_bias@b[4, 3](x)), x)': "its kernels are no sample's own",
    "return local_mix[3](softmax(local_scores[3, heads = 16](x, x)), x)": "4 channels is not within 8 to 128",
    "a = local_scores[3, heads = 4](x, x)\n return local_mix[3](softmax(a), x) + local_mix[3](a, x)": "",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_is_left_to_pytorch(body: str) -> None:
    """Kernels that all samples share, narrow groups; and scores that others read are not part of the match."""
    graph, rule = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 7, 7]\n  {body}\n}}\n"), LocalMix()
    found = [paths for node in graph.nodes() if (paths := rule.pattern(graph, node)) is not None]
    for paths in found:
        assert DECLINED[body] in rule.check(graph, paths) if DECLINED[body] else not rule.check(graph, paths)
        assert DECLINED[body] or "local_scores" not in [graph.node(p).op.name for p in paths]
    assert found


SHAPES: dict[str, tuple[tuple[int, int], int, int, int, str, bool]] = {
    "overlock_xt, third net": ((14, 14), 8, 16, 13, "shift", True),
    "overlock_xt, fourth net": ((7, 7), 12, 14, 7, "shift", True),
    "involution": ((28, 28), 8, 16, 3, "zero", False),
    "heads of 32": ((28, 28), 4, 32, 7, "shift", True),
}
"""Sizes of maps, groups, channels of each, neighbourhoods, what is beyond the map, and whether there is a softmax."""


QUICK = ("overlock_xt, third net", "overlock_xt, fourth net")


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.full)], ids=str)
@pytest.mark.parametrize("shape", [pytest.param(s, marks=() if s in QUICK else pytest.mark.full) for s in SHAPES])
def test_kernels_fit_gpus(shape: str, dtype: torch.dtype) -> None:
    """Shared memory within a GPU's, nothing spilled, wide loads where rows allow them. Sums are of general cores."""
    (height, width), groups, dim, k, edge, softmax = SHAPES[shape]
    of = package(compile_spec(SPEC, passes=IN_PLACE).files)
    like = {"device": "meta", "dtype": dtype, "requires_grad": True}
    x = torch.empty(2, height, width, groups * dim, **like)
    bias = torch.empty(groups, height * width, k * k, **like) if softmax else None
    with recorded(of) as found:
        a = of.fused.local_scores_in_place(x, x, k, groups, edge=edge)
        of.fused.local_mix_in_place(a, x, k, edge=edge, softmax=softmax, bias=bias).sum().backward()
    assert {launch.name for launch in found} == {"local_mix_kernel", "local_scores_kernel", "local_spread_kernel"}
    for launch in found:
        for capability in CAPABILITIES:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads or dim % 8, where
