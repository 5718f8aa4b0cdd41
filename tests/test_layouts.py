"""Turns layout assignment into checks: known counts of moves, optimal against brute force, and moves that suffice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from archdsl.api import elaborate
from archdsl.cli import main
from archdsl.device.model import devices
from archdsl.ir.layout import Layout
from archdsl.passes.layouts import Plan, _Problem, assign, read

H200 = devices()["h200"]


def plan(spec: str, **overrides: object) -> Plan:
    return assign(elaborate(spec, overrides=overrides), H200, 64, "bf16")


def test_swin_keeps_its_stream_in_the_order_of_the_next_attention() -> None:
    """timm asks for 42 launches of layout-only ops at 224, 5 of which pad by nothing. Eleven moves do."""
    found = plan("swin_t")
    assert found.asked == 37 and len(found.moves) == 11
    by_stage = [m.reader.split(".")[1] for m in found.moves if m.reader.startswith("stages")]
    assert [by_stage.count(s) for s in "0123"] == [2, 2, 6, 1]
    assert not any(m.reader.startswith("stages.3.blocks") for m in found.moves), "a window as large as the map"
    assert found.elements < 0.36 * found.asked_elements


def test_maxvit_moves_three_times_a_block() -> None:
    found = plan("maxvit_t")
    blocks = {".".join(m.reader.split(".")[:4]) for m in found.moves}
    assert len(found.moves) == 3 * len(blocks) and not any(b.startswith("stages.3") for b in blocks)


@pytest.mark.parametrize("spec", ["convnext_t", "poolformer_s12", "nasnet_a_mobile", "mvitv2_t", "vit_s16"])
def test_without_windows_nothing_moves(spec: str) -> None:
    found = plan(spec)
    assert (found.asked, found.moves) == (0, ())
    assert {layout == Layout.raster(layout.height, layout.width) for layout in found.layouts.values()} <= {True}


SMALL = """language 1
def cut[n, s](x: map[C]) {
  q, k, v = x |> windows[n, shift = s] |> linear[3 * C] |> split[3]
  return attend[2](q, k, v) |> merge |> linear@proj[C]
}
arch small[classes = 4] {
  input img: map[4, 8, 8]
  stage only -> x {
    x = img
    %s
  }
  head { return x |> gap |> linear@fc[classes] }
}
"""


@pytest.mark.parametrize(
    ("body", "moves"),
    [
        ("x = x + cut@a[4, 0](ln@n(x))", 1),  # the mean over positions does not ask for their order
        ("x = relu(ln@n(x))\n x = x + cut@a[4, 0](ln@m(x))", 1),
        ("x = relu(ln@n(x))\n x = x + cut@a[4, 0](x)\n x = x + cut@b[4, 0](x)", 1),
        ("x = relu(ln@n(x))\n x = x + cut@a[4, 0](x)\n x = x + cut@b[4, 2](x)", 2),
        ("x = relu(ln@n(x))\n x = x + cut@a[4, 0](x)\n x = x + dwconv@b[3](x)", 2),
        ("x = relu(ln@n(x))\n x = x + cut@a[8, 0](x)\n x = x + dwconv@b[3](x)", 0),
        ("x = relu(ln@n(x))\n x = x + cut@a[3, 0](x)", 2),  # padded: no other value is kept so
    ],
)
def test_moves_by_hand(body: str, moves: int) -> None:
    assert len(assign(elaborate(SMALL.replace("%s", body)), H200, 64, "bf16").moves) == moves


def test_folding_reads_the_lifted_order() -> None:
    """A map folded by 2x2 blocks, in window order: what `lifted` lists is what the fold of that order reads."""
    for target in (Layout.raster(4, 6), Layout.windows(4, 6, 2), Layout.windows(4, 6, (2, 3), 1), Layout.grid(4, 6, 2)):
        fine = np.array(target.lifted(2, 3).index()).reshape(-1, 6)
        image = np.arange(8 * 18).reshape(4, 2, 6, 3).transpose(0, 2, 1, 3).reshape(24, 6)
        assert (fine == image[np.array(target.index())]).all()


def test_the_assignment_is_the_cheapest() -> None:
    """Every choice of orders for the free ops of a small graph, by hand."""
    body = "x = relu(ln@n(x))\n x = x + cut@a[4, 0](x)\n y = gelu(x)\n x = x + cut@b[4, 2](y)\n x = x + dwconv@c[3](x)"
    problem = _Problem(elaborate(SMALL.replace("%s", body)), H200, 64, "bf16")
    unary, binary = problem.costs()
    free = [v for v, costs in unary.items() if len(costs) > 1]
    fixed = {v: 0 for v in unary if v not in free}
    assert 4 < len(free) < 16
    cheapest = min(
        sum(unary[v][at[v]] for v in unary) + sum(t[at[u]][at[v]] for (u, v), t in binary.items())
        for choice in itertools.product(*(range(len(unary[v])) for v in free))
        for at in [fixed | dict(zip(free, choice, strict=True))]
    )
    found = problem.solve()
    assert found.seconds == pytest.approx(cheapest, rel=1e-12)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "swin_t", "--emit", "layouts"]) == 0
    printed = capsys.readouterr().out
    assert "11 moves" in printed and "37 launches" in printed and "shift 3x3: y1 x1 | y0 x0" not in printed


@pytest.mark.parametrize(
    ("spec", "kernels", "moves"),
    [("swin_t", (), 11), ("swin_t", ("attend",), 2), ("swin_t", ("attend", "pack"), 0), ("maxvit_t", ("attend",), 0)],
)
def test_generated_attention_moves_what_it_reads(spec: str, kernels: tuple[str, ...], moves: int) -> None:
    """All that is left of Swin's 37 launches then is patch merging; one in three merges maps that are in windows."""
    plan = assign(elaborate(spec), H200, 64, "bf16", kernels)
    assert len(plan.moves) == moves and all(m.reader.endswith("pack") for m in plan.moves[: moves if kernels else 0])
    assert bool(plan.absorbed) == bool(kernels)


def test_a_kernel_writes_no_padding() -> None:
    """What is written has to have a place for each position; and what is computed of padding stays in windows."""
    text = SMALL.replace("%s", "x = relu(ln@n(x))\n x = x + cut@a[3, 0](x)")
    plan = assign(elaborate(text), H200, 64, "bf16", ("attend",))
    assert [m.source.endswith("attend") for m in plan.moves] == [False, True] and not plan.absorbed


def test_what_is_measured_is_not_read() -> None:
    """A bias asks its queries for their number, which no order changes."""
    graph = elaborate("swin_t")
    lookup = next(n for n in graph.nodes() if n.op.name == "rel_lookup")
    assert len(graph.operands(lookup)) == 2 and [v.type.kind for v in read(graph, lookup)] == ["tokens"]
