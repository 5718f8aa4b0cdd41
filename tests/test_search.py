"""Holds searches to their promises: the same result however they run, results that build, budgets that are kept."""

from __future__ import annotations

import csv
import errno
import json
import math
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
from archdsl.cost import price
from archdsl.diagnostics import ArchError
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.search.budget import LOCAL, Budget, Measure, Objective, parse_budget, parse_objective
from archdsl.search.evaluators import Evaluation, LatencyEvaluator, ProxyEvaluator
from archdsl.search.evolve import State
from archdsl.search.run import Search, Settings
from archdsl.search.store import EVALUATIONS, LOG
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


def run(space: str, output: Path, name: str | None = None, workers: int = 1, **more: object) -> Study:
    search = Search.started(settings(space, **more), output, name, workers)
    study = search.run()
    search.write(study)
    return study


TINY = """language 1
arch tiny[n = 1, dims: int[2] = 8, k = 8 // n] {
  input img: map[3, 8, 8]
  x = conv@stem[dims[0], k = 3](img)
  BODY
  head { return x |> gap |> linear@fc[k] }
}
space some of tiny {
  n = {2 | 0 | 1 | 4}
  dims = [{8 | 16}, {8 | 16}]
}
"""


def tiny(tmp_path: Path, body: str = "x = conv[dims[1]](x)") -> str:
    """A space of a dozen architectures: those with `n = 0` have no `k`."""
    (tmp_path / "tiny.arch").write_text(TINY.replace("BODY", body))
    return str(tmp_path / "tiny.arch")


# -- what is asked for -----------------------------------------------------------------------------------

BUDGETS = {
    "4GFLOPs": Budget(Measure("macs"), 4e9, "4GFLOPs"),
    "0.5 GMACs": Budget(Measure("macs"), 5e8, "0.5 GMACs"),
    "30Mparams": Budget(Measure("params"), 30e6, "30Mparams"),
    "12Macts": Budget(Measure("activations"), 12e6, "12Macts"),
    "600MB": Budget(Measure("bytes"), 600e6, "600MB"),
    "2ms@h200": Budget(Measure("latency", "h200"), 2e-3, "2ms@h200"),
    "900us@A100x8-fp16": Budget(Measure("latency", "a100", 8, "fp16"), 900e-6, "900us@A100x8-fp16"),
    "2ms@local": Budget(LOCAL, 2e-3, "2ms@local"),
}


@pytest.mark.parametrize("text", BUDGETS)
def test_budgets_are_amounts_of_something(text: str) -> None:
    found, wanted = parse_budget(text), BUDGETS[text]
    assert found.measure == wanted.measure and found.limit == pytest.approx(wanted.limit)


@pytest.mark.parametrize(
    "text",
    ["", "4", "4G", "GFLOPs", "-4GFLOPs", "4GFLOPs@h200", "4XFLOPs", "2ms@", "1e400GFLOPs", "0ms@local", "2ms@locl"],
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
    assert [tuple(row["parents"].split()) for row in rows] == [m.parents for m in study.members]


def test_parents_are_named_as_members_are(space: str, tmp_path: Path) -> None:
    study = run(space, tmp_path / "runs", budgets=(), trials=800)
    place = tmp_path / "runs" / study.name / ".state"
    state = State.from_bytes((place / "generation").read_bytes() + (place / "seen").read_bytes())
    bred = dict(zip(map(tuple, state.archive.points.tolist()), state.archive.parents.tolist(), strict=True))
    found = settings(space).problem
    for member in study.members:
        names = []
        for genes in bred[member.genes]:
            if min(genes) >= 0:
                point = found.pricer.draws.point(genes)
                graph = found.space.program.elaborate(found.space.declared.base.id, overrides=point.overrides)
                names.append(f"cand_{canonical_hash(graph)[:8]}")
        assert sorted(member.parents) == sorted(names) and member.id not in names
    assert {len(m.parents) for m in study.members} >= {1, 2}
    first = run(space, tmp_path / "runs", budgets=(), trials=1)
    assert len(first.history) == 1 and all(m.parents == () for m in first.members)


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
    assert alone.members == together.members


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
    stopped, straight = killed(space, tmp_path / "runs", Random(0), 3), run(space, tmp_path / "runs")
    assert stopped.digest == straight.digest and stopped.members == straight.members


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
    search = Search.started(settings(space, budgets=(), trials=300), tmp_path / "runs", "broken")
    search.run()
    whole = (search.directory / ".state" / "generation").read_bytes()
    changed = whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]
    broken = [("generation", content) for content in (b"", b"not a state", whole[:-30], whole[:50], changed)]
    for name, content in (*broken, ("../study.jsonl", b"[]\n" * 99), ("settings.json", b"{}")):
        (search.directory / ".state" / "generation").write_bytes(whole)
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


@pytest.mark.parametrize("limit", ["nan", "-1", "inf"])
def test_a_time_limit_is_a_time(space: str, tmp_path: Path, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["search", "--space", space, "-o", str(tmp_path / "runs"), "--time-limit", limit]
    assert main(argv) == main(["search", "--resume", str(tmp_path / "runs"), "--time-limit", limit]) == 1
    assert capsys.readouterr().err.count("error[E-BUDGET]") == 2 and not (tmp_path / "runs").exists()


def test_a_full_disk_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    space, more = tiny(tmp_path), {"budgets": (), "trials": 9}
    search = Search.started(settings(space, **more), tmp_path / "runs", "full")
    with monkeypatch.context() as patched, pytest.raises(ArchError) as e:
        patched.setattr(os, "fsync", full)
        search.run()
    assert [d.code for d in e.value.diagnostics] == ["E-RUN"] and "No space left" in str(e.value)
    straight = run(space, tmp_path / "runs", **more)
    assert Search.resumed(search.directory).run().digest == straight.digest


# -- what is priced as a whole, what is ruled out ----------------------------------------------------------

WHOLE = {
    "requires": ("require params < 1M\n  x = conv@next[dims[1], k = 3](x)", "what all of it costs"),
    "returns": ("if n > 2 { return x |> gap |> linear[8] }\n  x = conv[dims[1]](x)", "return before"),
    "shares": ("share f = conv[dims[0], k = 3]\n  x = x |> f |> f", "share weights"),
    "calls": ("f = fn(t) => conv@f[dims[1]](t)\n  x = f(x)", "`fn`"),
    "now and then": ("if n > 2 { x = windows[2](x) }\n  y = ln(x)\n  if n > 2 { y = merge(y) }\n  x = y", "windows"),
}


@pytest.mark.parametrize(("body", "reason"), WHOLE.values(), ids=WHOLE)
def test_what_is_priced_as_a_whole_is_said(
    tmp_path: Path, body: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", "--space", tiny(tmp_path, body), "--trials", "9", "-o", str(tmp_path / "runs")]
    assert main(argv) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "priced as a whole" in line]
    assert reason in line
    directory = tmp_path / "runs" / "some"
    assert line in (directory / "report.md").read_text()
    assert tomllib.loads((directory / "run.toml").read_text())["undivided"] in line
    assert main(["search", "--resume", str(directory)]) == 0 and line in capsys.readouterr().err


def test_what_is_priced_in_pieces_is_not_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["search", "--space", tiny(tmp_path), "--trials", "9", "-o", str(tmp_path / "runs")]
    assert main(argv) == 0 and capsys.readouterr().err == ""
    directory = tmp_path / "runs" / "some"
    assert "as a whole" not in (directory / "report.md").read_text() + (directory / "run.toml").read_text()


@pytest.mark.full
def test_workers_say_what_is_priced_as_a_whole(tmp_path: Path) -> None:
    search = Search.started(Settings(tiny(tmp_path, WHOLE["now and then"][0]), trials=9), tmp_path / "runs", workers=2)
    assert "windows" in str(search.run().settings["undivided"])


def test_a_default_that_has_no_value_rules_candidates_out(tmp_path: Path) -> None:
    space = tiny(tmp_path)
    study = run(space, tmp_path / "runs", budgets=(), trials=99)
    assert study.history[-1].distinct == 1 + 3 * 4 and study.history[-1].feasible == 3 * 4  # all others are one
    assert all("n = 0" not in m.text for m in study.members)


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
    assert again.members == study.members and log.read_text() == "".join(lines)


LINE = b'{"genes": [0, 0], "found": {"proxy:synflow": {"value": 1.0, "reason": ""}}}\n'


@pytest.mark.parametrize("bad", [LINE[:20] + b"\n", b"[]\n", LINE.replace(b"found", b"lost"), b"\xff\n", b"\n"])
def test_a_broken_evaluation_is_a_mistake(tmp_path: Path, bad: bytes) -> None:
    more = {"budgets": (), "evaluate": "proxy:synflow", "trials": 1}
    search = Search.started(settings(tiny(tmp_path), **more), tmp_path / "runs")
    log = search.directory / EVALUATIONS
    log.write_bytes(LINE + bad + LINE)
    with pytest.raises(ArchError) as e:
        search.run()
    (found,) = e.value.diagnostics
    assert found.code == "E-RUN" and f"line 2 of `{log}`" in found.title and log.read_bytes() == LINE + bad + LINE


def test_evaluations_that_cannot_be_read_are_a_mistake(tmp_path: Path) -> None:
    search = Search.started(settings(tiny(tmp_path), budgets=(), evaluate="proxy:synflow", trials=1), tmp_path / "runs")
    (search.directory / EVALUATIONS).mkdir()
    with pytest.raises(ArchError) as e:
        search.run()
    assert [d.code for d in e.value.diagnostics] == ["E-RUN"] and EVALUATIONS in str(e.value)


def test_an_unknown_evaluator_is_a_mistake_before_anything_runs(space: str, tmp_path: Path) -> None:
    with pytest.raises(ArchError) as e:
        run(space, tmp_path / "runs", evaluate="proxy:nwto")
    assert [d.code for d in e.value.diagnostics] == ["E-EVALUATOR"] and not (tmp_path / "runs").exists()


# -- budgets of time on this machine -----------------------------------------------------------------------


def pretended(graph: Graph) -> float:
    """Seconds that a graph is said to take, on no machine: the more parameters, the fewer."""
    return 100 / price(graph).params


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyEvaluator, "evaluate", lambda self, graph, seed: Evaluation(pretended(graph)))


TIMED = {
    "budgets": ("0.5ms@local",),
    "objectives": ("params", "activations"),
    "evaluations": 16,
    "trials": 1000,
    "front": 16,
}


def evaluated(directory: Path) -> list[tuple[tuple[int, ...], dict[str, float]]]:
    """The genes of every candidate that was measured, and what was found."""
    lines = map(json.loads, (directory / "evaluations.jsonl").read_text().splitlines())
    return [(tuple(line["genes"]), {name: one["value"] for name, one in line["found"].items()}) for line in lines]


def test_members_keep_to_a_budget_of_measured_time(space: str, tmp_path: Path, clock: None) -> None:
    study = run(space, tmp_path / "runs", **TIMED | {"budgets": ("0.5ms@local", "20MFLOPs")})
    directory = tmp_path / "runs" / "nets-20MFLOPs-0.5ms@local"
    nets, least, within = Settings(space).problem, {}, {}
    for genes, found in evaluated(directory):
        overrides = nets.pricer.draws.point(genes).overrides
        graph = nets.space.program.elaborate("small", overrides=overrides)
        costs = price(graph)
        assert found == {"latency:local": pytest.approx(pretended(graph))} and costs.macs <= 20e6
        least[genes] = costs.macs / 20e6
        if found["latency:local"] <= 0.5e-3:
            within[genes] = (costs.params, costs.activations)
    assert len(least) == 16 > len(within)
    front = {a for a, x in within.items() if not any(y != x and y[0] <= x[0] and y[1] <= x[1] for y in within.values())}
    assert {m.genes for m in study.members} == front and min(least[g] for g in front) < 0.975
    rows = {row["id"]: row for row in csv.DictReader((directory / "pareto.csv").open())}
    for m in study.members:
        assert float(rows[m.id]["latency:local (s)"]) == m.measures[LOCAL] <= 0.5e-3
        assert compile_spec(directory / "front" / f"{m.id}.arch").costs.params == 100 / m.measures[LOCAL]
    configuration = tomllib.loads((directory / "run.toml").read_text())
    assert configuration["reproducible"] is False and configuration["budgets"] == ["20MFLOPs", "0.5ms@local"]
    report = (directory / "report.md").read_text()
    assert "`0.5ms@local`: measured latency of one image on this machine" in report and "at most 0.5 ms" in report


def test_a_budget_of_measured_time_goes_with_a_measured_objective(
    space: str, tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = run(space, tmp_path / "runs", "fast", evaluate="latency:local", **TIMED)
    assert fast.objectives == (Objective(LOCAL), *map(parse_objective, ("params", "activations")))
    assert all(m.measures[LOCAL] <= 0.5e-3 for m in fast.members)
    monkeypatch.setattr(
        ProxyEvaluator, "evaluate", lambda self, graph, seed: Evaluation(1e6 / float(price(graph).params))
    )
    study = run(space, tmp_path / "runs", "small", evaluate="proxy:snip", **TIMED | {"objectives": ("score",)})
    assert study.objectives == (Objective(Measure("proxy:snip"), maximize=True),)
    found = [f for _, f in evaluated(tmp_path / "runs" / "small")]
    within = [f["proxy:snip"] for f in found if f["latency:local"] <= 0.5e-3]
    assert [m.measures[Measure("proxy:snip")] for m in study.members] == [max(within)]
    assert max(within) < max(f["proxy:snip"] for f in found)


def test_what_was_measured_is_not_measured_again(space: str, tmp_path: Path, clock: None) -> None:
    study = run(space, tmp_path, "cut", **TIMED)
    log = tmp_path / "cut" / "evaluations.jsonl"
    text = log.read_text()
    log.write_text("".join(text.splitlines(keepends=True)[:7]) + '{"genes": [0,')
    assert Search.resumed(log.parent).run().digest == study.digest and log.read_text() == text
    log.write_text("{}\n")
    with pytest.raises(ArchError) as e:
        Search.resumed(log.parent).run()
    assert [d.code for d in e.value.diagnostics] == ["E-RUN"]


def test_a_time_that_no_measured_candidate_keeps_to_is_refused(
    space: str, tmp_path: Path, clock: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["search", "--space", space, "-o", str(tmp_path), "--trials", "500", "--evaluations", "6"]
    assert main([*argv, "--budget", "1us@local"]) == 1
    said = capsys.readouterr().err
    genes, found = min(evaluated(tmp_path / "nets-1us@local"), key=lambda one: one[1]["latency:local"])
    nets = Settings(space).problem
    assert "none of 6 measured candidates keeps to 1us@local" in said
    assert nets.space.variant_text(nets.pricer.draws.point(genes), "closest") in said
    assert f"{found['latency:local'] * 1e3:.3g} ms" in said


def test_what_cannot_be_measured_is_said(space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatencyEvaluator, "evaluate", lambda self, graph, seed: Evaluation(math.nan, "out of memory"))
    with pytest.raises(ArchError) as e:
        run(space, tmp_path, **TIMED | {"evaluations": 4})
    assert "none of 4 candidates could be measured: out of memory" in str(e.value)


def test_time_is_measured(space: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    study = run(space, tmp_path, **TIMED | {"budgets": ("1000s@local",), "evaluations": 2})
    assert study.members and all(0 < m.measures[LOCAL] <= 1000 for m in study.members)
