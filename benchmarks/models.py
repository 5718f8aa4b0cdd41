"""Turns every spec that has a reference into its deviation from it, at the spec's own size and full depth.

    python -m benchmarks.models [--again] [SPEC ...]

With the same random weights, in eval and in training mode: float64 against float64, logits and gradients, and both in
float32 against the reference in float64. A spec's record is written as soon as it is measured, and a spec whose
record was made with the installed versions is skipped.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how far emitted modules are from their references.")
    parser.add_argument("specs", nargs="*", default=[t.spec for t in ARCHITECTURES], metavar="SPEC")
    parser.add_argument("--again", action="store_true", help="measure what has been measured as well")
    arguments = parser.parse_args()
    schemas = declare_torchvision_ops()  # live while timm is in use
    torch.set_num_threads(1)
    found = records()
    for spec in arguments.specs:
        if spec in found and found[spec].versions == versions() and not arguments.again:
            continue
        found[spec] = measure(spec)
        save(found)
        print(f"{spec}: {found[spec].largest:.1e} from {found[spec].reference}", flush=True)
    del schemas


if __name__ == "__main__":
    main()
