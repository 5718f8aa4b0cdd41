"""Turns every architecture's kernels, compiled for GPUs that are not there, into a record of what they take of one.

    python -m benchmarks.kernels [--again] [SPEC ...]

Of each architecture, at the size it is declared for and in bfloat16, what a forward run and a training step launch is
compiled for sm_80, sm_90 and sm_100. A spec's record is written as soon as it is made; one that was made with the
installed versions and the same kernels is skipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from archdsl.api import compile_spec
from archdsl.passes.fuse import Fuse
from archdsl.passes.pipeline import level, with_kernels
from archdsl.resources import template_dir
from benchmarks.report import RESULTS
from tests.compiled import CAPABILITIES, SHARED_MEMORY, launches, package
from tests.oracle.twins import ARCHITECTURES

KERNELS = RESULTS / "kernels.json"
EVERYWHERE = with_kernels(level(1), Fuse("all"))
"""Kernels wherever a rule has one, whatever a plan would say."""


@dataclass(frozen=True)
class Taken:
    """The most that any launch of a kernel takes: registers and spilled bytes a thread, shared memory in bytes."""

    launches: int
    registers: int
    spilled: int
    shared: int
    matrix_units: bool
    wide_loads: bool


@dataclass(frozen=True)
class Record:
    """What an architecture's kernels take, by kernel and capability."""

    date: str
    versions: Mapping[str, str]
    kernels: str
    """A digest of the kernels' source."""
    taken: Mapping[str, Mapping[str, Taken]]


def records() -> dict[str, Record]:
    """What is known, by spec."""
    if not KERNELS.exists():
        return {}
    stored = json.loads(KERNELS.read_text(encoding="utf-8"))["kernels"]
    return {spec: _record(fields) for spec, fields in stored.items()}


def _record(fields: dict[str, object]) -> Record:
    taken = fields["taken"]
    assert isinstance(taken, dict)
    made = {k: {c: Taken(**numbers) for c, numbers in by.items()} for k, by in taken.items()}
    return Record(**{**fields, "taken": made})  # type: ignore[arg-type]


def save(found: Mapping[str, Record]) -> None:
    record = {"suite": "kernels", "kernels": {spec: asdict(found[spec]) for spec in sorted(found)}}
    place = KERNELS.with_suffix(".tmp")
    place.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    place.replace(KERNELS)


def digest() -> str:
    """Of all kernels' templates."""
    texts = [p.read_text(encoding="utf-8") for p in sorted((template_dir() / "triton").glob("*.j2"))]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def compiled(spec: str) -> dict[str, dict[str, Taken]]:
    """What the kernels of a spec take, by kernel and capability; {} where it has none."""
    artefact = compile_spec(spec, passes=EVERYWHERE)
    if "kernels.py" not in artefact.files:
        return {}
    made = package(artefact.files)
    module = getattr(made, artefact.name)()
    shape = (2, *artefact.input)
    found = [one for train in (False, True) for one in launches(made, module, shape, torch.bfloat16, train)]
    out: dict[str, dict[str, Taken]] = {}
    for name in dict.fromkeys(one.name for one in found):
        same = [one for one in dict.fromkeys(found) if one.name == name]
        for capability in CAPABILITIES:
            all_of = [one.compile(capability) for one in same]
            out.setdefault(name, {})[f"sm_{capability}"] = Taken(
                len(same),
                max(c.registers for c in all_of),
                max(c.spilled for c in all_of),
                max(c.shared for c in all_of),
                all(c.matrix_units for c in all_of),
                all(c.wide_loads for c in all_of),
            )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description="Compiles every architecture's kernels for GPUs.")
    parser.add_argument("spec", nargs="*", help="architectures (all)")
    parser.add_argument("--again", action="store_true", help="also those that were compiled as they are")
    arguments = parser.parse_args()
    found, source = records(), digest()
    facts = {name: version(name) for name in ("torch", "triton")}
    for spec in arguments.spec or [t.spec for t in ARCHITECTURES]:
        known = found.get(spec)
        if known and not arguments.again and (known.kernels, known.versions) == (source, facts):
            continue
        found[spec] = Record(datetime.now(UTC).date().isoformat(), facts, source, compiled(spec))
        save(found)
        every = [(c, t) for each in found[spec].taken.values() for c, t in each.items()]
        over = sum(t.shared > SHARED_MEMORY[int(c.removeprefix("sm_"))] for c, t in every)
        most = max((t.spilled for _, t in every), default=0)
        print(f"{spec}: {len(found[spec].taken)} kernels, at most {most} bytes spilled, {over} too large")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
