"""Turns what was measured of a few points into the next points to measure: for evaluations that take minutes or days.

Each measured objective gets a Gaussian process over the genes; what is known without measuring (costs) is computed
for every candidate. The next point is the one whose expected gain of hypervolume is largest: the integral, over what
the front does not dominate yet, of the probability that the point comes to dominate it. Over boxes it has a closed
form (doi 10.1109/CEC.2011.5949880), in which a known objective is one without spread. One more measurement
may have a limit instead: a gain then counts by how likely the point is to keep to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.search.archive import Indices, Mask, Objectives, beaten, nondominated, unbred
from archdsl.search.genome import Genome, Points, stream
from archdsl.search.variation import Variation

Floats: TypeAlias = NDArray[np.float64]

PROPOSE = 0x50524F
"""The purpose of the random numbers drawn here."""
WHOLE = 50_000
"""Spaces up to this size are candidates as a whole."""
POOL = 4096
"""In larger ones: as many random candidates, and as many near the front and near the best candidates."""
FAR = 8
"""There, of how many of them the one farthest from all before is taken at first."""
ROUNDS = 3
"""How often the best candidates of a larger space are varied into more."""
TOP = 64
"""How many of them."""
LUCK = 2.0
"""Standard deviations by which a candidate may turn out better than expected."""
FIRST = 12
"""Points that are spread over the space before a model is asked."""
GROWTH = 1.1
"""The parameters of the model are fitted anew when there are so many times more points."""
STEPS = 40
"""Of a fit."""
JITTER = 1e-6


class Proposer:
    """Proposes points to measure, one history after another: it depends on the seed and on what it was told."""

    def __init__(
        self,
        genome: Genome,
        seed: int,
        known: Callable[[Points], Objectives] | None = None,
        measured: int = 1,
        first: int = FIRST,
        pool: Points | None = None,
        limit: float | None = None,
    ) -> None:
        """`known` gives the known objectives [points, some] of any points; one that is not finite rules a point out.

        `pool` are candidates to start from, where few random points are not ruled out. `limit` is the most that
        what is measured beside the objectives may be.
        """
        self.genome, self.seed, self.measured, self.first = genome, seed, measured, first
        self._known = known if known is not None else lambda points: np.empty((len(points), 0))
        self._points = np.empty((0, len(genome)), np.int16)
        self._limit = math.inf if limit is None else limit
        self._values = np.empty((0, measured + (limit is not None)))
        self._pending = np.empty((0, len(genome)), np.int16)
        self._encoding = Encoding(genome)
        self._variation = Variation(genome)
        self._all = every(genome, WHOLE)
        self._given = np.empty((0, len(genome)), np.int16) if pool is None else genome.canonical(pool)
        self._last: Fitted | None = None
        self._litters: list[tuple[Points, Points]] = []
        """Points bred for the next one to be asked for, and their parents."""
        self._bred: dict[bytes, Points] = {}
        """Parents of points asked for."""

    def tell(self, points: Points, values: Floats) -> None:
        """What was measured of points [points] or [points, measured]: objectives, then what has a limit.

        NaN where an evaluation failed.
        """
        points = self.genome.canonical(points)
        self._points = np.concatenate([self._points, points])
        self._values = np.concatenate([self._values, np.reshape(values, (len(points), self._values.shape[1]))])
        self._pending = self._pending[~_among(self._pending, points)]

    def ask(self, count: int = 1) -> Points:
        """The next points, best first: fewer where no more are left."""
        asked = self._pending[:0]
        for _ in range(count):
            met = np.concatenate([self._points, self._pending])
            rng = stream(self.seed, PROPOSE, len(met))
            self._litters.clear()
            blind = len(met) < self.first or not np.isfinite(self._values).all(axis=1).any()
            new = self._spread(rng, met) if blind else self._improving(rng, met)
            if not len(new):
                break
            asked = np.concatenate([asked, new])
            self._note(new)
            self._pending = np.concatenate([self._pending, new])
        return asked

    def parents(self, points: Points) -> Points:
        """[points, 2, genes]: the points that points asked for were bred from; -1 for those they have not."""
        none = unbred(1, len(self.genome))[0]
        found = [self._bred.get(row.tobytes(), none) for row in points]
        return np.array(found, np.int16).reshape(len(points), *none.shape)

    def _note(self, new: Points) -> None:
        """Remembers the parents of a point [1, genes], where it was bred."""
        for children, parents in self._litters:
            for at in np.flatnonzero((children == new).all(axis=1))[:1]:
                self._bred.setdefault(new.tobytes(), parents[at])

    def _spread(self, rng: np.random.Generator, met: Points) -> Points:
        """The first candidate at the lowest known cost, the others as far as possible from all before."""
        pool, known = self._candidates(met, self._random(rng) if self._all is None else self._all)
        if not len(pool):
            return pool
        if not len(met):
            at = int(np.argmin(known[:, 0])) if known.shape[1] else int(rng.integers(len(pool)))
            return pool[at : at + 1]
        if self._all is None:  # the farthest of thousands lie in corners, where every gene is extreme
            pool = pool[rng.permutation(len(pool))[:FAR]]
        near = self._encoding.similarity(pool, met).max(axis=1)
        least = np.flatnonzero(near <= near.min() + 1e-9)
        at = int(least[rng.integers(len(least))])
        return pool[at : at + 1]

    def _improving(self, rng: np.random.Generator, met: Points) -> Points:
        """The candidate with the largest expected gain."""
        fitted = self._fitted()
        models = [self._model(m, met, fitted) for m in range(self._values.shape[1])]
        expected, margin = self._expected(models, met), self._margin(models, met)
        able = np.flatnonzero(np.isfinite(expected).all(axis=1) & (margin >= 0))
        best = able[nondominated(expected[able])]
        if not len(best) and self._limit < math.inf:
            return self._likeliest(rng, models, met, int(np.argmax(margin)))
        if not len(best):
            return self._spread(rng, met)
        if self._all is None:
            pool, known = self._candidates(met, self._pool(rng, met[best]))
        else:
            pool, known = self._candidates(met, fitted.shortlist)
            if not len(pool):
                pool, known = self._candidates(met, self._all)
        gain = self._gain(models, pool, known, expected[best])
        for _ in range(ROUNDS if self._all is None and len(pool) else 0):
            top = pool[np.argsort(-gain, kind="stable")[:TOP]]
            more, costs = self._candidates(np.concatenate([met, pool]), self._near(rng, top))
            gain = np.append(gain, self._gain(models, more, costs, expected[best]))
            pool = np.concatenate([pool, more])
        at = int(np.argmax(gain)) if len(pool) else 0
        return pool[at : at + 1]

    def _likeliest(self, rng: np.random.Generator, models: list[Process], met: Points, closest: int) -> Points:
        """The candidate that is likeliest to keep to the limit, where no point met does."""
        pool, known = self._candidates(met, self._pool(rng, met[[closest]]) if self._all is None else self._all)
        return pool[np.argsort(-self._sigmas(models, pool, known), kind="stable")[:1]]

    def _sigmas(self, models: list[Process], points: Points, known: Objectives) -> Floats:
        """By how many standard deviations points are expected to stay below the limit."""
        out = np.full(len(points), np.inf)
        for model in models[self.measured :]:
            mean, spread = model.predict(self._joined(points, known))
            out = (self._limit - mean) / spread
        return out

    def _margin(self, models: list[Process], met: Points) -> Floats:
        """How far below the limit what was measured lies; of pending points what is expected to be."""
        out = np.full(len(met), np.inf)
        told = self._values[: len(met)]
        for model, values in zip(models[self.measured :], told[:, self.measured :].T, strict=True):
            expected = model.predict(self._features(met[len(told) :]))[0]
            out = self._limit - np.append(np.where(np.isfinite(values), values, np.inf), expected)
        return out

    def _pool(self, rng: np.random.Generator, best: Points) -> Points:
        """Candidates of a space that is too large to look at as a whole."""
        return np.unique(np.concatenate([self._random(rng), self._near(rng, best)]), axis=0)

    def _random(self, rng: np.random.Generator) -> Points:
        return np.concatenate([self._given, self.genome.random(rng, POOL)])

    def _gain(self, models: list[Process], pool: Points, known: Objectives, front: Objectives) -> Floats:
        """What each candidate is expected to add; 0 for one that is dominated even if it turns out far better."""
        out = np.zeros(len(pool))
        mean, spread = self._predicted(models, pool, known)
        rows = np.flatnonzero(~beaten(mean - LUCK * spread, front))
        worst = front.max(axis=0)
        reference = worst + 0.1 * (worst - front.min(axis=0))
        reference[self.measured :] = np.maximum(reference[self.measured :], known.max(axis=0, initial=-np.inf))
        sigmas = self._sigmas(models, pool[rows], known[rows])
        likely = np.array([math.erfc(-s / 2**0.5) / 2 for s in sigmas.tolist()])
        out[rows] = expected_gain(mean[rows], spread[rows], front, reference) * likely
        return out

    def _predicted(self, models: list[Process], points: Points, known: Objectives) -> tuple[Objectives, Objectives]:
        """Means and standard deviations of all objectives; what is known has no deviation."""
        features = self._joined(points, known)
        predicted = [model.predict(features) for model in models[: self.measured]]
        mean = np.stack([*(m for m, _ in predicted), *known.T], axis=1)
        return mean, np.stack([*(s for _, s in predicted), *np.zeros_like(known.T)], axis=1)

    def _expected(self, models: list[Process], met: Points) -> Objectives:
        return self._predicted(models, met, self._known(met))[0]

    def _near(self, rng: np.random.Generator, points: Points) -> Points:
        first, second = rng.integers(len(points), size=(2, POOL))
        children, crossed = self._variation.children(rng, points[first], points[second])
        parents = np.stack([points[first], np.where(crossed[:, None], points[second], -1)], axis=1)
        children, at = np.unique(children, axis=0, return_index=True)
        self._litters.append((children, parents[at]))
        return children

    def _candidates(self, met: Points, points: Points) -> tuple[Points, Objectives]:
        """The points not met that no known objective rules out, and their known objectives."""
        points = points[~_among(points, met)]
        known = self._known(points)
        able = np.isfinite(known).all(axis=1)
        return points[able], known[able]

    def _features(self, points: Points) -> Floats:
        return self._joined(points, self._known(points))

    def _joined(self, points: Points, known: Objectives) -> Floats:
        return np.concatenate([self._encoding.features(points), np.where(np.isfinite(known), known, 0)], axis=1)

    def _fitted(self) -> Fitted:
        """What follows from the points told so far, or from the most recent ones before that a fit was due at."""
        size = 1
        while math.ceil(size * GROWTH) <= len(self._points):
            size = math.ceil(size * GROWTH)
        if self._last is None or self._last.size != size:
            met = self._points[:size]
            columns = range(self._values.shape[1])
            parameters = [fit(self._encoding, self._features(met), self._told(m, size)) for m in columns]
            self._last = Fitted(size, parameters, met[:0])
            if self._all is not None:
                models = [self._model(m, met, self._last) for m in columns]
                pool, known = self._candidates(met, self._all)
                mean, spread = self._predicted(models, pool, known)
                within = self._expected(models, met)[self._margin(models, met) >= 0]
                self._last = Fitted(size, parameters, pool[~beaten(mean - LUCK * spread, within)])
        return self._last

    def _told(self, m: int, size: int) -> Floats:
        """One measured column of the first points told; a failure counts as the worst of them."""
        values = self._values[:size, m]
        finite = np.isfinite(values)
        return np.where(finite, values, values[finite].max() if finite.any() else 0.0)

    def _model(self, m: int, met: Points, fitted: Fitted) -> Process:
        """The process of one measured column; points that are pending have the value it expects of them."""
        values = self._told(m, len(met))
        features = self._features(met)
        process = Process.of(self._encoding, fitted.parameters[m], features[: len(values)], values)
        if len(met) > len(values):
            believed = process.predict(features[len(values) :])[0]
            process = Process.of(self._encoding, fitted.parameters[m], features, np.append(values, believed))
        return process


@dataclass(frozen=True)
class Fitted:
    """What is kept until the next fit."""

    size: int
    """Of how many points it is a function."""
    parameters: list[Parameters]
    """Of each measured column."""
    shortlist: Points
    """Of a space that is a candidate as a whole: those that could be on the front."""


@dataclass(frozen=True)
class Encoding:
    """A genome's points as indicators of their alternatives, and how alike alternatives are."""

    genome: Genome

    @cached_property
    def starts(self) -> Indices:
        """Where each gene's indicators begin: one an alternative, and one for not having the gene."""
        return np.cumsum([0, *(int(o) + 1 for o in self.genome.options)])

    @cached_property
    def alike(self) -> Floats:
        """[indicators, indicators]: 1 where equal; neighbours of an ordered gene are alike, other genes not at all."""
        out = np.zeros((self.starts[-1], self.starts[-1]))
        for g, start in zip(self.genome.genes, self.starts[:-1], strict=True):
            at = np.arange(g.options)
            apart = np.abs(at[:, None] - at) / max(1, g.options - 1)
            out[start : start + g.options, start : start + g.options] = np.exp(-2 * apart) if g.ordered else apart == 0
            out[start + g.options, start + g.options] = 1
        return out

    def features(self, points: Points) -> Floats:
        """[points, indicators]."""
        taken = np.where(self.genome.active(points), points, self.genome.options) + self.starts[:-1]
        out = np.zeros((len(points), self.starts[-1]))
        np.put_along_axis(out, taken, 1, axis=1)
        return out

    def similarity(self, first: Points, second: Points) -> Floats:
        """[first, second]: the share of genes in which they are alike."""
        return np.asarray(self.features(first) @ self.alike @ self.features(second).T) / len(self.genome)

    def scales(self, weights: Floats) -> Floats:
        """Weights of genes as weights of their indicators."""
        return np.repeat(weights, np.diff(self.starts))


@dataclass(frozen=True)
class Parameters:
    """Of a process: covariance = height * exp(-sum of weights of the genes that differ) + slope * known * known'."""

    weights: Floats
    """[genes]."""
    height: float
    slope: float
    noise: float
    """Variance of the noise, in variances of the values."""


@dataclass(frozen=True)
class Process:
    """A Gaussian process, given what was measured."""

    encoding: Encoding
    parameters: Parameters
    middle: Floats
    scale: Floats
    """Of the known objectives, to which the features are normalised."""
    features: Floats
    inverse: Floats
    """Of the covariance's Cholesky factor."""
    weights: Floats
    mean: float
    spread: float
    """Of the values."""

    @staticmethod
    def of(encoding: Encoding, parameters: Parameters, features: Floats, values: Floats) -> Process:
        middle, scale = _normal(features[:, encoding.starts[-1] :])
        mean, spread = _moments(values)
        covariance = _covariance(encoding, parameters, middle, scale, features, features)
        covariance[np.diag_indices(len(values))] += parameters.noise + JITTER
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        weights = inverse.T @ (inverse @ ((values - mean) / spread))
        return Process(encoding, parameters, middle, scale, features, inverse, weights, mean, spread)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations, the noise of a measurement left out."""
        p = self.parameters
        across = _covariance(self.encoding, p, self.middle, self.scale, features, self.features)
        known = (features[:, self.encoding.starts[-1] :] - self.middle) / self.scale
        prior = p.height + p.slope * np.sum(known * known, axis=1)
        explained = np.sum(np.square(across @ self.inverse.T), axis=1)
        spread = np.sqrt(np.maximum(prior - explained, 1e-12))
        return self.mean + self.spread * (across @ self.weights), self.spread * spread


def fit(encoding: Encoding, features: Floats, values: Floats) -> Parameters:
    """The parameters that explain values best: likelihood and a broad prior, by steps along each gradient's sign."""
    genes, n = len(encoding.genome), len(values)
    middle, scale = _normal(features[:, encoding.starts[-1] :])
    known = (features[:, encoding.starts[-1] :] - middle) / scale
    linear = known @ known.T
    mean, spread = _moments(values)
    y = (values - mean) / spread
    start = encoding.starts
    blocks = [slice(a, b) for a, b in pairwise(start)]
    apart = 1 - np.stack([features[:, b] @ encoding.alike[b, b] @ features[:, b].T for b in blocks])
    flat = apart.reshape(genes, n * n)
    first = np.log(np.array([*[1.5 / genes] * genes, 1.0, 0.1, 0.1]))
    at, step, before = first.copy(), np.full(len(first), 0.3), np.zeros(len(first))
    best, likeliest = first, -np.inf
    for _ in range(STEPS):
        p = np.exp(at)
        curved = p[genes] * np.exp(-(p[:genes] @ flat)).reshape(n, n)
        covariance = curved + p[genes + 1] * linear
        covariance[np.diag_indices(n)] += p[genes + 2] + JITTER
        factor = np.linalg.cholesky(covariance)
        half = np.linalg.inv(factor)
        inverse = half.T @ half
        weights = inverse @ y
        likelihood = -0.5 * (y @ weights) - np.log(np.diag(factor)).sum() - 0.5 * np.sum((at - first) ** 2)
        if likelihood > likeliest:
            best, likeliest = at.copy(), likelihood
        pull = 0.5 * (np.outer(weights, weights) - inverse)
        through = pull * curved
        slopes = [through.sum(), p[genes + 1] * np.sum(pull * linear), p[genes + 2] * np.trace(pull)]
        slope = np.concatenate([-p[:genes] * (flat @ through.ravel()), slopes]) - (at - first)
        agree = np.sign(slope) * np.sign(before)
        step = np.clip(step * np.where(agree > 0, 1.3, np.where(agree < 0, 0.5, 1)), 1e-3, 0.6)
        at, before = at + np.sign(slope) * step, slope
    p = np.exp(best)
    return Parameters(p[:genes], float(p[genes]), float(p[genes + 1]), float(p[genes + 2]))


def expected_gain(mean: Objectives, spread: Objectives, front: Objectives, reference: Floats) -> Floats:
    """What each point is expected to add to the hypervolume: objectives are normal and independent."""
    low, high = boxes(front, reference)
    out = np.zeros(len(mean))
    for start in range(0, len(mean), 1024):
        rows = slice(start, start + 1024)
        volume = np.ones((len(mean[rows]), len(low)))
        for m in range(mean.shape[1]):
            levels, at = np.unique(np.concatenate([low[:, m], high[:, m]]), return_inverse=True)
            below = _below(levels, mean[rows, m, None], spread[rows, m, None])
            volume *= below[:, at[len(low) :]] - below[:, at[: len(low)]]
        out[rows] = volume.sum(axis=1)
    return out


def boxes(front: Objectives, reference: Floats) -> tuple[Floats, Floats]:
    """Lower and upper corners of disjoint boxes that make up what a front leaves undominated below a reference."""
    front = front[(front < reference).all(axis=1)]
    if front.shape[1] == 1:
        top = front.min(initial=reference[0])
        return np.array([[-np.inf]]), np.array([[top]])
    levels = np.unique(np.append(front[:, -1], reference[-1]))
    lows, highs, bottom = [], [], -np.inf
    for top in levels:
        under = front[front[:, -1] < top, :-1]
        low, high = boxes(under[nondominated(under)], reference[:-1])
        lows.append(np.concatenate([low, np.full((len(low), 1), bottom)], axis=1))
        highs.append(np.concatenate([high, np.full((len(low), 1), top)], axis=1))
        bottom = top
    return np.concatenate(lows), np.concatenate(highs)


def every(genome: Genome, limit: int) -> Points | None:
    """All points of a genome, or None where there are more than a limit."""
    out, has = np.zeros((1, len(genome)), np.int16), np.ones((1, len(genome)), bool)
    for i, g in enumerate(genome.genes):
        if g.parent is not None:
            has[:, i] = has[:, g.parent] & (out[:, g.parent] == g.when)
        ways = np.where(has[:, i], g.options, 1)
        if ways.sum() > limit:
            return None
        first = np.repeat(np.cumsum(ways) - ways, ways)
        out, has = np.repeat(out, ways, axis=0), np.repeat(has, ways, axis=0)
        out[:, i] = np.arange(len(out)) - first
    return out


def _covariance(
    encoding: Encoding, p: Parameters, middle: Floats, scale: Floats, first: Floats, second: Floats
) -> Floats:
    split = encoding.starts[-1]
    weighted = encoding.scales(p.weights)[:, None] * encoding.alike
    equal = first[:, :split] @ (weighted @ second[:, :split].T)
    a, b = (first[:, split:] - middle) / scale, (second[:, split:] - middle) / scale
    return np.asarray(p.height * np.exp(equal - p.weights.sum()) + p.slope * (a @ b.T))


_STEPS = 512
"""Nodes of the table below a standard deviation; it reaches from -8 to 8."""
_NODES = np.arange(-8 * _STEPS, 8 * _STEPS + 2) / _STEPS
_INTEGRAL = np.array([z / 2 * math.erfc(-z / 2**0.5) + math.exp(-z * z / 2) / math.tau**0.5 for z in _NODES.tolist()])


def _below(levels: Floats, mean: Floats, spread: Floats) -> Floats:
    """The integral up to each level of the probability that a normal variable lies below."""
    above = levels - mean
    if not spread.any():
        return np.maximum(above, 0)
    z = above / np.maximum(spread, 1e-12)
    place = np.clip((z + 8) * _STEPS, 0, 16 * _STEPS)
    node = place.astype(np.int64)
    low = _INTEGRAL[node]
    inside = spread * (low + (place - node) * (_INTEGRAL[node + 1] - low))
    return np.asarray(np.where(z < 8, inside, above))


def _normal(known: Floats) -> tuple[Floats, Floats]:
    """Middle and scale of each known objective over the points."""
    scale = known.std(axis=0)
    return known.mean(axis=0), np.where(scale > 0, scale, 1.0)


def _moments(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) or 1.0


def _among(points: Points, others: Points) -> Mask:
    """Which points are among others."""
    met = {row.tobytes() for row in others}
    return np.array([row.tobytes() in met for row in points], bool)
