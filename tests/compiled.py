"""Generated packages with kernels, imported for Triton's interpreter or to be compiled for GPUs that are not there."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch._dynamo
import triton
from functorch.compile import make_boxed_func
from torch import is_tensor, nn
from torch._dynamo.backends.common import aot_autograd
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from archdsl.backends.load import import_files

CAPABILITIES = (80, 90, 100)
SHARED_MEMORY = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Bytes a program may have of it, by compute capability."""
NAMES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


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


@dataclass(frozen=True)
class Launch:
    """A kernel with all that decides its code: types of arguments, constants, and what 16 divides."""

    kernel: Any = field(compare=False)
    name: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    divisible: tuple[int, ...]
    options: tuple[tuple[str, int], ...]

    def compile(self, capability: int) -> Compiled:
        names = [name for name, _ in self.signature]
        attributes = {(i,): [["tt.divisibility", 16]] for i in self.divisible}
        constants = {(names.index(name),): value for name, value in self.constants}
        source = ASTSource(fn=self.kernel, signature=dict(self.signature), constexprs=constants, attrs=attributes)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(self.options))
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
            done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
        numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", done.stdout))
        return Compiled(made.metadata.shared, int(numbers["REG"]), int(numbers["STACK"]), made.asm["ptx"])


@dataclass(frozen=True)
class Compiled:
    """Shared memory in bytes, registers a thread, bytes a thread spills, and the code."""

    shared: int
    registers: int
    spilled: int
    ptx: str

    @property
    def matrix_units(self) -> bool:
        return bool(re.search(r"\b(wgmma|mma\.sync|tcgen05\.mma)", self.ptx))

    @property
    def wide_loads(self) -> bool:
        """Whether anything is read 16 bytes at a time."""
        return bool(
            re.search(r"ld\.global[\w.:]*\.v4\.b32|cp\.async\.cg\.shared\.global \[[^;]*0x10|v2\.b64", self.ptx)
        )


def launch_of(kernel: Any, arguments: tuple[Any, ...], meta: dict[str, Any]) -> Launch:
    options = {k: v for k, v in meta.items() if k not in kernel.arg_names}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | {k: v for k, v in meta.items() if k not in options}
    signature, constants, divisible = [], [], []
    for i, name in enumerate(kernel.arg_names):
        value = given[name]
        if name in meta or value is None or (type(value) is int and value == 1):
            signature.append((name, "constexpr"))
            constants.append((name, value))
        elif isinstance(value, torch.Tensor):
            signature.append((name, NAMES[value.dtype]))
            divisible.append(i)
        else:
            signature.append((name, "fp32" if isinstance(value, float) else "i32"))
            if isinstance(value, int) and value % 16 == 0:
                divisible.append(i)
    return Launch(kernel, kernel.__name__, tuple(signature), tuple(constants), tuple(divisible), tuple(options.items()))


@contextmanager
def recorded(package: ModuleType) -> Iterator[list[Launch]]:
    """The launches of a package's kernels, which do not run: on meta tensors they are chosen as on a GPU."""
    found: list[Launch] = []
    before = package.kernels.launch

    def launch(kernel: Any, programs: int, *arguments: Any, **meta: Any) -> None:
        one = launch_of(kernel, arguments, meta)
        if one not in found:
            found.append(one)

    package.kernels.launch = launch
    try:
        with chosen(package):
            yield found
    finally:
        package.kernels.launch = before


@contextmanager
def chosen(package: ModuleType) -> Iterator[None]:
    """Kernels are chosen wherever they are on a GPU, also for meta tensors."""

    def refusal(*tensors: torch.Tensor | None) -> str:
        return "" if all(x is None or x.dtype in package.fused.DTYPES for x in tensors) else "dtype"

    before, package.fused.refusal = package.fused.refusal, refusal
    try:
        yield
    finally:
        package.fused.refusal = before


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


def launches(
    package: ModuleType, module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, train: bool
) -> list[Launch]:
    """Every launch, once, of a forward run on the meta device, and of a backward run."""
    module = module.to("meta", dtype).train(train)
    with recorded(package) as found, torch.set_grad_enabled(train):
        y = module(torch.empty(shape, device="meta", dtype=dtype))
        if train:
            y.sum().backward()
    return found
