"""Generated packages with kernels, imported for Triton's interpreter or to be compiled for GPUs that are not there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from types import ModuleType
from typing import Any

import torch
import torch._dynamo
from functorch.compile import make_boxed_func
from torch import is_tensor, nn
from torch._dynamo.backends.common import aot_autograd

from archdsl.backends.launches import (
    CAPABILITIES,
    SHARED_MEMORY,
    Compiled,
    Launch,
    chosen,
    launch_of,
    launches,
    recorded,
)
from archdsl.backends.load import import_files

__all__ = [
    "CAPABILITIES",
    "SHARED_MEMORY",
    "Compiled",
    "Launch",
    "chosen",
    "compiled_graphs",
    "deviations",
    "interpreter",
    "launch_of",
    "launches",
    "package",
    "poisoned",
    "recorded",
]


def package(files: Mapping[str, str]) -> ModuleType:
    """The imported package of emitted files, with its kernels: interpreted ones where `interpreter` runs this."""
    made = import_files("kernels", files)
    for part in ("fused", "kernels"):
        importlib.import_module(f"{made.__name__}.{part}")
    return made


@contextmanager
def interpreter() -> Iterator[Executor]:
    """A process in which Triton interprets kernels, on a CPU: what Triton is imported for decides it.

    The interpreter computes bfloat16 wrongly, and knows neither races nor the limits of a GPU.
    """
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        process = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        process.submit(os.getpid).result()
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
    with process:
        yield process


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is allocated and not written holds NaN."""
    whole = ("empty", "empty_like"), ("new_empty", "new_empty_strided")
    before = [getattr(torch, n) for n in whole[0]], [getattr(torch.Tensor, n) for n in whole[1]]

    def filled(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*args: Any, **kwargs: Any) -> torch.Tensor:
            x = make(*args, **kwargs)
            return x.fill_(float("nan")) if x.is_floating_point() and x.device.type == "cpu" else x

        return call

    for owner, names, makes in zip((torch, torch.Tensor), whole, before, strict=True):
        for name, make in zip(names, makes, strict=True):
            setattr(owner, name, filled(make))
    try:
        yield
    finally:
        for owner, names, makes in zip((torch, torch.Tensor), whole, before, strict=True):
            for name, make in zip(names, makes, strict=True):
                setattr(owner, name, make)


def deviations(
    compute: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor | None], dtype: torch.dtype
) -> list[float]:
    """How far the result of `compute` in `dtype`, and each input's gradient, is from that in float64, relatively.

    In float64 no kernel runs. Inputs are rounded to `dtype` in both; what is not written is NaN in the one.
    """

    def run(to: torch.dtype) -> list[torch.Tensor]:
        given = [None if x is None else x.to(dtype).to(to).requires_grad_() for x in inputs]
        y = compute(*given)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype).to(to)
        return [y, *torch.autograd.grad(y, [x for x in given if x is not None], weights)]

    wanted = run(torch.float64)
    with poisoned():
        found = run(dtype)
    return [((b.double() - a).norm() / a.norm()).item() for a, b in zip(wanted, found, strict=True)]


def compiled_graphs(package: ModuleType, module: nn.Module, shape: tuple[int, ...]) -> list[torch.fx.GraphModule]:
    """What `torch.compile(fullgraph=True)` hands to a compiler of a training step in bfloat16: forward, backward."""
    found: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, _: Sequence[object]) -> Callable[..., list[object]]:
        found.append(graph)
        (results,) = next(n for n in graph.graph.nodes if n.op == "output").args
        values = [None if n is None else n.meta["val"] for n in results]
        return make_boxed_func(lambda *_: [meta(v) if is_tensor(v) else v for v in values])

    def meta(x: torch.Tensor) -> torch.Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device="meta")

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler)
    with chosen(package):
        module = torch.compile(module.to("meta", torch.bfloat16).train(), fullgraph=True, backend=backend)
        module(torch.empty(shape, device="meta", dtype=torch.bfloat16)).sum().backward()
    return found
