"""Turns plans of fusions into checks: every op once, never slower than without, and exact against all choices."""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import networkx as nx
import pytest

from archdsl.api import elaborate
from archdsl.cli import main
from archdsl.device.model import devices
from archdsl.device.plan import eager
from archdsl.ir.graph import Graph, Node
from archdsl.passes import planner
from archdsl.passes.fusions.base import Rule
from archdsl.passes.pipeline import level, optimize
from archdsl.passes.planner import FusionPlan, plan
from archdsl.passes.selection import pieces, select
from tests.specs import SPECS

H200 = devices()["h200"]
MIXED = ("swin_t", "maxvit_t", "poolformer_s12", "convnext_t", "cswin_t", "repvit_m1")
EACH = [pytest.param(s.stem, marks=() if s.stem in MIXED else pytest.mark.full) for s in SPECS]


@functools.cache
def planned(spec: str, batch: int = 64, device: str = "h200", mode: str = "eval") -> FusionPlan:
    machine = devices()[device]
    return plan(optimize(elaborate(spec, mode=mode), level(1)), machine, batch, machine.dtype)


@pytest.fixture(scope="module")
def swin() -> FusionPlan:
    return planned("swin_t")


# -- the choice -----------------------------------------------------------------------------------


def instance(
    seed: int,
) -> tuple[list[list[int]], list[frozenset[int]], list[int], dict[tuple[int, frozenset[int]], int]]:
    """A random partition, options across it, their costs, and what each rest of a group costs."""
    draw = random.Random(seed)
    elements = list(range(draw.randint(1, 9)))
    groups: dict[int, list[int]] = {}
    for i in elements:
        groups.setdefault(draw.randint(i // 2, i // 2 + 1), []).append(i)
    count = draw.randint(0, 7)
    options = [frozenset(draw.sample(elements, draw.randint(1, min(4, len(elements))))) for _ in range(count)]
    costs = [draw.randint(1, 12) for _ in options]
    parts = list(groups.values())
    rests = {
        (g, frozenset(taken)): draw.randint(0, 6)
        for g, group in enumerate(parts)
        for size in range(len(group) + 1)
        for taken in itertools.combinations(group, size)
    }
    return parts, options, costs, rests


@pytest.mark.parametrize("seed", range(60))
def test_no_other_choice_costs_less(seed: int) -> None:
    groups, options, costs, rests = instance(seed)

    def cost(picked: Sequence[int]) -> int:
        taken = frozenset().union(*(options[o] for o in picked))
        left = sum(rests[g, taken & frozenset(group)] for g, group in enumerate(groups))
        return left + sum(costs[o] for o in picked)

    sets = [c for n in range(len(options) + 1) for c in itertools.combinations(range(len(options)), n)]
    apart = [c for c in sets if sum(len(options[o]) for o in c) == len(frozenset().union(*(options[o] for o in c)))]
    found = select(groups, options, costs, lambda g, taken: rests[g, taken])
    assert found.exact and cost(found.picked) == found.cost == min(cost(c) for c in apart)
    assert sorted(found.picked) in [sorted(c) for c in apart]
    narrow = select(groups, options, costs, lambda g, taken: rests[g, taken], states=1)
    assert cost(narrow.picked) == narrow.cost >= found.cost and (narrow.exact <= (narrow.cost == found.cost))


# -- whole networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "tune", "deploy"])
@pytest.mark.parametrize("spec", EACH)
def test_plans_of_what_other_passes_made(spec: str, mode: str) -> None:
    """Layers whose weights are computed, and those of libraries, are no kernels' unless a rule knows them."""
    graph = optimize(elaborate(spec, mode=mode), level(2))
    for written in (False, True):
        found = plan(graph, H200, 64, "bf16", written=written)
        assert found.planned.picoseconds <= min(found.eager.picoseconds, found.inductor.picoseconds)
        assert not written or all(region.written for region in found.regions if region.rule)


@pytest.mark.parametrize("spec", EACH)
def test_every_op_that_runs_is_in_one_region(spec: str) -> None:
    found = planned(spec)
    runs = [path for region in found.regions for path in region.runs]
    assert sorted(runs) == sorted(p for k in eager(found.graph) for p in k.nodes)
    assert len(runs) == len(set(runs))
    assert found.planned.picoseconds <= min(found.eager.picoseconds, found.inductor.picoseconds)
    assert found.planned.launches <= found.eager.launches and found.exact
    ordered(found)


def ordered(found: FusionPlan) -> None:
    """No region waits for itself by way of others."""
    of = {path: i for i, region in enumerate(found.regions) for path in region.runs}
    needs: dict[str, set[int]] = {}  # by node, views included: the regions that its value comes from
    order: nx.DiGraph[int] = nx.DiGraph()
    for node in found.graph.nodes():
        before = set().union(*(needs[v.node] for v in found.graph.operands(node) if v is not None))
        at = of.get(node.path)
        needs[node.path] = before if at is None else {at}
        order.add_edges_from((b, at) for b in before if at is not None and b != at)
    assert nx.is_directed_acyclic_graph(order)


@pytest.mark.parametrize(("device", "batch", "mode"), [("a100", 1, "eval"), ("cpu", 1, "eval"), ("h200", 64, "train")])
def test_other_devices_batches_and_modes(device: str, batch: int, mode: str) -> None:
    found = planned("repvit_m1", batch, device, mode)
    assert found.planned.picoseconds <= min(found.eager.picoseconds, found.inductor.picoseconds)
    ordered(found)
    kernels = [p for r in found.regions if r.rule for p in r.runs]
    assert kernels and (mode == "eval" or not any(found.graph.node(p).op.name == "bn" for p in kernels))
    assert ("forward run alone" in found.text()) == (mode == "train")


def test_classifiers_gain_in_small_batches(swin: FusionPlan) -> None:
    assert "pool_head" in {r.rule for r in planned("swin_t", batch=1).regions}
    assert "pool_head" not in {r.rule for r in swin.regions}


PASS = 96 * 56 * 56 * 2 * 64
"""Bytes of swin_t's first map, once over."""


def bytes_of(found: FusionPlan, rule: str) -> tuple[float, float, float]:
    """What a rule's first region in a network moves in eager, in Inductor and as a kernel, in PASSes."""
    region = next(r for r in found.regions if r.rule == rule)
    prices = region.eager, region.inductor, region.planned
    return prices[0].bytes / PASS, prices[1].bytes / PASS, prices[2].bytes / PASS


def test_swin_by_hand(swin: FusionPlan) -> None:
    """Passes over the map, counted by hand from the ops of a block at its first stage."""
    assert bytes_of(swin, "norm_linear") == pytest.approx((8, 6, 4), rel=0.01), "norm, cut and qkv: 2 + 2 + 4"
    assert bytes_of(swin, "window_attention") == pytest.approx((6, 6, 4), rel=0.01), "q k v to y, and merge"
    assert bytes_of(swin, "project_residual") == pytest.approx((5, 5, 3), rel=0.01)
    assert bytes_of(swin, "mlp") == pytest.approx((23, 23, 2), rel=0.01), "2 + 5 + 8 + 5 + 3, Inductor fuses none"
    assert bytes_of(swin, "patch_merge")[1:] == pytest.approx((3.5, 1.5), rel=0.01)


def test_an_inverted_bottleneck_is_maxvits_largest_gain() -> None:
    rows = [r for r in planned("maxvit_t").rows() if r.region.rule]
    largest = max(rows, key=lambda r: r.saved / r.count)
    assert largest.region.rule == "mbconv" and largest.within == "mbconv"
    share = sum(r.saved for r in rows if r.within == "mbconv") / sum(r.saved for r in rows)
    assert share > 0.4


def test_gelus_instructions_bound_an_mlp(swin: FusionPlan) -> None:
    """A one-kernel MLP of the first stage waits for its GELU, not for its bytes (2 passes at 4.3 TB/s)."""
    region = next(r for r in swin.regions if r.rule == "mlp")
    assert region.planned.seconds > 3 * 2 * PASS / 4.3e12


# -- what is left, and what waits -------------------------------------------------------------------

CHAIN = "language 1\narch a[] { input img: map[64, 56, 56]\n return img |> relu |> linear[64] |> gelu }\n"


@dataclass(frozen=True)
class Apart(Rule):
    """Two ops with another between them."""

    name: ClassVar[str] = "apart"

    def pattern(self, graph: Graph, node: Node) -> tuple[str, ...] | None:
        others = [n.path for n in graph.nodes() if n.op.name == "gelu"]
        return (node.path, *others) if node.op.name == "relu" else None


def test_kernels_that_wait_for_themselves_are_barred() -> None:
    graph = elaborate(CHAIN)
    found = plan(graph, H200, 64, "bf16", (Apart(),))
    assert not [r for r in found.regions if r.rule]
    assert [d.reason for d in found.declined] == ["it and another kernel would wait for each other"]
    assert found.planned == found.inductor
    ordered(found)


def test_what_is_left_of_a_kernel() -> None:
    """Of a chain with a skip, and a branch."""
    reads: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["c"], "e": ["a", "outside"]}
    whole = tuple(reads)

    def left(gone: str) -> set[tuple[str, ...]]:
        return set(pieces(whole, set(whole) - set(gone), reads.__getitem__))

    assert left("") == {whole}
    assert left("b") == {("a", "e"), ("c", "d")}, "c waits for b, which waits for a"
    assert left("c") == {("a", "b", "e"), ("d",)}
    assert left("a") == {("b", "c", "d"), ("e",)}
    assert left("ad") == {("b", "c"), ("e",)}


# -- what is said of it -----------------------------------------------------------------------------


def test_rows_are_regions_that_are_alike(swin: FusionPlan) -> None:
    rows = swin.rows()
    assert sum(r.count for r in rows) == len(swin.regions) and len(rows) < len(swin.regions) / 1.5
    total = sum((r.region.planned * r.count for r in rows), planner.Price())
    assert total == swin.planned
    mlp = next(r for r in rows if r.region.rule == "mlp")
    assert mlp.count == 2 and mlp.ops == ("ln", "linear", "gelu", "linear", "add") and mlp.within == "swin"


def test_as_data(swin: FusionPlan) -> None:
    data = json.loads(json.dumps(swin.as_dict()))
    assert data["left_to"] == "inductor" and data["exact"] is True
    regions = data["regions"]
    for way in ("eager", "inductor", "planned"):
        assert data["total"][way]["seconds"] > 0 and all(r[way]["seconds"] > 0 for r in regions)
    assert sum(r["count"] * r["planned"]["bytes"] for r in regions) == data["total"]["planned"]["bytes"]
    assert sum(r["count"] * r["eager"]["launches"] for r in regions) == data["total"]["eager"]["launches"]
    assert all(d["reason"] and d["count"] > 0 for d in data["declined"])


def test_build_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["build", "swin_t", "-o", str(tmp_path), "--explain"]
    assert main([*arguments, "--device", "a100", "--batch", "8", "--dtype", "fp16"]) == 0
    printed = capsys.readouterr().out
    assert "A100" in printed and "batch 8, fp16" in printed and "--target triton" in printed
    assert "window_attention" in printed and "are too many for a row in a tile" in printed
    assert main([*arguments, "--kernels", "all"]) == 1
    assert "add --target triton" in capsys.readouterr().err
    assert main([*arguments, "--force", "--device", "a101"]) == 1
    assert "E-DEVICE" in capsys.readouterr().err
    assert main(arguments[:-1]) == 0
    assert "window_attention" not in capsys.readouterr().out
