"""Holds guards to the law of sizes: they hold at the declared input, and where they hold the weights are the same."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archdsl.diagnostics import ArchError
from archdsl.frontend.program import Program
from archdsl.ir import sizes
from archdsl.ir.graph import Graph
from archdsl.ir.sizes import Condition, Size
from tests.specs import LANGUAGE, SPECS, graph, program, spec

SMALL: dict[str, dict[str, object]] = {
    "swin_t": {"depths": [2, 2, 2, 2]},
    "maxvit_t": {"depths": [1, 1, 1, 1]},
    "cswin_t": {"depths": [1, 1, 1, 1]},
    "gcvit_t": {"depths": [2, 2, 2, 2]},
    "vit_s16": {"depth": 1},
    "tnt_s": {"depth": 1},
}
"""Archs whose weights depend on the input's size, at a depth that shows every decision."""


@cache
def opened(name: str) -> Program:
    return Program.open(next(p for p in (*LANGUAGE, *SPECS) if p.stem == name))


@cache
def built(name: str) -> Graph:
    return opened(name).elaborate(overrides=SMALL[name])


def shapes(g: Graph) -> dict[str, tuple[int, ...]]:
    return {path: p.shape for path, p in g.params.items()}


def structure(g: Graph) -> list[tuple[str, str]]:
    return [(n.path, n.op.name) for n in g.nodes()]


def broken(g: Graph, height: int, width: int) -> list[str]:
    return [x.decision for x in g.guards if not x.condition.holds({"H": height, "W": width})]


@pytest.mark.parametrize("name", SMALL)
def test_guards_hold_where_they_were_recorded(name: str) -> None:
    g = built(name)
    assert g.guards and not broken(g, g.axes["H"], g.axes["W"])
    for guard in g.guards:
        assert guard.decision and guard.span is not None
        for axes in ({"H": 64, "W": 96}, {"H": 224, "W": 224}, {"H": 250, "W": 199}):
            try:
                plain = guard.condition.plain().holds(axes)
            except ZeroDivisionError:
                continue
            assert plain == guard.condition.holds(axes)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=15, deadline=None)
@given(st.integers(33, 500), st.integers(33, 500))
@example(224, 224)
@example(256, 256)
@example(448, 224)
@example(223, 225)
@example(192, 192)
@example(40, 224)
def test_weights_are_the_same_where_and_only_where_guards_hold(name: str, height: int, width: int) -> None:
    """A spec that cannot be built at a size has no weights there: the module raises at that size too."""
    g = built(name)
    faults = broken(g, height, width)
    try:
        other = opened(name).elaborate(overrides=SMALL[name], input=(3, height, width))
    except ArchError:
        return
    if not faults:
        assert shapes(other) == shapes(g)
        assert structure(other) == structure(g)
    elif set(faults) != {"a size used as a number"}:  # such a number is pinned whatever becomes of it
        assert shapes(other) != shapes(g) or structure(other) != structure(g)


def recorded(body: str, image: str = "3, 32, 48", defs: str = "") -> list[str]:
    return [str(x.condition) for x in graph(spec(body, defs, image=image)).guards]


def test_what_changes_no_weight_is_no_guard() -> None:
    """Strides, paddings, a clamped window without a table and a dropped shift are computed at run time."""
    assert recorded("x = x |> conv[k = 3, s = 2] |> windows[7, 3] |> mhsa[2] |> merge") == []
    assert recorded("x = x |> resize[[x.H // 2, x.W // 2]] |> adaptive_pool[7]") == []
    assert recorded("x = x |> windows[40, 20] |> mhsa[2] |> merge") == []


@pytest.mark.parametrize(
    ("body", "conditions"),
    [
        ("if x.H > 7 { x = conv(x) }", ["H > 7"]),
        ("if x.H < 7 { x = conv(x) }", ["H >= 7"]),
        ("if x.H == x.W { x = conv(x) }", ["H != W"]),
        ("y = if x.W >= 7 then x else conv(x)", ["W >= 7"]),
        ("for i in x.H // 16 { x = conv(x) }", ["H // 16 == 2"]),
        ("x = x |> conv[x.H]", ["H == 32"]),
        ('x = x + param@p[8, x.H, 1, resize = "none"]', ["H == 32"]),
        ("n = x.H / 16\n  x = x |> resize[[n, n]]", ["H % 16 == 0"]),
    ],
)
def test_a_decision_on_a_size_is_a_guard(body: str, conditions: list[str]) -> None:
    assert recorded(body) == conditions


def test_a_clamped_table_is_a_bound_not_an_equation() -> None:
    biased = "def f(x: map) = attend(x, x, x, bias = rel_bias[1](x))"
    assert recorded("x = x |> windows[7] |> f |> merge", defs=biased) == ["H >= 7", "W >= 7"]


STEPS = st.lists(st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "min", "max"]), st.integers(1, 9)), max_size=6)
BOUNDS = st.lists(st.tuples(st.sampled_from(["+", "-", "*", "//"]), st.integers(1, 9)), max_size=4)


def after(n: int, steps: list[tuple[str, int]]) -> int:
    """What a chain of strides and paddings makes of a size: an int of an int, a Size of a Size."""
    for op, by in steps:
        n = sizes.combine(op, n, by)
    return n


@settings(deadline=None)
@given(STEPS, st.integers(1, 500), st.integers(1, 500))
@example([("//", 4), ("+", 1), ("//", 2)], 224, 252)
@example([("*", 6), ("//", 3), ("%", 2)], 7, 8)
def test_an_expression_gives_the_size_at_every_input(steps: list[tuple[str, int]], here: int, there: int) -> None:
    size = after(Size.axis("H", here), steps)
    assert int(size) == after(here, steps)
    assert sizes.evaluate(sizes.expr_of(size), {"H": there}) == after(there, steps)


@settings(deadline=None)
@given(BOUNDS, st.sampled_from(["<", "<=", ">", ">="]), st.integers(-20, 99), st.integers(1, 500))
@example([("*", 4)], ">=", 10, 2)
@example([("+", 3), ("//", 4)], "<=", 7, 28)
def test_a_bound_on_the_bare_axis_is_the_same_bound(
    steps: list[tuple[str, int]], op: str, bound: int, height: int
) -> None:
    size = after(Size.axis("H", 224), steps)
    for condition in (Condition(op, sizes.expr_of(size), bound), Condition(op, bound, sizes.expr_of(size))):
        assert condition.plain().holds({"H": height}) == condition.holds({"H": height})


def test_a_guard_is_recorded_once() -> None:
    assert recorded("if x.H > 7 { x = conv(x) }\n  if x.H > 7 { x = linear[8](x) }") == ["H > 7"]


def test_a_guard_names_its_place() -> None:
    (guard,) = program(spec("if x.H > 7 { x = conv(x) }")).elaborate().guards
    assert guard.span is not None and guard.span.line == 6


def test_a_size_in_the_graph_keeps_its_expression() -> None:
    g = graph(spec("x = conv[k = 3, s = 2](x)\n  x = x |> tokens |> to_map[x.H, x.W]"))
    from archdsl.ir.sizes import text

    last = next(n for n in g.nodes() if n.op.name == "to_map").outputs[0]
    assert [text(d) for d in last.dims] == ["8", "(H + 1) // 2", "(W + 1) // 2"]
