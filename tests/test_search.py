"""Holds searches to their promises: the same result however they run, results that build, budgets that are kept."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from archdsl.api import compile_spec
from archdsl.cli import main
from archdsl.diagnostics import ArchError
from archdsl.search.budget import Budget, Measure, Objective, parse_budget, parse_objective
from archdsl.search.run import Search, Settings
from archdsl.search.store import LOG
from archdsl.search.study import Study

SPACE = """# A small space.
language 1
import meta from "blocks.arch"

arch small[dims: int[3] = 8, depths: int[3] = 1, mixers: list = ["dw"] * 3, ratios: int[3] = 2, classes = 10] {
  input img: map[3, 32, 32]
  x = conv@stem[dims[0], k = 2, s = 2](img)
  stage i in 3 -> x {
    if i > 0 { x = x |> ln |> conv@down[dims[i], k = 2, s = 2] }
    blocks j in depths[i] { x = mixers[i][ratio = ratios[i]](x) }
  }
  head { return x |> gap |> linear@fc[classes] }
}
space nets of small {
  dims = [{16..48 by 16}, {16..96 by 16}, {32..192 by 32}]
  depths = [{1..4}, {1..6}, {1..4}]
  ratios = [{1..4} for i in 3]
  mixers = [{meta[dwconv[{3 | 5 | 7}]] | meta[mhsa[8]]} for i in 3]
}
"""
BLOCKS = """language 1
def meta[mixer: fn, ratio = 2](x: map) {
  x += x |> ln |> mixer
  x += x |> ln |> mlp[ratio]
  return x
}
"""


@pytest.fixture
def space(tmp_path: Path) -> str:
    (tmp_path / "nets.arch").write_text(SPACE)
    (tmp_path / "blocks.arch").write_text(BLOCKS)
    return str(tmp_path / "nets.arch")


def settings(space: str, **more: object) -> Settings:
    usual = Settings(space, ("4MFLOPs",), ("score", "params", "activations"), trials=6000, generation=256, front=6)
    return replace(usual, **more)  # type: ignore[arg-type]


def run(space: str, output: Path, workers: int = 1, **more: object) -> Study:
    search = Search.started(settings(space, **more), output, workers=workers)
    study = search.run()
    search.write(study)
    return study


# -- what is asked for -----------------------------------------------------------------------------------

BUDGETS = {
    "4GFLOPs": Budget(Measure("macs"), 4e9, "4GFLOPs"),
    "0.5 GMACs": Budget(Measure("macs"), 5e8, "0.5 GMACs"),
    "30Mparams": Budget(Measure("params"), 30e6, "30Mparams"),
    "12Macts": Budget(Measure("activations"), 12e6, "12Macts"),
    "600MB": Budget(Measure("bytes"), 600e6, "600MB"),
    "2ms@h200": Budget(Measure("latency", "h200"), 2e-3, "2ms@h200"),
    "900us@A100x8-fp16": Budget(Measure("latency", "a100", 8, "fp16"), 900e-6, "900us@A100x8-fp16"),
}


@pytest.mark.parametrize("text", BUDGETS)
def test_budgets_are_amounts_of_something(text: str) -> None:
    found, wanted = parse_budget(text), BUDGETS[text]
    assert found.measure == wanted.measure and found.limit == pytest.approx(wanted.limit)


@pytest.mark.parametrize(
    "text", ["", "4", "4G", "GFLOPs", "-4GFLOPs", "4GFLOPs@h200", "4XFLOPs", "2ms@", "1e400GFLOPs"]
)
def test_what_is_no_budget_is_a_mistake(text: str) -> None:
    with pytest.raises(ArchError) as e:
        parse_budget(text)
    assert [d.code for d in e.value.diagnostics] == ["E-BUDGET"] and e.value.diagnostics[0].help


def test_objectives_are_named() -> None:
    assert parse_objective("score") == Objective(Measure("score"), maximize=True)
    assert parse_objective("latency@h200x64") == Objective(Measure("latency", "h200", 64))
    assert parse_objective("FLOPs") == parse_objective("macs")


# -- results -----------------------------------------------------------------------------------------------


def test_every_member_builds_and_costs_what_was_predicted(space: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    study = run(space, tmp_path / "runs")
    directory = tmp_path / "runs" / study.name
    files = sorted((directory / "front").glob("*.arch"))
    assert len(files) == len(study.members) > 2
    by_name = {m.id: m for m in study.members}
    moved = directory.rename(tmp_path / "elsewhere")
    used = []
    for path in sorted((moved / "front").glob("*.arch")):
        member, artefact = by_name[path.stem], compile_spec(path)
        with torch.device("meta"):
            module = artefact.module().eval()
        with FlopCounterMode(display=False) as counter:
            module(torch.empty(1, *artefact.input, device="meta"))
        assert sum(p.numel() for p in module.parameters()) == member.measures[Measure("params")]
        macs = counter.get_total_flops() / 2
        assert macs == pytest.approx(member.measures[Measure("macs")], rel=1e-3)
        used.append(macs / 4e6)
    assert all(0.975 * (1 - 1e-3) <= share <= 1 for share in used)
    best = compile_spec(moved / "best.arch")
    assert best.name == study.best.id and best.costs.macs == study.best.measures[Measure("macs")]


def test_the_files_of_a_run_agree(space: str, tmp_path: Path) -> None:
    study = run(space, tmp_path / "runs")
    directory = tmp_path / "runs" / study.name
    rows = list(csv.DictReader((directory / "pareto.csv").open()))
    assert [row["id"] for row in rows] == [m.id for m in study.members]
    configuration = tomllib.loads((directory / "run.toml").read_text())
    assert configuration["seed"] == 0 and configuration["digest"] == study.digest
    log = [json.loads(line) for line in (directory / LOG).read_text().splitlines()]
    assert log[-1]["distinct"] >= 6000 and log[-1]["digest"] == study.digest
    assert study.best.id in (directory / "report.md").read_text()


def test_seeds_differ_and_repeat(space: str, tmp_path: Path) -> None:
    a, b, c = (run(space, tmp_path / "runs", seed=seed) for seed in (0, 0, 1))
    assert a.digest == b.digest != c.digest
    assert {s.name for s in (a, b, c)} == {"nets-4MFLOPs", "nets-4MFLOPs-2", "nets-4MFLOPs-3"}


def test_members_do_not_dominate_each_other(space: str, tmp_path: Path) -> None:
    study = run(space, tmp_path / "runs")
    rows = [
        [(-1 if o.maximize else 1) * (m.score if o.maximize else m.measures[o.measure]) for o in study.objectives]
        for m in study.members
    ]
    for a in rows:
        assert not any(all(x <= y for x, y in zip(b, a, strict=True)) and b != a for b in rows)


def test_a_budget_that_cannot_be_used_up_is_said(space: str, tmp_path: Path) -> None:
    study = run(space, tmp_path / "runs", budgets=("100GFLOPs",))
    assert any("more than" in note for note in study.notes)


@pytest.mark.parametrize("budgets", [(), ("4MFLOPs",)])
def test_a_space_of_mistakes_is_refused_with_its_first(space: str, tmp_path: Path, budgets: Sequence[str]) -> None:
    text = Path(space).read_text()
    Path(space).write_text(text[: text.index("space nets")] + "space nets of small {\n  classes = {10 | 20}\n}\n")
    with pytest.raises(ArchError) as e:
        run(space, tmp_path / "runs", budgets=budgets, trials=2)
    assert e.value.diagnostics[0].code != "E-INFEASIBLE"


def test_any_whole_number_is_a_seed(space: str, tmp_path: Path) -> None:
    found = [run(space, tmp_path / str(s), seed=s, trials=300).digest for s in (-1, 10**20)]
    assert found[0] != found[1]


@pytest.mark.parametrize("budgets", [("50kFLOPs",), ("4MFLOPs", "1kparams")])
def test_an_impossible_budget_is_refused_by_proof(space: str, tmp_path: Path, budgets: Sequence[str]) -> None:
    with pytest.raises(ArchError) as e:
        run(space, tmp_path / "runs", budgets=tuple(budgets))
    (found,) = e.value.diagnostics
    assert found.code == "E-INFEASIBLE" and " exists " in found.title and "arch closest = small[" in found.help


def test_several_budgets_are_all_kept(space: str, tmp_path: Path) -> None:
    study = run(space, tmp_path / "runs", budgets=("4MFLOPs", "150kparams", "1ms@a100x8"))
    for budget in study.budgets:
        assert all(m.measures[budget.measure] <= budget.limit for m in study.members)
    shares = [max(m.measures[b.measure] / b.limit for b in study.budgets) for m in study.members]
    assert min(shares) >= 0.975


# -- exactness ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, pytest.param(8, marks=pytest.mark.full)])
def test_workers_change_nothing(space: str, tmp_path: Path, workers: int) -> None:
    alone, together = (run(space, tmp_path / "runs", workers=n) for n in (1, workers))
    assert alone.digest == together.digest
    assert [m.text for m in alone.members] == [m.text for m in together.members]


def killed(space: str, output: Path, rng: Random, times: int) -> Study:
    """A search that is killed at random moments, and each time resumed."""
    search = Search.started(settings(space), output, "killed")
    code = "import sys, pathlib\nfrom archdsl.search.run import Search\nSearch.resumed(pathlib.Path(sys.argv[1])).run()"
    for _ in range(times):
        before = len((search.directory / LOG).read_bytes()) if (search.directory / LOG).exists() else 0
        process = subprocess.Popen([sys.executable, "-c", code, str(search.directory)], env={**os.environ})
        while process.poll() is None and not (search.directory / LOG).exists():
            time.sleep(0.01)  # until it has begun
        while process.poll() is None and len((search.directory / LOG).read_bytes()) == before:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return Search.resumed(search.directory).run()


def test_kills_change_nothing(space: str, tmp_path: Path) -> None:
    assert killed(space, tmp_path / "runs", Random(0), 3).digest == run(space, tmp_path / "runs").digest


@pytest.mark.full
def test_twenty_kills_change_nothing(space: str, tmp_path: Path) -> None:
    assert killed(space, tmp_path / "runs", Random(1), 20).digest == run(space, tmp_path / "runs").digest


def test_a_half_written_generation_is_done_again(space: str, tmp_path: Path) -> None:
    search = Search.started(settings(space), tmp_path / "runs", "half")
    states = []

    def stop(progress: object) -> None:
        states.append(progress)
        if len(states) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.run(stop)
    with (search.directory / LOG).open("a") as log:
        log.write('{"generation": 4, "half')
    with (search.directory / ".state" / "seen").open("ab") as seen:
        seen.write(b"half a generation")
    assert Search.resumed(search.directory).run().digest == run(space, tmp_path / "runs").digest
    lines = (search.directory / LOG).read_text().splitlines()
    assert [json.loads(line)["generation"] for line in lines] == list(range(1, len(lines) + 1))


def test_two_processes_do_not_share_a_directory(space: str, tmp_path: Path) -> None:
    search = Search.started(settings(space), tmp_path / "runs", "one")
    with pytest.raises(ArchError) as e:
        search.run(lambda p: Search.resumed(search.directory).run() and None)  # type: ignore[func-returns-value]
    assert [d.code for d in e.value.diagnostics] == ["E-RUN"]


def test_a_broken_state_is_a_mistake(space: str, tmp_path: Path) -> None:
    search = Search.started(settings(space), tmp_path / "runs", "broken")
    search.run()
    for name, content in (("generation", b"not a state"), ("settings.json", b"{}")):
        (search.directory / ".state" / name).write_bytes(content)
        with pytest.raises(ArchError) as e:
            Search.resumed(search.directory).run()
        assert [d.code for d in e.value.diagnostics] == ["E-RUN"]


def test_a_changed_space_does_not_go_on(space: str, tmp_path: Path) -> None:
    search = Search.started(settings(space), tmp_path / "runs", "changed")
    blocks = Path(space).parent / "blocks.arch"
    blocks.write_text(blocks.read_text().replace("ratio = 2", "ratio = 3"))
    with pytest.raises(ArchError) as e:
        Search.resumed(search.directory)
    assert [d.code for d in e.value.diagnostics] == ["E-RUN"] and "changed" in str(e.value)


def test_the_command_writes_a_run(space: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["search", "--space", space, "--budget", "4MFLOPs", "--trials", "2000", "-o", str(tmp_path / "runs")]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "cand_" in out and "tau on held-out families" in out and "best.arch" in out
    assert main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [m["id"] for m in found["front"]]
    assert main(["search", "--resume", str(tmp_path / "runs" / "nets-4MFLOPs"), "--json"]) == 0


def test_a_time_limit_is_marked(space: str, tmp_path: Path) -> None:
    search = Search.started(settings(space), tmp_path / "runs", time_limit=0.0)
    study = search.run()
    assert len(study.history) == 1 and any("not reproducible" in note for note in study.notes)


# -- measured candidates -----------------------------------------------------------------------------------


def test_measured_candidates_do_not_depend_on_how_the_search_ran(space: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    more = {"evaluate": "proxy:synflow", "evaluations": 6, "trials": 2000}
    study = run(space, tmp_path / "runs", **more)
    assert study.objectives[0] == Objective(Measure("proxy:synflow"), maximize=True)
    values = [m.measures[Measure("proxy:synflow")] for m in study.members]
    assert values == sorted(values, reverse=True)
    log = tmp_path / "runs" / study.name / "evaluations.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    assert len(lines) == 6
    log.write_text("".join(lines[:3]) + lines[3][:20])  # as if it had been killed there
    again = Search.resumed(log.parent, workers=2).run()
    assert again.digest == study.digest and log.read_text() == "".join(lines)


def test_an_unknown_evaluator_is_a_mistake_before_anything_runs(space: str, tmp_path: Path) -> None:
    with pytest.raises(ArchError) as e:
        run(space, tmp_path / "runs", evaluate="proxy:nwto")
    assert [d.code for d in e.value.diagnostics] == ["E-EVALUATOR"] and not (tmp_path / "runs").exists()
