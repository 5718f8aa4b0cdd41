"""Turns a search problem into a directory of results: generation after generation, resumable at every one of them.

`.state` holds the last generation whole and a log of the points seen; study.jsonl has a line a generation. Both are on
disk before the next generation starts, and what a generation draws depends on the seed and its number alone, so an
interrupted search goes on as if nothing had happened, and neither that nor the number of workers changes the result.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from archdsl import __version__
from archdsl.backends.write import write_file
from archdsl.diagnostics import error
from archdsl.frontend.locate import locate
from archdsl.frontend.program import Program
from archdsl.frontend.space import Space
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.search.archive import Archive, hypervolume
from archdsl.search.budget import LOCAL, Measure, Objective, parse_budget, parse_objective
from archdsl.search.evaluators import Evaluator, TrainEvaluator, evaluator
from archdsl.search.evolve import Evaluated, Evolution, State
from archdsl.search.feasibility import reachable, unsound
from archdsl.search.funnel import Evaluate, Found, Record, measured
from archdsl.search.genome import Points
from archdsl.search.metrics import METRICS
from archdsl.search.problem import Problem
from archdsl.search.published import Published, nearest
from archdsl.search.sources import copied, variant_file
from archdsl.search.store import SETTINGS, STATE, Store
from archdsl.search.study import Member, Progress, Study
from archdsl.search.subspace import Course, Subspace
from archdsl.search.trials import refuse_taken, trials
from archdsl.training.recipe import Recipe

TRIALS = 1_000_000
"""Distinct candidates that a search sees unless told otherwise."""
FRONT = 32
"""Members of the front that are written out."""
UTILIZATION = 0.975
EVALUATED = 100
"""Candidates that are measured, where something is measured."""


@dataclass(frozen=True)
class Settings:
    """What a search is: the same settings give the same result."""

    space: str
    """FILE, FILE:NAME, or the bare name of a shipped space."""
    budgets: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    utilization: float = UTILIZATION
    seed: int = 0
    trials: int = TRIALS
    generation: int = 8192
    front: int = FRONT
    input: tuple[int, int, int] | None = None
    evaluate: str = ""
    """What is measured of candidates that the analytic search kept: `proxy:NAME`, `latency:local`, `train:FILE`."""
    recipe: Recipe | None = None
    """Of the training, as it was when the search began."""
    evaluations: int = EVALUATED
    evolve_space: int = 0
    """How often the space moves, at most, before it is searched."""

    @cached_property
    def problem(self) -> Problem:
        """Raises what reading the space, the budgets and the objectives raises."""
        budgets = [parse_budget(text) for text in self.budgets]
        objectives = [parse_objective(text) for text in self.objectives]
        found = locate(self.space, kind="space")
        space = Space.open(Program.open(found.path), found.arch)
        return Problem.of(space, budgets, objectives, self.utilization, self.input)

    @property
    def evaluators(self) -> tuple[str, ...]:
        """The names of what measures candidates: for an objective, and for budgets of time."""
        asked = [self.evaluate] if self.evaluate else []
        return tuple(dict.fromkeys([*asked, *([LOCAL.metric] if self.problem.timed else [])]))

    def evaluator(self, name: str, home: Path | None = None) -> Evaluator:
        """One of `evaluators`; `home` keeps what an interrupted training goes on from. Raises E-EVALUATOR."""
        return evaluator(name, self.recipe, home)


@dataclass
class Search:
    """One search in its directory."""

    settings: Settings
    directory: Path
    workers: int = 1
    time_limit: float | None = None
    """Seconds after which it stops, whatever it has: the result then depends on the machine."""
    storage: str | None = None
    """Where an Optuna study of it is kept; no part of the settings, as it may hold a password."""
    history: list[Progress] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tell: Callable[[str], None] = lambda line: None
    """What a user should know while it runs."""
    undivided: str = ""
    """Why candidates are priced as a whole, where they are."""
    moves: dict[str, object] = field(default_factory=dict)
    """How the space moved before it was searched, for run.toml."""

    @staticmethod
    def started(
        settings: Settings,
        output: Path,
        name: str | None = None,
        workers: int = 1,
        time_limit: float | None = None,
        storage: str | None = None,
    ) -> Search:
        """A search in a new directory below `output`. Raises E-RUN and E-STORAGE where `name` is taken."""
        _refuse_endless(time_limit)
        problem = settings.problem
        if settings.evaluate:
            chosen = settings.evaluator(settings.evaluate)
            recipe = chosen.recipe if isinstance(chosen, TrainEvaluator) else None
            settings = replace(settings, evaluate=chosen.name, recipe=recipe)
        if name is not None and (name != Path(name).name or name in ("", ".", "..")):
            raise error("E-RUN", f"`{name}` is no name of a directory", help="choose where it goes with --output")
        usual = "-".join([problem.space.declared.name.id, *(b.text for b in (*problem.budgets, *problem.timed))])
        taken = (output / (name or usual)).exists()
        if taken and name is not None:
            raise error(
                "E-RUN",
                f"`{output / name}` exists",
                help=f"go on with it: --resume {output / name}, or choose another name",
            )
        number = 2
        while taken and (output / f"{usual}-{number}").exists():
            number += 1
        directory = output / (name or (f"{usual}-{number}" if taken else usual))
        if storage is not None:
            refuse_taken(storage, directory.name)
        found = locate(settings.space, kind="space")
        place = str(found.path.resolve()) + (f":{found.arch}" if found.arch is not None else "")
        record = {**asdict(settings), "space": place, "sources": copied(problem.space)[0]}
        try:
            (directory / STATE).mkdir(parents=True)
        except OSError as e:
            raise error("E-RUN", f"cannot make `{directory}`: {e.strerror}") from e
        write_file(directory / STATE / SETTINGS, json.dumps(record, indent=1) + "\n")
        return Search(settings, directory, workers, time_limit, storage)

    @staticmethod
    def resumed(
        directory: Path, workers: int = 1, time_limit: float | None = None, storage: str | None = None
    ) -> Search:
        """The search of a directory. Raises E-RUN where there is none."""
        _refuse_endless(time_limit)
        try:
            record = json.loads((directory / STATE / SETTINGS).read_text(encoding="utf-8"))
            sources = record.pop("sources")
            given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
            recipe = given.pop("recipe", None)
            settings = Settings(**given, recipe=None if recipe is None else Recipe(**recipe))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
            raise error(
                "E-RUN", f"`{directory}` holds no search that could go on", help="start one without --resume"
            ) from e
        if copied(settings.problem.space)[0] != sources:
            raise error(
                "E-RUN",
                f"the space has changed since the search in `{directory}` began",
                help="what it found so far would not fit: start one without --resume",
            )
        return Search(settings, directory, workers, time_limit, storage)

    def run(self, watch: Callable[[Progress], None] = lambda p: None) -> Study:
        """Runs to the end, from where the directory's last generation stands.

        Raises E-RUN, E-BUDGET, E-INFEASIBLE, E-STORAGE, and E-DEPENDENCY.
        """
        started = time.monotonic()
        problem = self.settings.problem
        self.noted(problem.pricer.undivided)
        if problem.budgets:
            share = reachable(problem, self.settings.seed)
            self.noted(problem.pricer.undivided)
            if share < problem.utilization:
                self.notes.append(f"no candidate was found that uses more than {share:.1%} of a budget")
                problem = problem.loosened()
        with Store(self.directory) as store, self.recorded(problem) as record, self.priced(problem) as price:
            part = self.part(problem, price)
            for state in self.states(problem, part, price, store, started, watch):
                last = state
            last = part.restored(last)
            if self.settings.evaluators:
                return self.measured(problem, last, record)
            study = self.study(problem, last.archive)
            for member in study.members:
                record(member.genes, {})
        return study

    def noted(self, undivided: str) -> None:
        """Says once that candidates are priced as a whole, and why."""
        if undivided and not self.undivided:
            self.undivided = undivided
            self.notes.append(f"every candidate is priced as a whole, ten thousand times slower, as {undivided}")
            self.tell(self.notes[-1])

    def part(self, problem: Problem, price: Callable[[Points], Evaluated]) -> Subspace:
        """What is searched of the space: all of it, unless it moves first."""
        settings, draws, objective = self.settings, problem.pricer.draws, problem.objectives[0]
        if not settings.evolve_space:
            return Subspace.of(draws.genome)
        course = Course.of(draws, price, settings.seed, settings.evolve_space)
        self.notes.append(course.told(objective))
        self.moves = course.recorded(draws, objective)
        return course.part

    def measured(self, problem: Problem, state: State, record: Record) -> Study:
        """The front of what is measured of the candidates that the analytic search kept."""
        settings, names = self.settings, self.settings.evaluators
        goal = settings.evaluator(settings.evaluate) if settings.evaluate else None
        unsettled = [name for name in names if not settings.evaluator(name).reproducible]
        self.notes += [f"{name} is measured: not reproducible" for name in unsettled]
        final = self.final(problem)
        with self.evaluating() as evaluate:
            archive, met = measured(
                problem,
                state,
                goal,
                [o for o in final.objectives if o in problem.objectives],
                evaluate,
                settings.evaluations,
                settings.seed,
                self.directory,
                record,
            )
        values = {Measure(name): {row: found[name].value for row, found in met.items()} for name in names}
        return self.study(final, archive, values)

    def final(self, problem: Problem) -> Problem:
        """The problem of the front: what is evaluated stands in the score's place."""
        settings = self.settings
        objectives = tuple(map(parse_objective, settings.objectives)) or problem.objectives
        if settings.evaluate:
            chosen = settings.evaluator(settings.evaluate)
            others = (o for o in objectives if o.measure.metric != "score")
            objectives = (Objective(Measure(chosen.name), chosen.direction == "maximize"), *others)
        out = replace(problem, objectives=tuple(dict.fromkeys(objectives)))
        vars(out).update(pricer=problem.pricer, latencies=problem.latencies)
        return out

    @contextlib.contextmanager
    def recorded(self, problem: Problem) -> Iterator[Record]:
        """What takes down evaluated points: in the study of the storage, where there is one."""
        if self.storage is None:
            yield lambda row, found: None
            return
        with trials(self.storage, self.directory, self.final(problem)) as study:
            yield study.add

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Evaluate]:
        """The evaluation of points, here or in several processes."""
        if self.workers <= 1:
            yield lambda rows: map(partial(_evaluated, self.settings, self.home), rows)
            return
        with self.pool() as pool:
            yield lambda rows: pool.map(_evaluate, rows)

    @property
    def home(self) -> Path:
        """The directory of what interrupted trainings go on from."""
        return self.directory / STATE / "training"

    def pool(self) -> ProcessPoolExecutor:
        """Processes that know the problem."""
        plain = replace(self.settings)  # without the problem, which each makes for itself
        return ProcessPoolExecutor(self.workers, get_context("spawn"), _begin, (plain, self.home))

    # -- generations -----------------------------------------------------------------------------------

    def states(
        self,
        problem: Problem,
        part: Subspace,
        price: Callable[[Points], Evaluated],
        store: Store,
        started: float,
        watch: Callable[[Progress], None],
    ) -> Iterator[State]:
        """The states from the last one on disk, or the first, to the final one; each is on disk when it comes."""
        settings = self.settings
        evolution = Evolution(
            part.genome,
            lambda points: price(part.widened(points)),
            len(problem.objectives),
            settings.seed,
            part.narrowed(problem.seeds),
            size=settings.generation,
        )
        state, self.history = store.last(evolution.start())
        self.noted(self.history[-1].undivided if self.history else "")
        before = self.history[-1].seconds if self.history else 0.0
        yield state
        known = state.distinct
        for after in evolution.run(state, settings.trials):
            state = after
            seconds = before + time.monotonic() - started
            progress = self.progress(state, seconds)
            store.save(state, progress, known)
            known = state.distinct
            self.history.append(progress)
            watch(progress)
            yield state
            if self.time_limit is not None and seconds > self.time_limit:
                self.notes.append(f"stopped by the time limit after {state.distinct} candidates: not reproducible")
                return

    def progress(self, state: State, seconds: float) -> Progress:
        front = state.archive.objectives
        box = next((np.array(p.box) for p in self.history if p.box), None)
        if box is None and len(front) > 1:
            low, high = front.min(axis=0), front.max(axis=0)
            box = np.stack([high + 0.1 * (high - low), np.maximum(high - low, 1e-12)])
        volume = 0.0 if box is None else hypervolume(front, box[0]) / float(np.prod(box[1]))
        counts = (state.generation, state.priced, state.distinct, state.feasible, len(state.archive))
        return Progress(
            *counts, volume, seconds, () if box is None else tuple(map(tuple, box.tolist())), self.undivided
        )

    @contextlib.contextmanager
    def priced(self, problem: Problem) -> Iterator[Callable[[Points], Evaluated]]:
        """The problem as a function of points, computed here or by several processes."""

        def alone(points: Points) -> Evaluated:
            found = problem(points)
            self.noted(problem.pricer.undivided)
            return found

        def together(points: Points) -> Evaluated:
            parts = np.array_split(points, self.workers)
            found = list(pool.map(_price, parts, [problem.utilization] * self.workers))
            self.noted(next((undivided for _, undivided in found if undivided), ""))
            return Evaluated.joined([part for part, _ in found])

        if self.workers <= 1:
            yield alone
            return
        with self.pool() as pool:
            yield together

    # -- results -----------------------------------------------------------------------------------------

    def study(
        self,
        problem: Problem,
        archive: Archive,
        measured: Mapping[Measure, Mapping[tuple[int, ...], float]] = MappingProxyType({}),
    ) -> Study:
        """The front as architectures, each elaborated once more and compared with what was predicted."""
        chosen = archive.thinned(self.settings.front)
        if not len(chosen) and not problem.budgets:
            raise unsound(problem)
        if not len(chosen):
            raise error(
                "E-INFEASIBLE",
                f"no candidate was found that keeps to {' and '.join(map(str, problem.budgets))}",
                help="allow more, or lower --min-util",
            )
        published = Published.read()
        identified: dict[tuple[int, ...], str] = {}

        def identity(row: Points) -> str:
            genes = tuple(row.tolist())
            if genes not in identified:
                identified[genes] = _id(canonical_hash(self.graph(problem, row)))
            return identified[genes]

        found = []
        for row, parents in zip(chosen.points, chosen.parents, strict=True):
            known = (identity(parent) for parent in parents if (parent >= 0).any())
            found.append(self.member(problem, row, tuple(dict.fromkeys(known)), published, measured))
        unique = {m.hash: m for m in reversed(found)}
        first = problem.objectives[0]

        def place(m: Member) -> tuple[float, ...]:
            value = m.score if first.measure == Measure("score") else m.measures[first.measure]
            return (-value if first.maximize else value, *m.measures.values())

        members = sorted(unique.values(), key=place)
        space = problem.space
        return Study(
            self.directory.name,
            f"{space.program.path.name}:{space.declared.name.id}",
            space.size,
            (*problem.budgets, *problem.timed),
            problem.objectives,
            self.resolved(problem),
            tuple(members),
            tuple(self.history),
            archive.digest(),
            problem.score.sentence,
            tuple(self.notes),
        )

    def write(self, study: Study) -> None:
        """Puts the results beside the log: each file whole or not at all, best.arch last. Raises E-WRITE."""
        from archdsl.search import report

        space = self.settings.problem.space
        home, files = copied(space)
        texts = {f"front/{place}": text for place, text in files.items()}
        for member in study.members:
            point = self.settings.problem.pricer.draws.point(member.genes)
            comment = f"{member.stages}; {', '.join(f'{m.shown(v)} {m}' for m, v in member.measures.items())}"
            texts[f"front/{member.id}.arch"] = variant_file(space, point, member.id, home, comment)
            if member is study.best:
                best = variant_file(space, point, member.id, f"front/{home}", comment)
        texts |= {
            "pareto.csv": report.pareto_csv(study),
            "pareto.svg": report.pareto_svg(study),
            "pareto.html": report.pareto_html(study),
            "report.md": report.report_md(study),
            "run.toml": report.run_toml(study),
            "best.arch": best,
        }
        for name, text in texts.items():
            place = self.directory / name
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
            except OSError as e:
                raise error("E-WRITE", f"cannot write `{place}`: {e.strerror}") from e
            write_file(place, text)

    def member(
        self,
        problem: Problem,
        row: Points,
        parents: tuple[str, ...],
        published: Published,
        measured: Mapping[Measure, Mapping[tuple[int, ...], float]],
    ) -> Member:
        from archdsl.search.report import stages_of

        point, graph = problem.pricer.draws.point(row), self.graph(problem, row)
        metrics, priced = problem.pricer.whole(graph), problem.pricer.price(row[None])
        if list(metrics) != priced.metrics[0].tolist():
            raise AssertionError(f"predicted {priced.metrics[0].tolist()}, elaborated {list(metrics)}: {point.draws}")
        digest = canonical_hash(graph)
        mean, spread = problem.score.predict(priced.metrics[:, : len(METRICS)])
        shown = [Measure(m) for m in ("params", "macs", "activations", "bytes")] + list(problem.latencies)
        measures = {m: values[tuple(row.tolist())] for m, values in measured.items()}
        measures |= {m: float(problem.value(m, priced)[0]) for m in shown}
        name = _id(digest)
        return Member(
            name,
            problem.space.variant_text(point, name),
            tuple(int(g) for g in row),
            digest,
            float(mean[0]),
            float(spread[0]),
            measures,
            nearest(published, dict(zip(METRICS, metrics, strict=False))),
            stages_of(graph),
            parents,
        )

    def graph(self, problem: Problem, row: Points) -> Graph:
        """The graph of a point."""
        space, point = problem.space, problem.pricer.draws.point(row)
        return space.program.elaborate(space.declared.base.id, overrides=point.overrides, input=self.settings.input)

    def resolved(self, problem: Problem) -> dict[str, object]:
        """The configuration with every default filled in."""
        settings = self.settings
        home, _ = copied(problem.space)
        found: dict[str, object] = {
            "archdsl": __version__,
            "numpy": np.__version__,
            "space": f"{problem.space.program.path.name}:{problem.space.declared.name.id}",
            "sources": home,
            "budgets": [str(b) for b in (*problem.budgets, *problem.timed)],
            "objectives": [str(o) for o in problem.objectives],
            "convention": "one multiply-add counts as one FLOP; per sample",
            "min_util": problem.utilization,
            "seed": settings.seed,
            "trials": settings.trials,
            "generation": settings.generation,
            "front": settings.front,
            "input": list(settings.input or ()),
            "score": problem.score.name,
        }
        if settings.evaluators:
            found |= {"measured": list(settings.evaluators), "evaluations": settings.evaluations}
            found["reproducible"] = all(settings.evaluator(name).reproducible for name in settings.evaluators)
        if settings.evaluate:
            found["evaluate"] = settings.evaluate
        if settings.recipe is not None:
            found["recipe"] = asdict(settings.recipe)
        if settings.evolve_space:
            found["evolve_space"] = settings.evolve_space
        if self.undivided:
            found["undivided"] = self.undivided
        return found | self.moves


# -- several processes ---------------------------------------------------------------------------------


def _evaluated(settings: Settings, home: Path, row: tuple[int, ...]) -> Found:
    """What the settings' evaluators find of one point."""
    problem = settings.problem
    point = problem.pricer.draws.point(row)
    base = problem.space.declared.base.id
    graph = problem.space.program.elaborate(base, overrides=point.overrides, input=settings.input)
    return {name: settings.evaluator(name, home).evaluate(graph, settings.seed) for name in settings.evaluators}


_settings: Settings | None = None
"""Those of the search that this process works for."""
_home = Path()
"""What its trainings go on from."""


def _begin(settings: Settings, home: Path) -> None:
    global _settings, _home
    _settings, _home = settings, home


def _evaluate(row: tuple[int, ...]) -> Found:
    assert _settings is not None
    return _evaluated(_settings, _home, row)


def _price(points: Points, utilization: float) -> tuple[Evaluated, str]:
    """What the problem says of points, and why it prices them as a whole, where it does."""
    assert _settings is not None
    problem = _settings.problem
    found = (problem if problem.utilization == utilization else problem.loosened())(points)
    return found, problem.pricer.undivided


def _id(digest: str) -> str:
    return f"cand_{digest[:8]}"


def _refuse_endless(time_limit: float | None) -> None:
    """Raises E-BUDGET where a time limit is no time."""
    if time_limit is not None and not 0 <= time_limit < math.inf:
        raise error("E-BUDGET", f"a search cannot take {time_limit:g} seconds", help="--time-limit 60 is a minute")
