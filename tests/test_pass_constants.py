"""Turns what is computed of parameters into a check of fold_constants: what folds, what it asks, and its values."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from archdsl.api import compile_spec, elaborate
from archdsl.ir.graph import Graph
from archdsl.ir.text import parse_graph, print_graph
from archdsl.ir.verify import verify
from archdsl.ops.vocabulary import Vocabulary
from archdsl.passes.fold_constants import CONSTANT, FoldConstants
from archdsl.passes.pipeline import Step
from archdsl.testing import interpret
from archdsl.weights.deploy import pass_weights
from archdsl.weights.load import deploy_weights
from archdsl.weights.stores import Stored
from tests.oracle.compare import images, randomise
from tests.oracle.twin import Twin
from tests.oracle.twins import ARCHITECTURES
from tests.test_rep import state_of

BIASED = """language 1
def bias[heads](q: map) {
  t = rel_coords["log8"](q) |> linear@fc[heads]
  return 2 * sigmoid(rel_lookup(t, q))
}
def wmsa(x: map[C]) {
  q, k, v = x |> windows[4] |> linear@qkv[3 * C] |> split[3]
  tau = param@scale[2, init = 1] |> exp
  return attend[2](q, k, v, bias = bias[2](q), tau = tau) |> merge |> linear@proj[C]
}
arch biased[] {
  input img: map[8, 16, 16]
  x = wmsa(img) * (1 + param@gain[8]) + param@shift[8]
  return x
}
"""


def made_of(graph: Graph) -> dict[str, torch.Tensor]:
    """Random weights of a deploy graph and what the pass makes of them, both checked against its shapes."""
    torch.manual_seed(0)
    state, after = state_of(graph), FoldConstants()(graph)
    made = pass_weights([Step(FoldConstants(), graph, after, 0.0)], state)
    assert {p: tuple(t.shape) for p, t in made.items()} == {p: x.shape for p, x in after.params.items()}
    x = torch.randn(2, *map(int, graph.inputs[0].type.dims), dtype=torch.float64)
    for one, other in zip(interpret(graph, state, x), interpret(after, made, x), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    return made


def test_what_parameters_decide_becomes_a_parameter() -> None:
    graph = elaborate(BIASED, mode="deploy")
    after = FoldConstants()(graph)
    assert not verify(after) and not list(CONSTANT.broken(after)) and FoldConstants()(after) is after
    assert [path for path, _ in CONSTANT.broken(graph)] == ["wmsa.exp", "wmsa.bias.mul", "add"]
    before, text = (print_graph(g).splitlines() for g in (graph, after))
    gone = {line.split()[0] for line in set(before) - set(text) if line.startswith("%")}
    assert gone == {
        *("%wmsa.scale", "%wmsa.exp", "%wmsa.bias.rel_coords", "%wmsa.bias.fc", "%wmsa.bias.rel_lookup"),
        *("%wmsa.bias.sigmoid", "%wmsa.bias.mul", "%wmsa.attend", "%gain", "%add", "%mul"),
    }
    come = {line for line in set(text) - set(before) if line.startswith(("%", "param", "guard"))}
    positions = "{min(H, 4) * min(W, 4)}"
    assert come == {
        "param @wmsa.exp : [2]",
        "param @wmsa.bias : [2, 16, 16]",
        "param @add : [8]",
        '%wmsa.exp#2 = constant[kind = "vec", shape = [2]]() on @wmsa.exp{""} in 1 : const vec[2] from 8:37-8:40',
        f'%wmsa.bias = constant[kind = "scores", shape = [2, {positions}, {positions}]]() on @wmsa.bias{{""}} in 2'
        " : const scores[2, 16, 16] from 4:10-4:39",
        "%wmsa.attend = attend[heads = 2](%wmsa.split, %wmsa.split:1, %wmsa.split:2, %wmsa.bias, %wmsa.exp#2) in 1"
        " : map[8, 4, 4] in window[4x4 of 4x4 from 16x16] from 9:10-9:58",
        '%add#3 = constant[kind = "vec", shape = [8]]() on @add{""} in 0 : const vec[8] from 13:20-13:37',
        "%mul = mul(%wmsa.proj, %add#3) in 0 : map[8, 16, 16] from 13:7-13:38",
        'guard H >= 4 "the shape of wmsa.bias" from 4:10-4:39',
        'guard W >= 4 "the shape of wmsa.bias" from 4:10-4:39',
    }
    parsed = parse_graph(print_graph(after), Vocabulary.of())
    assert print_graph(parsed) == print_graph(after)


def test_the_parameters_are_what_was_computed() -> None:
    graph = elaborate(BIASED, mode="deploy")
    made = made_of(graph)
    assert {p: made[p].dtype for p in ("wmsa.exp", "wmsa.bias", "add")} == dict.fromkeys(
        ("wmsa.exp", "wmsa.bias", "add"), torch.float64
    )
    state = {p: t.float() for p, t in state_of(graph).items()}
    again = pass_weights([Step(FoldConstants(), graph, FoldConstants()(graph), 0.0)], state)
    assert again["wmsa.bias"].dtype == torch.float32, "computed in float64, kept as the weights are"
    assert torch.equal(again["add"], 1 + state["gain"])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_can_be_trained_is_left_alone(mode: str) -> None:
    graph = elaborate(BIASED, mode=mode)
    assert FoldConstants()(graph) is graph


WHOLE = """language 1
def bias(x: map[C]) = rel_lookup(rel_coords(x) |> linear@fc[2], x)
def attention(x: map[C]) = attend[2](x, x, x, bias = bias(x))
arch whole[bound = false] {
  input img: map[8, 6, 5]
  x = if bound then img + param@place[8, img.H, img.W, resize = "none"] else img
  x = attention(x)
  share f = attention
  y = f(x)
  return f(y) + x
}
"""


def test_a_size_that_may_change_is_not_bound() -> None:
    """A bias for the whole map folds only where a parameter binds the size anyway, and never in a shared call."""
    graph = elaborate(WHOLE, mode="deploy")
    assert FoldConstants()(graph) is graph
    graph = elaborate(WHOLE, mode="deploy", overrides={"bound": True})
    after = FoldConstants()(graph)
    assert [p for p in after.params if p not in graph.params] == ["attention.bias"]
    assert after.guards == graph.guards and sum(n.op.name == "rel_lookup" for n in after.nodes()) == 2
    made_of(graph)
    for spec in ("overlock_xt", "mvitv2_t"):
        graph = elaborate(spec, mode="deploy")
        assert FoldConstants()(graph) is graph, "its biases follow the image"


def test_a_window_that_shrinks_is_refused() -> None:
    """SwinV2 computes its biases anew where the image is smaller than its windows; the deploy module says no."""
    parameters = {"dim": 12, "depths": [1, 2, 1, 1], "heads": [1, 1, 2, 2], "window": 4, "dpr": 0}
    plain, deployed = deployment("swinv2_t", parameters, (128, 128))
    assert len(deployed.state_dict()) < len(plain.state_dict())
    for height, width in ((128, 128), (132, 164)):
        x = torch.randn(1, 3, height, width, dtype=torch.float64)
        with torch.no_grad():
            a, b = plain(x), deployed(x)
        assert (a - b).norm() <= 1e-9 * a.norm()
    small = torch.zeros(1, 3, 96, 72, dtype=torch.float64)
    assert plain(small).isfinite().all()
    with pytest.raises(ValueError, match="the shape of"):
        deployed(small)


def deployment(
    spec: str, parameters: Mapping[str, object], size: tuple[int, int], gain: float = 1.0
) -> list[nn.Module]:
    """The eval module with random weights and the deploy module with those made of them, in float64."""
    image = (3, *size)
    graphs = [elaborate(spec, input=image, mode=m, overrides=parameters) for m in ("eval", "train", "deploy")]
    plain, deployed = (
        compile_spec(spec, input=image, mode=m, overrides=parameters).module().double().eval()
        for m in ("eval", "deploy")
    )
    randomise(plain, gain=gain)
    alone = graphs[1].params.keys() - graphs[0].params.keys()
    state = plain.state_dict() | {p: torch.zeros(graphs[1].params[p].shape) for p in alone}
    deployed.load_state_dict(deploy_weights(*graphs, Stored("random", state)))
    return [plain, deployed]


SHRUNK = {("swinv2_t", (192, 320))}
"""Architectures and sizes at which the last stage is smaller than its windows, which have biases of their own."""


@pytest.mark.full
@pytest.mark.parametrize("twin", [pytest.param(t, id=t.spec) for t in ARCHITECTURES if t.sizes])
def test_the_law_of_sizes_holds(twin: Twin) -> None:
    """At another size than it is built for, the deploy module computes what the eval module does, or refuses."""
    parameters = {**twin.tiny, **twin.settled, **({"dpr": 0.0} if twin.drops else {})}
    plain, deployed = deployment(twin.spec, parameters, twin.size, twin.gain)
    for size in twin.sizes:
        x = images(1, size).double()
        with torch.no_grad():
            a = plain(x)
            if (twin.spec, size) in SHRUNK:
                with pytest.raises(ValueError, match="the shape of"):
                    deployed(x)
            else:
                assert (a - deployed(x)).norm() <= 1e-9 * a.norm()
