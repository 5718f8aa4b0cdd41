"""Turns ops that give back what they got into a check of elide_concat: which go, which stay, and what is computed."""

from __future__ import annotations

import pytest
import torch

from archdsl.api import compile_spec, elaborate
from archdsl.ir.text import print_graph
from archdsl.ir.verify import verify
from archdsl.passes.common import Common
from archdsl.passes.elide_concat import ElideConcat
from archdsl.passes.pipeline import optimize
from tests.oracle.compare import randomise

CUT = """language 1
def part(x: map[C]) {
  a, b = split[2](x)
  c = concat(a, b) |> relu
  d, e = split[[1, rest]](b)
  f, g = split[[C, rest]](concat(c, concat(d, e)))
  return concat(concat(f, g), a) |> identity |> dropout[0] |> pad
}
def turn(x: map[C]) {
  a, b = split[2](x)
  c, d = split[[1, rest]](b)
  return concat(d, concat(c), a)
}
arch cut[classes = 10] {
  input img: map[3, 16, 12]
  stem { x = img |> conv[8, k = 3] }
  stage only -> x { x = x |> part |> turn |> identity }
  head { return x |> gap |> linear[classes] }
}
"""
KEPT = """language 1
def two(x: map[C]) {
  a, b = split[2](x)
  c = concat(b, a)
  d, e = split[[3, rest]](c)
  f, g = split[2](e |> pad[bottom = 1] |> pad[bottom = -1] |> conv[4])
  return concat(c, relu(c), concat(d, f) |> relu, g) |> pad[bottom = x.H % 4]
}
arch kept[classes = 10] {
  input img: map[3, 16, 12]
  stem { x = img |> conv[8, k = 3] }
  stage only -> x { x = two(x) }
  stage nothing -> x { x = identity(x) }
  head { return x |> gap |> linear[classes] |> dropout[0.5] }
}
"""
"""Nothing here may go: an order and sizes of parts that differ, a padding that is zero at this size alone, a stage's
only op, and a dropout that drops."""
TOKENS = """language 1
def around(x: map[C, H, W]) {
  t = x |> tokens |> to_map[H, W] |> tokens |> transpose |> transpose |> linear[C]
  y = t |> to_map[H, W] |> tokens |> to_map[H, W]
  return 1 * y + 0 - 0 + neg(neg(x)) / 1
}
arch around_and_back[classes = 10] {
  input img: map[3, 8, 6]
  stem { x = img |> conv[8, k = 3] }
  stage only -> x { x = around(x) }
  head { return x |> gap |> linear[classes] }
}
"""


def test_what_is_cut_and_joined_again_goes() -> None:
    graph = elaborate(CUT)
    after = ElideConcat()(graph)
    assert not verify(after) and ElideConcat()(after) is after
    shown = [line.partition(" : ")[0] for line in print_graph(after).splitlines() if line.startswith("%only")]
    assert shown == [
        "%only.part.split1 as a, b = split[parts = 2](%stem.conv) in 3",
        "%only.part.relu as c = relu(%stem.conv) in 3",
        "%only.part.concat4#2 = concat(%only.part.relu, %only.part.split1:1, %only.part.split1) in 3",
        "%only.turn.split1#2 = split[parts = [8, 1, 7]](%only.part.concat4#2) in 4",
        "%only.turn.concat1 = concat(%only.turn.split1#2:2, %only.turn.split1#2:1, %only.turn.split1#2) in 4",
        "%only.identity as x = identity(%only.turn.concat1) in 2",
    ]


def test_what_cancels_goes() -> None:
    graph = elaborate(TOKENS)
    after = ElideConcat()(graph)
    assert not verify(after) and ElideConcat()(after) is after
    shown = [line.partition(" : ")[0] for line in print_graph(after).splitlines() if line.startswith("%only")]
    assert shown == [
        "%only.tokens2 = tokens(%stem.conv) in 3",
        "%only.linear as t = linear[dim = 8](%only.tokens2) on @only.linear{weight, bias} in 3",
        "%only.to_map3 as y = to_map[h = {H}, w = {W}](%only.linear) in 3",
        "%only.add#2 as x = add(%only.to_map3, %stem.conv) in 3",
    ]


def test_what_does_something_stays() -> None:
    graph = elaborate(KEPT)
    assert ElideConcat()(graph) is graph


@pytest.mark.parametrize("mode", ["train", "eval", "deploy"])
@pytest.mark.parametrize("text", [CUT, TOKENS])
def test_it_computes_the_same(text: str, mode: str) -> None:
    """Forward and every gradient, fp64, in what is emitted; and the state dicts are one."""
    plain, better = (compile_spec(text, mode=mode, passes=p).module().double() for p in ((), (ElideConcat(),)))
    randomise(plain)
    better.load_state_dict(plain.state_dict())
    assert list(better.state_dict()) == list(plain.state_dict())
    results = []
    for module in (plain, better):
        x = torch.randn(2, 3, *module.default_cfg["input_size"][1:], dtype=torch.float64, generator=torch.Generator())
        y = module.train(mode == "train")(x)
        results.append((y, torch.autograd.grad(y.square().sum(), list(module.parameters()))))
    (one, gradients), (other, others) = results
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(gradients, others, strict=True))


def test_ops_that_become_the_same_are_found_afterwards() -> None:
    """`common` promises that no two are, and this pass takes the promise back."""
    graph = elaborate(
        "language 1\narch twice[] { input img: map[3, 8, 8]\n return relu(img) + relu(relu(identity(img))) }\n"
    )
    after = optimize(graph, (Common(), ElideConcat()))
    assert [n.op.name for n in after.nodes()].count("relu") == 3
    assert [n.op.name for n in Common()(after).nodes()].count("relu") == 2
