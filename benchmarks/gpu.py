"""Turns every way to run four models on a GPU into times, memory, kernels and errors, cell by cell.

    python -m benchmarks.gpu [--models MODEL ...] [--cells PATTERN ...] [--rows PATTERN ...] [--budget SECONDS]
    python -m benchmarks.gpu --check [--tiny] [--models MODEL ...] [--budget SECONDS]
    python -m benchmarks.gpu --smoke

A cell is a model, a type, a batch and inference or training, as in `bf16/256/inference`; a row is a way to run it. All
rows of a cell take turns in one process with the same weights. A cell is written down as soon as it ends, and rows that
are written down for the same emitted code, hardware and versions are not measured again. No cell is begun after the
budget, and no row a minute after it: what is left joins the others when the command is given again. `--check` compares
kernels with float64 (benchmarks/gpu_check.py). `--smoke` needs no GPU and measures nothing: it runs small models on the
CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch._dynamo
from torch import Tensor

from benchmarks import full
from benchmarks.gpu_ways import AMP, BF16, GRAPHS, INFERENCE, TRAIN, WAYS, Cell, Place, Step, Subject, Way, captured
from benchmarks.report import RESULTS, machine
from tests.oracle.twin import declare_torchvision_ops
from tests.oracle.twins import TWINS

GPU = RESULTS / "gpu.json"
MODELS = ("swin_t", "convnext_t", "poolformer_s12", "maxvit_t")
NAMES = (
    f"{BF16}/256/{INFERENCE}",
    f"{AMP}/64/{TRAIN}",
    f"{BF16}/1/{INFERENCE}",
    f"{BF16}/64/{INFERENCE}",
    f"{AMP}/256/{INFERENCE}",
    f"{AMP}/256/{TRAIN}",
    f"{BF16}/64/{TRAIN}",
    f"{AMP}/64/{INFERENCE}",
    f"{AMP}/1/{INFERENCE}",
    f"{BF16}/256/{TRAIN}",
)
"""Every cell of a model, in the order in which they are measured: a budget is spent on the first."""
SMALL = tuple(f"{dtype}/{how}" for dtype in (BF16, AMP) for how in (f"1/{INFERENCE}", f"2/{INFERENCE}", f"2/{TRAIN}"))
GOALS: Mapping[str, Mapping[str, float]] = {
    f"{BF16}/256/{INFERENCE}": {"swin_t": 1.10, "convnext_t": 1.03, "poolformer_s12": 1.10, "maxvit_t": 1.20},
    f"{AMP}/64/{TRAIN}": dict.fromkeys(MODELS, 1.0),
    f"{AMP}/256/{TRAIN}": dict.fromkeys(MODELS, 1.0),
}
"""How many times as fast as the best of timm's rows ours should be."""
ROUNDS, WARM_UPS = 50, 10
SAMPLE = 0.02
"""Seconds that a sample takes at least, by repeating short steps, so that the launch of the first counts little."""
GRACE = 60.0
"""Seconds after the budget in which rows of a cell that was begun are still begun."""
REPLAYED = ", replayed"
READ = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")
"""What nvidia-smi is asked."""


class DeviceLost(Exception):
    """A row's step broke the process's connection with the GPU, so that nothing can run there any more."""


@dataclass(frozen=True)
class Row:
    """What was measured of a way, or why nothing was. `run` is when its cell was begun: rows of one run took turns.

    `seconds` are quartiles of a step's. `peak` is in bytes, without the images and what other rows hold. `cached` of
    the graphs that were compiled came from a cache. `rms` and `largest` are errors against float64, relative to the
    root mean square and to the largest of what is exact: of logits, and where the cell trains of the gradient of the
    images, which the module gives uncompiled in eval mode.
    """

    run: str
    error: str = ""
    seconds: Sequence[float] = ()
    samples: int = 0
    peak: int | None = None
    kernels: int | None = None
    compiling: float | None = None
    cached: int = 0
    rms: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Record:
    """A cell's rows and what they depend on; `state` is what was read of the GPU when the last run began."""

    date: str
    commit: str
    code: str
    hardware: Mapping[str, str]
    versions: Mapping[str, str]
    state: Mapping[str, str]
    rows: Mapping[str, Row]

    def like(self, other: Record) -> bool:
        """Whether the same would be measured again."""
        return (self.code, self.hardware, self.versions) == (other.code, other.hardware, other.versions)


@dataclass
class Contender:
    """A row that takes part: its step and images, how many steps make a sample, and the samples."""

    row: Row
    step: Step
    images: Sequence[Tensor]
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)

    def done(self) -> Row:
        if self.row.error:
            return self.row
        return replace(self.row, seconds=_quartiles(self.seconds), samples=len(self.seconds))


def records(path: Path = GPU) -> dict[str, Record]:
    """What is known, by cell."""
    if not path.exists():
        return {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {
        key: Record(**{**r, "rows": {name: Row(**row) for name, row in r["rows"].items()}}) for key, r in cells.items()
    }


def save(found: Mapping[str, Record], path: Path) -> None:
    """Writes the file, as a whole or not at all."""
    write({"suite": "gpu", "cells": {key: asdict(found[key]) for key in sorted(found)}}, path)


def write(record: Mapping[str, object], path: Path) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        file.write(json.dumps(record, indent=1) + "\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def hardware(place: Place) -> dict[str, str]:
    facts = {"processor": machine()["processor"], "cores": machine()["cores"]}
    if not place.gpu:
        return {"gpu": "none", **facts}
    known = torch.cuda.get_device_properties(place.device)
    memory = f"{known.total_memory / 2**30:.0f} GiB"
    return {"gpu": known.name, "memory": memory, "driver": state(place).get("driver_version", ""), **facts}


def state(place: Place) -> dict[str, str]:
    """What nvidia-smi says, if it says anything."""
    command = ["nvidia-smi", f"--query-gpu={','.join(READ)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60) if place.gpu else None
    except (OSError, subprocess.SubprocessError):
        return {}
    return {} if done is None else dict(zip(READ, (s.strip() for s in done.stdout.split(",")), strict=False))


def versions() -> dict[str, str]:
    facts = machine()
    found = {name: facts[name] for name in ("torch", "timm", "python") if name in facts}
    with contextlib.suppress(PackageNotFoundError):
        found |= {"triton": version("triton")}
    return found | ({"cuda": torch.version.cuda} if torch.version.cuda else {})


def commit() -> str:
    """The commit that is checked out, "" where there is no repository."""
    try:
        return full.commit()
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure(
    subject: Subject, ways: Sequence[Way], rounds: int, warm_ups: int, run: str, until: float
) -> Iterator[tuple[str, Row]]:
    """Rows by name. Those that fail come first. Raises DeviceLost after the row that did it.

    Ways that are not begun before `until` are left out.
    """
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 64  # of timm's classes there is an instance a row
    images = subject.inputs()
    exact = subject.exact(images[0]).double()
    running: dict[str, Contender] = {}
    for way in ways:
        if running and time.monotonic() > until:
            break
        reason = ""
        try:
            for name, contender in prepared(subject, way, images, exact, warm_ups, run):
                running[name] = contender
        except Exception as e:  # whatever a compiler or a kernel raises is the finding
            reason = _reason(e)
        if reason:
            yield way.name + REPLAYED * (way.name in running), Row(run, reason)
            cleared(subject.place)
    names = list(running)
    for number in range(rounds):
        for name in names if number % 2 else names[::-1]:
            one = running[name]
            if one.row.error:
                continue
            try:
                one.seconds.append(sample(subject.place, one, number))
            except Exception as e:
                one.row = Row(run, _reason(e))
            if one.row.error:
                yield name, one.row
                cleared(subject.place)
    yield from ((name, one.done()) for name, one in running.items())


def prepared(
    subject: Subject, way: Way, images: Sequence[Tensor], exact: Tensor, warm_ups: int, run: str
) -> Iterator[tuple[str, Contender]]:
    """A way, compiled and warm; with a batch of one also replayed as a CUDA graph, so that launches take no time."""
    place, cell = subject.place, subject.cell
    before = torch.cuda.memory_allocated() if place.gpu else 0
    model = subject.module(way)
    if way.channels_last:
        images = [x.contiguous(memory_format=torch.channels_last) for x in images]
    errors = deviation(subject.sensitivity(model, images[0], way), exact) if cell.trains else None
    place.wait()
    torch._dynamo.utils.counters.clear()
    start = time.perf_counter()
    step = subject.step(way, model, images[0])
    step(images[0])
    place.wait()
    compiling = time.perf_counter() - start
    counted = torch._dynamo.utils.counters
    cached = counted["inductor"]["fxgraph_cache_hit"] + counted["aot_autograd"]["autograd_cache_hit"]
    if place.gpu and not way.graph:  # what tuning takes is not the step's; a graph has its memory already
        torch.cuda.reset_peak_memory_stats()
    for number in range(warm_ups):
        step(images[number % len(images)])
    place.wait()
    peak = torch.cuda.max_memory_allocated() - before if place.gpu else None
    if errors is None:
        errors = deviation(step(images[0])[: exact.shape[0]], exact)
    rms, largest = errors
    row = Row(run, "", (), 0, peak, launches(place, step, images[0]), compiling, cached, rms, largest)
    yield way.name, warm(place, Contender(row, step, images))
    if place.gpu and cell.batch == 1 and not (cell.trains or way.graph or way.mode == GRAPHS):
        again = captured(step, images[0])
        rms, largest = deviation(again(images[0])[: exact.shape[0]], exact)
        row = replace(row, peak=None, compiling=None, cached=0, rms=rms, largest=largest)
        yield way.name + REPLAYED, warm(place, Contender(row, again, images))


def warm(place: Place, contender: Contender) -> Contender:
    """Finds how many steps make a sample."""
    one = min(sample(place, contender, n) for n in range(2))
    contender.repeats = max(1, min(50, math.ceil(SAMPLE / one)))
    return contender


def sample(place: Place, contender: Contender, number: int) -> float:
    """Seconds of a step."""

    def run() -> None:
        for n in range(contender.repeats):
            contender.step(contender.images[(number + n) % len(contender.images)])

    return place.seconds(run) / contender.repeats


def deviation(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """The root of the mean square and the largest of the differences, relative to those of what is exact."""
    apart = found.detach().double() - exact
    return float(apart.norm() / exact.norm()), float(apart.abs().max() / exact.abs().max())


def launches(place: Place, step: Step, images: Tensor) -> int | None:
    """Kernels that a step runs on the GPU, copies and fills apart; on a CPU PyTorch's ops. None where none is seen."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=kinds if place.gpu else kinds[:1]) as found:
        step(images)
        place.wait()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return sum(event.get("cat") == ("kernel" if place.gpu else "cpu_op") for event in events) or None


def cleared(place: Place) -> None:
    """Gives back what a row that failed held. Raises DeviceLost where the GPU does not answer any more."""
    gc.collect()
    try:
        place.wait()
    except RuntimeError as e:
        raise DeviceLost(str(e)) from e
    if place.gpu:
        torch.cuda.empty_cache()


# -- the page ------------------------------------------------------------------------------------


def document(path: Path = GPU) -> str:
    """A row a cell, ours beside the best of timm's, and a section for each that was measured."""
    found = records(path)
    rows = ["| model | type | batch | | timm's best | images/s | ours | images/s | ratio | goal |"]
    rows.append("|---|---|---:|---|---|---:|---|---:|---:|---:|")
    cells = [_cell(model, name) for model in MODELS for name in sorted(NAMES, key=_placed)]
    for cell in cells:
        goal = GOALS.get(cell.name, {}).get(cell.model)
        summary = _summary(cell, found[cell.key]) if cell.key in found else ("not measured", "", "", "", "")
        facts = (f"`{cell.model}`", cell.dtype, str(cell.batch), cell.what, *summary)
        rows.append(f"| {' | '.join(facts)} | {'' if goal is None else f'>= {goal:.2f}x'} |")
    sections = [_section(cell, found[cell.key]) for cell in cells if cell.key in found]
    return "\n\n".join(["\n".join(rows), *sections])


def _summary(cell: Cell, record: Record) -> tuple[str, ...]:
    """The best of timm's rows and the best of ours, and the ratio of their speeds."""
    timms, ours = (
        min(
            ((name, row) for name, row in record.rows.items() if row.seconds and name.startswith("timm") == theirs),
            key=lambda found: found[1].seconds[1],
            default=None,
        )
        for theirs in (True, False)
    )
    shown = [text for best in (timms, ours) for text in (("none ran", "") if best is None else _best(cell, *best))]
    if timms is None or ours is None:
        return (*shown, "")
    ratio = f"{timms[1].seconds[1] / ours[1].seconds[1]:.2f}x"
    return (*shown, ratio if timms[1].run == ours[1].run else f"{ratio}, of two runs")


def _best(cell: Cell, name: str, row: Row) -> tuple[str, str]:
    return name, f"{cell.batch / row.seconds[1]:,.0f}"


def _section(cell: Cell, record: Record) -> str:
    rows = ["| | images/s | quartiles | peak MB | kernels | first call s | RMS error | largest error |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    failed = []
    for name, row in record.rows.items():
        if row.error:
            failed.append(f"- {name}: {row.error}")
            continue
        lower, median, upper = (cell.batch / s for s in reversed(row.seconds))
        peak = "" if row.peak is None else f"{row.peak / 1e6:,.0f}"
        first = "" if row.compiling is None else f"{row.compiling:.1f}{' (cached)' if row.cached else ''}"
        kernels = "" if row.kernels is None else str(row.kernels)
        numbers = (f"{median:,.0f}", f"{lower:,.0f} to {upper:,.0f}", peak, kernels, first)
        rows.append(f"| {name} | {' | '.join(numbers)} | {row.rms:.1e} | {row.largest:.1e} |")
    facts = {**record.hardware, **record.versions, "commit": record.commit, "date": record.date}
    conditions = ", ".join(f"{key} {value}" for key, value in facts.items() if value)
    parts = [f"### {cell.model}, {cell.dtype}, {cell.batch}, {cell.what}", "\n".join(rows)]
    return "\n\n".join([*parts, *(["Does not run:\n\n" + "\n".join(failed)] if failed else []), conditions])


def _placed(name: str) -> tuple[str, bool, int]:
    dtype, batch, what = name.split("/")
    return dtype != BF16, what == TRAIN, int(batch)


def _cell(model: str, name: str) -> Cell:
    dtype, batch, what = name.split("/")
    return Cell(model, dtype, int(batch), what)


def _quartiles(seconds: Sequence[float]) -> tuple[float, ...]:
    found = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    return tuple(found)


def _reason(e: BaseException) -> str:
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return f"{type(e).__name__}: {lines[0] if lines else ''}".replace("|", "/")[:200]


# -- the command ---------------------------------------------------------------------------------


def due(subject: Subject, ways: Sequence[Way], known: Record | None, fresh: Record) -> list[Way]:
    """The ways that a cell's record lacks."""
    written = known.rows if known is not None and known.like(fresh) else {}
    return [way for way in ways if way.name not in written and way.exists(subject)]


def measured(
    subject: Subject, ways: Sequence[Way], path: Path, rounds: int, warm_ups: int, of: str, until: float = math.inf
) -> Record | None:
    """The cell's record after it was written; None where nothing was due."""
    found, place, key = records(path), subject.place, subject.cell.key
    now = datetime.now(UTC)
    fresh = Record(now.date().isoformat(), of, subject.code, hardware(place), versions(), state(place), {})
    asked = due(subject, ways, found.get(key), fresh)
    if not asked:
        return None
    kept = found[key].rows if key in found and found[key].like(fresh) else {}
    rows = dict(kept)
    try:
        for name, row in measure(subject, asked, rounds, warm_ups, now.isoformat(timespec="seconds"), until):
            rows[name] = row
    finally:
        order = [way.name + suffix for way in WAYS for suffix in ("", REPLAYED)]
        found[key] = replace(fresh, rows={name: rows[name] for name in order if name in rows})
        if rows:
            save(found, path)
    return found[key]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measures every way to run timm's models and ours on a GPU.")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=f"({' '.join(MODELS)})")
    parser.add_argument("--cells", nargs="+", default=["*"], metavar="PATTERN", help=f"of {' '.join(NAMES)}")
    parser.add_argument("--rows", nargs="+", default=["*"], metavar="PATTERN", help="of the rows' names")
    parser.add_argument("--budget", type=float, default=math.inf, metavar="SECONDS", help="begin nothing after these")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"samples of each row ({ROUNDS})")
    parser.add_argument("--device", default="h200", help="the device that kernels are planned for (h200)")
    parser.add_argument("--file", type=Path, help="where results are, and are written (benchmarks/results)")
    parser.add_argument("--commit", help="the commit to write down where there is no repository")
    parser.add_argument("--again", action="store_true", help="also what is written down")
    parser.add_argument("--smoke", action="store_true", help="small models, on the CPU")
    parser.add_argument("--check", action="store_true", help="compare kernels with float64 instead")
    parser.add_argument("--tiny", action="store_true", help="check two blocks a stage and two images")
    arguments = parser.parse_args(given)
    started = time.monotonic()
    if not (arguments.smoke or torch.cuda.is_available()):
        print("no GPU is here; --smoke shows on the CPU that everything works", file=sys.stderr)
        return 2
    place = Place(torch.device("cpu" if arguments.smoke else "cuda"))
    if arguments.smoke and arguments.file is None:
        arguments.file = Path(tempfile.mkdtemp()) / "smoke.json"
    torch.backends.cudnn.benchmark = place.gpu
    if arguments.check:
        from benchmarks.gpu_check import check

        return check(place, arguments.models, arguments.file, tiny=arguments.tiny, budget=arguments.budget)
    path = arguments.file or GPU
    of = commit() or arguments.commit or ""
    ways = [way for way in WAYS if any(fnmatch(way.name, pattern) for pattern in arguments.rows)]
    names = [n for n in (SMALL if arguments.smoke else NAMES) if any(fnmatch(n, p) for p in arguments.cells)]
    cells = [_cell(model, name) for name in names for model in arguments.models or MODELS]
    if arguments.again:
        save({key: record for key, record in records(path).items() if key not in {c.key for c in cells}}, path)
    rounds, warm_ups = (2, 1) if arguments.smoke else (arguments.rounds, WARM_UPS)
    for cell in cells:
        if time.monotonic() - started > arguments.budget:
            print(f"{cell.key}: not begun, the budget is spent", flush=True)
            continue
        overrides = {**TWINS[cell.model].tiny, "depths": [1, 1, 1, 1]} if arguments.smoke else {}
        begun = time.monotonic()
        try:
            subject, until = Subject(cell, place, overrides, arguments.device), started + arguments.budget + GRACE
            record = measured(subject, ways, path, rounds, warm_ups, of, until)
        except DeviceLost as e:  # the row that did it is written down as failed: go on without, in a new process
            print(f"{cell.key}: {_reason(e)}; starting again", flush=True)
            left = [a for a in given or sys.argv[1:] if a != "--again"]
            left += ["--budget", str(arguments.budget - (time.monotonic() - started))]
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *left])
        if record is None:
            print(f"{cell.key}: known", flush=True)
            continue
        taken = f"{time.monotonic() - begun:.0f} s"
        failed = sum(bool(row.error) for row in record.rows.values())
        print(f"{cell.key}: {' | '.join(_summary(cell, record))} | {failed} failed | {taken}", flush=True)
        gc.collect()
        if place.gpu:
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    schemas = declare_torchvision_ops()  # live while timm is in use
    sys.exit(main())
