"""Turns kernels and a device into a table: what each part of a network takes, and what it waits for.

A kernel is limited by its products, its other instructions or its bytes. Of a sequence of kernels the efficiency is
the time that its products alone would take at the peak rate over the time that it takes; kernels with fewer
multiply-adds a byte than the waterline wait for memory (arXiv 2404.03617).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archdsl.cost import human, price
from archdsl.device.model import PICO, Device, Work
from archdsl.device.plan import PLANS, Kernel
from archdsl.ir.graph import Graph

if TYPE_CHECKING:
    from rich.table import Table

UNITS = {"tensor": "products", "vector": "instructions", "memory": "memory", "launch": "launches"}
"""What a row waits for most, in words."""


@dataclass(frozen=True)
class Row:
    """Kernels of one part of the network, for a whole batch."""

    name: str
    launches: int
    macs: int
    bytes: int
    seconds: float
    ideal: float
    """Seconds of the multiply-adds alone, at the peak rate of products."""
    waits: str
    """A key of UNITS: what most of the time is spent on."""

    @property
    def intensity(self) -> float:
        """Multiply-adds a byte."""
        return self.macs / self.bytes if self.bytes else 0.0

    @property
    def efficiency(self) -> float:
        """Share of the peak rate of products."""
        return self.ideal / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Roofline:
    """The predicted time of a batch, by parts of the network."""

    name: str
    mode: str
    input: tuple[int, ...]
    device: Device
    batch: int
    dtype: str
    plan: str
    level: str
    rows: tuple[Row, ...]
    total: Row

    @property
    def waterline(self) -> float:
        """Multiply-adds a byte."""
        return self.device.balance(self.dtype)

    def as_dict(self) -> dict[str, object]:
        return {
            "name": self.name,
            "mode": self.mode,
            "input": list(self.input),
            "device": self.device.name,
            "batch": self.batch,
            "dtype": self.dtype,
            "plan": self.plan,
            "waterline": self.waterline,
            "total": _entry(self.total),
            "per": self.level,
            "rows": [_entry(row) for row in self.rows],
        }

    def table(self) -> Table:
        from rich import box
        from rich.table import Table

        shape = "x".join(map(str, self.input))
        title = f"{self.name}, input {shape}, {self.mode}: {self.device.title}, batch {self.batch}, {self.dtype}"
        table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_footer=True)
        all = self.total
        table.add_column(self.level, "total", no_wrap=True)
        table.add_column("launches", str(all.launches), justify="right")
        table.add_column("MACs", human(all.macs), justify="right")
        table.add_column("bytes", human(all.bytes), justify="right")
        table.add_column("MACs/byte", f"{all.intensity:.1f}", justify="right")
        table.add_column("time", duration(all.seconds), justify="right")
        table.add_column("share", "", justify="right")
        table.add_column("efficiency", f"{all.efficiency:.0%}", justify="right")
        table.add_column("waits for", UNITS[all.waits])
        for row in self.rows:
            share = f"{row.seconds / all.seconds:.1%}" if all.seconds else ""
            numbers = (human(row.macs), human(row.bytes), f"{row.intensity:.1f}", duration(row.seconds), share)
            waits = UNITS[row.waits] if row.seconds else ""
            table.add_row(row.name, str(row.launches), *numbers, f"{row.efficiency:.0%}", waits)
        return table

    def summary(self) -> str:
        """How the numbers are to be read."""
        rate = self.batch / self.total.seconds if self.total.seconds else 0.0
        return (
            f"predicted for the kernels of {self.plan}, not measured: {duration(self.total.seconds)} a batch, "
            f"{rate:,.0f} images a second; waterline {self.waterline:.0f} MACs a byte"
        )


def roofline(
    graph: Graph, device: Device, batch: int, dtype: str, plan: str = "eager", level: str = "stage"
) -> Roofline:
    """The roofline of a plan (a key of PLANS) by "stage", "block" or "op": a kernel stands where its last op does."""
    costs = price(graph)
    place = {o.path: {"stage": o.stage, "block": o.block, "op": o.path}[level] for o in costs.ops}
    kernels = PLANS[plan](graph)
    parts: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        parts.setdefault(place[kernel.nodes[-1]], []).append(kernel)
    rows = tuple(_row(name, group, device, batch, dtype) for name, group in parts.items())
    total = _row("total", kernels, device, batch, dtype)
    return Roofline(graph.name, graph.mode, costs.input, device, batch, dtype, plan, level, rows, total)


def latency(graph: Graph, device: Device, batch: int, dtype: str) -> int:
    """Picoseconds that a batch is predicted to take op by op: a whole number each, so that any order sums the same.

    What no kernel computes (views) takes no time. Real kernels are slower than their roofline.
    """
    return sum(round(k.work.seconds(device, batch, dtype) / PICO) for k in PLANS["eager"](graph))


def _row(name: str, kernels: Sequence[Kernel], device: Device, batch: int, dtype: str) -> Row:
    spent = dict.fromkeys(UNITS, 0.0)
    seconds, work = 0.0, Work(launches=0)
    for kernel in kernels:
        limits = kernel.work.limits(device, batch, dtype)
        launch = limits.pop("launch")
        most = max(limits, key=lambda unit: limits[unit])
        spent["launch"] += launch
        spent[most] += limits[most]
        seconds += launch + limits[most]
        work += kernel.work
    macs = work.macs * batch
    ideal = macs / device.tensor[dtype]
    waits = max(spent, key=lambda unit: spent[unit])
    return Row(name, work.launches, macs, work.bytes(batch, dtype), seconds, ideal, waits)


def _entry(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "launches": row.launches,
        "macs": row.macs,
        "bytes": row.bytes,
        "intensity": row.intensity,
        "seconds": row.seconds,
        "efficiency": row.efficiency,
        "waits_for": UNITS[row.waits],
    }


def duration(seconds: float) -> str:
    """In words, three digits: 0.0027 -> 2.7 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale or unit == "us":
            return f"{seconds / scale:.3g} {unit}"
    raise AssertionError
