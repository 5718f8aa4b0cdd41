"""Window attention's kernels: in Triton's interpreter against PyTorch in float64, and compiled for GPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path

import pytest
import torch
import torch._dynamo

from archdsl.api import compile_spec
from archdsl.ir.types import Pair
from archdsl.passes.attend_in_place import AttendInPlace
from archdsl.passes.fuse import Fuse
from archdsl.passes.pipeline import level, with_kernels
from benchmarks.kernels import records
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

ROUNDING = {torch.float32: 5e-6, torch.float16: 2e-3}
IN_PLACE = (*level(1), AttendInPlace())


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def attention(
    dtype: torch.dtype, extent: Pair, size: Pair, heads: int, dim: int,
    packed: int = 3, bias: bool = True, tau: bool = False, batch: int = 1, seamless: bool = False, **how: object,
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients. `seamless`: the kernel is made to forget the shift's mask."""
    of = package(compile_spec("maxvit_t", passes=IN_PLACE).files)
    torch.manual_seed(0)
    frame = of.layers.window_frame(extent, size)
    height, width = (n + p for n, p in zip(extent, frame.padding, strict=True))
    area, whole = frame.size[0] * frame.size[1], heads * dim
    widths = {3: [3 * whole], 2: [whole, 2 * whole], 1: [whole, whole, 2 * whole]}[packed]
    maps = [torch.randn(batch, height, width, c) for c in widths]
    if how.get("shared"):
        maps[0] = torch.randn(batch, *frame.size, whole)
    inputs = [*maps, *[None] * (3 - len(maps))]
    inputs += [torch.randn(heads, area, area) if bias else None, torch.rand(heads) + 0.5 if tau else None]

    def compute(q, k, v, bias, tau):  # type: ignore[no-untyped-def]
        return of.fused.window_attention(q, k, v, heads=heads, size=size, extent=extent, bias=bias, tau=tau, **how)

    places = of.kernels.window_places
    if seamless:
        of.kernels.window_places = lambda *args: (*places(*args)[:2], 0 * args[0])
    try:
        return deviations(compute, inputs, dtype)
    finally:
        of.kernels.window_places = places


SWIN = {"extent": (14, 21), "size": (7, 7), "heads": 2, "dim": 32, "shift": 3, "batch": 2}
GLOBAL = {"dim": 16, "packed": 2, "shared": True, "batch": 2}
CASES: dict[str, dict[str, object]] = {
    "swin": SWIN,
    "plain": {"extent": (14, 7), "size": (7, 7), "heads": 3, "dim": 16, "bias": False},
    "padded": {"extent": (9, 12), "size": (7, 7), "heads": 2, "dim": 8, "shift": 3, "packed": 1},
    "pad first": {"extent": (9, 12), "size": (7, 5), "heads": 2, "dim": 8, "shift": (3, 2), "pad_first": True},
    "cosine": {"extent": (8, 16), "size": (8, 8), "heads": 2, "dim": 20, "shift": 4, "tau": True, "scale": 1.0},
    "global queries": {
        "extent": (9, 14),
        "size": (7, 7),
        "heads": 2,
        "dim": 16,
        "packed": 2,
        "shared": True,
        "batch": 2,
    },
    "shared tiles": {"extent": (9, 18), "size": (9, 9), "heads": 1, "dim": 16, "packed": 2, "shared": True, "batch": 2},
    "grid": {"extent": (8, 12), "size": (4, 4), "heads": 2, "dim": 24, "grid": True, "packed": 2},
    "tiles": {"extent": (10, 12), "size": (10, 12), "heads": 1, "dim": 16},
    "shifted tiles": {"extent": (13, 20), "size": (9, 9), "heads": 2, "dim": 16, "shift": 4, "tau": True, "packed": 1},
    "a stripe": {"extent": (4, 12), "size": (2, 12), "heads": 1, "dim": 64, "bias": False},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_pytorch_does(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of q, k, v, bias and tau; where kernels do not write, there is NaN."""
    found = interpreting.submit(attention, dtype, **CASES[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def in_autocast() -> tuple[list[torch.dtype], float]:
    """Types of results under autocast, by kernel and by PyTorch, and how far they and the gradients are apart.

    Normed queries and keys are float32 there, values are not.
    """
    of = package(compile_spec("maxvit_t", passes=IN_PLACE).files)
    torch.manual_seed(0)
    maps = [torch.randn(1, 14, 14, 32, dtype=t, requires_grad=True) for t in (torch.float32,) * 2 + (torch.float16,)]
    bias, tau = torch.randn(2, 49, 49), torch.rand(2) + 0.5
    types, results, chosen = [], [], of.fused.runs
    for runs in (chosen, lambda *_: False):
        of.fused.runs = runs
        with torch.autocast("cpu", torch.float16):
            y = of.fused.window_attention(*maps, heads=2, size=7, extent=(14, 14), shift=3, bias=bias, tau=tau)
        types.append(y.dtype)
        results.append([y, *torch.autograd.grad(y.float().square().sum(), maps)])
    of.fused.runs = chosen
    return types, max(float((a - b).float().norm() / b.float().norm()) for a, b in zip(*results, strict=True))


def test_autocast_decides_the_type(interpreting: Executor) -> None:
    types, apart = interpreting.submit(in_autocast).result()
    assert types == [torch.float16, torch.float16] and apart <= 2 * ROUNDING[torch.float16]


def test_a_kernel_that_forgets_the_shifts_mask_is_found(interpreting: Executor) -> None:
    """The comparison sees what a public kernel of this kind gets wrong: pairs across the seam of the shift."""
    found = interpreting.submit(attention, torch.float32, **SWIN, seamless=True).result()
    assert min(found) > 1e-2


SPECS = ("swin_t", "maxvit_t", "swinv2_t")


@pytest.mark.parametrize("spec", ["swin_t", *(pytest.param(s, marks=pytest.mark.full) for s in SPECS[1:])])
def test_kernels_fit_gpus(spec: str) -> None:
    """In bfloat16, at a spec's sizes: memory a GPU has, matrix units, wide loads, no more spilled than recorded."""
    artefact, known = compile_spec(spec, passes=IN_PLACE), records()[spec].taken
    made = package(artefact.files)
    module = getattr(made, artefact.name)()
    for train in (False, True):
        found = launches(made, module, (2, *artefact.input), torch.bfloat16, train)
        assert found, "no kernel ran"
        for launch in found:
            for capability in CAPABILITIES:
                compiled = launch.compile(capability)
                where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
                assert compiled.shared <= SHARED_MEMORY[capability], where
                spilled = known[launch.name][f"sm_{capability}"].spilled
                assert compiled.spilled <= spilled, f"{where}, {compiled.spilled} bytes spilled"
                assert compiled.matrix_units, where
                assert compiled.wide_loads, where


def test_compilers_see_the_kernels() -> None:
    """In one graph, each launch a node that Inductor knows: of every block one forward and one backward."""
    artefact = compile_spec("swin_t", passes=IN_PLACE, overrides={"depths": [1, 2, 1, 1]})
    made = package(artefact.files)
    called = []
    for graph in compiled_graphs(made, getattr(made, artefact.name)(), (2, *artefact.input)):
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert sum("triton_kernel_wrapper" in target for target in targets) == 5
        assert not any("softmax" in target or "scaled_dot" in target or "roll" in target for target in targets)
        called.append(targets)
    # The gradient of packed queries, keys and values is one tensor, which nothing is put together from.
    assert not any("slice_scatter" in target or "cat" in target for target in called[1])


@pytest.mark.parametrize("rules", ["norm_linear+project_residual", pytest.param("all", marks=pytest.mark.full)])
def test_models_are_exported_with_their_kernels(rules: str) -> None:
    """For any batch: no size of a launch is decided by it."""
    passes = with_kernels(level(1), Fuse(rules))
    artefact = compile_spec("swin_t", passes=passes, overrides={"depths": [1, 1, 1, 1]})
    made = package(artefact.files)
    module = getattr(made, artefact.name)().to("meta", torch.bfloat16).eval()
    x = torch.empty(2, *artefact.input, device="meta", dtype=torch.bfloat16)
    with torch.no_grad(), chosen(made):
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert sum("window_attention" in target for target in targets) == 4


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_models_with_kernels_compile_and_export_as_they_are(backend: str) -> None:
    """On a CPU PyTorch runs: in one graph, also with a batch of any size."""
    artefact = compile_spec("swin_t", passes=with_kernels(level(1), Fuse("all")), overrides={"depths": [2, 2, 1, 1]})
    module = artefact.module().eval()
    x = torch.randn(2, *artefact.input)
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = module(x)
        assert torch.equal(torch.compile(module, backend=backend, fullgraph=True)(x), wanted)
        batch = torch.export.Dim("batch", min=1, max=8)
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: batch},)).module()
        assert torch.equal(exported(x), wanted)


def test_a_package_says_once_what_runs_and_why(caplog: pytest.LogCaptureFixture) -> None:
    artefact = compile_spec("swin_t", passes=IN_PLACE, overrides={"depths": [1, 1, 1, 1]})
    module = artefact.module().eval()
    with caplog.at_level("INFO"), torch.no_grad():
        module(torch.randn(1, *artefact.input))
        module(torch.randn(1, *artefact.input))
    told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("window_attention")]
    assert told == ["window_attention: PyTorch, for tensors are on cpu"]


def test_a_package_with_kernels_needs_no_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact = compile_spec("swin_t", passes=IN_PLACE, overrides={"depths": [1, 1, 1, 1]})
    wanted = artefact.module().eval()
    monkeypatch.setitem(sys.modules, "triton", None)
    place = artefact.write(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    made = importlib.import_module(place.name).swin_t().eval()
    made.load_state_dict(wanted.state_dict())
    x = torch.randn(1, *artefact.input)
    with torch.no_grad():
        assert torch.equal(made(x), wanted(x))
