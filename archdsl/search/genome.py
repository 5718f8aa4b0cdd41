"""Turns a space into a genome: one gene a draw, so that points are rows of a matrix of small integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.int16]
"""[points, genes]: the alternative taken by each gene. A gene that a point does not have holds 0."""


@dataclass(frozen=True, slots=True)
class Gene:
    """One draw of a space: its name, its number of alternatives, and where it stands."""

    name: str
    options: int
    ordered: bool = False
    """Whether neighbouring alternatives are close to each other: members of a range, rising numbers."""
    stage: int | None = None
    """The stage whose element of a per-stage list it decides; None for one that several stages share."""
    parent: int | None = None
    """The gene inside one of whose alternatives it stands (its index, smaller than its own)."""
    when: int = 0
    """That alternative: elsewhere the gene does not exist."""


@dataclass(frozen=True)
class Genome:
    """The genes of a space, parents before the genes inside their alternatives."""

    genes: tuple[Gene, ...]

    def __len__(self) -> int:
        return len(self.genes)

    @cached_property
    def options(self) -> NDArray[np.int16]:
        """[genes]: how many alternatives each has."""
        return np.array([g.options for g in self.genes], np.int16)

    @cached_property
    def index(self) -> Mapping[str, int]:
        return {g.name: i for i, g in enumerate(self.genes)}

    def active(self, points: Points) -> NDArray[np.bool_]:
        """[points, genes]: whether a point has the gene."""
        out = np.ones(points.shape, bool)
        for i, g in enumerate(self.genes):
            if g.parent is not None:
                out[:, i] = out[:, g.parent] & (points[:, g.parent] == g.when)
        return out

    def canonical(self, points: Points) -> Points:
        """The points with 0 in the genes they do not have: equal rows are equal points."""
        return np.where(self.active(points), points, 0).astype(np.int16)

    def random(self, rng: np.random.Generator, count: int) -> Points:
        """`count` points, every gene drawn uniformly."""
        return self.canonical(rng.integers(0, self.options, (count, len(self)), dtype=np.int16))

    def encode(self, draws: Mapping[str, int]) -> Points:
        """One point [1, genes] from its draws by name."""
        return np.array([[draws.get(g.name, 0) for g in self.genes]], np.int16)

    def decode(self, point: Sequence[int] | Points) -> dict[str, int]:
        """The draws of one point, those it has."""
        row = np.asarray(point, np.int16).reshape(1, -1)
        active = self.active(row)[0]
        return {g.name: int(row[0, i]) for i, g in enumerate(self.genes) if active[i]}


def stream(seed: int, purpose: int, step: int) -> np.random.Generator:
    """Random numbers that depend on these three alone (Philox, doi 10.1145/2063384.2063405).

    Whoever asks, in whatever order, gets the same numbers: what a step draws does not depend on the steps before,
    the number of workers or an interruption. Streams of 2^128 blocks each never meet.
    """
    key = np.array([seed % (1 << 64), purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, 0]))
