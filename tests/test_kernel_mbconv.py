"""The kernel of inverted bottlenecks without an activation in between: interpreted, and compiled for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.device.plan import together
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.mbconv import Mbconv
from archdsl.passes.pipeline import level, with_kernels
from tests.compiled import CAPABILITIES, SHARED_MEMORY, interpreter, launches, package, poisoned

BOTTLENECKS = with_kernels(level(1), Fuse("mbconv"))
CELL = """
language 1
arch cell[classes = 10] {
  input x: map[3, 17, 22]
  x = x |> conv[24, 3, s = 2] |> relu
  x = x + drop_path[t = 1](x |> linear[96] |> dwconv[3] |> gelu |> linear[24])
  x = x + param@scale[24] * (x |> conv[40, bias = false] |> bn |> dwconv[5] |> bn |> relu |> conv[24] |> bn)
  x = x |> linear[48] |> dwconv[3, s = 2, pad = "tf_same"] |> silu |> conv[40]
  head { return x |> gap |> linear@fc[classes] }
}
"""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def cell() -> ModuleType:
    return package(compile_spec(CELL, passes=BOTTLENECKS).files)


def randomised(*layers: nn.Module | None) -> None:
    """All weights, biases and statistics by chance; variances are positive."""
    for layer in layers:
        for name, value in () if layer is None else layer.state_dict().items():
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape) / value[0].numel() ** 0.5)
            elif value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.25 if "var" in name else torch.randn(value.shape))


def deviation(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@torch.no_grad()
def bottleneck(
    dtype: torch.dtype, size: tuple[int, ...], hidden: int, dim: int, act: str, k: object = 3, s: int = 1,
    same: bool = False, d: int = 1, norms: bool = False, bias: bool = True, residual: bool = False, scale: bool = False,
    linear: bool = False, first: bool = False, off: int = 0,
) -> float:  # fmt: skip
    """Deviation of one block. In float32, which the step leaves out, of the kernel itself.

    `off`: the kernel is told that padding is so many columns wider.
    """
    of = cell()
    torch.manual_seed(0)
    expand = nn.Linear(size[-1], hidden, bias) if linear else nn.Conv2d(size[-1], hidden, 1, bias=bias)
    sides = (k, k) if isinstance(k, int) else k
    around = {} if same else {"padding": [d * (side // 2) for side in sides], "dilation": d}
    made = of.layers.SameConv2d if same else nn.Conv2d
    conv = made(hidden, hidden, k, stride=s, bias=bias, groups=hidden, **around)
    last = nn.Linear(hidden, dim, bias) if linear else nn.Conv2d(hidden, dim, 1, bias=bias)
    layers = expand, conv, last, *((nn.BatchNorm2d(n, 1e-3).eval() if norms else None) for n in (hidden, hidden, dim))
    randomised(*layers)
    frame = of.fused.conv_norm_frame
    x, factor = torch.randn(size), torch.randn(dim) if scale else None
    added = torch.randn(size[0], *frame(conv, *size[1:3])[1], dim) if residual else None

    def run(to: torch.dtype) -> Tensor:
        given, other, factors = (None if t is None else t.to(dtype).to(to) for t in (x, added, factor))
        expand, conv, last, *norms = (one if one is None else one.to(dtype).to(to) for one in layers)
        if to == torch.float32:
            weights = [t for one in (expand, conv, last) for t in (one.weight.flatten(1), one.bias)]
            tensors = [(*of.fused.conv_norm_tensors(n), 1e-3) for n in norms]
            numbers = [*conv.kernel_size], [*conv.stride], conv.dilation[0], *of.fused.conv_norm_frame(conv, *size[1:3])
            return of.kernels.mbconv(given, weights, tensors, other, factors, act, *numbers)
        given, other = (t.permute(0, 3, 1, 2) if first and t is not None else t for t in (given, other))
        y = of.fused.mbconv(given, expand, conv, last, other, *norms, scale=factors, act=act, first=first)
        return y.permute(0, 2, 3, 1) if first else y

    wanted = run(torch.float64)
    of.fused.conv_norm_frame = lambda *args: ([frame(*args)[0][0], frame(*args)[0][1] + off], frame(*args)[1])
    try:
        with poisoned():
            return deviation(run(dtype), wanted)
    finally:
        of.fused.conv_norm_frame = frame


ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3}
MIX: dict[str, object] = {
    "size": (2, 7, 10, 24), "hidden": 96, "dim": 24, "act": "gelu", "residual": True, "linear": True
}  # fmt: skip
BLOCKS: dict[str, dict[str, object]] = {
    "mix": MIX,
    "normed": {
        "size": (1, 5, 9, 20), "hidden": 80, "dim": 96, "act": "silu", "k": 5, "norms": True, "bias": False,
        "first": True, "scale": True,
    },
    "strided": {"size": (1, 9, 12, 16), "hidden": 48, "dim": 200, "act": "", "s": 2, "same": True, "norms": True},
    "plain": {"size": (3, 4, 5, 8), "hidden": 40, "dim": 40, "act": "relu", "bias": False, "first": True},
    "dilated": {"size": (1, 6, 7, 12), "hidden": 36, "dim": 12, "act": "hswish", "k": (5, 3), "d": 2},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", BLOCKS)
def test_bottlenecks_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    assert interpreting.submit(bottleneck, dtype, **BLOCKS[case]).result() <= ROUNDING[dtype]


def test_what_lies_beyond_the_border_is_found(interpreting: Executor) -> None:
    """The comparison sees padding on the wrong side."""
    assert interpreting.submit(bottleneck, torch.float16, **MIX, off=1).result() > 1e-2


def steps_run(train: bool, grad: bool) -> int:
    """How many blocks of the cell the kernel computes."""
    of, ran = cell(), []
    launch = of.kernels.launch
    of.kernels.launch = lambda kernel, *args, **meta: (ran.append(kernel.fn.__name__), launch(kernel, *args, **meta))
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.float16):
        of.cell().train(train)(torch.randn(1, 3, 17, 22))
    of.kernels.launch = launch
    return ran.count("mbconv_kernel")


def test_gradients_and_norms_by_the_batch_are_left_to_pytorch(interpreting: Executor) -> None:
    for train, grad, count in ((False, False, 3), (False, True, 0), (True, False, 2)):
        assert interpreting.submit(steps_run, train, grad).result() == count, (train, grad)


@torch.no_grad()
def cells(autocast: bool) -> float:
    """How far the cell's result with kernels is from that without, relatively."""
    plain, ours = compile_spec(CELL).module().eval(), cell().cell().eval()
    torch.manual_seed(0)
    randomised(plain)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(3, 3, 17, 22)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        wanted, found = plain(x), ours(x)
    assert wanted.dtype == found.dtype
    return deviation(found, wanted.double())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, autocast: bool) -> None:
    assert interpreting.submit(cells, autocast).result() <= (2e-3 if autocast else 2e-6)


WHOLE: dict[str, tuple[str, dict[str, object], int]] = {
    "cell": (CELL, {}, 3),
    "pvt_v2_b1": ("pvt_v2_b1", {"depths": [1, 1, 0, 0]}, 2),
}


@pytest.mark.parametrize("name", WHOLE)
def test_every_bottleneck_is_one_step_and_computes_the_same(name: str) -> None:
    """Of a whole model in float64, where PyTorch runs: values and gradients."""
    spec, overrides, count = WHOLE[name]
    how = {"overrides": overrides} | ({} if name == "cell" else {"input": "3x64x96"})
    plain, ours = (compile_spec(spec, passes=p, **how) for p in (level(0), BOTTLENECKS))  # type: ignore[arg-type]
    assert [n.op.name for n in ours.graph.nodes()].count("mbconv") == count
    models = [artefact.module().double().eval() for artefact in (plain, ours)]
    torch.manual_seed(0)
    randomised(models[0])
    models[1].load_state_dict(models[0].state_dict())
    x, found = torch.randn(2, *ours.input, dtype=torch.double), []
    for model in models:
        y = model(x)
        y = y if isinstance(y, Tensor) else y[-1]
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-10 * a.norm()


BLOCK = "linear[128] |> dwconv[3] |> gelu |> linear[64]"
DECLINED = {
    "return x |> conv[128] |> relu |> dwconv[3] |> conv[64]": "is no one convolution with it",
    "return x |> linear[128] |> dwconv[3] |> gelu": "from an expansion to a projection",
    "return x |> bn |> linear[128] |> dwconv[3] |> gelu |> linear[64]": "does not compute `linear` at this place",
    "y = x |> linear[128] |> dwconv[3] |> gelu\n z = gap(y)\n return y * sigmoid(z)": "does not compute `gap`",
    "return x |> linear[128] |> dwconv[3] |> tanh |> linear[64]": "does not compute `tanh`",
    "return x |> linear[128] |> dwconv[31] |> gelu |> linear[64]": "a kernel of 31 is wider than 30",
    "return x |> linear[128] |> dwconv[5] |> gelu |> linear[64]": "sums are of 1600 numbers (1152)",
    f"return x |> conv[6] |> {BLOCK}": "6 channels are too few",
    f"y = x |> {BLOCK}\n return y + y": "it is not added to another value",
    f"return x + (x |> {BLOCK}) * 0.5": "its kernel scales by a number a channel",
    f"return x + param@p[64] * (param@q[64] * (x |> {BLOCK}))": "does not compute `mul` at this place",
    f"return x |> windows[7] |> {BLOCK} |> merge": "it is in windows",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernel_does_not_compute_stays(body: str) -> None:
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 42, 42]\n  {body}\n}}\n")
    rule = Mbconv()
    found = [p for n in graph.nodes() if (p := rule.pattern(graph, n)) is not None]
    assert any(DECLINED[body] in (rule.check(graph, p) or rule.beyond(graph, p)) for p in found)


def test_what_it_does_is_one_convolution_and_the_projection() -> None:
    """Depthwise taps are products, too, and a position's 9 taps are 16 to a matrix unit."""
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 42, 42]\n  return x + (x |> {BLOCK})\n}}\n")
    rule = Mbconv()
    (paths,) = (p for n in graph.nodes() if (p := rule.pattern(graph, n)) is not None)
    work = together(graph, paths) + rule.again(graph, paths)
    assert work.matrix == 42 * 42 * 128 * (9 * 64 + 16 + 64)
    assert work.general == 0
    assert work.elements == 42 * 42 * (64 + 64)


GPUS = [
    pytest.param(CELL, (90,), id="cell"),
    pytest.param("pvt_v2_b1", CAPABILITIES, id="pvt_v2_b1", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("spec", "capabilities"), GPUS)
def test_the_kernel_fits_gpus(spec: str, capabilities: tuple[int, ...]) -> None:
    """At a spec's sizes and 64 images: shared memory within a GPU's, nothing spilled, matrix units, wide loads."""
    artefact = compile_spec(spec, passes=BOTTLENECKS)
    made = package(artefact.files)
    module = getattr(made, artefact.name)()
    every = launches(made, module, (64, *artefact.input), torch.bfloat16, train=False)
    found = [launch for launch in every if launch.name == "mbconv_kernel"]
    assert found
    for launch in found:
        for capability in capabilities:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads and compiled.matrix_units, where
