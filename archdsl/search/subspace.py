"""Turns a genome into the part of it whose points are good ones: a space is moved step by step before it is searched.

The idea is that of S3 (Searching the Search Space of Vision Transformer, arXiv 2111.14725): what a space is worth is
told by its random points, on the whole and at their best, and a line fitted to what the alternatives of a dimension
are worth says where to move it. There the points are judged by a supernet; here by the first objective of a problem,
among the points that keep to its budgets, and where hardly any do, by how far they miss them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.frontend.values import show
from archdsl.search.budget import Objective
from archdsl.search.draws import Draws
from archdsl.search.evolve import Price, State
from archdsl.search.genome import Genome, Points, stream

Floats: TypeAlias = NDArray[np.float64]
Alternatives: TypeAlias = tuple[int, ...]
"""Those that a gene may take, rising; of an ordered gene a window, without gaps."""

SUBSPACE = 0x535542
"""The purpose of the random numbers that samples are drawn with."""
STEPS = 16
"""How often a space moves unless told otherwise."""
SAMPLES, ROUNDS, ENOUGH = 4096, 8, 512
"""Points of a sample that are drawn at once, how often at most, and how many within the budgets are enough."""
LEAST = 64
"""So many points within the budgets are needed to compare objectives."""
FEW = 8
"""An alternative that fewer points have is not judged."""
TOP = 0.1
"""Share of the points that are the top tier."""
LIKELY, CLEAR = 4.0, 6.0
"""Standard errors: from the first on an alternative is taken in or left out, from the second on a window moves."""
FLAT = 1e-9
"""Relative differences up to this are rounding."""
NARROW = 2
"""A window has at least so many alternatives, or its slope could not be told."""


@dataclass(frozen=True)
class Subspace:
    """A part of a genome's points: of every gene some alternatives."""

    whole: Genome
    taken: tuple[Alternatives, ...]

    @staticmethod
    def of(genome: Genome) -> Subspace:
        """All of it."""
        return Subspace(genome, tuple(tuple(range(g.options)) for g in genome.genes))

    @staticmethod
    def start(genome: Genome, centre: Points) -> Subspace:
        """Of every ordered gene half of the alternatives, around those of a point [1, genes]; all of the others."""
        active = genome.active(centre)[0]
        taken = []
        for i, gene in enumerate(genome.genes):
            width = min(gene.options, max(NARROW, gene.options // 2)) if gene.ordered else gene.options
            middle = int(centre[0, i]) if active[i] else gene.options // 2
            low = min(max(0, middle - width // 2), gene.options - width)
            taken.append(tuple(range(low, low + width)))
        return Subspace(genome, tuple(taken))

    @cached_property
    def genome(self) -> Genome:
        """The genes with fewer alternatives. Those inside an alternative that is left out exist in no point."""
        genes = []
        for gene, taken in zip(self.whole.genes, self.taken, strict=True):
            around = (0,) if gene.parent is None else self.taken[gene.parent]
            when = around.index(gene.when) if gene.when in around else -1
            genes.append(replace(gene, options=len(taken), when=when))
        return Genome(tuple(genes))

    @cached_property
    def _places(self) -> Points:
        """[genes, alternatives]: which alternative of the whole genome each is."""
        out = np.zeros((len(self.taken), max(map(len, self.taken), default=1)), np.int16)
        for row, taken in zip(out, self.taken, strict=True):
            row[: len(taken)] = taken
        return out

    @cached_property
    def entire(self) -> bool:
        return all(len(t) == g.options for t, g in zip(self.taken, self.whole.genes, strict=True))

    def widened(self, points: Points) -> Points:
        """Points of `genome` as points of the whole one."""
        if self.entire:
            return points
        return self.whole.canonical(self._places[np.arange(len(self.taken)), points])

    def narrowed(self, points: Points) -> Points:
        """Those among points of the whole genome that lie in this part, as points of `genome`."""
        active = self.whole.active(points)
        inside, out = np.ones(len(points), bool), np.zeros_like(points)
        for i, taken in enumerate(self.taken):
            inside &= np.isin(points[:, i], taken) | ~active[:, i]
            out[:, i] = np.searchsorted(taken, points[:, i])
        return self.genome.canonical(out[inside])

    def restored(self, state: State) -> State:
        """A state of a search of `genome` with its points as those of the whole one."""
        front, parents = state.archive, self._bred(state.parents)
        archive = replace(front, points=self.widened(front.points), parents=self._bred(front.parents))
        return replace(state, archive=archive, population=self.widened(state.population), parents=parents)

    def _bred(self, parents: Points) -> Points:
        """Parents [points, 2, genes] of points of `genome` as points of the whole one."""
        out, known = parents.copy(), (parents >= 0).any(axis=2)
        out[known] = self.widened(parents[known])
        return out

    def texts(self, draws: Draws) -> dict[str, list[str]]:
        """Of each draw with fewer alternatives than in the whole space, by name, the values that are left."""
        genes = self.whole.genes
        exists = [True] * len(genes)
        out: dict[str, list[str]] = {}
        for i, (gene, taken) in enumerate(zip(genes, self.taken, strict=True)):
            exists[i] = gene.parent is None or (exists[gene.parent] and gene.when in self.taken[gene.parent])
            if exists[i] and len(taken) < gene.options:
                out[gene.name] = [value_of(draws, i, a) for a in taken]
        return out


def value_of(draws: Draws, gene: int, alternative: int) -> str:
    """The value of the parameter, or element of one, that a gene decides, where it takes an alternative.

    One that ends in `...` is the first of several: other draws stand inside it.
    """
    row = draws.reference[0].copy()
    row[gene] = alternative
    at = draws.genome.genes[gene]
    while at.parent is not None:
        row[at.parent] = at.when
        at = draws.genome.genes[at.parent]
    columns = [c for of in (*draws.columns.values(), draws.lets.values()) for c in of if gene in c.genes]
    if not columns:
        return str(alternative)
    column = min(columns, key=lambda c: len(c.genes))
    value = draws.parameters(draws.genome.canonical(row[None])[0])[column.param]
    text = show(value[column.element] if column.element is not None and isinstance(value, tuple) else value)
    inside = any((g.parent, g.when) == (gene, alternative) and g.options > 1 for g in draws.genome.genes)
    return text + (" ..." if inside else "")


# -- samples ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quality:
    """What a space is worth by a sample of its points. Less is better."""

    share: float
    """Of the points, those that keep to the budgets."""
    met: bool
    """Whether that many do that objectives tell: otherwise what follows is of the violations."""
    mean: float
    spread: float
    """Standard deviation."""
    top: float
    """Mean of the top tier."""
    top_spread: float

    @property
    def value(self) -> float:
        """S3's E-T error: half of it the expectation, half of it the top tier."""
        return (self.mean + self.top) / 2

    def beats(self, other: Quality) -> bool:
        """Whether a space of this quality is better than one of another."""
        if self.met != other.met:
            return self.met
        return self.value < other.value and not math.isclose(self.value, other.value, rel_tol=FLAT)


@dataclass(frozen=True)
class Sample:
    """Random points of a subspace, those that are judged, as points of the whole genome."""

    subspace: Subspace
    points: Points
    values: Floats
    quality: Quality

    @staticmethod
    def drawn(subspace: Subspace, price: Price, seed: int, step: int) -> Sample:
        """The sample of a step: it depends on the seed and the step's number, and on nothing before it."""
        batches: list[Points] = []
        objectives, violation = np.empty(0), np.empty(0)
        for turn in range(ROUNDS):
            rng = stream(seed, SUBSPACE, step * ROUNDS + turn)
            batches.append(subspace.widened(subspace.genome.random(rng, SAMPLES)))
            found = price(batches[-1])
            objectives = np.append(objectives, found.objectives[:, 0])
            violation = np.append(violation, found.violation)
            if np.sum(violation <= 0) >= ENOUGH:
                break
        within = violation <= 0
        met = int(within.sum()) >= LEAST
        judged = within if met else np.isfinite(violation)
        values = (objectives if met else violation)[judged]
        share = float(within.mean())
        quality = Quality(share, met, *((*spread(values), *spread(tier(values))) if len(values) else (math.inf,) * 4))
        return Sample(subspace, np.concatenate(batches)[judged], values, quality)

    def changes(self) -> list[Change]:
        """What would make the space better, the clearest first."""
        active = self.subspace.whole.active(self.points)
        found = []
        for i, taken in enumerate(self.subspace.taken):
            has = active[:, i]
            change = self._change(i, taken, self.points[has, i], self.values[has]) if len(taken) > 1 else None
            found += [change] if change is not None else []
        return sorted(found, key=lambda c: -c.clarity)

    def _change(self, gene: int, taken: Alternatives, points: Points, values: Floats) -> Change | None:
        groups = {a: values[points == a] for a in taken}
        judged = {a: group for a, group in groups.items() if len(group) >= FEW}
        if len(judged) < 2:
            return None
        mean, error = spread(values)
        if error <= FLAT * abs(mean):
            return None
        places = np.array(list(judged), np.float64)
        counts = np.array([len(group) for group in judged.values()], np.float64)
        worth = np.array([(group.mean() + tier(group).mean()) / 2 for group in judged.values()])
        whole = self.subspace.whole.genes[gene]
        if whole.ordered:
            clarity = slope(places, worth, counts) / error
            after = moved(taken, clarity, whole.options)
        else:
            at = int(np.argmax(worth))
            clarity = slope(np.arange(len(worth)) == at, worth, counts) / error
            after = tuple(a for a in taken if a != places[at]) if clarity >= LIKELY else taken
        return Change(gene, after, abs(clarity)) if after != taken else None


@dataclass(frozen=True)
class Change:
    """Other alternatives for a gene, and by how many standard errors they are called for."""

    gene: int
    taken: Alternatives
    clarity: float


def spread(values: Floats) -> tuple[float, float]:
    """Mean and standard deviation."""
    return float(values.mean()), float(values.std())


def tier(values: Floats) -> Floats:
    """The best of them."""
    return np.sort(values)[: math.ceil(TOP * len(values))]


def slope(x: NDArray[np.float64] | NDArray[np.bool_], y: Floats, counts: Floats) -> float:
    """The slope of the line through means of so many values, in standard errors of it if a value has error 1."""
    off = x - np.average(x, weights=counts)
    return float(np.sum(counts * off * y) / math.sqrt(np.sum(counts * off * off)))


def moved(window: Alternatives, clarity: float, options: int) -> Alternatives:
    """A window against a slope: one further where it is clear, wider where it is likely, narrower at the end."""
    if abs(clarity) < LIKELY:
        return window
    low, high = window[0], window[-1]
    down = clarity > 0
    room = low > 0 if down else high < options - 1
    leave = abs(clarity) >= CLEAR and (room or len(window) > NARROW)
    if down:
        return tuple(range(low - room, high + 1 - leave))
    return tuple(range(low + leave, high + 1 + room))


# -- steps -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Where a space stood."""

    subspace: Subspace
    quality: Quality


def evolved(start: Subspace, price: Price, seed: int, steps: int = STEPS) -> tuple[Step, ...]:
    """The spaces from `start` on, each better than the one before, at most `steps` more.

    All dimensions move at once. Where that makes the space worse, only the clearer half of the changes is made, and
    so on; where not even the clearest one makes it better, the space stays.
    """
    sample = Sample.drawn(start, price, seed, 1)
    path, drawn = [Step(start, sample.quality)], 2
    for _ in range(steps):
        changes, before = sample.changes(), sample
        while changes:
            taken = list(before.subspace.taken)
            for change in changes:
                taken[change.gene] = change.taken
            sample = Sample.drawn(replace(before.subspace, taken=tuple(taken)), price, seed, drawn)
            drawn += 1
            if sample.quality.beats(before.quality):
                break
            changes = changes[: len(changes) // 2]
        else:
            break
        path.append(Step(sample.subspace, sample.quality))
    return tuple(path)


@dataclass(frozen=True)
class Course:
    """How a space moved, beside what all of it is worth."""

    whole: Step
    path: tuple[Step, ...]

    @staticmethod
    def of(draws: Draws, price: Price, seed: int, steps: int) -> Course:
        """The steps from the part around the space's first seed on."""
        whole = Subspace.of(draws.genome)
        quality = Sample.drawn(whole, price, seed, 0).quality
        path = evolved(Subspace.start(draws.genome, draws.reference), price, seed, steps)
        return Course(Step(whole, quality), path)

    @property
    def last(self) -> Step:
        return self.path[-1]

    @property
    def better(self) -> bool:
        """Whether the space ended as a better one than all of it is."""
        return self.last.quality.met and self.last.quality.beats(self.whole.quality)

    @property
    def part(self) -> Subspace:
        """What to search."""
        return self.last.subspace if self.better else self.whole.subspace

    def recorded(self, draws: Draws, objective: Objective) -> dict[str, object]:
        """For run.toml: a table of the steps, after one of the whole space, and one of the draws narrowed."""
        known = [s.quality for s in (self.whole, *self.path)]
        signs = [-1 if q.met and objective.maximize else 1 for q in known]
        steps: dict[str, object] = {"met": [q.met for q in known], "share": [q.share for q in known]}
        steps["mean"] = [sign * q.mean for sign, q in zip(signs, known, strict=True)]
        steps["mean_spread"] = [q.spread for q in known]
        steps["top"] = [sign * q.top for sign, q in zip(signs, known, strict=True)]
        steps["top_spread"] = [q.top_spread for q in known]
        return {"evolved": steps, "subspace": self.part.texts(draws)}

    def told(self, objective: Objective) -> str:
        """The course in a sentence."""
        if not self.better:
            return "no part of the space was found whose random points are better than those of all of it"
        sign = -1 if objective.maximize else 1

        def worth(q: Quality) -> str:
            if not q.met:
                return "unknown, as hardly any keeps to the budgets"
            mean, top = (objective.measure.shown(sign * value) for value in (q.mean, q.top))
            return f"{mean} ({top} of their best tenth)"

        return (
            f"the space moved {len(self.path) - 1} times before it was searched: the mean {objective} of random points "
            f"within the budgets is {worth(self.last.quality)}, where it was {worth(self.path[0].quality)} at the "
            f"start and is {worth(self.whole.quality)} in all of the space"
        )
