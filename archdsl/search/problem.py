"""Turns a space, budgets and objectives into what an engine asks of a batch of points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.cost import Costs
from archdsl.device.model import PICO, devices, element_type
from archdsl.device.roofline import latency
from archdsl.diagnostics import did_you_mean, error
from archdsl.frontend.names import children
from archdsl.frontend.space import Space
from archdsl.ir.graph import Graph
from archdsl.search.budget import LOCAL, Budget, Measure, Objective
from archdsl.search.evolve import Evaluated
from archdsl.search.genome import Points
from archdsl.search.metrics import METRICS
from archdsl.search.pricing import Priced, Pricer
from archdsl.search.score import Score, load
from archdsl.syntax import tree

Floats: TypeAlias = NDArray[np.float64]
MEASURES = {"params": "params", "flops": "macs", "acts": "activations"}
"""What a space's `require`, `minimize` and `maximize` may measure, beside latency(...)."""
DIGITS = 6
"""Decimals of the score that are looked at: far fewer than would tell two architectures apart."""
USUAL = Measure("latency", "h200", 64)
"""What is traded against the score where nothing else is asked for."""


@dataclass(frozen=True)
class Problem:
    """A search problem: every objective is minimised, those to maximise with the sign turned."""

    space: Space
    budgets: tuple[Budget, ...]
    objectives: tuple[Objective, ...]
    utilization: float = 0.0
    """The least share of a budget that a point must use: of the one it uses most."""
    timed: tuple[Budget, ...] = ()
    """Budgets of time on this machine, which no price tells: whoever measures a point compares it with them."""
    score_name: str = "default"
    input: tuple[int, int, int] | None = None

    @staticmethod
    def of(
        space: Space,
        budgets: Sequence[Budget],
        objectives: Sequence[Objective] = (),
        utilization: float = 0.0,
        input: tuple[int, int, int] | None = None,
    ) -> Problem:
        """With the usual objectives where none are given: the score, and the space's own goals or the latency.

        No least share can be asked for where a point may use most of a budget that is measured. What is to be
        measured has to differ in cost, so there the predicted latency joins a score that stands alone.
        """
        if not objectives:
            goals = tuple(Objective(measure(g.value), g.sense == "maximize") for g in space.goals)
            objectives = (Objective(Measure("score"), maximize=True), *(goals or (Objective(USUAL),)))
        timed = tuple(b for b in budgets if b.measure == LOCAL)
        if timed:
            utilization = 0.0
            if all(o.measure.metric == "score" for o in objectives):
                objectives = (*objectives, Objective(USUAL))
        priced = tuple(b for b in budgets if b.measure != LOCAL)
        return Problem(space, priced, tuple(dict.fromkeys(objectives)), utilization, timed, input=input)

    @cached_property
    def latencies(self) -> tuple[Measure, ...]:
        """The predicted latencies that budgets, objectives and requirements speak of."""
        found = [*(b.measure for b in self.budgets), *(o.measure for o in self.objectives)]
        for requirement in self.space.after:
            found += measures(requirement.condition)
        return tuple(dict.fromkeys(m for m in (*found, USUAL) if m.metric == "latency"))

    @cached_property
    def pricer(self) -> Pricer:
        return Pricer(self.space, [_latency(m) for m in self.latencies], input=self.input)

    @cached_property
    def seeds(self) -> Points:
        """[seeds, genes]: the points that the space names."""
        points = (self.space.find(arch) for _, arch in self.space.seeds())
        rows = [self.pricer.draws.row(p) for p in points if p is not None]
        return np.concatenate([np.empty((0, len(self.pricer.genome)), np.int16), *rows])

    def loosened(self) -> Problem:
        """The problem without a least utilization; it shares what is known of prices."""
        loose = replace(self, utilization=0.0)
        vars(loose)["pricer"] = self.pricer
        return loose

    @cached_property
    def score(self) -> Score:
        return load(self.score_name)

    def value(self, measure: Measure, priced: Priced) -> Floats:
        """[points]: a measure of every point."""
        if measure.metric == "score":
            mean = self.score.predict(priced.metrics[:, : len(METRICS)])[0]
            return np.round(mean, DIGITS)  # machines round logarithms differently in the last place
        if measure.metric == "latency":
            return priced.metrics[:, len(METRICS) + self.latencies.index(measure)] * PICO
        return priced.metrics[:, METRICS.index(measure.metric)]

    def __call__(self, points: Points) -> Evaluated:
        """Objectives and violations of points [N, genes]."""
        priced = self.pricer.price(points)
        objectives = np.stack(
            [self.value(o.measure, priced) * (-1 if o.maximize else 1) for o in self.objectives], axis=1
        )
        violation, used = self.excess(priced), None
        if self.budgets:
            used = np.max([self.value(b.measure, priced) / b.limit for b in self.budgets], axis=0)
            violation += np.maximum(0, self.utilization - used)
        for requirement in self.space.after:
            violation += ~holds(requirement.condition, lambda m: self.value(m, priced), len(points))
        violation[~priced.sound] = np.inf
        objectives[~priced.sound] = np.inf
        return Evaluated(objectives, violation, priced.hash, used)

    def excess(self, priced: Priced) -> Floats:
        """[points]: by how much of themselves the budgets are passed, in all."""
        over = [np.maximum(0, self.value(b.measure, priced) / b.limit - 1) for b in self.budgets]
        return np.sum(over, axis=0) if over else np.zeros(len(priced.sound))


def _latency(m: Measure) -> Callable[[Graph, Costs], float]:
    return partial(_picoseconds, measure=m)


def _picoseconds(graph: Graph, costs: Costs, measure: Measure) -> float:
    return float(latency(graph, devices()[measure.device], measure.batch, measure.dtype))


# -- what a space says of measures -----------------------------------------------------------------


def measure(expr: tree.Expr) -> Measure:
    """The measure that an expression of a space names: params, flops, acts, or latency(...). Raises E-BUDGET."""
    if isinstance(expr, tree.Group):
        return measure(expr.inner)
    if isinstance(expr, tree.Name) and expr.id in MEASURES:
        return Measure(MEASURES[expr.id])
    if isinstance(expr, tree.Call) and isinstance(expr.callee, tree.Name) and expr.callee.id == "latency":
        given: dict[str, object] = {}
        for arg in expr.args:
            literal = arg.value
            if not isinstance(literal, (tree.String, tree.Number)):
                raise error("E-BUDGET", "a latency's device, batch and dtype are written out", literal.span)
            given["device" if arg.name is None else arg.name.id] = literal.value
        unknown = given.keys() - {"device", "batch", "dtype"}
        if unknown or given.get("device") not in devices():
            hint = did_you_mean(str(given.get("device")), devices()) or f"known are {', '.join(devices())}"
            raise error("E-BUDGET", "a latency is of a known device", expr.span, help=f'{hint}; write latency("h200")')
        device, batch = devices()[str(given["device"])], given.get("batch", 1)
        if not isinstance(batch, int) or batch < 1:
            raise error("E-BUDGET", f"a batch is a whole number of images, not {batch}", expr.span)
        return Measure("latency", device.name, batch, element_type(device, str(given.get("dtype", "")), expr.span))
    raise error(
        "E-BUDGET",
        "a search cannot measure this",
        expr.span,
        help=f'it measures {", ".join(MEASURES)} and latency("h200", batch = 64, dtype = "bf16")',
    )


def measures(expr: tree.Tree) -> list[Measure]:
    """The measures that a requirement mentions."""
    if isinstance(expr, tree.Name):
        return [Measure(MEASURES[expr.id])] if expr.id in MEASURES else []
    if isinstance(expr, tree.Call) and isinstance(expr.callee, tree.Name) and expr.callee.id in ("latency", "proxy"):
        return [measure(expr)]
    return [m for child in children(expr) for m in measures(child)]


def holds(condition: tree.Expr, value: Callable[[Measure], Floats], count: int) -> NDArray[np.bool_]:
    """[count]: whether a requirement on measures holds. Raises E-BUDGET for what is no arithmetic on measures."""
    if isinstance(condition, tree.Group):
        return holds(condition.inner, value, count)
    if isinstance(condition, tree.Binary) and condition.op in ("and", "or"):
        both = (holds(condition.left, value, count), holds(condition.right, value, count))
        return both[0] & both[1] if condition.op == "and" else both[0] | both[1]
    if isinstance(condition, tree.Compare):
        terms = [_amount(e, value) for e in (condition.first, *condition.rest)]
        out = np.ones(count, bool)
        for op, left, right in zip(condition.ops, terms, terms[1:], strict=False):
            out &= _COMPARED[op](left, right)
        return out
    raise error("E-BUDGET", "a requirement on measures compares them", condition.span, help="require params <= 30M")


def _amount(expr: tree.Expr, value: Callable[[Measure], Floats]) -> Floats:
    if isinstance(expr, tree.Group):
        return _amount(expr.inner, value)
    if isinstance(expr, tree.Number):
        return np.float64(expr.value)  # type: ignore[return-value]
    if isinstance(expr, tree.Binary) and expr.op in _ARITHMETIC:
        return _ARITHMETIC[expr.op](_amount(expr.left, value), _amount(expr.right, value))
    return value(measure(expr))


_ARITHMETIC: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
_COMPARED: Mapping[str, Callable[[Floats, Floats], NDArray[np.bool_]]] = {
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "~=": lambda a, b: np.abs(a - b) <= 0.005 * np.abs(b),
}
