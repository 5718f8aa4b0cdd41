"""Turns what a user writes of a budget or an objective into a measure of a graph and a bound on it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from archdsl.cost import human
from archdsl.device.model import devices, element_type
from archdsl.diagnostics import did_you_mean, error
from archdsl.search.metrics import METRICS

SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
UNITS = {"FLOPs": "macs", "MACs": "macs", "params": "params", "acts": "activations", "B": "bytes"}
"""What units count: `FLOPs` are multiply-adds as in the papers, `B` bytes moved per sample by an eager run."""
NAMES = {"macs": "MACs", "params": "params", "activations": "activations", "bytes": "bytes"}
OBJECTIVES = ("score", *NAMES)
PLATFORM = r"(?P<device>[A-Za-z]\w*?)(?:x(?P<batch>[1-9]\d{0,5}))?(?:-(?P<dtype>[a-z]+\d+))?"


@dataclass(frozen=True, slots=True, order=True)
class Measure:
    """A number of a graph: a metric per sample, or the predicted seconds a batch takes on a device."""

    metric: str
    """A name in METRICS, "latency", "score", or the name of an evaluator."""
    device: str = ""
    batch: int = 1
    dtype: str = "bf16"

    def __str__(self) -> str:
        if self.metric != "latency":
            return NAMES.get(self.metric, self.metric)
        return f"latency@{self.device}" + (f"x{self.batch}" if self.batch > 1 else "") + self._suffix

    @property
    def _suffix(self) -> str:
        return "" if self.dtype == devices()[self.device].dtype else f"-{self.dtype}"

    @property
    def seconds(self) -> bool:
        """Whether it is a time, predicted or measured."""
        return self.metric == "latency" or self == LOCAL

    def shown(self, value: float) -> str:
        """A value of this measure with its unit."""
        if self.seconds:
            return f"{value * 1e3:.3g} ms"
        if self.metric == "score":
            return f"{value:.2f}"
        return human(round(value)) if self.metric in METRICS else f"{value:.5g}"


LOCAL = Measure("latency:local")
"""Seconds that one image takes on this machine, as the evaluator of that name measures them."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a measure may be."""

    measure: Measure
    limit: float
    text: str
    """As the user wrote it."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Objective:
    """A measure to make small, or large."""

    measure: Measure
    maximize: bool = False

    def __str__(self) -> str:
        return str(self.measure)


def parse_budget(text: str) -> Budget:
    """The budget that `4GFLOPs`, `30Mparams`, `12Macts`, `600MB`, `2ms@h200` or `2ms@local` states.

    Raises E-BUDGET.
    """
    found = re.fullmatch(r"(?P<number>\d{1,15}(?:\.\d{1,15})?)\s*(?P<unit>[A-Za-z]+)(?:@(?P<at>\S+))?", text.strip())
    if found is None:
        raise _unclear(text)
    number, unit, at = float(found["number"]), found["unit"], found["at"]
    if unit in SECONDS:
        if at is None:
            raise error("E-BUDGET", f"`{text}` names no device", help=f"write {text}@{next(iter(devices()))}")
        measure = LOCAL if at.lower() == "local" else _latency(at, text)
        return Budget(measure, _positive(number, text) * SECONDS[unit], text.strip())
    for name, metric in UNITS.items():
        scale = unit.removesuffix(name)
        if unit.endswith(name) and scale in SCALES and at is None:
            return Budget(Measure(metric), _positive(number, text) * SCALES[scale], text.strip())
    raise _unclear(text)


def parse_objective(text: str) -> Objective:
    """The objective that `score`, `macs`, `params`, `activations`, `bytes` or `latency@h200x64` names.

    The score is made large, costs are made small. Raises E-BUDGET.
    """
    name, _, at = text.strip().partition("@")
    if name == "latency" and at:
        return Objective(_latency(at, text))
    lowered = {"flops": "macs", "acts": "activations"}.get(name.lower(), name.lower())
    if lowered not in OBJECTIVES or at:
        raise error(
            "E-BUDGET",
            f"`{text}` is not an objective",
            help=did_you_mean(lowered, OBJECTIVES) or f"one of {', '.join(OBJECTIVES)}, or latency@DEVICE",
        )
    return Objective(Measure(lowered), maximize=lowered == "score")


def _latency(at: str, text: str) -> Measure:
    found = re.fullmatch(PLATFORM, at)
    if found is None:
        raise _unclear(text)
    device = found["device"].lower()
    if device == "local":
        help = "as a budget: 2ms@local, of one image; as an objective: --evaluate latency:local"
        raise error("E-BUDGET", "no latency is predicted for this machine, it is measured", help=help)
    if device not in devices():
        known = (*devices(), "local")
        hint = did_you_mean(device, known) or f"known are {', '.join(known)}"
        raise error("E-BUDGET", f"unknown device `{found['device']}`", help=hint)
    return Measure("latency", device, int(found["batch"] or 1), element_type(devices()[device], found["dtype"] or ""))


def _positive(number: float, text: str) -> float:
    if number <= 0:
        raise error("E-BUDGET", f"nothing costs at most `{text}`", help="a budget is more than 0")
    return number


def _unclear(text: str) -> Exception:
    return error(
        "E-BUDGET",
        f"`{text}` is not a budget",
        help="write a number and a unit: 4GFLOPs, 30Mparams, 12Macts, 600MB, 2ms@h200, 15ms@h200x64, 2ms@local",
    )


assert set(NAMES) <= set(METRICS)
