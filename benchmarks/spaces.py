"""Turns the default space into what its prices, its budgets and a whole search are worth.

    python -m benchmarks.spaces [costs] [budgets] [rates] [search]

costs: random candidates elaborated, and some of them built, against what was priced. budgets: searches of a few
generations at twenty budgets. rates: candidates priced a second, beside what other libraries need to propose one.
search: the command `archdsl search --budget 4GFLOPs`, its front built and counted.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from archdsl.api import Artefact, compile_spec
from archdsl.diagnostics import ArchError
from archdsl.ir.hash import canonical_hash
from archdsl.search.budget import Measure, parse_budget
from archdsl.search.genome import stream
from archdsl.search.metrics import METRICS
from archdsl.search.problem import Problem
from archdsl.search.run import Search, Settings
from benchmarks.report import RESULTS, Measurement, load, save, table

RANDOM, BUILT = 1000, 60
GMACS = np.geomspace(0.3, 20, 10)
MPARAMS = np.geomspace(4, 100, 10)
IMPOSSIBLE = (("50MFLOPs",), ("0.5Mparams",), ("80MFLOPs", "0.7Mparams"))


def counted(artefact: Artefact) -> tuple[int, float]:
    """Parameters and multiply-adds of the emitted module, by torch."""
    with torch.device("meta"):
        module = artefact.module().eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.empty(1, *artefact.input, device="meta"))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() / 2


def costs() -> Iterator[Measurement]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    seed = int(commit[:8], 16)
    problem = Settings("hybrid").problem
    pricer, space = problem.pricer, problem.space
    points = pricer.genome.random(stream(seed, 0, 0), RANDOM)
    priced = pricer.price(points)
    wrong, hashes = 0, {}
    off_params, off_macs = 0, 0.0
    for i, row in enumerate(points):
        point = pricer.draws.point(row)
        try:
            graph = space.program.elaborate(space.declared.base.id, overrides=point.overrides)
        except ArchError:
            wrong += bool(priced.sound[i])
            continue
        wrong += list(pricer.whole(graph)) != priced.metrics[i].tolist()
        hashes.setdefault(canonical_hash(graph), set()).add(tuple(priced.hash[i]))
        if i < BUILT:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "cand.arch"
                source = Path(str(space.program.path)).read_text(encoding="utf-8")
                path.write_text(f"{source}\n{space.variant_text(point, 'cand')}\n", encoding="utf-8")
                params, macs = counted(compile_spec(f"{path}:cand"))
            off_params += bool(params != priced.metrics[i, METRICS.index("params")])
            off_macs = max(off_macs, float(abs(macs / priced.metrics[i, METRICS.index("macs")] - 1)))
    split = len(hashes) != len({h for found in hashes.values() for h in found})
    how = f"space hybrid, uniform draws, seed {seed}"
    yield Measurement("candidates whose price is not that of their graph", wrong, "", RANDOM, goal=0, detail=how)
    yield Measurement(
        "graphs whose identity is not that of their hash", float(split), "", len(hashes), goal=0, detail=how
    )
    yield Measurement("built candidates with other parameters", off_params, "", BUILT, goal=0, detail=how)
    yield Measurement("largest error of multiply-adds, built", 100 * off_macs, "%", BUILT, goal=0.1, detail=how)


def budgets() -> Iterator[Measurement]:
    shared = Settings("hybrid").problem
    broken, lowest = 0, 1.0
    texts = [(f"{g:.3g}GFLOPs",) for g in GMACS]
    texts += [(f"{g:.3g}GFLOPs", f"{p:.3g}Mparams") for g, p in zip(GMACS, MPARAMS, strict=True)]
    for text in texts:
        settings = Settings("hybrid", text, trials=60_000)
        problem = Problem.of(shared.space, [parse_budget(t) for t in text], (), settings.utilization)
        vars(problem)["pricer"] = shared.pricer  # what is elaborated once serves all budgets
        vars(settings)["problem"] = problem
        with tempfile.TemporaryDirectory() as directory:
            study = Search.started(settings, Path(directory)).run()
        for member in study.members:
            broken += any(member.measures[b.measure] > b.limit for b in study.budgets)
        lowest = min(lowest, max(study.best.measures[b.measure] / b.limit for b in study.budgets))
        print(text, len(study.members), study.best.stages, study.notes, flush=True)
    how = "0.3 to 20 GMACs alone, and with 4 to 100M parameters; 60,000 candidates each"
    yield Measurement("members beyond a budget", broken, "", len(texts), goal=0, detail=how)
    yield Measurement("least use of a budget by the best", 100 * lowest, "%", len(texts), detail=how)
    times = [median(refusal(text) for _ in range(3)) for text in IMPOSSIBLE]
    how = "by proof: the whole command, its start included; median of 3"
    yield Measurement("longest refusal of an impossible budget", max(times), "s", len(times), goal=5, detail=how)


def refusal(budgets: Sequence[str]) -> float:
    """Seconds of processor time that `archdsl search` takes to refuse budgets, in a process of its own."""
    command = [sys.executable, "-m", "archdsl", "search", *(word for b in budgets for word in ("--budget", b))]
    with tempfile.TemporaryDirectory() as directory:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, "--out", directory], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "E-INFEASIBLE" in done.stderr and "closest" in done.stderr, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rate(step: Callable[[], int], seconds: float = 2.0) -> float:
    """Candidates a second of processor time, the median of five stretches."""
    found = []
    for _ in range(5):
        start, count = time.process_time(), 0
        while time.process_time() - start < seconds / 5:
            count += step()
        found.append(count / (time.process_time() - start))
    return median(found)


def rates() -> Iterator[Measurement]:
    problem = Settings("hybrid", ("4GFLOPs",)).problem
    points = problem.pricer.genome.random(stream(1, 0, 0), 1 << 17)
    problem(points)  # what is elaborated once stays out of the rate; `search` counts it
    turn = iter(range(1 << 62))

    def batch() -> int:
        problem.pricer.price(points[: 1 << 16])
        return 1 << 16

    def scored() -> int:
        problem(points[: 1 << 14])
        return 1 << 14

    def single() -> int:
        at = next(turn) % len(points)
        problem(points[at : at + 1])
        return 1

    how = "space hybrid, one core, processor time"
    for name, step, goal in (
        ("a candidate priced, in batches", batch, 1e6),
        ("a candidate priced and scored, in batches", scored, None),
        ("a candidate priced and scored, one by one", single, 5e3),
    ):
        found = rate(step)
        limit = None if goal is None else 1e6 / goal
        yield Measurement(name, 1e6 / found, "us", 5, goal=limit, detail=f"{how}: {found:.3g} a second")
    for name, step in peers(problem):
        found = rate(step)
        yield Measurement(name, 1e6 / found, "us", 5, detail=f"proposed and told a value: {found:.3g} a second")


def peers(problem: Problem) -> Iterator[tuple[str, Callable[[], int]]]:
    """What other libraries need to propose a candidate with as many genes; they are told values at no cost."""
    import optuna
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as Plain
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = [int(n) for n in problem.pricer.genome.options]
    for name, sampler in (
        ("Optuna, random", optuna.samplers.RandomSampler(seed=0)),
        ("Optuna, NSGA-II", optuna.samplers.NSGAIISampler(seed=0)),
        ("Optuna, TPE", optuna.samplers.TPESampler(seed=0)),
    ):
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)

        def optuna_step(study: optuna.Study = study) -> int:
            trial = study.ask()
            drawn = [trial.suggest_int(f"g{i}", 0, n - 1) for i, n in enumerate(options)]
            study.tell(trial, [float(sum(drawn)), float(drawn[0])])
            return 1

        yield name, optuna_step
    crossover, mutation = SBX(repair=RoundingRepair(), vtype=float), PM(repair=RoundingRepair(), vtype=float)
    algorithm = NSGA2(pop_size=1024, sampling=IntegerRandomSampling(), crossover=crossover, mutation=mutation)
    upper = np.array(options) - 1
    algorithm.setup(Plain(n_var=len(options), n_obj=2, xl=0, xu=upper, vtype=int), termination=("n_gen", 10**9), seed=0)

    def pymoo_step() -> int:
        population = algorithm.ask()
        drawn = population.get("X")
        population.set("F", np.stack([drawn.sum(1), drawn[:, 0]], 1).astype(float))
        algorithm.tell(infills=population)
        return len(population)

    yield "pymoo, NSGA-II of 1024", pymoo_step


def search() -> Iterator[Measurement]:
    limit = Measure("macs")
    with tempfile.TemporaryDirectory() as directory:
        start, busy = time.monotonic(), time.process_time()
        search = Search.started(Settings("hybrid", ("4GFLOPs",)), Path(directory))
        study = search.run()
        search.write(study)
        wall, busy = time.monotonic() - start, time.process_time() - busy
        off, over, uses = 0, 0, []
        for path in sorted((search.directory / "front").glob("*.arch")):
            member = next(m for m in study.members if m.id == path.stem)
            artefact = compile_spec(path)
            params, macs = counted(artefact)
            off += params != member.measures[Measure("params")] or abs(macs / member.measures[limit] - 1) > 1e-3
            over += macs > 4e9
            uses.append(macs / 4e9)
            if member is study.best:
                best = macs
                artefact.module().eval()(torch.randn(1, *artefact.input))
    last = study.history[-1]
    how = "archdsl search --budget 4GFLOPs"
    yield Measurement("distinct candidates", last.distinct / 1e6, "M", 1, detail=f"{how}; {last.priced} priced")
    yield Measurement("processor time", busy, "s", 1, goal=60, detail=how)
    yield Measurement("wall time", wall, "s", 1, detail=f"{how}, on a shared machine")
    yield Measurement("members beyond the budget, by torch's counter", over, "", len(uses), goal=0, detail=how)
    yield Measurement("members that cost other than predicted", off, "", len(uses), goal=0, detail=how)
    yield Measurement("budget that the best leaves unused", 100 * (1 - best / 4e9), "%", 1, goal=2.5, detail=how)


SECTIONS = {"costs": costs, "budgets": budgets, "rates": rates, "search": search}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the default space and a search of it.")
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=list(SECTIONS))
    chosen = parser.parse_args().sections
    torch.set_num_threads(1)
    place = RESULTS / "spaces.json"
    known = {m.name: m for m in load(place)[1]} if place.exists() else {}
    for name in chosen:
        for found in SECTIONS[name]():
            known[found.name] = found
            print(found, flush=True)
        save("spaces", list(known.values()))
    print(table(list(known.values())))


if __name__ == "__main__":
    main()
