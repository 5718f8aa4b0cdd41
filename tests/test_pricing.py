"""Holds batch prices to what they stand for: the costs, soundness and identity of whole graphs, point by point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archdsl.cost import price
from archdsl.device.model import devices
from archdsl.device.roofline import latency
from archdsl.diagnostics import ArchError
from archdsl.frontend.space import Space
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.search.bounds import Bound, least
from archdsl.search.genome import stream
from archdsl.search.metrics import METRICS, measure
from archdsl.search.pricing import Pricer
from tests.specs import HERE, program

SPACES = sorted((HERE.parent / "specs" / "spaces").glob("*.arch"))

DEFS = """language 1
def dw[k = 7](x: map[C]) = x |> dwconv[k] |> linear@proj[C]
def pool(x: map) = avg_pool[3, s = 1, p = 1](x) - x
def attn[head_dim = 4](x: map[C]) = x |> mhsa[C / head_dim]
def block[mixer: fn, ratio = 2](x: map) {
  x += drop_path(x |> ln |> mixer)
  x += drop_path(x |> ln |> mlp[ratio])
  return x
}
"""


def opened(path: Path) -> Space:
    from archdsl.frontend.program import Program

    return Space.open(Program.open(path))


def space(
    body: str, items: str, params: str = "dims: int[2] = 8, depths: int[2] = 1, mixers: list = [dw, dw]"
) -> Space:
    body = f"  input img: map[3, 16, 16]\n{body}\n  head {{ return x |> gap |> linear@fc[classes] }}"
    arch = f"arch a[{params}, dpr = 0.1, classes = 10] {{\n{body}\n}}"
    return Space.open(program(f"{DEFS}{arch}\nspace s of a {{\n{items}\n}}\n"))


def whole(s: Space, pricer: Pricer, row: np.ndarray) -> Graph | None:
    """The graph of a point, elaborated in one go; None where it is no sound point."""
    try:
        point = pricer.draws.point(row)
        graph = s.program.elaborate(s.declared.base.id, overrides=point.overrides)
    except ArchError:
        return None
    return graph if s.meets(point) else None


def agree(s: Space, count: int, seed: int = 0) -> tuple[int, Pricer]:
    """Compares a batch with whole graphs; how many points were sound."""
    pricer = Pricer(s, [lambda g, c: latency(g, devices()["a100"], 8, "fp16")])
    points = pricer.genome.random(stream(seed, 1, 0), count)
    found = pricer.price(points)
    hashes: dict[str, tuple[int, ...]] = {}
    for row, sound, metrics, digest in zip(points, found.sound, found.metrics, found.hash, strict=True):
        graph = whole(s, pricer, row)
        assert sound == (graph is not None), pricer.genome.decode(row)
        if graph is None:
            assert not metrics.any()
            continue
        costs = price(graph)
        wanted = (*measure(graph, costs), latency(graph, devices()["a100"], 8, "fp16"))
        assert metrics.tolist() == list(wanted), pricer.draws.point(row)
        ours = tuple(int(n) for n in digest)
        assert hashes.setdefault(canonical_hash(graph), ours) == ours
    assert len(set(hashes.values())) == len(hashes), "different graphs, one hash"
    alone = pricer.price(points[:1])
    assert alone.metrics.tolist() == found.metrics[:1].tolist() and alone.hash.tolist() == found.hash[:1].tolist()
    return int(found.sound.sum()), pricer


@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_batches_cost_what_graphs_cost(path: Path) -> None:
    assert agree(opened(path), 6)[0] >= 2


@pytest.mark.full
@pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)
def test_larger_batches_cost_what_graphs_cost(path: Path) -> None:
    assert agree(opened(path), 150, seed=1)[0] >= 50


BODIES = {
    "stages": "  x = conv@stem[8, k = 4, s = 4](img)\n  stage i in 2 -> x {\n    x = conv@down[dims[i]](x)\n"
    "    blocks j in depths[i] { x = block[mixers[i]](x) }\n  }",
    "patterns": "  x = conv@stem[8, k = 4, s = 4](img)\n  stage i in len(dims) -> x {\n    x = conv@down[dims[i]](x)\n"
    "    blocks j in depths[i] { x = block[mixers[j % len(mixers)], 1 + j % 2](x) }\n  }",
    "index": "  x = conv@stem[8, k = 4, s = 4](img)\n  stage i in 2 -> x {\n    x = conv@down[dims[i]](x)\n"
    "    blocks j in depths[i] { if j >= depths[i] - 1 { x = block[mixers[i]](x) } x = block[pool](x) }\n  }",
    "two streams": "  x = conv@a[dims[0], k = 4, s = 4](img)\n  y = conv@b[dims[1], k = 4, s = 4](img)\n"
    "  stage i in 2 -> x, y {\n    blocks@xs j in depths[0] { x = block[mixers[0]](x) }\n"
    "    blocks@ys j in depths[1] { y = block[mixers[1]](y) }\n  }\n  x = concat(x, y)",
    "shared": "  share f = block[mixers[0]]\n  x = conv@stem[dims[0], k = 4, s = 4](img)\n"
    "  stage i in 2 -> x { blocks j in depths[i] { x = f(x) } }",
    "counted": "  n = depths[0] + depths[1]\n  x = conv@stem[dims[0], k = 4, s = 4](img)\n"
    "  blocks@all j in n { if j < n - depths[1] { x = block[mixers[0]](x) } x = block[pool](x) }",
    "named stage": "  stem { x = img |> conv[dims[0], k = 4, s = 4] }\n"
    "  stage wide -> x { x = conv@down[dims[1]](x) blocks j in depths[1] { x = block[mixers[1]](x) } }",
}
ITEMS = (
    "dims = [{8 | 12 | 16}, {8 | 16}]\ndepths = [{0..3}, {1..4}]\nmixers = [{dw[{3 | 5}] | pool | attn}, {attn | dw}]"
)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_pieces_add_up_however_an_arch_is_written(body: str) -> None:
    assert agree(space(body, ITEMS), 40)[0] >= 20


STEM = "  x = conv@stem[8, k = 4, s = 4](img)\n"
LOCAL = {
    "comprehension": "  stage i in 2 -> x { x = conv[sum([dims[i] for i in 2])](x) }",
    "for": "  stage i in 2 -> x { for i in 2 { x = conv[dims[i]](x) } }",
    "blocks": "  stage i in 2 -> x { blocks i in 2 { x = conv[dims[i]](x) } }",
    "fn": "  stage i in 2 -> x { f = fn(i) => dims[i]\n x = conv[f(1)](x) }",
    "stage": "  stage i in 2 -> x { i = 1 - i\n if i > 0 { x = conv[dims[i]](x) } }",
    "parameter": "  classes = depths[0]\n  stage i in classes -> x { x = conv[12](x) }",
}


@pytest.mark.parametrize("body", LOCAL.values(), ids=LOCAL)
def test_a_name_stands_for_what_is_nearest(body: str) -> None:
    assert agree(space(STEM + body, ITEMS), 24)[0] >= 12


PATTERNS = "pat: list = [[8, 8], [8, 8]], n = 1, depths: int[2] = 1"
DRAWN = "pat = [{[8, 16] | [16, 24]}, {[8, 12] | [16, 16]}]\nn = {1..2}\ndepths = [{0..3}, {1..4}]"


@pytest.mark.parametrize("at", ["pat[i][j % n]", "pat[i][(j + n) % 2]", "sum([pat[i][(j + k) % 2] for k in n])"])
def test_what_finds_an_iteration_its_value_may_be_drawn(at: str) -> None:
    body = STEM + f"  stage i in 2 -> x {{ blocks j in depths[i] {{ x = conv[{at}](x) }} }}"
    assert agree(space(body, DRAWN, PATTERNS), 40)[0] == 40


def test_iterations_may_pass_on_what_only_they_use() -> None:
    body = "  x = conv[16](x)\n  blocks j in depths[0] { if j > 0 { x += z }\n z = block[mixers[0]](x)\n x = pool(x) }"
    assert agree(space(STEM + body, ITEMS), 24)[0] >= 12


def test_a_loop_of_negative_length_is_what_it_is_in_a_graph() -> None:
    agree(space(STEM + "  blocks j in depths[0] - 2 { x = block[pool](x) }", ITEMS), 24)


def test_an_arch_may_end_early() -> None:
    body = STEM + "  if depths[0] > 1 { return x |> gap |> linear[10] }\n  x = conv[dims[0]](x)"
    assert agree(space(body, ITEMS), 24)[0] == 24


ROUTES = {
    "swap": "if depths[0] > 1 { p = a\n q = b } else { p = b\n q = a }\n  x = concat(linear(p), conv(q))",
    "select": "if depths[0] > 1 { p = a } else { p = b }\n  x = b + conv[8](p)",
    "alias": "if depths[0] > 1 { b = a }\n  x = b + a",
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_graphs_that_differ_in_an_edge_have_two_hashes(route: str) -> None:
    body = STEM + f"  a = conv@a[8](x)\n  b = dwconv@b[3](a)\n  {route}"
    assert agree(space(body, ITEMS), 24)[0] == 24


def test_graphs_that_differ_in_a_feature_have_two_hashes() -> None:
    body = STEM + "  stage i in 2 -> x { blocks j in depths[i] { x = conv[8](x) } }"
    assert agree(space(body, "depths = [{0..2}, {0..2}]"), 24)[0] == 24


@pytest.mark.parametrize("at", ["", "  stage i in 2 -> x { if i > 0 { require params <= 700 } x = conv[dims[i]](x) }"])
def test_requirements_of_the_arch_on_its_costs_rule_points_out(at: str) -> None:
    body = STEM + (at or "  require params <= 700\n  x = x |> conv[dims[0]] |> conv[dims[1]]")
    assert 0 < agree(space(body, ITEMS), 24)[0] < 24


def test_a_let_may_be_called_like_a_parameter() -> None:
    items = "let classes = {10 | 20}\ndims = [{8 | 16}, classes]"
    assert agree(space(STEM + "  x = conv[dims[1]](x)", items), 12)[0] == 12


@pytest.mark.parametrize("let", ["{10 | 20}", "12"])
def test_a_requirement_on_a_let_means_the_let(let: str) -> None:
    items = f"let classes = {let}\ndims = [{{8 | 16}}, classes]\nrequire dims[0] < classes < 15"
    assert 0 < agree(space(STEM + "  x = conv[dims[1]](x)", items), 12)[0] < 12


def test_shared_weights_are_priced_as_a_whole() -> None:
    assert len(agree(space(BODIES["shared"], ITEMS), 3)[1].pieces) == 1
    assert len(agree(space(BODIES["stages"], ITEMS), 3)[1].pieces) > 4


def test_requirements_on_parameters_rule_points_out() -> None:
    rules = "let w = {8 | 12}\ndims = [w, {8 | 16}]\nrequire dims[0] <= dims[1]\nrequire w + depths[1] < 12\n"
    items = f"{rules}depths = [{{1..3}}, {{1..4}}]\nmixers = [{{dw | pool}}, dw]"
    sound, pricer = agree(space(BODIES["stages"], items), 60)
    assert 0 < sound < 60 and len(pricer.rules) == 2


def test_requirements_of_the_arch_rule_points_out() -> None:
    body = '  require dims[0] < dims[1], "wider"\n' + BODIES["stages"]
    assert 0 < agree(space(body, ITEMS), 40)[0] < 40


MISTAKEN = {
    "read": ("depths: int[2] = 1, n = 8 // (depths[0] - 1), m = n", "depths = [{1..3}, {1..4}]"),
    "unread": ("depths: int[2] = 1, spare = 8 // (depths[0] - 1), n = 8, m = 8", "depths = [{1..3}, {1..4}]"),
    "of two draws": ("depths: int[2] = 1, n = 8 // (depths[0] - depths[1]), m = n", "depths = [{1..3}, {1..3}]"),
    "beside another": (
        "depths: int[2] = 1, d = depths[0] - depths[1], n = 8 // (d * d), m = 2 * depths[0]",
        "depths = [{2..4}, {3..4}]",
    ),
    "of the space": ("depths: int[2] = 1, n = 8, m = 8", "let w = {2 | 0 | 1}\ndepths = [{1..3}, 1]\nn = 8 // w"),
    "in an element": ("depths: int[2] = 1, n = 8, m = 8", "depths = [{1..3}, 4 // {2 | 0 | 1}]"),
    "in a role": ("depths: int[2] = 1, n: int = 12 / depths[0], m = n", "depths = [{1..5}, {1..2}]"),
    "in a requirement": ("depths: int[2] = 1, n = 8 // (depths[0] - 1), m = 8", "depths = [{1..3}, 1]\nrequire n <= 8"),
}


@pytest.mark.parametrize(("params", "items"), MISTAKEN.values(), ids=MISTAKEN)
def test_parameters_without_a_value_rule_points_out(params: str, items: str) -> None:
    body = STEM + "  blocks j in depths[0] { x = conv[n](x) }\n  blocks@more j in depths[1] { x = conv[m](x) }"
    assert 0 < agree(space(body, items, params), 40)[0] < 40


def test_mistakes_rule_points_out() -> None:
    items = "dims = [{8 | 10}, {8 | 16}]\ndepths = [1, {1..2}]\nmixers = [{attn | pool}, attn]"  # 4 does not divide 10
    assert 0 < agree(space(BODIES["stages"], items), 40)[0] < 40


def test_a_batch_equals_its_points_one_by_one() -> None:
    pricer = Pricer(space(BODIES["patterns"], ITEMS))
    points = pricer.genome.random(stream(3, 1, 0), 50)
    fresh = Pricer(space(BODIES["patterns"], ITEMS))
    rows = [fresh.price(points[i : i + 1]) for i in reversed(range(50))][::-1]
    together = pricer.price(points)
    assert together.metrics.tolist() == np.concatenate([r.metrics for r in rows]).tolist()
    assert together.hash.tolist() == np.concatenate([r.hash for r in rows]).tolist()


# -- bounds -------------------------------------------------------------------------------------------


def every(pricer: Pricer) -> np.ndarray:
    options = pricer.genome.options
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in options), indexing="ij"), -1).reshape(-1, len(options))
    return np.unique(pricer.genome.canonical(grid.astype(np.int16)), axis=0)


@pytest.mark.parametrize(
    "items", [ITEMS, ITEMS.replace("dims = [{8 | 12 | 16}, {8 | 16}]", "let w = {8 | 12}\ndims = [w, 24 - w]")]
)
def test_no_point_costs_less_than_the_bound(items: str) -> None:
    pricer = Pricer(space(BODIES["stages"], items))
    metrics = pricer.price(every(pricer)).metrics
    rng = np.random.default_rng(5)
    for _ in range(8):
        weights = np.zeros(metrics.shape[1])
        weights[[METRICS.index("params"), METRICS.index("macs")]] = rng.random(2) * (1, 0.01)
        found: Bound = least(pricer, weights)
        costs = metrics @ weights
        assert found.value <= costs.min() * (1 + 1e-12)
        for share in (0.2, 0.6, 0.99, 1.01):
            stopped = least(pricer, weights, share * found.value)
            assert share >= 1 or share * found.value < stopped.value
            assert stopped.value <= found.value and stopped.point.shape == found.point.shape
        if "let" not in items:  # nothing ties the draws of two pieces: the bound is reached
            assert found.value == pytest.approx(costs.min(), rel=1e-12)
            assert pricer.price(found.point).metrics[0] @ weights == pytest.approx(costs.min(), rel=1e-12)


@pytest.mark.parametrize(
    "step",
    ["conv[8, k = 3, s = 2](x)", "linear[4 * (j + 1)](x)", "dwconv[3, s = if j == 2 then 2 else 1](x)"],
)
def test_a_longer_loop_may_make_the_rest_cheaper(step: str) -> None:
    body = STEM + f"  blocks j in depths[0] {{ x = {step} }}\n  x = conv[128](x)"
    pricer = Pricer(space(body, "depths = [{0..3}, 1]"))
    costs = pricer.price(every(pricer)).metrics[:, METRICS.index("macs")]
    assert costs.argmin() > 0
    weights = np.eye(len(METRICS))[METRICS.index("macs")]
    assert least(pricer, weights).value == costs.min()


def test_what_only_some_points_share_is_priced_as_a_whole_from_then_on() -> None:
    body = "  x = conv@stem[8, k = 4, s = 4](img)\n  if depths[0] > 1 { x = windows[2](x) }\n"
    body += "  y = conv@more[dims[0]](x)\n  if depths[0] > 1 { y = merge(y) }\n  x = y"
    sound, pricer = agree(space(body, "dims = [{8 | 12}, 8]\ndepths = [{1..3}, 1]"), 24)
    assert sound == 24 and len(pricer.pieces) == 1
