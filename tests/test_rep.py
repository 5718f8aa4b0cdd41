"""Holds `rep def` to its promise: one convolution that equals the body everywhere, or a refusal that says why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from archdsl.api import compile_spec, elaborate
from archdsl.ir.graph import Graph, Node
from archdsl.ir.verify import verify
from archdsl.passes.fold_affines import JOINED, FoldAffines
from archdsl.testing import interpret
from archdsl.weights.load import deploy_weights
from archdsl.weights.stores import Stored
from tests.oracle.compare import randomise
from tests.specs import graph, only, spec

CHANNELS = 4


def build(defs: str, mode: str, size: tuple[int, int] = (12, 12)) -> Graph:
    text = spec("|return f(img)", defs, params="n = 1", image=f"{CHANNELS}, {size[0]}, {size[1]}")
    return graph(text, mode=mode)


def deployed(defs: str) -> Node:
    """The one op that a rep def `f` is in deploy mode."""
    nodes = [n for n in build(defs, "deploy").nodes() if n.op.name != "input"]
    assert len(nodes) == 1, [n.op.name for n in nodes]
    return nodes[0]


def state_of(g: Graph) -> dict[str, Tensor]:
    """Random weights; statistics positive where they must be, and far from what they start as."""
    state = {}
    for path, p in g.params.items():
        value = torch.rand(p.shape, dtype=torch.float64) + 0.5
        if p.dtype.startswith("int"):
            value = torch.zeros(p.shape, dtype=torch.int64)
        elif not path.endswith("running_var"):
            value = value * torch.where(torch.rand(p.shape) < 0.5, -1.0, 1.0)
        state[path] = value
    return state


COLLAPSES = {
    # spec: kernel, stride, padding, groups, bias
    "conv_bn[6, k = 3, s = 2](x)": ((3, 3), (2, 2), (1, 1), 1, True),
    "bn(conv_bn@conv[k = 3, g = x.C](x) + dwconv@conv1[1](x) + x)": ((3, 3), (1, 1), (1, 1), 4, True),
    "bn@a(dwconv@l[7, bias = false](x)) + bn@b(dwconv@s[3, d = 3, bias = false](x))": ((7, 7), (1, 1), (3, 3), 4, True),
    "conv[k = 3, d = 2](x)": ((5, 5), (1, 1), (2, 2), 1, True),
    "x |> linear[6] |> bn": ((1, 1), (1, 1), (0, 0), 1, True),
    "x + bn(x)": ((1, 1), (1, 1), (0, 0), 4, True),
    "2 * x - bn(x) / 3": ((1, 1), (1, 1), (0, 0), 4, True),
    "x * param@g[x.C, init = 1] + param@b[x.C]": ((1, 1), (1, 1), (0, 0), 4, True),
    "x |> conv@a[6, k = 3] |> conv@b[5]": ((3, 3), (1, 1), (1, 1), 1, True),
    "x |> conv@a[k = 3, p = 0, bias = false] |> conv@b[k = 3, p = 0]": ((5, 5), (1, 1), (0, 0), 1, True),
    "x |> conv@a[k = 3] |> conv@b[k = 3, p = 0]": ((5, 5), (1, 1), (1, 1), 1, True),
    "x |> conv@a[s = 2, bias = false] |> conv@b[k = 3]": ((5, 5), (2, 2), (2, 2), 1, True),
    "conv[k = 3, p = 2](x)": ((3, 3), (1, 1), (2, 2), 1, True),
    "conv[k = 5, p = 1](x)": ((5, 5), (1, 1), (1, 1), 1, True),
    "conv[k = 4](x)": ((4, 4), (1, 1), (1, 1), 1, True),
    "conv@a[k = 3, s = 2](x) + conv@b[s = 2](x)": ((3, 3), (2, 2), (1, 1), 1, True),
    "conv@a[k = 2, s = 2](x) + conv@b[k = 4, s = 2, p = 1](x)": ((4, 4), (2, 2), (1, 1), 1, True),
    "conv@a[k = [1, 5]](x) + conv@b[k = [3, 1]](x)": ((3, 5), (1, 1), (1, 2), 1, True),
    "conv@a[k = 3, g = 4](x) + conv@b[g = 2](x)": ((3, 3), (1, 1), (1, 1), 2, True),
    "x |> conv@a[8, g = 4] |> conv@b[4, g = 2]": ((1, 1), (1, 1), (0, 0), 2, True),
    "x |> conv@a[8, g = 2] |> interleave[2] |> conv@b[g = 2]": ((1, 1), (1, 1), (0, 0), 1, True),
    "concat(conv@a[2, k = 3](x), x)": ((3, 3), (1, 1), (1, 1), 1, True),
    "x + avg_pool[3, s = 1, p = 1](x)": ((3, 3), (1, 1), (1, 1), 4, False),
    'x + conv[k = 3, pad = "tf_same", bias = false](x)': ((3, 3), (1, 1), (1, 1), 1, False),
    "conv_bn@a[k = 3](x) + conv_bn@b(x)": ((3, 3), (1, 1), (1, 1), 1, True),
}


@pytest.mark.parametrize("body", COLLAPSES)
def test_a_rep_def_is_one_convolution(body: str) -> None:
    kernel, stride, padding, groups, bias = COLLAPSES[body]
    node = deployed(f"rep def f(x: map) = {body}")
    a = node.op.attributes()
    assert (a["k"], a["s"], a["p"], a["g"], a["bias"], a["d"]) == (kernel, stride, padding, groups, bias, 1)
    assert node.path == "f.conv" and [role for role, _ in node.params] == ["weight", "bias"][: 1 + bias]


@pytest.mark.parametrize("body", COLLAPSES)
def test_it_equals_the_body_inside_and_at_the_border(body: str) -> None:
    """fp64: a kernel fitted to the body on one map reproduces it on maps of other sizes, borders included."""
    torch.manual_seed(0)
    defs = f"rep def f(x: map) = {body}"
    a = deployed(defs).op.attributes()
    kernel, stride, padding, groups = a["k"], a["s"], a["p"], a["g"]
    assert isinstance(kernel, tuple) and isinstance(groups, int)
    written = build(defs, "train")
    state = state_of(written)

    def outputs(size: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
        image = torch.randn(batch, CHANNELS, *size, dtype=torch.float64)
        return image, interpret(build(defs, "train", size), state, image)[0]

    image, out = outputs((12, 12), 24)
    columns = F.unfold(image, kernel, padding=padding, stride=stride)  # type: ignore[arg-type]
    known = columns.transpose(1, 2).reshape(-1, columns.shape[1])
    known = torch.cat([known, torch.ones(len(known), 1, dtype=known.dtype)], 1)
    wanted = out.flatten(2).transpose(1, 2).reshape(-1, out.shape[1])
    fitted = torch.linalg.lstsq(known, wanted).solution
    weight, bias = fitted[:-1].T.reshape(out.shape[1], CHANNELS, *kernel), fitted[-1]  # type: ignore[arg-type]
    for size in ((12, 12), (11, 9) if stride == (1, 1) else (10, 8)):
        image, out = outputs(size, 2)
        again = F.conv2d(image, weight, bias, stride=stride, padding=padding)  # type: ignore[arg-type]
        torch.testing.assert_close(again, out, rtol=0, atol=1e-9)
    part_out, part_in = weight.shape[0] // groups, CHANNELS // groups
    for i in range(groups):
        block = weight[i * part_out : (i + 1) * part_out].clone()
        block[:, i * part_in : (i + 1) * part_in] = 0
        assert block.abs().max() < 1e-9, "a weight outside its group"
    if a["bias"] is False:
        assert bias.abs().max() < 1e-9


REFUSED = {
    "gelu(conv(x))": "`gelu` is not affine",
    "ln(x)": "`ln` is not affine",
    "gn[1](x)": "`gn` is not affine",
    "x * conv(x)": "`mul` is not affine",
    "x / conv(x)": "`div` is not affine",
    "1 / x": "`div` is not affine",
    "x * gap(x)": "`gap` is not affine",
    "x |> windows[4] |> conv[k = 3] |> merge": "`windows` is not affine",
    "dropout[0.1](x)": "`dropout` is not affine",
    "max_pool[3, s = 1, p = 1](x)": "`max_pool` is not affine",
    "avg_pool[3, s = 1, p = 1, include_pad = false](x)": "does not count its padding",
    "avg_pool[3, s = 2, ceil = true](x)": "keeps partial windows",
    "x |> conv@a[k = 3, bias = false] |> conv@b[k = 3]": "two padded ops on one path",
    "x |> conv@a[k = [1, 3], bias = false] |> conv@b[k = [3, 1]]": "two padded ops on one path",
    "x |> conv@a[k = 3, p = 0, bias = false] |> conv@b[k = 3]": "a padded op after a kernel",
    "x |> conv@a |> conv@b[k = 3]": "a bias before a padded op",
    "x |> bn |> conv[k = 3]": "a bias before a padded op",
    "(x + 1) |> conv[k = 3]": "a bias before a padded op",
    "(x - param@b[x.C]) |> conv[k = 3]": "a bias before a padded op",
    'x + param@p[x.C, x.H, x.W, resize = "none"]': "differs from position to position",
    'conv[k = 3, s = 2, pad = "tf_same"](x)': "pads depends on the size",
    "conv@a[s = 2](x) + conv@b[k = 2, s = 2](conv_bn@c(x))": "",
    "param@p[x.C]": "does not depend on its input",
}


@pytest.mark.parametrize("body", [b for b, why in REFUSED.items() if why])
@pytest.mark.parametrize("mode", ["eval", "train", "deploy"])
def test_what_is_no_convolution_is_refused_in_every_mode(body: str, mode: str) -> None:
    found = only(spec("|return f(img)", f"rep def f(x: map) = {body}", "n = 1", "4, 12, 12"), "E-REP", mode=mode)
    assert REFUSED[body] in found.title
    assert found.path == "f"


def test_branches_on_different_grids_are_refused() -> None:
    text = spec("|return f(img)", "rep def f(x: map) = conv@a[k = 4, p = 0](x) + x", "n = 1", "4, 4, 4")
    assert "one convolution gives map[4, 1, 1]" in only(text, "E-REP", mode="deploy").title


def test_a_rep_def_has_one_tensor_in_and_one_out() -> None:
    two = spec("|return f(img, img)", "rep def f(x: map, y: map) = conv(x) + conv(y)", "n = 1")
    assert "exactly one tensor input" in only(two, "E-REP", mode="deploy").title
    out = spec("|return sum([y for y in f(img)])", "rep def f(x: map) -> map, map { return conv(x), conv(x) }", "n = 1")
    assert "must return one tensor" in only(out, "E-REP").title


def test_a_tensor_from_outside_is_refused() -> None:
    defs = "rep def h[p: fn](x: map) = conv(x) + p(x)\ndef f(x: map) {\n  y = gelu(x)\n  return h[fn (z) => y](x)\n}"
    assert "computed outside" in only(spec("|return f(img)", defs, "n = 1"), "E-REP", mode="deploy").title


def test_vectors_and_tokens_become_a_linear_layer() -> None:
    defs = "rep def f(x: vec) = x |> bn |> linear@l[7]\nrep def g(x: tokens) = x |> linear@l1[9] |> linear@l2[5]"
    g = graph(spec("|return f(gap(img)), gap(g(tokens(img)))", defs, "n = 1"), mode="deploy")
    assert {p: v.shape for p, v in g.params.items()} == {
        "f.weight": (7, 3),
        "f.bias": (7,),
        "g.weight": (5, 3),
        "g.bias": (5,),
    }


def test_shared_instances_average_into_one_linear_layer() -> None:
    defs = "rep def one(x: vec) = x |> bn |> linear@l[7]\nrep def average[p: fn, q: fn](x: vec) = (p(x) + q(x)) / 2"
    body = "|x = gap(img)\n  share p = one\n  share q = one\n  return average[p, q](x)"
    trained = graph(spec(body, defs, "n = 1"), mode="train")
    assert {path.split(".")[0] for path in trained.params} == {"p", "q"}
    g = graph(spec(body, defs, "n = 1"), mode="deploy")
    assert {p: v.shape for p, v in g.params.items()} == {"average.weight": (7, 3), "average.bias": (7,)}
    assert [n.op.name for n in g.nodes()] == ["input", "gap", "linear"]


def test_a_shared_rep_def_is_one_convolution_used_twice() -> None:
    g = graph(spec("|share s = h\n  return s(s(img))", "rep def h(x: map) = bn(x) + x", "n = 1"), mode="deploy")
    assert list(g.params) == ["s.weight", "s.bias"]
    assert [n.op.name for n in g.nodes()] == ["input", "conv", "conv"]


def test_outside_deploy_a_rep_def_runs_as_written() -> None:
    text = spec("|return f(img)", "rep def f(x: map) = x + conv_bn[k = 3](x)", "n = 1")
    for mode in ("train", "eval"):
        assert [n.op.name for n in graph(text, mode=mode).nodes()] == ["input", "conv", "bn", "add"]


# -- branches as papers train them -----------------------------------------------------------------

MIXER = "rep def mixer(x: map) = x * param@gain[x.C, init = 1] + param@offset[x.C] - x"
BRANCHES = {
    # body of a block on 8 channels, with its defs: the ops that a block is when deployed
    "repvit": (
        "rep def mixer(x: map) = bn(conv_bn@conv[k = 3, g = x.C](x) + dwconv@conv1[1](x) + x)",
        "x + gelu(mixer(x))",
        ["conv", "gelu", "add"],
    ),
    "dilated": (
        "rep def mixer(x: map) = bn@whole(dwconv@large[7, bias = false](x))\n"
        "    + bn@near(dwconv@five[5, bias = false](x)) + bn@far(dwconv@three[3, d = 3, bias = false](x))",
        "x + gelu(mixer(x))",
        ["conv", "gelu", "add"],
    ),
    "pooled": (
        "rep def mixer(x: map) = (x |> avg_pool[3, s = 1, p = 1] |> conv_bn@pooled) + conv_bn@own[k = 3](x) - x",
        "x + gelu(mixer(x))",
        ["conv", "gelu", "add"],
    ),
    "pooled and strided": (
        "rep def mixer(x: map) = x |> conv@narrow[4, bias = false] |> avg_pool[2] |> conv_bn@wide[8]",
        "gelu(mixer(x))",
        ["conv", "gelu"],
    ),
    "riformer": (MIXER, "x + mixer(gn@norm(x))", ["gn", "add"]),
    "riformer with ln": (MIXER, "x + mixer(ln@norm[bias = false](x))", ["ln", "add"]),
    "riformer with rms": (MIXER.replace(" + param@offset[x.C]", ""), "x + mixer(rms@norm(x))", ["rms", "add"]),
    "rms that cannot move": (MIXER, "x + mixer(rms@norm(x))", ["rms", "conv", "add"]),
    "behind a bn": (MIXER, "x + mixer(bn@norm(relu(x)))", ["relu", "bn", "add"]),
    "behind layers": (MIXER, "mixer(mixer@again(linear@l(x)) |> bn@norm)", ["linear"]),
    "read twice": (MIXER + "\ndef both(x: map) = x + mixer(x)", "both(gn@norm(x))", ["gn", "conv", "add"]),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_deployed_branches_compute_what_the_trained_ones_do(name: str) -> None:
    defs, body, wanted = BRANCHES[name]
    text = (
        f"language 1\n{defs}\narch a[classes = 5] {{\n  input img: map[3, 14, 11]\n  x = conv@stem[8](img)\n"
        f"  x = {body}\n  head {{ return x |> gap |> linear@fc[classes] }}\n}}\n"
    )
    plain, deployed = (compile_spec(text, mode=mode) for mode in ("train", "deploy"))
    assert [n.op.name for n in deployed.graph.nodes()] == ["input", "conv", *wanted, "gap", "linear"]
    theirs, ours = (artefact.module().double().eval() for artefact in (plain, deployed))
    randomise(theirs)
    graphs = [elaborate(text, mode=mode) for mode in ("eval", "train", "deploy")]
    ours.load_state_dict(deploy_weights(*graphs, Stored("random", theirs.state_dict())))
    x = torch.randn(2, 3, 14, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = theirs(x), ours(x)
    assert a.norm() > 0 and (a - b).norm() <= 1e-12 * a.norm()


def test_affines_are_folded_in_deploy_mode_alone() -> None:
    defs, body, _ = BRANCHES["riformer"]
    text = f"{defs}\narch a[] {{\n  input img: map[3, 8, 8]\n  x = conv[8](img)\n  return {body}\n}}\n"
    graph = elaborate(text, mode="deploy")
    after = FoldAffines()(graph)
    assert list(JOINED.broken(graph)) and not list(JOINED.broken(after)) and not verify(after)
    assert len(graph) - len(after) == 1 and FoldAffines()(after) is after
    for mode in ("train", "eval", "tune"):
        other = elaborate(text, mode=mode)
        assert FoldAffines()(other) is other
