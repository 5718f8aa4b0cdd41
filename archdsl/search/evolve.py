"""Turns a state of a search into the next one: a generation of thousands of candidates that a callback prices at once.

This is the regime of analytic objectives, where a candidate costs a microsecond and a search sees millions of them.
A generation is a function of the seed, its number and the state before it, and of nothing else: a search that was
interrupted goes on from its last state exactly as it would have gone on without the interruption.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.search.archive import Archive, Hashes, Indices, Mask, Objectives, unbred
from archdsl.search.genome import Genome, Points, stream
from archdsl.search.variation import Variation

Floats: TypeAlias = NDArray[np.float64]
Keys: TypeAlias = NDArray[np.uint64]

EVOLVE = 0x45564F
"""The purpose of the random numbers drawn here."""
DIRECTIONS = 32
"""Weightings of the objectives, about: each keeps the points that are best by it."""
FIRST = 0.25
"""Share of the population that is kept for the first objective alone."""
AIM = -0.01
"""Where repairs aim: the logarithm of the share of the budget."""
REFINED = 1 / 32
"""A generation ends when fewer candidates than this share of it are left to repair or to replace."""


@dataclass(frozen=True)
class Evaluated:
    """What a callback says of a batch of points."""

    objectives: Objectives
    violation: Floats
    """[points]: 0 where within the budgets, else how far beyond; not finite where no step can repair the point."""
    hash: Hashes
    """[points, 2]: equal for points that mean the same."""
    used: Floats | None = None
    """[points]: the share used of the budget that is used most, where repairs should know on which side a point is."""

    @staticmethod
    def joined(parts: Sequence[Evaluated]) -> Evaluated:
        """What is said of several batches as one."""
        used = [p.used for p in parts if p.used is not None]
        return Evaluated(
            np.concatenate([p.objectives for p in parts]),
            np.concatenate([p.violation for p in parts]),
            np.concatenate([p.hash for p in parts]),
            np.concatenate(used) if used else None,
        )

    @property
    def off(self) -> Floats:
        """[points]: by how much, as a logarithm, the budget is passed (or, below 0, not used)."""
        return np.log1p(self.violation) if self.used is None else np.log(np.maximum(self.used, 1e-9))


Price: TypeAlias = Callable[[Points], Evaluated]


class Seen:
    """The points that a search has met, by 64 bits of their hash, in the order in which it met them."""

    def __init__(self, keys: Keys | None = None) -> None:
        self._log = np.empty(1 << 12, np.uint64)
        self._count = 0
        self._table = np.zeros(1 << 13, np.uint64)
        if keys is not None:
            self.add(keys)

    def __len__(self) -> int:
        return self._count

    @property
    def keys(self) -> Keys:
        return self._log[: self._count]

    def add(self, keys: Keys) -> Mask:
        """Remembers keys and says which are new: not met before and the first of their kind in the batch."""
        keys = np.where(keys == 0, np.uint64(1), keys)  # 0 marks a free slot
        out = np.zeros(len(keys), bool)
        _, first = np.unique(keys, return_index=True)
        first.sort()
        self._reserve(len(first))
        fresh = first[self._place(keys[first])]
        out[fresh] = True
        self._log[self._count : self._count + len(fresh)] = keys[fresh]
        self._count += len(fresh)
        return out

    def _reserve(self, more: int) -> None:
        need = self._count + more
        if need > len(self._log):
            self._log = np.concatenate([self.keys, np.empty(need, np.uint64)])
        if 2 * need > len(self._table):
            self._table = np.zeros(1 << int(4 * need - 1).bit_length(), np.uint64)
            self._place(self.keys)

    def _place(self, keys: Keys) -> Mask:
        """Puts distinct keys into the table, each at the first free slot from its own on; says which were not there."""
        out = np.zeros(len(keys), bool)
        last = np.uint64(len(self._table) - 1)
        slot, left = keys & last, np.arange(len(keys))
        while left.size:
            held = self._table[slot]
            free = np.flatnonzero(held == 0)
            self._table[slot[free]] = keys[left[free]]
            won = free[self._table[slot[free]] == keys[left[free]]]
            out[left[won]] = True
            done = held == keys[left]
            done[won] = True
            left, slot = left[~done], (slot[~done] + np.uint64(1)) & last
        return out


@dataclass(frozen=True)
class State:
    """All there is to a search between two generations."""

    generation: int
    population: Points
    objectives: Objectives
    violation: Floats
    """Of the population."""
    parents: Points
    """[population, 2, genes]: of the points that each was bred from; -1 for those it has not."""
    archive: Archive
    effect: Floats
    """[genes, alternatives]: what an alternative adds to how far a point is off its budget, found at the start."""
    seen: Seen
    """Its first `distinct` keys: the states of a search share it, and it grows."""
    distinct: int = 0
    feasible: int = 0
    """Distinct points within the budgets."""
    priced: int = 0
    """Points that the callback was asked for, repetitions included."""

    @property
    def keys(self) -> Keys:
        """Of the points seen, in the order in which they were."""
        return self.seen.keys[: self.distinct]

    def to_bytes(self) -> bytes:
        """Everything, for `from_bytes`."""
        return self.head() + self.keys.astype("<u8").tobytes()

    def head(self) -> bytes:
        """Everything but the keys of the points seen: those only grow, and a log can take what is new of them."""
        archive = self.archive
        capacity = -1 if archive.capacity is None else archive.capacity
        counts = (self.generation, self.distinct, self.feasible, self.priced, capacity)
        arrays = {
            "counts": np.array(counts, np.int64),
            "population": self.population,
            "objectives": self.objectives,
            "violation": self.violation,
            "parents": self.parents,
            "effect": self.effect,
            "archive_points": archive.points,
            "archive_objectives": archive.objectives,
            "archive_hashes": archive.hashes,
            "archive_parents": archive.parents,
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return len(buffer.getvalue()).to_bytes(8, "little") + buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> State:
        """The state that `to_bytes` wrote, or `head` followed by the keys seen (more of them than then is no harm)."""
        size = 8 + int.from_bytes(data[:8], "little")
        with np.load(io.BytesIO(data[8:size]), allow_pickle=False) as arrays:
            a = {name: arrays[name] for name in arrays.files}
        generation, distinct, feasible, priced, capacity = (int(n) for n in a["counts"])
        keys = np.frombuffer(data, "<u8", distinct, size)
        points, hashes = a["archive_points"], a["archive_hashes"]
        limit = None if capacity < 0 else capacity
        archive = Archive(points, a["archive_objectives"], hashes, a["archive_parents"], limit)
        population = (a["population"], a["objectives"], a["violation"], a["parents"])
        return State(generation, *population, archive, a["effect"], Seen(keys), distinct, feasible, priced)


@dataclass(frozen=True)
class Evolution:
    """A search: `step` from `start`, as often as wanted."""

    genome: Genome
    price: Price
    objectives: int
    """How many objectives a point has."""
    seed: int
    seeds: Points | None = None
    """Points to begin with, beside random ones."""
    size: int = 8192
    """Candidates of a generation, before repairs and replacements."""
    parents: int = 1024
    """Points kept beside the front."""
    capacity: int | None = 1024
    """Of the front."""
    rounds: int = 6
    """How often a generation's failures are repaired and its repetitions replaced."""
    variation: Variation = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "variation", Variation(self.genome))

    def start(self) -> State:
        """Before the first generation."""
        empty, none = np.empty((0, len(self.genome)), np.int16), unbred(0, len(self.genome))
        archive = Archive.empty(len(self.genome), self.objectives, self.capacity)
        effect = np.zeros((len(self.genome), int(self.genome.options.max(initial=1))))
        return State(0, empty, np.empty((0, self.objectives)), np.empty(0), none, archive, effect, Seen())

    def run(self, state: State, distinct: int) -> Iterator[State]:
        """The states from the one after `state` on until so many distinct points are seen, or no new ones are found."""
        while state.distinct < distinct:
            before = state.distinct
            state = self.step(state)
            yield state
            if state.distinct == before:
                return

    def step(self, state: State) -> State:
        """The state after one more generation."""
        rng = stream(self.seed, EVOLVE, state.generation)
        seen = state.seen if len(state.seen) == state.distinct else Seen(state.keys)
        effect, priced, feasible = state.effect, state.priced, state.feasible
        kept: list[tuple[Points, Indices, Evaluated]] = []
        pool = np.concatenate([state.archive.points, state.population])
        batch, bred = self._candidates(rng, state, pool, self.size)
        if state.generation == 0 and self.seeds is not None:
            batch = np.concatenate([self.genome.canonical(self.seeds), batch])[: self.size]
            bred = np.full((len(batch), 2), -1)
        origin = batch
        least, off = np.full(len(batch), np.inf), np.zeros(len(batch))
        for turn in range(self.rounds + 1):
            found = self.price(batch)
            fresh = seen.add(found.hash[:, 0])
            priced += len(batch)
            feasible += int(np.sum(fresh & (found.violation <= 0)))
            kept.append((batch[fresh], bred[fresh], _at(found, fresh)))
            if turn == 0 and state.generation == 0:
                effect = self._effect(batch, found)
            # a step that made it worse is taken back
            better = found.violation < least
            origin, least = np.where(better[:, None], batch, origin), np.where(better, found.violation, least)
            off = np.where(better, found.off, off)
            broken = fresh & (found.violation > 0) & np.isfinite(least)
            more = int(np.sum(~fresh))
            if np.sum(broken) + more < REFINED * self.size or turn == self.rounds:
                break
            repaired = self.variation.step(rng, origin[broken], AIM - off[broken], effect)
            new, of = self._candidates(rng, state, pool, more)
            batch, bred = np.concatenate([repaired, new]), np.concatenate([bred[broken], of])
            origin = np.concatenate([origin[broken], new])
            least = np.concatenate([least[broken], np.full(more, np.inf)])
            off = np.concatenate([off[broken], np.zeros(more)])
        archive, population = self._selected(state, pool, kept)
        return State(state.generation + 1, *population, archive, effect, seen, len(seen), feasible, priced)

    def _candidates(self, rng: np.random.Generator, state: State, pool: Points, count: int) -> tuple[Points, Indices]:
        """New points, and [points, 2]: where in the pool their parents stand, -1 for those they have not."""
        if not len(pool):
            return self.genome.random(rng, count), np.full((count, 2), -1)
        front = max(1, len(state.archive))
        first = np.where(rng.random(count) < 0.5, rng.integers(front, size=count), rng.integers(len(pool), size=count))
        second = rng.integers(len(pool), size=count)
        children, crossed = self.variation.children(rng, pool[first], pool[second])
        return children, np.stack([first, np.where(crossed, second, -1)], axis=1)

    def _effect(self, points: Points, found: Evaluated) -> Floats:
        """[genes, alternatives]: the mean of how far the points that have an alternative are off."""
        rows = np.isfinite(found.violation)
        points, off = points[rows], found.off[rows]
        active = self.genome.active(points)
        out = np.zeros((len(self.genome), int(self.genome.options.max(initial=1))))
        for i, options in enumerate(self.genome.options):
            at, amount = points[active[:, i], i], off[active[:, i]]
            counts, sums = np.bincount(at, minlength=options), np.bincount(at, amount, options)
            mean = amount.mean() if len(amount) else 0.0
            out[i, :options] = np.where(counts > 0, sums / np.maximum(counts, 1), mean)
        return out

    def _selected(
        self, state: State, pool: Points, kept: list[tuple[Points, Indices, Evaluated]]
    ) -> tuple[Archive, tuple[Points, Objectives, Floats, Points]]:
        """The front and the population after a generation, whose parents stand in the pool."""
        points, bred = np.concatenate([p for p, _, _ in kept]), np.concatenate([b for _, b, _ in kept])
        found = Evaluated.joined([e for _, _, e in kept])
        pool = np.concatenate([pool, np.full((1, len(self.genome)), -1, np.int16)])  # where -1 leads to
        objectives, violation = found.objectives, found.violation
        within = violation <= 0
        archive = state.archive.insert(points[within], objectives[within], found.hash[within], pool[bred[within]])
        able = np.isfinite(violation) & np.isfinite(objectives).all(axis=1)
        points = np.concatenate([state.population, points[able]])
        objectives = np.concatenate([state.objectives, objectives[able]])
        violation = np.concatenate([state.violation, violation[able]])
        rows = self._best(objectives, violation)
        old, new = np.split(rows, np.searchsorted(rows, [len(state.population)]))
        parents = np.concatenate([state.parents[old], pool[bred[able][new - len(state.population)]]])
        return archive, (points[rows], objectives[rows], violation[rows], parents)

    def _best(self, objectives: Objectives, violation: Floats) -> Indices:
        """The rows to go on with, rising: those that are best by some weighting, the ones within the budgets first."""
        if len(objectives) <= self.parents:
            return np.arange(len(objectives))
        within = objectives[violation <= 0]
        known = within if len(within) else objectives
        low, high = known.min(axis=0), known.max(axis=0)
        scaled = ((objectives - low) / np.where(high > low, high - low, 1.0)).T.copy()
        beyond = np.where(violation > 0, 1e6 * (1 + violation), 0.0)
        weightings = directions(len(scaled), DIRECTIONS)
        taken = np.zeros(len(objectives), bool)
        taken[_lowest(scaled[0] + beyond, int(FIRST * self.parents))] = True
        share = int((1 - FIRST) * self.parents) // len(weightings)
        for weighting in weightings:
            worst, total = np.zeros(len(objectives)), beyond.copy()
            for weight, column in zip(weighting, scaled, strict=True):
                weighted = weight * column
                np.maximum(worst, weighted, out=worst)
                total += 0.05 * weighted
            taken[_lowest(worst + total, share)] = True
        return np.flatnonzero(taken)


def directions(objectives: int, count: int) -> Floats:
    """Weightings evenly spread over the simplex, as many as a whole number of steps gives, at least about `count`."""
    if objectives == 1:
        return np.ones((1, 1))
    steps = 1
    while len(_compositions(steps, objectives)) < count:
        steps += 1
    return np.array(_compositions(steps, objectives), np.float64) / steps


def _compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    if parts == 1:
        return [(total,)]
    return [(i, *rest) for i in range(total + 1) for rest in _compositions(total - i, parts - 1)]


def _lowest(values: Floats, count: int) -> Indices:
    """The rows of the lowest values; among equal ones the first, whatever way numpy partitions."""
    if count >= len(values):
        return np.arange(len(values))
    limit = np.partition(values, count - 1)[count - 1]
    below = np.flatnonzero(values < limit)
    return np.concatenate([below, np.flatnonzero(values == limit)[: count - len(below)]])


def _at(found: Evaluated, rows: Mask) -> Evaluated:
    used = None if found.used is None else found.used[rows]
    return Evaluated(found.objectives[rows], found.violation[rows], found.hash[rows], used)
