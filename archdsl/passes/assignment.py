"""Turns costs of labels and of neighbouring labels into the cheapest labelling: min-sum by bucket elimination.

Variables (the values of a graph) take one label each out of a few (layouts); a label costs by itself, and two labels
cost together (a conversion). Variables are eliminated one by one, those with the fewest neighbours first: the table
of what remains to be paid is taken over the labels of the neighbours. A residual network is series-parallel, where
no variable has more than two neighbours left when it goes, so n variables of L labels take O(n L^3) steps; a graph
that needs a wider table than is allowed is refused, never approximated.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Generic, TypeVar

V = TypeVar("V", bound=Hashable)

Table = Sequence[Sequence[float]]
"""A cost by the label of the first variable, then of the second; infinite for a pair that is not allowed."""


class TooWide(ValueError):
    """Eliminating some variable needs a larger table than allowed."""


class Unsatisfiable(ValueError):
    """Every assignment holds a label or a pair of infinite cost."""


@dataclass(frozen=True)
class Assignment(Generic[V]):
    """A label (its index) for every variable, what they cost in all, and how many table cells it took to find out."""

    labels: Mapping[V, int]
    cost: float
    cells: int


@dataclass(frozen=True)
class Labelling(Generic[V]):
    """What to assign: the costs of each variable's labels, and of the labels of pairs of variables.

    A pair may be given in both directions; the costs add up. Costs are numbers or +inf, in any mixture of int and
    float: with integers the result is exact, with floats up to the rounding of their sum.
    """

    unary: Mapping[V, Sequence[float]]
    binary: Mapping[tuple[V, V], Table]

    def __post_init__(self) -> None:
        for v, costs in self.unary.items():
            if not costs:
                raise ValueError(f"{v} has no labels")
            _numbers(costs, str(v))
        for (u, v), table in self.binary.items():
            if u == v or u not in self.unary or v not in self.unary:
                raise ValueError(f"({u}, {v}) is no pair of variables")
            if len(table) != len(self.unary[u]) or any(len(row) != len(self.unary[v]) for row in table):
                raise ValueError(f"the costs of ({u}, {v}) are not {len(self.unary[u])} x {len(self.unary[v])}")
            for row in table:
                _numbers(row, f"({u}, {v})")

    def cost(self, labels: Mapping[V, int]) -> float:
        """What an assignment costs."""
        alone = sum(costs[labels[v]] for v, costs in self.unary.items())
        return alone + sum(table[labels[u]][labels[v]] for (u, v), table in self.binary.items())

    def solve(self, limit: int = 1_000_000) -> Assignment[V]:
        """The cheapest assignment; among equally cheap labels of a variable the first.

        Raises TooWide where a table of more than `limit` cells is needed, Unsatisfiable where no cost is finite.
        """
        names = list(self.unary)
        place = {v: i for i, v in enumerate(names)}
        sizes = [len(costs) for costs in self.unary.values()]
        held: list[dict[int, _Factor]] = [{} for _ in names]
        alone = [_Factor((i,), list(costs)) for i, costs in enumerate(self.unary.values())]
        pairs = [
            _Factor((place[u], place[v]), [cost for row in table for cost in row])
            for (u, v), table in self.binary.items()
        ]
        for key, factor in enumerate([*alone, *pairs]):
            for u in factor.scope:
                held[u][key] = factor
        cells, choices = 0, []
        for v, around in _elimination([factor.scope for factor in pairs], len(names)):
            wide = math.prod(sizes[u] for u in around) * sizes[v]
            if wide > limit:
                raise TooWide(f"eliminating {names[v]} needs a table of {wide:,} cells, more than {limit:,}")
            cells += wide
            left, best = _minimised(v, around, held[v].values(), sizes)
            choices.append((v, around, best))
            for key, factor in held[v].items():
                for u in factor.scope:
                    if u != v:
                        del held[u][key]
            for u in around:
                held[u][len(alone) + len(pairs) + v] = left
        labels = [0] * len(names)
        for v, around, best in reversed(choices):
            labels[v] = best[_place(around, sizes, labels)]
        found = dict(zip(names, labels, strict=True))
        total = self.cost(found)
        if total == math.inf:
            raise Unsatisfiable("no assignment has a finite cost")
        return Assignment(found, total, cells)


@dataclass(frozen=True, slots=True)
class _Factor:
    """Costs by the labels of `scope`, the last variable's fastest."""

    scope: tuple[int, ...]
    costs: list[float]


def _numbers(costs: Sequence[float], owner: str) -> None:
    if any(math.isnan(c) or c == -math.inf for c in costs):
        raise ValueError(f"a cost of {owner} is neither a number nor +inf")


def _elimination(pairs: Sequence[tuple[int, ...]], count: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Variables in min-degree order, each with the neighbours it has left; the first one where degrees are equal."""
    near: list[set[int]] = [set() for _ in range(count)]
    for u, v in pairs:
        near[u].add(v)
        near[v].add(u)
    queue = [(len(others), v) for v, others in enumerate(near)]
    heapq.heapify(queue)
    gone = [False] * count
    while queue:
        degree, v = heapq.heappop(queue)
        if gone[v] or degree != len(near[v]):
            continue
        gone[v] = True
        yield v, tuple(sorted(near[v]))
        for u in near[v]:
            near[u] |= near[v]
            near[u] -= {u, v}
            heapq.heappush(queue, (len(near[u]), u))


def _place(scope: Sequence[int], sizes: Sequence[int], labels: Sequence[int]) -> int:
    """Where the labels of a scope stand in its table."""
    at = 0
    for u in scope:
        at = at * sizes[u] + labels[u]
    return at


def _minimised(
    v: int, around: tuple[int, ...], factors: Iterable[_Factor], sizes: Sequence[int]
) -> tuple[_Factor, list[int]]:
    """The factors added up and minimised over v, by the labels of `around`; and v's label at each minimum."""
    steps = []
    for factor in factors:
        step, run = dict.fromkeys((*around, v), 0), 1
        for u in reversed(factor.scope):
            step[u] = run
            run *= sizes[u]
        steps.append((factor.costs, step[v], [step[u] for u in around]))
    costs: list[float] = []
    best: list[int] = []
    for known in product(*(range(sizes[u]) for u in around)):
        sums: list[float] = [0] * sizes[v]
        for table, by_label, by_known in steps:
            start = sum(label * step for label, step in zip(known, by_known, strict=True))
            for label in range(sizes[v]):
                sums[label] += table[start + label * by_label]
        costs.append(min(sums))
        best.append(sums.index(costs[-1]))
    return _Factor(around, costs), best
