"""Turns a space into what is known of it: its draws, how many points there are, and what a sample of them costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from archdsl.cost import Cost, human, price
from archdsl.diagnostics import ArchError, Diagnostic
from archdsl.frontend.elaborate import Elaborator
from archdsl.frontend.names import mentions
from archdsl.frontend.program import MEASURES
from archdsl.frontend.resolve import SPACE_NAMES
from archdsl.frontend.space import Point, Space
from archdsl.frontend.values import Scope
from archdsl.search.bounds import Unbounded, least
from archdsl.search.draws import Draws
from archdsl.search.genome import Genome, stream
from archdsl.search.metrics import METRICS
from archdsl.search.pricing import Pricer
from archdsl.syntax import tree
from archdsl.syntax.printer import unparse

if TYPE_CHECKING:
    from rich.console import RenderableType

SURVEY = 0x535552
"""The purpose of the random numbers that samples are drawn with."""

_MEASURED = SPACE_NAMES - frozenset(MEASURES)
"""What a requirement may mention that costs do not tell."""

TITLES = {"params": "params", "macs": "MACs"}

BUDGETS = (0.3e9, 0.5e9, 1e9, 2e9, 4e9, 8e9, 16e9)
"""Multiply-adds for which the share of points that cost no more is told."""


@dataclass(frozen=True)
class Dimension:
    """The draws of one parameter of the arch, or of one of the space's own names."""

    name: str
    alternatives: tuple[int, ...]
    """Of the draws that every point has."""
    nested: int
    """Draws inside alternatives: a point has those of the alternatives it takes."""
    ways: int
    """How many ways there are to decide them all."""


@dataclass(frozen=True)
class Info:
    """A space, and what `samples` uniform draws from it turned out to be."""

    name: str
    base: str
    dimensions: tuple[Dimension, ...]
    size: int
    requirements: tuple[str, ...]
    untested: tuple[str, ...]
    """The requirements among them that only a measurement decides."""
    goals: tuple[str, ...]
    seeds: tuple[str, ...]
    samples: int
    mistakes: Mapping[str, int]
    """Why points did not elaborate, and how many: code and place of their first mistake."""
    costs: tuple[Cost, ...]
    """Of the points that elaborate and meet the requirements."""
    bounds: Mapping[str, float | None]
    """Proved: no point has fewer `params`, `macs`. None where nothing can be proved, no entry where nobody asked."""

    @property
    def unmet(self) -> int:
        """How many points elaborate and break a requirement."""
        return self.samples - len(self.costs) - sum(self.mistakes.values())

    def share(self, budget: float) -> float:
        """The share of all samples that are feasible and cost at most `budget` multiply-adds."""
        return sum(c.macs <= budget for c in self.costs) / self.samples

    def seen(self, measure: str) -> tuple[int, int] | None:
        """The least and the most of a field of Cost among the feasible samples: no bounds, others may lie outside."""
        values = [getattr(c, measure) for c in self.costs]
        return (min(values), max(values)) if values else None

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "base": self.base,
            "size": self.size,
            "dimensions": [
                {"name": d.name, "alternatives": d.alternatives, "nested": d.nested, "ways": d.ways}
                for d in self.dimensions
            ],
            "require": self.requirements,
            "untested": self.untested,
            "goals": self.goals,
            "seeds": self.seeds,
            "samples": self.samples,
            "feasible": len(self.costs) / self.samples,
            "mistakes": dict(self.mistakes),
            "share_at_macs": {str(round(b)): self.share(b) for b in BUDGETS},
            "seen": {m: self.seen(m) for m in ("params", "macs", "activations", "bytes")},
            "bounds": dict(self.bounds),
        }

    def table(self) -> RenderableType:
        """A row a dimension, then the shares by budget."""
        from rich import box
        from rich.console import Group
        from rich.table import Table

        draws = Table(box=box.SIMPLE_HEAD, show_footer=True)
        draws.add_column("dimension", "total", no_wrap=True)
        draws.add_column("draws", str(sum(len(d.alternatives) for d in self.dimensions)), justify="right")
        draws.add_column("nested", str(sum(d.nested for d in self.dimensions)), justify="right")
        draws.add_column("alternatives")
        draws.add_column("ways", large(self.size), justify="right", no_wrap=True)
        for d in self.dimensions:
            draws.add_row(d.name, str(len(d.alternatives)), str(d.nested or ""), _folded(d.alternatives), large(d.ways))
        shares = Table(box=box.SIMPLE_HEAD)
        shares.add_column("MACs at most")
        for budget in BUDGETS:
            shares.add_column(human(round(budget)), justify="right")
        shares.add_row("feasible points", *(f"{self.share(budget):.1%}" for budget in BUDGETS))
        return Group(f"{self.name} of {self.base}", draws, shares)

    def text(self) -> str:
        """What the sample says in sentences, and what the space asks for."""
        lines = [f"{len(self.costs)} of {self.samples} random points are feasible"]
        lines += [f"  {count} do not elaborate: {why}" for why, count in self.mistakes.items()]
        if self.unmet:
            lines.append(f"  {self.unmet} break a requirement")
        seen = [(title, self.seen(measure)) for measure, title in TITLES.items()]
        ranges = [f"{title} {human(found[0])} to {human(found[1])}" for title, found in seen if found is not None]
        if ranges:
            lines.append(f"seen among these, not bounds: {', '.join(ranges)}")
        for measure, value in self.bounds.items():
            told = "nothing can be proved" if value is None else f"no point has fewer than {human(round(value))}"
            lines.append(f"bound on {TITLES[measure]}: {told}")
        for word, texts in (("require", self.requirements), ("", self.goals), ("seed", self.seeds)):
            lines += [f"{word} {text}".strip() for text in texts]
        lines += [f"not tested on the sample: {text}" for text in self.untested]
        return "\n".join(lines)


def survey(space: Space, samples: int = 200, seed: int = 0, bounds: bool = False) -> Info:
    """What is known of a space; `samples` of its points are elaborated. Raises what opening its draws raises.

    With `bounds`, what no point falls below is proved, which prices every piece there can be.
    """
    draws = Draws.of(space)
    tested = [r for r in space.after if not any(mentions(r.condition, name) for name in _MEASURED)]
    costs: list[Cost] = []
    mistakes: Counter[str] = Counter()
    for row in draws.genome.random(stream(seed, SURVEY, 0), samples):
        try:
            point = draws.point(row)
            if space.broken(point):
                continue
            cost = _cost(space, point)
            if all(_holds(space, r, point, cost) for r in tested):
                costs.append(cost)
        except ArchError as e:
            mistakes[_what(e.diagnostics[0])] += 1
    return Info(
        name=space.declared.name.id,
        base=space.declared.base.id,
        dimensions=dimensions(draws.genome),
        size=space.size,
        requirements=tuple(unparse(r.condition) for r in (*space.before, *space.after)),
        untested=tuple(unparse(r.condition) for r in space.after if r not in tested),
        goals=tuple(f"{g.sense} {unparse(g.value)}" for g in space.goals),
        seeds=tuple(unparse(s.value) for s, _ in space.seeds()),
        samples=samples,
        mistakes=dict(mistakes.most_common()),
        costs=tuple(costs),
        bounds=_bounds(space) if bounds else {},
    )


def dimensions(genome: Genome) -> tuple[Dimension, ...]:
    """A genome's draws by the parameter, or label, that they are named after."""
    inside: dict[tuple[int | None, int], list[int]] = {}
    for i, gene in enumerate(genome.genes):
        inside.setdefault((gene.parent, gene.when), []).append(i)

    def ways(i: int) -> int:
        alternatives = range(genome.genes[i].options)
        return sum(prod(ways(k) for k in inside.get((i, at), ())) for at in alternatives)

    by_name: dict[str, list[int]] = {}
    for i, gene in enumerate(genome.genes):
        by_name.setdefault(gene.name.partition(".")[0], []).append(i)
    out = []
    for name, members in by_name.items():
        roots = [i for i in members if genome.genes[i].parent is None]
        options = tuple(genome.genes[i].options for i in roots)
        out.append(Dimension(name, options, len(members) - len(roots), prod(map(ways, roots))))
    return tuple(out)


def _bounds(space: Space) -> dict[str, float | None]:
    pricer = Pricer(space)
    out: dict[str, float | None] = {}
    for measure in TITLES:
        try:
            out[measure] = least(pricer, np.array([float(name == measure) for name in METRICS])).value
        except Unbounded:
            out[measure] = None
    return out


def _cost(space: Space, point: Point) -> Cost:
    """What a point costs. Raises ArchError where it does not elaborate."""
    program = space.program
    evaluator = Elaborator(program.loader.vocabulary, program.loader.names.of)
    graph = evaluator.elaborate(space.base, point.overrides, program.source.name, None)
    mistakes = program.requirements(evaluator, graph)
    if mistakes:
        raise ArchError(*mistakes)
    return price(graph).total


def _holds(space: Space, requirement: tree.Require, point: Point, cost: Cost) -> bool:
    """Whether a point meets a requirement on what its graph costs."""
    program = space.program
    evaluator = Elaborator(program.loader.vocabulary, program.loader.names.of)
    names = evaluator.parameters(space.base, point.overrides).names | dict(point.lets)
    names |= {"params": cost.params, "flops": cost.macs, "acts": cost.activations}
    return evaluator.truth(requirement.condition, Scope(program.scope, names), None)


def _what(d: Diagnostic) -> str:
    return d.code if d.span is None else f"{d.code} at {d.span.source.name}:{d.span.line}"


def large(number: int) -> str:
    """An integer in full, or its first digits and its power of ten."""
    return f"{number:,}" if number < 10**9 else f"{number:.2e}".replace("e+", "e")


def _folded(alternatives: Sequence[int]) -> str:
    """`4 x 7^2` for 4, 7 and 7."""
    runs = [(n, len(list(same))) for n, same in groupby(alternatives)]
    return " x ".join(f"{n}^{times}" if times > 1 else str(n) for n, times in runs)
