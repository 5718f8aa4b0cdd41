"""Turns every spec that has a reference into its deviation from it, at the spec's own size and full depth.

    python -m benchmarks.models [--missing] [--again] [--below GMACS] [--memory GIB] [SPEC ...]

With the same random weights, in eval and in training mode: float64 against float64, logits and gradients, and both in
float32 against the reference in float64. Each spec is measured in a process of its own; its record is written as soon
as it is measured, and a spec whose record was made with the installed versions is skipped. Without SPEC the specs are
one of each architecture, with `--missing` all that have no record, further sizes included, the cheapest first.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import torch

import archdsl
from benchmarks.report import RESULTS, machine
from tests.oracle.compare import Run, deviations, images, run, vanishing_gradients
from tests.oracle.twin import declare_torchvision_ops
from tests.oracle.twins import ARCHITECTURES, TWINS

MODELS = RESULTS / "models.json"
SEED = 0
LARGE = 5_000_000_000
"""Multiply-adds of an image from which on one image has to do; otherwise two."""


@dataclass(frozen=True)
class Deviation:
    """Relative differences in the 2-norm: of the logits, and of the gradient that differs most, named by `worst`."""

    logits: float
    gradients: float
    worst: str

    @staticmethod
    def of(found: Run, exact: Run) -> Deviation:
        left_out = vanishing_gradients(exact)
        relative = {name: d for name, d in deviations(found, exact).items() if name not in left_out}
        logits = relative.pop("logits")
        worst = max(relative, key=lambda name: relative[name])
        return Deviation(logits, relative[worst], worst)


@dataclass(frozen=True)
class Agreement:
    """In one mode: the float64 deviation, and that of our and of the reference's float32 from its float64."""

    exact: Deviation
    float32: Deviation
    reference_float32: Deviation


@dataclass(frozen=True)
class Record:
    """What was measured for one spec, with what, and when; `modes` are "eval" and "training"."""

    reference: str
    input: tuple[int, int, int]
    batch: int
    seed: int
    date: str
    versions: Mapping[str, str]
    modes: Mapping[str, Agreement]

    @property
    def largest(self) -> float:
        """The largest of the float64 deviations."""
        return max(max(a.exact.logits, a.exact.gradients) for a in self.modes.values())

    @staticmethod
    def read(record: Mapping[str, object]) -> Record:
        modes: Mapping[str, Mapping[str, Mapping[str, float | str]]] = record["modes"]  # type: ignore[assignment]
        read = {mode: Agreement(**{k: Deviation(**d) for k, d in parts.items()}) for mode, parts in modes.items()}  # type: ignore[arg-type]
        return Record(**{**record, "input": tuple(record["input"]), "modes": read})  # type: ignore[arg-type]


def records() -> dict[str, Record]:
    """What has been measured, by spec."""
    if not MODELS.exists():
        return {}
    return {spec: Record.read(r) for spec, r in json.loads(MODELS.read_text(encoding="utf-8"))["models"].items()}


def save(found: Mapping[str, Record]) -> None:
    record = {"suite": "models", "models": {spec: asdict(found[spec]) for spec in sorted(found)}}
    MODELS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    facts = machine()
    return {name: facts[name] for name in ("archdsl", "torch", "timm") if name in facts}


def measure(spec: str) -> Record:
    """Compares the spec's module with its reference in eval and in training mode."""
    twin = TWINS[spec]
    batch = 1 if archdsl.cost(spec).macs >= LARGE else 2
    x = images(batch, twin.size, SEED + 1)
    pair = twin.pair()
    ours, theirs, links = pair.ours, pair.theirs, pair.links
    modes = {}
    for mode in ("eval", "training"):
        ours.train(mode == "training")
        theirs.train(mode == "training")
        exact = run(theirs, x, torch.float64, links)
        modes[mode] = Agreement(
            Deviation.of(run(ours, x, torch.float64), exact),
            Deviation.of(run(ours, x, torch.float32), exact),
            Deviation.of(run(theirs, x, torch.float32, links), exact),
        )
    today = datetime.now(UTC).date().isoformat()
    return Record(twin.source, (3, *twin.size), batch, SEED, today, versions(), modes)


def wanted(arguments: argparse.Namespace) -> list[str]:
    """The specs to be measured."""
    found = records()
    if arguments.missing:
        macs = {spec: archdsl.cost(spec).macs for spec in TWINS.keys() - found.keys()}
        return [spec for spec in sorted(macs, key=lambda s: macs[s]) if macs[spec] < arguments.below * 1e9]
    specs = arguments.specs or [twin.spec for twin in ARCHITECTURES]
    return [spec for spec in specs if arguments.again or spec not in found or found[spec].versions != versions()]


def alone(spec: str, memory: float) -> None:
    """Measures a spec in this process, which may hold `memory` GiB."""
    if memory:
        bound = int(memory * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    schemas = declare_torchvision_ops()  # live while timm is in use
    torch.set_num_threads(1)
    start = time.perf_counter()
    record = measure(spec)
    save(records() | {spec: record})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    print(f"{spec}: {record.largest:.1e} from {record.reference}, {seconds:.0f} s, {peak:.1f} GiB", flush=True)
    del schemas


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures how far emitted modules are from their references.")
    parser.add_argument("specs", nargs="*", metavar="SPEC")
    parser.add_argument("--missing", action="store_true", help="measure all that has no record, further sizes included")
    parser.add_argument("--again", action="store_true", help="measure what has been measured as well")
    parser.add_argument(
        "--below", type=float, default=math.inf, metavar="GMACS", help="of what is missing, the cheaper models only"
    )
    parser.add_argument("--memory", type=float, default=0.0, metavar="GIB", help="give up a spec that needs more")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments.specs[0], arguments.memory)
        return 0
    failed = []
    for spec in wanted(arguments):
        command = [sys.executable, "-m", "benchmarks.models", "--alone", "--memory", str(arguments.memory), spec]
        if subprocess.run(command, check=False).returncode:
            failed.append(spec)
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
