"""Turns each spec into a module and holds it against an independent one: numbers, gradients, initialisation, rates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import archdsl
from archdsl.api import elaborate
from archdsl.weights.match import match
from benchmarks.models import records
from tests.oracle.compare import EXACT, check_exact, check_rounding, deviations, images, randomise, rounding, run
from tests.oracle.families.convnext import RENAMED
from tests.oracle.kinks import Sides
from tests.oracle.links import ALONE, BY_TABLE, Mismatch, link
from tests.oracle.twin import Overrides, Pair, Size, Twin
from tests.oracle.twins import ARCHITECTURES, TWINS

FULL = pytest.mark.full


def each() -> list[object]:
    """Every spec; variants of an architecture, and what is slow, are marked `full`."""
    return [pytest.param(t, id=t.spec, marks=FULL if t.variant or t.slow else ()) for t in TWINS.values()]


def each_depth(twins: Iterable[Twin] = ARCHITECTURES) -> Iterator[object]:
    """Every architecture small, and the twins as they are: everywhere where that is quick, else marked `full`."""
    for twin in ARCHITECTURES:
        yield pytest.param(twin, twin.tiny, id=f"{twin.spec}-tiny")
    for twin in twins:
        if not twin.large:
            yield pytest.param(twin, {}, id=twin.spec, marks=() if twin.whole else FULL)


# -- the oracle itself ----------------------------------------------------------------------------


def test_every_deviation_is_recorded_and_as_small_as_the_tests_ask() -> None:
    """What docs/models.md shows: python -m benchmarks.models measures what is missing."""
    found = records()
    assert {twin.spec for twin in ARCHITECTURES} <= found.keys() <= TWINS.keys()
    assert {spec: r.largest for spec, r in found.items() if not r.largest < EXACT} == {}
    assert {spec: r.reference for spec, r in found.items()} == {spec: TWINS[spec].source for spec in found}


def test_the_comparison_sees_a_changed_epsilon() -> None:
    twin = TWINS["convnext_t"]
    theirs = twin.build((64, 64), **twin.tiny)
    randomise(theirs)
    x = images(1, (64, 64))
    exact = run(theirs, x, torch.float64)
    check_exact(run(theirs, x, torch.float64), exact)
    theirs.stages[2].blocks[0].norm.eps = 1.1e-6
    with pytest.raises(AssertionError, match="logits"):
        check_exact(run(theirs, x, torch.float64), exact)


class Sum(nn.Module):
    """The sum of three numbers in an order, through a function with a kink."""

    def __init__(self, order: Sequence[int], kink: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.order, self.kink = order, kink
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = (x[..., i : i + 1] for i in self.order)
        return self.weight * (1 + self.kink((a + b) + c))


def or_zero(x: Tensor) -> Tensor:
    return torch.cat((torch.zeros_like(x), x), -1)


@pytest.mark.parametrize(
    ("point", "kink"),
    [
        (0, torch.relu),
        (-3, nn.functional.hardsigmoid),
        (-3, nn.functional.hardswish),
        (0, lambda x: nn.functional.max_pool2d(or_zero(x), (1, 2))),
        (0, lambda x: or_zero(x).amax(-1, keepdim=True)),
    ],
    ids=["relu", "hardsigmoid", "hardswish", "max_pool2d", "amax"],
)
def test_which_side_of_a_kink_rounding_leads_to_is_no_error(point: int, kink: Callable[[Tensor], Tensor]) -> None:
    """In float32 the sum is at the kink or a rounding beside it, as the order has it, and the gradient another."""
    x = torch.tensor([[[[64, 5e-7, point - 64]]]])
    ours, theirs = Sum((0, 1, 2), kink), Sum((0, 2, 1), kink)
    exact, same = (run(model, x, torch.float64, kinks=Sides()) for model in (theirs, ours))
    check_exact(same, exact)
    assert deviations(run(ours, x, torch.float32), exact)["input"] > 0.1
    mine = rounding(ours, x, same)
    assert mine.sides
    check_rounding(mine, rounding(theirs, x, exact))


@pytest.mark.parametrize("spec", ["ese_vovnet39b", "nextvit_s"])
def test_a_loss_of_precision_shows_on_every_image(spec: str) -> None:
    """Of one layer's results, in models that are full of kinks."""
    twin = TWINS[spec]
    pair = twin.pair(twin.small, **twin.tiny)
    layers = [m for m in pair.ours.modules() if isinstance(m, nn.Conv2d)]
    for seed in range(3):
        x = images(2, twin.small, seed)
        ours = run(pair.ours, x, torch.float64, kinks=Sides())
        exact = run(pair.theirs, x, torch.float64, pair.links, Sides())
        theirs = rounding(pair.theirs, x, exact, pair.links)
        check_rounding(rounding(pair.ours, x, ours), theirs, twin.rounding)
        hook = layers[len(layers) // 2].register_forward_hook(lambda layer, x, y: y.half().to(y.dtype))
        with pytest.raises(AssertionError, match="error"):
            check_rounding(rounding(pair.ours, x, ours), theirs, twin.rounding)
        hook.remove()


@pytest.mark.parametrize("renames", [(), RENAMED], ids=["structure", "renames"])
def test_links_are_strict(renames: tuple[tuple[str, str], ...]) -> None:
    twin = TWINS["convnext_t"]
    theirs, graph = twin.build(twin.size, **twin.tiny), twin.compile(**twin.tiny).graph
    assert len(link(graph, theirs, twin.size, renames).links) == len(graph.params)
    theirs.more = nn.Linear(7, 3)
    with pytest.raises(Mismatch, match=r"ours has no more\.weight"):
        link(graph, theirs, twin.size, renames)
    del theirs.more
    theirs.stages[1].blocks[0].norm = nn.LayerNorm(7)
    with pytest.raises(Mismatch, match=r"stages\.1\.blocks\.0\.norm\.weight"):
        link(graph, theirs, twin.size, renames)


# -- numbers --------------------------------------------------------------------------------------


def check(twin: Twin, pair: Pair, x: Tensor) -> None:
    """Equality in float64; in float32 an error of the reference's size, both with channels last."""
    exact = run(pair.theirs, x, torch.float64, pair.links, Sides())
    ours = run(pair.ours, x, torch.float64, kinks=Sides())
    check_exact(ours, exact, twin.vanishing)
    # As ours lays maps out: torch sums batch norm's gradients in another, coarser order there.
    theirs, laid_out = (v.to(memory_format=torch.channels_last) for v in (pair.theirs, x))
    check_rounding(rounding(pair.ours, x, ours), rounding(theirs, laid_out, exact, pair.links), twin.rounding)


@pytest.mark.parametrize(("twin", "overrides"), list(each_depth(TWINS.values())))
def test_same_numbers_at_the_reference_size(twin: Twin, overrides: Overrides) -> None:
    check(twin, twin.pair(**overrides), images(2, twin.size))


@pytest.mark.parametrize(("twin", "overrides"), list(each_depth()))
def test_same_numbers_in_training_mode(twin: Twin, overrides: Overrides) -> None:
    pair = twin.pair(**overrides)
    x = images(2, twin.size)
    exact = run(pair.theirs.train(), x, torch.float64, pair.links)
    check_exact(run(pair.ours.train(), x, torch.float64), exact, twin.vanishing_in_training or twin.vanishing)


def elsewhere() -> Iterator[object]:
    for twin in ARCHITECTURES:
        for size in twin.sizes:
            for built in (size, twin.size):
                name = f"{twin.spec}-{size[0]}x{size[1]}-built-for-{built[0]}x{built[1]}"
                yield pytest.param(twin, size, built, twin.tiny, id=f"{name}-tiny")
                yield pytest.param(twin, size, built, {}, id=name, marks=FULL)


@pytest.mark.parametrize(("twin", "size", "built", "overrides"), list(elsewhere()))
def test_same_numbers_at_other_sizes(twin: Twin, size: Size, built: Size, overrides: Overrides) -> None:
    check(twin, twin.pair(size, built, **overrides), images(1, size))


def rebuilds() -> Iterator[object]:
    for twin in ARCHITECTURES:
        for size in twin.rebuild:
            yield pytest.param(twin, size, id=f"{twin.spec}-{size[0]}x{size[1]}")


@pytest.mark.parametrize(("twin", "size"), list(rebuilds()))
def test_a_size_that_changes_a_parameter_needs_a_rebuild(twin: Twin, size: Size) -> None:
    pair = twin.pair(size, **twin.tiny)
    x = images(1, size)
    check_exact(run(pair.ours, x, torch.float64), run(pair.theirs, x, torch.float64, pair.links), twin.vanishing)
    usual = twin.compile(**twin.tiny).module()
    with pytest.raises(ValueError, match=rf"{re.escape(twin.bound)} \(.*:\d+\).*--input 3x{size[0]}x{size[1]}"):
        usual(x)


def test_every_architecture_is_compared_at_two_sizes() -> None:
    """But for those that take one size only, here or in the reference."""
    assert [twin.spec for twin in ARCHITECTURES if not (twin.sizes or twin.rebuild)] == []


@pytest.mark.parametrize("twin", each())
def test_the_same_weights(twin: Twin) -> None:
    with torch.device("meta"):
        theirs = twin.build(twin.size)
    graph = elaborate(twin.spec, input=(3, *twin.size))
    links = link(graph, theirs, twin.size, twin.renames)
    assert len(links.links) == len(graph.params)
    if not (twin.variant or twin.renames):
        found = match(graph, {key: tuple(t.shape) for key, t in theirs.state_dict().items()})
        same = {(x.path, x.keys) for x in found.links} == {(x.path, x.keys) for x in links.links}
        moved = any(t.name not in ("squeeze", "unsqueeze") for x in links.links for t in x.via)
        assert (same and not moved) == (twin.spec in ALONE)
    assert archdsl.cost(twin.spec, input=(3, *twin.size)).params == sum(p.numel() for p in theirs.parameters())


QUICK = ("swin_t", "convnext_t", "ghostnetv2_100", "visformer_s")


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param(twin, id=twin.spec, marks=() if twin.spec in QUICK else FULL)
        for twin in ARCHITECTURES
        if not twin.renames
    ],
)
def test_structure_and_order_decide_without_a_table(twin: Twin) -> None:
    """Links that use no table are right, as equal logits show, but for the models that are listed."""
    pair = twin.pair(**twin.tiny)
    ours, theirs = pair.ours.double(), pair.theirs.double()
    x = images(1, twin.size).double()
    graph = twin.compile(**twin.tiny).graph
    try:
        found = link(graph, theirs.float(), twin.size, table=False)
    except Mismatch:
        found = None
    theirs.double()
    if found is not None:
        ours.load_state_dict(found.translate(theirs.state_dict()))
        with torch.no_grad():
            a, b = ours(x), theirs(x)
        if not float((a - b).norm()) <= EXACT * float(b.norm()):
            found = None
    assert (found is None) == (twin.spec in BY_TABLE)


# -- drop-path ------------------------------------------------------------------------------------


def drop_rates(model: nn.Module, size: Size) -> list[float]:
    """The rates at which a forward pass drops paths, in the order of execution; what is never dropped is left out."""
    rates: list[float] = []

    def record(module: nn.Module, *_: object) -> None:
        if rate := float(module.rate if hasattr(module, "rate") else module.drop_prob):
            rates.append(rate)

    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.register_forward_pre_hook(record)
    model.train()(torch.empty(2, 3, *size, device="meta"))
    return rates


@pytest.mark.parametrize("twin", each())
def test_drop_path_rates(twin: Twin) -> None:
    if not twin.drops:
        with torch.device("meta"):
            assert drop_rates(twin.compile().module(), twin.size) == []
        return
    with torch.device("meta"):
        wanted = drop_rates(twin.build(twin.size, drop_path_rate=0.37), twin.size)
        by_spec = twin.compile(dpr=0.37).module()
        by_argument = type(by_spec)(drop_path_rate=0.37)
        none = type(by_spec)(drop_path_rate=0.0)
        assert len(wanted) >= 3 and max(wanted) == pytest.approx(0.37)
        for ours in (by_spec, by_argument):
            assert drop_rates(ours, twin.size) == pytest.approx(wanted, abs=1e-6)  # timm's are float32
        assert drop_rates(none, twin.size) == []


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
                return f"{what} {self}, the reference's {other}"
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


@pytest.mark.parametrize(
    ("twin", "overrides"),
    [pytest.param(t, t.tiny, id=f"{t.spec}-tiny") for t in ARCHITECTURES]
    + [pytest.param(t, {}, id=t.spec, marks=FULL) for t in ARCHITECTURES],
)
def test_initialisation(twin: Twin, overrides: Overrides) -> None:
    """Compares mean, spread and shape of every tensor over seeds, ours and the reference's from different streams."""
    artefact = twin.compile(**overrides)
    first = artefact.module()
    links = link(artefact.graph, twin.build(twin.size, **overrides), twin.size, twin.renames)
    ours: dict[str, Moments] = {}
    theirs: dict[str, Moments] = {}
    for seed in range(20):
        torch.manual_seed(seed)
        for key, tensor in type(first)().state_dict().items():
            ours.setdefault(key, Moments()).add(tensor)
        torch.manual_seed(1000 + seed)
        for key, tensor in links.translate(twin.build(twin.size, **overrides).state_dict()).items():
            theirs.setdefault(key, Moments()).add(tensor)
    assert ours.keys() == theirs.keys()
    faults = [f"{key}: {fault}" for key in ours if (fault := ours[key].differs(theirs[key]))]
    assert not faults, "\n".join(faults)
