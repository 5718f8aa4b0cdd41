"""Turns batches of priced points into the front: those that no other point is better than in every objective.

All objectives are minimised. Everything here depends on the members alone, not on the order in which they came,
as long as the front stays within the capacity.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.search.genome import Points

Objectives: TypeAlias = NDArray[np.float64]
"""[points, objectives]: less is better."""
Hashes: TypeAlias = NDArray[np.uint64]
"""[points, 2]: equal for points that mean the same."""
Mask: TypeAlias = NDArray[np.bool_]
Indices: TypeAlias = NDArray[np.int64]

BLOCK = 32
"""Members that candidates are compared with at once; what they dominate is not compared with the next ones."""


@dataclass(frozen=True)
class Archive:
    """A front, in order of its objectives and then of its hashes."""

    points: Points
    objectives: Objectives
    hashes: Hashes
    parents: Points
    """[members, 2, genes]: of the points that each was bred from when it was first met; -1 for those it has not."""
    capacity: int | None = None
    """How many members are kept: those that stand alone go last, the best in one objective never."""

    @staticmethod
    def empty(genes: int, objectives: int, capacity: int | None = None) -> Archive:
        points, parents = np.empty((0, genes), np.int16), unbred(0, genes)
        return Archive(points, np.empty((0, objectives)), np.empty((0, 2), np.uint64), parents, capacity)

    def __len__(self) -> int:
        return len(self.points)

    def insert(self, points: Points, objectives: Objectives, hashes: Hashes, parents: Points | None = None) -> Archive:
        """The front of the members and of more points. Points with an objective that is not finite are left out."""
        parents = unbred(*points.shape) if parents is None else parents
        rows = np.flatnonzero(np.isfinite(objectives).all(axis=1))
        rows = rows[~beaten(objectives[rows], self.objectives[self._spread])]
        rows = rows[nondominated(objectives[rows])]
        kept = np.flatnonzero(~beaten(self.objectives, objectives[rows]))
        together = Archive(
            np.concatenate([self.points[kept], points[rows]]),
            np.concatenate([self.objectives[kept], objectives[rows]]),
            np.concatenate([self.hashes[kept], hashes[rows]]),
            np.concatenate([self.parents[kept], parents[rows]]),
            self.capacity,
        )
        found = together._at(np.lexsort((together.hashes[:, 1], together.hashes[:, 0], *together.objectives.T[::-1])))
        again = np.append(False, (found.hashes[1:] == found.hashes[:-1]).all(axis=1))[: len(found)]
        return found._at(np.flatnonzero(~again))._trimmed()

    def hypervolume(self, reference: NDArray[np.float64]) -> float:
        return hypervolume(self.objectives, reference)

    def digest(self) -> str:
        """SHA-256 of the members: equal for equal fronts, whatever their members were bred from."""
        h = hashlib.sha256(repr((self.points.shape, self.objectives.shape)).encode())
        for values, kind in ((self.hashes, "<u8"), (self.objectives, "<f8"), (self.points, "<i2")):
            h.update(np.ascontiguousarray(values, kind).tobytes())
        return h.hexdigest()

    def thinned(self, count: int) -> Archive:
        """At most `count` of the members."""
        return replace(self, capacity=count)._trimmed()

    @property
    def _spread(self) -> Indices:
        """Every member, in an order that puts far ones side by side: the first ones dominate most."""
        step = 1 + max(1, len(self) // BLOCK)
        return np.concatenate([np.arange(i, len(self), step) for i in range(step)])

    def _at(self, rows: Indices) -> Archive:
        return Archive(self.points[rows], self.objectives[rows], self.hashes[rows], self.parents[rows], self.capacity)

    def _trimmed(self) -> Archive:
        kept = self
        while kept.capacity is not None and len(kept) > kept.capacity:
            drop = (len(kept) - kept.capacity + 1) // 2
            lonely = np.argsort(-crowding(kept.objectives), kind="stable")
            kept = kept._at(np.sort(lonely[: len(kept) - drop]))
        return kept


def unbred(points: int, genes: int) -> Points:
    """[points, 2, genes]: the parents of points that have none."""
    return np.full((points, 2, genes), -1, np.int16)


def nondominated(objectives: Objectives) -> Mask:
    """Which rows no other dominates: is as good in all objectives and better in one. Equal rows stay together."""
    if objectives.shape[1] == 1:
        return np.asarray(objectives[:, 0] == objectives[:, 0].min(initial=np.inf))
    order = np.lexsort(objectives.T[::-1])
    rows = objectives[order]
    out = np.zeros(len(rows), bool)
    if objectives.shape[1] == 2:
        first = np.append(True, (rows[1:] != rows[:-1]).any(axis=1))[: len(rows)]
        y = rows[first, 1]
        kept = np.append(True, y[1:] < np.minimum.accumulate(y)[:-1])[: len(y)]
        out[order] = kept[np.cumsum(first) - 1]
        return out
    left = np.arange(len(rows))  # nothing dominates a row that precedes it here
    while left.size:
        block = left[:BLOCK]
        block = block[~beaten(rows[block], rows[block])]
        out[order[block]] = True
        rest = left[BLOCK:]
        left = rest[~beaten(rows[rest], rows[block])]
    return out


def ranks(objectives: Objectives) -> Indices:
    """The number of the front that each row is on: 0 for those that none dominates, 1 for the next ones ..."""
    out = np.zeros(len(objectives), np.int64)
    left, rank = np.arange(len(objectives)), 0
    while left.size:
        front = nondominated(objectives[left])
        out[left[front]] = rank
        left, rank = left[~front], rank + 1
    return out


def crowding(objectives: Objectives) -> NDArray[np.float64]:
    """How far apart a row's neighbours are, summed over normalised objectives; infinite for the best and the worst."""
    out = np.zeros(len(objectives))
    for column in objectives.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        span = values[-1] - values[0] if len(values) else 0.0
        out[order[:1]] = out[order[-1:]] = np.inf
        if span > 0:
            out[order[1:-1]] += (values[2:] - values[:-2]) / span
    return out


def hypervolume(front: Objectives, reference: NDArray[np.float64]) -> float:
    """The volume that points dominate below a reference point: exact, by slices along the last objective."""
    reference = np.asarray(reference, np.float64)
    inside = front[(front < reference).all(axis=1)]
    return _volume(inside[nondominated(inside)], reference)


def _volume(front: Objectives, reference: NDArray[np.float64]) -> float:
    if not len(front):
        return 0.0
    if front.shape[1] == 1:
        return float(reference[0] - front.min())
    if front.shape[1] == 2:
        x, y = front[np.lexsort((front[:, 1], front[:, 0]))].T
        return float(np.sum(np.diff(np.append(x, reference[0])) * (reference[1] - np.minimum.accumulate(y))))
    order = np.argsort(front[:, -1], kind="stable")
    total, slices = 0.0, front[order, :-1]
    heights = np.diff(np.append(front[order, -1], reference[-1]))
    below = slices[:0]
    for i in range(len(slices)):
        below = np.concatenate([below, slices[i : i + 1]])
        below = below[nondominated(below)]
        if heights[i] > 0:
            total += float(heights[i]) * _volume(below, reference[:-1])
    return total


def beaten(rows: Objectives, by: Objectives) -> Mask:
    """Which rows one of `by` dominates."""
    out = np.zeros(len(rows), bool)
    left = np.arange(len(rows))
    for start in range(0, len(by), BLOCK):
        some = by[start : start + BLOCK]
        at = rows[left]
        worse = np.ones((len(left), len(some)), bool)
        strictly = np.zeros_like(worse)
        for m in range(rows.shape[1]):
            worse &= at[:, m, None] >= some[:, m]
            strictly |= at[:, m, None] > some[:, m]
        worse &= strictly
        hit = worse.any(axis=1)
        out[left[hit]] = True
        left = left[~hit]
        if not left.size:
            break
    return out
