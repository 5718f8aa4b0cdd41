"""Turns two modules into the ratio of their speeds: eager PyTorch, one CPU thread, taking turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archdsl.api import compile_spec
from archdsl.backends.running import one_thread, still
from archdsl.cost import human
from archdsl.diagnostics import error
from archdsl.weights.stores import TIMM, timm_model

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table
    from torch import Tensor, nn

WARM_UP = 2
"""Rounds that are run and not counted."""
RESAMPLED = 2000


@dataclass(frozen=True)
class Ratio:
    """The ratio of two medians with its 95 % bootstrap interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Side:
    """One of two models. `macs` are multiply-adds of one image as torch's counter finds them, for both alike."""

    name: str
    params: int
    macs: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Race:
    """What was measured, and under which conditions."""

    ours: Side
    theirs: Side
    ratio: Ratio
    conditions: str

    def as_dict(self) -> dict[str, object]:
        sides = {
            key: {"name": s.name, "params": s.params, "macs": s.macs, "median_s": s.median, "seconds": s.seconds}
            for key, s in (("ours", self.ours), ("theirs", self.theirs))
        }
        ratio = {"value": self.ratio.value, "lower": self.ratio.lower, "upper": self.ratio.upper}
        return {**sides, "ratio": ratio, "conditions": self.conditions}

    def table(self) -> Table:
        """One row a model."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("model")
        for title in ("params", "MACs", "median"):
            table.add_column(title, justify="right")
        for s in (self.ours, self.theirs):
            table.add_row(s.name, human(s.params), human(s.macs), f"{1000 * s.median:.1f} ms")
        return table

    def text(self) -> str:
        r = self.ratio
        return (
            f"{self.ours.name} takes {r.value:.3f} times as long as {self.theirs.name} "
            f"(95 % interval {r.lower:.3f} to {r.upper:.3f})\n{self.conditions}"
        )


def race(
    spec: str | Path,
    against: str,
    *,
    training: bool = False,
    batch: int = 1,
    rounds: int = 20,
    input: str | Sequence[int] | None = None,
    ops: Sequence[str | Path] = (),
    overrides: Mapping[str, object] | None = None,
) -> Race:
    """Measures a spec's module against `timm:NAME`, both freshly initialised, without drop path and dropout.

    Raises ArchError: E-WEIGHTS for another opponent or a model that timm does not have, E-DEPENDENCY without timm.
    """
    import torch

    if not against.startswith(TIMM):
        raise error("E-WEIGHTS", f"`{against}` is no model to measure against", help="write timm:NAME")
    artefact = compile_spec(spec, input=input, ops=ops, overrides=overrides)
    channels, height, width = artefact.input
    name = against.removeprefix(TIMM)
    more: dict[str, object] = {"in_chans": channels, "num_classes": int(artefact.graph.outputs[0].type.dims[0])}
    try:
        theirs = timm_model(name, img_size=(height, width), **more)
    except TypeError:  # a model that takes images of any size
        theirs = timm_model(name, **more)
    ours = artefact.module()
    for model in (ours, theirs):
        still(model)
    macs = [multiply_adds(model, artefact.input) for model in (ours, theirs)]
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, channels, height, width, generator=generator)
    with one_thread():
        taken = interleaved((ours, theirs), image, training=training, rounds=rounds)
    params = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    sides = [Side(n, p, m, s) for n, p, m, s in zip((artefact.name, against), params, macs, taken, strict=True)]
    what = "forward and backward" if training else "inference"
    conditions = (
        f"{what}, batch {batch}, images {height}x{width}, float32, eager PyTorch {torch.__version__}, one CPU thread, "
        f"processor time, {rounds} rounds in turn; MACs of one image as torch counts them"
    )
    return Race(sides[0], sides[1], median_ratio(*taken), conditions)


def multiply_adds(model: nn.Module, input: Sequence[int]) -> int:
    """MACs of matrix products and convolutions for one image, counted on the meta device."""
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        counted(torch.zeros(1, *input, device="meta"))
    return int(counter.get_total_flops()) // 2


def interleaved(
    models: Sequence[nn.Module], x: Tensor, *, training: bool = False, rounds: int = 30
) -> list[tuple[float, ...]]:
    """Seconds of processor time of each model's steps, one step a round each, the order changing every round."""
    for model in models:
        model.train(training)
    taken: list[list[float]] = [[] for _ in models]
    order = list(range(len(models)))
    for number in range(rounds + WARM_UP):
        for at in order if number % 2 else order[::-1]:
            start = time.process_time()
            _step(models[at], x, training)
            if number >= WARM_UP:
                taken[at].append(time.process_time() - start)
    return [tuple(series) for series in taken]


def _step(model: nn.Module, x: Tensor, training: bool) -> None:
    import torch

    if training:  # without an optimizer, which is neither side's
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
    else:
        with torch.inference_mode():
            model(x)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of two interleaved series. Rounds are drawn whole, so that what slowed both sides of a round stays paired."""
    rounds = list(zip(ours, theirs, strict=True))
    draw = random.Random(0)

    def of(sample: Sequence[tuple[float, float]]) -> float:
        return statistics.median(a for a, _ in sample) / statistics.median(b for _, b in sample)

    resampled = sorted(of(draw.choices(rounds, k=len(rounds))) for _ in range(RESAMPLED))
    return Ratio(of(rounds), resampled[int(0.025 * RESAMPLED)], resampled[int(0.975 * RESAMPLED)])
