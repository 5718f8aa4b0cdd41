"""Holds the studies that searches keep to what the searches found: Optuna's own reading of them is the judge."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from archdsl.api import elaborate
from archdsl.cli import main
from archdsl.cost import price
from archdsl.diagnostics import ArchError
from archdsl.ir.graph import Graph
from archdsl.search.budget import LOCAL, Measure
from archdsl.search.evaluators import Evaluation, LatencyEvaluator, ProxyEvaluator
from archdsl.search.run import Search, Settings
from archdsl.search.study import Study
from archdsl.search.trials import masked

optuna = pytest.importorskip("optuna")

SPACE = """language 1
arch tiny[dims: int[2] = 8, depths: int[2] = 1, mixers: list = [relu, relu]] {
  input img: map[3, 16, 16]
  x = conv@stem[dims[0], k = 2, s = 2](img)
  stage i in 2 -> x {
    if i > 0 { x = conv@down[dims[i], k = 2, s = 2](x) }
    blocks j in depths[i] { x += mixers[i](x) }
  }
  head { return x |> gap |> linear@fc[10] }
}
space nets of tiny {
  dims = [{8 | 16 | 24}, {16 | 24 | 41}]
  depths = [{1..3}, {1..2}]
  mixers = [{dwconv[{3 | 5}] | relu} for i in 2]
}
"""
KINDS = {"rdb": "sqlite:///{}/studies.db", "journal": "journal:{}/studies.log", "path": "{}/studies.log"}


def proxy(self: ProxyEvaluator, graph: Graph, seed: int) -> Evaluation:
    """A number of a graph; of one in five there is none."""
    costs = price(graph)
    if costs.params % 5 == 0:
        return Evaluation(math.nan, "no activation to compare")
    return Evaluation(float(costs.macs % 1009))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A search that measures two things, and neither of them with a clock."""
    (tmp_path / "nets.arch").write_text(SPACE)
    monkeypatch.setattr(ProxyEvaluator, "evaluate", proxy)
    monkeypatch.setattr(
        LatencyEvaluator, "evaluate", lambda self, graph, seed: Evaluation(1e-9 * price(graph).activations)
    )
    return Settings(
        str(tmp_path / "nets.arch"),
        ("3us@local",),
        ("score", "params"),
        trials=200,
        generation=128,
        evaluate="proxy:snip",
        evaluations=14,
        front=14,
    )


def read(url: str, name: str) -> optuna.Study:
    """The study as anybody would open it."""
    if url.startswith("sqlite"):
        return optuna.load_study(study_name=name, storage=url)
    backend = optuna.storages.journal.JournalFileBackend(url.removeprefix("journal:"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def lines(directory: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (directory / "evaluations.jsonl").read_text().splitlines()]


def finished(search: Search) -> Study:
    study = search.run()
    search.write(study)
    return study


@pytest.mark.parametrize("kind", ["rdb", "journal"])
def test_a_study_holds_what_was_evaluated(kind: str, settings: Settings, tmp_path: Path) -> None:
    url = KINDS[kind].format(tmp_path)
    found = finished(Search.started(settings, tmp_path, "run", storage=url))
    study = read(url, "run")
    assert study.metric_names == ["proxy:snip", "params"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [t.user_attrs["genes"] for t in study.trials] == [line["genes"] for line in lines(tmp_path / "run")]
    members, states = {m.id: m for m in found.members}, set()
    for trial, line in zip(study.trials, lines(tmp_path / "run"), strict=True):
        states.add(trial.state.name)
        told = line["found"]
        assert trial.user_attrs["latency:local"] == told["latency:local"]["value"]  # type: ignore[index]
        variant = tmp_path / "variant.arch"
        variant.write_text(f'import tiny from "nets.arch"\n{trial.user_attrs["arch"]}\n')
        costs = price(elaborate(variant))
        assert (trial.user_attrs["params"], trial.user_attrs["MACs"]) == (costs.params, costs.macs)
        if costs.params % 5 == 0:
            assert trial.state.name == "FAIL" and "no activation to compare" in trial.user_attrs["failed"]
            continue
        assert trial.values == [told["proxy:snip"]["value"], costs.params] == [costs.macs % 1009, costs.params]  # type: ignore[index]
        assert trial.constraints == {"3us@local": pytest.approx(costs.activations / 3000 - 1)}
        assert trial.user_attrs["id"] not in members or members[trial.user_attrs["id"]].text == trial.user_attrs["arch"]
        dims, depths = ([trial.params[f"{name}.{i}"] for i in range(2)] for name in ("dims", "depths"))
        assert f"dims = {dims}, depths = {depths}, mixers" in trial.user_attrs["arch"]
        inner = [trial.params.get(f"mixers.{i}.(0)", "relu") for i in range(2)]
        assert f"mixers = [{', '.join(inner)}]" in trial.user_attrs["arch"]
    assert states == {"COMPLETE", "FAIL"}
    assert {t.user_attrs["id"] for t in study.best_trials} == set(members)
    assert any(t.state.name == "COMPLETE" and t.constraints["3us@local"] > 0 for t in study.trials)


class Killed(BaseException):
    """What ends a search at once."""


def test_a_search_that_goes_on_adds_what_is_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, evaluations=8)
    url, late = KINDS["rdb"].format(tmp_path), KINDS["path"].format(tmp_path)
    search, add = Search.started(settings, tmp_path, "run", storage=url), optuna.Study.add_trial

    def fragile(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if len(study.trials) == 5:
            raise Killed
        add(study, trial)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "add_trial", fragile)
        with pytest.raises(Killed):
            search.run()
    assert len(read(url, "run").trials) == 5 and len(lines(tmp_path / "run")) == 6
    again = [Search.resumed(search.directory, storage=place).run().digest for place in (url, url, late)]
    assert set(again) == {Search.started(settings, tmp_path, "plain").run().digest}
    genes = [line["genes"] for line in lines(tmp_path / "plain")]
    assert len(genes) == 8
    for place in (url, late):
        assert [t.user_attrs["genes"] for t in read(place, "run").trials] == genes
    assert "studies" not in "".join(p.read_text() for p in (tmp_path / "run" / ".state").glob("*.json"))


def test_of_an_analytic_search_the_front_is_kept(settings: Settings, tmp_path: Path) -> None:
    settings = Settings(settings.space, ("100kFLOPs",), ("params", "activations"), trials=500, generation=256)
    url = KINDS["rdb"].format(tmp_path)
    search = Search.started(settings, tmp_path, "run", storage=url)
    members = search.run().members
    Search.resumed(search.directory, storage=url).run()
    study = read(url, "run")
    assert [t.user_attrs["id"] for t in study.trials] == [m.id for m in members]
    assert len(study.best_trials) == len(members) > 1
    for trial, member in zip(study.trials, members, strict=True):
        assert trial.values == [member.measures[Measure("params")], member.measures[Measure("activations")]]
        assert trial.constraints == {"100kFLOPs": pytest.approx(member.measures[Measure("macs")] / 1e5 - 1)}


def refused(attempt: Callable[[], object]) -> str:
    """What is said of a storage that cannot be used."""
    with pytest.raises(ArchError) as e:
        attempt()
    (mistake,) = e.value.diagnostics
    assert mistake.code == "E-STORAGE" and mistake.help
    return mistake.title


def test_a_study_of_another_search_is_left_alone(settings: Settings, tmp_path: Path) -> None:
    url = KINDS["rdb"].format(tmp_path)
    optuna.create_study(study_name="mine", storage=url).enqueue_trial({"x": 1})
    assert "another search" in refused(lambda: Search.started(settings, tmp_path, "mine", storage=url))
    assert not (tmp_path / "mine").exists()
    search = Search.started(settings, tmp_path, "mine")
    assert "another search" in refused(lambda: Search.resumed(search.directory, storage=url).run())
    assert len(read(url, "mine").trials) == 1


def test_a_storage_that_cannot_be_used_is_a_mistake(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "no.log").write_text("not a journal\nat all\n")
    (tmp_path / "no.db").write_text("no database " * 100)
    url = f"sqlite:///{tmp_path}/locked.db"
    optuna.create_study(storage=url)
    wrong = {
        f"journal:{tmp_path}/no.log": "",
        f"sqlite:///{tmp_path}/no.db": "not a database",
        f"{url}?timeout=0.01": "locked",
        f"{tmp_path}/nowhere/studies.log": "No such file",
        f"{tmp_path}": "directory",
        "nobody://me:secret@there/studies": "`nobody://me:***@there/studies`",
        "sqlite://me:un@secret@there/studies": "***@there",
        "sqlite:studies.db": "no storage",
        "journal:": "no storage",
        "": "no storage",
    }
    with sqlite3.connect(tmp_path / "locked.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        for place, why in wrong.items():
            said = refused(lambda place=place: Search.started(settings, tmp_path, "run", storage=place))
            assert why in said and "secret" not in said
        other.execute("ROLLBACK")
    assert not (tmp_path / "run").exists()


def test_a_storage_that_breaks_loses_no_evaluation(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = KINDS["rdb"].format(tmp_path)
    search = Search.started(settings, tmp_path, "run", storage=url)

    def broken(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        raise optuna.exceptions.StorageInternalError("gone") from sqlite3.OperationalError("disk I/O error\nand more")

    monkeypatch.setattr(optuna.Study, "add_trial", broken)
    assert refused(search.run).endswith("disk I/O error")
    assert len(lines(tmp_path / "run")) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:se:cr/e@t@there:5432/studies", "postgresql://me:***@there:5432/studies"),
        ("postgresql://me@there/studies?password=secret&a=b", "postgresql://me@there/studies?password=***&a=b"),
        ("sqlite:////tmp/a@b:c/studies.db", "sqlite:////tmp/a@b:c/studies.db"),
        ("runs/studies.log", "runs/studies.log"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_the_command_keeps_a_study(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["search", "--space", settings.space, "-o", str(tmp_path / "runs"), "--budget", "1ms@local"]
    url = KINDS["rdb"].format(tmp_path)
    assert main([*argv, "--trials", "500", "--evaluations", "3", "--storage", url, "--name", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and len(read(url, "run").trials) == 3
    assert all(m["measures"][str(LOCAL)] <= 1e-3 for m in json.loads(out)["front"])
