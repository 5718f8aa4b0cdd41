"""Turns sets that may replace parts of a partition, each at a cost, into the choice of least cost.

And what they leave of a part into pieces that need not wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

STATES = 1024
"""Choices that are kept side by side."""


@dataclass(frozen=True, slots=True)
class _Way:
    """What was spent so far, how many options it takes, and the last of them."""

    cost: int = 0
    number: int = 0
    last: int = -1
    before: _Way | None = None


@dataclass(frozen=True)
class Selection:
    """The options chosen, in order, and whether no other choice costs less."""

    picked: tuple[int, ...]
    cost: int
    exact: bool


def select(
    groups: Sequence[Sequence[int]],
    options: Sequence[frozenset[int]],
    costs: Sequence[int],
    rest: Callable[[int, frozenset[int]], int],
    states: int = STATES,
) -> Selection:
    """Disjoint options of least cost, together with what is left of the groups.

    `groups` are a partition of 0, 1, ... and `rest(group, taken)` is the cost of a group without the elements that
    options took. A weighted independent set, but for weights that are not the options' own, as two of
    them may take of one group. One run over the elements in order (dynamic programming): a state is what was taken of
    groups that reach beyond the element, and there are few where options and groups are short intervals, as in a
    chain of blocks. Where there are more than `states`, the cheapest go on, and the result is not exact.
    """
    group_of = {i: g for g, group in enumerate(groups) for i in group}
    whole = [frozenset(group) for group in groups]
    ends = {max(group): g for g, group in enumerate(groups)}
    starts: dict[int, list[int]] = {}
    for o, option in enumerate(options):
        starts.setdefault(min(option), []).append(o)
    exact = True
    alive: dict[frozenset[int], _Way] = {frozenset(): _Way()}
    for i in range(len(group_of)):
        after: dict[frozenset[int], _Way] = {}
        for covered, way in alive.items():
            free = [o for o in starts.get(i, ()) if options[o].isdisjoint(covered)]
            taking = [(covered | options[o], _Way(way.cost + costs[o], way.number + 1, o, way)) for o in free]
            for now, spent in ((covered, way), *taking):
                if i in ends:
                    g = ends[i]
                    spent = replace(spent, cost=spent.cost + rest(g, now & whole[g]))
                    now -= whole[g]
                if now not in after or (spent.cost, spent.number) < (after[now].cost, after[now].number):
                    after[now] = spent
        if len(after) > states:
            exact = False
            after = dict(sorted(after.items(), key=lambda entry: (entry[1].cost, entry[1].number))[:states])
        alive = after
    (best,) = alive.values()
    cost = best.cost
    picked = []
    while best.before is not None:
        picked.append(best.last)
        best = best.before
    return Selection(tuple(reversed(picked)), cost, exact)


def pieces(
    group: Sequence[str], left: Collection[str], sources: Callable[[str], Collection[str]]
) -> list[tuple[str, ...]]:
    """What is left of a kernel, whose ops are in order: ops that read each other, and nothing that was taken between.

    What reads a result of its own piece by way of a taken op is another piece: it has to wait for that op's kernel.
    """
    turns: dict[str, int] = {}
    """How often values on the way to an op were taken and came back."""
    found: dict[str, list[str]] = {}
    for path in group:
        before = [p for p in group if p in turns and p in sources(path)]
        turns[path] = max((turns[p] + (path in left and p not in left) for p in before), default=0)
        if path in left:
            found[path] = [path]
            for p in before:
                if p in left and turns[p] == turns[path] and found[p] is not found[path]:
                    joined = [*found[p], *found[path]]
                    found |= dict.fromkeys(joined, joined)
    distinct = {id(piece): piece for piece in found.values()}.values()
    return [tuple(p for p in group if p in piece) for piece in distinct]
