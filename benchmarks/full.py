"""Turns every test, those marked `full` included, into a dated record of what passed.

    python -m benchmarks.full [--again] [--jobs N] [PART ...]

A part is a test file, or a test of the longest ones; each runs in a process of its own, which bounds memory, and is
written down as soon as it ends. Parts that passed at the commit that is checked out are not run again. Exits with 1
where a test failed.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import RESULTS, machine

FULL = RESULTS / "full.json"
ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/full.md"
DIVIDED = ("tests/test_oracle.py", "tests/test_contract.py")
"""Files whose tests are parts of their own."""
INTERRUPTED = (2, 3, 4)
"""pytest's exit statuses of runs that did not end."""


@dataclass(frozen=True)
class Part:
    """One part's last run: `commit` is of the code, "+" after it says that files were changed since."""

    date: str
    commit: str
    machine: Mapping[str, str]
    passed: int
    skipped: int
    failed: Sequence[str]
    minutes: float


def records() -> dict[str, Part]:
    """What is known, by part."""
    if not FULL.exists():
        return {}
    return {name: Part(**p) for name, p in json.loads(FULL.read_text(encoding="utf-8"))["parts"].items()}


def save(found: Mapping[str, Part]) -> None:
    """Writes the file, as a whole or not at all, and the page that shows it, which a test wants up to date."""
    record = {"suite": "full", "parts": {name: asdict(found[name]) for name in sorted(found)}}
    with tempfile.NamedTemporaryFile("w", dir=RESULTS, encoding="utf-8", delete=False) as file:
        file.write(json.dumps(record, indent=2) + "\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(FULL)
    subprocess.run([sys.executable, "-m", "docs.generate", PAGE], cwd=ROOT, check=True, capture_output=True)


def parts() -> list[str]:
    """Every part, the longest files' first."""
    files = [str(p.relative_to(ROOT)) for p in sorted((ROOT / "tests").glob("test_*.py"))]
    out = []
    for file in DIVIDED:
        body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        out += [f"{file}::{f.name}" for f in body if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")]
    return out + [f for f in files if f not in DIVIDED]


def commit() -> str:
    """The short name of the commit that is checked out, with "+" where tracked files differ from it."""
    name = _git("rev-parse", "--short", "HEAD")
    own = (FULL.name, PAGE)
    changed = [line for line in _git("status", "--porcelain", "-uno").splitlines() if not line.endswith(own)]
    return name + "+" * bool(changed)


def run(part: str, name: str) -> Part:
    """Runs one part with pytest. Raises RuntimeError where it does not end."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "full or not full", part]
        start = time.monotonic()
        done = subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, capture_output=True, text=True)
        minutes = (time.monotonic() - start) / 60
        if done.returncode in INTERRUPTED or not report.exists():
            raise RuntimeError(f"{part} did not end: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        suite = next(ET.parse(report).getroot().iter("testsuite"))
    cases = list(suite.iter("testcase"))
    failed = [c.attrib["name"] for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    date = datetime.now(UTC).date().isoformat()
    return Part(date, name, machine(), len(cases) - len(failed) - skipped, skipped, failed, round(minutes, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs every test and writes down what passed.")
    parser.add_argument("part", nargs="*", help="the beginning of parts' names (all)")
    parser.add_argument("--again", action="store_true", help="also those that passed at this commit")
    parser.add_argument("--jobs", type=int, default=1, help="parts at once (1)")
    arguments = parser.parse_args()
    found, now, every = records(), commit(), parts()
    found = {name: found[name] for name in every if name in found}
    asked = [p for p in every if not arguments.part or p.startswith(tuple(arguments.part))]
    due = [p for p in asked if arguments.again or p not in found or found[p].failed or found[p].commit != now]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running = {pool.submit(run, part, now): part for part in due}
        for future in as_completed(running):
            part = running[future]
            found[part] = future.result()
            save(found)
            failed = ", ".join(found[part].failed)
            print(f"{part}: {found[part].passed} passed, {found[part].minutes} min{failed and '; failed: '}{failed}")
    red = [name for name in asked if found[name].failed]
    print(f"{sum(p.passed for p in found.values())} passed, {sum(len(p.failed) for p in found.values())} failed")
    return 1 if red else 0


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
