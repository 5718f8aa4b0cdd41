"""Turns what an analytic search kept into measured candidates: a few hundred, chosen one by one by what was learnt.

A candidate costs seconds here. Every evaluation is a line of evaluations.jsonl; a search that goes on reads them
back instead of evaluating again, and asks for the same candidates as before, so interruptions change nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from archdsl.search.archive import Archive, Objectives
from archdsl.search.evaluators import Evaluation, Evaluator
from archdsl.search.evolve import State
from archdsl.search.genome import Points
from archdsl.search.model import Proposer
from archdsl.search.problem import Problem
from archdsl.search.store import EVALUATIONS, append

BATCH = 4
"""Candidates that are chosen together: as many can be evaluated at once, and the choice does not depend on how many."""

Evaluate = Callable[[Sequence[tuple[int, ...]]], Iterator[Evaluation]]
"""Evaluates points, in their order."""


def measured(
    problem: Problem,
    state: State,
    evaluator: Evaluator,
    evaluate: Evaluate,
    count: int,
    seed: int,
    directory: Path,
    watch: Callable[[int], None] = lambda n: None,
) -> tuple[Archive, dict[tuple[int, ...], float]]:
    """The front of `count` evaluated points, and the value of each; the evaluator stands in the score's place."""
    sign = -1.0 if evaluator.direction == "maximize" else 1.0
    others = [i for i, o in enumerate(problem.objectives) if o.measure.metric != "score"]

    def known(points: Points) -> Objectives:
        found = problem(points)
        return np.where((found.violation <= 0)[:, None], found.objectives[:, others], np.inf)

    kept = np.concatenate([state.archive.points, state.population[state.violation <= 0]])
    proposer = Proposer(problem.pricer.genome, seed, known, pool=np.unique(kept, axis=0))
    told = _told(directory / EVALUATIONS)
    values: dict[tuple[int, ...], float] = {}
    while len(values) < count:
        asked = [tuple(row) for row in proposer.ask(min(BATCH, count - len(values))).tolist()]
        if not asked:
            break
        new = [row for row in asked if row not in told]
        for row, found in zip(new, evaluate(new), strict=True):
            told[row] = found
            line = {"genes": row, "value": None if math.isnan(found.value) else found.value, "reason": found.reason}
            append(directory / EVALUATIONS, (json.dumps(line) + "\n").encode())
        values |= {row: told[row].value for row in asked}
        proposer.tell(np.array(asked, np.int16), sign * np.array([told[row].value for row in asked]))
        watch(len(values))
    points = np.array(list(values), np.int16).reshape(len(values), len(problem.pricer.genome))
    objectives = np.column_stack([sign * np.array(list(values.values())), known(points)])
    archive = Archive.empty(len(problem.pricer.genome), 1 + len(others))
    return archive.insert(points, objectives, problem(points).hash), values


def _told(path: Path) -> dict[tuple[int, ...], Evaluation]:
    """What was evaluated before; a line that was cut off is evaluated again."""
    out: dict[tuple[int, ...], Evaluation] = {}
    whole = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):
            break
        record = json.loads(line)
        value = math.nan if record["value"] is None else float(record["value"])
        out[tuple(record["genes"])] = Evaluation(value, record["reason"])
        whole.append(line)
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(sum(len(line.encode()) for line in whole))
    return out
