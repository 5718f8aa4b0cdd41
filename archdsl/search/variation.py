"""Turns points into new points nearby: mutation and crossover that know stages and nested choices.

Every operation works on whole matrices and returns canonical points. What is random comes from a generator that the
caller takes from `stream`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.search.genome import Genome, Points

Units: TypeAlias = NDArray[np.int64]
Indices: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

STEP = 0.7
"""Share of the mutations of an ordered gene that go to a neighbouring alternative."""
AGAIN = (0.5, 0.5)
"""Chance that a mutated point is mutated in a second gene, and then in a third."""
SWAP = 0.1
"""Chance that two stages of a mutated point change places, instead of its first mutation."""
WHOLE = 0.5
"""Share of the crossovers that take a stage as a whole; the others take its genes one by one."""
TRIED = 4
"""Genes that a step chooses from."""


@dataclass(frozen=True)
class Variation:
    """The operators of one genome."""

    genome: Genome

    def children(
        self, rng: np.random.Generator, first: Points, second: Points, crossed: float = 0.5
    ) -> tuple[Points, Mask]:
        """One child of every pair, and whether both are its parents, or the first alone.

        It is crossed with the given chance, then mutated (always, where it was not crossed).
        """
        cross = rng.random(len(first)) < crossed
        child = first.copy()
        child[cross] = self.cross(rng, first[cross], second[cross])
        mutate = ~cross | (rng.random(len(first)) < 0.5)
        child[mutate] = self.mutate(rng, child[mutate])
        return child, cross

    def cross(self, rng: np.random.Generator, first: Points, second: Points) -> Points:
        """The genes of a stage come from one parent, or each gene does; nested genes go with the one around them."""
        coins = rng.integers(2, size=(len(first), len(self.genome)), dtype=np.uint8).astype(bool)
        whole = rng.random((len(first), 1)) < WHOLE
        return self.genome.canonical(
            np.where(np.where(whole, coins[:, self._stages], coins[:, self._roots]), first, second)
        )

    def mutate(self, rng: np.random.Generator, points: Points) -> Points:
        """One to three genes of every point take another alternative, or two stages change places."""
        out = points.copy()
        swapped = np.zeros(len(out), bool)
        if len(self._swaps):
            swapped = rng.random(len(out)) < SWAP
            rows = np.flatnonzero(swapped)
            which = rng.integers(len(self._swaps), size=len(rows))
            out[rows] = np.take_along_axis(out[rows], self._swaps[which], axis=1)
        rows = np.flatnonzero(~swapped)
        for chance in (*AGAIN, 0.0):
            out[rows] = self._mutate_one(rng, out[rows])
            rows = rows[rng.random(len(rows)) < chance]
        return self.genome.canonical(out)

    def step(self, rng: np.random.Generator, points: Points, wanted: Floats, effect: Floats) -> Points:
        """One gene of every point goes to another alternative: the one that changes it most nearly as wanted.

        `effect` [genes, alternatives] says what an alternative adds. Only a few genes of a point are looked at, so that
        points that are alike take different steps.
        """
        out, rows = points.copy(), np.arange(len(points))
        free = self.genome.active(points) & (self.genome.options > 1)
        shuffled = np.where(free, rng.random(points.shape, np.float32), 2)
        some = np.argsort(shuffled, axis=1, kind="stable")[:, :TRIED]
        old, alternatives = np.take_along_axis(points, some, axis=1), np.arange(effect.shape[1])
        miss = np.abs(effect[some] - (effect[some, old] + wanted[:, None])[:, :, None])
        able = np.take_along_axis(free, some, axis=1)[:, :, None]
        able = able & (alternatives < self.genome.options[some][:, :, None]) & (alternatives != old[:, :, None])
        best = np.argmin(np.where(able, miss, np.inf).reshape(len(points), some.shape[1] * len(alternatives)), axis=1)
        gene = some[rows, best // len(alternatives)]
        out[rows, gene] = np.where(free.any(axis=1), best % len(alternatives), points[rows, gene])
        self._renew(rng, out, gene)
        return self.genome.canonical(out)

    def _mutate_one(self, rng: np.random.Generator, points: Points) -> Points:
        """One gene of every point, among those it has, takes another alternative."""
        out, rows = points.copy(), np.arange(len(points))
        free = self.genome.active(points) & (self.genome.options > 1)
        seen = np.cumsum(free, axis=1, dtype=np.int16)
        wanted = np.floor(rng.random(len(points)) * seen[:, -1]).astype(np.int16) + 1
        gene = np.argmax(seen >= wanted[:, None], axis=1)
        old, options = out[rows, gene], self.genome.options[gene]
        new = np.floor(rng.random(len(points)) * (options - 1)).astype(np.int16)
        new += new >= old
        up = rng.random(len(points)) < 0.5
        rises = np.logical_or(up, old == 0) & (old < options - 1)
        near = np.where(rises, old + 1, old - 1)
        step = self._ordered[gene] & (rng.random(len(points)) < STEP)
        new = np.where(step, near, new)
        out[rows, gene] = np.where(seen[:, -1] > 0, new, old)
        self._renew(rng, out, gene)
        return out

    def _renew(self, rng: np.random.Generator, points: Points, gene: Indices) -> None:
        """Draws the genes inside of a changed one anew, so that those which come into being are not all 0."""
        rows = np.flatnonzero(np.asarray(self._inside.any(axis=1))[gene])
        fresh = np.floor(rng.random((len(rows), len(self.genome))) * self.genome.options)
        points[rows] = np.where(self._inside[gene[rows]], fresh, points[rows])

    @cached_property
    def _ordered(self) -> Mask:
        return np.array([g.ordered for g in self.genome.genes], bool)

    @cached_property
    def _roots(self) -> Units:
        """Of each gene the outermost one around it."""
        out = np.arange(len(self.genome))
        for i, g in enumerate(self.genome.genes):
            if g.parent is not None:
                out[i] = out[g.parent]
        return out

    @cached_property
    def _stages(self) -> Units:
        """Of each gene the first one that goes with it when stages go as a whole."""
        first: dict[int, int] = {}
        roots = [self.genome.genes[r].stage for r in self._roots]
        for i, stage in enumerate(roots):
            if stage is not None:
                first.setdefault(stage, i)
        return np.array([r if s is None else first[s] for r, s in zip(self._roots, roots, strict=True)], np.int64)

    @cached_property
    def _inside(self) -> Mask:
        """[genes, genes]: whether the second stands inside an alternative of the first."""
        out = np.zeros((len(self.genome), len(self.genome)), bool)
        for i, g in enumerate(self.genome.genes):
            if g.parent is not None:
                out[:, i] = out[:, g.parent]
                out[g.parent, i] = True
        return out

    @cached_property
    def _swaps(self) -> Indices:
        """[swaps, genes]: orders of the genes in which two stages have changed places, in one pattern or in all.

        Genes of two stages match where their names differ in the stage alone and their alternatives agree.
        """
        patterns: dict[str, dict[int, list[int]]] = {}
        for i, root in enumerate(self._roots):
            g = self.genome.genes[root]
            if g.stage is not None:
                patterns.setdefault(_pattern(g.name, g.stage), {}).setdefault(g.stage, []).append(i)
        found: dict[tuple[int, int], list[Indices]] = {}
        for stages in patterns.values():
            for s, ours in stages.items():
                for t, theirs in stages.items():
                    if s < t and self._alike(ours, theirs):
                        order = np.arange(len(self.genome))
                        order[ours], order[theirs] = theirs, ours
                        found.setdefault((s, t), []).append(order)
        out = [order for orders in found.values() for order in orders]
        for orders in found.values():
            if len(orders) > 1:
                whole = np.arange(len(self.genome))
                for order in orders:
                    whole = whole[order]
                out.append(whole)
        return np.array(out, np.int64).reshape(len(out), len(self.genome))

    def _alike(self, ours: list[int], theirs: list[int]) -> bool:
        """Whether two lists of a gene and the ones inside it have the same alternatives, one by one."""

        def shape(genes: list[int]) -> list[tuple[object, ...]]:
            members = [self.genome.genes[i] for i in genes]
            return [
                (g.options, g.ordered, None if g.parent is None else genes.index(g.parent), g.when) for g in members
            ]

        return shape(ours) == shape(theirs)


def _pattern(name: str, stage: int) -> str:
    """A gene's name without its stage: `depths.2` becomes `depths.*`."""
    return re.sub(rf"\.{stage}(?=\.|$)", ".*", name, count=1)
