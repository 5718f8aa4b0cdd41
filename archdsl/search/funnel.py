"""Turns what an analytic search kept into measured candidates: a few hundred, chosen one by one by what was learnt.

A candidate costs seconds here. Every candidate is a line of evaluations.jsonl; a search that goes on reads them
back instead of evaluating again, and asks for the same candidates as before, so interruptions change nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.diagnostics import ArchError, error
from archdsl.search.archive import Archive, Objectives
from archdsl.search.budget import LOCAL, Objective
from archdsl.search.evaluators import Evaluation, Evaluator
from archdsl.search.evolve import State
from archdsl.search.genome import Points
from archdsl.search.model import Proposer
from archdsl.search.problem import Problem
from archdsl.search.store import EVALUATIONS, append, truncate

BATCH = 4
"""Candidates that are chosen together: as many can be evaluated at once, and the choice does not depend on how many."""

Row: TypeAlias = tuple[int, ...]
Found: TypeAlias = Mapping[str, Evaluation]
"""What evaluators, by their names, find of one point."""
Evaluate: TypeAlias = Callable[[Sequence[Row]], Iterator[Found]]
"""Evaluates points, in their order."""
Record: TypeAlias = Callable[[Row, Found], None]
"""Takes down what was found of a point, once for every point and in the order of evaluation."""


def measured(
    problem: Problem,
    state: State,
    goal: Evaluator | None,
    computed: Sequence[Objective],
    evaluate: Evaluate,
    count: int,
    seed: int,
    directory: Path,
    record: Record = lambda row, found: None,
) -> tuple[Archive, dict[Row, Found]]:
    """The front of `count` evaluated points that keep to the budgets of time, and what was found of each.

    What is traded off is what `goal` gives, where there is one, and the `computed` ones of the problem's objectives.
    Raises E-INFEASIBLE where no evaluated point will do.
    """
    # costs before the score: the first point to be measured is the lowest in the first of them
    others = [problem.objectives.index(o) for o in sorted(computed, key=lambda o: o.maximize)]
    limit = min((b.limit for b in problem.timed), default=None)

    def known(points: Points) -> Objectives:
        found = problem(points)
        return np.where((found.violation <= 0)[:, None], found.objectives[:, others], np.inf)

    def values(found: Sequence[Found]) -> NDArray[np.float64]:
        """[points, measured]: the goal, less being better, and the time where it has a limit."""
        out = [] if goal is None else [[_sign(goal) * f[goal.name].value for f in found]]
        out += [] if limit is None else [[f[LOCAL.metric].value for f in found]]
        return np.array(out).reshape(-1, len(found)).T

    genome = problem.pricer.genome
    kept = np.concatenate([state.archive.points, state.population[state.violation <= 0]])
    proposer = Proposer(genome, seed, known, int(goal is not None), pool=np.unique(kept, axis=0), limit=limit)
    told = _told(directory / EVALUATIONS)
    for row, one in told.items():
        record(row, one)
    met: dict[Row, Found] = {}
    while len(met) < count:
        asked = [tuple(row) for row in proposer.ask(min(BATCH, count - len(met))).tolist()]
        if not asked:
            break
        new = [row for row in asked if row not in told]
        for row, one in zip(new, evaluate(new), strict=True):
            told[row] = one
            append(directory / EVALUATIONS, (json.dumps(_line(row, one)) + "\n").encode())
            record(row, one)
        met |= {row: told[row] for row in asked}
        proposer.tell(np.array(asked, np.int16), values([told[row] for row in asked]))
    points = np.array(list(met), np.int16).reshape(len(met), len(genome))
    columns = values(list(met.values()))
    objectives = np.column_stack([columns[:, : int(goal is not None)], known(points)])
    if limit is not None:
        objectives[~(columns[:, -1] <= limit)] = np.inf
    empty, parents = Archive.empty(len(genome), objectives.shape[1]), _parents(state, proposer, points)
    archive = empty.insert(points, objectives, problem(points).hash, parents)
    if met and not len(archive):
        raise _unfit(problem, met)
    return archive, met


def _parents(state: State, proposer: Proposer, points: Points) -> Points:
    """[points, 2, genes]: what the analytic search bred points from, or what the proposer did; -1 where neither."""
    out = proposer.parents(points)
    known = dict(zip(map(bytes, state.population), state.parents, strict=True))
    known |= zip(map(bytes, state.archive.points), state.archive.parents, strict=True)
    for i, row in enumerate(points):
        out[i] = known.get(bytes(row), out[i])
    return out


def _sign(evaluator: Evaluator) -> float:
    return -1.0 if evaluator.direction == "maximize" else 1.0


def _unfit(problem: Problem, met: Mapping[Row, Found]) -> ArchError:
    """What is said where no measured point will do: the closest, or why none could be measured."""
    whole = {row: found for row, found in met.items() if not any(one.reason for one in found.values())}
    if not whole:
        first = next(one.reason for found in met.values() for one in found.values() if one.reason)
        return error("E-INFEASIBLE", f"none of {len(met)} candidates could be measured: {first}")
    row = min(whole, key=lambda row: whole[row][LOCAL.metric].value)
    taken = LOCAL.shown(whole[row][LOCAL.metric].value)
    text = problem.space.variant_text(problem.pricer.draws.point(row), "closest")
    return error(
        "E-INFEASIBLE",
        f"none of {len(met)} measured candidates keeps to {' and '.join(map(str, problem.timed))}",
        help=f"the closest takes {taken} on this machine: {text}",
    )


# -- evaluations.jsonl -----------------------------------------------------------------------------


def _line(row: Row, found: Found) -> dict[str, object]:
    return {
        "genes": row,
        "found": {
            name: {"value": None if math.isnan(one.value) else one.value, "reason": one.reason}
            for name, one in found.items()
        },
    }


def _told(path: Path) -> dict[Row, Found]:
    """What was evaluated before, in that order; a line that was cut off is evaluated again. Raises E-RUN."""
    out: dict[Row, Found] = {}
    try:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    except OSError as e:
        raise error("E-RUN", f"cannot read `{path}`: {e.strerror}") from e
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            truncate(path, sum(map(len, lines[:-1])))
            break
        try:
            record = json.loads(line)
            out[tuple(map(int, record["genes"]))] = {
                name: Evaluation(math.nan if one["value"] is None else float(one["value"]), str(one["reason"]))
                for name, one in record["found"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise error(
                "E-RUN",
                f"line {number} of `{path}` is no evaluation",
                help="take the line out, and its candidate is evaluated again",
            ) from e
    return out
