"""Turns proxies into checks: values worked out by hand, what they do not depend on, all of them on emitted modules."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archdsl.api import elaborate
from archdsl.backends.load import passing_module
from archdsl.backends.running import still
from archdsl.backends.torch import emit
from archdsl.cli import main
from archdsl.diagnostics import ArchError, Source
from archdsl.frontend.program import Program
from archdsl.ir.graph import Graph
from archdsl.search import evaluators as under_test
from archdsl.search import proxies
from archdsl.search.evaluators import Evaluation, LatencyEvaluator, ProxyEvaluator, evaluator, evaluators
from archdsl.search.proxies import (
    PROXIES,
    Inapplicable,
    Labelled,
    Subject,
    attention_weights,
    az_nas,
    balance,
    block_paths,
    block_results,
    channels_first,
    dss,
    entropies,
    expressivity,
    grad_norm,
    nwot,
    progressivity,
    snip,
    synflow,
    trainability,
    zen,
    zico,
)
from tests.specs import SPECS

TINY = {
    "swin_t": {"dim": 16, "depths": [1, 2, 1, 1], "heads": [1, 2, 4, 8], "window": 2},
    "poolformer_s12": {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
    "convnext_t": {"dims": [8, 16, 24, 32], "depths": [1, 1, 2, 1]},
}


@cache
def tiny(spec: str) -> Graph:
    return elaborate(spec, input=(3, 64, 64), overrides=TINY[spec] | {"classes": 10})


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def two_layers(*between: nn.Module) -> nn.Sequential:
    """4 numbers -> 3 -> 5, with random weights and no bias."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), *between, nn.Linear(3, 5, bias=False))
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            weight.copy_(drawn(*weight.shape, seed=10 + i))
    return module


def worked_out(module: nn.Sequential, batch: Labelled) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, gradient of the mean cross-entropy) of both layers, by the chain rule on paper."""
    x, classes = (a.flatten(1).double().numpy() if a.dim() > 1 else a.numpy() for a in batch)
    first, second = (layer.weight.detach().double().numpy() for layer in (module[1], module[-1]))
    hidden = x @ first.T
    odds = np.exp(hidden @ second.T)
    slope = (odds / odds.sum(1, keepdims=True) - np.eye(5)[classes]) / len(x)
    return [(first, (slope @ second).T @ x), (second, slope.T @ hidden)]


def batch(seed: int = 0) -> Labelled:
    return drawn(6, 1, 2, 2, seed=seed), torch.from_numpy(np.random.default_rng(seed).integers(0, 5, 6))


# -- closed forms --------------------------------------------------------------------------------


def test_grad_norm_and_snip_of_two_layers() -> None:
    found = worked_out(two_layers(), batch())
    assert grad_norm(two_layers(), batch()) == pytest.approx(sum(np.linalg.norm(g) for _, g in found), rel=1e-5)
    assert snip(two_layers(), batch()) == pytest.approx(sum(np.abs(w * g).sum() for w, g in found), rel=1e-5)


def test_zico_of_two_layers() -> None:
    grads = [[np.abs(g) for _, g in worked_out(two_layers(), batch(seed))] for seed in (0, 1, 2)]
    wanted = 0.0
    for layer in range(2):
        series = np.stack([g[layer] for g in grads])
        wanted += np.log((series.mean(0) / series.std(0)).sum())
    assert zico(two_layers(), [batch(seed) for seed in (0, 1, 2)]) == pytest.approx(wanted, rel=1e-4)


def test_zico_of_batches_that_agree_is_of_no_layer() -> None:
    assert zico(two_layers(), [batch(), batch()]) == 0.0


class StarReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.square(F.relu(x))


@pytest.mark.parametrize("between", [(), (nn.ReLU(),), (nn.LayerNorm(3), nn.GELU()), (StarReLU(),)])
def test_synflow_of_two_layers(between: tuple[nn.Module, ...]) -> None:
    module = two_layers(*between)
    first, second = (np.abs(layer.weight.detach().double().numpy()) for layer in (module[1], module[-1]))
    flow = float((second @ first @ np.ones(4)).sum())
    assert synflow(module, (1, 2, 2)) == pytest.approx(math.log(2 * flow), rel=1e-12)  # each layer carries all of it


def test_synflow_does_not_see_signs() -> None:
    turned = two_layers(nn.ReLU())
    with torch.no_grad():
        for weight in turned.parameters():
            weight.mul_(torch.where(drawn(*weight.shape, seed=5) > 0, 1.0, -1.0))
    assert synflow(turned, (1, 2, 2)) == synflow(two_layers(nn.ReLU()), (1, 2, 2))


def test_a_flow_that_overflows_is_not_a_number() -> None:
    class Squares(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(12):
                x = 1000 * super().forward(x)
                x = x * x
            return x

    assert not math.isfinite(synflow(Squares(nn.Conv2d(1, 1, 1)), (1, 2, 2)))


class Attention(nn.Module):
    """Three positions of two channels, told apart, that attend to each other."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q, self.k, self.v = (nn.Linear(2, 2, bias=False) for _ in range(3))
        self.position = nn.Parameter(drawn(3, 2, seed=4))
        with torch.no_grad():
            for i, layer in enumerate((self.q, self.k, self.v)):
                layer.weight.copy_(drawn(2, 2, seed=i))

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 3, 2) + self.position
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_synflow_takes_attention_for_a_mean(fused: bool) -> None:
    module = Attention(fused)
    value, position = (np.abs(w.detach().double().numpy()) for w in (module.v.weight, module.position))
    flow = float(((1 + position) @ value.T).sum())
    assert synflow(module, (1, 2, 3)) == pytest.approx(math.log(flow), rel=1e-12)


@pytest.mark.parametrize("named", ["1.weight", "2.weight", ""])
def test_dss_of_two_layers(named: str) -> None:
    module = two_layers()
    first, second = (np.abs(layer.weight.detach().double().numpy()) for layer in (module[1], module[-1]))
    slopes = [np.outer(second.sum(0), np.ones(4)), np.outer(np.ones(5), first.sum(1))]
    wanted = 0.0
    for name, w, g in zip(("1.weight", "2.weight"), (first, second), slopes, strict=True):
        wanted += np.linalg.norm(w, "nuc") * np.linalg.norm(g, "nuc") if name == named else (w * g).sum()
    assert dss(module, (1, 2, 2), frozenset([named])) == pytest.approx(wanted, rel=1e-10)


CODES = np.array([[1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1]])
"""Which of six activations each of three images switches on."""


class Switched(nn.Module):
    """Applies an activation to its input, and beside that to something that no image changes."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.table = nn.Parameter(drawn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x).sum() + self.activation(self.table).sum()


@pytest.mark.parametrize("activation", [F.relu, F.gelu, F.silu, nn.GELU("tanh"), nn.ReLU(), F.hardswish, F.relu6])
def test_nwot_of_known_codes(activation: Callable[[Tensor], Tensor]) -> None:
    images = torch.from_numpy(CODES * 2 - 1).float() * drawn(3, 6).abs()
    different = (CODES[:, None, :] != CODES[None, :, :]).sum(-1)
    wanted = np.linalg.slogdet(6.0 - different)[1]
    assert nwot(Switched(activation), images) == pytest.approx(wanted, rel=1e-12)
    assert nwot(Switched(activation), images[[2, 0, 1]]) == pytest.approx(wanted, rel=1e-12)


def test_nwot_without_an_activation() -> None:
    with pytest.raises(Inapplicable, match="no activation"):
        nwot(two_layers(), batch()[0])


def test_zen_of_a_linear_map() -> None:
    module, x, noise = nn.Linear(4, 3), drawn(5, 4), drawn(5, 4, seed=1)
    moved = noise.double().numpy() @ module.weight.detach().double().numpy().T
    wanted = math.log(0.01 * np.linalg.norm(moved, axis=1).mean())
    assert zen(module, x, noise) == pytest.approx(wanted, rel=1e-3)  # float32, of a small difference


class RMS(nn.RMSNorm):
    """Over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1))


@pytest.mark.parametrize(
    ("norm", "pooled"),
    [
        (nn.BatchNorm2d(6), lambda y: y.transpose(1, 0, 2, 3).reshape(6, -1).var(1)),
        (nn.GroupNorm(3, 6), lambda y: y.reshape(4, 3, -1).var(2)),
        (nn.LayerNorm((6, 5, 5)), lambda y: y.reshape(4, -1).var(1)),
        (RMS(6), lambda y: (y**2).mean(1)),
    ],
)
def test_zen_puts_back_what_norms_divide(norm: nn.Module, pooled: Callable[[np.ndarray], np.ndarray]) -> None:
    """A layer before a norm that is made 7 times as large: the features are the same, the score is log 7 more."""
    norm.eps = 1e-12  # type: ignore[assignment]
    first = nn.Conv2d(2, 6, 3, padding=1, bias=False)
    module, x, noise = nn.Sequential(first, norm), drawn(4, 2, 5, 5), 3 * drawn(4, 2, 5, 5, seed=1)
    with torch.no_grad():
        moved = (module(x + noise) - module(x)).flatten(1).norm(dim=1).mean().item()
        divided = pooled(first(x).double().numpy()).mean()
    found = zen(module, x, noise, step=1.0)
    assert found == pytest.approx(math.log(moved) + 0.5 * math.log(divided), abs=1e-5)
    with torch.no_grad():
        first.weight.mul_(7)
    assert zen(module, x, noise, step=1.0) - found == pytest.approx(math.log(7), abs=1e-4)


# -- AZ-NAS --------------------------------------------------------------------------------------


def test_expressivity_is_the_entropy_of_principal_variances() -> None:
    results = [drawn(4, 5, 5, 7, seed=i) @ drawn(7, 7, seed=9 + i) for i in range(3)]
    wanted = []
    for result in results:
        x = result.reshape(-1, 7).double().numpy()
        variances = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
        shares = variances / variances.sum()
        wanted.append(-(shares * np.log(shares)).sum())
    assert entropies(results) == pytest.approx(wanted, rel=1e-6)
    assert expressivity(results) == pytest.approx(sum(wanted), rel=1e-6)
    assert progressivity(results) == pytest.approx(min(np.diff(wanted)), rel=1e-4)
    assert entropies([5 * r for r in results]) == pytest.approx(wanted, rel=1e-6)


def test_features_that_vary_in_one_direction_have_no_entropy() -> None:
    line = drawn(4, 9, 1) * drawn(5)
    assert entropies([line]) == pytest.approx([0.0], abs=1e-6)
    alike = torch.eye(8).reshape(2, 4, 8)  # less their mean, 7 directions of one variance
    assert entropies([alike]) == pytest.approx([math.log(7)], abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 6, 1), (2, 24, 1)])
def test_trainability_of_a_scaled_channel(shape: tuple[int, ...]) -> None:
    before = drawn(*shape).requires_grad_()
    assert trainability([before, 3 * before], np.random.default_rng(0)) == pytest.approx(2 - 3 - 1 / 3, rel=1e-5)


def test_trainability_across_a_stride() -> None:
    """Four cells of one channel summed with weight 3: a Jacobian of a column of four 3s, whose norm is 6."""
    before = drawn(2, 8, 12, 1).requires_grad_()
    after = 12 * F.avg_pool2d(before.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert trainability([before, after], np.random.default_rng(0)) == pytest.approx(2 - 6 - 1 / 6, rel=1e-5)


def test_blocks_pass_gradients_on_in_either_order_of_axes() -> None:
    module = nn.Sequential(*(nn.Conv2d(1, 1, 1, bias=False) for _ in range(2)))
    for parameter in module.parameters():
        nn.init.constant_(parameter, 3)
    images = drawn(2, 1, 4, 6)
    found = block_results(module, ["0", "1"], images)
    torch.testing.assert_close(found[1], 9 * images.permute(0, 2, 3, 1))
    assert trainability(found, np.random.default_rng(0)) == pytest.approx(2 - 3 - 1 / 3, rel=1e-5)


def test_trainability_leaves_out_what_does_not_follow() -> None:
    a, b = drawn(2, 4, 3).requires_grad_(), drawn(2, 4, 3).requires_grad_()
    with pytest.raises(Inapplicable):
        trainability([a, 2 * b], np.random.default_rng(0))
    with pytest.raises(Inapplicable):
        trainability([a, a[:, :3]], np.random.default_rng(0))


def test_az_nas_combines_ranks() -> None:
    components = np.array([[1.0, 10, 3, 1], [2, 20, 3, 2], [3, 5, 1, math.nan], [0, 30, 1, 3]])
    ranks = np.array([[2, 1, 2.5, 1], [3, 2, 2.5, 2], [1, 3, 1, 3]]) / 3
    found = az_nas(components)
    assert np.isnan(found[2])
    assert found[[0, 1, 3]] == pytest.approx(np.log(ranks).sum(1))


@pytest.mark.parametrize(("shape", "first"), [((2, 4, 8, 8), True), ((2, 8, 8, 4), False), ((2, 8, 8, 8), True)])
def test_where_channels_stand(shape: tuple[int, ...], first: bool) -> None:
    x = drawn(*shape)
    if len(set(shape[1:])) == 1:
        x = x.contiguous(memory_format=torch.channels_last)
    assert channels_first(x, (2, 3, 32, 32)) == first


# -- what proxies take from a graph --------------------------------------------------------------


def ending(graph: Graph, *names: str) -> set[str]:
    return {path for path in graph.params if path.endswith(tuple(f".attn.{name}.weight" for name in names))}


@pytest.mark.parametrize(
    ("spec", "names"), [("swinv2_t", ("qkv", "proj")), ("pvt_v2_b1", ("q", "kv", "proj")), ("poolformer_s12", ())]
)
def test_weights_of_attention(spec: str, names: tuple[str, ...]) -> None:
    graph = elaborate(spec)
    assert attention_weights(graph) == (ending(graph, *names) if names else set())
    assert bool(attention_weights(graph)) == bool(names)


@pytest.mark.parametrize(
    "attention", ["attend[2](q, k, v)", "scores[2](q, k) |> softmax |> mix(v)"], ids=["attend", "scores"]
)
def test_weights_of_attention_made_apart(attention: str) -> None:
    graph = graph_of(
        "arch a[classes = 10] { input img: map[3, 8, 8] x = img |> conv@stem[8, k = 3] "
        "q = linear@q[8](x) k = linear@k[8](x) v = linear@v[8](x) "
        f"y = {attention} x += y |> linear@proj[8] x += x |> linear@fc1[8] |> gelu |> linear@fc2[8] "
        "head { return x |> gap |> linear@fc[classes] } }"
    )
    assert attention_weights(graph) == {f"{name}.weight" for name in ("q", "k", "v", "proj")}


def test_blocks_in_order() -> None:
    depths = (1, 2, 1, 1)
    assert block_paths(tiny("swin_t")) == [f"stages.{i}.blocks.{j}" for i, d in enumerate(depths) for j in range(d)]


def test_balance_sets_norms_and_layer_scales_alone() -> None:
    graph = tiny("convnext_t")
    with passing_module(graph.name, emit(graph)) as module:
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        balance(module, graph)
        changed = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {name for name in before if name.endswith(".ls.gamma")}
        assert all((module.get_parameter(name) == 1).all() for name in changed)


def test_balance_leaves_temperatures_alone() -> None:
    graph = elaborate("swinv2_t", input=(3, 64, 64), overrides=TINY["swin_t"])
    with passing_module(graph.name, emit(graph)) as module:
        balance(module, graph)
        block = module.get_submodule("stages.0.blocks.0")
        assert (block.get_parameter("norm1.weight") == 1).all()  # starts as 0
        assert torch.allclose(block.get_parameter("attn.logit_scale"), torch.tensor(math.log(10)))


def test_nothing_random_is_left_in_training() -> None:
    with passing_module("swin_t", emit(tiny("swin_t"))) as module:
        rates = [m.rate for m in module.modules() if hasattr(m, "rate")]
        assert max(rates) > 0
        still(module)
        x = drawn(2, 3, 64, 64)
        assert torch.equal(module.train()(x), module(x))


# -- evaluators ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", TINY)
def test_every_proxy_is_finite_on_emitted_modules(spec: str) -> None:
    graph = tiny(spec)
    for name in PROXIES:
        found = ProxyEvaluator(name).evaluate(graph, 0)
        assert math.isfinite(found.value) and not found.reason, (name, found)


@pytest.mark.parametrize("name", PROXIES)
def test_a_seed_decides_all(name: str) -> None:
    graph = tiny("swin_t")
    torch.manual_seed(9)
    first = ProxyEvaluator(name).evaluate(graph, 3)
    torch.manual_seed(8)
    expected = torch.random.get_rng_state()
    assert ProxyEvaluator(name).evaluate(graph, 3) == first
    assert torch.equal(torch.random.get_rng_state(), expected)  # nobody else's numbers were drawn
    assert (ProxyEvaluator(name).evaluate(graph, 4) == first) == (name == "az-complexity")


def test_synflow_takes_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = tiny("poolformer_s12")
    first = ProxyEvaluator("synflow").evaluate(graph, 0)
    monkeypatch.setattr(proxies, "stream", None)
    assert ProxyEvaluator("synflow").evaluate(graph, 0) == first


def test_an_evaluation_leaves_no_module_behind() -> None:
    before = set(sys.modules)
    ProxyEvaluator("synflow").evaluate(tiny("swin_t"), 0)
    assert not {name for name in set(sys.modules) - before if "passing" in name}


def test_latency_is_the_median_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [50.0, 40.0, 3.0, 1.0, 2.0]

    def clock() -> Iterator[float]:
        now = 0.0
        for seconds in taken:
            yield now
            now += seconds
            yield now

    ticks = clock()
    monkeypatch.setattr(under_test.time, "process_time", lambda: next(ticks))
    found = LatencyEvaluator(repeats=3, warmup=2).evaluate(tiny("poolformer_s12"), 0)
    assert found == Evaluation(2.0)
    assert list(ticks) == []


def test_latency_is_a_measurement() -> None:
    found = evaluator("latency:local")
    assert (found.direction, found.reproducible) == ("minimize", False)
    assert found.evaluate(tiny("poolformer_s12"), 0).value > 0


def graph_of(text: str) -> Graph:
    return Program.parse(Source("a.arch", text)).elaborate()


def test_what_a_proxy_cannot_read_is_a_reason() -> None:
    plain = graph_of("arch a[classes = 10] { input img: map[3, 8, 8] head { return img |> gap |> linear[classes] } }")
    for name, reason in (("nwot", "no activation"), ("az-expressivity", "neither blocks nor stages")):
        found = ProxyEvaluator(name).evaluate(plain, 0)
        assert math.isnan(found.value)
        assert reason in found.reason


def test_what_cannot_be_emitted_is_a_reason() -> None:
    found = ProxyEvaluator("snip").evaluate(graph_of("arch a { input img: map[3, 8, 8] return img |> gap }"), 0)
    assert math.isnan(found.value)
    assert "cannot be written in PyTorch" in found.reason


def refuse(problem: Exception) -> Callable[[Subject], float]:
    def take(_: Subject) -> float:
        raise problem

    return take


@pytest.mark.parametrize(
    ("take", "reason"),
    [
        (refuse(MemoryError()), "out of memory"),
        (refuse(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")), "out of memory"),
        (refuse(RuntimeError("shapes differ\nhere")), "RuntimeError: shapes differ"),
        (lambda _: math.inf, "the result is inf"),
    ],
)
def test_failures_have_reasons(take: Callable[[Subject], float], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "PROXIES", {"snip": take})
    found = ProxyEvaluator("snip").evaluate(tiny("poolformer_s12"), 0)
    assert math.isnan(found.value)
    assert found.reason == reason


def test_evaluators_by_name() -> None:
    for known in evaluators():
        assert evaluator(known.name) == known
    with pytest.raises(ArchError) as caught:
        evaluator("proxy:zyco")
    (mistake,) = caught.value.diagnostics
    assert (mistake.code, mistake.help) == ("E-EVALUATOR", "did you mean `proxy:zico`?")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "dim=16", "--set", "heads=[1, 2, 4, 8]", "--set", "window=2", "--set", "depths=[1, 1, 1, 1]"]
    call = ["score", "swin_t", "--input", "3x64x64", *small, "--proxy", "synflow", "--proxy", "az-complexity"]
    assert main([*call, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)["swin_t"]
    assert main(call) == 0
    printed = capsys.readouterr().out
    for name in ("proxy:synflow", "proxy:az-complexity"):
        assert f"{record[name]:.5g}" in printed


MULTIPLYING = ("hornet_t", "overlock_xt")
"""Specs that multiply branches with each other: without norms, what flows grows beyond all numbers."""


@pytest.mark.full
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_proxy_on_every_spec(path: Path) -> None:
    graph = elaborate(path)
    for name in PROXIES:
        found = ProxyEvaluator(name).evaluate(graph, 0)
        if name == "synflow" and graph.name in MULTIPLYING:
            assert math.isnan(found.value)
        else:
            assert math.isfinite(found.value), (name, found.reason)
