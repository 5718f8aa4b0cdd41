"""Turns one op into a module of its own, imported from a real file: for tests, and for what is computed beforehand."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from archdsl.backends.torch.kernels import FUSED, fused_steps
from archdsl.backends.torch.templates import environment, helper_sources
from archdsl.ir.types import Frame, TensorType
from archdsl.ops.base import Call, Op, Torch
from archdsl.ops.drop_path import DropRate

if TYPE_CHECKING:
    from torch import nn

Types = tuple[TensorType | None, ...]

DROP_PATH_RATE = 0.2
"""The rate modules under test are built with."""

HEADER = """from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

"""
NO_KERNELS = """
def runs(name, *tensors):
    return False
"""
"""What makes fused steps those of PyTorch."""


class Declined(Exception):
    """The op has no PyTorch lowering for these operands, and says why."""


@dataclass(frozen=True)
class Bench:
    """A directory that modules of single ops are written to and imported from."""

    directory: Path
    loaded: dict[str, ModuleType] = field(default_factory=dict)

    def module(self, op: Op, types: Types, axes: str = "last") -> nn.Module:
        """A module whose forward takes the op's operands by position. Raises Declined."""
        outputs = op.infer(*types)
        lowering = op.torch(Call(types, outputs, axes))
        if isinstance(lowering, str):
            assert lowering, f"`{op.name}` declines its PyTorch lowering without a reason"
            raise Declined(lowering)
        built: nn.Module = self.load(write_module(op, types, lowering)).Example()
        return built

    def load(self, source: str) -> ModuleType:
        """The module that Python source makes, imported from a real file."""
        if source not in self.loaded:
            path = self.directory / f"op_{len(self.loaded)}.py"
            path.write_text(source)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self.loaded[source] = module
        return self.loaded[source]

    def frame(self, frame: Frame) -> object:
        """The run-time frame value of a frame type, as the op that cuts it would make it."""
        import torch

        layers = self.load("\n".join([HEADER, *helper_sources(["shifted_windows"], environment())]))
        extent = int(frame.extent[0]), int(frame.extent[1])
        cut = layers.ShiftedWindows(extent, (int(frame.inner[0]), int(frame.inner[1])), frame.shift)
        made: object = cut(torch.zeros(1, *extent, 1))[-1]
        return made


@contextmanager
def bench() -> Iterator[Bench]:
    """A bench in a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        yield Bench(Path(directory))


def write_module(op: Op, types: Types, lowering: Torch) -> str:
    """Python source of `class Example(nn.Module)`: holds the op's weights as `self.op` and applies it."""
    numbers = {name: literal(value) for name, value in lowering.numbers.items()}
    holes = dict(numbers)
    arguments: list[str] = []
    for slot, port in enumerate(op.ports):
        if port.startswith("*"):
            arguments += [f"x{i}" for i in range(slot, len(types))]
            holes[port[1:]] = ", ".join(arguments[slot:])
        elif slot < len(types) and types[slot] is not None:
            arguments.append(f"x{slot}")
            holes[port.rstrip("?")] = f"x{slot}"
    lines = ["class Example(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    if lowering.module:
        holes["self"] = "self.op"
        lines.append(f"        self.op = {fill(lowering.module, numbers)}")
    lines += [
        "",
        f"    def forward(self, {', '.join(arguments)}):",
        f"        return {fill(lowering.expr, holes)}",
    ]
    env, fused = environment(), [h.removeprefix(FUSED) for h in lowering.helpers if h.startswith(FUSED)]
    helpers = helper_sources((h for h in lowering.helpers if not h.startswith(FUSED)), env)
    steps = [NO_KERNELS, *fused_steps(fused, lowering.helpers, env)] if fused else []
    return "\n\n".join([HEADER, *helpers, *steps, "\n".join(lines) + "\n"])


def fill(text: str, holes: dict[str, str]) -> str:
    """`text` with each {name} replaced; a name without a value is a KeyError."""
    return re.sub(r"\{(\w+)\}", lambda hole: holes[hole[1]], text)


def literal(value: object) -> str:
    """A number of a lowering as Python source."""
    if isinstance(value, DropRate):
        return repr(value.share * DROP_PATH_RATE)
    if isinstance(value, tuple):
        return "(" + "".join(literal(v) + ", " for v in value) + ")"
    return repr(int(value)) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def shape_of(t: TensorType, axes: str, batch: int) -> tuple[int, ...]:
    """The shape of a value's tensor: frames folded into the batch, a parameter without either."""
    dims = tuple(int(d) for d in t.dims)
    if not t.batched:
        if t.frames:
            raise Declined(f"{t} is a parameter cut into frames")
        return dims
    if t.kind == "map" and axes == "last":
        dims = (*dims[1:], dims[0])
    return (batch * t.cells, *dims)


def results(value: Any, outputs: Sequence[TensorType]) -> list[Any]:
    """What a forward returned, as a list by result."""
    listed = [value] if len(outputs) == 1 else list(value)
    assert len(listed) == len(outputs), f"{len(listed)} results where {len(outputs)} were inferred"
    return listed
