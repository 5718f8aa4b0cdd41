"""Turns each shipped spec into a module and holds it against timm's: numbers, gradients, initialisation, rates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import archdsl
from tests.oracle.compare import check_exact, check_rounding, images, randomise, run
from tests.oracle.keys import KeyMismatch, laid_out, renamed, translate
from tests.oracle.references import REFERENCES, SMALLEST, WHOLE, Reference, Size, reference


def every_spec() -> list[object]:
    return [pytest.param(r, id=r.spec, marks=() if r.spec in SMALLEST else pytest.mark.full) for r in REFERENCES]


@dataclass(frozen=True)
class Deep:
    """A spec, at its own depths or at fewer."""

    ref: Reference
    depths: int | Sequence[int] | None


def every_depth() -> Iterator[object]:
    """Every spec at its own depths, and those that take too long for every run at fewer as well."""
    for ref in REFERENCES:
        if ref.spec in SMALLEST and ref.spec not in WHOLE:
            yield pytest.param(Deep(ref, ref.shallow), id=f"{ref.spec}-shallow")
        yield pytest.param(Deep(ref, None), id=ref.spec, marks=() if ref.spec in WHOLE else pytest.mark.full)


def one_a_family() -> list[object]:
    return [pytest.param(reference(spec), id=spec) for spec in SMALLEST]


# -- the oracle itself ----------------------------------------------------------------------------


def test_the_comparison_sees_a_changed_epsilon() -> None:
    ref = reference("convnext_t")
    theirs = ref.model(depths=(1, 1, 1, 1), width=ref.narrow)
    randomise(theirs)
    x = images(1, (64, 64))
    exact = run(theirs, x, torch.float64)
    check_exact(run(theirs, x, torch.float64), exact)
    theirs.stages[2].blocks[0].norm.eps = 1.1e-6
    with pytest.raises(AssertionError, match="logits"):
        check_exact(run(theirs, x, torch.float64), exact)


@pytest.mark.parametrize("ref", one_a_family())
def test_the_key_map_is_strict(ref: Reference) -> None:
    theirs = ref.model(depths=ref.shallowest, width=ref.narrow).state_dict()
    ours = {renamed(key, ref.family): laid_out(key, tensor, ref.family) for key, tensor in theirs.items()}
    assert translate(theirs, ours, ref.family).keys() == ours.keys()
    key = "head.fc.fc2.weight" if "head.fc.fc2.weight" in ours else "head.fc.weight"
    timms = next(k for k in theirs if renamed(k, ref.family) == key)
    with pytest.raises(KeyMismatch, match=f"timm has no {key}"):
        translate({k: v for k, v in theirs.items() if k != timms}, ours, ref.family)
    with pytest.raises(KeyMismatch, match=f"ours has no {key}"):
        translate(theirs, {k: v for k, v in ours.items() if k != key}, ref.family)
    with pytest.raises(KeyMismatch, match=key):
        translate(theirs, {**ours, key: ours[key].T}, ref.family)


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(every_depth()))
def test_same_numbers_at_the_reference_size(case: Deep) -> None:
    ref = case.ref
    ours, theirs = ref.pair(ref.size, depths=case.depths)
    x = images(2, ref.size)
    exact = run(theirs, x, torch.float64, ref.family)
    check_exact(run(ours, x, torch.float64), exact, ref.vanishing)
    check_rounding(run(ours, x, torch.float32), run(theirs, x, torch.float32, ref.family), exact, ref.rounding)


@pytest.mark.parametrize("ref", every_spec())
def test_same_numbers_in_training_mode(ref: Reference) -> None:
    ours, theirs = ref.pair(ref.size, depths=ref.shallow if ref.spec in SMALLEST else None)
    x = images(2, ref.size)
    exact = run(theirs.train(), x, torch.float64, ref.family)
    check_exact(run(ours.train(), x, torch.float64), exact, ref.vanishing_in_training or ref.vanishing)


@dataclass(frozen=True)
class Elsewhere:
    """A comparison at another size, with our module built for that size or for the reference's."""

    ref: Reference
    size: Size
    built: Size
    depths: int | Sequence[int] | None


def elsewhere() -> Iterator[object]:
    for ref in REFERENCES:
        for size in ref.sizes:
            for built in (size, ref.size):
                name = f"{ref.spec}-{size[0]}x{size[1]}-built-for-{built[0]}x{built[1]}"
                if ref.spec in SMALLEST:
                    quick = ref.spec in WHOLE or (size == ref.sizes[-1] and built == ref.size)
                    marks = () if quick else pytest.mark.full
                    yield pytest.param(Elsewhere(ref, size, built, ref.shallow), id=name, marks=marks)
                yield pytest.param(Elsewhere(ref, size, built, None), id=f"{name}-deep", marks=pytest.mark.full)


@pytest.mark.parametrize("case", list(elsewhere()))
def test_same_numbers_at_other_sizes(case: Elsewhere) -> None:
    ours, theirs = case.ref.pair(case.size, case.built, case.depths)
    x = images(1, case.size)
    exact = run(theirs, x, torch.float64, case.ref.family)
    check_exact(run(ours, x, torch.float64), exact, case.ref.vanishing)
    check_rounding(
        run(ours, x, torch.float32), run(theirs, x, torch.float32, case.ref.family), exact, case.ref.rounding
    )


def rebuilds() -> Iterator[object]:
    for ref in REFERENCES:
        for size in ref.rebuild:
            marks = () if ref.spec in SMALLEST and size == ref.rebuild[-1] else pytest.mark.full
            yield pytest.param(ref, size, id=f"{ref.spec}-{size[0]}x{size[1]}", marks=marks)


@pytest.mark.parametrize(("ref", "size"), list(rebuilds()))
def test_a_size_that_changes_a_parameter_needs_a_rebuild(ref: Reference, size: Size) -> None:
    ours, theirs = ref.pair(size, depths=ref.shallow)
    x = images(1, size)
    check_exact(run(ours, x, torch.float64), run(theirs, x, torch.float64, ref.family))
    usual = archdsl.load(ref.spec, **ref.overrides(ref.shallow))
    with pytest.raises(ValueError, match=rf"{re.escape(ref.bound)} \(.*:\d+\).*--input 3x{size[0]}x{size[1]}"):
        usual(x)


@pytest.mark.parametrize("ref", every_spec())
def test_the_same_weights(ref: Reference) -> None:
    with torch.device("meta"):
        theirs = ref.model()
    ours = archdsl.load(ref.spec)
    translate(theirs.state_dict(), ours.state_dict(), ref.family)
    count = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == count
    assert archdsl.cost(ref.spec).params == count


# -- drop-path ------------------------------------------------------------------------------------


def block_rates(model: nn.Module) -> list[float]:
    """The drop-path rate of each block, in execution order; where a model puts an identity it is 0."""
    rates = []
    stages = [model] if hasattr(model, "blocks") else getattr(model, "stages", None) or model.layers
    for block in (block for stage in stages for block in stage.blocks):
        found = [m for m in block.modules() if type(m).__name__ == "DropPath"]
        all_of_it = {float(m.rate if hasattr(m, "rate") else m.drop_prob) for m in found} or {0.0}
        assert len(all_of_it) == 1, f"one block drops at several rates: {all_of_it}"
        rates += all_of_it
    return rates


@pytest.mark.parametrize("ref", every_spec())
@pytest.mark.parametrize("rate", [0.0, 0.37])
def test_drop_path_rates(ref: Reference, rate: float) -> None:
    with torch.device("meta"):
        theirs = ref.model(drop_path_rate=rate)
    by_spec = archdsl.load(ref.spec, dpr=rate)
    by_argument = type(by_spec)(drop_path_rate=rate)
    for ours in (by_spec, by_argument):
        assert block_rates(ours) == pytest.approx(block_rates(theirs), abs=1e-6)  # timm's are float32


# -- initialisation -------------------------------------------------------------------------------


KEPT = 10_000
"""Values of which the distribution is compared whole: enough to tell a uniform one from a normal one of its std."""


@dataclass
class Moments:
    """Sums over draws from which mean, standard deviation and their own uncertainty follow, and some of the draws."""

    count: int = 0
    powers: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    sample: list[Tensor] = field(default_factory=list)

    def add(self, tensor: Tensor) -> None:
        x = tensor.detach().double().flatten()
        if (left := KEPT - sum(s.numel() for s in self.sample)) > 0:
            self.sample.append(x[:left].clone())
        self.count += x.numel()
        one, two, three, four = self.powers
        square = x * x
        self.powers = (
            one + float(x.sum()),
            two + float(square.sum()),
            three + float((square * x).sum()),
            four + float((square * square).sum()),
        )

    @property
    def mean(self) -> float:
        return self.powers[0] / self.count

    @property
    def variance(self) -> float:
        return max(0.0, self.powers[1] / self.count - self.mean**2)

    @property
    def fourth(self) -> float:
        """Fourth central moment."""
        m1, m2, m3, m4 = (p / self.count for p in self.powers)
        return max(0.0, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4)

    def differs(self, other: Moments, sigmas: float = 5.0) -> str:
        """How two samples differ in mean, variance or shape beyond chance, "" if not; constants must be equal.

        Five standard errors, and the distance of Kolmogorov and Smirnov that chance exceeds as rarely: the thousands
        of comparisons made here pass by chance alone, and a std of 0.02 that should be 0.021 fails from some ten
        thousand draws on.
        """
        pairs = (
            ("mean", self.mean - other.mean, self.variance / self.count + other.variance / other.count),
            (
                "variance",
                self.variance - other.variance,
                max(0.0, self.fourth - self.variance**2) / self.count
                + max(0.0, other.fourth - other.variance**2) / other.count,
            ),
        )
        for what, difference, error in pairs:
            if abs(difference) > sigmas * error**0.5 + 1e-12:
                return f"{what} {self}, timm's {other}"
        a, b = (torch.cat(moments.sample).sort().values for moments in (self, other))
        if self.variance > 0 and other.variance > 0:
            values = torch.cat((a, b))
            ranks = (torch.searchsorted(s, values, right=True) / s.numel() for s in (a, b))
            distance = float(torch.sub(*ranks).abs().max())
            if distance > math.sqrt((sigmas**2 / 2 + math.log(2)) / 2 * (1 / a.numel() + 1 / b.numel())):
                return f"distributions {distance:.3f} apart, both {self}"
        return ""

    def __str__(self) -> str:
        return f"{self.mean:.3e} +- {self.variance**0.5:.3e}"


def test_the_comparison_of_initialisations_sees_mean_spread_and_shape() -> None:
    def moments(draw: Tensor) -> Moments:
        found = Moments()
        found.add(draw)
        return found

    generator = torch.Generator().manual_seed(0)
    normal, again = (0.02 * torch.randn(40_000, generator=generator) for _ in range(2))
    uniform = 0.02 * 3**0.5 * (2 * torch.rand(40_000, generator=generator) - 1)
    assert not moments(normal).differs(moments(again))
    assert "mean" in moments(normal).differs(moments(again + 0.001))
    assert "variance" in moments(normal).differs(moments(1.05 * again))
    assert "distributions" in moments(normal).differs(moments(uniform))


def check_initialisation(ref: Reference, depths: int | Sequence[int] | None, width: int | Sequence[int] | None) -> None:
    """Compares mean and std of every tensor over 20 seeds, ours and timm's drawn from different streams."""
    first = archdsl.load(ref.spec, **ref.overrides(depths, width))
    ours: dict[str, Moments] = {}
    theirs: dict[str, Moments] = {}
    for seed in range(20):
        torch.manual_seed(seed)
        for key, tensor in type(first)().state_dict().items():
            ours.setdefault(key, Moments()).add(tensor)
        torch.manual_seed(1000 + seed)
        for key, tensor in ref.model(depths=depths, width=width).state_dict().items():
            theirs.setdefault(renamed(key, ref.family), Moments()).add(laid_out(key, tensor, ref.family))
    assert ours.keys() == theirs.keys()
    faults = [f"{key}: {fault}" for key in ours if (fault := ours[key].differs(theirs[key]))]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("ref", one_a_family())
def test_initialisation(ref: Reference) -> None:
    check_initialisation(ref, ref.shallowest, ref.narrow)


@pytest.mark.full
@pytest.mark.parametrize("ref", every_spec())
def test_initialisation_of_whole_models(ref: Reference) -> None:
    check_initialisation(ref, None, None)
