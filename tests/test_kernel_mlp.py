"""Kernels of two products and of several of one value: in Triton's interpreter, and compiled for GPUs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.mlp import Mlp
from archdsl.passes.fusions.qkv_merge import QkvMerge
from archdsl.passes.pipeline import level, with_kernels
from tests.compiled import (
    CAPABILITIES,
    SHARED_MEMORY,
    Launch,
    chosen,
    deviations,
    interpreter,
    launches,
    package,
    poisoned,
    recorded,
)

ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3}
FULL = pytest.mark.full
RULES = with_kernels(level(1), Fuse("mlp+norm_linear+qkv_merge+project_residual"))
ACTS = {
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "hsigmoid": F.hardsigmoid,
    "hswish": F.hardswish,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "": lambda x: x,
}
FORMS = """language 1
def bnd[d](x: map) = x |> conv@conv[d, bias = false] |> bn
def se(x: map[C]) = x * (x |> gap |> linear[24] |> relu |> linear[C] |> sigmoid)
def coef(x: tokens) = x * param@alpha[1, init = 1]
def two(x: tokens[N, C]) {
  n = ln(x)
  q, k = n |> linear@qk[2 * C, bias = false] |> split[2]
  return attend[2](q, k, linear@v[C](n)) |> linear@proj[C]
}
def three(x: tokens[N, C]) = attend[2](linear@q[C](x), linear@k[C, bias = false](x), linear@v[C](x))
arch forms[classes = 10] {
  input img: map[3, 9, 12]
  stem { x = img |> conv[48, 3] |> bn |> relu6 }
  stage i in 1 -> x {
    blocks j in 2 {
      x += x |> bnd@a[40] |> gelu |> bnd@b[48]
      x = se(x)
      x += drop_path(x |> bn@n1 |> conv@c1[72] |> hswish |> conv@c2[48] |> layer_scale@ls)
      x += drop_path[t = 0.5](x |> linear@l1[64] |> silu |> linear@l2[48] |> ln[bias = false])
      x = (x |> conv@d1[32] |> bn@m1 |> relu |> conv@d2[40, bias = false] |> bn@m2 |> hsigmoid) |> conv@up[48]
      t = tokens(x)
      t += two(t)
      t += three(t)
      t += coef(drop_path(t |> ln@n2 |> linear@e1[56] |> gelu |> linear@e2[48]))
      x = to_map[x.H, x.W](t)
    }
  }
  head { return x |> gap |> linear[classes] }
}
"""
"""Blocks whose products are pairs and siblings of every form that kernels compute."""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


@functools.cache
def forms() -> ModuleType:
    return package(compile_spec(FORMS, passes=RULES).files)


def of_kind(kind: str, dim: int) -> nn.Module | None:
    """A norm with numbers of its own, in eval mode."""
    if not kind:
        return None
    made = nn.LayerNorm(dim, bias=kind == "ln") if kind.startswith("ln") else nn.BatchNorm2d(dim)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(dim) + 0.5 if name == "running_var" else torch.randn(dim))
    return made.eval()


def through(layer: nn.Module | None, rows: Tensor) -> Tensor:
    """Rows of channels through a layer, by PyTorch's functions of two axes."""
    if layer is None:
        return rows
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(rows, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    if isinstance(layer, nn.BatchNorm2d):
        return F.batch_norm(rows, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def paired(
    dtype: torch.dtype, size: tuple[int, ...], hidden: int, act: str, dim: int = 0, last_act: str = "",
    norm: str = "", between: str = "", behind: str = "", scales: int = 0, bias: bool = True, residual: bool = True,
    conv: bool = False, deaf: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the kernel's result, and of PyTorch's in float64. `deaf`: the kernel forgets the norm behind."""
    of = forms()
    torch.manual_seed(0)
    c, m = size[-1], dim or size[-1]
    made = [nn.Conv2d(*n, 1, bias=bias) if conv else nn.Linear(*n, bias=bias) for n in ((c, hidden), (hidden, m))]
    norms = [of_kind(kind, n) for kind, n in ((norm, c), (between, hidden), (behind, m))]
    first, last = (one.to(dtype) for one in made)
    norms = [None if one is None else one.to(dtype) for one in norms]
    x, scale = torch.randn(size).to(dtype) + 1, torch.randn(scales).to(dtype) if scales else None
    added = torch.randn(*size[:-1], m).to(dtype) if residual else None

    def step(x: Tensor, added: Tensor | None, scale: Tensor | None) -> Tensor:
        return of.fused.fused_mlp(x, first, last, added, *norms, scale, act=act, last_act=last_act)

    def launched() -> Tensor:
        given = [of.fused.mlp_norm(one) for one in norms]
        weights = first.weight.flatten(1), first.bias, last.weight.flatten(1), last.bias
        return of.kernels.fused_mlp(x, given, weights, added, scale, act, last_act, dtype)

    with torch.no_grad():
        behind_it = of.kernels.mlp_layer_norm
        if deaf:
            of.kernels.mlp_layer_norm = lambda head, rest, *_: (head, rest)
        with poisoned():
            found = launched() if dtype == torch.float32 else step(x, added, scale)
        of.kernels.mlp_layer_norm = behind_it
        for layer in (first, last, *norms):
            if layer is not None:
                layer.double()
        doubled = [None if t is None else t.double() for t in (x, added, scale)]
        reference = step(*doubled)
        rows = x.double().flatten(0, -2)
        rows = ACTS[act](through(norms[1], through(first, through(norms[0], rows))))
        rows = ACTS[last_act](through(norms[2], through(last, rows)))
        wanted = (rows if scale is None else rows * scale.double()).view(*size[:-1], m)
        wanted = wanted if added is None else wanted + added.double()
    return [((y.double() - wanted).norm() / wanted.norm()).item() for y in (found, reference)]


PAIRED: dict[str, dict[str, object]] = {
    "swin": {"size": (2, 9, 8, 96), "hidden": 80, "act": "gelu", "norm": "ln"},
    "scaled": {"size": (1, 5, 64), "hidden": 48, "act": "gelu_tanh", "scales": 64},
    "narrow": {"size": (3, 5, 7, 20), "hidden": 24, "act": "silu", "bias": False, "scales": 1, "norm": "ln without"},
    "wide": {"size": (1, 7, 5, 256), "hidden": 40, "act": "gelu", "norm": "ln"},
    "repvit": {"size": (2, 5, 7, 56), "hidden": 72, "act": "gelu", "between": "bn", "behind": "bn", "conv": True},
    "swinv2": {"size": (1, 5, 9, 96), "hidden": 64, "act": "gelu", "behind": "ln", "scales": 96},
    "normed": {"size": (1, 9, 24), "hidden": 33, "act": "hswish", "norm": "bn", "behind": "ln without"},
    "gate": {"size": (5, 48), "hidden": 12, "act": "relu", "last_act": "sigmoid", "residual": False},
    "wider": {"size": (2, 3, 3, 16), "hidden": 16, "act": "relu6", "dim": 72, "behind": "bn", "last_act": "hsigmoid"},
    "smaller": {"size": (1, 3, 5, 200), "hidden": 24, "act": "sigmoid", "dim": 40, "residual": False, "norm": "bn"},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", PAIRED)
def test_paired_products_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """In float32 and float16 by the kernel, in float64 by PyTorch; where the kernel does not write, there is NaN."""
    found, reference = interpreting.submit(paired, dtype, **PAIRED[case]).result()
    assert found <= ROUNDING[dtype] and reference <= 1e-12


def test_a_norm_behind_is_seen(interpreting: Executor) -> None:
    """The comparison finds a kernel that forgets it."""
    assert interpreting.submit(paired, torch.float32, **PAIRED["swinv2"], deaf=True).result()[0] > 1e-2


def siblings(
    dtype: torch.dtype, size: tuple[int, ...], dims: tuple[int, ...], biases: tuple[bool, ...], act: str = ""
) -> list[float]:
    """Deviations of the results of layers behind a norm, and of all gradients."""
    of = forms()
    torch.manual_seed(0)
    c = size[-1]
    tensors = [torch.randn(size), torch.randn(c), torch.randn(c)]
    tensors += [torch.randn(n, c) for n in dims] + [
        torch.randn(n) for n, given in zip(dims, biases, strict=True) if given
    ]

    def compute(x: Tensor, gain: Tensor, shift: Tensor, *rest: Tensor) -> Tensor:
        weights, vectors = rest[: len(dims)], iter(rest[len(dims) :])
        norm = nn.LayerNorm(c)
        del norm.weight, norm.bias
        norm.weight, norm.bias = gain, shift  # type: ignore[assignment]
        layers = [nn.Linear(c, n, bias=given) for n, given in zip(dims, biases, strict=True)]
        for layer, weight, given in zip(layers, weights, biases, strict=True):
            del layer.weight, layer.bias
            layer.weight, layer.bias = weight, next(vectors) if given else None  # type: ignore[assignment]
        results = of.fused.norm_linear(x, norm, *layers, act=act)
        assert [y.shape[-1] for y in results] == list(dims)
        return torch.cat(results, -1)

    return deviations(compute, tensors, dtype)


SIBLINGS: dict[str, dict[str, object]] = {
    "queries, keys and values": {"size": (2, 11, 24), "dims": (24, 24, 40), "biases": (False, True, True)},
    "activated": {"size": (1, 5, 7, 96), "dims": (16, 33), "biases": (False, False), "act": "hswish"},
    "gates": {"size": (1, 9, 64), "dims": (20, 20), "biases": (True, True), "act": "sigmoid"},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", SIBLINGS)
def test_layers_behind_one_norm_are_one_product(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    found = interpreting.submit(siblings, dtype, **SIBLINGS[case]).result()
    assert max(found) <= ROUNDING[dtype], found


@pytest.mark.parametrize("act", ["hsigmoid", "relu6"])
def test_activations_have_pytorchs_gradients(interpreting: Executor, act: str) -> None:
    case = {"size": (1, 9, 32), "dims": (17, 16), "biases": (True, False), "act": act}
    assert max(interpreting.submit(siblings, torch.float32, **case).result()) <= 2e-6


def randomised(models: list[nn.Module]) -> None:
    """The same random numbers in models of one state dict."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in models[0].state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) * 0.3)
    for other in models[1:]:
        other.load_state_dict(models[0].state_dict())


@pytest.mark.parametrize("train", [False, True])
def test_every_form_is_one_step_and_computes_the_same(train: bool) -> None:
    """In float64, where PyTorch runs: values, gradients (a bias before a norm in training has none), and statistics."""
    plain, ours = (compile_spec(FORMS, passes=p) for p in (level(0), RULES))
    names = [n.op.name for n in ours.graph.nodes()]
    counts = tuple(map(names.count, ("fused_mlp", "norm_linear", "merged_linear")))
    assert counts == (12, 2, 2)
    models = [type(artefact.module())(drop_path_rate=0.5).double().train(train) for artefact in (plain, ours)]
    randomised(models)
    x, found = torch.randn(3, *ours.input, dtype=torch.double), []
    for model in models:
        torch.manual_seed(1)
        y = model(x)
        gradients = torch.autograd.grad(y.square().sum(), list(model.parameters()))
        found.append([y, *gradients, *(b.double() for b in model.buffers())])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-9 * max(1e-3, a.norm())


def networks(autocast: bool) -> tuple[float, list[str]]:
    """How far a model's result with kernels is from that without, relatively; and the kernels that ran."""
    made = forms()
    plain, ours = type(compile_spec(FORMS, passes=level(0)).module())().eval(), made.forms().eval()
    randomised([plain, ours])
    x, names, dtype = torch.randn(2, 3, 9, 12), [], torch.float32 if autocast else torch.float16
    launch = made.kernels.launch
    made.kernels.launch = lambda kernel, *a, **k: (names.append(kernel.fn.__name__), launch(kernel, *a, **k))
    try:
        with torch.no_grad():
            wanted = plain.double()(x.double())
            with torch.autocast("cpu", torch.float16, enabled=autocast):
                found, other = (model.to(dtype)(x.to(dtype)) for model in (ours, plain))
    finally:
        made.kernels.launch = launch
    assert found.dtype == other.dtype
    return ((found.double() - wanted).norm() / wanted.norm()).item(), names


@pytest.mark.parametrize("autocast", [True, False])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, autocast: bool) -> None:
    """In float16, and in float32 under autocast, where results have the type that PyTorch gives them."""
    found, names = interpreting.submit(networks, autocast).result()
    assert found <= 5e-3 and names.count("fused_mlp_kernel") == 12 and names.count("norm_linear_kernel") == 2


def test_kernels_and_pytorch_are_captured_by_compilers() -> None:
    """In one graph each: where kernels run, and where PyTorch does."""
    of = forms()
    found: list[list[str]] = []

    def compiler(graph: torch.fx.GraphModule, _: Sequence[object]) -> Callable[..., object]:
        found.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    for device in ("meta", "cpu"):
        torch._dynamo.reset()
        module = of.forms().eval().to(device, torch.bfloat16)
        with torch.no_grad(), chosen(of) if device == "meta" else nullcontext():
            x = torch.zeros(2, 3, 9, 12).to(device, torch.bfloat16)
            torch.compile(module, fullgraph=True, backend=compiler)(x)
    kernels, none = (sum("fused_mlp_forward" in name for name in names) for names in found)
    assert kernels >= 10 and none == 0, "convolutions of maps that are not channels last are PyTorch's"


def test_joined_weights_are_never_out_of_date() -> None:
    """New weights, also those that are written into the old ones, and layers with hooks."""
    models = [compile_spec(FORMS, passes=p).module().eval() for p in (level(0), RULES)]
    x = torch.randn(1, 3, 9, 12)
    for _ in range(2):
        randomised(models)
        with torch.no_grad():
            for model in models:
                for value in model.parameters():
                    value.mul_(0.5)
            assert torch.allclose(*(model(x) for model in models), rtol=1e-4, atol=1e-5)
    for model in models:
        layer = next(one for name, one in model.named_modules() if name.endswith("1.three.k"))
        layer.register_forward_hook(lambda layer, given, y: 2 * y)
    with torch.no_grad():
        a, b = (model(x) for model in models)
    assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


DECLINED = {
    "x = linear[257](x)\n return x + (x |> linear[96] |> gelu |> linear[257])": "257 channels are too many for a row",
    "return x + (x |> rms |> linear[96] |> gelu |> linear[64])": "its kernel does not compute `rms`",
    "return x + (x |> linear[96] |> tanh |> linear[64])": "its kernel does not compute `tanh`",
    "return x + (x |> linear[96] |> gelu |> linear[64] |> bn |> bn)": "its kernel does not compute `bn` at this place",
    "return x + ((x |> linear[96] |> gelu |> linear[64]) * 0.5)": "its kernel scales by a number a channel",
    "return x |> linear[8] |> linear[96] |> gelu |> linear[64]": "8 channels are too few for a matrix unit",
    "y = x |> linear[96] |> gelu |> linear[64]\n return y + y": "it is not added to another value",
    "return linear@a[64](x) + one@b(x)": "its layers are parts of different blocks",
    "share f = pair\n return f(x) + f(relu(x))": "its weights are another call's, too",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernels_do_not_compute_stays(body: str) -> None:
    defs = "def one(x: map) = linear[64](x)\ndef pair(x: map) = linear@a[64](x) * linear@b[64](x)\n"
    graph = elaborate(f"language 1\n{defs}arch cell[] {{\n  input x: map[64, 14, 14]\n  {body}\n}}\n")
    found = [(r, p) for n in graph.nodes() for r in (Mlp(), QkvMerge()) if (p := r.pattern(graph, n)) is not None]
    assert any(DECLINED[body] in (r.check(graph, p) or r.beyond(graph, p)) for r, p in found)


def test_joining_weights_has_its_price() -> None:
    """Each weight is read and written once more, by a launch for the weights and one for the biases."""
    graph = elaborate("language 1\narch a[] {\n  input x: map[64, 14, 14]\n  return linear[32](x) * linear[32](x)\n}\n")
    rule = QkvMerge()
    paths = next(p for n in graph.nodes() if (p := rule.pattern(graph, n)) is not None)
    work = rule.again(graph, paths)
    assert (work.weights, work.launches, work.elements) == (2 * 2 * (64 * 32 + 32), 2, 0)


PAIRS: dict[str, dict[str, object]] = {
    "row of 256": {"k": 256, "positions": 196, "norm": "ln"},
    "row of 256 on a large map": {"k": 256, "positions": 784, "norm": "bn", "between": "bn", "behind": "ln"},
    "repvit": {"k": 56, "positions": 3136, "between": "bn", "behind": "bn"},
    "repvit, wider": {"k": 224, "positions": 196, "between": "bn", "behind": "bn"},
    "visformer_v2": {"k": 192, "positions": 784, "norm": "bn", "between": "bn"},
    "swinv2": {"k": 192, "positions": 1024, "behind": "ln"},
    "squeeze-excite": {"k": 56, "positions": 0, "ratio": 0.25, "act": "relu", "last_act": "sigmoid"},
}
"""Widths and positions of pairs of products, of forms that no spec of the first kernels has."""


def pair(
    k: int, positions: int, ratio: float = 4, act: str = "gelu", last_act: str = "", norm: str = "", between: str = "",
    behind: str = "",
) -> list[Launch]:  # fmt: skip
    """What is launched for 64 images in bfloat16."""
    of = forms()
    with torch.device("meta"), recorded(of) as found:
        n = int(k * ratio)
        norms = [of_kind(kind, c) for kind, c in ((norm, k), (between, n), (behind, k))]
        numbers = [of.fused.mlp_norm(None if one is None else one.bfloat16()) for one in norms]
        x, *weights = (
            torch.empty(size, dtype=torch.bfloat16)
            for size in ((64, *[positions] * bool(positions), k), (n, k), (n,), (k, n), (k,))
        )
        residual = x if positions else None
        of.kernels.fused_mlp(x, numbers, tuple(weights), residual, None, act, last_act, torch.bfloat16)
    return found


def fit(found: list[Launch]) -> None:
    for launch in found:
        for capability in CAPABILITIES:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads and compiled.matrix_units, where


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c == "row of 256" else FULL) for c in PAIRS])
def test_pairs_fit_gpus(case: str) -> None:
    """Shared memory within a GPU's, nothing spilled, matrix units, wide loads."""
    found = pair(**PAIRS[case])  # type: ignore[arg-type]
    assert [launch.name for launch in found] == ["fused_mlp_kernel"]
    fit(found)


@FULL
@pytest.mark.parametrize("spec", ["hornet_t", "cswin_t", "tnt_s", "gcvit_t"])
def test_kernels_fit_gpus(spec: str) -> None:
    """At a spec's sizes and 64 images."""
    artefact = compile_spec(spec, passes=RULES)
    made = package(artefact.files)
    every = launches(made, getattr(made, artefact.name)(), (64, *artefact.input), torch.bfloat16, train=False)
    found = [launch for launch in every if launch.name in ("fused_mlp_kernel", "norm_linear_kernel")]
    assert "fused_mlp_kernel" in {launch.name for launch in found}
    fit(found)
