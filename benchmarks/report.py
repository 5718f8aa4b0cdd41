"""Turns measurements into records, records into JSON files, and those into a table for people.

python -m benchmarks.report           prints the table of everything under benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from archdsl.bench import median_ratio

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("archdsl", "torch", "timm", "lark", "networkx", "numpy", "optuna", "pymoo")


@dataclass(frozen=True)
class Measurement:
    """One claim and what was measured: `value` in `unit`, the bound of its 95 % interval, and the goal it is held to.

    Everything is better small. `detail` says what was run, `samples` how often.
    """

    name: str
    value: float
    unit: str
    samples: int
    upper: float | None = None
    goal: float | None = None
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Whether the goal is met by the interval's bound; the plain value decides where there is none."""
        if self.goal is None:
            return ""
        return "met" if (self.value if self.upper is None else self.upper) <= self.goal else "missed"


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], goal: float | None, detail: str) -> Measurement:
    """The ratio of medians of two interleaved series, with the upper end of its 95 % bootstrap interval."""
    found = median_ratio(ours, theirs)
    return Measurement(name, found.value, "x", len(ours), found.upper, goal, detail)


def machine() -> dict[str, str]:
    """What the numbers depend on: the processor, the system and the versions."""
    facts = {"processor": _processor(), "cores": str(os.cpu_count()), "system": platform.system()}
    facts["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts


def save(suite: str, measurements: Sequence[Measurement]) -> Path:
    """Writes benchmarks/results/<suite>.json and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{suite}.json"
    record = {"suite": suite, "machine": machine(), "measurements": [asdict(m) for m in measurements]}
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def known(suite: str) -> list[Measurement]:
    """What has been measured of a suite on this machine with these versions."""
    path = RESULTS / f"{suite}.json"
    found, measurements = load(path) if path.exists() else ({}, [])
    return measurements if found == machine() else []


def recorded() -> list[Path]:
    """The result files that hold measurements; one of another form has its own page."""
    files = sorted(RESULTS.glob("*.json"))
    return [path for path in files if "measurements" in json.loads(path.read_text(encoding="utf-8"))]


def load(path: Path) -> tuple[dict[str, str], list[Measurement]]:
    """The machine and the measurements of a result file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return record["machine"], [Measurement(**m) for m in record["measurements"]]


def table(measurements: Sequence[Measurement]) -> str:
    """A markdown table, a row a measurement."""
    rows = ["| what | value | 95 % bound | goal | | how |", "|---|---:|---:|---:|---|---|"]
    for m in measurements:
        upper = "" if m.upper is None else _number(m.upper, m.unit)
        goal = "" if m.goal is None else f"<= {_number(m.goal, m.unit)}"
        cells = (m.name, _number(m.value, m.unit), upper, goal, m.verdict, f"{m.detail}, {m.samples} samples")
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def document(paths: Sequence[Path]) -> str:
    """The whole report: a section a result file."""
    sections = []
    for path in sorted(paths):
        facts, measurements = load(path)
        conditions = ", ".join(f"{key} {value}" for key, value in facts.items())
        sections.append(f"### {path.stem}\n\n{conditions}\n\n{table(measurements)}\n")
    return "\n".join(sections)


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the table of measurements as markdown.")
    parser.add_argument("files", nargs="*", type=Path, help="result files (default: all under benchmarks/results)")
    arguments = parser.parse_args()
    print(document(arguments.files or recorded()), end="")


def _number(value: float, unit: str) -> str:
    return f"{value:.3g}{'' if unit == 'x' else ' '}{unit}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
