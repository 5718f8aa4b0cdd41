"""Turns the compiler's start-up, elaboration and pricing into ratios and times.

    python -m benchmarks.frontend [--rounds 15]

Whole processes are held against `import torch` in the same run, interleaved, by user and system time together,
so that neither the machine nor what else runs on it decides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from archdsl.cost import price
from archdsl.frontend.program import Program
from benchmarks.report import Measurement, ratio, save, table

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "specs" / "swin_t.arch"
DEPTHS = (2, 20, 200, 2000)


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of a process and its children. Raises RuntimeError where it fails."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime


def processes(rounds: int) -> list[Measurement]:
    """`archdsl check` and `archdsl build` against `import torch`."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as scratch:
        commands = {
            "torch": [python, "-c", "import torch"],
            "check": [python, "-m", "archdsl", "check", str(SPEC)],
            "build": [python, "-m", "archdsl", "build", str(SPEC), "-o", scratch, "--force"],
        }
        for command in commands.values():
            processor_seconds(command)
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                taken[name].append(processor_seconds(command))
    how = "whole processes, user + system time"
    return [
        ratio("`archdsl check specs/swin_t.arch` / `import torch`", taken["check"], taken["torch"], 0.25, how),
        ratio("`archdsl build specs/swin_t.arch` / `import torch`", taken["build"], taken["torch"], 0.40, how),
    ]


def milliseconds(program: Program, depths: Sequence[int], rounds: int) -> list[float]:
    """Processor time to elaborate and price swin_t with these depths, the spec being parsed already."""
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        price(program.elaborate("swin_t", overrides={"depths": list(depths)}))
        taken.append(1e3 * (time.process_time() - start))
    return taken[1:]


def elaboration(rounds: int) -> list[Measurement]:
    """One candidate of a search: elaborate and price, at the published depth and at growing ones."""
    program = Program.open(SPEC)
    taken = milliseconds(program, (2, 2, 6, 2), 3 * rounds)
    how = "in process, processor time"
    out = [Measurement("elaborate and price swin_t", statistics.median(taken), "ms", len(taken), goal=25, detail=how)]
    per_block = []
    for blocks in DEPTHS:
        samples = max(3, min(rounds, 2000 // blocks))
        taken = milliseconds(program, (1, 1, blocks, 1), samples)
        per_block.append(statistics.median(taken) / (blocks + 3))
        out.append(
            Measurement(f"the same, {blocks} blocks in stage 2, a block", per_block[-1], "ms", len(taken), detail=how)
        )
    growth = per_block[-1] / per_block[-2]
    about = f"a block's time at {DEPTHS[-1]} blocks over that at {DEPTHS[-2]}"
    out.append(Measurement("linear in depth", growth, "x", 1, goal=1.5, detail=about))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures start-up, elaboration and pricing.")
    parser.add_argument("--rounds", type=int, default=15, help="how often each process runs")
    rounds = parser.parse_args().rounds
    measurements = processes(rounds) + elaboration(rounds)
    save("frontend", measurements)
    print(table(measurements))


if __name__ == "__main__":
    main()
