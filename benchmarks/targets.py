"""Turns every architecture, small and shallow, into a record of where its module can go, and where its reference can.

    python -m benchmarks.targets [--again] [SPEC ...]

`torch.compile(fullgraph=True)` with the backends eager and aot_eager, forward and backward; `torch.export` with a
dynamic batch; linalg through torch-mlir, which its verifier accepts. What comes out of the first three is compared
with the module itself. A spec's record is written as soon as it is made, and a spec whose record was made with the
installed versions is skipped.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from archdsl.backends.mlir import to_mlir
from archdsl.diagnostics import ArchError
from benchmarks.report import RESULTS, machine
from tests.oracle.compare import images
from tests.oracle.twin import declare_torchvision_ops
from tests.oracle.twins import ARCHITECTURES, TWINS

TARGETS = RESULTS / "targets.json"
AGREES = 1e-9
"""Relative difference allowed in float64 between the module and what it was turned into."""


@dataclass(frozen=True)
class Record:
    """What went wrong by target, "" where nothing did; `reference` is the same of the reference's module.

    `file` is where that is written, and `lines` how many of its lines are not empty.
    """

    date: str
    versions: Mapping[str, str]
    ours: Mapping[str, str]
    reference: Mapping[str, str]
    file: str
    lines: int


def records() -> dict[str, Record]:
    """What has been found, by spec."""
    if not TARGETS.exists():
        return {}
    return {spec: Record(**r) for spec, r in json.loads(TARGETS.read_text(encoding="utf-8"))["targets"].items()}


def save(found: Mapping[str, Record]) -> None:
    record = {"suite": "targets", "targets": {spec: asdict(found[spec]) for spec in sorted(found)}}
    TARGETS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    facts = machine()
    return {name: facts[name] for name in ("archdsl", "torch", "timm", "torch-mlir") if name in facts}


def agree(found: Tensor, wanted: Tensor) -> None:
    distance = float((found - wanted).norm() / wanted.norm())
    if not distance <= AGREES:
        raise AssertionError(f"differs by {distance:.1e}")


def compiled(backend: str) -> Callable[[nn.Module, Tensor], None]:
    """A check that the module compiles as one graph, and that logits and the input's gradient are the module's."""

    def check(module: nn.Module, x: Tensor) -> None:
        torch._dynamo.reset()
        found = []
        for function in (module, torch.compile(module, fullgraph=True, backend=backend)):
            module.train().eval()  # some of timm's keep what they computed last in eval mode, with its graph
            image = x.clone().requires_grad_()
            torch.manual_seed(0)
            logits = function(image)
            logits.square().sum().backward()
            found += [logits.detach(), image.grad]
        agree(found[2], found[0])
        agree(found[3], found[1])

    return check


def exported(module: nn.Module, x: Tensor) -> None:
    """Raises where the module cannot be exported for every batch, or computes something else then."""
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    three = torch.cat((x, x[:1].flip(-1)))
    torch.manual_seed(0)
    wanted = module(three)
    torch.manual_seed(0)
    agree(program.module()(three), wanted)


def lowered(module: nn.Module, x: Tensor) -> None:
    """Raises where torch-mlir does not make linalg of the module."""
    to_mlir(copy.deepcopy(module).float(), tuple(x.shape[1:]), "linalg", weights=False)


CHECKS: Mapping[str, Callable[[nn.Module, Tensor], None]] = {
    "compile (eager)": compiled("eager"),
    "compile (aot_eager)": compiled("aot_eager"),
    "export": exported,
    "linalg": lowered,
}


def outcome(check: Callable[[nn.Module, Tensor], None], module: nn.Module, x: Tensor) -> str:
    """The first line of what a check raises, "" where it passes."""
    try:
        check(module, x)
    except ArchError as e:
        return e.diagnostics[0].title
    except Exception as e:  # whatever a compiler of another project raises is the finding
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        return f"{type(e).__name__}: {lines[0] if lines else ''}"[:160]
    return ""


def measure(spec: str) -> Record:
    twin = TWINS[spec]
    pair = twin.pair(**{**twin.tiny, **twin.settled})
    x = images(2, twin.size).double()
    ours = {name: outcome(check, pair.ours.double(), x) for name, check in CHECKS.items()}
    theirs = {name: outcome(check, pair.theirs.double(), x) for name, check in CHECKS.items() if name != "linalg"}
    file = Path(inspect.getfile(type(pair.theirs)))
    lines = sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").splitlines())
    place = "/".join(file.parts[-3:])
    return Record(datetime.now(UTC).date().isoformat(), versions(), ours, theirs, place, lines)


def main() -> None:
    every = [twin.spec for twin in ARCHITECTURES]
    parser = argparse.ArgumentParser(description="Finds which targets every architecture reaches.")
    parser.add_argument("specs", nargs="*", default=every, metavar="SPEC")
    parser.add_argument("--again", action="store_true", help="look at what has been looked at as well")
    arguments = parser.parse_args()
    schemas = declare_torchvision_ops()  # live while timm is in use
    torch.set_num_threads(1)
    found = records()
    for spec in arguments.specs:
        if spec in found and found[spec].versions == versions() and not arguments.again:
            continue
        found[spec] = measure(spec)
        save(found)
        faults = [f"{name}: {fault}" for name, fault in found[spec].ours.items() if fault]
        print(f"{spec}: {'; '.join(faults) or 'all'}", flush=True)
    del schemas


if __name__ == "__main__":
    main()
