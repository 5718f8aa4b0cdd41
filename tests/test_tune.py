"""Holds mode tune to what it promises: eval's results and gradients, and no results of layers kept for backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.cli import main
from archdsl.ir.graph import Graph
from archdsl.ir.text import parse_graph, print_graph
from archdsl.ir.verify import verify
from archdsl.ops.vocabulary import Vocabulary
from archdsl.passes.pipeline import LEVELS
from archdsl.passes.tune_norms import TUNED, TuneNorms, tunable
from archdsl.testing import interpret
from benchmarks.tune import layer_bytes, saved_bytes
from tests.oracle.compare import images, randomise
from tests.oracle.twin import Twin
from tests.oracle.twins import ARCHITECTURES
from tests.test_rep import state_of

QUICK = ("efficientformer_l1", "nasnet_a_large")
"""Asked in every run; the others are marked `full`."""
LAYERS = """language 1
def separable[dim](x: map) = x |> dwconv@depth[3, bias = false] |> conv@point[dim, bias = false]
arch layers[dpr = 0.5, classes = 3] {
  input img: map[8, 9, 10]
  a = img |> conv@grouped[12, k = 3, s = 2, g = 4] |> bn@n1[eps = 1e-3] |> relu
  b = a |> conv@same[12, k = 3, pad = "tf_same", bias = false] |> bn@n2 |> gelu
  c = b |> separable@sep[16] |> bn@n3
  d = c |> linear@map[12] |> bn@n4[momentum = 0.03] |> bn@n5
  e = d |> relu |> bn@n6 |> conv@after[12]
  blocks i in 2 { e = e + drop_path(e |> conv@inner[12, bias = false] |> bn@own) }
  share f = conv[12]
  g = f(e) + bn@n7(f(relu(e)))
  h = g |> tokens |> linear@row[6] |> bn@n8
  head { return h |> gap |> linear@vec[5] |> bn@n9 |> relu |> linear@fc[classes] |> bn@n10 }
}
"""
SHARED_AND_ALONE = {"n5", "n6", "n7", "head.n10"}
"""Norms behind a norm, behind no layer, behind a layer that is used twice, and behind the classifier."""


@contextmanager
def run(module: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, dict[str, Tensor | None]]]:
    """The result, and the gradient of a functional of it for every parameter and the image."""
    x = x.detach().requires_grad_()
    y = module(x)
    named = {**dict(module.named_parameters()), "image": x}
    gradients = torch.autograd.grad(y.square().sum(), list(named.values()), allow_unused=True)
    yield y, dict(zip(named, gradients, strict=True))


def assert_same(one: nn.Module, other: nn.Module, x: Tensor) -> None:
    with run(one, x) as (a, wanted), run(other, x) as (b, found):
        assert (a - b).norm() <= 1e-9 * a.norm() and a.norm() > 0
        assert found.keys() == wanted.keys()
        largest = max(float(g.norm()) for g in wanted.values() if g is not None)
        for name, g in wanted.items():
            h = found[name]
            assert (g is None) == (h is None), name
            assert g is None or h is None or (g - h).norm() <= 1e-9 * g.norm() + 1e-12 * largest, name


def tuned(graph: Graph) -> Graph:
    after = TuneNorms()(graph)
    assert not verify(after) and not list(TUNED.broken(after))
    return after


# -- graphs ---------------------------------------------------------------------------------------


def test_every_norm_behind_a_layer_of_its_own_scales_it() -> None:
    graph = elaborate(LAYERS, mode="tune")
    after = tuned(graph)
    kept = {n.path for n in after.nodes() if n.op.name == "bn"}
    assert kept == SHARED_AND_ALONE
    scaled = {n.path: n.op.name for n in after.nodes() if n.op.name.startswith("scaled_")}
    assert scaled == {
        "grouped": "scaled_conv",
        "same": "scaled_conv",
        "sep.point": "scaled_conv",
        "map": "scaled_linear",
        "blocks.0.inner": "scaled_conv",
        "blocks.1.inner": "scaled_conv",
        "row": "scaled_linear",
        "head.vec": "scaled_linear",
    }
    assert list(TUNED.broken(graph)) and after.params == graph.params and TuneNorms()(after) is after
    order = [n.path for n in after.nodes()]
    assert order.index("n3.factors") < order.index("sep.depth"), "before the call that reads them"


def test_the_weights_are_those_of_eval() -> None:
    graphs = [elaborate(LAYERS, mode=mode) for mode in ("eval", "tune")]
    assert graphs[0].params == graphs[1].params
    assert all(n.op.attributes()["frozen"] for n in graphs[1].nodes() if n.op.name == "bn")
    modules = [compile_spec(LAYERS, mode=mode).module() for mode in ("eval", "tune")]
    one, other = ([(k, v.shape, v.dtype) for k, v in m.state_dict().items()] for m in modules)
    assert one == other, "in the same order, which optimizers go by"


def test_the_text_of_a_tuned_graph_says_all_of_it() -> None:
    text = print_graph(tuned(elaborate(LAYERS, mode="tune")))
    assert " mode tune" in text and "%grouped as a_ " not in text
    assert '%same = scaled_conv[dim = 12, k = [3, 3], s = [1, 1], p = [1, 1], bias = false, pad = "tf_same"]' in text
    assert "%n2.factors as factors = bn_factors[dim = 12]() on @n2{weight, bias, running_mean" in text
    assert print_graph(parse_graph(text, Vocabulary.of())) == text


def test_a_tuned_graph_computes_what_the_graph_does() -> None:
    graph = elaborate(LAYERS, mode="tune")
    state, x = state_of(graph), torch.randn(2, 8, 9, 10, dtype=torch.float64)
    (one,), (other,) = interpret(graph, state, x), interpret(tuned(graph), state, x)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_only_frozen_norms_scale_a_layer() -> None:
    for mode in ("train", "eval", "deploy"):
        graph = elaborate(LAYERS, mode=mode)
        assert TuneNorms()(graph) is graph
    frozen = LAYERS.replace("eps = 1e-3", "eps = 1e-3, frozen = true")
    assert [norm.path for _, norm in tunable(elaborate(frozen, mode="train"))] == ["n1"]


# -- modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1])
def test_layers_and_norms_have_evals_results_and_gradients(level: int) -> None:
    plain, ours = (compile_spec(LAYERS, mode=m, passes=LEVELS[level]).module().double() for m in ("eval", "tune"))
    randomise(plain)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(3, 8, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_same(plain.eval(), ours.eval(), x)


@pytest.mark.parametrize("level", [0, 1])
def test_training_drops_paths_and_keeps_statistics(level: int) -> None:
    still = compile_spec(LAYERS, mode="tune", overrides={"dpr": 0.0}, passes=LEVELS[level]).module().double()
    randomise(still)
    x = torch.randn(16, 8, 9, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = {k: t.clone() for k, t in still.state_dict().items()}
    assert torch.equal(still.train()(x), still.eval()(x))
    assert all(torch.equal(t, before[k]) for k, t in still.train().state_dict().items())
    moving = compile_spec(LAYERS, mode="tune", passes=LEVELS[level]).module().double()
    moving.load_state_dict(before)
    torch.manual_seed(0)
    differ = (moving.train()(x) != moving(x)).any(dim=1).sum()
    assert 0 < differ < len(x), "a sample loses a branch or keeps it"


@pytest.mark.parametrize(
    "twin", [pytest.param(t, id=t.spec, marks=() if t.spec in QUICK else pytest.mark.full) for t in ARCHITECTURES]
)
def test_every_architecture_has_evals_results_and_gradients(twin: Twin) -> None:
    """Small and shallow, every parameter and buffer random, fp64, drop paths resting."""
    parameters, size = {**twin.tiny, **twin.settled}, (3, *twin.size)
    plain, ours = (
        compile_spec(twin.spec, input=size, mode=m, overrides=parameters).module().double().eval()
        for m in ("eval", "tune")
    )
    randomise(plain, gain=twin.gain)
    assert list(plain.state_dict()) == list(ours.state_dict())
    ours.load_state_dict(plain.state_dict())
    assert_same(plain, ours, images(1, twin.size).double())


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_no_result_of_a_layer_is_kept(activation: str) -> None:
    """What backward keeps is less by the results of the layers, and more by their scaled weights."""
    body = " |> ".join(f"conv_bn@c{i}[8, k = 3] |> {activation}" for i in range(3))
    head = "  head { return x |> gap |> linear[classes] }"
    text = f"arch a[classes = 3] {{\n  input img: map[4, 48, 48]\n  x = img |> {body}\n{head}\n}}\n"
    plain, ours = (compile_spec(text, mode=m) for m in ("eval", "tune"))
    x = torch.randn(4, 4, 48, 48)
    less = saved_bytes(plain.module().eval(), x) - saved_bytes(ours.module().eval(), x)
    results, weights = layer_bytes(ours.graph)
    assert (results, weights) == (3 * 8 * 48 * 48 * 4, (4 + 8 + 8) * 8 * 9 * 4)
    assert abs(results * len(x) - weights - less) <= 0.001 * less, "but for a number or two a channel"


def test_commands_take_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("layers.arch").write_text(LAYERS)
    assert main(["build", "layers.arch", "--mode", "tune"]) == 0
    source = Path("generated/layers/model.py").read_text()
    assert "tune graph" in source and "self.grouped(img, self.n1.factors())" in source
    assert main(["compare", "layers.arch", "layers.arch", "--mode-b", "tune", "--weights", "random:0"]) == 0
    assert "results agree" in capsys.readouterr().out
    assert main(["show", "layers.arch", "--mode", "tune", "-O1"]) == 0
    Path("layers.ir").write_text(capsys.readouterr().out)
    assert main(["build", "layers.ir", "-o", "again"]) == 0
    assert Path("again/layers/model.py").read_text().splitlines()[4:] == source.splitlines()[4:]
