"""Turns graphs, drawn and built by hand, into text and back, and broken text into diagnostics."""

# ruff: noqa: E501 (lines of the text form are as long as they are)

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from archdsl.diagnostics import ArchError, Source, Span
from archdsl.ir import sizes
from archdsl.ir.graph import Feature, Graph, Guard, Parameter, Region, Static, Value
from archdsl.ir.hash import canonical_hash
from archdsl.ir.sizes import Condition, Size
from archdsl.ir.text import parse_graph, print_graph, static_text
from archdsl.ir.types import image
from archdsl.ir.verify import verify
from archdsl.ops.base import Op, ShapeError
from archdsl.ops.vocabulary import Vocabulary

OPS = Vocabulary.of()
SPEC = Source("specs/tiny.arch", "arch tiny {}\n")


def start(height: int = 30, width: int = 28) -> tuple[Graph, Value]:
    """A graph that holds its root region and an input."""
    graph = Graph("tiny", source=SPEC.name)
    graph.regions.append(Region(0, None, "arch", "tiny"))
    node = graph.add(OPS["input"](), (), (image(3, height, width),), path="img", region=0, names=("img",))
    graph.inputs.append(node.value())
    return graph, node.value()


def call(
    graph: Graph,
    op: Op,
    *operands: Value | None,
    path: str = "",
    region: int = 0,
    module: str = "",
    span: Span | None = None,
) -> tuple[Value, ...]:
    """Appends a resolved op and the weights it owns; with `module`, weights that exist there are shared."""
    types = [None if v is None else v.type for v in operands]
    op = op.resolve(*types)
    outputs, owned = op.infer(*types), op.weights(*types)
    path = path or f"{op.name}.{len(graph)}"
    home = module or path
    params = tuple((w.role, f"{home}.{w.role}" if w.role else home) for w in owned)
    for weight, (_, at) in zip(owned, params, strict=True):
        new = Parameter(at, weight.shape, weight.init, weight.kind, weight.dtype, weight.resize)
        graph.params.setdefault(at, new)
    node = graph.add(
        op,
        operands,
        outputs,
        path=path,
        region=region,
        span=span,
        module=home if owned else "",
        params=params,
    )
    return node.values


def tiny() -> Graph:
    """Every feature of the text form in one small graph: shifted windows, sharing, a table bound to the size."""
    graph, img = start()
    here = Span(SPEC, 3, 5, 3, 20)
    mixers = Span(Source("specs/std/mixers.arch", ""), 9, 14, 11, 2)
    graph.statics.update(
        dim=16, dpr=0.1, norm="ln", heads=(2, 4), rate=1e-6, tail=None, deep=True, grid=img.type.dims[1]
    )
    (x,) = call(graph, OPS["conv"](dim=16, k=2, s=2, init="torch"), img, path="stem.proj", span=here)
    graph.rename_result(x, "x")
    graph.regions.append(Region(1, 0, "stage", "stages", "stages.0", "stages.0", here, index=0))
    attn = Region(2, 1, "call", "wmsa", "attn", "stages.0.attn", here, statics=(("heads", 2), ("mixer", "fn")))
    graph.regions.append(attn)
    w, frame = call(graph, OPS["windows"](size=7, shift=3), x, path="stages.0.attn.windows", region=2)
    graph.rename_result(frame, "frame")
    (q,) = call(graph, OPS["linear"](), w, path="stages.0.attn.q", region=2, span=mixers)
    (k,) = call(graph, OPS["linear"](), w, path="stages.0.attn.k", region=2, module="stages.0.attn.q")
    (a,) = call(
        graph,
        OPS["attend"](heads=2, scale=0.1),
        q,
        k,
        w,
        None,
        None,
        frame,
        path="stages.0.attn.mix#2",
        region=2,
    )
    (m,) = call(graph, OPS["merge"](), a, frame, path="stages.0.attn.merge", region=2)
    attn.ports, attn.results = (("x", x),), (m,)
    graph.regions.append(Region(3, 1, "call", "", share="stages.0.attn.q"))
    rows = sizes.of(15, sizes.expr_of((img.type.dims[1] + 1) // 2))
    call(graph, OPS["param"](shape=(16, rows, 14), resize="bicubic"), path="pos_embed", region=1)
    (y,) = call(graph, OPS["add"](), m, graph.node("pos_embed").value(), path="add", region=1)
    graph.features.append(Feature("stages.0", "y", y))
    graph.outputs = (y, m)
    graph.guards.append(Guard(Condition("==", sizes.expr_of(rows), 15), 'the shape of "pos_embed"', here))
    graph.guards.append(Guard(Condition(">=", ("min", "H", ("*", "W", 2)), ("-", 3, ("%", "H", 4))), "why"))
    return graph


def content(graph: Graph) -> dict[str, object]:
    """A graph as plain values, spans as places: what the text form has to keep."""

    def place(span: Span | None) -> object:
        return span and (span.source.name, span.line, span.column, span.end_line, span.end_column)

    def plain(item: object) -> object:
        if isinstance(item, Span):
            return place(item)
        if isinstance(item, Size):
            return (int(item), item.expr)
        if isinstance(item, tuple | list):
            return [plain(v) for v in item]
        if isinstance(item, dict):
            return {k: plain(v) for k, v in item.items()}
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            return type(item), [plain(getattr(item, f.name)) for f in dataclasses.fields(item)]
        return type(item), item

    fields = {f.name: plain(getattr(graph, f.name)) for f in dataclasses.fields(graph) if f.name != "net"}
    return {
        **fields,
        "params": list(map(plain, graph.params.items())),
        "nodes": [plain(node) for node in graph.nodes()],
        "edges": [plain(graph.operands(node)) for node in graph.nodes()],
    }


def survives(graph: Graph) -> str:
    """The graph's text, after the check that reading it gives the graph back, to the byte."""
    text = print_graph(graph)
    again = parse_graph(text, OPS)
    assert print_graph(again) == text
    assert content(again) == content(graph)
    assert canonical_hash(again) == canonical_hash(graph)
    return text


TINY = """\
ir 1
graph tiny mode eval from "specs/tiny.arch"
static dim = 16
static dpr = 0.1
static norm = "ln"
static heads = [2, 4]
static rate = 1e-06
static tail = none
static deep = true
static grid = {H}
region 0 arch tiny
region 1 stage stages in 0 index 0 segment "stages.0" on @stages.0 from 3:5-3:20
region 2 call wmsa[heads = 2, mixer = "fn"](x = %stem.proj) -> %stages.0.attn.merge in 1 segment "attn" on @stages.0.attn from 3:5-3:20
region 3 call "" in 1 share @stages.0.attn.q
param @stem.proj.weight : [16, 3, 2, 2] init "torch"
param @stem.proj.bias : [16] init "torch"
param @stages.0.attn.q.weight : [16, 16] init "trunc_normal(0.02)"
param @stages.0.attn.q.bias : [16]
param @pos_embed : [16, {(H + 1) // 2}, 14] resize "bicubic"
input %img as img = input() in 0 : map[3, H = 30, W = 28]
%stem.proj as x = conv[dim = 16, k = [2, 2], s = [2, 2], p = [0, 0], init = "torch"](%img) on @stem.proj{weight, bias} in 0 : map[16, 15, 14] from 3:5-3:20
%stages.0.attn.windows as "", frame = windows[size = [7, 7], shift = [3, 3]](%stem.proj) in 2 : map[16, 7, 7] in window[3x2 of 7x7 from 15x14 shift 3x3], frame window[3x2 of 7x7 from 15x14 shift 3x3]
%stages.0.attn.q = linear[dim = 16](%stages.0.attn.windows) on @stages.0.attn.q{weight, bias} in 2 : map[16, 7, 7] in window[3x2 of 7x7 from 15x14 shift 3x3] from "specs/std/mixers.arch":9:14-11:2
%stages.0.attn.k = linear[dim = 16](%stages.0.attn.windows) on @stages.0.attn.q{weight, bias} in 2 : map[16, 7, 7] in window[3x2 of 7x7 from 15x14 shift 3x3]
%stages.0.attn.mix#2 = attend[heads = 2, scale = 0.1](%stages.0.attn.q, %stages.0.attn.k, %stages.0.attn.windows, _, _, %stages.0.attn.windows:1) in 2 : map[16, 7, 7] in window[3x2 of 7x7 from 15x14 shift 3x3]
%stages.0.attn.merge = merge(%stages.0.attn.mix#2, %stages.0.attn.windows:1) in 2 : map[16, 15, 14]
%pos_embed = param[shape = [16, {(H + 1) // 2}, 14], resize = "bicubic"]() on @pos_embed{""} in 1 : const map[16, 15, 14]
%add = add(%stages.0.attn.merge, %pos_embed) in 1 : map[16, 15, 14]
output %add, %stages.0.attn.merge
feature "stages.0" y = %add
guard (H + 1) // 2 == 15 "the shape of \\"pos_embed\\"" from 3:5-3:20
guard min(H, W * 2) >= 3 - H % 4 "why"
"""


def test_the_text_of_a_graph_that_has_everything() -> None:
    assert survives(tiny()) == TINY


def test_a_size_that_is_read_back_still_follows_the_input() -> None:
    rows = parse_graph(TINY, OPS).node("pos_embed").op.attributes()["shape"]
    assert isinstance(rows, tuple) and isinstance(rows[1], Size)
    assert sizes.evaluate(rows[1].expr, {"H": 62, "W": 28}) == 31
    assert parse_graph(TINY, OPS).node("stem.proj").outputs[0].dims[2].expr == ("//", "W", 2)  # type: ignore[attr-defined]


def test_comments_blank_lines_and_carriage_returns_are_read_over() -> None:
    loose = "# a dump\n\n" + TINY.replace("\n", "  # why\r\n\r\n").replace("region 3", "# between\nregion 3")
    assert print_graph(parse_graph(loose, OPS)) == TINY


def test_a_span_points_into_a_source_that_is_at_hand() -> None:
    text = TINY.replace("3:5-3:20", "1:6-1:10")
    span = parse_graph(text, OPS, sources={SPEC.name: SPEC}).node("stem.proj").span
    assert span is not None and span.source is SPEC
    spans = [n.span for n in parse_graph(text, OPS).nodes() if n.span]
    assert spans[0].source.text == "" and spans[0].source.name == SPEC.name


# -- drawn graphs ----------------------------------------------------------------------------

STATICS: st.SearchStrategy[Static] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8") | st.sampled_from('\u2028\x85\r\n\t"\\#%@'), max_size=8),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)
NAMES = st.text(max_size=6) | st.sampled_from(["in", "_", "x", "true", "stages.0", "a#2", "9"])


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random DAG over a few ops with weights, several results, frames, and operands that may be absent."""
    graph, img = start(draw(st.integers(8, 40)), draw(st.integers(8, 40)))
    values = [img]
    frames: dict[Value, tuple[Value, ...]] = {}
    for _ in range(draw(st.integers(1, 8))):
        x, other = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["conv", "linear", "windows", "merge", "attend", "add", "param"]))
        region = draw(st.integers(0, len(graph.regions) - 1))
        shared = draw(st.sampled_from(["", "", *dict.fromkeys(n.module for n in graph.weight_nodes())]))
        stack = max((frames.get(v, ()) for v in (x, other)), key=len) if kind == "add" else frames.get(x, ())
        try:
            made: Sequence[Value]
            if kind == "conv":
                attrs = {"dim": draw(st.integers(1, 9)), "k": draw(st.integers(1, 3)), "bias": draw(st.booleans())}
                made = call(graph, OPS["conv"](**attrs, s=draw(st.sampled_from([1, 2, (1, 2)]))), x, region=region)
            elif kind == "linear":
                made = call(graph, OPS["linear"](init="torch"), x, region=region, module=_fits(graph, shared, x))
            elif kind == "windows":
                made = call(graph, OPS["windows"](size=7, shift=draw(st.integers(0, 6))), x, region=region)
                stack, made = (*stack, made[1]), made[:1]
            elif kind == "merge":
                made = call(graph, OPS["merge"](), x, *stack[-1:], region=region)
                stack = stack[:-1]
            elif kind == "attend":
                made = call(graph, OPS["attend"](), x, x, x, None, None, *stack[-1:], region=region)
            elif kind == "param":
                shape = (2, x.type.dims[-1] + draw(st.integers(-3, 3)), 5)
                made, stack = call(graph, OPS["param"](shape=shape), region=region), ()
            else:
                made = call(graph, OPS["add"](), x, other, region=region)
        except ShapeError:
            continue
        frames.update(dict.fromkeys(made, stack))
        values += made
        if draw(st.booleans()):
            parent = draw(st.integers(0, len(graph.regions) - 1))
            graph.regions.append(
                Region(
                    len(graph.regions),
                    parent,
                    draw(st.sampled_from(["call", "stage", "in"])),
                    draw(NAMES),
                    draw(NAMES),
                    draw(NAMES),
                    index=draw(st.none() | st.integers(0, 99)),
                    statics=tuple(draw(st.dictionaries(NAMES, STATICS, max_size=2)).items()),
                    ports=((draw(NAMES), x),),
                    results=tuple(made),
                    share=draw(NAMES),
                )
            )
    graph.name, graph.source = draw(NAMES), draw(NAMES)
    graph.mode = draw(st.sampled_from(["train", "eval", "deploy"]))
    graph.statics = draw(st.dictionaries(NAMES, STATICS, max_size=3))
    graph.outputs = tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)))
    graph.features = [Feature(draw(NAMES), draw(NAMES), v) for v in draw(st.lists(st.sampled_from(values), max_size=2))]
    return graph


def _fits(graph: Graph, module: str, x: Value) -> str:
    """`module`, where a linear of x's channels could use the weights that live there."""
    weight, bias = graph.params.get(f"{module}.weight"), graph.params.get(f"{module}.bias")
    c = x.type.channels
    return module if weight and bias and weight.shape == (c, c) else ""


QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(graphs())
def test_drawn_graphs_survive_and_are_sound(graph: Graph) -> None:
    survives(graph)
    assert verify(graph) == []


@given(STATICS)
@example(float("inf"))
@example(-0.0)
@settings(deadline=None)
def test_statics_survive(value: Static) -> None:
    graph = tiny()
    graph.statics = {"it": value}
    again = parse_graph(print_graph(graph), OPS).statics["it"]
    assert content(Graph("", statics={"it": again})) == content(Graph("", statics={"it": value}))


EXPRESSIONS = st.recursive(
    st.sampled_from(["H", "W"]) | st.integers(-9, 99),
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "min", "max"]), inner, inner),
    max_leaves=8,
)


@given(EXPRESSIONS)
@settings(deadline=None)
def test_expressions_of_sizes_survive(expr: sizes.Expr) -> None:
    graph = tiny()
    axes = graph.axes
    try:
        graph.statics = {"it": sizes.of(sizes.evaluate(expr, axes), expr)}
    except ZeroDivisionError:
        return
    text = print_graph(graph)
    again = parse_graph(text, OPS)
    assert print_graph(again) == text
    found = again.statics["it"]
    assert found == graph.statics["it"]
    for other in ({"H": 31, "W": 64}, {"H": 7, "W": 1}):
        try:
            wanted = sizes.evaluate(expr, other)
        except ZeroDivisionError:
            continue
        assert isinstance(found, int) and sizes.evaluate(sizes.expr_of(found), other) == wanted


# -- mistakes --------------------------------------------------------------------------------

MISTAKES = [
    ("ir 1", "ir 2", "the text is written in ir 2; this archdsl reads ir 1", 1, "2"),
    ("mode eval", "mode test", "`test` is not a mode", 2, "test"),
    ("graph tiny", "static tiny", "`mode` cannot stand here", 2, "mode"),
    ('graph tiny mode eval from "specs/tiny.arch"\n', "", "a text has one `graph` line", 1, ""),
    ("= merge(", "= merg(", "there is no op `merg`", 26, "merg"),
    ("heads = 2, scale", "heads = 2, heads", 'attribute "heads" stands twice', 25, "heads"),
    ("scale = 0.1", "scales = 0.1", "`attend` has no attribute `scales`", 25, "scales"),
    ("heads = 2, scale", "heads = 3, scale", "`attend` does not take these operands: `attend`: 3", 25, "attend"),
    ("size = [7, 7], ", "", "`windows` does not take these attributes: ", 22, "windows"),
    ("14] from", "15] from", "`conv` gives map[16, 15, 14], not map[16, 15, 15]", 21, "map"),
    ("output %add", "output %ad", "no node %ad stands above", 29, "%ad"),
    ("output %add", "output %add:1", "%add has 1 results, numbered from 0", 29, "%add:1"),
    ("%add = add", "%stem.proj = add", 'node "stem.proj" stands twice', 28, "%stem.proj"),
    ("%add = add", "%add:1 = add", "a node is named without the number of a result", 28, "%add:1"),
    ("param @pos_embed", "param @stem.proj.bias", 'parameter "stem.proj.bias" stands twice', 19, "@stem.proj.bias"),
    ("[16, 3, 2, 2]", '[16, "3", 2, 2]', "a shape is a list of integers", 15, "@stem.proj.weight"),
    ("region 3", "region 4", "region 4 stands where region 3 is due", 14, "4"),
    ("index 0", 'init "x"', "`init` cannot stand here", 12, "init"),
    ("index 0", "in 0", "`in` cannot stand here", 12, "in"),
    ("{H}", "{N}", "no input has an axis N", 10, "N"),
    ("{H}", "{H // (W - W)}", "a size divided by zero", 10, "H"),
    ("{H}", "{med(H, W)}", "`med` is not a function of sizes", 10, "med"),
    ("{H}", "{" + "+ ".join(["H"] * 200) + "}", "an expression deeper than 100", 10, "H"),
    ("{H}", "[" * 200 + "1" + "]" * 200, "brackets nest deeper than 100", 10, "["),
    ("{H}", "9" * 5000, "a number with too many digits", 10, "9" * 5000),
    ('"ln"', r'"\q"', "a string with an unknown escape", 5, r'"\q"'),
    ('"ln"', '"ln', "a string is not closed", 5, '"'),
    ("static dim = 16", "static dim =", "the line ends early", 3, ""),
    ('>= 3 - H % 4 "why"\n', "", "the text ends early", 32, ""),
    ("14]\noutput", "W = 14]\noutput", "only an input defines axes", 28, "map"),
    (" in 1 : map[16, 15, 14]\nout", " : map[16, 15, 14]\nout", "a node names its region", 28, "add"),
    ("W = 28]", "H = 28]", "axis H is 28 here and 30 in another input", 20, "map"),
    ("map[3, H =", "const map[3, H =", "an input has sizes and is in no frame", 20, "const"),
    ("input() in 0", "input(%img) in 0", "no node %img stands above", 20, "%img"),
]


@pytest.mark.parametrize(("old", "new", "title", "line", "under"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_mistakes_in_the_text(old: str, new: str, title: str, line: int, under: str) -> None:
    assert old in TINY
    with pytest.raises(ArchError) as caught:
        parse_graph(TINY.replace(old, new, 1), OPS, name="dump.ir")
    (found,) = caught.value.diagnostics
    assert found.title.startswith(title)
    assert found.code == "E-IR" and found.span is not None and found.span.source.name == "dump.ir"
    span = found.span
    assert (span.line, span.source.lines[span.line - 1][span.column - 1 : span.end_column - 1]) == (line, under)


PIECES = [*sorted(set(TINY.replace("\n", " \n ").split(" "))), *'[]{}()%@"0', "-1"]


@st.composite
def spoiled(draw: st.DrawFn) -> str:
    """The text with a few words deleted, doubled, swapped or replaced, or cut short."""
    words = TINY.replace("\n", " \n ").split(" ")
    for _ in range(draw(st.integers(1, 3))):
        words = words or [""]
        i = draw(st.integers(0, len(words) - 1))
        how = draw(st.sampled_from(["delete", "double", "replace", "swap", "character", "cut"]))
        if how == "delete":
            del words[i]
        elif how == "double":
            words.insert(i, words[i])
        elif how == "replace":
            words[i] = draw(st.sampled_from(PIECES))
        elif how == "swap":
            words[i], words[0] = words[0], words[i]
        elif how == "character":
            word = words[i]
            at = draw(st.integers(0, len(word)))
            words[i] = word[:at] + draw(st.characters(codec="utf-8")) + word[at + 1 :]
        else:
            words = words[: i + 1]
    return " ".join(words)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spoiled())
def test_spoiled_text_is_refused_or_read_but_never_a_traceback(text: str) -> None:
    try:
        graph = parse_graph(text, OPS)
    except ArchError as e:
        assert {d.code for d in e.diagnostics} == {"E-IR"} and all(d.span for d in e.diagnostics)
    else:
        again = print_graph(graph)
        assert print_graph(parse_graph(again, OPS)) == again


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(ArchError) as caught:
        parse_graph(text, OPS)
    assert caught.value.diagnostics[0].code == "E-IR"


def test_floats_keep_their_value_and_their_type() -> None:
    assert [static_text(v) for v in (1, 1.0, True, 1e-6, float("inf"), -0.0)] == [
        "1",
        "1.0",
        "true",
        "1e-06",
        "inf",
        "-0.0",
    ]


def test_a_size_that_equals_the_default_survives() -> None:
    graph, img = start(height=30)
    graph.outputs = call(graph, OPS["pad"](top=img.type.dims[1] - 30), img, path="pad")
    survives(graph)


def test_the_documented_text_is_read_and_printed_as_it_stands() -> None:
    page = (Path(__file__).parent.parent / "docs" / "ir.md").read_text(encoding="utf-8")
    text = page.split("```\n")[1]
    graph = parse_graph(text, OPS)
    assert print_graph(graph) == text and verify(graph) == []
