"""What kernels compute behind a branch, with and without the product: in Triton's interpreter, and compiled."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.project_residual import ProjectResidual
from archdsl.passes.fusions.scale_residual import ScaleResidual
from archdsl.passes.pipeline import level
from tests.compiled import (
    CAPABILITIES,
    SHARED_MEMORY,
    Launch,
    compiled_graphs,
    deviations,
    interpreter,
    package,
    poisoned,
    recorded,
)

ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3}
JOINED = (*level(1), Fuse("project_residual+scale_residual"))
CELL = """\
language 1
arch cell[dpr = 0.4, classes = 10] {{
  input x: map[3, 12, 20]
  stem {{ x = x |> conv[32, k = 3, s = 2] }}
  stage i in 1 -> x {{ {body} }}
  head {{ return x |> gap |> linear@fc[classes] }}
}}
"""
EVERY = """
    x = relu(drop_path[t = 0.5](x |> conv[48] |> relu |> conv[32, bias = false] |> bn |> gelu) + x)
    x += x |> dwconv[3] |> sigmoid |> conv[32] |> drop_path[t = 1] |> layer_scale
    y = x |> dwconv[3]
    x += 0.25 * (param@alpha[1, init = 1] * conv[32](y * sigmoid(linear[32](gap(y)))))
    x = silu(x + (x |> dwconv[3] |> bn))
    x += param@gamma[32, init = 1] * dwconv[5](x)
    y = x |> dwconv[3]
    y *= sigmoid(linear[32](gap(y)))
    x = x * (y |> conv[32] |> bn |> hswish)
"""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


@functools.cache
def files() -> Mapping[str, str]:
    return compile_spec(CELL.format(body=EVERY), passes=JOINED).files


def every() -> ModuleType:
    return package(files())


def layer(kind: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer whose weights are these tensors, with their gradients."""
    made = kind(*reversed(weight.shape), *[1] * (kind is nn.Conv2d), bias=bias is not None)
    del made.weight, made.bias
    made.weight, made.bias = weight[..., None, None] if kind is nn.Conv2d else weight, bias  # type: ignore[assignment]
    return made


def statistics(dim: int) -> nn.BatchNorm2d:
    """A norm whose numbers are all drawn."""
    norm = nn.BatchNorm2d(dim, eps=1e-3).eval()
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.copy_(torch.randn(dim))
        norm.running_var.copy_(torch.rand(dim) + 0.25)
    return norm


class Kept(nn.Module):
    """A dropped branch whose samples are known."""

    rate = 0.4

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.tensor([2.5, 0.0, 1.5]).repeat(x.shape[0])[: x.shape[0]]
        return x * kept.view(-1, *[1] * (x.dim() - 1)).to(x)


def trained(
    dtype: torch.dtype, size: tuple[int, ...], dim: int = 0, scale: int = 0, drop: bool = False, times: float = 1.0,
    residual: bool = True, gate: bool = False, lies: tuple[bool, bool] = (False, False),
) -> list[float]:  # fmt: skip
    """Deviations of the result and of all gradients. `scale`: its numbers. `lies`: what has channels first in memory.

    With `dim`, of a product of so many channels; else of the branch itself.
    """
    of = every()
    torch.manual_seed(0)
    out = (*size[:-1], dim or size[-1])
    x, rest = (
        t.movedim(-1, 1).contiguous().movedim(1, -1) if first else t
        for t, first in zip((torch.randn(size), torch.randn(out)), lies, strict=True)
    )
    inputs = [x, rest if residual else None, torch.randn(scale) if scale else None]
    inputs += [torch.randn(dim, size[-1]) if dim else None, torch.randn(size[0], size[-1]) if gate else None]

    def compute(x, residual, scale, weight, gate):  # type: ignore[no-untyped-def]
        dropping = Kept() if drop else None
        if weight is None:
            return of.fused.scale_residual(x, residual, scale, dropping, times=times)
        return of.fused.linear_residual(x, layer(nn.Linear, weight, None), residual, gate, scale, dropping, times=times)

    return deviations(compute, inputs, dtype)


TRAINED: dict[str, dict[str, object]] = {
    "a number and a parameter": {"size": (3, 5, 7, 20), "dim": 48, "scale": 1, "times": 0.17, "drop": True},
    "a gate alone": {"size": (2, 9, 72), "dim": 24, "residual": False, "gate": True},
    "map": {"size": (3, 9, 14, 96), "scale": 96, "drop": True},
    "tokens": {"size": (2, 33, 20), "scale": 1, "times": 2.0},
    "channels first": {"size": (3, 7, 5, 24), "scale": 24, "drop": True, "lies": (True, True)},
    "one first": {"size": (1, 17, 16, 40), "scale": 40, "lies": (False, True)},
    "the other first": {"size": (1, 4, 3, 300), "scale": 300, "times": -0.5, "lies": (True, False)},
    "numbers": {"size": (3, 3, 5, 8), "times": 0.3, "drop": True},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", TRAINED)
def test_branches_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Values and gradients of x, residual, scale, layer and gate; where kernels do not write, there is NaN."""
    found = interpreting.submit(trained, dtype, **TRAINED[case]).result()
    assert max(found) <= ROUNDING[dtype], found


def inferred(
    dtype: torch.dtype, size: tuple[int, ...], dim: int = 0, norm: bool = True, branch_act: str = "", scale: int = 0,
    times: float = 1.0, drop: bool = False, residual: bool = True, act: str = "", gate: bool = False,
    kind: type[nn.Module] = nn.Linear, first: bool = False, off: float = 0.0,
) -> float:  # fmt: skip
    """Deviation of the result. `off`: what the kernel adds behind its norm that it should not."""
    of = every()
    torch.manual_seed(0)
    out = dim or size[-1]
    tensors = [torch.randn(size), torch.randn(*size[:-1], out) if residual else None]
    tensors += [torch.randn(scale) if scale else None, torch.randn(out, size[-1]), torch.randn(out)]
    tensors += [torch.randn(size[0], size[-1]) if gate else None]
    norms, dropping = statistics(out) if norm else None, Kept() if drop else None
    ran: list[str] = []
    launch = of.kernels.launch

    def compute(to: torch.dtype) -> Tensor:
        x, residual, scale, weight, bias, gate = (None if t is None else t.to(dtype).to(to) for t in tensors)
        normed = None if norms is None else norms.to(dtype).to(to)
        if dim:
            made = layer(kind, weight, bias)
            acts = {"branch_act": branch_act, "act": act}
            return of.fused.linear_residual(x, made, residual, gate, scale, dropping, normed, times=times, **acts)
        if first:
            x, residual = x.permute(0, 3, 1, 2), residual.permute(0, 3, 1, 2)
        return of.fused.scale_residual(x, residual, scale, dropping, normed, times=times, act=act, first=first)

    with torch.no_grad():
        wanted = compute(torch.float64)
        of.kernels.launch = lambda kernel, *args, **meta: (
            ran.append(kernel.fn.__name__),
            launch(kernel, *args, **meta),
        )
        if off:
            normed = of.kernels.by_statistics
            of.kernels.by_statistics = lambda *args: normed(*args) + off
        with poisoned():
            found = compute(dtype)
    assert ran == [f"{'linear' if dim else 'scale'}_residual_kernel"]
    return ((found.double() - wanted).norm() / wanted.norm()).item()


INFERRED: dict[str, dict[str, object]] = {
    "bottleneck": {"size": (2, 5, 9, 40), "dim": 48, "act": "relu", "kind": nn.Conv2d},
    "gated": {"size": (3, 3, 7, 24), "dim": 96, "gate": True, "branch_act": "hswish", "residual": False},
    "all": {"size": (3, 4, 5, 20), "dim": 200, "branch_act": "gelu", "scale": 200, "times": 0.5, "drop": True,
            "act": "silu", "gate": True},
    "activated": {"size": (2, 9, 16), "dim": 16, "norm": False, "branch_act": "relu6", "act": "gelu_tanh"},
    "normed": {"size": (3, 5, 7, 96), "scale": 1, "drop": True, "act": "relu"},
    "normed, first": {"size": (1, 9, 6, 20), "times": 0.17, "first": True},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", INFERRED)
def test_norms_and_activations_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    """Where nothing is trained, and a norm goes by its running statistics."""
    assert interpreting.submit(inferred, dtype, **INFERRED[case]).result() <= ROUNDING[dtype]


def test_another_norm_is_found(interpreting: Executor) -> None:
    assert interpreting.submit(inferred, torch.float32, **INFERRED["bottleneck"], off=1.0).result() > 1e-2


def kernels_run(train: bool, grad: bool) -> list[str]:
    """The kernels that a network ran, in training, or with gradients."""
    of, ran = every(), list[str]()
    launch = of.kernels.launch
    of.kernels.launch = lambda kernel, *args, **meta: (ran.append(kernel.fn.__name__), launch(kernel, *args, **meta))
    with torch.set_grad_enabled(grad):
        of.cell().train(train)(torch.randn(1, 3, 12, 20))
    return ran


def test_statistics_of_a_batch_are_left_to_pytorch(interpreting: Executor) -> None:
    """And so are the gradients of norms and activations."""
    products, others = ["linear_residual_kernel"] * 2, ["scale_residual_kernel"]
    for train, grad in ((True, True), (False, True)):
        assert sorted(interpreting.submit(kernels_run, train, grad).result()) == [*products, *others]
    assert sorted(interpreting.submit(kernels_run, False, False).result()) == [*products * 2, *others * 2]


def test_a_network_is_one_step_a_branch_and_computes_the_same() -> None:
    """In float64, where PyTorch runs: values and all gradients, by running statistics and by a batch's."""
    plain, ours = (compile_spec(CELL.format(body=EVERY), passes=p) for p in (level(0), JOINED))
    names = [n.op.name for n in ours.graph.nodes()]
    assert [names.count(n) for n in ("linear_residual", "scale_residual", "add")] == [4, 2, 0]
    models = [artefact.module().double() for artefact in (plain, ours)]
    torch.manual_seed(0)
    with torch.no_grad():
        for value in models[0].state_dict().values():
            value.copy_(torch.rand(value.shape) * 0.5 + 0.1)
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(3, *ours.input, dtype=torch.double)
    for train in (False, True):
        found = []
        for model in models:
            torch.manual_seed(1)
            y = model.train(train)(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1e-3, a.abs().max().item()))


def test_compilers_see_the_kernels() -> None:
    """In one graph forward and one backward, each launch a node that Inductor knows."""
    artefact = compile_spec(CELL.format(body="x += param@gamma[32, init = 1] * dwconv[5](x)"), passes=JOINED)
    made = package(artefact.files)
    for graph in compiled_graphs(made, made.cell(), (2, *artefact.input)):
        targets = [str(node.target) for node in graph.graph.nodes]
        assert sum("triton_kernel_wrapper" in target for target in targets) == 1


FOUND = {
    "x + bn(conv[64](relu(x)))": "conv bn add",
    "relu(x + bn(conv[64](relu(x))))": "conv bn add relu",
    "x + 0.5 * conv[64](relu(x)) * param@p[64]": "conv mul mul add",
    "x + identity(linear[64](relu(x)))": "linear identity add",
    "x + gelu(linear[64](relu(x)))": "linear gelu add",
    "x + param@p[64] * relu(x)": "mul add",
    "silu(x + 0.5 * bn(relu(x)))": "bn mul add silu",
    "x + bn(relu(x))": "bn add",
    "sigmoid(x + bn(relu(x)))": "bn add",
    "tanh(x + bn(conv[64](relu(x))))": "conv bn add",
}
DECLINED = {
    "x + tanh(linear[64](relu(x)))": "does not compute `tanh`",
    "x + bn(0.5 * linear[64](relu(x)))": "does not compute `bn` there",
    "x + bn(gelu(linear[64](relu(x))))": "does not compute `bn` there",
    "x + param@p[64] * (param@q[64] * linear[64](relu(x)))": "scales by one parameter",
    "x + param@p[64, 14, 14] * relu(x)": "by a number a channel",
    "x + param@p[64, 14, 14] * linear[64](relu(x))": "by a number a channel",
}


def matched(body: str) -> list[tuple[str, str]]:
    """The ops of each match, and what stands against it."""
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 14, 14]\n  return {body}\n}}\n")
    rules = ProjectResidual(), ScaleResidual()
    found = [(r, p) for n in graph.nodes() for r in rules if (p := r.pattern(graph, n)) is not None]
    return [(" ".join(graph.node(q).op.name for q in p), r.check(graph, p) or r.beyond(graph, p)) for r, p in found]


@pytest.mark.parametrize("body", FOUND)
def test_what_the_kernels_compute(body: str) -> None:
    assert (FOUND[body], "") in matched(body)


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernels_do_not_compute(body: str) -> None:
    (_, reason), *_ = matched(body)
    assert DECLINED[body] in reason


SIZES: dict[str, dict[str, object]] = {
    "ecanet50": {"size": (64, 56, 56, 64), "dim": 256, "act": "relu"},
    "ghostnetv2_100": {"size": (64, 14, 14, 480), "dim": 56, "gate": True, "residual": False},
    "halonet_h1": {"size": (64, 64, 64, 64), "dim": 128, "act": "silu"},
    "efficientformerv2_s0": {"size": (64, 28, 28, 192), "dim": 48, "scale": 48},
    "overlock_xt": {"size": (64, 56, 56, 224), "dim": 56, "gate": True, "branch_act": "gelu", "residual": False},
    "nasnet_a_large": {"size": (64, 42, 42, 168), "dim": 168},
    "sret_t": {"size": (64, 784, 230), "dim": 64, "norm": False, "scale": 64, "drop": True},
    "inception_resnet_v2": {"size": (64, 35, 35, 320), "norm": False, "times": 0.17, "act": "relu"},
    "ecanet50, later": {"size": (64, 28, 28, 512), "act": "relu"},
    "convnext_t": {"size": (64, 14, 14, 384), "norm": False, "scale": 384, "drop": True},
    "convnext_t, first": {"size": (64, 14, 14, 384), "norm": False, "scale": 384, "drop": True, "first": True},
}
"""Branches of specs at 64 images, those that PyTorch's layers would write on the meta device in another order."""
QUICK = ("ecanet50", "overlock_xt", "convnext_t")


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        pytest.param(s, dtype, marks=() if s in QUICK and dtype == torch.bfloat16 else pytest.mark.full)
        for s in SIZES
        for dtype in (torch.bfloat16, torch.float32)
    ],
)
def test_kernels_fit_gpus(spec: str, dtype: torch.dtype) -> None:
    """Shared memory within a GPU's, nothing spilled, matrix units where there are products, wide loads."""
    of = every()
    found = launched(of, dtype, **SIZES[spec])  # type: ignore[arg-type]
    assert len(found) == (2 if spec.startswith("convnext") else 1)
    for launch in found:
        for capability in CAPABILITIES:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers, {compiled.shared} bytes"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads, where
            assert compiled.matrix_units or "scale_" in launch.name or dtype == torch.float32, where


def launched(
    of: ModuleType, dtype: torch.dtype, size: tuple[int, ...], dim: int = 0, norm: bool = True, branch_act: str = "",
    scale: int = 0, times: float = 1.0, drop: bool = False, residual: bool = True, act: str = "", gate: bool = False,
    first: bool = False,
) -> list[Launch]:  # fmt: skip
    """The launches of a branch on the meta device, forward, and backward where its kernels compute that."""

    def drawn(*size: int) -> Tensor:
        made = torch.empty(size, device="meta", dtype=dtype)
        return made.movedim(-1, 1).contiguous().movedim(1, -1) if first and len(size) > 1 else made

    out = dim or size[-1]
    learned = not (norm or act or branch_act)
    factor = nn.Parameter(drawn(scale)) if scale else None
    normed = nn.BatchNorm2d(out).to("meta", dtype).eval() if norm else None
    rest, dropping = (drawn(*size[:-1], out) if residual else None), Kept() if drop else None
    with recorded(of) as found, torch.set_grad_enabled(learned):
        if dim:
            made = nn.Conv2d(size[-1], dim, 1) if len(size) == 4 else nn.Linear(size[-1], dim)
            gates, acts = drawn(size[0], size[-1]) if gate else None, {"branch_act": branch_act, "act": act}
            y = of.fused.linear_residual(
                drawn(*size), made.to("meta", dtype), rest, gates, factor, dropping, normed, times=times, **acts
            )
        else:
            y = of.fused.scale_residual(drawn(*size), rest, factor, dropping, normed, times=times, act=act)
        if learned and factor is not None:
            y.sum().backward()
    return found
