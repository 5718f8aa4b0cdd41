"""Holds the shipped spaces to what they promise: sound points, seeds that are members, sizes, variants that build."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from archdsl.api import open_space
from archdsl.cli import main
from archdsl.cost import Cost, price
from archdsl.diagnostics import ArchError, Source
from archdsl.frontend.locate import locate
from archdsl.frontend.program import Program
from archdsl.frontend.space import Point, Space
from archdsl.ir.graph import Graph
from archdsl.ir.hash import canonical_hash
from archdsl.resources import specs_dir
from archdsl.search.draws import Draws
from archdsl.search.genome import stream
from archdsl.search.info import dimensions, survey
from archdsl.search.problem import measure
from tests.specs import HERE, program

SPACES = tuple(sorted((specs_dir() / "spaces").glob("*.arch")))
BY_FILE = pytest.mark.parametrize("path", SPACES, ids=lambda p: p.stem)


def drawn(space: Space, count: int, step: int = 0) -> list[Point]:
    draws = Draws.of(space)
    return [draws.point(row) for row in draws.genome.random(stream(1, 0, step), count)]


def elaborated(space: Space, point: Point) -> Graph:
    return space.program.elaborate(space.declared.base.id, overrides=point.overrides)


@BY_FILE
def test_seeds_are_members_and_have_the_published_counts(path: Path) -> None:
    opened = Program.open(path)
    assert opened.check() == []
    assert list(opened.spaces) == [path.stem]
    space = Space.open(opened)
    assert list(space.seeds()) and [measure(goal.value) for goal in space.goals]
    assert re.search(r"arXiv \d{4}\.\d{5}", path.read_text(encoding="utf-8").partition("language 1")[0])


@BY_FILE
def test_points_elaborate_and_come_back_from_their_text(path: Path) -> None:
    space = open_space(path)
    for i, point in enumerate(drawn(space, 8)):
        graph = elaborated(space, point)
        cost = price(graph).total
        assert cost.params > 0 and cost.macs > 0
        if i == 0:
            text = f"{space.program.source.text}\n{space.variant_text(point, 'child')}\n"
            child = Program.parse(Source(path.name, text), path)
            assert canonical_hash(child.elaborate("child")) == canonical_hash(graph)
            found = Space.open(child).find(child.architectures["child"])
            assert found is not None and child.spaces


@BY_FILE
def test_the_size_is_what_the_page_says(path: Path) -> None:
    space = open_space(path)
    assert prod(d.ways for d in dimensions(Draws.of(space).genome)) == space.size
    page = (HERE.parent / "docs" / "spaces.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| \[`{path.stem}`\]\(\S+\) \|.*\| (\S+) \|$", page, re.MULTILINE)
    assert row is not None and row[1] == f"{space.size:.2e}".replace("e+", "e")


def test_the_default_space_spans_the_budgets() -> None:
    space = open_space("hybrid")
    assert space.size >= 10**15

    def cost(decide: Callable[[str, int], int]) -> Cost:
        return price(elaborated(space, space.sample(decide))).total

    least, most = cost(lambda name, options: 0), cost(lambda name, options: options - 1)
    assert least.macs < 0.3e9 and least.params < 2e6
    assert most.macs > 20e9 and most.params > 150e6


@pytest.mark.full
@BY_FILE
def test_hardly_any_point_is_ill_formed(path: Path) -> None:
    assert not survey(open_space(path), samples=300, seed=1).mistakes


@pytest.mark.full
@BY_FILE
def test_points_build_and_cost_what_torch_counts(path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from archdsl.backends.load import load_module
    from archdsl.backends.torch import emit

    space = open_space(path)
    for point in drawn(space, 6, step=1):
        graph = elaborated(space, point)
        with torch.device("meta"):
            module = load_module(graph.name, emit(graph, "", "")).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                module(torch.zeros(1, 3, 224, 224))
        cost = price(graph).total
        assert sum(p.numel() for p in module.parameters()) == cost.params
        assert counter.get_total_flops() / 2 == pytest.approx(cost.macs, rel=1e-3)


# -- what is told of a space -----------------------------------------------------------------------

TINY = """language 1
arch a[dim = 8, k = 3, depth = 1] {
  input img: map[3, 8, 8]
  x = img |> conv[dim, k = 3]
  blocks j in depth { x += conv[dim, k = k, p = 1](x) }
  head { return x |> gap |> linear@fc[10] }
}
space s of a {
  dim = {8 | 16 | 24 | 32}
  k = {3 | {5 | 7}}
  depth = {1..2}
  require dim <= 24
  require params <= 10k
  require latency("h200") <= 1ms
  minimize flops
  seed a
}
"""
"""A kernel other than 3 changes the map's size, and cannot be added to it."""


def test_a_survey_tells_sound_points_from_others() -> None:
    space = Space.open(program(TINY))
    info = survey(space, samples=400)
    fine, unmet, wrong = 0, 0, 0
    for row in Draws.of(space).genome.random(stream(0, 0x535552, 0), 400):
        dim, k, depth = (Draws.of(space).point(row).overrides[name] for name in ("dim", "k", "depth"))
        assert isinstance(dim, int) and isinstance(depth, int)
        params = 27 * dim + dim + depth * (9 * dim * dim + dim) + 10 * dim + 10
        if dim > 24 or (k == 3 and params > 10_000):
            unmet += 1
        elif k == 3:
            fine += 1
        else:
            wrong += 1
    assert min(fine, unmet, wrong) > 20
    assert (len(info.costs), info.unmet, sum(info.mistakes.values())) == (fine, unmet, wrong)
    assert list(info.mistakes) == ["E-BROADCAST at spec.arch:5"]
    assert info.size == 4 * 3 * 2
    assert [(d.name, d.alternatives, d.nested, d.ways) for d in info.dimensions] == [
        ("dim", (4,), 0, 4),
        ("k", (2,), 1, 3),
        ("depth", (2,), 0, 2),
    ]
    assert info.untested == ('latency("h200") <= 1ms',)
    assert info.share(10**9) == fine / 400 and info.share(1) == 0
    assert info.seen("macs") == (min(c.macs for c in info.costs), max(c.macs for c in info.costs))
    smallest = price(space.program.elaborate("a", overrides={"dim": 8, "k": 3, "depth": 1})).total
    assert survey(space, 1, bounds=True).bounds == {"params": smallest.params, "macs": smallest.macs}
    assert "not bounds" in info.text()


def test_the_command_finds_spaces_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("hybrid", kind="space").path == specs_dir() / "spaces" / "hybrid.arch"
    with pytest.raises(ArchError) as e:
        locate("hybird", kind="space")
    assert e.value.diagnostics[0].code == "E-SPEC" and "`hybrid`" in e.value.diagnostics[0].help
    Path("specs/spaces").mkdir(parents=True)
    Path("specs/spaces/hybrid.arch").write_text(TINY.replace("space s", "space hybrid"))
    Path("tiny.arch").write_text(TINY)
    assert open_space("hybrid").size == open_space("tiny.arch:s").size == 24
    assert main(["space", "info", "hybrid", "--samples", "30", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "hybrid" and told["samples"] == 30 and told["size"] == 24
    assert main(["space", "info", "tiny.arch", "--samples", "30"]) == 0
    assert "of 30 random points are feasible" in capsys.readouterr().out
    assert main(["space", "info", "tiny.arch:t"]) == 1
    assert "declares no space `t`" in capsys.readouterr().err
