"""Turns a graph and a device into a predicted time: a roofline on bytes and multiply-adds, an op at a time."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from archdsl.cost import Costs
from archdsl.ir.graph import Graph
from archdsl.search.metrics import MATRIX, kind_of

DTYPES: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes an element."""
PICO = 1e-12


@dataclass(frozen=True)
class Device:
    """Peak rates: bytes and multiply-adds a second, seconds a launch. From the maker's data sheet."""

    name: str
    bandwidth: float
    launch: float
    dense: Mapping[str, float]
    vector: Mapping[str, float]


@functools.cache
def devices() -> Mapping[str, Device]:
    """The known devices by name."""
    text = (Path(__file__).parent / "data" / "devices.toml").read_text(encoding="utf-8")
    return {name: Device(name, **fields) for name, fields in tomllib.loads(text).items()}


def latency(graph: Graph, costs: Costs, device: Device, batch: int, dtype: str) -> float:
    """Picoseconds that one batch takes at least, unfused: of every op the greater of its bytes' and products' time.

    Whole numbers an op, so that sums are exact in any order. Weights move once a batch. What no kernel computes
    (views) takes no time. Real kernels are slower than the roofline, so that these numbers rank designs and are no
    measurement.
    """
    scale = DTYPES[dtype] / costs.width
    total = 0
    for op in costs.ops:
        node = graph.node(op.path)
        if node.op.view:  # type: ignore[attr-defined]
            continue
        weights = op.cost.params * costs.width
        moved = ((op.cost.bytes - weights) * batch + weights) * scale
        rates = device.dense if kind_of(graph, op.path) in MATRIX else device.vector
        seconds = max(moved / device.bandwidth, op.cost.macs * batch / rates[dtype]) + device.launch
        total += round(seconds / PICO)
    return float(total)
