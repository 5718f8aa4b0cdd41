"""Reading: every spec parses with exact spans, every mistake is a diagnostic, and nothing else is ever raised."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archdsl import resources
from archdsl.diagnostics import ArchError, Diagnostic, Source, Span, render_all
from archdsl.syntax import tables, tree
from archdsl.syntax.build import LANGUAGE, MAX_DEPTH, RESERVED, WORDS
from archdsl.syntax.parser import MAX_BYTES, MAX_MISTAKES, parse, read_source
from archdsl.syntax.printer import same

SPECS = sorted([*resources.specs_dir().rglob("*.arch"), *(Path(__file__).parent / "language").glob("*.arch")])
TEXTS = [p.read_text(encoding="utf-8") for p in SPECS]


def read(text: str) -> tree.File:
    return parse(Source("a.arch", text))


def mistakes(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(ArchError) as caught:
        read(text)
    return caught.value.diagnostics


def under(span: Span | None) -> str:
    """The text a span underlines, on its first line."""
    assert span is not None
    line = span.source.lines[span.line - 1]
    return line[span.column - 1 : span.end_column - 1 if span.end_line == span.line else None]


def nodes(root: tree.Tree) -> Iterator[tree.Tree]:
    todo: list[object] = [root]
    while todo:
        node = todo.pop()
        if isinstance(node, tuple):
            todo += node
        elif isinstance(node, tree.Tree):
            yield node
            todo += [getattr(node, f.name) for f in dataclasses.fields(node)]


# -- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in tables.GRAMMARS if resources.grammar(n).exists()])
def test_the_shipped_tables_are_those_of_the_grammar(name: str) -> None:
    grammar = resources.grammar(name).read_text(encoding="utf-8")
    assert tables.recorded(name) == tables.digest(grammar), "run python -m archdsl.syntax.tables --write"


def test_keywords_of_the_grammar_are_reserved() -> None:
    grammar = resources.grammar("arch").read_text(encoding="utf-8")
    keywords = set(re.findall(r"^[A-Z]+\.2: /([a-z]+)\(", grammar, re.MULTILINE))
    assert keywords - {"of"} == RESERVED - WORDS


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_specs_parse_and_say_their_language(path: Path) -> None:
    file = parse(read_source(path))
    assert file.items
    assert file.version is not None and file.version.value == LANGUAGE
    assert file.comments and file.comments[0].span.line == 1


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_spans_are_exact(path: Path) -> None:
    """The text under an expression's span is that expression."""
    file = parse(read_source(path))
    lines = file.source.lines
    expressions = [n for n in nodes(file) if isinstance(n, tree.Call | tree.Config | tree.Pipe | tree.Binary)]
    for node in expressions:
        s = node.span
        text = "\n".join(lines[s.line - 1 : s.end_line])
        tail = len(lines[s.end_line - 1]) - (s.end_column - 1)
        (item,) = read("let x = " + text[s.column - 1 : len(text) - tail]).items
        assert isinstance(item, tree.Let)
        assert same(item.value, node)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("4", 4, ""),
        ("0.5", 0.5, ""),
        ("1.0", 1.0, ""),
        ("1e-6", 1e-6, ""),
        ("28.29M", 28_290_000, ""),
        ("30k", 30_000, ""),
        ("2T", 2 * 10**12, ""),
        ("4GFLOPs", 4 * 10**9, "MACs"),
        ("1.8GMACs", 1_800_000_000, "MACs"),
        ("600MB", 600_000_000, "B"),
        ("8ms", 0.008, "s"),
        ("250us", 0.00025, "s"),
    ],
)
def test_numbers_are_in_base_units(text: str, value: float, unit: str) -> None:
    (item,) = read(f"let x = {text}").items
    assert isinstance(item, tree.Let) and isinstance(item.value, tree.Number)
    assert (item.value.text, item.value.value, item.value.unit) == (text, value, unit)
    assert type(item.value.value) is type(value)


def test_keywords_are_whole_words_and_contextual() -> None:
    read("def archfoo(inputs) = heads@head(inputs).stage |> f[for_ = 1, head = 2, if = 3, in = 4]@_")


def test_everything_in_the_tree_has_a_form() -> None:
    read(
        """language 1
import a, b as c from "x.arch"
let t = [f(x) for x in xs if x != 2]
def f[a: int[4]?, g: fn(map[C], tokens) -> (map, vec), h: (fn(map[C]) -> map[C])[4] = g, k: fn[2]?,](
    x: map[C, ...], y: (fn(map) -> map)?,) -> map, tokens { return x, y }
extern e[](x: any) -> any from "p.m:C" { flops = 2 * N }
extern e2(x) -> any from "p.m:C"
rep def r(x) = fn (y, z,) => -x^2 // 3 % 4
arch m[w = {16 | 32}@width, v = {1..9 by 2}] {
  input img: map[3, 2, 2]
  share s = f[1,](1,)
  x *= not a and b or c < d <= e
  for i, d in dims { x = (1, 2,) }
  blocks@late 3 {}
  stage one -> p, q { if a {} else if b {} else {} }
  stem {}
  head { require x, "why" }
}
arch v = m[w = if a then 1 else 2]
check m: params ~= 2M, flops == 1.5GFLOPs
space s of m { let a = 1  w = 2  require a  minimize b  maximize c  seed v }
"""
    )


def test_comments_and_carriage_returns() -> None:
    file = read('# one\r\nlet x = "# not one" # two  \r\n# three')
    assert [(c.text, c.span.line, c.span.column) for c in file.comments] == [
        ("# one", 1, 1),
        ("# two", 2, 21),
        ("# three", 3, 1),
    ]
    assert read("# only a comment").items == ()
    assert read("").items == ()


# -- files -------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.arch"
    good.write_bytes(b"\xef\xbb\xbflet x = 1\r\nlet y = 2\r\n")
    assert read_source(good, "shown.arch").text == "let x = 1\nlet y = 2\n"
    bad = {
        "E-ENCODING": b"let x = 1\n# caf\xe9",
        "E-SIZE": b"#" * (MAX_BYTES + 1),
    }
    for code, data in bad.items():
        (tmp_path / code).write_bytes(data)
    for code, path in [
        *((c, tmp_path / c) for c in bad),
        ("E-FILE", tmp_path),
        ("E-FILE", tmp_path / "none"),
    ]:
        with pytest.raises(ArchError) as caught:
            read_source(path, "shown.arch")
        assert [d.code for d in caught.value.diagnostics] == [code]
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ArchError):
        read_source("a\0b")


# -- limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "let x = " + "(" * 10_000 + "1" + ")" * 10_000,
        "let x = " + "[" * 10_000,
        "let x = " + "- " * 100_000 + "1",
        "let x = 1" + " + 1" * 100_000,
        "let x = f" + "(1)" * 10_000,
        "let x = " + "if a then b else " * 10_000 + "c",
        "let x = " + "fn (a) => " * 10_000 + "c",
        "arch a { " + "if a { x = 1 } else " * 5_000 + "{} }",
        "arch a { " + "stem { " * 5_000,
        "def f(x: " + "fn() -> " * 5_000 + "map) = x",
    ],
)
def test_depth_is_bounded(text: str) -> None:
    (only,) = mistakes(text)
    assert only.code == "E-NESTING"


def test_depth_within_the_bound_is_fine() -> None:
    deep = MAX_DEPTH - 10
    read("let x = " + "(" * deep + "1" + ")" * deep)


def test_size_and_characters() -> None:
    assert mistakes("#" * (MAX_BYTES + 1))[0].code == "E-SIZE"
    assert mistakes("let x = 1\0")[0].code == "E-ENCODING"
    assert mistakes("let x = " + "9" * 5000)[0].code == "E-NUMBER"
    assert mistakes("let x = 1e999999999")[0].code == "E-NUMBER"


# -- mistakes ------------------------------------------------------------------------------------------

BODY = "def f(x) {{\n  {}\n  return x\n}}"

MISTAKES = [
    # text, code, what is underlined, a part of the title or the help
    ("let x = y + z |> norm", "E-PIPE-MIX", "|>", "not defined"),
    ("let x = -y |> norm", "E-PIPE-MIX", "|>", "not defined"),
    ("let x = 1 < 2 |> f", "E-PIPE-MIX", "|>", "not defined"),
    ("let x = y |> norm + z", "E-PIPE-MIX", "+", "(x |> f) + y"),
    ("let x = y |> norm == z", "E-PIPE-MIX", "==", "not defined"),
    (BODY.format("x = x drop_path(mlp[2](x))"), "E-JUXTAPOSED", "drop_path", "operator or `|>`"),
    ("let a = f(a b, c)", "E-JUXTAPOSED", "b", "`,`"),
    ("let a = [1 2]", "E-JUXTAPOSED", "2", "`,`"),
    ("let a = 1 2", "E-JUXTAPOSED", "2", "operator"),
    (BODY.format("x = norm\n  (x)"), "E-JUXTAPOSED", "(", "line before"),
    (BODY.format("norm(x)"), "E-NO-EFFECT", "norm(x)", "nothing uses"),
    (BODY.format("norm[2](x)  # why"), "E-NO-EFFECT", "norm[2](x)", "return"),
    (BODY.format("x |> norm"), "E-NO-EFFECT", "x |> norm", "return"),
    (BODY.format("3 + x"), "E-NO-EFFECT", "3 + x", "return"),
    ("arch a { stem { norm(x) } }", "E-NO-EFFECT", "norm(x)", "return"),
    (BODY.format("x = x;"), "E-CHARACTER", ";", "new line"),
    ("let a = 'foo'", "E-CHARACTER", "'", "double quotes"),
    ("let a = 2 ** 3", "E-CHARACTER", "**", "`^`"),
    ("let a = b && c", "E-CHARACTER", "&&", "`and`"),
    ("let a = b || c", "E-CHARACTER", "||", "`or`"),
    ("let a = {1 || 2}", "E-CHARACTER", "||", "`or`"),
    ("let a = !b", "E-CHARACTER", "!", "`not`"),
    ("let \u00e9 = 3", "E-CHARACTER", "\u00e9", "ASCII"),
    ("let a = 3 \u2013 2", "E-CHARACTER", "\u2013", "hyphen"),
    ("let a =\u00a03", "E-CHARACTER", "\u00a0", "NO-BREAK SPACE"),
    ("let a = 4x", "E-NUMBER", "4x", "4 * x"),
    ("let a = 16px + 2", "E-NUMBER", "16px", "units"),
    ("let a = 1.", "E-NUMBER", "1.", "1.0"),
    ("let a = .5", "E-NUMBER", ".5", "0.5"),
    (BODY.format("if x = 3 { x = 2 }"), "E-SYNTAX", "=", "`==`"),
    ("check a: params = 3M", "E-SYNTAX", "=", "`==`"),
    ("let a = b = c", "E-SYNTAX", "=", "one name"),
    ("let a = f[x.y = 3]", "E-SYNTAX", "=", "one plain word"),
    (BODY.format("if x { x = 1 } elif y { x = 2 }"), "E-SYNTAX", "elif", "else if"),
    (BODY.format("while x { x = 3 }"), "E-SYNTAX", "while", "unbounded"),
    (BODY.format("retrun x"), "E-SYNTAX", "retrun", "did you mean `return`?"),
    ("let a = x if y else z", "E-SYNTAX", "if", "if c then a else b"),
    ("let a = 3 + if b then 2 else 3", "E-SYNTAX", "if", "parentheses"),
    ("foo = 3", "E-SYNTAX", "foo", "let foo"),
    ("defn f(x) = x", "E-SYNTAX", "defn", "did you mean `def`?"),
    ("return 3", "E-SYNTAX", "return", "inside `arch"),
    ("let a = 1\nlanguage 1", "E-SYNTAX", "language", "first line"),
    ("arch a { input img map[3] }", "E-SYNTAX", "map", "the form is: input"),
    ("arch a { stage i of 4 {} }", "E-SYNTAX", "of", "the form is: stage"),
    ("check a params == 3", "E-SYNTAX", "params", "expected `:`"),
    ("space s of a { w {1 | 2} }", "E-SYNTAX", "{", "expected `=`"),
    ("space s of a { minimze f }", "E-SYNTAX", "minimze", "did you mean `minimize`?"),
    ("let a =", "E-SYNTAX", "", "the file ends"),
    ("def f(x)", "E-SYNTAX", "", "the file ends"),
    ("import foo", "E-SYNTAX", "", "`from`"),
    ("let a = [1, 2", "E-UNCLOSED", "[", "never closed"),
    ("let a = (1, 2]", "E-UNCLOSED", "(", "never closed"),
    ("let a = 1, 2)", "E-SYNTAX", ",", "expected"),
    ("def f(x: map[C) = x", "E-UNCLOSED", "[", "never closed"),
    ("def f(x) { y = x } }", "E-UNCLOSED", "}", "closes nothing"),
    (BODY.format("x = conv[3(x)"), "E-UNCLOSED", "[", "never closed"),
    (BODY.format("x = conv(x\n  y = 3"), "E-UNCLOSED", "(", "never closed"),
    ("def f(x) {\n  x = 1\nlet b = 2", "E-UNCLOSED", "{", "never closed"),
    ('let a = "foo\nlet b = 3', "E-UNCLOSED", '"foo', "not closed"),
    ("let stage = 1", "E-RESERVED", "stage", "reserved word"),
    ("def head(x) = x", "E-RESERVED", "head", "@head"),
    ("def f[seed](x) = x", "E-RESERVED", "seed", "reserved word"),
    ("let true = 1", "E-RESERVED", "true", "reserved word"),
    ("let f = fn (rest) => 1", "E-RESERVED", "rest", "reserved word"),
    ("let a = [1 for deploy in 3]", "E-RESERVED", "deploy", "reserved word"),
    ("arch a { stem = conv(x) }", "E-RESERVED", "stem", "reserved word"),
    ("arch a { input = 3 }", "E-RESERVED", "input", "reserved word"),
    ("let a = f(stage)", "E-RESERVED", "stage", "reserved word"),
    ("import check from \"x\"", "E-RESERVED", "check", "reserved word"),
    ("language 2\nlet", "E-VERSION", "2", "language 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "underlined", "words"), MISTAKES, ids=[m[0][-40:] for m in MISTAKES])
def test_mistakes(text: str, code: str, underlined: str, words: str) -> None:
    found = mistakes(text)
    shown = render_all(found)
    assert [(d.code, under(d.span)) for d in found[:1]] == [(code, underlined)], shown
    assert words in shown
    assert len(found) == 1, shown


def test_the_misindented_brace_is_blamed() -> None:
    (only,) = mistakes("def f(x) {\n  if x {\n    x = 4\n  return x\n}\nlet b = 4\n")
    assert only.span is not None and (only.span.line, under(only.span)) == (2, "{")


def test_every_broken_item_is_reported_once_in_order() -> None:
    found = mistakes(
        "let a = = 1\nlet stage = 2\nlet ok = 3\ndef f(x {\n  return x\n}\n"
        "let c = 4x\narch m { stem = 1 }\nlet d = 3 +\n"
    )
    assert [(d.code, d.span and d.span.line) for d in found] == [
        ("E-SYNTAX", 1),
        ("E-RESERVED", 2),
        ("E-UNCLOSED", 4),
        ("E-NUMBER", 7),
        ("E-RESERVED", 8),
        ("E-SYNTAX", 9),
    ]
    assert len(mistakes("let a = =\n" * 1000)) == MAX_MISTAKES


# -- nothing but diagnostics ---------------------------------------------------------------------------

TOKENS = [
    *sorted(RESERVED), "x", "f", "C", "4", "0.5", "8ms", "28.29M", "4x", '"s"', '"', "'", ";", "(", ")", "[", "]", "{",
    "}", "|>", "|", "->", "=>", "..", "...", "?", "@", ".", ",", ":", "=", "+=", "*=", "<", "<=", "~=", "+", "-", "*",
    "**", "//", "/", "%", "^", "#", "&", "!", "language 1", "of", "\n", "\t", "\u00e9", "\0",
]  # fmt: skip


def only_diagnostics(text: str) -> None:
    try:
        read(text)
    except ArchError as e:
        assert e.diagnostics
        assert all(d.code and d.title and (d.span is None or d.span.line >= 1) for d in e.diagnostics)
        render_all(e.diagnostics)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=40).map(" ".join))
def test_token_soup(text: str) -> None:
    only_diagnostics(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    only_diagnostics(text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TEXTS), st.data())
def test_mutated_specs(text: str, data: st.DataObject) -> None:
    """One token of a real spec deleted, doubled or replaced."""
    spots = [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]
    start, end = data.draw(st.sampled_from(spots))
    word = data.draw(st.sampled_from(["", text[start:end] * 2, *TOKENS]))
    only_diagnostics(text[:start] + word + text[end:])
