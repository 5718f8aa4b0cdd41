"""Proves that no point of a space costs less than so much: best-first search over its pieces, draws untied.

What a point costs is a sum over pieces, each of which costs the least for some values of its columns. A path through
the pieces that chooses these values anew for every piece costs no more than any point does, since points are the
paths whose choices agree.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from archdsl.search.genome import Points
from archdsl.search.pricing import PricedPiece, Pricer

COMBINATIONS = 100_000
"""Combinations of genes behind a column, and of columns a piece reads, beyond which nothing is proved."""


@dataclass(frozen=True)
class Path:
    """The keys that pieces were taken at, last one first."""

    key: tuple[int, ...]
    before: Path | None

    @property
    def length(self) -> int:
        return 1 + (self.before.length if self.before is not None else 0)


class Unbounded(Exception):
    """A piece reads too much for all its cases to be looked at."""


@dataclass(frozen=True)
class Bound:
    """No point costs less than `value`."""

    value: float
    point: Points
    """[1, genes]: a point that costs little: of the cheapest path, if its choices agree; otherwise one near it."""


def least(pricer: Pricer, weights: NDArray[np.float64], limit: float = math.inf) -> Bound:
    """A bound on the weighted sum of metrics, reached by a point where no two pieces read one gene.

    `weights` [METRICS and the pricer's measures] are not negative. Where the bound is more than `limit`, that is proved
    and no more: the value lies between them, and the point is that of the cheapest piece after piece. Raises Unbounded.
    """
    needed = _needed(pricer)
    queue: list[tuple[float, int, tuple[int, ...], int, Path | None]] = [(0.0, 0, (), 0, None)]
    pushed = 0  # so that no two entries have to be told apart by their paths
    done: set[tuple[int, tuple[int, ...]]] = set()
    while queue:
        cost, at, state, _, path = heapq.heappop(queue)
        if at == len(pricer.pieces):
            return Bound(cost, _point(pricer, path))
        if cost > limit:
            return Bound(cost, _point(pricer, _greedy(pricer, needed, weights)))
        if (at, state) in done:
            continue
        done.add((at, state))
        for step, key, after in _steps(pricer, needed, at, state, weights):
            pushed += 1
            heapq.heappush(queue, (cost + step, at + 1, after, pushed, Path(key, path)))
    raise Unbounded


def _greedy(pricer: Pricer, needed: Sequence[tuple[str, ...]], weights: NDArray[np.float64]) -> Path | None:
    """The path that takes the cheapest next step at every piece."""
    state: tuple[int, ...] = ()
    path: Path | None = None
    for at in range(len(pricer.pieces)):
        _, key, state = min(_steps(pricer, needed, at, state, weights), key=lambda step: step[0], default=(0, (), ()))
        if not key and pricer.pieces[at].inputs:
            raise Unbounded
        path = Path(key, path)
    return path


def _steps(
    pricer: Pricer, needed: Sequence[tuple[str, ...]], at: int, state: tuple[int, ...], weights: NDArray[np.float64]
) -> Iterator[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    """What can be done at a piece: its cost, the key, and the variables that matter afterwards."""
    piece, live = pricer.pieces[at], dict(zip(needed[at], state, strict=True))
    for key in _keys(piece, live):
        row = piece.row(key)
        if piece.store.broken[row]:
            continue
        after = live | dict(zip(piece.part.gives, piece.store.gives[row].tolist(), strict=True))
        yield float(piece.store.metrics[row] @ weights), key, tuple(after[name] for name in needed[at + 1])


def _point(pricer: Pricer, path: Path | None) -> Points:
    """[1, genes]: the reference with what the pieces on a path chose, earlier choices first."""
    row = pricer.draws.reference[0].copy()
    while path is not None:
        piece = pricer.pieces[path.length - 1]
        for column, code in zip(piece.part.columns, path.key, strict=False):
            chosen = pricer.values(column).genes(code)
            for gene, alternative in zip(column.genes, chosen, strict=True):
                row[gene] = alternative
        path = path.before
    return pricer.genome.canonical(row[None])


def _needed(pricer: Pricer) -> list[tuple[str, ...]]:
    """The variables that matter before each piece, and after the last."""
    out: list[tuple[str, ...]] = [()]
    for piece in reversed(pricer.pieces):
        later = set(out[0]) - set(piece.part.gives)
        out.insert(0, tuple(sorted(later | set(piece.part.takes))))
    return out


def _keys(piece: PricedPiece, live: dict[str, int]) -> Iterator[tuple[int, ...]]:
    """The keys of a piece in a state: every combination of its columns, loops at their fewest turns.

    A loop that turns longer costs more, but where it then gives other types, later pieces may cost less.
    """
    loop = piece.part.loop
    fixed = [live[name] for name in piece.part.takes]
    columns = piece.part.columns
    codes = [_codes(piece, i) for i in range(len(columns))]
    if math.prod(map(len, codes)) > COMBINATIONS:
        raise Unbounded
    if loop is None:
        yield from ((*chosen, *fixed) for chosen in product(*codes))
        return
    deciding = [i for i, c in enumerate(columns) if c in loop.counted]
    free = [i for i, c in enumerate(columns) if c not in loop.columns]
    turns: dict[tuple[int, ...], float] = {}
    cases: dict[tuple[int, ...], dict[float, tuple[int, ...]]] = {}
    for chosen in product(*codes):
        count = tuple([chosen[i] for i in deciding])
        if count not in turns:
            turns[count] = piece.turns((*chosen, *fixed))
        rest = tuple([code for i, code in enumerate(chosen) if i not in free])
        cases.setdefault(rest, {}).setdefault(turns[count], (*chosen, *fixed))
    for keys in cases.values():
        fewest, most = min(keys), max(keys)
        if fewest == most or piece.steady(keys[most], fewest, most):
            yield keys[fewest]
        else:
            yield from keys.values()


def _codes(piece: PricedPiece, i: int) -> range:
    """The codes of all values that a column can take."""
    values = piece.pricer.values(piece.part.columns[i])
    genome, genes = piece.pricer.genome, list(values.column.genes)
    options = [range(int(genome.options[g])) for g in genes]
    if math.prod(map(len, options)) > COMBINATIONS:
        raise Unbounded
    points = np.repeat(piece.pricer.draws.reference, math.prod(map(len, options)), axis=0)
    points[:, genes] = np.array(list(product(*options)), np.int16).reshape(len(points), len(genes))
    for key in np.unique(genome.canonical(points)[:, genes], axis=0).tolist():
        values.table.row(tuple(key))
    return range(len(values.values))
