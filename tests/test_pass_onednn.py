"""Turns the onednn pass into checks: which layers it changes, who computes them, and that they compute the same."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from archdsl.api import compile_spec, elaborate
from archdsl.ir.verify import verify
from archdsl.passes.onednn import Onednn
from tests.oracle.compare import EXACT, check_exact, check_rounding, images, randomise, rounding, run
from tests.oracle.kinks import Sides
from tests.oracle.twin import Twin
from tests.oracle.twins import ARCHITECTURES, TWINS

LAYERS = """language 1
arch layers[classes = 10] {
  input img: map[3, 128, 128]
  stem { x = img |> conv@one[8] |> conv@patch[8, k = 2, s = 2] |> conv@apart[8, g = 2] |> conv@each[8, g = 8] }
  stage i in 1 -> x {
    share f = linear[8]
    x = f(x) + f(relu(x))
    x = x |> linear@map[12] |> tokens |> linear@row[8] |> to_map[64, 64]
    x = x * sigmoid(linear@vec[8](gap(x))) + conv@same[8, pad = "tf_same"](x)
    x = x + resize(x |> avg_pool[4] |> linear@few[8], x)
  }
  head { return x |> linear@late[8] |> gap |> linear[classes] }
}
"""


def modules(spec: str, **options: object) -> tuple[nn.Module, nn.Module]:
    """The module as the spec has it, and with the pass, with the same random weights."""
    plain, other = (
        compile_spec(spec, passes=passes, **options).module().eval()  # type: ignore[arg-type]
        for passes in ((), (Onednn(),))
    )
    randomise(plain)
    other.load_state_dict(plain.state_dict())
    assert list(plain.state_dict()) == list(other.state_dict())
    return plain, other


def launched(model: nn.Module, x: torch.Tensor) -> Counter[str]:
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as found:
        model(x)
    return Counter(event.name for event in found.events())


def test_layers_of_positions_change() -> None:
    """What has neighbours, two uses or few positions stays, and so does the head."""
    graph = elaborate(LAYERS)
    after = Onednn()(graph)
    assert not verify(after) and Onednn()(after) is after
    changed = {n.module: after.node(n.path).op.name for n in graph.nodes() if after.node(n.path).op != n.op}
    assert changed == {
        "stem.one": "onednn_conv",
        "stem.apart": "onednn_conv",
        "stem.each": "onednn_conv",
        "stages.0.map": "onednn_linear",
        "stages.0.row": "onednn_linear",
        "stages.0.same": "onednn_conv",
    }


def test_one_thread_computes_them_by_onednn() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    plain, other = modules(LAYERS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        before, after = (launched(m, images(1, (128, 128))) for m in (plain, other))
    finally:
        torch.set_num_threads(threads)
    assert after["aten::mkldnn_convolution"] >= before["aten::mkldnn_convolution"] + 6
    assert after["aten::addmm"] == before["aten::addmm"] - 2, "of two linear layers"


@torch.no_grad()
def check_same(plain: nn.Module, other: nn.Module, size: tuple[int, int]) -> None:
    """Logits in fp64, and their float32 error, which is no larger than without the pass."""
    x = images(2, size)
    exact = copy.deepcopy(plain).double()(x.double())
    wanted = float(exact.norm())
    assert float((copy.deepcopy(other).double()(x.double()) - exact).norm()) <= EXACT * wanted
    ours, theirs = (float((m(x) - exact).norm()) / wanted for m in (other, plain))
    assert ours <= 4 * theirs + 1e-6


def test_they_compute_the_same() -> None:
    """With gradients, whose exactness is the plain layers'."""
    plain, other = modules(LAYERS)
    check_same(plain, other, (128, 128))
    x = images(2, (128, 128))
    exact = [run(m, x, torch.float64, kinks=Sides()) for m in (other, plain)]
    check_exact(*exact)
    check_rounding(*(rounding(m, x, e) for m, e in zip((other, plain), exact, strict=True)))


@pytest.mark.parametrize(
    "twin", [pytest.param(t, id=t.spec, marks=() if t.spec == "pvt_v2_b0" else pytest.mark.full) for t in ARCHITECTURES]
)
def test_architectures_compute_the_same(twin: Twin) -> None:
    parameters = {**twin.tiny, **twin.settled, **({"dpr": 0.0} if twin.drops else {})}
    torch.manual_seed(3)
    check_same(*modules(twin.spec, input=(3, *twin.size), overrides=parameters), twin.size)


def test_a_module_exports_and_trains() -> None:
    """With a dynamic batch, and at a batch that the layers see for the first time."""
    _, other = modules("convnext_t", input=(3, 128, 128), overrides=dict(TWINS["convnext_t"].tiny))
    assert any(type(module).__name__ == "PointLinear" for module in other.modules())
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(other, (images(2, (128, 128)),), dynamic_shapes=({0: batch},)).module()
    x = images(5, (128, 128))
    with torch.no_grad():
        torch.testing.assert_close(exported(x), other(x), rtol=1e-4, atol=1e-4)
    other.train()(x).sum().backward()
    assert all(p.grad is not None for p in other.parameters())
