"""Turns budgets into what a space can do with them: refuses the impossible, and finds how much can be used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from archdsl.device.model import PICO
from archdsl.diagnostics import ArchError, error
from archdsl.search.bounds import Unbounded, least
from archdsl.search.budget import Budget
from archdsl.search.evolve import Evaluated, Evolution
from archdsl.search.genome import Points, stream
from archdsl.search.metrics import METRICS
from archdsl.search.problem import Problem

PROBE = 0x50524F
"""The purpose of the random numbers of the first look at a budget."""
GLANCE = 8
"""Random points that are looked at before anything is proved."""
PROBED = (4096, 12)
"""Candidates of a generation, and generations, in which a search looks for what a budget allows."""


def reachable(problem: Problem, seed: int) -> float:
    """The share of a budget that can be used: as much as the problem asks for, or what little was found.

    Raises E-INFEASIBLE where no point keeps to the budgets: by proof, or because a search for one failed.
    """
    size, generations = PROBED
    loose = problem.loosened()

    def used(points: Points) -> Evaluated:
        found, priced = loose(points), loose.pricer.price(points)
        share = np.max([loose.value(b.measure, priced) / b.limit for b in loose.budgets], axis=0)
        return Evaluated(np.where(priced.sound, -share, np.inf)[:, None], found.violation, found.hash)

    genome, seeds = problem.pricer.genome, problem.seeds
    some = np.concatenate([seeds, genome.random(stream(seed, PROBE, 0), GLANCE)])
    if not (loose(some).violation <= 0).any():
        refuse_impossible(problem)
    evolution = Evolution(genome, used, 1, seed, seeds, size=size)
    state = evolution.start()
    for _ in range(generations):
        state = evolution.step(state)
        if len(state.archive) and -state.archive.objectives[0, 0] >= problem.utilization:
            return problem.utilization
    if not len(state.population):
        raise unsound(problem)
    if not len(state.archive):
        raise infeasible(problem, state.population[[int(np.argmin(state.violation))]], "was found")
    return -float(state.archive.objectives[0, 0])


def refuse_impossible(problem: Problem) -> None:
    """Raises E-INFEASIBLE where it can be proved that no point keeps to one budget, or to all of them together."""
    pricer, budgets = problem.pricer, problem.budgets
    alone = [_weights(problem, [b]) for b in budgets]
    for weights in (*alone, *([_weights(problem, budgets)] if len(budgets) > 1 else [])):
        try:
            bound = least(pricer, weights, limit=1.0)
        except Unbounded:
            continue
        if bound.value > 1:
            raise infeasible(problem, bound.point, "exists")


def unsound(problem: Problem) -> ArchError:
    """What is said where no candidate was met that is an architecture: the mistake of the first, where it has one."""
    space, draws = problem.space, problem.pricer.draws
    point = draws.point(draws.reference[0])
    try:
        space.program.elaborate(space.declared.base.id, overrides=point.overrides, input=problem.input)
    except ArchError as e:
        return e
    name = space.declared.name.id
    return error("E-INFEASIBLE", f"no candidate of `{name}` was found that meets its requirements", space.declared.span)


def _weights(problem: Problem, budgets: Sequence[Budget]) -> NDArray[np.float64]:
    """Weights under which a point within the budgets sums to at most 1."""
    out = np.zeros(len(METRICS) + len(problem.latencies))
    for b in budgets:
        m = b.measure
        at = METRICS.index(m.metric) if m.metric in METRICS else len(METRICS) + problem.latencies.index(m)
        unit = PICO if m.metric == "latency" else 1.0
        out[at] += unit / (b.limit * len(budgets))
    return out


def infeasible(problem: Problem, row: Points, known: str) -> ArchError:
    """What is said of budgets that no candidate keeps to; `row` [1, genes] is the closest."""
    priced = problem.pricer.price(row)
    values = [(b, float(problem.value(b.measure, priced)[0])) for b in problem.budgets]
    shown = ", ".join(f"{b.measure.shown(v)} {b.measure} where {b} is allowed" for b, v in values)
    text = problem.space.variant_text(problem.pricer.draws.point(row[0]), "closest")
    space = problem.space.declared.name.id
    return error(
        "E-INFEASIBLE",
        f"no candidate of `{space}` {known} that keeps to {' and '.join(map(str, problem.budgets))}",
        help=f"the closest that was found takes {shown}: {text}",
    )
