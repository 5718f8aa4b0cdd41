"""Turns work and a device's rates into a predicted time: a roofline of one kernel (Williams et al., 2009)."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from archdsl.diagnostics import Span, did_you_mean, error

DTYPES: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes an element."""
PICO = 1e-12


@dataclass(frozen=True)
class Reached:
    """The share of a peak rate that good kernels reach."""

    memory: float
    tensor: float
    vector: float


@dataclass(frozen=True)
class Device:
    """Peak rates of a machine, from the data file of its name, which says where each number comes from."""

    name: str
    title: str
    bandwidth: float
    """Bytes per second of the main memory."""
    tensor: Mapping[str, float]
    """Multiply-adds per second of dense products, by element type."""
    vector: float
    """Multiply-adds, or other instructions on an element, per second of the general cores."""
    launch: float
    """Seconds that a kernel costs at least."""
    cache: float
    """Bytes of the last cache before the main memory."""
    cache_bandwidth: float
    reached: Reached

    @property
    def dtype(self) -> str:
        """The element type that is usual on the device."""
        return next(iter(self.tensor))

    def balance(self, dtype: str) -> float:
        """Multiply-adds a byte at which products and memory take equally long: Lavin's waterline (2404.03617)."""
        return self.tensor[dtype] * self.reached.tensor / (self.bandwidth * self.reached.memory)


@dataclass(frozen=True, slots=True)
class Work:
    """What one kernel does, per sample but for the weights, which move once a batch."""

    matrix: int = 0
    """Multiply-adds of dense products, which matrix units do where there are any."""
    general: int = 0
    """Multiply-adds of the general cores: depthwise convolutions."""
    instructions: int = 0
    """Other instructions of the general cores on elements."""
    elements: int = 0
    """Elements of the operands and results that it reads and writes."""
    weights: int = 0
    """Elements of the weights that it reads."""
    launches: int = 1

    def __add__(self, other: Work) -> Work:
        return Work(
            self.matrix + other.matrix,
            self.general + other.general,
            self.instructions + other.instructions,
            self.elements + other.elements,
            self.weights + other.weights,
            self.launches + other.launches,
        )

    @property
    def macs(self) -> int:
        return self.matrix + self.general

    def bytes(self, batch: int, dtype: str) -> int:
        """Bytes that it reads and writes for a batch."""
        return (self.elements * batch + self.weights) * DTYPES[dtype]

    def limits(self, device: Device, batch: int, dtype: str) -> dict[str, float]:
        """Seconds that each part of the device takes for a batch: they work at the same time, the launch before them.

        What a kernel reads and writes of samples moves at the cache's rate where half of the cache holds it all.
        """
        reached, moved = device.reached, self.elements * batch * DTYPES[dtype]
        near = moved <= device.cache / 2
        memory = device.bandwidth * reached.memory
        rate = max(device.cache_bandwidth, memory) if near else memory
        return {
            "tensor": self.matrix * batch / (device.tensor[dtype] * reached.tensor),
            "vector": (self.general + self.instructions) * batch / (device.vector * reached.vector),
            "memory": moved / rate + self.weights * DTYPES[dtype] / memory,
            "launch": self.launches * device.launch,
        }

    def seconds(self, device: Device, batch: int, dtype: str) -> float:
        found = self.limits(device, batch, dtype)
        return found.pop("launch") + max(found.values())


@functools.cache
def devices() -> Mapping[str, Device]:
    """The known devices by name, those with matrix units first."""
    found = {}
    for path in sorted((Path(__file__).parent / "data").glob("*.toml")):
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Device(path.stem, **{**fields, "reached": Reached(**fields["reached"])})
    return dict(sorted(found.items(), key=lambda entry: -max(entry[1].tensor.values()) * entry[1].bandwidth))


def device(name: str) -> Device:
    """The device of a name. Raises E-DEVICE."""
    known = devices()
    if name.lower() not in known:
        hint = did_you_mean(name.lower(), known) or f"known are {', '.join(known)}"
        raise error("E-DEVICE", f"unknown device `{name}`", help=hint)
    return known[name.lower()]


def element_type(device: Device, dtype: str, span: Span | None = None) -> str:
    """An element type whose products have a rate on the device; the usual one where none is given. Raises E-DEVICE."""
    if dtype and dtype not in device.tensor:
        known = f"known are {', '.join(device.tensor)}"
        raise error("E-DEVICE", f"no rate is known of products in `{dtype}` on {device.name}", span, help=known)
    return dtype or device.dtype
