"""Turns fusion rules into checks: what each finds in a spec, what it declines and why, and what its kernel moves."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from archdsl.api import elaborate
from archdsl.device.model import Work
from archdsl.device.plan import eager, together
from archdsl.ir.graph import Graph
from archdsl.passes.fusions import RULES
from archdsl.passes.fusions.base import chain, role
from archdsl.passes.pipeline import level, optimize
from archdsl.passes.planner import Match, matches


def every(graph: Graph) -> Iterator[Match]:
    return matches(graph, {p for k in eager(graph) for p in k.nodes})


def found(graph: Graph, rule: str) -> list[Match]:
    return [m for m in every(graph) if m.rule.name == rule]


def ops(graph: Graph, match: Match) -> str:
    return " ".join(graph.node(p).op.name for p in match.runs)


def cell(body: str, image: str = "64, 14, 14", defs: str = "") -> str:
    return f"language 1\n{defs}\narch cell[] {{\n  input x: map[{image}]\n  {body}\n}}\n"


BLOCK = {
    "norm_linear": ("return x |> ln |> linear[192]", "ln linear"),
    "qkv_merge": ("return (linear[32](x) + linear[32](x)) * linear[32](x)", "linear linear linear"),
    "window_attention": (
        "q, k, v = x |> linear[96] |> windows[7, shift = 3] |> split[3]\n return attend[2](q, k, v) |> merge",
        "windows attend merge",
    ),
    "project_residual": ("return x + drop_path[t = 0.5](linear[64](relu(x)))", "linear add"),
    "mlp": ("return x + (x |> ln |> linear[256] |> gelu |> linear[64])", "ln linear gelu linear add"),
    "dwconv_norm": ("return x |> dwconv[7] |> ln |> linear[32]", "conv ln"),
    "conv_norm": ("return x |> conv[96, 3] |> bn |> relu", "conv bn relu"),
    "conv_first": (
        "return x + (x |> dwconv[7] |> ln |> linear[96] |> gelu |> linear[64])",
        "conv ln linear gelu linear add",
    ),
    "mbconv": (
        "return x + (x |> conv[256] |> bn |> silu |> dwconv[3] |> bn |> silu |> conv[64] |> bn)",
        "conv bn silu conv bn silu conv bn add",
    ),
    "fused_mbconv": ("return x + (x |> conv[256, 3] |> bn |> silu |> conv[64] |> bn)", "conv bn silu conv bn add"),
    "pool_mixer": ("y = gn(x)\n return x + (avg_pool[3, s = 1, p = 1](y) - y)", "gn avg_pool sub add"),
    "local_mix": (
        "return local_mix[3](softmax(local_scores[3, heads = 2](x, x)), x)",
        "local_scores softmax local_mix",
    ),
    "scale_residual": ("return x + param@gamma[64] * relu(x)", "mul add"),
    "patch_merge": ("return x |> windows[2] |> pack |> ln |> linear[128]", "windows pack ln linear"),
    "pool_head": ("return x |> gap |> ln |> linear[10]", "gap ln linear"),
}
"""A spec for each rule, and the ops of the kernel that it would give."""


def test_every_rule_is_shown() -> None:
    assert BLOCK.keys() == {rule.name for rule in RULES}
    assert all(type(rule).__module__ == f"archdsl.passes.fusions.{rule.name}" for rule in RULES), "a file a rule"


@pytest.mark.parametrize("rule", BLOCK)
def test_what_a_rule_finds(rule: str) -> None:
    body, names = BLOCK[rule]
    graph = elaborate(cell(body))
    assert (names, "") in [(ops(graph, m), m.refused) for m in found(graph, rule)]


DECLINED = {
    "a row": ("norm_linear", "return x |> ln |> linear[64]", "257, 7, 7", "257 channels are too many"),
    "a norm that others read": ("norm_linear", "y = ln(x)\n return linear[64](y) + y", "64, 7, 7", "others read"),
    "a hidden value that others read": (
        "mlp",
        "y = linear[64](x)\n return linear[64](gelu(y)) + y * y",
        "64, 7, 7",
        "others read the result of its `linear`",
    ),
    "a wide head": (
        "window_attention",
        "q = x |> windows[7]\n return attend[1](q, q, q) |> merge",
        "192, 14, 14",
        "a head of 192 channels",
    ),
    "a large window": (
        "window_attention",
        "q = x |> windows[28]\n return attend[2](q, q, q) |> merge",
        "64, 56, 56",
        "784 positions",
    ),
    "a wide kernel": ("dwconv_norm", "return x |> dwconv[51] |> ln", "64, 56, 56", "51 is wider than 31"),
    "a long stride": ("dwconv_norm", "return x |> dwconv[9, s = 4] |> ln", "64, 56, 56", "a stride of 4"),
    "squeeze-excite": (
        "conv_first",
        "y = x |> dwconv[3] |> bn |> relu\n z = y * sigmoid(linear[64](gap(y)))\n"
        " return x + (z |> conv[256] |> gelu |> conv[64])",
        "64, 14, 14",
        "squeeze-excite needs the mean of the whole map first",
    ),
    "squeeze-excite behind a dense convolution": (
        "fused_mbconv",
        "y = x |> conv[256, 3] |> bn |> relu\n return conv[64](y * sigmoid(linear[256](gap(y))))",
        "64, 14, 14",
        "squeeze-excite needs the mean of the whole map first",
    ),
    "windows of many channels": (
        "patch_merge",
        "return x |> windows[2] |> pack |> linear[64]",
        "400, 8, 8",
        "1600 channels",
    ),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_a_rule_declines(case: str) -> None:
    rule, body, image, reason = DECLINED[case]
    match, *_ = found(elaborate(cell(body, image)), rule)
    assert reason in match.refused


@pytest.mark.parametrize("rule", ["mbconv", "fused_mbconv", "project_residual"])
def test_statistics_of_a_batch_are_no_kernels(rule: str) -> None:
    body = BLOCK["mbconv" if rule == "project_residual" else rule][0]
    for mode in ("train", "eval"):
        match, *_ = found(elaborate(cell(body), mode=mode), rule)
        assert match.refused == ("a norm's statistics are of the whole batch in training" if mode == "train" else "")


@pytest.mark.parametrize(
    ("rule", "body"),
    [
        ("norm_linear", "return x |> ln |> relu |> linear[64]"),
        ("qkv_merge", "return linear[64](x) + linear[64](relu(x))"),
        ("window_attention", "return attend[2](x, x, x)"),
        ("project_residual", "return linear[64](x) |> relu"),
        ("mlp", "return x |> linear[64] |> linear[64]"),
        ("dwconv_norm", "return x |> conv[64, 3] |> ln"),
        ("mbconv", "return x |> conv[256, g = 2] |> dwconv[3]"),
        ("pool_mixer", "y = gn(x)\n return avg_pool[3, s = 1, p = 1](y) - x"),
        ("pool_mixer", "y = gn(x)\n return max_pool[3, s = 1, p = 1](y) - y"),
        ("patch_merge", "return x |> windows[2] |> merge |> linear[64]"),
        ("pool_head", "return x |> gap |> relu |> linear[10]"),
    ],
)
def test_what_a_rule_does_not_find(rule: str, body: str) -> None:
    assert not found(elaborate(cell(body)), rule)


def test_a_residual_may_stand_on_either_side() -> None:
    for sum_ in ("x + linear[64](relu(x))", "linear[64](relu(x)) + x"):
        graph = elaborate(cell(f"return {sum_}"))
        assert [ops(graph, m) for m in found(graph, "project_residual")] == ["linear add"]


def test_dropped_branches_and_views_are_passed_over() -> None:
    text = cell("return x |> dwconv[3] |> tokens |> dropout[0.1] |> ln")
    for mode, names in (("eval", "conv ln"), ("train", "conv dropout ln")):
        graph = elaborate(text, mode=mode)
        assert [ops(graph, m) for m in found(graph, "dwconv_norm")] == [names]


def test_chains() -> None:
    graph = elaborate(cell("return x |> conv@one[64] |> relu@a |> bn@n |> bn@m |> gelu@b"))
    start = next(n for n in graph.nodes() if n.op.name == "conv")

    def names(steps: str) -> str | None:
        path = chain(graph, start, steps)
        return None if path is None else " ".join(role(graph, graph.node(p)) for p in path)

    assert names("act bn* act") == "pointwise act bn bn act"
    assert names("bn? act bn|scale*") == "pointwise act bn bn"
    assert names("act bn? act") is None, "one may lack, and one is taken"
    assert names("norm") is None and names("norm?") == "pointwise"


# -- what the kernels move: passes over a map of T positions and C channels -----------------------


@functools.cache
def shipped(spec: str) -> tuple[Graph, tuple[Match, ...]]:
    graph = optimize(elaborate(spec), level(1))
    return graph, tuple(every(graph))


def moved(spec: str, rule: str, first: str, passes: int) -> float:
    """What the kernel that starts at an op reads and writes, in `passes`: so many elements are one."""
    graph, known = shipped(spec)
    match = next(m for m in known if m.rule.name == rule and first in m.runs)
    assert not match.refused
    return (together(graph, match.runs) + match.rule.again(graph, match.paths)).elements / passes


SWIN, CONVNEXT, POOL = 96 * 56 * 56, 96 * 56 * 56, 64 * 56 * 56


@pytest.mark.parametrize(
    ("spec", "rule", "first", "one", "passes"),
    [
        ("swin_t", "norm_linear", "stages.0.blocks.1.norm1", SWIN, 4.0),  # x, and q, k and v
        ("swin_t", "window_attention", "stages.0.blocks.1.attn.attend", SWIN, 4.0),  # q, k, v, and the result
        ("swin_t", "project_residual", "stages.0.blocks.0.attn.proj", SWIN, 3.0),
        ("swin_t", "mlp", "stages.0.blocks.0.norm2", SWIN, 2.0),
        ("swin_t", "patch_merge", "stages.1.downsample.norm", SWIN, 1.5),
        ("convnext_t", "dwconv_norm", "stages.0.blocks.0.dwconv", CONVNEXT, 2.0),
        ("convnext_t", "conv_first", "stages.0.blocks.1.dwconv", CONVNEXT, 2.0),  # x is the residual, too
        (
            "poolformer_s12",
            "pool_mixer",
            "stages.0.blocks.0.norm1",
            POOL,
            5.0,
        ),  # statistics, pooling, the result; its norm
        ("maxvit_t", "dwconv_norm", "stages.0.blocks.1.conv.dwconv", POOL, 8.0),  # at four times the width
        ("maxvit_t", "mbconv", "stages.0.blocks.1.conv.dwconv", POOL, 5.0),
        ("maxvit_t", "project_residual", "stages.0.blocks.1.conv.project", POOL, 6.0),
    ],
)
def test_what_a_kernel_moves(spec: str, rule: str, first: str, one: int, passes: float) -> None:
    assert moved(spec, rule, first, one) == pytest.approx(passes, rel=0.01)


def test_what_is_computed_again_in_halos() -> None:
    """Tiles of 16 x 16 make 14 x 14 results of a 3 x 3 kernel, whatever of them is on the map."""
    for side, tiles in ((28, 4), (14, 1), (7, 1)):
        share = tiles * 256 / side**2
        graph = elaborate(cell("return x |> conv@e[32] |> silu |> dwconv@d[3] |> conv@p[8]", f"8, {side}, {side}"))
        match = next(m for m in found(graph, "mbconv"))
        again = match.rule.again(graph, match.paths)
        expand = 8 * 32 * side * side
        assert again.matrix == round(expand * (share - 1)) and again.elements == again.launches == 0
        silu, stores, loads = 10 * (256 - side**2 / tiles), 256 * 6 / 8, 14**2 * 3 * 1.5 * (1 + 6 / 8)
        assert again.instructions >= 32 * tiles * (silu + stores + loads)


def test_statistics_of_a_sample_are_a_run_of_their_own() -> None:
    for norm, again in (("gn", Work(elements=64 * 14 * 14)), ("bn", Work(launches=0))):
        graph = elaborate(cell(BLOCK["pool_mixer"][0].replace("gn", norm)))
        (match,) = found(graph, "pool_mixer")
        assert match.rule.again(graph, match.paths) == again
