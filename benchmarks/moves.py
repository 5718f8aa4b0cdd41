"""Turns a run of an emitted module, and of timm's, into the launches that only move positions of maps, and their bytes.

    python -m benchmarks.moves [--level 1 2] [--batch 2] [SPEC ...]

Counted by torch's profiler in inference: rolls, paddings, gathers and copies of maps into another order. Three stand
apart: those of the image, those that a layer makes for itself, and those in a `downsample`, where windows become
channels.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.cpu import opponents, ours
from benchmarks.report import Measurement, save, table
from tests.oracle.compare import images
from tests.oracle.twin import declare_torchvision_ops
from tests.oracle.twins import TWINS

SPECS = ("swin_t", "maxvit_t")
GOALS: Mapping[tuple[str, int], float] = {("swin_t", 2): 10}
MOVES: Mapping[str, str] = {
    "aten::roll": "roll",
    "aten::constant_pad_nd": "pad",
    "aten::cat": "concatenate",
    "aten::clone": "copy",
    "aten::index_select": "gather",
    "aten::index": "gather",
    "aten::gather": "gather",
}
LAYERS = (
    "aten::conv2d",
    "aten::linear",
    "aten::scaled_dot_product_attention",
    "aten::matmul",
    "aten::batch_norm",
    "aten::layer_norm",
)
DOWNSAMPLE = "downsample"


@dataclass(frozen=True)
class Move:
    """One launch: what it is, where it stands if apart, and the bytes that it reads and writes."""

    kind: str
    apart: str
    bytes: int


def moves(model: nn.Module, x: Tensor, widths: set[int]) -> list[Move]:
    """The launches of one inference that only move what has one of these numbers of channels."""
    marks = [mark for name, module in model.named_modules() if name.endswith(DOWNSAMPLE) for mark in _marked(module)]
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as run:
        model.eval()(x)
    for mark in marks:
        mark.remove()
    found = []
    for event in run.events():
        callers = [caller.name for caller in _callers(event)]
        if event.name not in MOVES or any(name in MOVES for name in callers):
            continue
        shapes = event.input_shapes[0]
        shapes = shapes if shapes and isinstance(shapes[0], list) else [shapes]
        image = shapes == [list(x.shape)]
        if image or all(_of_map(shape, widths) for shape in shapes):
            layer, down = any(name in LAYERS for name in callers), DOWNSAMPLE in callers
            apart = "of the image" if image else "inside layers" if layer else "in downsamplings" if down else ""
            found.append(Move(MOVES[event.name], apart, 2 * sum(map(math.prod, shapes)) * x.element_size()))
    return found


def _marked(module: nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
    """The hooks by which the profiler tells what runs in a module."""
    mark = record_function(DOWNSAMPLE)
    yield module.register_forward_pre_hook(lambda *_: mark.__enter__() and None)
    yield module.register_forward_hook(lambda *_: mark.__exit__(None, None, None))


def _callers(event: FunctionEvent) -> Iterator[FunctionEvent]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event


def _of_map(shape: list[int], widths: set[int]) -> bool:
    """Whether channels stand last, as in maps and windows, or second, as in maps for convolutions."""
    return len(shape) > 2 and (shape[-1] in widths or (len(shape) == 4 and shape[1] in widths))


def measured(name: str, model: nn.Module, x: Tensor, widths: set[int], goal: float | None) -> Measurement:
    """The launches that do not stand apart."""
    found = moves(model, x, widths)
    blocks = sum(re.search(r"\.\d+\.blocks\.\d+$", path) is not None for path, _ in model.named_modules())
    kinds = Counter(move.kind for move in found if not move.apart)
    size = sum(move.bytes for move in found if not move.apart) / 1e6
    listing = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items()))
    apart = Counter(move.apart for move in found if move.apart)
    others = ", ".join(f"{n} {where}" for where, n in sorted(apart.items()))
    detail = f"{listing}; {kinds.total() / blocks:.1f} a block; {size:.1f} MB read and written at batch {len(x)}"
    detail += f"; apart: {others}"
    return Measurement(name, kinds.total(), "launches", 1, goal=goal, detail=detail)


def count(spec: str, levels: list[int], batch: int) -> list[Measurement]:
    """timm's launches in each way of attending, and ours at each level."""
    twin = TWINS[spec]
    theirs = opponents(twin)
    x = images(batch, twin.size)
    widths = {n for f in theirs["default"].feature_info for n in (f["num_chs"], 4 * f["num_chs"])}  # type: ignore[union-attr]
    goals = [None] * len(theirs) + [GOALS.get((spec, n)) for n in levels]
    models = {f"{spec} of timm, {way}": model for way, model in theirs.items()}
    models |= {f"{spec} -O{n}": ours(twin, theirs["default"], n) for n in levels}
    return [measured(name, m, x, widths, goal) for (name, m), goal in zip(models.items(), goals, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts the launches that only move positions of maps.")
    parser.add_argument("specs", nargs="*", default=SPECS)
    parser.add_argument("--level", type=int, nargs="+", choices=(0, 1, 2), default=[1, 2])
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    schemas = declare_torchvision_ops()  # live while timm is in use
    torch.set_num_threads(1)
    measurements = [m for spec in arguments.specs for m in count(spec, arguments.level, arguments.batch)]
    del schemas
    save("moves", measurements)
    print(table(measurements))


if __name__ == "__main__":
    main()
