"""The kernel of a block that starts with its depthwise convolution: in Triton's interpreter, and compiled for GPUs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.passes.fuse import Fuse
from archdsl.passes.fusions.conv_first import ConvFirst
from archdsl.passes.pipeline import level, with_kernels
from tests.compiled import CAPABILITIES, SHARED_MEMORY, Launch, interpreter, launches, package, poisoned
from tests.oracle.twins import TWINS
from tests.test_passes import compare_passes

FULL = pytest.mark.full
ROUNDING = 2e-3
RULES = with_kernels(level(1), Fuse("conv_first"))
ACTS = {"gelu": F.gelu, "hswish": F.hardswish, "relu": F.relu, "silu": F.silu, "": lambda x: x}
FORMS = """language 1
def bnd[d](x: map) = x |> conv@conv[d, bias = false] |> bn
arch forms[classes = 10] {
  input img: map[3, 9, 12]
  stem { x = img |> conv[24, 3] |> bn |> relu6 }
  stage i in 1 -> x {
    blocks j in 2 {
      x += drop_path(x |> dwconv@w1[7] |> ln |> linear@a1[96] |> gelu |> linear@b1[24] |> layer_scale@s1)
      x += x |> dwconv@w2[5, bias = false] |> bn@n2 |> relu |> bnd@a2[40] |> hswish |> bnd@b2[24]
      x = (x |> dwconv@w3[3, d = 2] |> conv@a3[32] |> silu |> conv@b3[40]) |> conv@up[24]
      x = x |> dwconv@w4[[3, 5], pad = "tf_same"] |> bn@n4 |> conv@a4[32, bias = false] |> relu |> conv@b4[24]
      y = x |> dwconv@w5[3, bias = false] |> ln[bias = false] |> silu
      x += x |> dwconv@w6[3] |> linear@a6[32] |> gelu |> linear@b6[24]
      x += y |> linear@a5[32] |> gelu |> linear@b5[24]
    }
  }
  head { return x |> gap |> linear[classes] }
}
"""
"""Blocks of every form that the kernel computes: two steps of norm, activation, scale and residual, or none."""
REFUSED: dict[str, tuple[str, str]] = {
    "its own result": (
        "y = x |> dwconv[3]\n return y + (y |> linear[64] |> gelu |> linear[32])",
        "a result of its own convolution",
    ),
    "an activation": (
        "return x |> dwconv[3] |> bn |> sigmoid |> linear[64] |> gelu |> linear[32]",
        "does not compute `sigmoid` at this place",
    ),
    "a norm": ("return x |> dwconv[3] |> rms |> linear[64] |> gelu |> linear[32]", "does not compute `rms`"),
    "few channels": (
        "return x |> dwconv[3] |> linear[64] |> gelu |> linear[8]",
        "8 channels are too few for a matrix unit (16)",
    ),
    "windows": (
        "w = x |> windows[7]\n return w |> dwconv[3] |> linear[64] |> gelu |> linear[32] |> merge",
        "it is in windows",
    ),
}


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
    made = nn.LayerNorm(dim) if kind == "ln" else nn.BatchNorm2d(dim)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(dim) + 0.5 if name == "running_var" else torch.randn(dim))
    return made.eval()


def along(layer: nn.Module | None, x: Tensor) -> Tensor:
    """Channels first through a layer, by PyTorch's modules."""
    if layer is None:
        return x
    return layer(x) if isinstance(layer, nn.BatchNorm2d | nn.Conv2d) else layer(x.movedim(1, -1)).movedim(-1, 1)


def block(
    size: tuple[int, ...], hidden: int, act: str, kernel: tuple[int, int] = (7, 7), dilation: int = 1, dim: int = 0,
    conv_act: str = "", norm: str = "", between: str = "", behind: str = "", scales: int = 0, bias: bool = True,
    residual: bool = True, conv: bool = False, strided: bool = False, narrow: bool = False,
    mixed: bool = False,
) -> list[float]:  # fmt: skip
    """Deviations of the kernel's result in float16, and of PyTorch's in float64, from the modules one by one.

    `narrow`: the kernel takes each row of a map to be shorter than it is. `mixed`: float32 under autocast.
    """
    of = forms()
    torch.manual_seed(0)
    c, m = size[-1], dim or size[-1]
    padding = [dilation * (k - 1) // 2 for k in kernel]
    depthwise = nn.Conv2d(c, c, kernel, padding=padding, dilation=dilation, groups=c, bias=bias)
    pair = [nn.Conv2d(*n, 1, bias=bias) if conv else nn.Linear(*n, bias=bias) for n in ((c, hidden), (hidden, m))]
    layers = [depthwise, *pair, *(of_kind(kind, n) for kind, n in ((norm, c), (between, hidden), (behind, m)))]
    wide = torch.randn(*size[:-1], c + 8 * strided)
    given = [wide, torch.randn(*size[:-1], m) if residual else None, torch.randn(scales) if scales else None]
    given = [None if one is None else one.half() for one in given]

    def step(dtype: torch.dtype) -> Tensor:
        depth, first, last, *norms = (one if one is None else one.to(dtype) for one in layers)
        x, added, scale = (one if one is None else one.to(dtype) for one in given)
        return of.fused.conv_first(x[..., :c], depth, first, last, added, *norms, scale, act=act, conv_act=conv_act)

    with torch.no_grad():
        places = of.kernels.tap_places
        if narrow:
            of.kernels.tap_places = lambda *args: places(*args[:7], args[7] - 1, *args[8:])
        kernel, ran = of.kernels.conv_first, []
        of.kernels.conv_first = lambda *args: ran.append(args) or kernel(*args)
        with poisoned(), torch.autocast("cpu", torch.float16, enabled=mixed):
            found = step(torch.float32 if mixed else torch.float16)
        of.kernels.tap_places, of.kernels.conv_first = places, kernel
        assert len(ran) == 1 and found.dtype == (torch.float32 if mixed else torch.float16)
        reference = step(torch.float64)
        depth, first, last, *norms = layers
        x = given[0].double()[..., :c].movedim(-1, 1)
        y = ACTS[conv_act](along(norms[0], depth(x)))
        y = along(norms[2], along(last, ACTS[act](along(norms[1], along(first, y))))).movedim(1, -1)
        y = y if given[2] is None else y * given[2].double()
        wanted = y if given[1] is None else y + given[1].double()
    return [((y.double() - wanted).norm() / wanted.norm()).item() for y in (found, reference)]


BLOCKS: dict[str, dict[str, Any]] = {
    "convnext": {"size": (2, 9, 5, 96), "hidden": 72, "act": "gelu", "norm": "ln", "scales": 96},
    "narrow": {"size": (1, 7, 10, 24), "hidden": 40, "act": "hswish", "norm": "ln", "kernel": (5, 5), "bias": False},
    "batch norms": {
        "size": (3, 3, 7, 40), "hidden": 33, "act": "silu", "kernel": (3, 3), "conv_act": "relu", "norm": "bn",
        "between": "bn", "behind": "bn", "conv": True, "bias": False,
    },
    "mixed": {
        "size": (1, 32, 33, 24), "hidden": 32, "act": "gelu", "kernel": (3, 3), "norm": "ln", "scales": 24,
        "mixed": True,
    },
    "bare": {
        "size": (1, 5, 8, 32), "hidden": 24, "act": "relu", "kernel": (3, 5), "dilation": 2, "dim": 72,
        "residual": False, "strided": True, "scales": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_a_block_is_pytorchs(interpreting: Executor, case: str) -> None:
    """In float16 by the kernel, in float64 by PyTorch; where the kernel does not write, there is NaN."""
    found, reference = interpreting.submit(block, **BLOCKS[case]).result()
    assert found <= ROUNDING and reference <= 1e-12


def test_a_wrong_border_is_seen(interpreting: Executor) -> None:
    """The comparison finds a kernel that takes the last column to be beyond the map."""
    assert interpreting.submit(block, **BLOCKS["narrow"], narrow=True).result()[0] > 1e-2


def randomised(models: list[nn.Module]) -> None:
    """The same random numbers in models of one state dict."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in models[0].state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else torch.randn_like(value) * 0.3)
    for other in models[1:]:
        other.load_state_dict(models[0].state_dict())


def test_every_form_is_one_step_and_computes_the_same() -> None:
    """In float64, where PyTorch runs: values and gradients."""
    plain, ours = (compile_spec(FORMS, passes=p) for p in (level(0), RULES))
    assert [n.op.name for n in ours.graph.nodes()].count("conv_first") == 12
    models = [type(artefact.module())(drop_path_rate=0.5).double().eval() for artefact in (plain, ours)]
    randomised(models)
    x, found = torch.randn(2, *ours.input, dtype=torch.double), []
    for model in models:
        y = model(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        assert (a - b).norm() <= 1e-10 * a.norm()


@FULL
def test_a_network_computes_what_its_graph_does() -> None:
    """The whole of it, in float64: values and every gradient."""
    compare_passes(TWINS["convnext_t"], RULES)


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_kernel_does_not_compute(case: str) -> None:
    body, why = REFUSED[case]
    spec = f"language 1\ndef f(x: map) {{\n {body}\n}}\narch a {{\n input img: map[32, 14, 14]\n return f(img)\n}}\n"
    graph, rule = elaborate(spec), ConvFirst()
    matches = [paths for node in graph.nodes() if (paths := rule.pattern(graph, node)) is not None]
    assert matches
    assert all(why in (rule.check(graph, paths) or rule.beyond(graph, paths)) for paths in matches)


def fit(found: Sequence[Launch]) -> None:
    """Registers hold what a thread computes with, shared memory the tiles, and matrix units do the products."""
    for launch in found:
        for capability in CAPABILITIES:
            made = launch.compile(capability)
            assert made.spilled == 0 and made.shared <= SHARED_MEMORY[capability], (launch, capability)
            assert made.matrix_units and made.wide_loads, (launch, capability)


@FULL
@pytest.mark.parametrize("spec", ["convnext_t"])
def test_the_kernel_fits_gpus(spec: str) -> None:
    """At a spec's sizes and 64 images."""
    artefact = compile_spec(spec, passes=RULES)
    made = package(artefact.files)
    every = launches(made, getattr(made, artefact.name)(), (64, *artefact.input), torch.bfloat16, train=False)
    found = [launch for launch in every if launch.name == "conv_first_kernel"]
    assert [dict(one.constants)["K"] for one in found] == [96, 192]
    fit(found)
