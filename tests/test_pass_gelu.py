"""Turns the cheaper forms of gelu into checks of their bounds, and of what the passes that use them change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from archdsl.api import elaborate
from archdsl.diagnostics import ArchError
from archdsl.ir.text import print_graph
from archdsl.ir.verify import verify
from archdsl.passes.cheap_gelu import FORMS, CheapGelu
from archdsl.passes.gelu_to_relu import BOUND, GeluToRelu
from archdsl.passes.pipeline import LEVELS, optimize, parse_passes
from archdsl.passes.scale_into_linear import ScaleIntoLinear
from archdsl.testing import interpret
from tests.test_rep import state_of

TEXT = """language 1
arch two[] {
  input img: map[8, 6, 5]
  x = img |> linear@fc1[16] |> gelu |> linear@fc2[8] |> gelu
  return x |> relu |> gelu
}
"""


def forms(x: Tensor, name: str) -> Tensor:
    """The forms as the papers write them (1606.08415, 1905.02244)."""
    if name == "tanh":
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return x * torch.sigmoid(1.772 * x) if name == "sigmoid" else x * (1.668 * x / 6 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("name", [*FORMS, "relu"])
def test_the_bound_holds_everywhere(name: str) -> None:
    """At the points of a grid, and between them as far as the derivatives of both functions let them part."""
    bound, slope = (BOUND, 1.0) if name == "relu" else (FORMS[name].bound, 1.5 if name == "hard" else 1.13)
    step = 5e-6 if name == "tanh" else 1e-5
    x = torch.arange(-12, 12 + step, step, dtype=torch.float64).requires_grad_()
    ours = F.relu(x) if name == "relu" else forms(x, name)
    gelu = 0.5 * x * torch.special.erfc(-x / 2**0.5)
    error = float((ours - gelu).detach().abs().max())
    between = (1.13 + slope) * step / 2
    assert 0.97 * bound < error and error + between <= bound
    for y, most in ((ours, slope), (gelu, 1.13)):
        (derivative,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert derivative.abs().max() <= most
    far = torch.tensor([12.0, 20, 100, 1e4, -12, -20, -100, -1e4], dtype=torch.float64)
    ours, gelu = (F.relu(far) if name == "relu" else forms(far, name)), 0.5 * far * torch.special.erfc(-far / 2**0.5)
    assert max(float((ours - far.clamp(min=0)).abs().max()), float((gelu - far.clamp(min=0)).abs().max())) < 1e-6


@pytest.mark.parametrize("name", FORMS)
def test_gelu_becomes_the_form(name: str) -> None:
    graph = elaborate(TEXT)
    after = CheapGelu(name)(graph)
    assert not verify(after) and after.params == graph.params
    assert sum(n.op.name == "gelu" for n in after.nodes()) == 0
    torch.manual_seed(0)
    state, x = state_of(graph), torch.randn(2, 8, 6, 5, dtype=torch.float64)
    (found,) = interpret(after, state, x)

    def linear(x: Tensor, path: str) -> Tensor:
        return F.linear(x.movedim(1, -1), state[f"{path}.weight"], state[f"{path}.bias"]).movedim(-1, 1)

    wanted = forms(linear(forms(linear(x, "fc1"), name), "fc2"), name)
    assert torch.allclose(found, forms(F.relu(wanted), name), rtol=1e-12, atol=1e-12)


def test_the_text_of_what_changes() -> None:
    graph = elaborate(TEXT)
    lines = [line.partition(" in ")[0] for line in print_graph(CheapGelu("sigmoid")(graph)).splitlines()]
    assert [line for line in lines if "gelu1" in line] == [
        "%gelu1_in = mul[by = 1.772](%fc1)",
        "%gelu1#2 = silu(%gelu1_in)",
        "%gelu1_out = div[by = 1.772](%gelu1#2)",
        "%fc2 = linear[dim = 8](%gelu1_out) on @fc2{weight, bias}",
    ]
    relu = GeluToRelu()(graph)
    assert [n.op.name for n in relu.nodes()] == ["input", "linear", "relu", "linear", "relu", "relu", "relu"]
    assert not verify(relu) and GeluToRelu()(relu) is relu and CheapGelu()(relu) is relu


@pytest.mark.parametrize("name", ["sigmoid", "hard"])
def test_layers_to_deploy_do_the_scaling(name: str) -> None:
    graph = optimize(elaborate("convnext_t", mode="deploy"), (CheapGelu(name), ScaleIntoLinear()))
    names = {n.op.name for n in graph.nodes()}
    assert FORMS[name].op.name in names and not names & {"gelu", "mul", "div"}


def test_they_run_by_name_only() -> None:
    assert not any(isinstance(p, CheapGelu | GeluToRelu) for level in LEVELS for p in level)
    assert not CheapGelu.exact and not GeluToRelu.exact
    assert parse_passes("cheap_gelu{form=hard},gelu_to_relu") == (CheapGelu("hard"), GeluToRelu())
    with pytest.raises(ArchError) as e:
        parse_passes("cheap_gelu{form=quick}")
    (mistake,) = e.value.diagnostics
    assert mistake.code == "E-PASS" and mistake.help == "there are tanh, sigmoid, hard"
