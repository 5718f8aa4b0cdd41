"""Holds elaboration to the language: published counts, one section a rule of the language, and drawn programs."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archdsl.cost import price
from archdsl.diagnostics import ArchError
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from archdsl.ir.text import parse_graph, print_graph
from archdsl.ir.verify import verify
from archdsl.ops.base import op_of
from archdsl.ops.drop_path import DropPath
from archdsl.ops.vocabulary import Vocabulary
from archdsl.syntax.build import RESERVED
from tests.specs import LANGUAGE, SPECS, graph, mistakes, only, program, spec, written

# -- published counts ----------------------------------------------------------------------------

COUNTS: dict[str, tuple[str, int, float]] = {
    # arch: (file, parameters, GMACs), of the eval graph
    "swin_t": ("swin_t", 28_288_354, 4.4906),
    "swin_s": ("swin_t", 49_606_258, 8.7409),
    "swin_b": ("swin_t", 87_768_224, 15.4309),
    "swin_s3_t": ("swin_s3_t", 28_328_674, 4.6233),
    "swin_s3_s": ("swin_s3_t", 49_737_298, 9.4047),
    "swin_s3_b": ("swin_s3_t", 71_125_762, 13.6550),
    "swinv2_t": ("swinv2_t", 28_347_154, 5.9397),
    "convnext_t": ("convnext_t", 28_589_128, 4.4555),
    "convnext_s": ("convnext_t", 50_223_688, 8.6837),
    "pvt_v2_b1": ("pvt_v2_b1", 14_009_000, 2.1084),
    "pvt_v2_b2": ("pvt_v2_b1", 25_362_856, 4.0267),
    "maxvit_t": ("maxvit_t", 30_916_528, 5.5452),
    "cswin_t": ("cswin_t", 22_320_552, 4.3242),
    "hornet_t": ("hornet_t", 22_409_512, 3.9684),
    "hornet_t_gf": ("hornet_t", 22_991_848, 3.8887),
    "pit_s": ("pit_s", 23_461_912, 2.8708),
    "convit_t": ("convit_t", 5_710_512, 1.2524),
    "flexivit_s": ("flexivit_s", 22_061_416, 5.3363),
    "crossvit_9": ("crossvit_9", 8_553_296, 1.8408),
    "nextvit_s": ("nextvit_s", 31_763_368, 5.7944),
    "nextvit_b": ("nextvit_s", 44_818_856, 8.2738),
    "nextvit_l": ("nextvit_s", 57_874_344, 10.7532),
    "sequencer2d_s": ("sequencer2d_s", 27_651_688, 8.3340),
    "sequencer2d_m": ("sequencer2d_s", 38_307_688, 11.0519),
    "sequencer2d_l": ("sequencer2d_s", 54_298_216, 16.4877),
    "vit_s16": ("vit_s16", 22_050_664, 4.5989),
    "vit_s16_18x2": ("vit_s16", 64_665_448, 13.6803),
    "vit_b16": ("vit_s16", 86_567_656, 17.5638),
    "convmixer_768_32": ("convmixer_768_32", 21_110_248, 20.6769),
    "visformer_s": ("visformer_s", 40_219_592, 4.8794),
    "sret_t": ("sret_t", 4_755_979, 1.1124),
    "gcvit_t": ("gcvit_t", 28_221_974, 4.7610),
    "repvit_m1": ("repvit_m1", 7_302_796, 1.1081),
    "mvitv2_t": ("mvitv2_t", 24_173_320, 4.6770),
    "mvitv2_s": ("mvitv2_t", 34_870_216, 6.9597),
    "tnt_s": ("tnt_s", 23_768_584, 5.2169),
    "nasnet_a_large": ("nasnet_a_large", 88_753_150, 23.7834),
    "nasnet_a_mobile": ("nasnet_a_large", 5_289_978, 0.5636),
    "inception_v4": ("inception_v4", 42_679_816, 12.2540),
    "inception_resnet_v2": ("inception_resnet_v2", 55_843_464, 13.1558),
    "poolformer_s12": ("poolformer_s12", 11_915_176, 1.8123),
    "poolformer_s24": ("poolformer_s12", 21_388_968, 3.3922),
    "pool_conv_attn": ("poolformer_s12", 16_726_200, 2.5429),
    "inception_next_t": ("inception_next_t", 28_055_680, 4.1886),
    "hybrid_seed": ("hybrid", 18_340_146, 3.3227),
    "overlock_xt": ("overlock_xt", 16_969_600, 2.8614),
    "extras": ("extras", 119_405, 0.0747),
}

OTHER_MODES = {
    ("overlock_xt", "train"): 17_307_272,
    ("overlock_xt", "deploy"): 16_444_772,
    ("repvit_m1", "deploy"): 6_810_312,
    ("inception_v4", "deploy"): 42_648_232,
    ("inception_resnet_v2", "deploy"): 55_813_192,
    ("nasnet_a_large", "deploy"): 88_737_976,
    ("nasnet_a_mobile", "deploy"): 5_287_229,
    ("extras", "deploy"): 119_309,
}
"""Parameters of modes that have other weights than eval: an auxiliary head, collapsed branches."""


@cache
def opened(stem: str) -> Program:
    return Program.open(next(p for p in (*LANGUAGE, *SPECS) if p.stem == stem))


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name: str) -> None:
    stem, params, gmacs = COUNTS[name]
    g = opened(stem).elaborate(name)
    cost = price(g).total
    assert cost.params == params == sum(p.elements for p in g.params.values() if p.kind == "param")
    assert cost.macs == pytest.approx(gmacs * 1e9, rel=1e-4)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("mode", ["train", "deploy"])
def test_every_spec_elaborates_in_every_mode(name: str, mode: str) -> None:
    stem, params, _ = COUNTS[name]
    g = opened(stem).elaborate(name, mode=mode)
    assert price(g).total.params == OTHER_MODES.get((name, mode), params)
    assert verify(g) == []


def test_the_table_has_every_arch_of_the_language_specs() -> None:
    assert {n for p in LANGUAGE for n in opened(p.stem).archs if opened(p.stem).buildable(n)} <= COUNTS.keys()


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_shipped_specs_have_the_counts_too(path: Path) -> None:
    shipped = Program.open(path)
    for name in shipped.archs:
        if shipped.buildable(name) and name in COUNTS:
            assert price(shipped.elaborate(name)).total.params == COUNTS[name][1]


@pytest.mark.parametrize("path", [*LANGUAGE, *SPECS], ids=lambda p: p.stem)
def test_check_finds_nothing(path: Path) -> None:
    assert Program.open(path).check() == []


@pytest.mark.parametrize(("block", "params"), [(0, 25_232), (1, 7_480)], ids=["aggregated", "ls_conv"])
def test_mixers_of_other_papers(block: int, params: int) -> None:
    """TransNeXt's AggregatedAttention (2311.17132) and LSNet's LSConv (2503.23135), at 64 channels."""
    g = opened("extras").elaborate()
    owned = [p for p in g.params.values() if p.kind == "param" and p.path.startswith(f"blocks.{block}.mixer.")]
    assert sum(p.elements for p in owned) == params


# -- 1: roles: function parameters say what they accept ----------------------------------------------

ROLES = """def block[mixer: fn(map[C, H, W]) -> map[C, H, W]](x: map[C, H, W]) = x + mixer(x)
def each[mixers: (fn(map[C, H, W]) -> map[C, H, W])[2]](x: map[C, H, W]) {
  for m in mixers { x += m(x) }
  return x
}
def over_tokens(x: tokens[N, C]) = x
def wider(x: map[C]) = conv[2 * C](x)
def flat(x: map) = tokens(x)
def two(x: map, y: map) = x + y"""

MISFITS = [
    "conv[16]",
    "conv[8, s = 2]",
    "over_tokens",
    "wider",
    "flat",
    "two",
    "gap",
    "tokens",
    "attend",
    "len",
    "fn (y) => wider(y)",
    "fn (y, z) => y",
]
FITS = ["conv[8]", "dwconv[3]", "mhsa[2]", "mlp", "fn (y) => y |> windows[8] |> mhsa[2] |> merge"]


@pytest.mark.parametrize("mixer", MISFITS)
def test_a_function_that_does_not_fit_its_role_is_a_mistake(mixer: str) -> None:
    found = only(spec(f"x = block[{mixer}](x)", ROLES), "E-ROLE")
    assert "does not fit the parameter `mixer`" in found.title and found.notes
    assert only(spec(f"x = each[[dwconv[3], {mixer}]](x)", ROLES), "E-ROLE").notes


@pytest.mark.parametrize("mixer", FITS)
def test_a_function_that_fits_its_role_is_taken(mixer: str) -> None:
    assert mistakes(spec(f"x = block[{mixer}](x)", ROLES)) == []
    assert mistakes(spec(f"x = each[{mixer}](x)", ROLES)) == []


@pytest.mark.parametrize("mixer", ["conv[16]", "over_tokens", "wider", "gap", "conv[8, s = 2]"])
def test_an_archs_own_parameter_has_a_role_too(mixer: str) -> None:
    params = f"classes = 10, mixer: fn(map[C, H, W]) -> map[C, H, W] = {mixer}"
    assert written(only(spec("x += mixer(x)", ROLES, params), "E-ROLE")) == mixer
    assert mistakes(spec("x += mixer(x)", ROLES, params.replace(f"= {mixer}", "= dwconv[3]"))) == []


def test_a_role_is_kept_through_a_search_override() -> None:
    text = spec("x += mixer(x)", ROLES, "classes = 10, mixer: fn(map[C, H, W]) -> map[C, H, W] = dwconv[3]")
    with pytest.raises(ArchError) as e:
        program(text).elaborate(overrides={"mixer": "over_tokens"})
    assert [d.code for d in e.value.diagnostics] == ["E-ROLE"]


# -- 2: opening a file never runs Python --------------------------------------------------------------


def test_an_extern_declares_and_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    defs = """extern mine[state = 4](x: map[C, H, W]) -> map[2 * C, H, W] from "trap_module:Mine" {
  flops = H * W * C * state
  params = C^2
}"""
    g = graph(spec("x = mine[8](x)", defs))
    node = next(n for n in g.nodes() if n.op.name == "extern")
    assert node.outputs[0].dims == (16, 32, 32)
    assert op_of(node).macs(g.operand_types(node), node.outputs) == 32 * 32 * 8 * 8
    assert program(spec("x = mine[8](x)", defs)).check() == []
    assert "trap_module" not in sys.modules


def test_an_extern_that_does_not_exist_elaborates() -> None:
    defs = 'extern gone(x: map[C, H, W]) -> map[C, H, W] from "no_such_package.module:Thing" { flops = 3 }'
    assert mistakes(spec("x = gone(x)", defs)) == []


# -- 3, 4, 11: frames ------------------------------------------------------------------------------------


def last(g: Graph, op: str) -> object:
    return [n for n in g.nodes() if n.op.name == op][-1]


def frame_of(body: str, image: str = "3, 30, 33") -> object:
    return next(n for n in graph(spec(body, image=image)).nodes() if n.op.name == "windows").outputs[0].frames[-1]


def test_a_shift_is_dropped_on_an_axis_that_the_window_covers() -> None:
    assert frame_of("x = x |> windows[7, 3] |> merge").shift == (3, 3)  # type: ignore[attr-defined]
    assert frame_of("x = x |> windows[30, 3] |> merge").shift == (0, 3)  # type: ignore[attr-defined]
    assert frame_of("x = x |> windows[40, 3] |> merge").shift == (0, 0)  # type: ignore[attr-defined]


def test_a_window_is_clamped_and_pads_unless_told_not_to() -> None:
    frame = frame_of("x = x |> windows[32] |> merge")
    assert (frame.inner, frame.grid, frame.padded) == ((30, 32), (1, 2), True)  # type: ignore[attr-defined]
    found = only(spec('x = x |> windows[7, pad = "none"] |> merge', image="3, 30, 30"), "E-WINDOW")
    assert written(found) == "7" and "30" in found.help


def test_merge_yields_the_grid_times_what_is_inside() -> None:
    g = graph(spec("x = x |> windows[8] |> conv[k = 3, s = 2] |> merge"))
    assert last(g, "merge").outputs[0].dims == (8, 16, 16)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "body",
    [
        "x = x |> windows[7] |> conv[k = 3, s = 2] |> merge",
        "x = x |> windows[8, 4] |> conv[k = 3, s = 2] |> merge",
    ],
)
def test_an_inner_size_may_not_change_under_padding_or_shift(body: str) -> None:
    assert only(spec(body), "E-FRAME").help


@pytest.mark.parametrize("op", ["bn", "gn[1]", "avg_pool[3, s = 1, p = 1]", "max_pool[3, s = 1, p = 1]"])
def test_statistics_do_not_see_padding(op: str) -> None:
    assert only(spec(f"x = x |> windows[7] |> {op} |> merge"), "E-FRAME").help
    assert mistakes(spec(f"x = x |> windows[8] |> {op} |> merge")) == []


def test_a_reduction_inside_a_padded_frame_is_a_mistake() -> None:
    only(spec("y = windows[7](x)\n  x = merge(y * gap(y))"), "E-FRAME")
    assert mistakes(spec("y = windows[8](x)\n  x = merge(y * gap(y))")) == []


def test_values_of_different_frames_do_not_mix() -> None:
    assert "merge" in only(spec("x = x + windows[8](x)"), "E-FRAME").help
    only(spec("x = merge(windows[8](x) + windows[16](x))"), "E-FRAME")
    only(spec("x = merge(windows[8, 4](x) + windows[8](x))"), "E-FRAME")
    assert mistakes(spec('p = param@p[8, 8, 8, resize = "none"]\n  x = merge(windows[8](x) + p)')) == []


# -- 6: reserved words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_reserved_words_are_refused_as_names_and_taken_as_labels(word: str) -> None:
    for text in (spec("", f"let {word} = 3"), spec("", f"def g[{word} = 3](x: map) = x")):
        assert f"`{word}`" in only(text, "E-RESERVED").title
    inside = spec("x = f(x)", f"def f(x: map) = conv@{word}(x)")
    assert f"f.{word}.weight" in graph(inside).params
    if word not in ("return", "in"):  # these two go on with what follows
        (found,) = mistakes(spec(f"{word} = 3"))
        assert found.code in ("E-RESERVED", "E-SYNTAX") and f"`{word}`" in found.title


# -- 8: what counts mean ---------------------------------------------------------------------------------


MODES = "y = if training then linear@aux[10](gap(x)) else none\n  if deploy { x = gelu(x) }"


def test_require_and_check_mean_the_eval_graph() -> None:
    base = spec('y = if training then linear@aux[100](gap(x)) else none\n  require params < 200, "small"')
    assert program(base).check() == []
    text = spec("y = if training then linear@aux[100](gap(x)) else none")
    numbers = {m: price(program(text).elaborate(mode=m)).total.params for m in ("train", "eval", "deploy")}
    assert numbers == {"train": 122 + 900, "eval": 122, "deploy": 122}
    ok = "check a: params == 122, train.params == 1022, deploy.params == 122, flops > 0, acts > 0"
    assert program(text + ok).check() == []
    (found,) = program(text + "check a: params == 1022").check()
    assert found.code == "E-CHECK" and "eval" in found.help


def test_a_requirement_on_parameters_holds_for_every_variant() -> None:
    text = spec('require dim % 8 == 0, "widths hold whole heads"') + "arch b = a[dim = 12]\n"
    assert mistakes(text, "a") == []
    assert "widths hold whole heads" in only(text, "E-REQUIRE", arch="b").title


# -- 9: order ----------------------------------------------------------------------------------------------


def test_statements_and_arguments_are_evaluated_in_textual_order() -> None:
    g = graph(spec("x = concat(conv@b(x), linear@a[8](x)) |> conv@c + conv@d[16](x)".replace(" + ", "\n  x = x + ")))
    assert [n.path for n in g.nodes()][2:7] == ["b", "a", "concat", "c", "d"]
    assert [p for p in g.params if p.endswith("weight")][1:5] == ["b.weight", "a.weight", "c.weight", "d.weight"]


def test_elaboration_is_deterministic() -> None:
    text = opened("overlock_xt").path
    one, two = Program.open(text).elaborate(mode="train"), Program.open(text).elaborate(mode="train")
    assert print_graph(one) == print_graph(two)


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "value"),
    [
        ("round(2.5)", 3),
        ("round(0.5)", 1),
        ("round(2.4)", 2),
        ("floor(2.9)", 2),
        ("ceil(2.1)", 3),
        ("make_div(12)", 16),
        ("make_div(11)", 8),
        ("make_div(3)", 8),
        ("make_div(19, 8, 0.9)", 24),
    ],
)
def test_numbers_are_rounded_as_stated(expr: str, value: int) -> None:
    """Halves go up; make_div is MobileNet's (1801.04381)."""
    assert graph(spec(f"x = conv@c[{expr}](x)")).params["c.weight"].shape[0] == value


def test_an_update_keeps_its_sides() -> None:
    g = graph(spec("dims = [4]\n  dims += [6]\n  dims *= 2\n  x += conv(x)\n  x = conv@c[dims[0]](x)"))
    assert g.params["c.weight"].shape[0] == 4
    add = next(n for n in g.nodes() if n.op.name == "add")
    assert [v.node for v in g.operands(add) if v is not None] == ["first", "conv"]


def test_residual_branches_of_the_prelude_start_small() -> None:
    """Layer scale at 1e-6 (2103.17239); response normalisation as the identity (2301.00808)."""
    params = graph(spec("x += layer_scale(conv@c(x))\n  x = grn(x)")).params
    found = {path: params[path].init for path in ("layer_scale.gamma", "grn.gamma", "grn.beta")}
    assert found == {"layer_scale.gamma": "constant(1e-06)", "grn.gamma": "zeros", "grn.beta": "zeros"}


# -- 13: statics ---------------------------------------------------------------------------------------------


def test_a_static_parameter_is_never_a_shape_variable() -> None:
    found = only(spec("x = f(x)", "def f[C = 64](x: map[C]) = conv[C](x)"), "E-BINDER")
    assert written(found) == "C" and found.notes


def test_variants_are_keyword_only() -> None:
    assert written(only(spec("") + "arch b = a[16]\n", "E-VARIANT")) == "16"
    assert "dim" in only(spec("") + "arch b = a[dmi = 16]\n", "E-PARAMETER").help


WIDTHS = spec("x = conv@w[hidden](x)", params="dim = 8, hidden = 2 * dim, classes = 10")


@pytest.mark.parametrize(
    ("variants", "width"),
    [
        ("arch b = a[dim = 16]", 32),
        ("arch b = a[dim = 4, hidden = 3 * dim]", 12),
        ("arch b = a[hidden = 3 * dim, dim = 4]", 12),
        ("arch c = a[hidden = 3 * dim]\narch b = c[dim = 5]", 15),
        ("arch b = a[dim = 2 * dim]", 32),
        ("arch c = a[dim = 2 * dim]\narch b = c[dim = dim + 1]", 34),
        ("arch c = a[hidden = 7]\narch b = c[hidden = hidden + 1]", 8),
        ("arch b = a[hidden = hidden + dim]", 24),
    ],
)
def test_an_override_may_use_the_bases_parameters(variants: str, width: int) -> None:
    assert graph(f"{WIDTHS}{variants}\n", "b").params["w.weight"].shape[0] == width


def test_parameters_get_their_values_in_order() -> None:
    found = only(WIDTHS + "arch b = a[dim = hidden]\n", "E-NAME", arch="b")
    assert "comes later" in found.help


def test_in_chans_changes_the_image() -> None:
    text = spec("", params="dim = 8, classes = 10, in_chans = 5")
    assert graph(text).inputs[0].type.dims == (5, 32, 32)


# -- 14: parameters that follow the resolution ------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["x.N, 8", "8, x.H, x.W", "8, x.H, 1", "x.H // 2 + 1", "8, x.W - 25, 1"])
def test_a_parameter_of_the_inputs_size_says_how_it_is_resampled(shape: str) -> None:
    body = f"p = param@p[{shape}]"
    assert "resize" in only(spec(body), "E-RESIZE").help
    for resize in ("bicubic", "bilinear", "linear", "none"):
        g = graph(spec(body.replace("]", f', resize = "{resize}"]')))
        assert g.params["p"].resize == resize


def test_one_inside_a_window_does_too() -> None:
    assert only(spec("y = windows[8](x)\n  x = merge(y + param@p[8, y.H, y.W])"), "E-RESIZE")


def test_a_parameter_of_fixed_size_need_not() -> None:
    assert mistakes(spec("x = x * param@g[x.C] + param@p[8, 1, 1]")) == []


# -- 15: choices stand in spaces only; the rest is in test_space.py -------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [spec("x = conv[{8 | 16}](x)"), spec("", "let w = {8 | 16}"), spec("", params="n = {1 | 2}, classes = 10")],
)
def test_an_open_choice_cannot_be_built(text: str) -> None:
    assert written(only(text, "E-CHOICE")).startswith("{")


# -- 16: drop path ---------------------------------------------------------------------------------------------------


def rates(body: str) -> list[float | None]:
    """Each drop path's share of the rate, in order; None where it follows `t`."""
    out: list[float | None] = []
    for node in graph(spec(body), mode="train").nodes():
        if isinstance(node.op, DropPath):
            op = node.op
            out.append(op.t if op.t is not None else op.index / op.last if op.last else 0.0)
    return out


STEP = "x += drop_path(conv(x))"


def test_the_schedule_counts_blocks_in_program_order() -> None:
    assert rates(f"blocks j in 3 {{ {STEP} }}\n  blocks@more j in 2 {{ {STEP} }}") == [0, 0.25, 0.5, 0.75, 1]
    assert rates(f"stage i in 2 -> x {{ blocks j in 2 {{ {STEP}\n {STEP} }} }}") == [
        pytest.approx(k / 3) for k in (0, 0, 1, 1, 2, 2, 3, 3)
    ]


def test_one_block_has_rate_zero() -> None:
    assert rates(f"blocks j in 1 {{ {STEP} }}") == [0]


def test_nested_blocks_count_the_innermost() -> None:
    nested = f"blocks j in 2 {{\n    blocks@inner k in 2 {{ {STEP} }}\n  }}\n  blocks@last j in 1 {{ {STEP} }}"
    assert rates(nested) == [0, 0.25, 0.5, 0.75, 1]


def test_a_block_without_drop_path_is_counted() -> None:
    assert rates(f"blocks j in 3 {{ if j != 1 {{ {STEP} }} else {{ x = gelu(x) }} }}") == [0, 1]


def test_an_explicit_place_stands_anywhere() -> None:
    body = "x += drop_path[t = 0.5, scale = 0.25](conv(x))"
    assert rates(body) == [0.5]
    op = next(n.op for n in graph(spec(body)).nodes() if isinstance(n.op, DropPath))
    assert op.scale == 0.25
    assert rates(f"blocks j in 2 {{ {STEP}\n x += drop_path[t = 1](gelu(x)) }}") == [0, 1, 1, 1]


def test_without_a_place_it_is_a_mistake() -> None:
    assert "drop_path[t = 1]" in only(spec(STEP), "E-DROP-PATH").help
    only(spec("x = f(x)", f"def f(x: map) {{\n  {STEP}\n  return x\n}}"), "E-DROP-PATH")


def test_crossvits_exchange_uses_the_rate_of_the_stages_last_block() -> None:
    found = [n for n in opened("crossvit_9").elaborate(mode="train").nodes() if isinstance(n.op, DropPath)]
    by_place = {n.path: n.op.t for n in found if isinstance(n.op, DropPath)}
    for i in range(3):
        assert by_place[f"stages.{i}.s2l.drop_path"] == (3 * (i + 1) - 1) / 8
        assert by_place[f"stages.{i}.large.blocks.1.drop_path1"] == (3 * i + 1) / 8
        assert by_place[f"stages.{i}.small.blocks.0.drop_path2"] == 3 * i / 8


@pytest.mark.parametrize("name", COUNTS)
def test_weights_of_eval_are_a_subset_of_those_of_training(name: str) -> None:
    program_of = opened(COUNTS[name][0])
    used, trained = (program_of.elaborate(name, mode=m).params for m in ("eval", "train"))
    assert {p: v.shape for p, v in used.items()}.items() <= {p: v.shape for p, v in trained.items()}.items()


@pytest.mark.parametrize(
    "body", ["x = linear@l[if training then 8 else 16](x)", "if not training { x = conv@late(x) }"]
)
def test_a_weight_that_training_lacks_is_a_mistake(body: str) -> None:
    (found,) = program(spec(body)).check()
    assert found.code == "E-MODE" and found.span is not None


# -- drawn programs ----------------------------------------------------------------------------------------------------

STEPS = [
    "x = x |> conv[{c}, k = {k}]",
    "x = x |> conv[{c}, k = {k}, s = 2]",
    "x += drop_path[t = 0.5](x |> dwconv[{k}] |> ln)",
    "x = x |> linear[{c}] |> gelu",
    "x += mlp[{n}](ln(x))",
    "x += x |> ln |> windows[{w}, {n}] |> mhsa[{n}] |> merge",
    "x += x |> grids[{n}] |> mhsa[{n}] |> merge",
    "x = x |> max_pool[{k}, s = {n}]",
    "x += avg_pool[{k}, s = 1, p = {k} // 2](x) - x",
    "a, b = split[2](x)\n  x = concat(dwconv[{k}](a), b)",
    "a, b = split[[{n}, rest]](x)\n  x = concat(b, conv(a))",
    "blocks j in {n} {{ x += drop_path(x |> conv_bn[k = {k}]) }}",
    "stage i in {n} -> x {{ x = x |> bn |> conv[{c}, k = 2, s = 2] }}",
    "share s = conv[k = {k}]\n  for i in {n} {{ x += s(x) }}",
    't = tokens(x) + param[x.N, x.C, resize = "bicubic"]\n  x = t |> mhsa[{n}] |> to_map[x.H, x.W]',
    "x = x * gap(x) + param[x.C]",
    "x += se[{c}](x)",
    "if x.H > {c} {{ x = conv(x) }} else {{ x = ln(x) }}",
    "x = resize[[x.H * {n}, x.W]](x)",
    "x = x |> interleave[{n}] |> layer_scale[0.1]",
    "q, k, v = x |> windows[{w}] |> linear[3 * x.C] |> split[3]\n"
    "  x = attend[{n}](q, k, v, bias = rel_bias[{n}](q)) |> merge",
    "x += adaptive_pool[1](x)",
]


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A spec of one to six steps with drawn sizes; labels make every step's weights its own."""
    lines = []
    for i in range(draw(st.integers(1, 6))):
        step = draw(st.sampled_from(STEPS)).format(
            c=draw(st.sampled_from([4, 8, 12, 16])),
            k=draw(st.sampled_from([1, 2, 3, 5])),
            n=draw(st.integers(1, 3)),
            w=draw(st.sampled_from([3, 4, 7])),
        )
        step = step.replace("share s", f"share s{i}").replace("+= s(x)", f"+= s{i}(x)")
        lines.append(step.replace("blocks j", f"blocks@b{i} j"))
    size = draw(st.sampled_from(["3, 32, 32", "3, 30, 33", "3, 16, 48"]))
    return spec("\n  ".join(lines), image=size)


@settings(max_examples=150, deadline=None)
@given(programs(), st.sampled_from(["train", "eval", "deploy"]))
def test_a_drawn_program_elaborates_soundly_or_says_what_is_wrong(text: str, mode: str) -> None:
    opened_program = program(text)
    try:
        g = opened_program.elaborate(mode=mode)
    except ArchError as e:
        assert all(d.code.startswith("E-") and d.title and d.span is not None for d in e.diagnostics)
        return
    assert verify(g) == []
    ir = print_graph(g)
    assert print_graph(parse_graph(ir, Vocabulary.of())) == ir
    cost = price(g)
    assert cost.total.params == sum(p.elements for p in g.params.values() if p.kind == "param")
    rows = [op_of(n).macs(g.operand_types(n), n.outputs) for n in g.nodes()]
    assert cost.total.macs == sum(rows) and min(rows) >= 0
    assert all(x.condition.holds(g.axes) for x in g.guards)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.sampled_from(["x += drop_path(mlp(ln(x)))", "x = x |> conv_bn[k = 3]"]))
def test_costs_are_linear_in_depth(depth: int, step: str) -> None:
    def cost(n: int) -> tuple[int, int, int]:
        total = price(graph(spec(f"blocks j in {n} {{ {step} }}"))).total
        return total.params, total.macs, total.activations

    none, one, many = cost(0), cost(1), cost(depth)
    assert many == tuple(a + depth * (b - a) for a, b in zip(none, one, strict=True))
