"""Turns devices, kernels and predicted times into checks: against torch's own dispatch, and against hand counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import networkx as nx
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archdsl.api import elaborate
from archdsl.cli import main
from archdsl.device.model import DTYPES, Device, Work, devices
from archdsl.device.plan import PLANS, eager, inductor
from archdsl.device.roofline import UNITS, latency, roofline
from archdsl.ir.graph import Graph

H200 = devices()["h200"]
MIXED = ("swin_t", "convnext_t", "poolformer_s12", "maxvit_t", "repvit_m1", "cswin_t", "nasnet_a_mobile", "hiera_t")


@pytest.fixture(scope="module", params=MIXED)
def graph(request: pytest.FixtureRequest) -> Graph:
    return elaborate(request.param)


class Counted(TorchDispatchMode):
    """Kernels that eager PyTorch would run, and the elements that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in ("detach", "empty", "_unsafe_view"):
            self.launches += 1
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            self.elements += sum(t.numel() for t in tensors)
        return out


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("convnext_t", "convnext_tiny"),
        ("poolformer_s12", "poolformer_s12"),
        ("inception_next_t", "inception_next_tiny"),
        ("convformer_s18", "convformer_s18"),
    ],
)
def test_an_eager_plan_moves_what_torch_moves(spec: str, model: str) -> None:
    """timm's module on meta tensors, its ops counted as torch dispatches them."""
    import timm

    with torch.device("meta"):
        module = timm.create_model(model).eval()
    with torch.no_grad(), Counted() as counted:
        module(torch.empty(4, 3, 224, 224, device="meta"))
    kernels = eager(elaborate(spec))
    assert sum(k.work.launches for k in kernels) == pytest.approx(counted.launches, rel=0.01)
    assert sum(k.work.bytes(4, "fp32") for k in kernels) / 4 == pytest.approx(counted.elements, rel=0.002)


def test_every_op_that_runs_is_in_one_kernel(graph: Graph) -> None:
    alone = [path for k in eager(graph) for path in k.nodes]
    together = [path for k in inductor(graph) for path in k.nodes]
    assert len(set(alone)) == len(alone) and sorted(alone) == sorted(together)


def test_fused_kernels_can_be_put_in_an_order(graph: Graph) -> None:
    """No kernel waits for itself by way of another."""
    of = {path: i for i, k in enumerate(inductor(graph)) for path in k.nodes}
    needs: dict[str, set[int]] = {}  # by node, views included: the kernels that its value comes from
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(of.values())
    for node in graph.nodes():
        before = set().union(*(needs[v.node] for v in graph.operands(node) if v is not None))
        at = of.get(node.path)
        needs[node.path] = before if at is None else {at}
        order.add_edges_from((b, at) for b in before if at is not None and b != at)
    assert nx.is_directed_acyclic_graph(order)


def test_fusing_saves_bytes_and_launches_and_no_products(graph: Graph) -> None:
    one, other = (sum((k.work for k in plan(graph)), Work(launches=0)) for plan in (eager, inductor))
    assert other.launches < one.launches and other.elements < one.elements
    assert (one.matrix, one.general) == (other.matrix, other.general)


def test_a_linear_by_hand(tmp_path: Any) -> None:
    spec = tmp_path / "one.arch"
    spec.write_text("language 1\narch one[] { input img: map[64, 8, 8]\n return linear@fc[32](img) }\n")
    (kernel,) = eager(elaborate(spec))
    assert kernel.work == Work(64 * 64 * 32, 0, 64 * 64, 64 * 64 + 64 * 32, 64 * 32 + 32, 1)
    assert kernel.work.bytes(10, "bf16") == 2 * (10 * (64 * 64 + 64 * 32) + 64 * 32 + 32)


def test_what_limits_a_kernel() -> None:
    flat = Device("flat", "", 100.0, {"fp32": 1000.0}, 10.0, 5.0, 0.0, 100.0, reached=type(H200.reached)(0.5, 0.1, 1.0))
    assert Work(matrix=7).limits(flat, 2, "fp32") == {"tensor": 14 / 100, "vector": 0, "memory": 0, "launch": 5.0}
    assert Work(elements=3, weights=4).limits(flat, 2, "fp32")["memory"] == 4 * (3 * 2 + 4) / 50
    assert Work(general=3, instructions=2).seconds(flat, 2, "fp32") == 5.0 + 1.0
    near = Device("near", "", 100.0, {"fp32": 1.0}, 1.0, 0.0, 80.0, 400.0, reached=type(H200.reached)(0.5, 1.0, 1.0))
    assert Work(elements=10).limits(near, 1, "fp32")["memory"] == 40 / 400, "all of it in half of the cache"
    assert Work(elements=11).limits(near, 1, "fp32")["memory"] == 44 / 50
    assert Work(weights=10).limits(near, 1, "fp32")["memory"] == 40 / 50, "weights come from memory"


@pytest.mark.parametrize("name", devices())
def test_a_device_states_what_the_model_reads(name: str) -> None:
    device = devices()[name]
    assert "fp32" in device.tensor and set(device.tensor) <= set(DTYPES)
    assert all(0 < share <= 1 for share in (device.reached.memory, device.reached.tensor, device.reached.vector))
    assert device.cache_bandwidth > device.bandwidth and device.launch > 0
    assert max(device.tensor.values()) >= device.vector


def test_the_rows_of_a_roofline_add_up(graph: Graph) -> None:
    for level in ("stage", "block", "op"):
        found = roofline(graph, H200, 8, "bf16", "inductor", level)
        assert sum(r.seconds for r in found.rows) == pytest.approx(found.total.seconds)
        assert sum(r.macs for r in found.rows) == found.total.macs
        assert sum(r.launches for r in found.rows) == found.total.launches
        assert all(0 <= r.efficiency <= 1 and r.waits in UNITS for r in found.rows)


def test_the_latency_of_a_search_is_that_of_the_eager_plan(graph: Graph) -> None:
    found = roofline(graph, H200, 64, "bf16").total.seconds
    assert latency(graph, H200, 64, "bf16") * 1e-12 == pytest.approx(found, rel=1e-6)


PUBLISHED = {
    "swin_t": (2749, 5020),
    "convnext_t": (4815, 6698),
    "poolformer_s12": (5800, 10395),
    "maxvit_t": (1876, 2532),
}
"""Images a second of timm's twins on an RTX 4090, mixed precision, eager and compiled: timm's results tables."""


def rates() -> Iterator[tuple[float, float]]:
    for spec, measured in PUBLISHED.items():
        graph = elaborate(spec)
        for plan, published in zip(PLANS, measured, strict=True):
            found = roofline(graph, devices()["rtx4090"], 256, "bf16", plan)
            yield 256 / found.total.seconds, published


def test_published_rates_stay_below_the_roofline_and_near_it() -> None:
    """A bound that real kernels reach to between 0.4 and 1."""
    for bound, published in rates():
        assert 0.4 <= published / bound <= 1


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "swin_t", "--device", "H200", "--batch", "64", "--dtype", "bf16", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["batch"], found["dtype"], found["plan"]) == ("h200", 64, "bf16", "eager")
    assert found["total"]["macs"] == 64 * sum(row["macs"] for row in found["rows"]) // 64
    assert main(["cost", "swin_t", "--device", "cpu"]) == 0
    assert "fp32" in capsys.readouterr().out, "what a CPU computes with, where nothing is said"
