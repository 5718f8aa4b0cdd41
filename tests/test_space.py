"""Holds spaces to what they mean: named draws, counted points, variants that rebuild the same graph, exact seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archdsl.diagnostics import ArchError, Diagnostic, Source
from archdsl.frontend.program import Program
from archdsl.frontend.space import Point, Space
from archdsl.frontend.values import key_of
from archdsl.ir.hash import canonical_hash
from tests.specs import HERE, program

HYBRID = HERE / "language" / "hybrid.arch"

BASE = """language 1
let wide = 3
def dw[k = 7](x: map[C]) = dwconv[k](x)
def attn[part: fn = identity, head_dim = 4](x: map[C]) = x |> part |> mhsa[C / head_dim] |> unframe
def pool(x: map) = avg_pool[3, s = 1, p = 1](x) - x
arch a[dim = 8, depths: int[2] = 1, mixers: list = [dw, dw], ratio = 2, dpr = 0.1] {
  input img: map[3, 32, 32]
  x = conv@stem[dim, k = 4, s = 4](img)
  stage i in 2 -> x {
    blocks j in depths[i] { x += drop_path(x |> ln |> mixers[i]) }
  }
  head { return x |> gap |> mlp[ratio] |> linear@fc[10] }
}
"""


def space(items: str, more: str = "") -> Space:
    return Space.open(program(f"{BASE}{more}\nspace s of a {{\n{items}\n}}\n"))


def choose(rng: Random) -> Callable[[str, int], int]:
    return lambda name, options: rng.randrange(options)


def first(name: str, options: int) -> int:
    return 0


def names(s: Space, pick: Callable[[str, int], int] = first) -> list[str]:
    return list(s.sample(pick).draws)


def check(items: str, more: str = "") -> list[Diagnostic]:
    try:
        opened = program(f"{BASE}{more}\nspace s of a {{\n{items}\n}}\n")
    except ArchError as e:
        return list(e.diagnostics)
    return opened.check()


# -- draws -------------------------------------------------------------------------------------


def test_draws_are_named_by_binding_and_position() -> None:
    s = space("let w = {8 | 16}\ndim = {w | 2 * w}\ndepths = [{1 | 2}, {1..3}]\nmixers = [{dw | pool}, {attn | dw}]")
    assert names(s) == ["w", "dim", "depths.0", "depths.1", "mixers.0", "mixers.1"]


def test_a_let_is_drawn_once_and_ties_its_uses() -> None:
    s = space("let w = {8 | 16}\ndim = w\nratio = w / 8")
    points = list(s.points())
    assert [(p.overrides["dim"], p.overrides["ratio"]) for p in points] == [(8, 1), (16, 2)]
    assert [p.draws for p in points] == [{"w": 0}, {"w": 1}]


def test_a_choice_in_a_comprehension_is_drawn_for_every_element() -> None:
    s = space("depths = [{1..3} for i in 2]")
    assert names(s) == ["depths.0", "depths.1"] and s.size == 9


def test_a_label_names_a_choice() -> None:
    assert names(space("depths = [{1 | 2}@one, {1 | 2}@two]")) == ["one", "two"]
    assert names(space("depths = [{1 | 2}@deep for i in 2]")) == ["deep.0", "deep.1"]


def test_nested_draws_exist_only_where_they_are_taken() -> None:
    s = space("mixers = [{dw[{3 | 5}] | pool | attn[windows[{2 | 4 | 8}]]}@m, dw]")
    assert [list(p.draws) for p in s.points()] == [["m", "m.(0)"]] * 2 + [["m"]] + [["m", "m.(2)"]] * 3
    assert s.size == 6


def test_two_choices_need_two_names() -> None:
    found = check("mixers = [attn[windows[{2 | 4}], head_dim = {2 | 4}], dw]")
    assert [d.code for d in found] == ["E-CHOICE"] and "mixers.0" in found[0].title and found[0].notes
    assert check("mixers = [attn[windows[{2 | 4}@win], head_dim = {2 | 4}@hd], dw]") == []


def test_a_range_has_its_members() -> None:
    s = space("dim = {8..32 by 8 | 48}")
    assert [p.overrides["dim"] for p in s.points()] == [8, 16, 24, 32, 48]


def test_a_choice_between_nothing_is_a_mistake() -> None:
    assert [d.code for d in check("dim = {8..4}")] == ["E-CHOICE"]


def test_choices_stand_in_spaces_only() -> None:
    for text in ("let w = {8 | 16}", "def f(x: map) = conv[{8 | 16}](x)", "arch b = a[dim = {8 | 16}]"):
        with pytest.raises(ArchError) as e:
            program(BASE + text)
        assert [d.code for d in e.value.diagnostics] == ["E-CHOICE"]
    found = check("mixers = [fn (x) => dwconv[{3 | 5}](x), dw]")
    assert [d.code for d in found] == ["E-CHOICE"] and "every call" in found[0].title


# -- size ----------------------------------------------------------------------------------------

COUNTED = [
    ("dim = 8", 1),
    ("dim = {8 | 16}\nratio = {1 | 2 | 3}", 6),
    ("let k = {3 | 5}\nlet unused = {1 | 2 | 3}\nmixers = [dw[k], dw[k]]", 6),
    ("let n = {1..3}\ndepths = [{1..n}, 1]", 6),
    ("let n = {1 | 2}\nlet m = n + 1\ndepths = [if m == 2 then {1 | 2 | 3}@p else 4, 1]", 4),
    ("let n = {1..2}\nratio = sum([{1 | 2 | 3} for i in n])", 12),
    ("ratio = sum([{1 | 2} for i in {1..3}])", 14),
    ("mixers = [{dw[{3 | 5}] | attn[{windows[{2 | 4}] | identity}]}, {pool | dw}]", 10),
    ("depths = [{1..4}, {1..4}]\nmixers = {[dw, dw] | [pool, {attn | dw[5]}]}", 48),
]


@pytest.mark.parametrize(("items", "size"), COUNTED)
def test_size_counts_the_ways_to_decide(items: str, size: int) -> None:
    s = space(items)
    draws = [tuple(p.draws.items()) for p in s.points()]
    assert s.size == size == len(draws) == len(set(draws))


def test_a_large_space_is_counted_without_walking_it() -> None:
    s = Space.open(Program.open(HYBRID))
    assert s.size == 3 * 3 * 2 * 2 * (4 * 4 * 6 * 3) * 3**4 * (2 * 3 * 4 * 2)


# -- variants ------------------------------------------------------------------------------------


def rebuilt(s: Space, point: Point, path: Path | None = None) -> Program:
    text = s.program.source.text + "\n" + s.variant_text(point, "child") + "\n"
    return Program.parse(Source(s.program.source.name, text), path)


def same(s: Space, point: Point, path: Path | None = None) -> bool:
    child = rebuilt(s, point, path).elaborate("child")
    made = s.program.elaborate(s.declared.base.id, overrides=point.overrides)
    return canonical_hash(child) == canonical_hash(made) and list(child.params) == list(made.params)


RICH = """  let w = {8 | 16}
  dim = w
  depths = [{1 | 2}, {1 | 2}]
  ratio = {1 | 1.5 | 2.0}
  mixers = [
    {dw[{3 | 5}] | pool | attn}@one,
    {attn[windows[{2 | 4}]] | attn[grids[2]] | fn (x) => dwconv[wide](gelu(x)) | fn (x) => conv[w, k = 3](x)}@two
  ]
  dpr = {0 | 1e-05}"""


def test_every_point_prints_as_a_variant_that_builds_the_same_graph() -> None:
    s = space(RICH)
    rng = Random(0)
    points = [s.sample(choose(rng)) for _ in range(25)]
    assert len({p.draws["two"] for p in points}) == 4
    assert all(same(s, p) for p in points)


def test_a_point_of_the_hybrid_space_prints_and_is_found_again() -> None:
    s = Space.open(Program.open(HYBRID))
    rng = Random(1)
    for _ in range(4):
        point = s.sample(choose(rng))
        assert same(s, point, HYBRID)
        reopened = rebuilt(s, point, HYBRID)
        found = Space.open(reopened).find(reopened.architectures["child"])
        assert found is not None and found.draws.keys() >= point.draws.keys() - {"k", "win"}


def test_a_variant_of_a_variant_keeps_what_the_space_does_not_set() -> None:
    text = f"{BASE}arch b = a[ratio = 3]\nspace s of b {{ dim = {{8 | 16}} }}\n"
    s = Space.open(program(text))
    point = s.sample(lambda name, options: 1)
    assert s.variant_text(point) == "arch child = b[dim = 16]"
    assert same(s, point)
    assert rebuilt(s, point).elaborate("child").statics["ratio"] == 3


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_point_is_found_as_itself(rng: Random) -> None:
    """The draws found for a printed point lead to equal parameters, even where several draws do."""
    s = space(RICH.replace(" | fn (x) => dwconv[wide](gelu(x)) | fn (x) => conv[w, k = 3](x)", ""))
    point = s.sample(choose(rng))
    child = rebuilt(s, point)
    found = Space.open(child).find(child.architectures["child"])
    assert found is not None
    again = s.sample(lambda name, options: found.draws[name])
    assert {k: key_of(v) for k, v in again.overrides.items()} == {k: key_of(v) for k, v in point.overrides.items()}


# -- seeds ---------------------------------------------------------------------------------------

SPACE = "let k = {3 | 5}\ndim = {8 | 16}\ndepths = [{1..3}, 2]\nmixers = [{dw[k] | pool}, {dw[k] | attn}]\nseed b"


@pytest.mark.parametrize(
    "seed",
    [
        "a[dim = 16, depths = [3, 2], mixers = [dw[3], dw[3]]]",
        "a[depths = [1, 2], mixers = [dw[5], attn]]",
        "a[depths = [1, 2], mixers = [dw[k = 5], attn[part = identity]]]",
        "a[depths = [1, 2], mixers = [pool, attn[head_dim = 4]]]",
    ],
)
def test_a_seed_that_is_a_point_is_one(seed: str) -> None:
    assert check(SPACE, f"arch b = {seed}") == []


@pytest.mark.parametrize(
    ("seed", "note"),
    [
        ("a[dim = 12, depths = [1, 2], mixers = [pool, attn]]", "cannot be 12"),
        ("a[depths = [1, 1], mixers = [pool, attn]]", "cannot be [1, 1]"),
        ("a[depths = 2, mixers = [pool, dw[7]]]", "cannot be [pool, dw[k = 7]]"),
        ("a[depths = [1, 2], mixers = [pool, attn[head_dim = 2]]]", "cannot be"),
        ("a[depths = [1, 2], mixers = [dw[3], dw[5]]]", "cannot be"),
        ("a[depths = [1, 2], mixers = [pool, attn], ratio = 3]", ""),
    ],
)
def test_a_seed_that_is_no_point_is_a_mistake(seed: str, note: str) -> None:
    (found,) = check(SPACE, f"arch b = {seed}")
    assert found.code == "E-SEED" and "not a point of the space `s`" in found.title
    assert [text for _, text in found.notes if note and note in text] or not note


def test_ties_between_bindings_are_seen() -> None:
    """Each binding alone could take the seed's value; no value of the let gives both."""
    items = "let w = {8 | 16}\ndim = w\nratio = w / 8\nseed b"
    assert check(items, "arch b = a[dim = 16]") == []
    (found,) = check(items, "arch b = a[dim = 8]")
    assert found.code == "E-SEED" and found.notes == ()


def test_a_seed_may_be_written_in_place() -> None:
    assert check("dim = {8 | 16}\nseed a[dim = 16]") == []
    assert [d.code for d in check("dim = {8 | 16}\nseed a[dim = 4]")] == ["E-SEED"]


def test_a_seed_of_another_arch_is_a_mistake() -> None:
    other = "arch other { input img: map[3, 32, 32] head { return img |> gap |> linear[10] } }"
    (found,) = check("dim = {8 | 16}\nseed other", other)
    assert found.code == "E-SEED" and "not a variant of `a`" in found.title


def test_a_seed_keeps_to_the_requirements_on_parameters() -> None:
    (found,) = check("dim = {8 | 16}\nrequire dim > 8\nseed a")
    assert found.code == "E-SEED" and "requirement" in found.title and found.notes
    assert check("dim = {8 | 16}\nrequire dim >= 8\nseed a") == []


# -- requirements and goals ------------------------------------------------------------------------


def test_requirements_are_split_by_what_they_mention() -> None:
    s = space(
        "let w = {1 | 2}\ndim = {8 | 16}\nrequire dim * w <= 16\nrequire params <= 1M\n"
        'require latency("gpu") <= 8ms\nminimize flops\nmaximize proxy("naswot")'
    )
    assert (len(s.before), len(s.after), len(s.goals)) == (1, 2, 2)
    assert [s.meets(p) for p in s.points()] == [True, True, True, False]


@pytest.mark.parametrize("items", ["require dims > 8", "minimize flopz", "require latencies(1) > 2", "bogus = {1 | 2}"])
def test_every_name_of_a_space_resolves(items: str) -> None:
    (found,) = check("dim = {8 | 16}\n" + items)
    assert found.code in ("E-NAME", "E-PARAMETER") and found.span is not None


def test_a_value_a_parameter_cannot_take_is_a_mistake() -> None:
    (found,) = check("depths = [{1 | 2}, 1, 1]")
    assert found.code == "E-LENGTH" and found.span is not None


def test_opening_a_space_that_is_not_there() -> None:
    with pytest.raises(ArchError) as e:
        Space.open(program(BASE))
    assert e.value.diagnostics[0].code == "E-SPEC"
    with pytest.raises(ArchError) as e:
        Space.open(Program.open(HYBRID), "hybird")
    assert "hybrid" in e.value.diagnostics[0].help
