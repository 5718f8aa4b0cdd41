"""Turns passes into checks: what they change, what they share and leave alone, and that both compute the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from archdsl.api import compile_spec, elaborate
from archdsl.cli import main
from archdsl.diagnostics import ArchError
from archdsl.ir.graph import Graph
from archdsl.ir.text import print_graph
from archdsl.ir.verify import BrokenInvariant, Finding, verify
from archdsl.passes import pipeline
from archdsl.passes.base import Draft, Pass, Property
from archdsl.passes.common import DISTINCT, Common
from archdsl.passes.fold_norms import FOLDED, FoldNorms
from archdsl.passes.fuse import Fuse
from archdsl.passes.pipeline import LEVELS, Step, optimize, parse_passes, with_kernels
from archdsl.testing import interpret
from archdsl.weights.deploy import pass_weights
from archdsl.weights.load import deploy_weights
from archdsl.weights.stores import Stored
from tests.oracle.compare import images, randomise
from tests.oracle.twin import Twin
from tests.oracle.twins import ARCHITECTURES
from tests.programs import programs
from tests.test_rep import state_of

EACH = [
    pytest.param(t, id=t.spec, marks=() if t.spec.startswith("nasnet") else pytest.mark.full) for t in ARCHITECTURES
]
TWICE = """language 1
arch twice[] {
  input img: map[8, 8, 8]
  a = avg_pool[3, s = 1, p = 1](img)
  b = relu(avg_pool[3, s = 1, p = 1](img))
  c = relu(a)
  d = conv@one[8](img) + conv@two[8](img)
  return b + c + avg_pool[5, s = 1, p = 2](img) + d
}
"""


def pairwise_texts(before: Graph, after: Graph) -> tuple[tuple[str, str], tuple[str, str]]:
    """(before, after) and (after, before) as text."""
    one, other = print_graph(before), print_graph(after)
    return (one, other), (other, one)


# -- common ---------------------------------------------------------------------------------------


def test_what_is_computed_twice_is_computed_once() -> None:
    graph = elaborate(TWICE)
    after = Common()(graph)
    gone, come = (set(a.splitlines()) - set(b.splitlines()) for a, b in pairwise_texts(graph, after))
    assert gone == {
        "%avg_pool2 = avg_pool[k = [3, 3], s = [1, 1], p = [1, 1]](%img) in 0 : map[8, 8, 8] from 5:12-5:42",
        "%relu1 as b = relu(%avg_pool2) in 0 : map[8, 8, 8] from 5:7-5:43",
        "%relu2 as c = relu(%avg_pool1) in 0 : map[8, 8, 8] from 6:7-6:14",
        "%add#2 = add(%relu1, %relu2) in 0 : map[8, 8, 8] from 8:10-8:15",
    }
    assert come == {
        "%relu1 as b = relu(%avg_pool1) in 0 : map[8, 8, 8] from 5:7-5:43",
        "%add#2 = add(%relu1, %relu1) in 0 : map[8, 8, 8] from 8:10-8:15",
    }
    assert not verify(after) and not list(DISTINCT.broken(after)) and list(DISTINCT.broken(graph))


def test_random_ops_are_never_the_same() -> None:
    text = "arch a[] { input img: map[8, 8, 8]\n return dropout[0.5](img) + dropout[0.5](img) }\n"
    for mode in ("train", "eval"):
        graph = elaborate("language 1\n" + text, mode=mode)
        assert Common()(graph) is graph


def test_nasnet_pools_its_inputs_once() -> None:
    """Each of 12 normal cells adds the average of a map to itself (1707.07012, figure 4)."""
    plain, better = (compile_spec("nasnet_a_mobile", passes=passes).graph for passes in LEVELS[:2])
    pools = [sum(n.op.name == "avg_pool" for n in graph.nodes()) for graph in (plain, better)]
    assert pools[0] - pools[1] == 12


# -- fold_norms -----------------------------------------------------------------------------------

NORMS = """language 1
arch norms[] {
  input img: map[8, 8, 8]
  a = img |> conv@one[8, k = 3, g = 2, bias = false] |> bn@n1 |> bn@n2
  b = a |> relu |> linear@two[6] |> bn@n3
  c = conv@three[6](a)
  share f = conv[6]
  return bn@n4(c) + bn@n5(f(b)) + bn@n6(f(c)) + relu(bn@n7(b))
}
"""


def test_layers_take_in_the_norm_behind_them_alone() -> None:
    graph = elaborate(NORMS, mode="deploy")
    after = FoldNorms()(graph)
    assert not verify(after) and not list(FOLDED.broken(after)) and list(FOLDED.broken(graph))
    gone = {n.path for n in graph.nodes()} - {n.path for n in after.nodes()}
    assert gone == {"n1", "n2", "n3"}, "c is read twice, f is used twice, n7 reads a norm's result that others read"
    assert [p for p in after.params if p.startswith(("one", "two"))] == [
        "one.weight",
        "one.bias",
        "two.weight",
        "two.bias",
    ]
    assert after.node("one").op.attributes()["bias"] and len(graph.params) - len(after.params) == 14
    for mode in ("train", "eval"):
        other = elaborate(NORMS, mode=mode)
        assert FoldNorms()(other) is other


def test_folded_layers_compute_what_layers_and_norms_do() -> None:
    graph = elaborate(NORMS, mode="deploy")
    after, state, x = FoldNorms()(graph), state_of(graph), torch.randn(2, 8, 8, 8, dtype=torch.float64)
    made = pass_weights([Step(FoldNorms(), graph, after, 0.0)], state)
    assert {p: tuple(t.shape) for p, t in made.items()} == {p: x.shape for p, x in after.params.items()}
    (one,), (other,) = interpret(graph, state, x), interpret(after, made, x)
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param(t, id=t.spec, marks=() if t.spec in ("nasnet_a_large", "efficientformer_l1") else pytest.mark.full)
        for t in ARCHITECTURES
    ],
)
def test_deploy_computes_what_eval_does(twin: Twin) -> None:
    """Small and shallow, every parameter and buffer random, fp64."""
    parameters = {**twin.tiny, **twin.settled, **({"dpr": 0.0} if twin.drops else {})}
    size = (3, *twin.size)
    graphs = {m: elaborate(twin.spec, input=size, mode=m, overrides=parameters) for m in ("eval", "train", "deploy")}
    plain, deployed = (
        compile_spec(twin.spec, input=size, mode=m, overrides=parameters).module().double().eval()
        for m in ("eval", "deploy")
    )
    randomise(plain, gain=twin.gain)
    alone = graphs["train"].params.keys() - graphs["eval"].params.keys()
    state = plain.state_dict() | {p: torch.zeros(graphs["train"].params[p].shape) for p in alone}
    deployed.load_state_dict(
        deploy_weights(graphs["eval"], graphs["train"], graphs["deploy"], Stored("weights.safetensors", state))
    )
    x = images(1, twin.size).double()
    with torch.no_grad():
        a, b = plain(x), deployed(x)
    assert (a - b).norm() <= 1e-9 * a.norm()


# -- every architecture ---------------------------------------------------------------------------


QUICK = ("swin_t", "convnext_t", "poolformer_s12")
KERNELS = with_kernels(LEVELS[1], Fuse("all"))
"""On a CPU, and in float64 anywhere, PyTorch computes what kernels are for."""


@pytest.mark.parametrize("passes", [pytest.param(p, id=i) for p, i in ((LEVELS[1], "1"), (LEVELS[2], "2"))])
@pytest.mark.parametrize("twin", EACH)
def test_a_level_computes_what_the_graph_does(twin: Twin, passes: Sequence[Pass]) -> None:
    compare_passes(twin, passes)


@pytest.mark.parametrize(
    "twin", [pytest.param(t, id=t.spec, marks=() if t.spec in QUICK else pytest.mark.full) for t in ARCHITECTURES]
)
def test_graphs_with_kernels_compute_what_the_graph_does(twin: Twin) -> None:
    compare_passes(twin, KERNELS)


@pytest.mark.parametrize(
    "twin", [pytest.param(t, id=t.spec, marks=() if t.spec == "repvit_m1" else pytest.mark.full) for t in ARCHITECTURES]
)
def test_deployed_graphs_with_kernels_compute_what_deployed_graphs_do(twin: Twin) -> None:
    compare_passes(twin, KERNELS, LEVELS[1], mode="deploy")


def compare_passes(twin: Twin, passes: Sequence[Pass], plainly: Sequence[Pass] = LEVELS[0], mode: str = "eval") -> None:
    """Small and shallow, at another than the declared size where there is one, in fp64: forward and every gradient.

    What is deployed is not trained, and has no gradients to compare.
    """
    parameters = {**twin.tiny, **twin.settled, **({"dpr": 0.0} if twin.drops else {})}
    plain, better = (
        compile_spec(twin.spec, input=(3, *twin.size), overrides=parameters, passes=p, mode=mode)
        .module()
        .double()
        .eval()
        for p in (plainly, passes)
    )
    randomise(plain, gain=twin.gain)
    better.load_state_dict(plain.state_dict())
    x = images(1, next(iter(twin.sizes), twin.size)).double()
    results = []
    for module in (plain, better):
        y = module(x)
        trained = [] if mode == "deploy" else list(module.parameters())
        gradients = torch.autograd.grad(y.square().sum(), trained, allow_unused=True) if trained else ()
        results.append((y, gradients))
    (one, gradients), (other, others) = results
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    for a, b in zip(gradients, others, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a - b).norm() <= 1e-9 * max(1e-3, float(a.norm()))


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(programs())
def test_passes_leave_their_input_alone_and_give_sound_graphs(text: str) -> None:
    graph = elaborate(text)
    before = print_graph(graph)
    after = optimize(graph, LEVELS[2])
    assert print_graph(graph) == before and not verify(after)
    assert optimize(after, LEVELS[2]) is after, "a second time changes nothing"


def test_what_does_not_change_is_shared() -> None:
    graph = elaborate("nasnet_a_mobile")
    after = Common()(graph)
    kept = [n for n in after.nodes() if n is graph.node(n.path)]
    assert len(kept) == len(after) < len(graph)
    assert all(after.params[path] is param for path, param in graph.params.items())
    assert sum(a is b for a, b in zip(graph.regions, after.regions, strict=True)) > 0.9 * len(graph.regions)


# -- drafts ---------------------------------------------------------------------------------------


def test_a_draft_follows_what_was_replaced_again() -> None:
    graph = elaborate(TWICE)
    relu, one, two = (graph.node(p).value() for p in ("relu1", "one", "two"))
    draft = Draft(graph)
    draft.use(one, instead_of=relu)
    draft.use(two, instead_of=one)
    assert draft.now(relu) == two


def test_a_new_op_stands_above_the_one_it_was_put_at() -> None:
    graph = elaborate(TWICE)
    last = graph.node(graph.outputs[0].node)
    left, _ = graph.operands(last)
    assert left is not None
    draft = Draft(graph)
    new = draft.put(graph.node("relu1").op, [left], (left.type,), at=last, path="relu1")
    draft.use(new.value(), instead_of=last.value())
    after = draft.done()
    assert new.path == "relu1#2" and [n.path for n in after.nodes()][-2:] == ["relu1#2", last.path]
    assert after.outputs == (new.value(),) and after.node(new.path).region == last.region
    assert not verify(after)


def test_a_draft_without_changes_is_the_graph_itself() -> None:
    graph = elaborate(TWICE)
    assert Draft(graph).done() is graph


# -- pipelines ------------------------------------------------------------------------------------


def _none(graph: Graph) -> Iterator[Finding]:
    for node in graph.nodes():
        if node.op.name == "avg_pool":
            yield node.path, "is a pooling"


POOLLESS = Property("poolless", "Nothing is pooled.", _none)


@dataclass(frozen=True)
class Needy(Pass):
    """Wants a graph without pooling."""

    name: ClassVar[str] = "needy"
    needs: ClassVar[tuple[Property, ...]] = (POOLLESS,)
    depth: int = 3
    fast: bool = False
    how: str = "well"

    def __call__(self, graph: Graph) -> Graph:
        return graph


@dataclass(frozen=True)
class Careless(Pass):
    """Drops an op that others read, or says that it gives what it does not."""

    name: ClassVar[str] = "careless"
    gives: ClassVar[tuple[Property, ...]] = (POOLLESS,)
    reads: bool = True

    def __call__(self, graph: Graph) -> Graph:
        draft = Draft(graph)
        if self.reads:
            draft.use(graph.node("relu1").value(), instead_of=graph.node("avg_pool1").value())
        else:
            draft.use(graph.node("one").value(), instead_of=graph.node("two").value())
        return draft.done()


@pytest.mark.parametrize("reads", [True, False])
def test_a_broken_graph_names_the_pass(reads: bool) -> None:
    with pytest.raises(BrokenInvariant, match="after `careless`"):
        optimize(elaborate(TWICE), (Common(), Careless(reads)))


def test_a_pass_says_what_it_needs() -> None:
    with pytest.raises(ArchError) as e:
        optimize(elaborate(TWICE), (Needy(),))
    (mistake,) = e.value.diagnostics
    assert mistake.code == "E-PASS" and "needs a graph in which nothing is pooled" in mistake.title, mistake
    assert "is a pooling" in mistake.help


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "PASSES", {"needy": Needy, "common": Common})
    assert parse_passes("common, needy{depth = 5, fast=true},needy{how=badly}") == (
        Common(),
        Needy(5, True),
        Needy(how="badly"),
    )
    assert str(Needy(5, True)) == "needy{depth=5, fast=True}" and parse_passes("") == ()
    for wrong in ("needy{depth=x}", "needy{fast=yes}", "needy{dept=1}", "needy{depth}", "neddy", "common needy"):
        with pytest.raises(ArchError):
            parse_passes(wrong)


def test_every_step_is_told() -> None:
    steps: list[Step] = []
    graph = elaborate(TWICE)
    after = optimize(graph, (Common(), Common()), steps.append)
    assert [s.after for s in steps] == [after, after] and steps[0].before is graph and steps[1].before is after


def test_levels_hold_exact_passes_only() -> None:
    assert all(p.exact for passes in LEVELS for p in passes)


# -- commands -------------------------------------------------------------------------------------


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["passes"]) == 0
    assert "common" in capsys.readouterr().out
    assert main(["passes", "nasnet_a_mobile", "-O2", "--print-after", "common"]) == 0
    printed = capsys.readouterr()
    assert "# after common: 935 -> 919 ops" in printed.err and printed.err.count("\n-%") > 16
    assert "919" in printed.out and "%" not in printed.out
    assert main(["passes", "swin_t"]) == 0
    assert "the same graph" in capsys.readouterr().out


def test_the_text_of_a_graph_builds_what_its_spec_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--emit", "ir", "nasnet_a_mobile", "--passes", "common"]) == 0
    text = tmp_path / "optimized.ir"
    text.write_text(capsys.readouterr().out)
    ours, wanted = compile_spec(text, passes=()), compile_spec("nasnet_a_mobile")
    assert ours.files.keys() == wanted.files.keys()
    for name, source in wanted.files.items():
        assert _body(ours.files[name]) == _body(source)


def _body(source: str) -> list[str]:
    return [line for line in source.splitlines() if "sha256" not in line]
