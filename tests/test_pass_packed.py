"""Turns the packed pass into checks: which layers it changes, who computes them, and that they compute the same."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from archdsl.api import compile_spec, elaborate
from archdsl.ir.verify import verify
from archdsl.passes.packed import Packed
from archdsl.passes.pipeline import LEVELS
from archdsl.weights.load import deploy_weights
from archdsl.weights.stores import Stored
from tests.oracle.compare import EXACT, images, randomise
from tests.oracle.twin import Twin
from tests.oracle.twins import ARCHITECTURES, TWINS

LAYERS = """language 1
arch layers[classes = 10] {
  input img: map[3, 32, 32]
  stem { x = img |> conv@patch[8, k = 3, s = 2] |> relu |> conv@each[8, k = 5, g = 8] |> relu6 |> conv@last[8] }
  stage i in 1 -> x {
    share f = linear[8]
    x = hswish(x)
    x = f(x) + f(relu(x))
    x = x |> conv@one[8, g = 2] |> silu
    both = x |> conv@wide[8, k = 3, d = 2]
    x = both + relu(both)
    x = x |> linear@map[12] |> gelu |> tokens |> linear@row[8, bias = false] |> gelu |> to_map[16, 16]
    x = x * sigmoid(linear@vec[8](gap(x))) + relu(conv@same[8, k = 3, s = 2, pad = "tf_same"](x) |> resize(x))
  }
  head { return x |> conv@late[8] |> gap |> linear[classes] }
}
"""
PACKED = ["stem.patch", "stem.each", "stem.last", "stages.0.one", "stages.0.wide", "stages.0.map", "stages.0.row"]
ONEDNN = torch.backends.mkldnn.is_available()
CALL = "mkldnn::_convolution_pointwise"


def modules(spec: str, **options: object) -> tuple[nn.Module, nn.Module]:
    """The deploy module of -O2 without the pass, and with it, with the same random weights."""
    plain, other = (
        compile_spec(spec, mode="deploy", passes=passes, **options).module().eval()  # type: ignore[arg-type]
        for passes in ([p for p in LEVELS[2] if not isinstance(p, Packed)], LEVELS[2])
    )
    randomise(plain)
    other.load_state_dict(plain.state_dict())
    assert list(plain.state_dict()) == list(other.state_dict())
    return plain, other


def launched(run: Callable[[], object]) -> Counter[str]:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        run()
    return Counter(event.name for event in found.events())


@torch.no_grad()
def check_same(plain: nn.Module, other: nn.Module, size: tuple[int, int]) -> None:
    """Logits in float64, and their float32 error, which is no larger than without the pass, at sizes seen before too.

    Orders of tokens that a model draws are the same ones.
    """

    def logits(model: nn.Module, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return model(x)  # type: ignore[no-any-return]

    for batch in (2, 1):
        x = images(batch, size)
        exact = logits(copy.deepcopy(plain).double(), x.double())
        wanted = float(exact.norm())
        assert float((logits(copy.deepcopy(other).double(), x.double()) - exact).norm()) <= EXACT * wanted
        ours, theirs = (float((logits(m, x) - exact).norm()) / wanted for m in (other, plain))
        assert ours <= 4 * theirs + 1e-6


def test_layers_and_activations_that_become_one() -> None:
    """What shares weights, pads unevenly, maps vectors or classifies stays, and so does what is read twice."""
    graph = elaborate(LAYERS, mode="deploy")
    after = Packed()(graph)
    assert not verify(after) and Packed()(after) is after
    acts = {n.module: n.op.attributes()["act"] for n in after.weight_nodes() if n.op.name.startswith("packed")}
    assert acts == dict(zip(PACKED, ("relu", "relu6", "", "silu", "", "gelu", "gelu"), strict=True))
    left = Counter(n.op.name for n in after.nodes())
    assert (left["hswish"], left["relu"], left["gelu"]) == (1, 3, 0), "a stage's activation is not the stem's"
    for mode in ("eval", "train"):
        assert Packed()(other := elaborate(LAYERS, mode=mode)) is other


@pytest.mark.skipif(not ONEDNN, reason="torch was built without oneDNN")
@pytest.mark.parametrize("still", [torch.no_grad, torch.inference_mode])
def test_a_layer_and_its_activation_are_one_call(still: Callable[[], torch.no_grad]) -> None:
    plain, other = modules(LAYERS)
    x = images(2, (32, 32))
    with still():
        before, after = (launched(lambda m=m: m(x)) for m in (plain, other))  # type: ignore[misc]
        torch.testing.assert_close(other(x), plain(x), rtol=1e-4, atol=1e-5)
    assert after[CALL] == len(PACKED)
    assert before["aten::relu"] - after["aten::relu"] == 1
    assert after["aten::gelu"] == after["aten::silu"] == after["aten::hardtanh"] == 0
    assert before["aten::gelu"] == 2


@pytest.mark.parametrize("act", ["", "relu", "relu6", "gelu", "silu", "hswish"])
def test_they_compute_the_same(act: str) -> None:
    behind = f" |> {act}" if act else ""
    spec = (
        "language 1\narch one[classes = 10] {\n  input img: map[3, 20, 24]\n"
        f"  stem {{ x = img |> conv[16, k = 3, s = 2]{behind} |> linear[9]{behind} }}\n"
        "  head { return x |> gap |> linear[classes] }\n}\n"
    )
    check_same(*modules(spec), (20, 24))


@pytest.mark.parametrize(
    "twin",
    [pytest.param(t, id=t.spec, marks=() if t.spec == "visformer_s" else pytest.mark.full) for t in ARCHITECTURES],
)
def test_architectures_compute_the_same(twin: Twin) -> None:
    parameters = {**twin.tiny, **twin.settled, **({"dpr": 0.0} if twin.drops else {})}
    check_same(*modules(twin.spec, input=(3, *twin.size), overrides=parameters), twin.size)


def _scaled(model: nn.Module) -> Mapping[str, Tensor]:
    return {name: 0.9 * tensor + 0.01 for name, tensor in model.state_dict().items()}


def _in_place(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.mul_(0.9).add_(0.01)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.load_state_dict(_scaled(model)),
        lambda model: model.load_state_dict(_scaled(model), assign=True),
        lambda model: model.double().load_state_dict(_scaled(model)) and model.float(),
        _in_place,
    ],
    ids=["loaded", "assigned", "converted", "in place"],
)
@torch.no_grad()
def test_weights_that_change_after_use(change: Callable[[nn.Module], object]) -> None:
    plain, other = modules(LAYERS)
    x = images(2, (32, 32))
    old = other(x)
    for model in (plain, other):
        change(model)
    assert not torch.allclose(other(x), old, rtol=1e-2)
    torch.testing.assert_close(other(x), plain(x), rtol=1e-4, atol=1e-5)


def test_trained_weights_deploy() -> None:
    """Folded and packed, the module computes what that for eval does."""
    parameters = {**TWINS["visformer_s"].tiny, "dpr": 0.0}
    options: dict[str, Any] = {"overrides": parameters, "input": (3, 64, 64)}
    trained, deployed = (
        compile_spec("visformer_s", mode=mode, passes=LEVELS[number], **options).module().eval()
        for mode, number in (("eval", 0), ("deploy", 2))
    )
    randomise(trained)
    graphs = [elaborate("visformer_s", mode=mode, **options) for mode in ("eval", "train", "deploy")]
    x = images(2, (64, 64))
    with torch.no_grad():
        usual, exact = trained(x), trained.double()(x.double())
        weights = deploy_weights(*graphs, Stored("random", trained.state_dict()), LEVELS[2])
        deployed.load_state_dict(weights)
        error, bound = (float((y - exact).norm() / exact.norm()) for y in (deployed(x), usual))
        assert error <= 4 * bound + 1e-6
        deployed.double().load_state_dict(weights)
        assert float((deployed(x.double()) - exact).norm()) <= EXACT * float(exact.norm())


@torch.no_grad()
def test_copies_and_other_sizes() -> None:
    plain, other = modules(LAYERS)
    x = images(2, (32, 32))
    wanted = other(x)
    torch.testing.assert_close(copy.deepcopy(other)(x), wanted)
    torch.testing.assert_close(pickle.loads(pickle.dumps(other))(x), wanted)
    x = images(5, (32, 32))
    torch.testing.assert_close(other(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_elsewhere_torch_computes_them() -> None:
    """Where gradients are taken, calls are recorded or numbers are others."""
    plain, other = modules(LAYERS)
    x = images(2, (32, 32))
    assert launched(lambda: other(x))[CALL] == 0
    other(x).sum().backward()
    assert all(p.grad is not None for p in other.parameters())
    batch = torch.export.Dim("batch", min=2, max=64)
    with torch.no_grad():
        wanted = plain(x)
        exported = torch.export.export(other, (x,), dynamic_shapes=({0: batch},))
        assert "mkldnn" not in str(exported.graph)
        compiled = torch.compile(other, backend="eager", fullgraph=True)
        traced = torch.jit.trace(other, x)
        for recorded in (exported.module(), compiled, traced):
            assert launched(lambda r=recorded: r(x))[CALL] == 0  # type: ignore[misc]
            torch.testing.assert_close(recorded(x), wanted, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert launched(lambda: other(x))[CALL] == 0
        with torch.backends.mkldnn.flags(enabled=False):
            assert launched(lambda: other(x))[CALL] == 0
        counts = []
        for model in (plain, other):
            with FlopCounterMode(display=False) as counter:
                model(x)
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
