"""Holds weight paths to their rules (ordinals, elision, labels, sharing) and weight shapes to timm's models."""

from __future__ import annotations

from pathlib import Path

import pytest

from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from tests.specs import LANGUAGE, SPECS, graph, only, paths, program, spec, written

BLOCK = """let norm = ln
def f(x: map[C]) {
  x += norm(x) |> conv
  x += norm(x) |> mlp
  return x
}
def wrap[m: fn](x: map) = m(x)"""
PARTS = ["norm1.weight", "conv.weight", "norm2.weight", "mlp.fc1.weight", "mlp.fc2.weight"]


def inside(body: str, defs: str = BLOCK) -> list[str]:
    """Weight paths between the first convolution and the classifier."""
    found = paths(spec(body, defs))
    assert (found[0], found[-1]) == ("first.weight", "head.fc.weight")
    return found[1:-1]


def of(prefix: str) -> list[str]:
    return [f"{prefix}.{part}" for part in PARTS]


# -- automatic names -----------------------------------------------------------------------------


def test_a_name_used_twice_in_a_body_is_numbered_in_textual_order() -> None:
    assert inside("x = f(x)") == of("f")
    assert inside("x = norm(conv(norm(x)))") == ["norm2.weight", "conv.weight", "norm1.weight"]


def test_both_branches_of_an_if_count() -> None:
    one = "if dim > 2 { x = conv(x) } else { x = conv(norm(x)) }"
    assert inside(one) == ["conv1.weight"]
    assert inside(one.replace(">", "<")) == ["norm.weight", "conv2.weight"]


def test_indices_follow_in_loops_and_comprehensions() -> None:
    assert inside("for i in 2 { x = conv(x) }\n  x = sum([conv(x) for k in 2])") == [
        "conv1.0.weight",
        "conv1.1.weight",
        "conv2.0.weight",
        "conv2.1.weight",
    ]
    nested = inside("for i in 2 { for k in 2 { x = conv@c(x) } }")
    assert nested == ["c.0.0.weight", "c.0.1.weight", "c.1.0.weight", "c.1.1.weight"]


def test_a_block_passed_as_a_parameter_is_named_by_the_parameter() -> None:
    assert inside("x = wrap[conv[k = 3]](x)") == ["wrap.m.weight"]
    assert inside("x = wrap[f](x)") == of("wrap.m")


# -- elision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "x = f(x)",
        "x = dropout[0.1](f(x))",
        "x = x + drop_path(f(x))",
        "require dim > 2\n    x = f(x)",
        "x = gelu(f(x)) * 2",
        "y = windows[8](x)\n    x = f(merge(y))",
    ],
)
def test_a_region_whose_one_owning_call_is_a_def_is_that_def(body: str) -> None:
    """Calls that own no weights, and statements that own none, change no name."""
    assert inside(f"blocks j in 1 {{\n    {body}\n  }}") == of("blocks.0")


def test_a_def_may_have_the_name_of_an_op_that_no_spec_can_call() -> None:
    assert inside("blocks j in 1 {\n    x = complete(x)\n  }", BLOCK.replace("def f(", "def complete(")) == of(
        "blocks.0"
    )


@pytest.mark.parametrize("body", ["x = f(norm(x))", "x = f(f(x))", "share g = conv\n    x = g(f(x))"])
def test_a_region_with_two_owners_keeps_their_segments(body: str) -> None:
    found = inside(f"blocks j in 1 {{\n    {body}\n  }}")
    assert not any(path.startswith("blocks.0.norm1") for path in found)
    assert set(of("blocks.0.f")) <= set(found) or set(of("blocks.0.f1")) <= set(found)


def test_an_op_keeps_its_name_and_a_label_is_kept() -> None:
    assert inside("blocks j in 1 { x = conv(x) }") == ["blocks.0.conv.weight"]
    assert inside("blocks j in 1 { x = f@g(x) }") == of("blocks.0.g")


def test_elision_in_stages_heads_and_lambdas() -> None:
    assert inside("stage i in 1 -> x { x = f(x) }") == of("stages.0")
    assert inside("stage last -> x { x = f(x) }") == of("last")
    assert inside("x = wrap[fn (y) => f(y)](x)") == of("wrap.m")
    assert inside("x = wrap[fn (y) => f(norm(y))](x)") == ["wrap.m.norm.weight", *of("wrap.m.f")]
    assert paths(spec("|head { return h(img) }", "def h(x: map) = x |> gap |> linear@fc[10]")) == ["head.fc.weight"]


def test_an_underscore_asks_for_no_segment() -> None:
    assert inside("x = norm(f@_(x))") == [*PARTS, "norm.weight"]
    assert inside("x = g(x)", BLOCK + "\ndef g(x: map) = x |> conv@_") == ["g.weight"]


# -- labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "title", "text"),
    [
        ("x = conv@s(conv@s(x))", "label `@s` is used twice in one body", "s"),
        ("if dim > 2 { x = conv@s(x) } else { x = linear@s[8](x) }", "used twice", "s"),
        ("share s = conv\n  x = conv@s(s(x))", "label `@s` equals the shared name `s`", "s"),
        ("share s = conv\n  x = s@t(x)", "label `@t` is dropped: `s` is shared", "t"),
        ("g = conv@s[8]\n  x = g(x)", "label `@s` is dropped: it stands on a function value", "s"),
        ("x = wrap[conv@s[8]](x)", "label `@s` is dropped", "s"),
        ("blocks@a i in 1 { x = f(x) }\n  blocks@a j in 1 { x = f(x) }", "label `@a` is used twice", "a"),
        ("blocks@a i in 1 { x = f(x) }\n  x = conv@a(x)", "label `@a` is used twice", "a"),
    ],
)
def test_a_label_that_is_ambiguous_or_lost_is_a_mistake(body: str, title: str, text: str) -> None:
    found = only(spec(body, BLOCK), "E-LABEL")
    assert title in found.title and written(found) == text


def test_a_label_in_a_let_is_lost() -> None:
    assert "dropped" in only(spec("x = g(x)", "let g = conv@s[8]"), "E-LABEL").title


@pytest.mark.parametrize(
    "body",
    [
        "x = conv(conv(x))\n  x = norm@conv1(x)",
        "x = norm@mlp(x)\n  x = mlp(x)",
        "stem { x = conv(x) }\n  stem { x = conv(x) }",
    ],
)
def test_two_owners_of_one_weight_path_are_a_mistake(body: str) -> None:
    assert only(spec(body, BLOCK), "E-WEIGHT-PATH").help


def test_two_blocks_loops_get_ordinals() -> None:
    two = inside("stage i in 1 -> x {\n    blocks i in 1 { x = f(x) }\n    blocks j in 1 { x = f(x) }\n  }")
    assert two == of("stages.0.blocks1.0") + of("stages.0.blocks2.0")
    labelled = inside("stage i in 1 -> x {\n    blocks@a i in 1 { x = f(x) }\n    blocks j in 1 { x = f(x) }\n  }")
    assert labelled == of("stages.0.a.0") + of("stages.0.blocks.0")


# -- sharing -----------------------------------------------------------------------------------


def test_shared_weights_live_where_they_are_shared() -> None:
    assert inside("share s = f\n  blocks j in 3 { x = s(x) }") == of("s")
    assert inside("blocks j in 2 {\n    share s = f\n    x = s(s(x))\n  }") == of("blocks.0.s") + of("blocks.1.s")
    assert inside("for i in 2 {\n    share s = f\n    x = s(s(x))\n  }") == of("s.0") + of("s.1")


def test_a_shared_weight_has_one_shape() -> None:
    assert "16x8x1x1" in only(spec("share s = conv[16]\n  x = s(s(x))"), "E-SHARED-SHAPE").title


# -- order and stability (decision 9) ------------------------------------------------------------


def test_submodules_are_registered_in_order_of_first_use() -> None:
    assert inside("share s = conv\n  x = norm(x)\n  x = s(x)\n  x = norm@last(x)\n  x = s(x)") == [
        "norm.weight",
        "s.weight",
        "last.weight",
    ]


@pytest.mark.parametrize("path", [*LANGUAGE, *SPECS], ids=lambda p: p.stem)
def test_call_paths_are_unique_and_weights_disjoint(path: Path) -> None:
    opened = Program.open(path)
    g = opened.elaborate()
    nodes = list(g.nodes())
    assert len({n.path for n in nodes}) == len(nodes)
    for node in g.weight_nodes():
        assert all(p == node.module + (f".{role}" if role else "") for role, p in node.params)
    assert list(g.params) == list(Program.open(path).elaborate().params)


# -- timm ----------------------------------------------------------------------------------------


def test_paths_follow_timms_vocabulary() -> None:
    swin = graph_of("swin_t")
    for path in (
        "stem.proj.weight",
        "stages.0.blocks.1.norm1.weight",
        "stages.2.blocks.5.attn.qkv.weight",
        "stages.3.blocks.0.mlp.fc2.bias",
        "stages.1.downsample.norm.weight",
        "head.fc.weight",
    ):
        assert path in swin.params, path
    vit = graph_of("vit_s16")
    for path in ("stem.cls_token", "stem.pos_embed", "blocks.11.attn.proj.weight", "blocks.0.mlp.fc1.bias"):
        assert path in vit.params, path


def graph_of(stem: str) -> Graph:
    return Program.open(next(p for p in SPECS if p.stem == stem)).elaborate()


# -- names are resolved before anything is evaluated ----------------------------------------------


def test_all_unknown_names_of_a_file_are_reported_together() -> None:
    from tests.specs import mistakes

    text = spec("x = con(x)\n  y = unknown + x\n  x = conv@s(conv@s(x))", "def g(x: map) = lin[3](x)")
    assert sorted(d.code for d in mistakes(text)) == ["E-LABEL", "E-NAME", "E-NAME", "E-NAME"]


def test_opening_a_file_twice_names_alike() -> None:
    text = spec("blocks j in 2 { x = f(x) }", BLOCK)
    assert list(graph(text).params) == list(program(text).elaborate().params)
