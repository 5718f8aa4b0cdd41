"""Kernels as operators of torch.library: what torch asks of one, and modules that are compiled ahead of time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_export_module
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from archdsl.api import compile_spec
from archdsl.passes.fuse import Fuse
from archdsl.passes.pipeline import level, with_kernels
from archdsl.resources import template_dir
from tests.compiled import chosen, interpreter, package
from tests.test_kernel_keys import SPEC as WINDOWS
from tests.test_kernel_local import SPEC as NEIGHBOURS
from tests.test_kernel_mbconv import CELL as BOTTLENECKS

ASKED = ("test_schema", "test_autograd_registration", "test_faketensor")
"""That an operator changes nothing it is given, has gradients where torch looks for them, and shapes without running.

What is left, compiled graphs, is test_compilers_see_the_kernels: AOTDispatcher puts kernels in an operator's place, and
none can run on a CPU.
"""
TINY = """language 1
arch tiny[classes = 10] {
  input img: map[3, 20, 28]
  stem { x = img |> conv@stem[32, k = 4, s = 4] }
  stage i in 1 -> x { x = x + (x |> ln@norm |> linear@up[48] |> gelu |> linear@down[32]) }
  head { return x |> gap |> linear@fc[classes] }
}
"""
LIGHT = """language 1
arch light[dpr = 0.4, classes = 10] {
  input img: map[3, 20, 28]
  stem { x = img |> conv@stem[32, k = 4, s = 4] }
  stage i in 1 -> x { x += x |> dwconv[3] |> drop_path[t = 1] |> layer_scale }
  head { return x |> ln@norm |> gap |> linear@fc[classes] }
}
"""
ONE_EACH = [1, 1, 1, 1]
CASES: dict[str, tuple[str, str, dict[str, object], str]] = {
    "products": (TINY, "norm_linear+project_residual", {}, ""),
    "light": (LIGHT, "scale_residual+pool_head", {}, ""),
    "swin_t": ("swin_t", "all", {"dim": 16, "heads": [1, 2, 4, 8], "depths": [1, 1, 0, 0]}, "3x36x44"),
    "convnext_t": ("convnext_t", "all", {"dims": [16, 24, 32, 48], "depths": ONE_EACH}, "3x40x64"),
    "poolformer_s12": ("poolformer_s12", "all", {"dims": [16, 16, 24, 32], "depths": ONE_EACH}, "3x32x64"),
    "lowformer_b0": (
        "lowformer_b0",
        "all",
        {"dims": [16, 24, 32, 64, 96], "depths": ONE_EACH, "hidden": [48, 64]},
        "3x64x64",
    ),
    "neighbours": (NEIGHBOURS, "all", {}, ""),
    "windows": (WINDOWS, "pool_mixer", {}, ""),
    "bottlenecks": (BOTTLENECKS, "mbconv", {}, ""),
}
"""Small networks: all of them together have every operator."""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


class Calls(TorchDispatchMode):
    """Keeps the arguments of the first call of each operator of a package's kernels."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self.namespace, self.found = namespace, dict[Any, tuple[Any, ...]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace == self.namespace:
            self.found.setdefault(func, tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in args))
        return func(*args, **(kwargs or {}))


def asked(case: str, writes: bool = False) -> dict[str, dict[str, str]]:
    """By operator, what torch found of a network's kernels. `writes`: they are made to change what they are given."""
    spec, rules, overrides, size = CASES[case]
    artefact = compile_spec(spec, passes=with_kernels(level(1), Fuse(rules)), overrides=overrides, input=size or None)
    of = package(artefact.files)
    module, launch = getattr(of, artefact.name)(), of.kernels.launch
    torch.manual_seed(0)
    with Calls(of.kernels.OPS) as calls:
        with torch.no_grad():
            module.half().eval()(torch.randn(2, *artefact.input).half())
        found = module.float().train()(torch.randn(2, *artefact.input))
        (found if isinstance(found, Tensor) else found[-1]).sum().backward()

    def real(kernel: Any, programs: Any, *arguments: Any, **meta: Any) -> None:
        if not any(isinstance(x, FakeTensor) for x in arguments):
            launch(kernel, programs, *arguments, **meta)
            if writes:
                arguments[0].add_(1.0)

    of.kernels.launch = real
    told = {}
    for operator, arguments in calls.found.items():
        trained = not operator.name().endswith("_backward")
        for x in arguments:
            if trained and isinstance(x, Tensor) and x.is_floating_point():
                x.requires_grad_()
        results = opcheck(operator, arguments, test_utils=ASKED, raise_exception=False)
        told[operator.name().partition("::")[2]] = {k: str(v) for k, v in results.items()}
    return told


@pytest.mark.parametrize("case", [c if c == "products" else pytest.param(c, marks=pytest.mark.full) for c in CASES])
def test_operators_keep_to_what_torch_asks_of_them(interpreting: Executor, case: str) -> None:
    found = interpreting.submit(asked, case).result()
    assert found
    for operator, results in found.items():
        assert results == dict.fromkeys(ASKED, "SUCCESS"), operator


def test_an_operator_that_changes_what_it_is_given_is_found(interpreting: Executor) -> None:
    found = interpreting.submit(asked, "products", writes=True).result()
    assert all(results["test_schema"] != "SUCCESS" for results in found.values())


@pytest.mark.full
def test_every_operator_is_asked(interpreting: Executor) -> None:
    written = {
        name
        for path in (template_dir() / "triton").glob("*.j2")
        for name in re.findall(r'@triton_op\(f"\{OPS\}::(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert written and written == {name for case in CASES for name in interpreting.submit(asked, case).result()}


# -- ahead of time -------------------------------------------------------------------------------


def tiny() -> tuple[Any, nn.Module, Tensor]:
    artefact = compile_spec(TINY, passes=with_kernels(level(1), Fuse("norm_linear+project_residual")))
    of = package(artefact.files)
    torch.manual_seed(0)
    return of, of.tiny().eval(), torch.randn(2, *artefact.input)


class InTuple(nn.Module):
    """A module whose result stands in a tuple, as AOTDispatcher takes it."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.of(x),)


def test_exported_kernels_are_lowered_as_kernels() -> None:
    """An exported program holds operators; what compiles it ahead of time puts Triton's kernels in their places."""
    of, module, x = tiny()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad(), chosen(of):
        exported = torch.export.export(module.to("meta"), (x.to("meta"),), dynamic_shapes=({0: batch},))
        names = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert sum(of.kernels.OPS in name for name in names) == 2 and not any("triton" in name for name in names)
        lowered, _ = aot_export_module(InTuple(exported.module()), [x.to("meta")], trace_joint=False)
    names = [str(node.target) for node in lowered.graph.nodes if node.op == "call_function"]
    assert sum("triton_kernel_wrapper" in name for name in names) == 2
    assert not any(of.kernels.OPS in name for name in names)


@pytest.mark.full
def test_modules_with_kernels_are_compiled_ahead_of_time(tmp_path: Path) -> None:
    """On a CPU PyTorch's steps are, by Inductor with a C++ compiler, for any batch."""
    _, module, x = tiny()
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=64)
        exported = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
        path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "tiny.pt2"))
        run = torch._inductor.aoti_load_package(path)
        for images in (x, torch.randn(5, *x.shape[1:])):
            torch.testing.assert_close(run(images), module(images), rtol=1e-5, atol=1e-6)
