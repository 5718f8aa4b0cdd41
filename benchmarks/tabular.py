"""Turns a seed into a search problem with known answers: every architecture of a small space, its cost and its quality.

The space is the one of tabular.arch. What it costs is what archdsl prices; how good it is, is drawn anew for every
seed: effects of each stage's mixer, kernel and depth and of the width, interactions between the mixers of any two
stages (strong ones between neighbours), of mixer with depth and with width, a remainder that belongs to one
architecture alone, returns that diminish, and the noise of a single training. Each seed also renames the genes, puts
them and the stages into another order, and reorders alternatives, so that an engine can live on no name or position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archdsl.search.genome import Gene, Genome, Points

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

STAGES = 4
KINDS = ("pool_mixer", "sep_conv", "mhsa")
KERNELS = (3, 7)
DEPTHS = ((2, 3), (2, 3), (6, 9), (2, 3))
WIDTHS = (32, 48, 64)
DIMS = (1, 2, 5, 8)
"""Channels of each stage, in widths."""
SIDES = (56, 28, 14, 7)
LEAVES = ((0, 0), (1, 0), (1, 1), (2, 0))
"""(kind, kernel) of each mixer that a stage can have: only the convolution has a kernel."""
SHAPE = (len(WIDTHS), *(len(LEAVES),) * STAGES, *(2,) * STAGES)
"""A design is (width, a leaf a stage, a depth a stage); its row in the table is its number in this mixed radix."""
SIZE = int(np.prod(SHAPE))

NOISE = 0.2
"""Standard deviation of the noise, in standard deviations of the quality over the space."""


@dataclass(frozen=True)
class Problem:
    """One drawing of the problem. Rows index designs; points are what an engine sees."""

    seed: int
    genome: Genome
    points: Points
    """[SIZE, genes]: the point of every row."""
    macs: Floats
    """Multiply-adds."""
    quality: Floats
    """What would be known without noise; more is better."""
    observed: Floats
    """What an evaluation returns: one training, the same each time."""
    _order: NDArray[np.int64]
    """Rows by the key of their point."""
    _keys: NDArray[np.int64]

    @staticmethod
    def of(seed: int) -> Problem:
        rng = np.random.default_rng([seed, 0x7AB])
        designs = np.stack(np.unravel_index(np.arange(SIZE), SHAPE), axis=1)
        quality = _quality(rng, designs)
        observed = quality + rng.normal(0, NOISE * quality.std(), SIZE)
        genome, points = _disguise(rng, designs)
        keys = _key(genome, points)
        order = np.argsort(keys)
        return Problem(seed, genome, points, macs(designs), quality, observed, order, keys[order])

    def rows(self, points: Points) -> Rows:
        """The rows of points."""
        keys = _key(self.genome, points)
        at = np.searchsorted(self._keys, keys)
        assert np.array_equal(self._keys[at], keys), "a point that the genome does not have"
        return self._order[at]

    def cost(self, rows: Rows) -> Floats:
        """The objective that is known without evaluating: log multiply-adds, 0 to 1 over the space."""
        low, high = np.log(self.macs.min()), np.log(self.macs.max())
        return (np.log(self.macs[rows]) - low) / (high - low)

    def loss(self, rows: Rows) -> Floats:
        """The objective that an evaluation returns, less is better: 1 to 0 over the qualities of the space."""
        return self._scaled(self.observed[rows])

    def hypervolume(self, rows: Rows) -> float:
        """What designs dominate by their true quality and cost, as a share of what the whole space dominates.

        The reference point lies a tenth of the range beyond the worst values on the true front.
        """
        everything = np.arange(SIZE)
        true, cost = self._scaled(self.quality), self.cost(everything)
        front = _front(cost, true)
        reference = []
        for values in (cost[front], true[front]):
            reference.append(values.max() + 0.1 * (values.max() - values.min()))
        x, y = reference
        return _area(cost[rows], true[rows], x, y) / _area(cost[front], true[front], x, y)

    def chosen(self, rows: Rows) -> Rows:
        """Of evaluated designs those that look best: the front by what was observed."""
        return rows[_front(self.cost(rows), self.loss(rows))]

    def _scaled(self, quality: Floats) -> Floats:
        return (self.quality.max() - quality) / (self.quality.max() - self.quality.min())


def macs(designs: NDArray[np.int64]) -> Floats:
    """Multiply-adds of designs at 224 px, as `archdsl cost` counts them."""
    width = np.array(WIDTHS)[designs[:, 0]].astype(np.float64)
    total = SIDES[0] ** 2 * 7 * 7 * 3 * DIMS[0] * width + DIMS[-1] * width * 1000  # stem and classifier
    for s in range(STAGES):
        n, c = SIDES[s] ** 2, DIMS[s] * width
        if s > 0:
            total += n * 9 * DIMS[s - 1] * width * c
        mixer = [np.zeros_like(c), *(4 * n * c * c + 2 * n * c * k * k for k in KERNELS), 4 * n * c * c + 2 * n * n * c]
        block = np.choose(designs[:, 1 + s], mixer) + 8 * n * c * c
        total += np.array(DEPTHS[s])[designs[:, 1 + STAGES + s]] * block
    return total


def _quality(rng: np.random.Generator, designs: NDArray[np.int64]) -> Floats:
    width, leaves, depths = designs[:, 0], designs[:, 1 : 1 + STAGES], designs[:, 1 + STAGES :]
    z = np.cumsum(np.append(0.0, rng.normal(0.9, 0.3, len(WIDTHS) - 1)))[width]
    for s in range(STAGES):
        kind = rng.normal((-0.4, 0.2, 0.4), 0.8)
        main = np.array([kind[k] for k, _ in LEAVES]) + np.array([0, 0, rng.normal(0.2, 0.3), 0])
        z += main[leaves[:, s]] + rng.normal(0.4, 0.2) * depths[:, s]
        z += rng.normal(0, 0.2, (len(LEAVES), 2))[leaves[:, s], depths[:, s]]
        z += rng.normal(0, 0.15, (len(LEAVES), len(WIDTHS)))[leaves[:, s], width]
        for t in range(s):
            strength = 0.45 if s - t == 1 else 0.2
            z += rng.normal(0, strength, (len(LEAVES), len(LEAVES)))[leaves[:, t], leaves[:, s]]
    z += rng.normal(0, 0.15, SIZE)
    return 84 - 6 * np.exp(-(z - z.mean()) / 5)


def _disguise(rng: np.random.Generator, designs: NDArray[np.int64]) -> tuple[Genome, Points]:
    """The genome under names, positions, stages and orders drawn anew, and the point of every design."""
    names = iter([f"g{n:03d}" for n in rng.choice(1000, 1 + 3 * STAGES, replace=False)])
    stage_of = rng.permutation(STAGES)
    genes: list[Gene] = []
    columns: list[NDArray[np.int64]] = []
    blocks = [*range(STAGES), None]
    for i in rng.permutation(len(blocks)):
        s = blocks[i]
        if s is None:
            genes.append(Gene(next(names), len(WIDTHS), ordered=True))
            columns.append(_turned(rng, designs[:, 0], len(WIDTHS)))
            continue
        stage, leaf = int(stage_of[s]), designs[:, 1 + s]
        depth = _turned(rng, designs[:, 1 + STAGES + s], 2)
        depth_gene = Gene(next(names), 2, ordered=True, stage=stage)
        depth_first = bool(rng.integers(2))
        if depth_first:
            genes.append(depth_gene)
            columns.append(depth)
        to = rng.permutation(len(KINDS))
        genes.append(Gene(next(names), len(KINDS), stage=stage))
        columns.append(to[np.array([k for k, _ in LEAVES])[leaf]])
        genes.append(Gene(next(names), 2, ordered=True, stage=stage, parent=len(genes) - 1, when=int(to[1])))
        columns.append(_turned(rng, np.array([k for _, k in LEAVES])[leaf], 2))
        if not depth_first:
            genes.append(depth_gene)
            columns.append(depth)
    genome = Genome(tuple(genes))
    return genome, genome.canonical(np.stack(columns, axis=1).astype(np.int16))


def _turned(rng: np.random.Generator, values: NDArray[np.int64], options: int) -> NDArray[np.int64]:
    """An ordered gene, rising or falling."""
    return options - 1 - values if rng.integers(2) else values


def _key(genome: Genome, points: Points) -> NDArray[np.int64]:
    radix = np.cumprod(np.append(1, genome.options[:-1].astype(np.int64)))
    return genome.canonical(points).astype(np.int64) @ radix


def _front(x: Floats, y: Floats) -> Rows:
    """The rows that no other dominates, by rising x."""
    order = np.lexsort((y, x))
    best = np.minimum.accumulate(y[order])
    return order[np.append(True, y[order][1:] < best[:-1])]


def _area(x: Floats, y: Floats, right: float, top: float) -> float:
    """What points dominate below a reference point (both objectives minimised)."""
    within = (x < right) & (y < top)
    x, y = x[within], y[within]
    front = _front(x, y) if len(x) else np.empty(0, np.int64)
    widths = np.diff(np.append(x[front], right))
    return float(np.sum(widths * (top - y[front])))
