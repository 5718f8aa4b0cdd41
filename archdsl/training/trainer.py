"""Turns a new module into a trained one, step after step, so that an interruption at any of them changes nothing.

What a step draws (images, crops, mixtures, dropped paths) depends on the seed and the step's number alone. A checkpoint
holds weights, their average, the optimizer's state and the number of steps; training goes on from it as if it had not
stopped, to the same weights bit by bit where the device computes the same twice.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archdsl.diagnostics import error
from archdsl.training.data import Data, Images
from archdsl.training.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CHECKPOINT = "checkpoint.pt"
EVERY = 30.0
"""Seconds between checkpoints. When they are written changes nothing but what is done again."""
EVALUATED = 256
"""Images of a batch of the validation."""


class Diverged(Exception):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Trained:
    """A module after its last step."""

    module: nn.Module
    accuracy: float
    """Top-1 on the validation images, 0 to 1."""
    steps: int


def train(module: nn.Module, recipe: Recipe, data: Data, seed: int, directory: Path | None = None) -> Trained:
    """The module that the recipe makes of a new one, and its accuracy; `module` itself is trained.

    Checkpoints are kept in `directory`, from where it goes on if there is one already. Raises Diverged, and E-RUN where
    a checkpoint is of something else or cannot be written.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = Run.started(module.to(device), recipe, data, seed)
    path = None if directory is None else directory / CHECKPOINT
    if path is not None and path.exists():
        run.load(path)
    saved = time.monotonic()
    for _ in run:
        if path is not None and time.monotonic() - saved > EVERY:
            run.save(path)
            saved = time.monotonic()
    if path is not None:
        run.save(path)
    return Trained(run.average, accuracy(run.average, data.validation, data, recipe), run.step)


@dataclass
class Run:
    """Training that stands after `step` steps. Iterating does the steps that are left, each giving its loss."""

    module: nn.Module
    average: nn.Module
    """With the averaged weights; the module itself where nothing is averaged."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    recipe: Recipe
    data: Data
    seed: int
    step: int = 0

    @staticmethod
    def started(module: nn.Module, recipe: Recipe, data: Data, seed: int) -> Run:
        import torch

        decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
        average = copy.deepcopy(module) if recipe.ema else module
        scaler = torch.amp.GradScaler(_device(module).type, enabled=recipe.precision == "float16")
        return Run(module, average, optimizer, scaler, recipe, data, seed)

    @property
    def in_epoch(self) -> int:
        """Steps of an epoch; images that fill no batch are left out, others each time."""
        return max(1, len(self.data.train.labels) // self.recipe.batch)

    @property
    def steps(self) -> int:
        return self.in_epoch * self.recipe.epochs

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warm = round(self.recipe.warmup * self.in_epoch)
        if step < warm:
            return self.recipe.rate * (step + 1) / warm
        return self.recipe.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def __iter__(self) -> Iterator[float]:
        self.module.train()
        while self.step < self.steps:
            yield self._advance()

    def _advance(self) -> float:
        """One step, and its loss."""
        import torch
        from torch.nn import functional as F

        recipe, device = self.recipe, _device(self.module)
        drawn = np.random.default_rng((self.seed, self.step))
        torch.manual_seed(int(drawn.integers(1 << 62)))
        epoch, at = divmod(self.step, self.in_epoch)
        order = np.random.default_rng((self.seed, epoch, 0)).permutation(len(self.data.train.labels))
        numbers = order[at * recipe.batch : (at + 1) * recipe.batch].tolist()
        x = augmented(self.data.train.take(numbers), recipe, drawn).to(device)
        labels = self.data.train.labels[numbers].to(device)
        x = (x - self.data.mean) / self.data.deviation
        share, other = 1.0, labels
        if recipe.mixup:
            share = float(drawn.beta(recipe.mixup, recipe.mixup))
            x, other = share * x + (1 - share) * x.flip(0), labels.flip(0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.step)
        with _autocast(device, recipe):
            logits = classified(self.module(x))
        losses = [F.cross_entropy(logits.float(), y, label_smoothing=recipe.smoothing) for y in (labels, other)]
        loss = share * losses[0] + (1 - share) * losses[1]
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} at step {self.step} of {self.steps}")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._averaged()
        return float(loss.detach())

    def _averaged(self) -> None:
        """Moves the averaged weights; the first steps count for more, as what they started from is noise."""
        import torch

        if self.average is self.module:
            return
        kept = min(self.recipe.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - kept)
                else:
                    mean.copy_(value)

    # -- checkpoints -------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Writes a checkpoint whole or not at all. Raises E-RUN."""
        import torch

        state = {
            "made_for": self._identity(),
            "step": self.step,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        staged = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        except OSError as e:
            staged.unlink(missing_ok=True)
            raise error("E-RUN", f"cannot write `{path}`: {e.strerror}", help="make room, then go on") from e

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint. Raises E-RUN where it is of another module, recipe, seed or data."""
        import pickle

        import torch

        try:
            state: dict[str, Any] = torch.load(path, map_location=_device(self.module), weights_only=True)
            if state["made_for"] != self._identity():
                raise error("E-RUN", f"`{path}` is of another recipe, seed or data", help="train in another directory")
            self.module.load_state_dict(state["module"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.step = int(state["step"])
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError) as e:
            raise error("E-RUN", f"`{path}` is no checkpoint of this module", help="take it away to start anew") from e

    def _identity(self) -> dict[str, object]:
        return {**asdict(self.recipe), "seed": self.seed, "images": len(self.data.train.labels)}


def augmented(x: Tensor, recipe: Recipe, drawn: np.random.Generator) -> Tensor:
    """[n, C, H, W] with images mirrored, and cropped and brought back to their size."""
    import torch
    from torch.nn import functional as F

    if recipe.crop == 1 and not recipe.flip:
        return x
    area, stretch = (
        drawn.uniform(recipe.crop, 1, len(x)),
        np.exp(drawn.uniform(-math.log(4 / 3), math.log(4 / 3), len(x))),
    )
    side = np.sqrt(area)[:, None] * np.sqrt(np.stack([stretch, 1 / stretch], 1))
    side = np.ones_like(side) if recipe.crop == 1 else np.minimum(side, 1)  # of width and height
    shift = drawn.uniform(-1, 1, side.shape) * (1 - side)
    mirror = np.where(drawn.random(len(x)) < 0.5, -1.0, 1.0) if recipe.flip else np.ones(len(x))
    theta = np.zeros((len(x), 2, 3))
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side[:, 0] * mirror, side[:, 1], shift
    places = F.affine_grid(torch.from_numpy(theta).float(), list(x.shape), align_corners=False)
    return F.grid_sample(x, places, mode="bilinear", padding_mode="reflection", align_corners=False)


def accuracy(module: nn.Module, images: Images, data: Data, recipe: Recipe) -> float:
    """The share of images whose class a module gives the highest logit."""
    import torch

    device, right = _device(module), 0
    module.eval()
    with torch.inference_mode():
        for start in range(0, len(images.labels), EVALUATED):
            numbers = range(start, min(start + EVALUATED, len(images.labels)))
            x = ((images.take(numbers) - data.mean) / data.deviation).to(device)
            with _autocast(device, recipe):
                logits = classified(module(x))
            right += int((logits[:, : data.classes].argmax(1).cpu() == images.labels[start : numbers.stop]).sum())
    return right / len(images.labels)


def classified(result: Any) -> Tensor:
    """The logits of a module's result: the first, where an auxiliary classifier gives others."""
    logits: Tensor = result[0] if isinstance(result, tuple | list) else result
    return logits


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    import torch

    dtype = getattr(torch, recipe.precision)
    return torch.autocast(
        device.type, dtype if dtype != torch.float32 else torch.bfloat16, enabled=dtype != torch.float32
    )
