"""Turns each spec that timm lacks into a module and holds it against one written from the paper (tests/references)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

import archdsl
from benchmarks.models import records
from tests.oracle.compare import EXACT, check_exact, check_rounding, images, run
from tests.oracle.keys import renamed, translate
from tests.oracle.references import Size
from tests.oracle.written import TWINS, WRITTEN, Overrides, Written
from tests.test_oracle import Moments


def test_every_deviation_is_recorded_and_as_small_as_the_tests_ask() -> None:
    """What docs/models.md shows: python -m benchmarks.models measures what is missing."""
    found = records()
    assert found.keys() == TWINS.keys()
    assert {spec: r.largest for spec, r in found.items() if not r.largest < EXACT} == {}
    assert {spec: r.reference for spec, r in found.items()} == {spec: twin.source for spec, twin in TWINS.items()}


def each() -> list[object]:
    return [pytest.param(ref, id=ref.spec) for ref in WRITTEN]


def each_depth() -> Iterator[object]:
    """Every spec small, and as it is."""
    for ref in WRITTEN:
        yield pytest.param(ref, ref.tiny, id=f"{ref.spec}-tiny")
        yield pytest.param(ref, {}, id=ref.spec, marks=pytest.mark.full)


@pytest.mark.parametrize(("ref", "overrides"), list(each_depth()))
def test_same_numbers_at_the_reference_size(ref: Written, overrides: Overrides) -> None:
    ours, theirs = ref.pair((224, 224), **overrides)
    x = images(2, (224, 224))
    exact = run(theirs, x, torch.float64, ref.family)
    check_exact(run(ours, x, torch.float64), exact, ref.vanishing)
    # Channels last, as ours lays maps out: torch sums batch norm's gradients in another, coarser order there.
    theirs, laid_out = theirs.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    check_rounding(run(ours, x, torch.float32), run(theirs, laid_out, torch.float32, ref.family), exact)


@pytest.mark.parametrize(("ref", "overrides"), list(each_depth()))
def test_same_numbers_in_training_mode(ref: Written, overrides: Overrides) -> None:
    ours, theirs = ref.pair((224, 224), **overrides)
    x = images(2, (224, 224))
    exact = run(theirs.train(), x, torch.float64, ref.family)
    check_exact(run(ours.train(), x, torch.float64), exact, ref.vanishing_in_training or ref.vanishing)


def elsewhere() -> Iterator[object]:
    for ref in WRITTEN:
        for size in ref.sizes:
            for built in (size, (224, 224)):
                name = f"{ref.spec}-{size[0]}x{size[1]}-built-for-{built[0]}x{built[1]}"
                yield pytest.param(ref, size, built, ref.tiny, id=f"{name}-tiny")
            yield pytest.param(ref, size, (224, 224), {}, id=f"{ref.spec}-{size[0]}x{size[1]}", marks=pytest.mark.full)


@pytest.mark.parametrize(("ref", "size", "built", "overrides"), list(elsewhere()))
def test_same_numbers_at_other_sizes(ref: Written, size: Size, built: Size, overrides: Overrides) -> None:
    ours, theirs = ref.pair(size, built, **overrides)
    x = images(1, size)
    check_exact(run(ours, x, torch.float64), run(theirs, x, torch.float64, ref.family), ref.vanishing)


def rebuilds() -> Iterator[object]:
    for ref in WRITTEN:
        for size in ref.rebuild:
            yield pytest.param(ref, size, id=f"{ref.spec}-{size[0]}x{size[1]}")


@pytest.mark.parametrize(("ref", "size"), list(rebuilds()))
def test_a_size_that_changes_a_parameter_needs_a_rebuild(ref: Written, size: Size) -> None:
    ours, theirs = ref.pair(size, **ref.tiny)
    x = images(1, size)
    check_exact(run(ours, x, torch.float64), run(theirs, x, torch.float64, ref.family), ref.vanishing)
    usual = archdsl.load(ref.spec, **ref.tiny)
    with pytest.raises(ValueError, match=rf"{re.escape(ref.bound)} \(.*:\d+\).*--input 3x{size[0]}x{size[1]}"):
        usual(x)


@pytest.mark.parametrize("ref", each())
def test_the_same_weights(ref: Written) -> None:
    with torch.device("meta"):
        theirs = ref.build((224, 224), **ref.settings)
    ours = archdsl.load(ref.spec)
    translate(theirs.state_dict(), ours.state_dict(), ref.family)
    assert archdsl.cost(ref.spec).params == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("ref", [pytest.param(r, id=r.spec) for r in WRITTEN if r.drops])
@pytest.mark.parametrize("rate", [0.0, 0.37])
def test_drop_path_rates(ref: Written, rate: float) -> None:
    theirs: dict[str, float] = {}
    with torch.device("meta"):
        for name, module in ref.build((224, 224), drop_path_rate=rate, **ref.settings).named_modules():
            if type(module).__name__ == "DropPath":
                theirs[block_of(renamed(name, ref.family))] = float(module.drop_prob)
    found: dict[str, set[float]] = {}
    for name, module in archdsl.load(ref.spec, dpr=rate).named_modules():
        if type(module).__name__ == "DropPath":
            found.setdefault(block_of(name), set()).add(float(module.rate))
    assert len(theirs) >= 10 and found.keys() <= theirs.keys()
    for name, rate_of_block in theirs.items():
        assert sorted(found.get(name, {0.0})) == pytest.approx([rate_of_block]), name


def block_of(path: str) -> str:
    match = re.match(r".*?blocks\.\d+", path)
    assert match, path
    return match[0]


@pytest.mark.parametrize(("ref", "overrides"), list(each_depth()))
def test_initialisation(ref: Written, overrides: Overrides) -> None:
    """Mean and std of every tensor over some seeds, ours and the reference's drawn from different streams."""
    first = archdsl.load(ref.spec, **overrides)
    ours: dict[str, Moments] = {}
    theirs: dict[str, Moments] = {}
    for seed in range(10):
        torch.manual_seed(seed)
        for key, tensor in type(first)().state_dict().items():
            ours.setdefault(key, Moments()).add(tensor)
        torch.manual_seed(1000 + seed)
        for key, tensor in ref.build((224, 224), **ref.settings, **overrides).state_dict().items():
            theirs.setdefault(renamed(key, ref.family), Moments()).add(tensor)
    assert ours.keys() == theirs.keys()
    faults = [f"{key}: {fault}" for key in ours if (fault := ours[key].differs(theirs[key]))]
    assert not faults, "\n".join(faults)
