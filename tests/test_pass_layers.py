"""Turns layers to deploy into checks of scale_into_linear and merge_siblings: what becomes part of what, and values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings

from archdsl.api import compile_spec, elaborate
from archdsl.backends.torch.alone import Declined
from archdsl.ir.graph import Graph
from archdsl.ir.text import print_graph
from archdsl.ir.verify import verify
from archdsl.passes.base import Pass
from archdsl.passes.elide_concat import ElideConcat
from archdsl.passes.merge_siblings import MergeSiblings
from archdsl.passes.pipeline import LEVELS, Step, optimize
from archdsl.passes.scale_into_linear import ScaleIntoLinear
from archdsl.testing import interpret
from archdsl.weights.deploy import pass_weights
from tests.oracle.twins import ARCHITECTURES
from tests.programs import programs
from tests.test_passes import test_deploy_computes_what_eval_does as deploys
from tests.test_rep import state_of


def same(graph: Graph, one: Pass) -> Graph:
    """The graph after a pass, which with the weights made for it computes the same in float64."""
    torch.manual_seed(0)
    state, after = state_of(graph), one(graph)
    assert not verify(after) and one(after) is after
    made = pass_weights([Step(one, graph, after, 0.0)], state)
    assert {p: tuple(t.shape) for p, t in made.items()} == {p: x.shape for p, x in after.params.items()}
    x = torch.randn(2, *map(int, graph.inputs[0].type.dims), dtype=torch.float64)
    for a, b in zip(interpret(graph, state, x), interpret(after, made, x), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    return after


def changes(before: Graph, after: Graph) -> tuple[set[str], set[str]]:
    """Lines of ops and parameters that go and come, without places and types."""
    one, other = (
        {line.partition(" in ")[0].partition(" init")[0] for line in print_graph(g).splitlines() if line[0] in "%p"}
        for g in (before, after)
    )
    return one - other, other - one


# -- scale_into_linear ----------------------------------------------------------------------------

BEHIND = """language 1
arch behind[] {
  input img: map[8, 6, 5]
  a = (1 - conv@one[6, k = 3, g = 2, bias = false](img)) * param@g1[6] / 3
  b = linear@two[6](tokens(img)) * param@g2[1, 6] - 2
  c, d = img |> linear@three[12, bias = false] |> split[[4, rest]]
  c = param@b1[4] - c
  d = d / param@g3[8, 1, 1] + param@b2[8]
  return a, b, c, d
}
"""
FRONT = """language 1
arch front[] {
  input img: map[8, 6, 5]
  y = relu(img)
  a = conv@one[6, k = 3, p = 0, g = 2]((0.5 * y - param@b1[8]) / param@g1[8])
  b = conv@two[6, k = 3, s = 2](gelu(img) * param@g2[8, 1, 1])
  c = linear@three[5, bias = false](3 - silu(img))
  return a, b, c
}
"""


def test_what_scales_a_result_is_part_of_the_layer() -> None:
    graph = elaborate(BEHIND, mode="deploy")
    after = same(graph, ScaleIntoLinear())
    assert [n.op.name for n in after.nodes()] == ["input", "conv", "tokens", "linear", "linear", "split"]
    gone, come = changes(graph, after)
    assert {line for line in gone if line.startswith("p")} == {
        f"param @{p} : {shape}"
        for p, shape in (("g1", [6]), ("g2", [1, 6]), ("b1", [4]), ("g3", [8, 1, 1]), ("b2", [8]))
    }
    assert come == {
        "param @one.bias : [6]",
        "param @three.bias : [12]",
        "%one = conv[dim = 6, k = [3, 3], s = [1, 1], p = [1, 1], g = 2](%img) on @one{weight, bias}",
        "%three = linear[dim = 12](%img) on @three{weight, bias}",
    }


def test_what_scales_an_operand_is_part_of_the_layer() -> None:
    graph = elaborate(FRONT, mode="deploy")
    after = same(graph, ScaleIntoLinear())
    assert [n.op.name for n in after.nodes()] == ["input", "relu", "conv", "gelu", "conv", "silu", "linear"]
    assert changes(graph, after)[1] == {
        "param @three.bias : [5]",
        "%one as a = conv[dim = 6, k = [3, 3], s = [1, 1], p = [0, 0], g = 2](%relu) on @one{weight, bias}",
        "%two as b = conv[dim = 6, k = [3, 3], s = [2, 2], p = [1, 1]](%gelu) on @two{weight, bias}",
        "%three as c = linear[dim = 5](%silu) on @three{weight, bias}",
    }


STAYS = {
    "zeros around the map do not move": "conv[k = 3](relu(img) + param@b[8])",
    "nor where they are TensorFlow's": 'conv[k = 3, pad = "tf_same"](relu(img) + param@b[8])',
    "a number for each position": "linear[8](img) * param@g[8, 6, 5]",
    "the other operand is no parameter": "linear[8](img) * relu(img)",
    "one over the result": "1 / linear[8](img)",
    "channels that all are one": "linear[1](img) * param@g[8]",
    "a layer that is read twice": "f(img) * param@g[8] + relu(f(img))",
    "a layer of keys": 'linear@keys[4, axis = "key"](scores[2](img, img)) * param@g[2, 1, 1]',
}


@pytest.mark.parametrize("body", STAYS.values(), ids=STAYS)
def test_what_a_layer_cannot_do_stays(body: str) -> None:
    share = "  share f = linear[8]\n" if "f(" in body else ""
    text = f"language 1\narch stays[] {{ input img: map[8, 6, 5]\n{share}  return {body} }}\n"
    graph = elaborate(text, mode="deploy")
    assert ScaleIntoLinear()(graph) is graph
    for mode in ("train", "eval"):
        other = elaborate(BEHIND, mode=mode)
        assert ScaleIntoLinear()(other) is other


def test_a_classifier_is_left_to_who_uses_the_module() -> None:
    text = """language 1
arch headed[classes = 10] {
  input img: map[8, 6, 5]
  stem { x = 2 * conv[8](img) }
  head { return 3 * linear@fc[classes](gap(x)) + linear@other[classes](gap(x)) }
}
"""
    graph = elaborate(text, mode="deploy")
    after = same(graph, ScaleIntoLinear())
    assert [n.path for n in graph.nodes() if n.path not in after] == ["stem.mul"]
    assert MergeSiblings()(after) is after


# -- merge_siblings -------------------------------------------------------------------------------

BRANCHES = """language 1
def unit[dim, k = 1, s = 1](x: map) = x |> conv@c[dim, k, s = s] |> relu
def branches(x: map[C]) {
  a = unit@a[4](x)
  b = avg_pool[3, s = 1, p = 1](x) |> unit@b[2]
  c = unit@c1[3](x) |> unit@c2[4, k = 3]
  d = conv@d[6, bias = false](x)
  far = unit@far[4, s = 2](x) |> gap
  return concat(a, b, c, gelu(d)) * param@g[16] + concat(far, far, far, param@rest[4])
}
def attention(x: map[C]) {
  k, v = x |> linear@kv[2 * C, bias = false] |> split[2]
  return attend[2](linear@q[C](x), k, v)
}
arch branched[] {
  input img: map[8, 6, 5]
  stage only -> x { x = img |> branches |> attention }
  return x
}
"""


def test_layers_that_read_one_value_are_one() -> None:
    graph = elaborate(BRANCHES, mode="deploy")
    after = same(graph, MergeSiblings())
    gone, come = changes(graph, after)
    assert {line.split()[1] for line in gone if line.startswith("param")} == {
        *("@only.attention.kv.weight", "@only.attention.q.bias", "@only.attention.q.weight"),
        *("@only.branches.a.c.bias", "@only.branches.a.c.weight", "@only.branches.c1.c.bias"),
        *("@only.branches.c1.c.weight", "@only.branches.d.weight"),
    }
    path, stem = "only.branches.a_c_c1_c_d", "k = [1, 1], s = [1, 1], p = [0, 0]"
    assert come == {
        "%only.attention.kv_q = linear[dim = 48](%only.branches.add) on @only.attention.kv_q{weight, bias}",
        "%only.attention.kv_q_split = split[parts = [32, 16]](%only.attention.kv_q)",
        "%only.attention.split as k, v = split[parts = 2](%only.attention.kv_q_split)",
        "%only.attention.attend as x = attend[heads = 2]"
        "(%only.attention.kv_q_split:1, %only.attention.split, %only.attention.split:1)",
        f"%{path} = conv[dim = 13, {stem}](%img) on @{path}{{weight, bias}}",
        f"%{path}_split = split[parts = [4, 3, 6]](%{path})",
        f"%only.branches.a.relu as a = relu(%{path}_split)",
        f"%only.branches.c1.relu = relu(%{path}_split:1)",
        f"%only.branches.gelu = gelu(%{path}_split:2)",
        "param @only.attention.kv_q.bias : [48]",
        "param @only.attention.kv_q.weight : [48, 16]",
        f"param @{path}.bias : [13]",
        f"param @{path}.weight : [13, 8, 1, 1]",
    }
    flat = optimize(after, (ElideConcat(),))
    assert "split[parts = 3](%only.attention.kv_q)" in print_graph(flat), "the splits of kv_q are one, as of a qkv"
    for mode in ("train", "eval"):
        other = elaborate(BRANCHES, mode=mode)
        assert MergeSiblings()(other) is other


APART = {
    "a convolution would copy its part": "relu(conv@a[8](img)) + conv@c[8, k = 3](conv@b[8](img))",
    "kernels of other sizes": "conv@a[4](img) + conv@b[4, k = 3](img)",
    "groups": "conv@a[4](img) + conv@b[4, g = 2](img)",
    "strides": "gap(conv@a[4, s = 2](img)) + gap(conv@b[4](img))",
    "a convolution and a linear layer": "conv@a[4](img) + linear@b[4](img)",
    "a layer that is used twice": "f(img) + f(relu(img)) + linear@b[4](img)",
    "one layer": "linear@b[4](img) + img",
}


@pytest.mark.parametrize("body", APART.values(), ids=APART)
def test_layers_that_are_better_apart_stay(body: str) -> None:
    share = "  share f = linear[4]\n" if "f(" in body else ""
    text = f"""language 1
arch apart[] {{
  input img: map[8, 6, 5]
  stage only -> x {{
  {share}  x = {body if "+ img" not in body else "linear@b[8](img) + img"}
  }}
  return x
}}
"""
    graph = elaborate(text, mode="deploy")
    assert MergeSiblings()(graph) is graph


def test_only_those_that_are_better_together() -> None:
    """The part that a convolution would copy is as large as what two layers read: three of four become one."""
    text = """language 1
arch some[] {
  input img: map[8, 6, 5]
  stage only -> x {
    x = relu(conv@a[8](img)) + gelu(conv@b[8](img)) + conv@d[8, k = 3](conv@c[8](img)) + conv@f[k = 3](conv@e[1](img))
  }
  return x
}
"""
    after = same(elaborate(text, mode="deploy"), MergeSiblings())
    assert [n.path for n in after.nodes() if n.op.name == "conv"] == ["only.a_b_e", "only.c", "only.d", "only.f"]


ROOM = """language 1
arch room[] {
  input img: map[8, 6, 5]
  stage only -> x {
    y = bn@n1(2 * conv@a[4](img)) * param@g[4]
    z = bn@n2(concat(conv@b[4](img), conv@c[4, bias = false](img)))
    x = concat(relu(y), gelu(y)) + relu(z * param@h[8] + 1)
  }
  return x
}
"""


def test_folds_make_room_for_each_other() -> None:
    """Two convolutions do all that three of them, and the scalings, norms and concat behind them, did."""
    graph, steps = elaborate(ROOM, mode="deploy"), list[Step]()
    after = optimize(graph, LEVELS[1], steps.append)
    names = [n.op.name for n in after.nodes()]
    assert names == ["input", "conv", "conv", "relu", "gelu", "concat", "relu", "add"]
    torch.manual_seed(0)
    state, x = state_of(graph), torch.randn(2, 8, 6, 5, dtype=torch.float64)
    (one,), (other,) = interpret(graph, state, x), interpret(after, pass_weights(steps, state), x)
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


# -- architectures --------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["swinv2_t", "tnt_s", pytest.param("inception_v4", marks=pytest.mark.full)])
def test_they_fire_in_architectures(spec: str) -> None:
    """Of their published size; in a small form, what is deployed computes what the eval module does."""
    fired: set[str] = set()
    compile_spec(spec, mode="deploy", watch=lambda s: fired.add(s.ran.name) if s.after is not s.before else None)
    assert fired >= ({"fold_constants", "scale_into_linear"} if spec == "swinv2_t" else {"merge_siblings"})
    deploys(next(t for t in ARCHITECTURES if t.spec == spec))


# -- programs -------------------------------------------------------------------------------------


@pytest.mark.full
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(programs())
def test_what_is_deployed_of_a_program_computes_the_same(text: str) -> None:
    graph, steps = elaborate(text, mode="deploy"), list[Step]()
    after = optimize(graph, LEVELS[1], steps.append)
    assert not verify(after)
    torch.manual_seed(0)
    state, x = state_of(graph), torch.randn(1, *map(int, graph.inputs[0].type.dims), dtype=torch.float64)
    made = pass_weights(steps, state)
    try:
        results = list(zip(interpret(graph, state, x), interpret(after, made, x), strict=True))
    except Declined:
        assume(False)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-10) for a, b in results)
