"""Turns search problems into how well engines do on them, ours beside others.

    python -m benchmarks.search tabular [--seeds 100] [--engine NAME ...]   runs what is not in the log yet
    python -m benchmarks.search tune [--engine NAME ...]                    the same, for the settings of each engine

The tabular problem (tabular.py) has two objectives: a loss that an evaluation returns, with the noise of one training,
and the multiply-adds. An engine is judged by the hypervolume of the true, noise-free values of what it evaluated, as
a share of the true front's. Every engine gets both objectives of each evaluation; ours also computes the multiply-adds
of points that it does not evaluate, which costs nothing with a compiler at hand. Only architectures that were not
evaluated before count as evaluations: what an engine repeats is answered for free, as often as there are
evaluations. Each engine's setting is the best of four (`SETTINGS`) by the same three other drawings of the problem; the
form of our model was chosen on drawings 1000 to 1011. Runs that are done stand in results/search_runs.jsonl.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from archdsl.search.genome import Points
from archdsl.search.model import Proposer
from benchmarks.report import RESULTS, Measurement, load, save, table
from benchmarks.tabular import SIZE, Floats, Problem, Rows

LOG = RESULTS / "search_runs.jsonl"
EVALUATIONS = (100, 200)
TUNING = range(1000, 1003)
"""Drawings that settings are chosen by; those that engines are judged by begin at 0."""
RESAMPLED = 10_000

Setting = dict[str, int | bool]


class Spent(Exception):
    """All evaluations are used."""


@dataclass
class Evaluations:
    """What an engine may look at: so many architectures."""

    problem: Problem
    budget: int
    rows: list[int] = field(default_factory=list)
    repeated: int = 0

    def __call__(self, points: Points) -> Floats:
        """[points, 2]: loss and cost. Raises Spent where that is one too many."""
        out = []
        for row in self.problem.rows(points):
            if row in self.rows:
                self.repeated += 1
            else:
                self.rows.append(int(row))
            out.append([self.problem.loss(row), self.problem.cost(row)])
            if len(self.rows) >= self.budget or self.repeated >= self.budget:
                raise Spent
        return np.array(out)


Engine = Callable[[Problem, Evaluations, Setting], None]


def ours(problem: Problem, evaluate: Evaluations, setting: Setting) -> None:
    def known(points: Points) -> Floats:
        return problem.cost(problem.rows(points))[:, None]

    proposer = Proposer(problem.genome, problem.seed, known, first=int(setting["first"]))
    while True:
        points = proposer.ask()
        proposer.tell(points, evaluate(points)[:, 0])


def at_random(problem: Problem, evaluate: Evaluations, setting: Setting) -> None:
    rng = np.random.default_rng(problem.seed)
    while True:
        evaluate(problem.points[rng.integers(SIZE, size=1)])


def pymoo_nsga2(problem: Problem, evaluate: Evaluations, setting: Setting) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating, MixedVariableSampling
    from pymoo.core.problem import Problem as Base
    from pymoo.core.variable import Choice, Integer
    from pymoo.problems.static import StaticProblem

    genes = problem.genome.genes
    made = {
        g.name: Integer(bounds=(0, g.options - 1)) if g.ordered else Choice(options=list(range(g.options)))
        for g in genes
    }
    base = Base(vars=made, n_obj=2)
    alone = MixedVariableDuplicateElimination()
    algorithm = NSGA2(
        pop_size=int(setting["population"]),
        sampling=MixedVariableSampling(),
        mating=MixedVariableMating(eliminate_duplicates=alone),
        eliminate_duplicates=alone,
    )
    algorithm.setup(base, seed=problem.seed, verbose=False)
    while True:
        asked = algorithm.ask()
        points = np.array([[x[g.name] for g in genes] for x in asked.get("X")], np.int16)
        Evaluator().eval(StaticProblem(base, F=evaluate(points)), asked)
        algorithm.tell(infills=asked)


def optuna_nsga2(problem: Problem, evaluate: Evaluations, setting: Setting) -> None:
    from optuna.samplers import NSGAIISampler

    _optuna(problem, evaluate, NSGAIISampler(population_size=int(setting["population"]), seed=problem.seed), True)


def optuna_tpe(problem: Problem, evaluate: Evaluations, setting: Setting) -> None:
    from optuna.samplers import TPESampler

    joint = bool(setting["joint"])
    sampler = TPESampler(n_startup_trials=int(setting["first"]), multivariate=joint, group=joint, seed=problem.seed)
    _optuna(problem, evaluate, sampler, False)


def _optuna(problem: Problem, evaluate: Evaluations, sampler: object, flat: bool) -> None:
    """`flat`: genes that a point does not have are drawn as well, without effect (NSGA-II crosses common ones only)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)  # type: ignore[arg-type]
    while True:
        trial = study.ask()
        point = np.zeros((1, len(problem.genome)), np.int16)
        for i, g in enumerate(problem.genome.genes):
            if not flat and not problem.genome.active(point)[0, i]:
                continue
            if g.ordered:
                point[0, i] = trial.suggest_int(g.name, 0, g.options - 1)
            else:
                point[0, i] = trial.suggest_categorical(g.name, list(range(g.options)))
        study.tell(trial, [float(v) for v in evaluate(problem.genome.canonical(point))[0]])


ENGINES: dict[str, Engine] = {
    "archdsl": ours,
    "random": at_random,
    "pymoo NSGA-II": pymoo_nsga2,
    "Optuna NSGA-II": optuna_nsga2,
    "Optuna TPE": optuna_tpe,
}
POPULATIONS: tuple[Setting, ...] = tuple({"population": n} for n in (10, 20, 30, 50))
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "archdsl": tuple({"first": n} for n in (8, 12, 20, 30)),
    "random": ({},),
    "pymoo NSGA-II": POPULATIONS,
    "Optuna NSGA-II": POPULATIONS,
    "Optuna TPE": tuple({"first": n, "joint": joint} for n in (10, 30) for joint in (False, True)),
}


@dataclass(frozen=True)
class Run:
    """One engine on one drawing: what it reached after so many evaluations."""

    engine: str
    setting: Setting
    seed: int
    hypervolume: tuple[float, ...]
    """Of all that was evaluated, by its true values."""
    chosen: tuple[float, ...]
    """Of what looked best among it."""
    distinct: int


def once(engine: str, setting: Setting, seed: int) -> Run:
    problem = Problem.of(seed)
    evaluate = Evaluations(problem, max(EVALUATIONS))
    with suppress(Spent):
        ENGINES[engine](problem, evaluate, setting)
    found: list[Rows] = [np.array(evaluate.rows[:n]) for n in EVALUATIONS]
    volumes = tuple(problem.hypervolume(rows) for rows in found)
    chosen = tuple(problem.hypervolume(problem.chosen(rows)) for rows in found)
    return Run(engine, setting, seed, volumes, chosen, len(evaluate.rows))


def runs(path: Path = LOG) -> Iterator[Run]:
    """The runs of the log."""
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            record["hypervolume"], record["chosen"] = tuple(record["hypervolume"]), tuple(record["chosen"])
            yield Run(**record)


def work(wanted: list[tuple[str, Setting, int]]) -> None:
    """Makes the runs that the log lacks, each appended when it is done."""
    done = {(r.engine, json.dumps(r.setting), r.seed) for r in runs()}
    for engine, setting, seed in wanted:
        if (engine, json.dumps(setting), seed) not in done:
            run = once(engine, setting, seed)
            with LOG.open("a", encoding="utf-8") as log:
                log.write(json.dumps(run.__dict__) + "\n")


def chosen_setting(engine: str) -> Setting:
    """The setting with the largest mean hypervolume on the tuning drawings."""
    of = [r for r in runs() if r.engine == engine and r.seed in TUNING]
    if len(SETTINGS[engine]) == 1:
        return SETTINGS[engine][0]

    def merit(setting: Setting) -> float:
        values = [sum(r.hypervolume) for r in of if r.setting == setting]
        if len(values) != len(TUNING):
            raise SystemExit(f"{engine} is not tuned yet: python -m benchmarks.search tune --engine '{engine}'")
        return float(np.mean(values))

    return max(SETTINGS[engine], key=merit)


def tabular(seeds: int) -> Iterator[Measurement]:
    """Ours against each peer: the mean of the paired differences, with the bound of its 95 % bootstrap interval.

    A measurement is better small, so it holds the peer's mean hypervolume minus ours: below 0 where ours is larger.
    """
    settings = {engine: chosen_setting(engine) for engine in ENGINES}
    found = {engine: _matrix(engine, settings[engine], seeds) for engine in ENGINES}
    rng = np.random.default_rng(0)
    for kind, values in enumerate(("true hypervolume of what was evaluated", "true hypervolume of what looked best")):
        for i, n in enumerate(EVALUATIONS):
            for engine in ENGINES:
                if engine == "archdsl":
                    continue
                gap = found[engine][:, kind, i] - found["archdsl"][:, kind, i]
                again = gap[rng.integers(len(gap), size=(RESAMPLED, len(gap)))].mean(axis=1)
                mean, own = found[engine][:, kind, i].mean(), found["archdsl"][:, kind, i].mean()
                detail = f"{values} after {n} evaluations: {mean:.4f}, archdsl {own:.4f}; setting {settings[engine]}"
                name = f"{engine} minus archdsl, {n} evaluations" + (", chosen by what was seen" if kind else "")
                goal = None if kind else 0.0
                upper = float(np.quantile(again, 0.975))
                yield Measurement(name, float(gap.mean()), "hypervolume", len(gap), upper, goal, detail)


def _matrix(engine: str, setting: Setting, seeds: int) -> Floats:
    """[seeds, kinds, evaluations]."""
    by = {r.seed: r for r in runs() if r.engine == engine and r.setting == setting}
    missing = [s for s in range(seeds) if s not in by]
    if missing:
        raise SystemExit(f"{engine} lacks {len(missing)} of {seeds} runs")
    return np.array([(by[s].hypervolume, by[s].chosen) for s in range(seeds)])


def record(section: str, measurements: Sequence[Measurement]) -> None:
    """Puts a section's measurements, named after it, into the result file in place of those that it had there."""
    path = RESULTS / "search.json"
    others = [m for m in load(path)[1] if not m.name.startswith(f"{section}: ")] if path.is_file() else []
    save("search", [*others, *(replace(m, name=f"{section}: {m.name}") for m in measurements)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures search engines.")
    parser.add_argument("section", choices=("tabular", "tune"))
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--engine", action="append", choices=tuple(ENGINES), default=None)
    parser.add_argument("--report", action="store_true", help="write the results of the runs in the log")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="optuna")
    engines = arguments.engine or list(ENGINES)
    if arguments.section == "tune":
        work([(e, s, seed) for seed in TUNING for e in engines if len(SETTINGS[e]) > 1 for s in SETTINGS[e]])
        for engine in engines:
            print(engine, chosen_setting(engine))
        return
    if not arguments.report:
        work([(e, chosen_setting(e), seed) for seed in range(arguments.seeds) for e in engines])
    if arguments.report or not arguments.engine:
        measurements = list(tabular(arguments.seeds))
        record("tabular", measurements)
        print(table(measurements))


if __name__ == "__main__":
    main()
