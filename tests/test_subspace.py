"""Holds subspaces to their promises: only the points they allow, steps towards better ones, the same every time."""

from __future__ import annotations

import itertools
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archdsl.cli import main
from archdsl.search.evolve import Evaluated, Evolution, Price
from archdsl.search.genome import Gene, Genome, Points
from archdsl.search.run import Search, Settings
from archdsl.search.subspace import Course, Quality, Sample, Subspace, evolved
from tests.test_search import BLOCKS, SPACE

NESTED = Genome(
    (
        Gene("width", 5, ordered=True),
        Gene("mixer", 3),
        Gene("mixer.(0).0", 3, ordered=True, parent=1, when=0),
        Gene("mixer.(2).0", 2, parent=1, when=2),
        Gene("mixer.(2).0.(1).0", 4, ordered=True, parent=3, when=1),
        Gene("exit", 2),
    )
)


def every(genome: Genome) -> Points:
    """All points of a genome, once each."""
    rows = np.array(list(itertools.product(*(range(g.options) for g in genome.genes))), np.int16)
    return np.unique(genome.canonical(rows), axis=0)


def parts(count: int) -> list[Subspace]:
    """Random subspaces of NESTED: windows of ordered genes, subsets of the others."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        taken = []
        for gene in NESTED.genes:
            low, high = sorted(rng.integers(gene.options, size=2).tolist())
            some = [a for a in range(gene.options) if rng.random() < 0.5]
            taken.append(tuple(range(low, high + 1)) if gene.ordered else tuple(some) or (low,))
        found.append(Subspace(NESTED, tuple(taken)))
    return found


def allowed(part: Subspace, point: Points) -> bool:
    decided = NESTED.decode(point)
    return all(decided[g.name] in t for g, t in zip(NESTED.genes, part.taken, strict=True) if g.name in decided)


# -- points ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", parts(12), ids=map(str, range(12)))
def test_a_subspace_has_exactly_the_points_it_allows(part: Subspace) -> None:
    wanted = [tuple(row) for row in every(NESTED).tolist() if allowed(part, np.array(row, np.int16))]
    inner = every(part.genome)
    found = [tuple(row) for row in part.widened(inner).tolist()]
    assert sorted(found) == sorted(wanted) and len(inner) == len(set(found))
    assert np.array_equal(part.narrowed(part.widened(inner)), inner)
    assert len(part.narrowed(every(NESTED))) == len(wanted)


def test_a_restored_state_is_one_of_the_whole_space() -> None:
    part = Subspace(NESTED, ((1, 2, 3), (0, 2), (1, 2), (0, 1), (1, 2, 3), (1,)))

    def summed(points: Points) -> Evaluated:
        key = points.astype(np.uint64) @ np.uint64(8) ** np.arange(points.shape[1], dtype=np.uint64)
        rising = np.stack([points.sum(axis=1), points[:, 0] - points[:, 4]], axis=1).astype(np.float64)
        return Evaluated(rising, np.zeros(len(points)), np.stack([key, key], axis=1))

    evolution = Evolution(part.genome, summed, 2, 0, size=4, parents=8)
    *_, state = evolution.run(evolution.start(), 12)
    whole = part.restored(state)
    kept = [(state.population, state.parents), (state.archive.points, state.archive.parents)]
    found = [(whole.population, whole.parents), (whole.archive.points, whole.archive.parents)]
    for (points, parents), (wide, wide_parents) in zip(kept, found, strict=True):
        assert np.array_equal(part.narrowed(wide), points)
        some = (parents >= 0).all(axis=2)
        assert np.array_equal(part.narrowed(wide_parents[some]), parents[some])
        assert (wide_parents[~some] == -1).all()
    assert 0 < (whole.parents[:, 0, 0] >= 0).sum() < len(whole.parents)


def test_all_of_a_genome_is_a_subspace() -> None:
    whole, points = Subspace.of(NESTED), every(NESTED)
    assert whole.genome == NESTED and np.array_equal(whole.widened(points), points)


def test_the_start_is_half_of_every_range_around_a_point() -> None:
    genome = Genome((Gene("a", 10, ordered=True), Gene("b", 9, ordered=True), Gene("c", 2, ordered=True), Gene("d", 4)))
    start = Subspace.start(genome, np.array([[9, 4, 0, 3]], np.int16))
    assert start.taken == ((5, 6, 7, 8, 9), (2, 3, 4, 5), (0, 1), (0, 1, 2, 3))
    assert len(start.narrowed(np.array([[9, 4, 0, 3], [4, 4, 0, 3]], np.int16))) == 1


# -- steps -------------------------------------------------------------------------------------------------

GENOME = Genome(
    (*(Gene(f"g.{i}", 12, ordered=True, stage=i) for i in range(5)), Gene("kind", 4), Gene("other", 3), Gene("free", 5))
)
BEST = (9, 2, 6, 11, 0)
WORTH = (np.array([0.0, 20.0, 40.0, 30.0]), np.array([25.0, 50.0, 0.0]))
CENTRE = np.array([[2, 8, 6, 3, 9, 0, 0, 0]], np.int16)


def planted(points: Points) -> Evaluated:
    """How far a point is from BEST, what its kinds are worth, and a pseudorandom term of its own."""
    far = np.sum((points[:, :5] - np.array(BEST, np.float64)) ** 2, axis=1)
    noise = 10 * np.sin(points @ np.array([12.9898, 78.233, 37.719, 4.581, 93.989, 67.345, 43.332, 7.77]))
    values = far + WORTH[0][points[:, 5]] + WORTH[1][points[:, 6]] + noise
    hashes = np.zeros((len(points), 2), np.uint64)
    return Evaluated(values[:, None], np.zeros(len(points)), hashes)


def bounded(points: Points) -> Evaluated:
    """The same where only points near BEST keep to the budget."""
    found = planted(points)
    return replace(found, violation=np.maximum(0, np.abs(points[:, :5] - np.array(BEST)).sum(axis=1) / 12 - 1))


@pytest.mark.parametrize("price", [planted, bounded])
@pytest.mark.parametrize("seed", range(3))
def test_a_space_moves_to_the_planted_optimum(price: Price, seed: int) -> None:
    start = Subspace.start(GENOME, CENTRE)
    assert sum(best in taken for best, taken in zip(BEST, start.taken, strict=False)) == 1
    path = evolved(start, price, seed, 32)
    last = path[-1].subspace.taken
    assert all(best in taken for best, taken in zip(BEST, last, strict=False))
    assert last[5:7] == ((0,), (2,))
    assert last[7] == (0, 1, 2, 3, 4), "a gene without an effect keeps its alternatives"
    assert all(taken == tuple(range(taken[0], taken[-1] + 1)) for taken in last[:5])
    assert all(after.quality.beats(before.quality) for before, after in itertools.pairwise(path))


def test_budgets_come_before_objectives() -> None:
    path = evolved(Subspace.start(GENOME, CENTRE), bounded, 0, 32)
    met = [step.quality.met for step in path]
    assert not met[0] and met[-1] and met == sorted(met)
    assert path[0].quality.share < 0.01 < path[-1].quality.share
    in_budget = Quality(0.5, True, 9.0, 1.0, 8.0, 1.0)
    assert in_budget.beats(replace(in_budget, met=False, mean=0.1, top=0.1))


def test_the_same_seed_moves_a_space_the_same_way() -> None:
    start = Subspace.start(GENOME, CENTRE)

    def halves(points: Points) -> Evaluated:
        a, b = (planted(half) for half in np.array_split(points, 2))
        joined = (np.concatenate([getattr(e, n) for e in (a, b)]) for n in ("objectives", "violation", "hash"))
        return Evaluated(*joined)

    path = evolved(start, planted, 3, 6)
    assert path == evolved(start, halves, 3, 6)
    assert path[:3] == evolved(start, planted, 3, 2), "a step does not depend on how many are to come"
    draws = [Sample.drawn(start, planted, *key).values for key in ((3, 1), (3, 2), (4, 1))]
    assert path[0].quality.mean == draws[0].mean()
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(draws, 2)), "a step has its own points"


def test_a_space_without_slopes_stays() -> None:
    def flat(points: Points) -> Evaluated:
        found = planted(points)
        return replace(found, objectives=0.1 + 1e-16 * found.objectives)

    def unsound(points: Points) -> Evaluated:
        nowhere = np.full(len(points), np.inf)
        return replace(planted(points), objectives=nowhere[:, None], violation=nowhere)

    start = Subspace.start(GENOME, CENTRE)
    assert [s.subspace for s in evolved(start, flat, 0)] == [start]
    (only,) = evolved(start, unsound, 0)
    assert only.subspace == start and not only.quality.met


# -- searches ----------------------------------------------------------------------------------------------


def test_the_space_of_s3_gets_better() -> None:
    problem = Settings("swin_s3", ("4GFLOPs",)).problem
    draws = problem.pricer.draws
    start = Subspace.start(draws.genome, draws.reference)
    path = evolved(start, problem, 0)

    def scores(part: Subspace) -> np.ndarray:
        """Of the points within the budget among fresh ones, sorted."""
        rng = np.random.default_rng(1)
        columns = [rng.choice(taken, 32768) for taken in part.taken]
        found = problem(draws.genome.canonical(np.stack(columns, axis=1).astype(np.int16)))
        return np.sort(-found.objectives[found.violation <= 0, 0])

    before, after = scores(start), scores(path[-1].subspace)
    assert min(len(before), len(after)) > 100
    error = np.hypot(before.std() / np.sqrt(len(before)), after.std() / np.sqrt(len(after)))
    assert after.mean() - before.mean() > 10 * error
    assert after[-len(after) // 10 :].mean() > before[-len(before) // 10 :].mean()


@pytest.fixture
def space(tmp_path: Path) -> str:
    (tmp_path / "nets.arch").write_text(SPACE)
    (tmp_path / "blocks.arch").write_text(BLOCKS)
    return str(tmp_path / "nets.arch")


def test_the_command_searches_the_space_it_moved(
    space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", "--space", space, "--budget", "4MFLOPs", "--trials", "2000", "--evolve-space", "4", "--json"]
    argv += [f"--objective={name}" for name in ("activations", "score", "params")]
    runs = []
    for workers in ("1", "2"):
        assert main([*argv, "--workers", workers, "-o", str(tmp_path / "runs"), "--name", workers]) == 0
        runs.append(json.loads(capsys.readouterr().out))
    assert runs[0]["digest"] == runs[1]["digest"] and runs[0]["settings"] == runs[1]["settings"]
    assert any("the space moved" in note for note in runs[0]["notes"])
    directory = tmp_path / "runs" / "1"
    settings = tomllib.loads((directory / "run.toml").read_text())
    assert settings["evolve_space"] == 4 and settings["subspace"]
    assert "evolved" in settings and len(settings["evolved"]["mean"]) > 2
    report = (directory / "report.md").read_text()
    assert all(f"`{name}`" in report for name in settings["subspace"])


def test_a_space_that_gets_no_better_is_searched_whole(space: str) -> None:
    problem = Settings(space, ("4MFLOPs",), ("score",)).problem
    draws, (objective,) = problem.pricer.draws, problem.objectives

    def flat(points: Points) -> Evaluated:
        return replace(problem(points), objectives=np.full((len(points), 1), 0.1))

    course = Course.of(draws, flat, 0, 4)
    assert course.part == Subspace.of(draws.genome) and course.last.subspace != course.part
    assert course.recorded(draws, objective)["subspace"] == {} and "no part" in course.told(objective)


def test_an_interrupted_search_goes_on_in_the_same_subspace(space: str, tmp_path: Path) -> None:
    goals = ("activations", "score", "params")
    asked = Settings(space, ("4MFLOPs",), goals, trials=3000, generation=256, front=6, evolve_space=3)
    whole = Search.started(asked, tmp_path / "runs", "whole").run()
    search = Search.started(asked, tmp_path / "runs", "cut")
    seen = []

    def stop(progress: object) -> None:
        seen.append(progress)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.run(stop)
    again = Search.resumed(search.directory).run()
    assert again.digest == whole.digest and [m.text for m in again.members] == [m.text for m in whole.members]
    assert again.settings == whole.settings and again.notes == whole.notes
    narrowed = whole.settings["subspace"]
    assert isinstance(narrowed, dict) and narrowed.keys() & {"dims.0", "dims.1", "dims.2"} and len(whole.members) > 1
    for member in whole.members:
        values = asked.problem.pricer.draws.parameters(member.genes)
        for name, left in narrowed.items():
            param, element, *_ = name.split(".")
            if param in ("dims", "depths", "ratios"):
                drawn = values[param]
                assert isinstance(drawn, tuple) and str(drawn[int(element)]) in left
