"""Printing: canonical, idempotent, tree-preserving, and no comment is ever lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archdsl import resources
from archdsl.diagnostics import Source, Span
from archdsl.syntax import tree
from archdsl.syntax.parser import parse
from archdsl.syntax.printer import WIDTH, format_file, same, unparse

SPECS = sorted([*resources.specs_dir().rglob("*.arch"), *(Path(__file__).parent / "language").glob("*.arch")])


def read(text: str) -> tree.File:
    return parse(Source("a.arch", text))


def canonical(text: str, width: int = WIDTH) -> str:
    """The formatted text, checked: same tree, same comments, and formatting it again changes nothing."""
    before = read(text)
    out = format_file(before, width)
    after = read(out)
    assert same(before, after)
    assert sorted(c.text for c in before.comments) == sorted(c.text for c in after.comments)
    assert format_file(after, width) == out
    assert "\n\n\n" not in out and not re.search(r"[ \t]\n", out)
    return out


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_shipped_specs_are_formatted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert canonical(text) == text
    assert max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
@pytest.mark.parametrize("width", [1, 40, 79, 1000])
def test_specs_survive_any_width(path: Path, width: int) -> None:
    canonical(path.read_text(encoding="utf-8"), width)


def test_swin_is_a_page() -> None:
    swin = (resources.specs_dir() / "swin_t.arch").read_text(encoding="utf-8")
    assert len(swin.splitlines()) <= 35


def formatted(text: str, expected: str, width: int = 40) -> None:
    assert canonical(text, width) == expected


def test_spacing() -> None:
    formatted("let  x=f [1,k=2,] (a,) .b@c^-2*3//4 - -5", "let x = f[1, k = 2](a).b@c^-2 * 3 // 4 - -5\n", 100)
    formatted("arch a{}\n\n\n\narch b=a", "arch a {}\n\narch b = a\n")


def test_short_bodies_stay_on_a_line() -> None:
    formatted(
        "arch a { stem\n{\nx = 1 } for i in 3 { x = 2 y = 3 } }",
        "arch a {\n  stem { x = 1 }\n  for i in 3 {\n    x = 2\n    y = 3\n  }\n}\n",
    )


def test_arguments_fill_indented_lines() -> None:
    formatted(
        "let x = f[first, second, third, fourth, fifth, sixth]",
        "let x = f[\n  first, second, third, fourth, fifth,\n  sixth\n]\n",
    )


def test_pipes_break_before_the_bar() -> None:
    formatted(
        "let x = first |> second |> third |> fourth |> fifth",
        "let x = first |> second |> third\n    |> fourth |> fifth\n",
    )


def test_a_definition_moves_below_its_head() -> None:
    formatted(
        "def f(x: map) = first |> second |> third |> fourth |> fifth",
        "def f(x: map) =\n    first |> second |> third |> fourth\n    |> fifth\n",
    )


def test_comments_stay_with_what_they_are_about() -> None:
    text = """\
# file
language 1  # one

# def
def f[
  # dims
  dims = [1, 2],  # widths
  k = 3  # kernel
  # more to come
](x: map) {  # body
  # first
  x = g(x)  # second

  # third
  if a {  # then
    x = 1
    # end of then
  } else {
    x = 2  # else
  }  # end
  return x
  # last
}  # closed
# eof
"""
    assert canonical(text) == text


def test_comments_inside_an_expression_go_before_the_statement() -> None:
    formatted("let x = a +  # why\n  b\n", "# why\nlet x = a + b\n")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([p.read_text(encoding="utf-8") for p in SPECS]), st.data())
def test_comments_anywhere(text: str, data: st.DataObject) -> None:
    """Comments and blank lines between any two tokens are kept, and settle at once."""
    gaps = [m.start() for m in re.finditer(r"(?<=[\s,()\[\]{}])(?=\S)", text)]
    spots = sorted(data.draw(st.lists(st.sampled_from(gaps), max_size=6, unique=True)), reverse=True)
    for i, spot in enumerate(spots):
        start = text.rfind("\n", 0, spot) + 1
        line = text[start : text.find("\n", spot)]
        if '"' in line or "#" in line or line[: spot - start + 1].rstrip().endswith(("(", "[")):
            continue  # inside a string or comment, or it would part a callee from its bracket
        text = f"{text[:spot]}{data.draw(st.sampled_from(['# c', ' # d', chr(10) * 3 + '# e']))}{i}\n{text[spot:]}"
    canonical(text)


# -- generated trees -------------------------------------------------------------------------------

SPAN = Span(Source("made", ""), 1, 1, 1, 1)
NAMES = st.sampled_from(["x", "conv", "dims", "_", "rest", "true"]).map(lambda n: tree.Name(SPAN, n))
NUMBERS = st.sampled_from([("4", 4, ""), ("0.5", 0.5, ""), ("8ms", 0.008, "s")]).map(lambda n: tree.Number(SPAN, *n))
STRINGS = st.sampled_from(["", "n", "a b"]).map(lambda s: tree.String(SPAN, s))


def several(inner: st.SearchStrategy[tree.Expr], low: int = 1) -> st.SearchStrategy[tuple[tree.Expr, ...]]:
    return st.lists(inner, min_size=low, max_size=3).map(tuple)


def larger(e: st.SearchStrategy[tree.Expr]) -> st.SearchStrategy[tree.Expr]:
    def made(kind: Callable[..., tree.Expr], *parts: st.SearchStrategy[object]) -> st.SearchStrategy[tree.Expr]:
        return st.builds(kind, st.just(SPAN), *parts)

    args = st.lists(st.builds(tree.Arg, st.just(SPAN), st.none() | NAMES, e), min_size=1, max_size=3).map(tuple)
    operators = st.lists(st.sampled_from(["<", "~=", "=="]), min_size=1, max_size=2).map(tuple)
    compares = operators.flatmap(
        lambda ops: made(tree.Compare, e, st.just(ops), st.lists(e, min_size=len(ops), max_size=len(ops)).map(tuple))
    )
    return st.one_of(
        made(tree.Group, e),
        made(tree.Tuple, several(e, 2)),
        made(tree.List, several(e, 0)),
        made(tree.Comprehension, e, st.just(tree.Name(SPAN, "i")), e, st.none() | e),
        made(tree.Choice, several(e)),
        made(tree.Config, e, args),
        made(tree.Call, e, args),
        made(tree.Attribute, e, NAMES),
        made(tree.Label, e, NAMES),
        made(tree.Unary, st.sampled_from(["-", "not"]), e),
        made(tree.Binary, st.sampled_from(["+", "-", "*", "/", "//", "%", "^", "and", "or"]), e, e),
        made(tree.Range, e, e, st.none() | e),
        made(tree.Pipe, e, several(e)),
        made(tree.Conditional, e, e, e),
        made(tree.Lambda, st.lists(st.just(tree.Name(SPAN, "y")), min_size=1, max_size=2).map(tuple), e),
        compares,
    )


EXPRESSIONS = st.recursive(NAMES | NUMBERS | STRINGS, larger, max_leaves=12)


def value(text: str) -> tree.Expr:
    (item,) = read(f"let x = {text}").items
    assert isinstance(item, tree.Let)
    return item.value


def ungrouped(part: object) -> object:
    """A tree without the parentheses that were written, or added because it needs them."""
    if isinstance(part, tree.Group):
        return ungrouped(part.inner)
    if isinstance(part, tree.Tree):
        return replace(part, **{f.name: ungrouped(getattr(part, f.name)) for f in fields(part)})
    return tuple(map(ungrouped, part)) if isinstance(part, tuple) else part


X = tree.Name(SPAN, "x")


@settings(max_examples=200, deadline=None)
@given(EXPRESSIONS)
@example(tree.Range(SPAN, X, X, X))
@example(tree.Binary(SPAN, "^", tree.Unary(SPAN, "-", X), X))
@example(tree.Binary(SPAN, "-", X, tree.Binary(SPAN, "-", X, X)))
def test_made_expressions_read_back(e: tree.Expr) -> None:
    """Parentheses are added where the tree needs them; from then on, text and tree say the same."""
    text = unparse(e)
    assert "\n" not in text
    again = value(text)
    assert unparse(again) == text
    kept, wanted = ungrouped(again), ungrouped(e)
    assert isinstance(kept, tree.Tree) and isinstance(wanted, tree.Tree) and same(kept, wanted)


@settings(max_examples=100, deadline=None)
@given(EXPRESSIONS, st.integers(1, 60))
def test_made_expressions_format(e: tree.Expr, width: int) -> None:
    canonical(f"let x = {unparse(e)}\ndef f(x) = {unparse(e)}\narch a {{ return {unparse(e)} }}", width)


def test_unparse_types() -> None:
    text = "(fn(map[C, ...], int?) -> (map, fn(vec) -> vec))[4]?"
    (item,) = read(f"def f[a: {text} = 1](x) = x").items
    assert isinstance(item, tree.Def)
    assert unparse(item.statics[0]) == f"a: {text} = 1"
    type_ = item.statics[0].type
    assert type_ is not None and unparse(type_) == text


def test_same_looks_at_everything_but_places() -> None:
    base = "arch a[x = 1] { y = f[2](x) return y }"
    assert same(read(base), read(f"# c\n{base.replace(' ', '  ')}"))
    for other in ("arch b[x = 1] {", "arch a[x = 2] {", "arch a[x: int = 1] {"):
        assert not same(read(base), read(base.replace("arch a[x = 1] {", other)))
    assert not same(value("1"), value("1.0"))
    assert not same(value("a"), value("(a)"))
