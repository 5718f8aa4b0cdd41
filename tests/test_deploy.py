"""Runs `archdsl deploy` and checks what it writes against the trained module, and what it refuses to write."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from archdsl.api import compile_spec, elaborate
from archdsl.cli import main
from archdsl.ir.verify import verify
from archdsl.passes.fold_leading_norms import FoldLeadingNorms, leading
from archdsl.passes.pipeline import Step
from archdsl.testing import interpret
from archdsl.weights.deploy import pass_weights
from archdsl.weights.stores import read_file, write_file
from tests.oracle.compare import randomise
from tests.test_rep import state_of

SPEC = """language 1
rep def branches(x: map) = conv_bn@large[k = 3](x) + conv_bn@small(x) + x
arch taught[classes = 5, slope = 1] {
  input img: map[3, 16, 16]
  x = img |> conv_bn@one[8, k = 3, s = 2] |> relu |> branches |> dwconv@two[3] |> bn@norm |> gelu
  if deploy { x = x * slope }
  head {
    f = gap(x)
    y = linear@fc[classes](f)
    if training { return y, linear@aux[classes](f) }
    return y
  }
}
"""


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The module as it was trained, its weights in t.safetensors, and the spec in taught.arch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    Path("taught.arch").write_text(SPEC)
    module = compile_spec("taught.arch", mode="train").module()
    randomise(module)
    write_file("t.safetensors", module.state_dict(), {"license": "mit"})
    return module


def written(directory: str = "generated") -> nn.Module:
    """The module that lies in a directory, with the weights beside it."""
    place = Path(directory) / "taught" / "__init__.py"
    spec = importlib.util.spec_from_file_location("deployed_taught", place)
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    try:
        spec.loader.exec_module(package)
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == spec.name]:
            del sys.modules[name]
    module: nn.Module = package.taught()
    module.load_state_dict(read_file(place.with_name("weights.safetensors")).tensors)
    return module.eval()


def image() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("without", ["", "head.aux"])
def test_one_command_writes_the_module_and_its_weights(
    trained: nn.Module, without: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the training graph's weights, or of the eval graph's."""
    state = {k: t for k, t in trained.state_dict().items() if not (without and k.startswith(without))}
    write_file("w.safetensors", state, {"license": "mit"})
    assert main(["deploy", "taught.arch", "w.safetensors", "-o", "out"]) == 0
    told = capsys.readouterr().out
    assert f"8 tensors for `taught` in deploy mode, made of {len(state)}" in told
    assert "out/taught/model.py\nout/taught/weights.safetensors\n" in told
    file = read_file("out/taught/weights.safetensors")
    assert file.metadata == {"format": "pt", "spec": "taught", "mode": "deploy", "license": "mit"}
    assert all(t.dtype == torch.float32 for t in file.tensors.values())
    ours, wanted = written("out"), trained.eval()(image())
    assert [type(m).__name__ for m in ours.modules() if "BatchNorm" in type(m).__name__] == []
    torch.testing.assert_close(ours(image()), wanted, rtol=1e-5, atol=1e-5 * float(wanted.detach().abs().max()))
    deviation = float(told.partition("in float64 on 2 random images of 3x16x16: ")[2].partition(",")[0])
    assert 1e-9 < deviation < 1e-6, "what rounding to float32 makes"


def test_a_module_that_computes_something_else_is_not_written(
    trained: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "taught.arch", "t.safetensors", "--set", "slope=1.001"]) == 1
    told = capsys.readouterr().err
    assert "error[E-DEPLOY]: in deploy mode `taught` does not compute what it does in eval mode" in told
    assert not Path("generated").exists()


def test_the_deviation_of_an_inexact_pass_is_told(trained: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "taught.arch", "t.safetensors", "--passes", "fold_norms,gelu_to_relu"]) == 0
    exact = float(capsys.readouterr().out.partition("weights are rounded ")[2].split()[0])
    assert exact > 1e-3 and isinstance(written(), nn.Module)


def test_an_edited_module_and_its_weights_are_left_alone(
    trained: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["deploy", "taught.arch", "t.safetensors"]
    assert main(command) == 0
    model, weights = Path("generated/taught/model.py"), Path("generated/taught/weights.safetensors")
    before = weights.read_bytes()
    model.write_text(model.read_text() + "# mine\n")
    write_file("t.safetensors", {k: t * 2 for k, t in trained.state_dict().items()}, {})
    assert main(command) == 1
    assert "E-EDITED" in capsys.readouterr().err and weights.read_bytes() == before
    assert main([*command, "--force"]) == 0 and weights.read_bytes() != before
    assert not [p.name for p in model.parent.iterdir() if p.name.endswith(".tmp")]


def test_weights_of_another_spec_are_refused(trained: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    write_file("w.safetensors", {"other.weight": torch.ones(3)}, {})
    assert main(["deploy", "taught.arch", "w.safetensors"]) == 1
    assert "error[E-WEIGHT-MATCH]: `w.safetensors` does not hold the weights" in capsys.readouterr().err
    assert not Path("generated").exists()


# -- norms before layers ---------------------------------------------------------------------------

LEADING = """language 1
arch leading[classes = 6] {
  input img: map[8, 9, 9]
  a = relu(img) |> bn@n1[eps = 1e-3] |> bn@n2 |> conv@point[12, g = 4, bias = false] |> gelu
  b = a |> bn@n3 |> conv@valid[8, k = 3, p = 0] |> gelu
  c = b |> bn@n4 |> linear@map[8] |> gelu
  d = c |> bn@n5 |> conv@padded[8, k = 3]
  e = bn@n6(c)
  f = conv@one(e) + conv@two(e)
  share g = conv
  h = g(relu(f) |> bn@n7) + g(f)
  i = h |> relu |> bn@n8 |> conv@same[8, pad = "tf_same"]
  j = i |> tokens |> relu |> bn@n9 |> linear@row[6] |> relu
  head { return j |> gap |> bn@n10 |> linear@fc[classes] }
}
"""


def test_layers_take_in_the_norm_before_them() -> None:
    graph = elaborate(LEADING, mode="deploy")
    after = FoldLeadingNorms()(graph)
    assert not verify(after) and not list(leading(after)) and FoldLeadingNorms()(after) is after
    kept = {n.path for n in after.nodes() if n.op.name == "bn"}
    assert kept == {"n5", "n6", "n7", "head.n10"}, "padding, two readers, shared weights, a classifier"
    state, x = state_of(graph), torch.randn(2, 8, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = pass_weights([Step(FoldLeadingNorms(), graph, after, 0.0)], state)
    assert {p: tuple(t.shape) for p, t in made.items()} == {p: x.shape for p, x in after.params.items()}
    (one,), (other,) = interpret(graph, state, x), interpret(after, made, x)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    for mode in ("train", "eval", "tune"):
        plain = elaborate(LEADING, mode=mode)
        assert FoldLeadingNorms()(plain) is plain
