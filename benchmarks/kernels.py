"""Turns every architecture's kernels, compiled for GPUs that are not there, into a record of what they take of one.

    python -m benchmarks.kernels [--again] [SPEC ...]

Of each architecture, at the size it is declared for and in bfloat16, what a forward run and a training step launch is
compiled for sm_80, sm_90 and sm_100. A spec's record is written as soon as it is made; one that was made with the
installed versions and the same kernels is skipped. What one kernel takes with the same constants and types is compiled
once for all specs, and kept in the user's cache directory, also where a run is interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from archdsl.api import Artefact, compile_spec
from archdsl.backends.launches import CAPABILITIES, SHARED_MEMORY, Launch, launches, source_of
from archdsl.passes.fuse import Fuse
from archdsl.passes.pipeline import level, with_kernels
from benchmarks.report import RESULTS
from tests.compiled import package
from tests.oracle.twins import ARCHITECTURES

KERNELS = RESULTS / "kernels.json"
EVERYWHERE = with_kernels(level(1), Fuse("all"))
"""Kernels wherever a rule has one, whatever a plan would say."""
FIRST = ("swin_t", "convnext_t", "poolformer_s12", "maxvit_t", "swinv2_t")


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
    """A digest of the spec's kernels.py."""
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


def cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "archdsl" / "compiled.jsonl"


@dataclass
class Compiler:
    """Compiles a launch once: what it takes is read back wherever the same source, types and constants come again."""

    versions: Mapping[str, str]
    known: dict[str, Taken] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if cache().exists():
            for line in cache().read_text(encoding="utf-8").splitlines():
                key, fields = json.loads(line)
                self.known[key] = Taken(**fields)

    def taken(self, launch: Launch, capability: int) -> Taken:
        facts = (
            launch.signature,
            launch.constants,
            launch.divisible,
            launch.options,
            capability,
            sorted(self.versions.items()),
        )
        key = hashlib.sha256(f"{source_of(launch.kernel)}{facts}".encode()).hexdigest()[:24]
        if key not in self.known:
            c = launch.compile(capability)
            self.known[key] = Taken(1, c.registers, c.spilled, c.shared, c.matrix_units, c.wide_loads)
            cache().parent.mkdir(parents=True, exist_ok=True)
            with cache().open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, asdict(self.known[key])]) + "\n")
        return self.known[key]


def compiled(artefact: Artefact, compiler: Compiler) -> dict[str, dict[str, Taken]]:
    """What the kernels of a spec take, by kernel and capability; {} where it has none."""
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
            every = [compiler.taken(one, capability) for one in same]
            out.setdefault(name, {})[f"sm_{capability}"] = Taken(
                len(same),
                max(t.registers for t in every),
                max(t.spilled for t in every),
                max(t.shared for t in every),
                all(t.matrix_units for t in every),
                all(t.wide_loads for t in every),
            )
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description="Compiles every architecture's kernels for GPUs.")
    parser.add_argument("spec", nargs="*", help="architectures (all)")
    parser.add_argument("--again", action="store_true", help="also those that were compiled as they are")
    arguments = parser.parse_args()
    facts = {name: version(name) for name in ("torch", "triton")}
    compiler, failed = Compiler(facts), []
    for spec in arguments.spec or [*FIRST, *(t.spec for t in ARCHITECTURES if t.spec not in FIRST)]:
        try:
            artefact = compile_spec(spec, passes=EVERYWHERE)
            digest = hashlib.sha256(artefact.files.get("kernels.py", "").encode()).hexdigest()[:12]
            known = records().get(spec)
            if known and not arguments.again and (known.kernels, known.versions) == (digest, facts):
                continue
            taken = compiled(artefact, compiler)
        except Exception as e:  # of Triton, which has many kinds: the others are compiled all the same
            failed.append(spec)
            print(f"{spec}: {type(e).__name__}: {e}", flush=True)
            continue
        one = Record(datetime.now(UTC).date().isoformat(), facts, digest, taken)
        save(records() | {spec: one})
        every = [(c, t) for each in one.taken.values() for c, t in each.items()]
        over = sum(t.shared > SHARED_MEMORY[int(c.removeprefix("sm_"))] for c, t in every)
        most = max((t.spilled for _, t in every), default=0)
        print(f"{spec}: {len(one.taken)} kernels, at most {most} bytes spilled, {over} too large", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
