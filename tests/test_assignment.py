"""Turns random graphs of costs into checks that bucket elimination finds what trying everything finds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archdsl.passes.assignment import Labelling, TooWide, Unsatisfiable

Edges = list[tuple[int, int]]


def tried(problem: Labelling[int]) -> float:
    """The least cost of all assignments."""
    least = math.inf
    for labels in itertools.product(*(range(len(costs)) for costs in problem.unary.values())):
        cost: float = sum(costs[labels[v]] for v, costs in problem.unary.items())
        for (u, v), table in problem.binary.items():
            cost += table[labels[u]][labels[v]]
        least = min(least, cost)
    return least


def with_costs(source: Random, count: int, edges: Edges, forbidden: float = 0.05) -> Labelling[int]:
    """Costs of few values, so that ties are common, some of them infinite; integers, so that sums are exact."""

    def cost() -> float:
        return math.inf if source.random() < forbidden else source.randint(-4, 9)

    sizes = [source.randint(1, 3) for _ in range(count)]
    unary = {v: [cost() for _ in range(n)] for v, n in enumerate(sizes)}
    binary = {(u, v): [[cost() for _ in range(sizes[v])] for _ in range(sizes[u])] for u, v in edges}
    return Labelling(unary, binary)


def check(problem: Labelling[int]) -> None:
    least = tried(problem)
    if least == math.inf:
        with pytest.raises(Unsatisfiable):
            problem.solve()
        return
    found = problem.solve()
    assert found.cost == least == problem.cost(found.labels)
    assert found == problem.solve()


def ladder(blocks: int) -> Edges:
    """A residual network: values 2i -> 2i+1 -> 2i+2 with a shortcut 2i -> 2i+2."""
    return [edge for i in range(0, 2 * blocks, 2) for edge in ((i, i + 1), (i + 1, i + 2), (i, i + 2))]


@st.composite
def series_parallel(draw: st.DrawFn, most: int) -> tuple[int, Edges]:
    """(variables, edges), composed from one edge: an edge gets a variable in its middle, or a detour beside it."""
    edges, count = [(0, 1)], 2
    for _ in range(draw(st.integers(0, most - 2))):
        u, v = edges[draw(st.integers(0, len(edges) - 1))]
        if draw(st.booleans()):
            edges.remove((u, v))
        edges += [(u, count), (count, v)]
        count += 1
    return count, edges


SOURCE = st.randoms(use_true_random=False)


@given(st.integers(1, 7), SOURCE)
@settings(max_examples=100, deadline=None)
def test_chains(count: int, source: Random) -> None:
    check(with_costs(source, count, list(itertools.pairwise(range(count)))))


@given(st.integers(1, 3), SOURCE)
@settings(max_examples=100, deadline=None)
def test_residual_ladders(blocks: int, source: Random) -> None:
    check(with_costs(source, 2 * blocks + 1, ladder(blocks)))


@given(series_parallel(7), SOURCE)
@settings(max_examples=200, deadline=None)
def test_series_parallel_graphs(graph: tuple[int, Edges], source: Random) -> None:
    check(with_costs(source, *graph))


@given(st.integers(1, 7), st.integers(0, 12), SOURCE)
@settings(max_examples=300, deadline=None)
def test_any_graph(count: int, most: int, source: Random) -> None:
    """Unconnected parts, variables without neighbours and pairs given in both directions among them."""
    pairs = [(u, v) for u in range(count) for v in range(count) if u != v]
    check(with_costs(source, count, source.sample(pairs, min(most, len(pairs)))))


@given(st.integers(1, 10), st.integers(0, 25), SOURCE)
@settings(max_examples=100, deadline=None)
def test_the_fewest_neighbours_go_first(count: int, most: int, source: Random) -> None:
    """As many cells as eliminating by hand takes: always the first of the variables with fewest neighbours left."""
    pairs = list(itertools.combinations(range(count), 2))
    problem = with_costs(source, count, source.sample(pairs, min(most, len(pairs))), forbidden=0)
    graph = nx.Graph(problem.binary.keys())
    graph.add_nodes_from(problem.unary)
    cells = 0
    while graph:
        v = min(graph, key=lambda u: (graph.degree(u), u))
        cells += math.prod(len(problem.unary[u]) for u in (v, *graph[v]))
        graph.add_edges_from(itertools.combinations(list(graph[v]), 2))
        graph.remove_node(v)
    assert problem.solve().cells == cells


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=7, max_size=7))
@settings(max_examples=30, deadline=None)
def test_floats(unary: list[list[float]]) -> None:
    moved = [[0.0, 0.7], [1.3, 0.0]]
    problem = Labelling(dict(enumerate(unary)), dict.fromkeys(ladder(3), moved))
    assert problem.solve().cost == pytest.approx(tried(problem), rel=1e-12, abs=1e-9)


@given(series_parallel(40), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_series_parallel_graphs_need_three_labels_at_once(graph: tuple[int, Edges], labels: int) -> None:
    count, edges = graph
    problem = Labelling({v: range(labels) for v in range(count)}, {edge: [[1] * labels] * labels for edge in edges})
    found = problem.solve(limit=labels**3)
    assert found.cells <= count * labels**3
    assert found.labels == dict.fromkeys(range(count), 0)


def test_cells_grow_with_the_length_of_a_residual_chain() -> None:
    labels = 5
    costs = [[0 if a == b else 2 for b in range(labels)] for a in range(labels)]

    def cells(blocks: int) -> int:
        unary = {v: [(7 * v + 3 * a) % 11 for a in range(labels)] for v in range(2 * blocks + 1)}
        return Labelling(unary, dict.fromkeys(ladder(blocks), costs)).solve().cells

    block = cells(11) - cells(10)
    assert block <= 2 * labels**3
    assert [cells(n) - cells(10) for n in (20, 50, 300)] == [10 * block, 40 * block, 290 * block]


def test_a_hub_is_eliminated_after_what_hangs_on_it() -> None:
    count, labels = 400, 3
    unary = {v: [v % 3, 1, 2] for v in range(count)}
    star = Labelling(unary, {(0, v): [[0, 1, 1], [1, 0, 1], [1, 1, 0]] for v in range(1, count)})
    assert star.solve().cells == (count - 1) * labels**2 + labels


def test_a_wide_graph_is_refused() -> None:
    """The full graph on 6 variables of 10 labels takes tables of 10^6 cells, one on 5 a tenth of it."""

    def full(count: int) -> Labelling[str]:
        pairs = itertools.combinations("abcdef"[:count], 2)
        return Labelling({v: [0] * 10 for v in "abcdef"[:count]}, {pair: [[1] * 10] * 10 for pair in pairs})

    with pytest.raises(TooWide, match="eliminating a needs a table of 1,000,000 cells, more than 999,999"):
        full(6).solve(limit=999_999)
    assert full(4).solve(limit=10_000).cost == 6


def test_ties_take_the_first_label() -> None:
    free = Labelling({v: [1, 0, 0] for v in "ab"}, {("a", "b"): [[0] * 3] * 3})
    assert free.solve().labels == {"a": 1, "b": 1}
    apart = Labelling({v: [0, 0] for v in "ab"}, {("a", "b"): [[1, 0], [0, 1]]})
    assert apart.solve().labels == {"a": 1, "b": 0}


def test_nothing_to_assign() -> None:
    found = Labelling[str]({}, {}).solve()
    assert (found.labels, found.cost, found.cells) == ({}, 0, 0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Labelling({"a": []}, {}), "a has no labels"),
        (lambda: Labelling({"a": [math.nan]}, {}), "neither a number nor +inf"),
        (lambda: Labelling({"a": [-math.inf]}, {}), "neither a number nor +inf"),
        (lambda: Labelling({"a": [0], "b": [0]}, {("a", "b"): [[math.nan]]}), "a cost of (a, b)"),
        (lambda: Labelling({"a": [0]}, {("a", "a"): [[0]]}), "(a, a) is no pair"),
        (lambda: Labelling({"a": [0]}, {("a", "b"): [[0]]}), "(a, b) is no pair"),
        (lambda: Labelling({"a": [0, 1], "b": [0]}, {("a", "b"): [[0, 1]]}), "are not 2 x 1"),
    ],
)
def test_what_is_no_labelling(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_an_order_of_tokens_pays_where_conversions_are_dear() -> None:
    """Norms take any order, attention only its own: with cheap conversions each has its own, else raster never."""
    window, shifted = [math.inf, 0, math.inf], [math.inf, math.inf, 0]
    unary = {0: [0, math.inf, math.inf], 1: [0, 0, 0], 2: window, 3: [0, 0, 0], 4: shifted, 5: [0, 0, 0]}
    dear = [[0 if a == b else 2 for b in range(3)] for a in range(3)]
    found = Labelling(unary, dict.fromkeys([(v, v + 1) for v in range(5)], dear)).solve()
    assert found.cost == 4
    assert found.labels[5] == 2 and found.labels[3] in (1, 2)
