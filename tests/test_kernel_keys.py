"""Kernels of attention whose keys are a map of their own: in Triton's interpreter, and compiled for GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor

import pytest
import torch

from archdsl.api import compile_spec, elaborate
from archdsl.ir.types import Pair
from archdsl.passes.attend_in_place import AttendInPlace, left
from archdsl.passes.pipeline import level
from tests.compiled import (
    CAPABILITIES,
    SHARED_MEMORY,
    chosen,
    compiled_graphs,
    deviations,
    interpreter,
    launches,
    package,
)

ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3}
IN_PLACE = (*level(1), AttendInPlace())
SPEC = """language 1
def halo_attn[s, halo, positions](x: map[C]) {
  q = x |> windows[4] |> conv@q[C, k = 1, s = s, bias = false]
  k, v = x |> linear@kv[2 * C] |> windows[4, halo = halo] |> split[2]
  if positions { return attend[2](q, k, v, bias = rel_pos_q@positions[2, init = "lecun"](q, k)) |> merge }
  return attend[2](q, k, v) |> merge
}
def biased[window: int?, s](x: map[C]) {
  y = if window == none then x else windows[window](x)
  q, k, v = y |> linear@qkv[3 * C] |> split[3]
  k = if s > 1 then max_pool[s](k) else k
  v = if s > 1 then max_pool[s](v) else v
  return attend[3](q, k, v, bias = rel_pos_q[3](q, k)) |> linear@proj[C] |> unframe
}
def pooled(x: map[C]) {
  q, k, v = x |> windows[4, pad = "none"] |> linear@qkv[3 * C] |> split[3]
  return attend[2](max_pool[2](q), k, v) |> merge |> linear@proj[C]
}
arch keys[classes = 10] {
  input x: map[3, 32, 48]
  stem { y = conv[48, k = 4, s = 4](x) }
  stage i in 1 -> y {
    y += halo_attn@a[1, 2, true](y) + halo_attn@b[1, 5, false](y) + biased@c[5, 1](y)
    y += biased@d[none, 2](y)
    y = halo_attn@e[2, 1, true](y) + halo_attn@f[2, 3, false](y) + pooled@g(y)
  }
  head { return y |> gap |> linear@fc[classes] }
}
"""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def attention(
    dtype: torch.dtype, queries: Pair, keys: Pair, heads: int, dim: int, dim_v: int = 0, batch: int = 1,
    positions: bool = True, parts: bool = False, nowhere: bool = False, **how: object,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients. `parts`: keys and values are channels of one map.

    `nowhere`: the kernels are made to forget in which row and column a key is.
    """
    of = package(compile_spec(SPEC, passes=IN_PLACE).files)
    torch.manual_seed(0)
    frame = of.layers.window_frame(keys, how.get("size", (None, None)), clamp=how.get("clamp", True))
    reach = [n + 2 * int(how.get("halo", 0)) for n in frame.size]  # type: ignore[call-overload]
    wide, whole = heads * dim, heads * (dim_v or dim)
    inputs: list[torch.Tensor | None] = [torch.randn(batch, *queries, wide)]
    inputs += (
        [torch.randn(batch, *keys, wide + whole)] if parts else [torch.randn(batch, *keys, c) for c in (wide, whole)]
    )
    axes = [torch.randn(batch, *queries, heads * n) if positions else None for n in reach]

    def compute(q, *rest):  # type: ignore[no-untyped-def]
        *kv, rows, columns = rest
        k, v = kv[0].split([wide, whole], dim=-1) if parts else kv
        return of.fused.map_attention(q, k, v, rows, columns, heads=heads, **how)

    places = of.kernels.places
    if nowhere:
        of.kernels.places = lambda place, *more: places(0 * place, *more)
    try:
        return deviations(compute, [*inputs, *axes], dtype)
    finally:
        of.kernels.places = places


HALO = {"queries": (4, 8), "keys": (4, 8), "heads": 2, "dim": 8, "size": 4, "halo": 1, "parts": True}
CASES: dict[str, dict[str, object]] = {
    "halo": HALO,
    "halo of pooled queries": {**HALO, "queries": (4, 2), "keys": (8, 4), "dim": 12, "halo": 2, "batch": 2},
    "windows that do not tile": {
        **HALO,
        "queries": (8, 4),
        "keys": (7, 3),
        "extent": (7, 3),
        "dim": 20,
        "clamp": False,
    },
    "a halo over several windows": {**HALO, "queries": (2, 6), "keys": (2, 6), "size": 2, "halo": 3, "heads": 1},
    "a map smaller than a window": {**HALO, "queries": (4, 4), "keys": (3, 2), "clamp": False},
    "windows": {"queries": (6, 5), "keys": (6, 5), "heads": 3, "dim": 16, "size": (3, 5), "parts": True},
    "whole maps": {"queries": (5, 7), "keys": (3, 4), "heads": 2, "dim": 12, "dim_v": 20, "batch": 2},
    "tiles": {"queries": (6, 13), "keys": (17, 5), "heads": 1, "dim": 24},
    "rows that are tiles": {"queries": (3, 4), "keys": (2, 64), "heads": 1, "dim": 16},
    "small tiles": {"queries": (5, 8), "keys": (7, 6), "heads": 1, "dim": 40},
    "pooled queries": {"queries": (4, 8), "keys": (8, 16), "heads": 2, "dim": 16, "size": 8, "positions": False},
}
QUICK = ("halo", "halo of pooled queries", "whole maps")
"""Interpreted in every run in both types, others in float32 or where tests are `full`."""


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(
            case,
            dtype,
            marks=() if case in QUICK or (dtype == torch.float32 and case != "tiles") else pytest.mark.full,
            id=f"{case}-{dtype}",
        )
        for case in CASES
        for dtype in ROUNDING
    ],
)
def test_kernels_compute_what_pytorch_does(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of q, k, v, rows and columns; where kernels do not write, there is NaN."""
    found = interpreting.submit(attention, dtype, **CASES[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def test_kernels_that_do_not_know_where_keys_are_are_found(interpreting: Executor) -> None:
    found = interpreting.submit(attention, torch.float32, **HALO, nowhere=True).result()
    assert min(found) > 1e-2


def in_autocast() -> tuple[list[torch.dtype], float]:
    """Types of results under autocast, by kernel and by PyTorch, and how far they and the gradients are apart."""
    of = package(compile_spec(SPEC, passes=IN_PLACE).files)
    torch.manual_seed(0)
    maps = [torch.randn(1, 6, 6, c, requires_grad=True) for c in (32, 32, 32, 2 * 5, 2 * 5)]
    types, results, runs = [], [], of.fused.runs
    for chooses in (runs, lambda *_: False):
        of.fused.runs = chooses
        with torch.autocast("cpu", torch.float16):
            y = of.fused.map_attention(*maps, heads=2, size=3, halo=1)
        types.append(y.dtype)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), maps)])
    of.fused.runs = runs
    return types, max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(*results, strict=True))


def test_autocast_decides_the_type(interpreting: Executor) -> None:
    types, apart = interpreting.submit(in_autocast).result()
    assert types == [torch.float16, torch.float16] and apart <= 2 * ROUNDING[torch.float16]


# -- the pass --------------------------------------------------------------------------------------


def test_a_network_computes_the_same() -> None:
    """In float64, where PyTorch runs: values and gradients, also at another size."""
    plain, ours = (compile_spec(SPEC, passes=p) for p in (level(0), IN_PLACE))
    count = Counter(n.op.name for n in ours.graph.nodes())
    assert (count["map_attention"], count["rel_pos_axes"]) == (7, 4)
    assert not {"attend", "windows", "merge", "rel_pos_q"} & count.keys()
    one, other = plain.module().double().eval(), ours.module().double().eval()
    assert list(one.state_dict()) == list(other.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        for p in one.parameters():
            p.normal_(std=0.1)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 32, 48).double()
    results = [(m(x), torch.autograd.grad(m(x).square().sum(), list(m.parameters()))) for m in (one, other)]
    (a, gradients), (b, others) = results
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    for want, got in zip(gradients, others, strict=True):
        assert (want - got).norm() <= 1e-10 * max(1e-3, float(want.norm()))


def cut(body: str, image: str = "64, 8, 8") -> dict[str, str]:
    return left(elaborate(f"language 1\narch cut[] {{\n  input x: map[{image}]\n  {body}\n}}\n"))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "y = windows[4, halo = 1](x)\n return attend[2](windows[4](x), linear[64](y), y) |> merge",
            "`linear` reads keys in their halo",
        ),
        (
            "y = windows[4](x)\n return attend[2](conv[64, k = 3, s = 2](y), y, y) |> merge",
            "`conv` is not of each position of a window by itself",
        ),
        ("y = windows[5](x)\n return attend[2](y, y, y, bias = rel_pos_q[2](relu(y), y)) |> merge", ""),
        (
            "y = grids[4](x)\n return attend[2](y, y, y, bias = rel_pos_q[2](y, y)) |> merge",
            "neither shifted nor spread",
        ),
        (
            "y = windows[4](x)\n b = rel_pos_q[2](y, y)\n"
            " return merge(attend[2](y, y, y, bias = b) + attend[2](y, y, relu(y), bias = b))",
            "its bias is of each sample",
        ),
    ],
)
def test_what_stays_in_windows_and_why(body: str, why: str) -> None:
    found = cut(body)
    assert (not found) if not why else all(why in reason for reason in found.values()) and found


# -- compilers -------------------------------------------------------------------------------------


def test_compilers_see_the_kernels() -> None:
    """In one graph: of every attention one forward launch and two backward."""
    artefact = compile_spec(SPEC, passes=IN_PLACE)
    made = package(artefact.files)
    forward, backward = compiled_graphs(made, getattr(made, artefact.name)(), (2, *artefact.input))
    for graph, times in ((forward, 7), (backward, 14)):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert sum("triton_kernel_wrapper" in target for target in targets) == times
        assert not any("softmax" in target or "scaled_dot" in target for target in targets)


def test_models_are_exported_with_their_kernels() -> None:
    """For any batch: no size of a launch is decided by it."""
    artefact = compile_spec(SPEC, passes=IN_PLACE)
    made = package(artefact.files)
    module = getattr(made, artefact.name)().to("meta", torch.bfloat16).eval()
    x = torch.empty(2, *artefact.input, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), chosen(made):
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert sum("map_attention" in target for target in targets) == 7


SPILLED = {80: 144, 90: 24, 100: 24}
"""Bytes that a thread may spill in the gradients' kernels, by capability: what they do at the sizes of these."""
SPECS = ("mvitv2_t", "halonet26t", "halonet_h1", "vitdet_b", "hiera_t")


@pytest.mark.parametrize("spec", [pytest.param(s, marks=pytest.mark.full) for s in SPECS])
def test_kernels_fit_gpus(spec: str) -> None:
    """In bfloat16, at a spec's sizes: memory a GPU has, matrix units, wide loads, forward nothing that spills."""
    artefact = compile_spec(spec, passes=IN_PLACE)
    made = package(artefact.files)
    module = getattr(made, artefact.name)()
    shape = (2, *artefact.input)
    every = {one: None for train in (False, True) for one in launches(made, module, shape, torch.bfloat16, train)}
    found = [one for one in every if one.name.startswith("map_attention")]
    assert found, "no kernel ran"
    for launch in found:
        for capability in CAPABILITIES:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers, {compiled.shared} bytes shared"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            spilled = 0 if "forward" in launch.name else SPILLED[capability]
            assert compiled.spilled <= spilled, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.matrix_units, where
            assert compiled.wide_loads or dict(launch.constants)["DIM"] < 32, where
