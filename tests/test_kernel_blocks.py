"""Kernels of dense convolutions and what stands behind them: in Triton's interpreter, and compiled for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.conv_norm import ConvNorm
from archdsl.passes.fusions.fused_mbconv import FusedMbconv
from archdsl.passes.pipeline import level, with_kernels
from tests.compiled import CAPABILITIES, SHARED_MEMORY, interpreter, launches, package, poisoned

KERNELS = ("conv_norm_kernel", "fused_mbconv_kernel")
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3}
BLOCKS = with_kernels(level(1), Fuse("fused_mbconv+conv_norm"))
CELL = """
language 1
arch cell[classes = 10] {
  input x: map[3, 17, 22]
  y = x |> conv[16, 3, s = 2, pad = "tf_same"] |> bn |> relu
  z = y + drop_path[t = 1](y |> conv[48, 3] |> bn |> silu |> conv[16] |> bn)
  z = z |> conv[24, 3, s = 2] |> relu |> conv[40] |> relu
  z = z + (z |> dwconv[3] |> gelu |> conv[40])
  head { return z |> gap |> linear@fc[classes] }
}
"""


@pytest.fixture(scope="module")
def interpreting() -> Iterator[Executor]:
    with interpreter() as process:
        yield process


def cell() -> ModuleType:
    return package(compile_spec(CELL, passes=BLOCKS).files)


def randomised(*layers: nn.Module | None) -> None:
    """All weights and statistics by chance; variances are positive."""
    for layer in layers:
        for value in () if layer is None else layer.state_dict().values():
            normal = value.dim() > 1
            value.copy_(
                torch.randn(value.shape) / value[0].numel() ** 0.5 if normal else torch.rand(value.shape) + 0.25
            )


def deviation(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return ((found.double() - wanted).norm() / wanted.norm()).item()


def convolution(
    of: ModuleType, c: int, dim: int, k: object, s: int, p: object, d: int = 1, bias: bool = True, groups: int = 1
) -> nn.Conv2d:
    """p: or None for TensorFlow's SAME."""
    if p is None:
        return of.layers.SameConv2d(c, dim, k, stride=s, bias=bias, groups=groups)
    return nn.Conv2d(c, dim, k, s, p, d, groups, bias=bias)  # type: ignore[arg-type]


@torch.no_grad()
def normed(
    dtype: torch.dtype, size: tuple[int, ...], dim: int, k: object = 3, s: int = 1, p: object = 1, d: int = 1,
    norm: str = "bn", act: str = "", bias: bool = False, first: bool = False, off: int = 0,
) -> float:  # fmt: skip
    """Deviation of a convolution with what is behind it. `off`: the kernel is told a corner so many columns aside."""
    of = cell()
    torch.manual_seed(0)
    layers = [convolution(of, size[-1], dim, k, s, p, d, bias)]
    layers += {"": [], "bn": [nn.BatchNorm2d(dim, 1e-3)], "ln": [nn.LayerNorm(dim, bias=bias)]}[norm]
    randomised(*layers)
    x, frame = torch.randn(size), of.fused.conv_norm_frame

    def run(to: torch.dtype) -> Tensor:
        given = x.to(dtype).to(to)
        given = given.permute(0, 3, 1, 2) if first else given
        return of.fused.conv_norm(given, *(one.eval().to(dtype).to(to) for one in layers), act=act, first=first)

    wanted = run(torch.float64)
    of.fused.conv_norm_frame = lambda *args: ([frame(*args)[0][0], frame(*args)[0][1] + off], frame(*args)[1])
    try:
        with poisoned():
            return deviation(run(dtype), wanted)
    finally:
        of.fused.conv_norm_frame = frame


STEM = {"size": (2, 9, 14, 3), "dim": 24, "s": 2, "act": "gelu", "first": True}
NORMED: dict[str, dict[str, object]] = {
    "stem": STEM,
    "patches": {"size": (1, 13, 10, 3), "dim": 96, "k": 4, "s": 4, "p": 0, "norm": "ln", "bias": True},
    "between": {"size": (2, 6, 9, 20), "dim": 40, "act": "relu", "bias": True},
    "same": {"size": (1, 9, 12, 16), "dim": 32, "k": (3, 5), "s": 2, "p": None, "act": "silu", "first": True},
    "dilated": {"size": (1, 8, 11, 8), "dim": 16, "p": 2, "d": 2, "norm": "", "act": "hswish"},
    "wide": {"size": (1, 5, 7, 48), "dim": 200, "norm": "ln", "act": "gelu_tanh"},
    "parts": {"size": (1, 5, 8, 24), "dim": 320, "k": 1, "p": 0, "act": "gelu", "first": True},
    "an image of channels": {"size": (1, 19, 8, 3), "dim": 20, "k": 7, "s": 2, "p": 3, "act": "relu6"},
}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", NORMED)
def test_convolutions_of_few_channels_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    found = interpreting.submit(normed, dtype, **NORMED[case]).result()
    assert found <= ROUNDING[dtype]


def test_a_kernel_beside_its_place_is_found(interpreting: Executor) -> None:
    """The comparison sees padding on the wrong side."""
    assert interpreting.submit(normed, torch.float32, **STEM, off=1).result() > 1e-2


@torch.no_grad()
def projected(
    dtype: torch.dtype, size: tuple[int, ...], hidden: int, dim: int, act: str, k: object = 3, s: int = 1,
    p: object = 1, depthwise: bool = False, norms: bool = True, bias: bool = False, residual: bool = False,
    scale: bool = False, last_act: str = "", linear: bool = False, first: bool = False,
) -> float:  # fmt: skip
    """Deviation of a convolution and a projection. In float32, which the step leaves out, of the kernel itself."""
    of = cell()
    torch.manual_seed(0)
    conv = convolution(of, size[-1], hidden, k, s, p, bias=bias, groups=size[-1] if depthwise else 1)
    last = nn.Linear(hidden, dim, bias=bias) if linear else nn.Conv2d(hidden, dim, 1, bias=bias)
    layers = conv, last, *((nn.BatchNorm2d(n, 1e-3).eval() if norms else None) for n in (hidden, dim))
    randomised(*layers)
    x, factor = torch.randn(size), torch.randn(dim) if scale else None
    added = torch.randn(size[0], *of.fused.conv_norm_frame(conv, *size[1:3])[1], dim) if residual else None

    def run(to: torch.dtype) -> Tensor:
        given, other, factors = (None if t is None else t.to(dtype).to(to) for t in (x, added, factor))
        conv, last, *norms = (one if one is None else one.to(dtype).to(to) for one in layers)
        if to == torch.float32:
            tensors = [(of.fused.conv_norm_tensors(n), 1e-3) for n in norms]
            frame = of.fused.conv_norm_frame(conv, *size[1:3])
            weights = last.weight.flatten(1), last.bias
            return of.kernels.fused_mbconv(
                given, conv.weight, conv.bias, *tensors[0], *weights, *tensors[1], other, factors, act, last_act,
                [*conv.stride], conv.dilation[0], *frame,
            )  # fmt: skip
        given, other = (t.permute(0, 3, 1, 2) if first and t is not None else t for t in (given, other))
        acts = {"act": act, "last_act": last_act}
        y = of.fused.fused_mbconv(given, conv, last, other, *norms, scale=factors, **acts, first=first)
        return y.permute(0, 2, 3, 1) if first else y

    wanted = run(torch.float64)
    with poisoned():
        return deviation(run(dtype), wanted)


PROJECTED: dict[str, dict[str, object]] = {
    "expanded": {"size": (2, 7, 10, 20), "hidden": 80, "dim": 40, "act": "hswish", "s": 2},
    "bottleneck": {
        "size": (1, 5, 9, 16), "hidden": 16, "dim": 96, "act": "relu", "residual": True, "last_act": "relu",
        "first": True,
    },
    "scaled": {
        "size": (2, 6, 5, 24), "hidden": 72, "dim": 24, "act": "gelu", "residual": True, "scale": True, "norms": False,
        "bias": True, "linear": True,
    },
    "depthwise": {
        "size": (2, 6, 9, 80), "hidden": 80, "dim": 24, "act": "gelu", "depthwise": True, "residual": True,
        "bias": True,
    },
    "separable": {
        "size": (1, 9, 7, 40), "hidden": 40, "dim": 96, "act": "", "depthwise": True, "s": 2, "k": 5, "p": None,
    },
    "same": {"size": (1, 9, 8, 8), "hidden": 144, "dim": 200, "act": "silu", "k": 5, "s": 2, "p": None},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("case", PROJECTED)
def test_convolutions_and_projections_are_pytorchs(interpreting: Executor, case: str, dtype: torch.dtype) -> None:
    found = interpreting.submit(projected, dtype, **PROJECTED[case]).result()
    assert found <= ROUNDING[dtype]


def kernels_run(train: bool, grad: bool) -> list[str]:
    """Which of the kernels the cell ran."""
    of, ran = cell(), []
    launch = of.kernels.launch
    of.kernels.launch = lambda kernel, *args, **meta: (ran.append(kernel.fn.__name__), launch(kernel, *args, **meta))
    with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.float16):
        of.cell().train(train)(torch.randn(1, 3, 17, 22))
    of.kernels.launch = launch
    return [name for name in ran if name in KERNELS]


def test_gradients_and_norms_by_the_batch_are_left_to_pytorch(interpreting: Executor) -> None:
    every = ["conv_norm_kernel", *["fused_mbconv_kernel"] * 3]
    for train, grad, ran in ((False, False, every), (False, True, []), (True, False, every[2:]), (True, True, [])):
        assert interpreting.submit(kernels_run, train, grad).result() == ran, (train, grad)


@torch.no_grad()
def cells(autocast: bool) -> float:
    """How far the cell's result with kernels is from that without, relatively."""
    plain, ours = compile_spec(CELL).module().eval(), cell().cell().eval()
    torch.manual_seed(0)
    randomised(ours)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 3, 17, 22)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        wanted, found = plain(x), ours(x)
    assert wanted.dtype == found.dtype
    return deviation(found, wanted.double())


@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_computes_the_same_with_kernels(interpreting: Executor, autocast: bool) -> None:
    assert interpreting.submit(cells, autocast).result() <= (2e-3 if autocast else 2e-6)


WHOLE: dict[str, tuple[str, dict[str, object], tuple[int, int]]] = {
    "cell": (CELL, {}, (1, 3)),
    "pvt_v2_b1": ("pvt_v2_b1", {"depths": [1, 1, 0, 0]}, (2, 2)),
    "lowformer_b0": (
        "lowformer_b0", {"dims": [16, 24, 32, 64, 96], "depths": [1, 1, 1, 1], "hidden": [48, 64]}, (2, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_every_convolution_is_one_step_and_computes_the_same(name: str) -> None:
    """Of a whole model in float64, where PyTorch runs: values and gradients."""
    spec, overrides, counts = WHOLE[name]
    size = "" if name == "cell" else "3x64x96"
    how = {"overrides": overrides} | ({"input": size} if size else {})
    plain, ours = (compile_spec(spec, passes=p, **how) for p in (level(0), BLOCKS))  # type: ignore[arg-type]
    names = [n.op.name for n in ours.graph.nodes()]
    assert tuple(map(names.count, ("conv_norm", "fused_mbconv"))) == counts
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


DECLINED = {
    "return conv[64, 3](x)": "a convolution alone",
    "return x |> conv[64, 2, s = 2] |> ln": "patches and their norm are",
    "return x |> conv[64, 3] |> rms |> relu": "its kernel computes no `rms`",
    "return x |> conv[64, 3] |> ln |> tanh": "its kernel computes no `tanh`",
    "return x |> conv[257, 3] |> ln": "257 channels are too many for a row",
    "return x |> conv[65] |> conv[32, 3] |> relu": "sums are of 585 numbers (576)",
    "return x |> conv[32, 31] |> relu": "a kernel of 31 is wider than 30",
    "return x |> windows[7] |> conv[32, 3] |> relu |> merge": "it is in windows",
    "y = conv[64, 3](x)\n return relu(y) + y": "a convolution alone",
    "return x |> conv[64, 3] |> tanh |> conv[32] |> relu": "its kernel does not compute `tanh`",
    "return x |> conv[64, 3] |> relu |> conv[32] |> tanh": "its kernel does not compute `tanh`",
    "y = x |> conv[64, 3] |> relu |> conv[64]\n return y + y": "it is not added to another value",
    "return x + (x |> conv[64, 3] |> relu |> conv[64]) * 0.5": "its kernel scales by a number a channel",
    "return x + param@p[64] * (param@q[64] * (x |> conv[64, 3] |> relu |> conv[64]))": "its kernel scales once",
    "x = conv[129](x)\n return x |> conv[64, 3] |> relu |> conv[32]": "sums are of 1161 numbers (1152)",
    "return x |> conv[6] |> conv[64, 3] |> relu |> conv[32]": "6 channels are too few for a load",
}


@pytest.mark.parametrize("body", DECLINED)
def test_what_the_kernels_do_not_compute_stays(body: str) -> None:
    graph = elaborate(f"language 1\narch cell[] {{\n  input x: map[64, 42, 42]\n  {body}\n}}\n")
    rules = ConvNorm(), FusedMbconv()
    found = [(r, p) for n in graph.nodes() for r in rules if (p := r.pattern(graph, n)) is not None]
    assert any(DECLINED[body] in (r.check(graph, p) or r.beyond(graph, p)) for r, p in found)


GPUS = [pytest.param(CELL, (90,), id="cell")]
GPUS += [
    pytest.param(spec, CAPABILITIES, id=spec, marks=pytest.mark.full)
    for spec in (
        "maxvit_t",
        "pvt_v2_b1",
        "efficientformerv2_s0",
        "lowformer_b0",
        "lowformer_e1",
        "ecanet50",
        "halonet26t",
    )
]


@pytest.mark.parametrize(("spec", "capabilities"), GPUS)
def test_kernels_fit_gpus(spec: str, capabilities: tuple[int, ...]) -> None:
    """At a spec's sizes and 64 images: shared memory within a GPU's, nothing spilled, matrix units, wide loads."""
    artefact = compile_spec(spec, passes=BLOCKS)
    made = package(artefact.files)
    module = getattr(made, artefact.name)()
    every = launches(made, module, (64, *artefact.input), torch.bfloat16, train=False)
    found = [launch for launch in every if launch.name in KERNELS]
    assert found
    for launch in found:
        for capability in capabilities:
            compiled = launch.compile(capability)
            where = f"{launch.name} on sm_{capability}: {compiled.registers} registers"
            assert compiled.shared <= SHARED_MEMORY[capability], where
            assert compiled.spilled == 0, f"{where}, {compiled.spilled} bytes spilled"
            assert compiled.wide_loads or dict(launch.constants)["C"] % 8, where
            assert compiled.matrix_units, where
