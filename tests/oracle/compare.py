"""Turns two modules with the same weights into a verdict: float64 decides, float32 is held to the reference's error."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.oracle.kinks import Sides, differing
from tests.oracle.links import Links

EXACT = 1e-9
"""Relative difference allowed in float64: rounding differs by the order of summation, a wrong wiring by far more."""
FLOOR = 1e-12
"""Of the largest gradient: gradients that are zero in exact arithmetic are rounding noise in both."""


@dataclass(frozen=True)
class Run:
    """Logits, and the gradient of one random functional of them for every parameter and the input."""

    logits: Tensor
    gradients: Mapping[str, Tensor]
    sides: tuple[Tensor, ...] = ()
    """Of kinks, on which the gradients were taken, if they were kept."""


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, gain: float = 1.0) -> None:
    """Gives every tensor of the state dict values at which each one matters.

    Freshly initialised, a layer scale of 1e-6, a zero bias, a norm's ones and BatchNorm's statistics hide errors.
    Values are exact in float32, so that both precisions see the same model. Layers have `gain` times the weights that
    keep the variance of what they map.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    for name, tensor in model.state_dict().items():
        role = name.rpartition(".")[2]
        if not tensor.is_floating_point():
            value = torch.randint(0, 100, tensor.shape, generator=generator)
        elif role == "running_var":
            value = 0.5 + torch.rand(tensor.shape, generator=generator)
        elif "bias_table" in role or role == "table" or role.endswith(("_embed", "_token")):
            value = normal(tensor)
        elif role == "logit_scale":  # some beyond the bound it is clamped to
            value = 3 * normal(tensor)
        elif tensor.ndim >= 2:
            value = gain * normal(tensor) / math.sqrt(max(1, tensor[0].numel()))
        elif role in ("weight", "gamma", "scale"):  # of norms and layer scales
            value = 0.7 + 0.3 * normal(tensor)
        else:
            value = 0.3 * normal(tensor)
        tensor.copy_(value)


def images(batch: int, size: tuple[int, int], seed: int = 1) -> Tensor:
    """Random images [batch, 3, H, W] in float32."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def run(
    model: nn.Module,
    x: Tensor,
    dtype: torch.dtype,
    links: Links | None = None,
    kinks: Sides | None = None,
) -> Run:
    """Runs a copy of the model in `dtype`, forward and back; a reference's gradients come under our names (`links`).

    `kinks` keeps the sides of kinks, or gives them.
    """
    model = copy.deepcopy(model).to(dtype)
    x = x.to(dtype, copy=True).requires_grad_()
    torch.manual_seed(3)  # some models draw the order of tokens, in eval mode too
    with kinks or nullcontext():
        logits = model(x)
        functional = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        (logits * functional).sum().backward()
    gradients = {name: _gradient(name, parameter) for name, parameter in model.named_parameters()}
    if links is not None:
        gradients = links.translate(gradients)
    gradients["input"] = _gradient("input", x)
    return Run(logits.detach(), gradients, tuple(kinks.taken) if kinks else ())


def check_exact(ours: Run, theirs: Run, vanishing: str = "") -> None:
    """Asserts equality in float64: logits, and the gradient of the input and of every parameter.

    Every gradient must be there to be compared, but for the parameters that `vanishing`, a regular expression, finds.
    A stage's last block may be called -1 in it.
    """
    assert ours.gradients.keys() == theirs.gradients.keys()
    alias = _from_the_end(ours.gradients)
    spread = float(theirs.logits.std())
    assert 1e-3 < spread < 1e3, f"logits of spread {spread:.1e} do not test anything"
    largest, zero = _largest(theirs), vanishing_gradients(theirs)
    faults = []
    for name, a, b in _pairs(ours, theirs):
        bound = EXACT * float(b.norm()) + (0.0 if name == "logits" else FLOOR * largest)
        if not (distance := float((a - b).norm())) <= bound:
            faults.append(f"{name}: |a - b| = {distance:.2e}, |b| = {float(b.norm()):.2e}")
        expected = vanishing and name != "logits" and any(re.search(vanishing, n) for n in (name, alias[name]))
        if (name in zero) != bool(expected):
            faults.append(f"{name}: its gradient is {'zero, so nothing was tested' if name in zero else 'not zero'}")
    assert not faults, "\n".join(faults[:10])


def _from_the_end(names: Collection[str]) -> dict[str, str]:
    """Names with the last block of each list of blocks as -1."""
    last: dict[str, int] = {}
    for name in names:
        for found in re.finditer(r"\bblocks\.(\d+)\.", name):
            blocks = name[: found.start(1)]
            last[blocks] = max(last.get(blocks, 0), int(found[1]))

    def counted(name: str) -> str:
        for blocks, n in last.items():
            if name.startswith(f"{blocks}{n}."):
                return f"{blocks}-1.{name.removeprefix(f'{blocks}{n}.')}"
        return name

    return {name: counted(name) for name in (*names, "logits")}


@dataclass(frozen=True)
class Rounding:
    """A module's float32 error, against its own float64 on the sides of kinks that float32 came to lie on."""

    errors: Mapping[str, float]
    sides: int
    """How many of these are other ones than in float64."""


def rounding(model: nn.Module, x: Tensor, exact: Run, links: Links | None = None) -> Rounding:
    """The float32 error of a model whose float64 run, with its sides of kinks, is `exact`."""
    found = run(model, x, torch.float32, links, Sides())
    if sides := differing(found.sides, exact.sides):
        exact = run(model, x, torch.float64, links, Sides(found.sides))
    return Rounding(_pooled(deviations(found, exact), exact), sides)


def check_rounding(ours: Rounding, theirs: Rounding, beyond: float = 1e-6) -> None:
    """Asserts that our float32 error is at most four times the reference's own and `beyond`.

    And that float32 has us on the other side of kinks as seldom, but for ten by chance.
    """
    faults = []
    if ours.sides > 4 * theirs.sides + 10:
        faults.append(f"{ours.sides} kinks on the other side, {theirs.sides} of the reference's")
    for name, error in ours.errors.items():
        if not error <= 4 * theirs.errors[name] + beyond:
            faults.append(f"{name}: error {error:.1e}, the reference's {theirs.errors[name]:.1e}")
    assert not faults, "\n".join(faults[:10])


def deviations(found: Run, exact: Run) -> dict[str, float]:
    """How far logits and each gradient are from the exact ones, relative to these, in the 2-norm.

    A gradient counts as no smaller than a millionth of the largest one.
    """
    largest = _largest(exact)
    return {name: float((a - b).norm()) / max(float(b.norm()), 1e-6 * largest) for name, a, b in _pairs(found, exact)}


def _pooled(errors: Mapping[str, float], exact: Run) -> dict[str, float]:
    """The errors, with one for all gradients that are a single number, and one for all that are nothing but rounding.

    How exact one number comes out is luck, and so is how far from zero what should be zero comes out.
    """
    vanishing = vanishing_gradients(exact)
    single = {name for name, gradient in exact.gradients.items() if gradient.numel() == 1} - vanishing
    out = {name: error for name, error in errors.items() if name not in single | vanishing}
    for what, names in (("single numbers", single), ("vanishing", vanishing)):
        out[what] = math.sqrt(sum(errors[name] ** 2 for name in names) / max(1, len(names)))
    return out


def vanishing_gradients(exact: Run) -> set[str]:
    """Whose gradient is zero in exact arithmetic, so that what is there is rounding."""
    largest = _largest(exact)
    return {name for name, gradient in exact.gradients.items() if float(gradient.norm()) <= EXACT * largest}


def _largest(exact: Run) -> float:
    return max(float(g.norm()) for g in exact.gradients.values())


def _gradient(name: str, tensor: Tensor) -> Tensor:
    assert tensor.grad is not None, f"{name} gets no gradient"
    return tensor.grad


def _pairs(ours: Run, theirs: Run) -> list[tuple[str, Tensor, Tensor]]:
    """(name, ours, theirs) in float64 and one shape, logits first."""
    pairs = [("logits", ours.logits.double(), theirs.logits.double())]
    for name, b in theirs.gradients.items():
        pairs.append((name, ours.gradients[name].double().reshape(b.shape), b.double()))
    return pairs
