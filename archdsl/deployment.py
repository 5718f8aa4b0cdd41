"""Turns a spec and its trained weights into the deploy module and its weights, once both compute what eval does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from archdsl.api import Artefact, compile_spec, elaborate
from archdsl.diagnostics import error
from archdsl.passes.base import Pass
from archdsl.passes.pipeline import level
from archdsl.weights.load import AGREES, deploy_weights
from archdsl.weights.stores import Stored, write_file

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE = "weights.safetensors"
"""Of the weights, beside the files of the module."""
IMAGES = 2


@dataclass(frozen=True)
class Deployment:
    """A deploy module with its weights, and how far its results are from those that eval's has with the trained ones.

    Deviations are the largest of a logit in float64, relative to the largest logit: `exact` before the weights are
    rounded to the type of those they are made of, `rounded` with them as they are written.
    """

    artefact: Artefact
    tensors: Mapping[str, Tensor]
    origin: Mapping[str, str]
    trained: int
    """How many tensors they are made of."""
    exact: float
    rounded: float

    def write(self, directory: str | Path, *, force: bool = False) -> Path:
        """Writes the module to `directory`/`name`/ and its weights beside it. Raises E-EDITED and E-WRITE."""
        place = self.artefact.write(directory, force=force)
        metadata = {"format": "pt", "spec": self.artefact.name, "mode": "deploy", **self.origin}
        write_file(place / FILE, self.tensors, metadata)
        return place

    def text(self) -> str:
        size = "x".join(map(str, self.artefact.input))
        return (
            f"{len(self.tensors)} tensors for `{self.artefact.name}` in deploy mode, made of {self.trained}\n"
            f"largest deviation from eval's logits, of the largest, in float64 on {IMAGES} random images of {size}: "
            f"{self.rounded:.0e}, before weights are rounded {self.exact:.0e}"
        )


def deploy(
    spec: str | Path,
    stored: Stored,
    *,
    input: str | Sequence[int] | None = None,
    ops: Sequence[str | Path] = (),
    overrides: Mapping[str, object] | None = None,
    passes: Sequence[Pass] | None = None,
) -> Deployment:
    """The deploy module of a spec and the weights that the stored ones become; after the passes of -O1, or those given.

    Raises E-DEPLOY where the two modules differ, unless a pass is named that changes what is computed, and what
    `deploy_weights` raises.
    """
    passes = level(1) if passes is None else passes

    def built(mode: str, passes: Sequence[Pass]) -> Artefact:
        return compile_spec(spec, input=input, mode=mode, ops=ops, overrides=overrides, passes=passes)

    graph, training, deployed = (
        elaborate(spec, input=input, mode=m, ops=ops, overrides=overrides) for m in ("eval", "train", "deploy")
    )
    wide = {k: t.double() if t.is_floating_point() else t for k, t in stored.tensors.items()}
    tensors = deploy_weights(graph, training, deployed, stored, passes)
    unrounded = deploy_weights(graph, training, deployed, replace(stored, tensors=wide), passes)
    plain, artefact = built("eval", ()), built("deploy", passes)
    module = artefact.module()
    wanted = _logits(plain.module(), {k: wide[k] for k in graph.params}, artefact.input)
    exact, rounded = (_deviation(_logits(module, state, artefact.input), wanted) for state in (unrounded, tensors))
    if not exact <= AGREES and all(p.exact for p in passes):
        raise error(
            "E-DEPLOY",
            f"in deploy mode `{plain.name}` does not compute what it does in eval mode: logits differ by {exact:.0e}"
            " of the largest",
            help="let `rep def` alone tell deployment from evaluation; `archdsl compare SPEC SPEC --mode-b deploy "
            "--weights FILE` finds where they part",
        )
    return Deployment(artefact, tensors, stored.origin, len(stored.tensors), exact, rounded)


def _logits(module: nn.Module, state: Mapping[str, Tensor], size: tuple[int, ...]) -> Tensor:
    """Of the same random images, in float64."""
    import torch

    module.double().eval().load_state_dict(state)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        logits: Tensor = module(torch.randn(IMAGES, *size, dtype=torch.float64))
    return logits


def _deviation(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, of the largest value; what is not a number differs."""
    largest = float(theirs.abs().max())
    difference = float((ours - theirs).abs().max())
    return difference / largest if largest else difference
