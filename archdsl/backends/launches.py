"""Turns an imported package's kernels into launches: what a run would launch, and what that takes of a GPU.

Needs torch and triton. On the meta device launchers choose as on a GPU, and Triton compiles for one that is not there.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import triton
from torch import Tensor, nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import KernelInterface

CAPABILITIES = (80, 90, 100)
"""Compute capabilities of the GPUs that kernels are written for."""
SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10}
"""Bytes a program may have of it, by compute capability; 99 KiB on those that are not here."""
OPTIONS = ("num_warps", "num_stages")
NAMES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}

Grid = int | Callable[[dict[str, Any]], int]


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


@dataclass(frozen=True)
class Launch:
    """A kernel with all that decides its code: types of arguments, constants, and what 16 divides.

    `known_as` is what the package's table has it under, `shapes` are those of its tensors, and `free` names the
    constants that may be other powers of two.
    """

    kernel: Any = field(compare=False)
    name: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, object], ...]
    divisible: tuple[int, ...]
    options: tuple[tuple[str, int], ...]
    known_as: str = field(default="", compare=False)
    shapes: str = field(default="", compare=False)
    free: tuple[str, ...] = field(default=(), compare=False)

    def tile(self) -> dict[str, int]:
        """What may be chosen otherwise, as it is."""
        constants = dict(self.constants)
        return {name: int(str(constants[name])) for name in self.free} | dict(self.options)

    def changed(self, tile: Mapping[str, int]) -> Launch:
        """With other constants and options."""
        constants = tuple((k, tile.get(k, v)) for k, v in self.constants)
        return replace(self, constants=constants, options=tuple((k, tile.get(k, v)) for k, v in self.options))

    def compile(self, capability: int) -> Compiled:
        """Raises what Triton raises where it cannot compile this."""
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


def launch_of(
    kernel: Any, arguments: Sequence[Any], meta: Mapping[str, Any], known_as: str = "", free: Sequence[str] = ()
) -> Launch:
    """What one call of a package's `launch` compiles."""
    options = {k: v for k, v in meta.items() if k not in kernel.arg_names}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | {k: v for k, v in meta.items() if k not in options}
    signature, constants, divisible = [], [], []
    for i, name in enumerate(kernel.arg_names):
        value = given[name]
        if name in meta or value is None or (type(value) is int and value == 1):
            signature.append((name, "constexpr"))
            constants.append((name, value))
        elif isinstance(value, Tensor):
            signature.append((name, NAMES[value.dtype]))
            divisible.append(i)
        else:
            signature.append((name, "fp32" if isinstance(value, float) else "i32"))
            if isinstance(value, int) and value % 16 == 0:
                divisible.append(i)
    shapes = " ".join("x".join(map(str, x.shape)) for x in arguments if isinstance(x, Tensor))
    return Launch(
        kernel,
        kernel.__name__,
        tuple(signature),
        tuple(constants),
        tuple(divisible),
        tuple(options.items()),
        known_as,
        shapes,
        tuple(free),
    )


def source_of(kernel: Any) -> str:
    """A kernel with all kernels that it calls, wherever in a file they stand."""
    found: dict[str, str] = {}

    def take(function: Any) -> None:
        if function.__name__ not in found:
            found[function.__name__] = text = inspect.getsource(function.fn)
            for name in dict.fromkeys(re.findall(r"\b[a-z]\w+(?=\()", text)):
                called = function.fn.__globals__.get(name)
                if isinstance(called, KernelInterface):
                    take(called)

    take(kernel)
    return "\n".join(found.values())


@contextmanager
def replaced(package: ModuleType, launch: Callable[..., None]) -> Iterator[None]:
    """A package's kernels are launched by `launch(kernel, programs, *arguments, free, **constants)`."""
    before = package.kernels.launch
    package.kernels.launch = launch
    try:
        yield
    finally:
        package.kernels.launch = before


@contextmanager
def recorded(package: ModuleType) -> Iterator[list[Launch]]:
    """The launches of a package's kernels, which do not run: on meta tensors they are chosen as on a GPU."""
    found: list[Launch] = []

    def launch(kernel: Any, programs: Grid, *arguments: Any, free: tuple[str, ...] = (), **meta: Any) -> None:
        known_as = package.kernels.known_as(kernel, arguments, meta)
        one = launch_of(kernel, arguments, package.kernels.tuned(kernel, arguments, meta, free), known_as, free)
        if one not in found:
            found.append(one)

    with replaced(package, launch), chosen(package):
        yield found


@contextmanager
def chosen(package: ModuleType) -> Iterator[None]:
    """Kernels are chosen wherever they are on a GPU, also for meta tensors."""

    def refusal(*tensors: Tensor | None) -> str:
        return "" if all(x is None or x.dtype in package.fused.DTYPES for x in tensors) else "dtype"

    before, package.fused.refusal = package.fused.refusal, refusal
    try:
        yield
    finally:
        package.fused.refusal = before


def run(module: nn.Module, x: Tensor, train: bool) -> None:
    """A forward run, and where `train` a backward run as well."""
    with torch.set_grad_enabled(train):
        y = module.train(train)(x)
        if train:
            y.sum().backward()


def launches(
    package: ModuleType, module: nn.Module, shape: Sequence[int], dtype: torch.dtype, train: bool
) -> list[Launch]:
    """Every launch, once, of a forward run on the meta device, and of a backward run."""
    with recorded(package) as found:
        run(module.to("meta", dtype), torch.empty(shape, device="meta", dtype=dtype), train)
    return found
