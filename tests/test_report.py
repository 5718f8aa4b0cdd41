"""Turns what a search hands out into checks: every file says what the study says, and strange text harms none."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from archdsl.api import elaborate
from archdsl.resources import template_dir
from archdsl.search import report
from archdsl.search.budget import Measure, parse_budget, parse_objective
from archdsl.search.metrics import METRICS
from archdsl.search.published import FEATURES, RESULTS, Published, nearest, read_rows
from archdsl.search.report import Axis
from archdsl.search.study import Member, Progress, Study

PARAMS, MACS, ACTIVATIONS, BYTES = (Measure(name) for name in ("params", "macs", "activations", "bytes"))
LATENCY = Measure("latency", "h200", 64)
STRANGE = "</script><!-- <b> & \" ' \\ é 中 😀 \u2028 {{ 1 }} ${2} |"


def member(i: int, nearest: str) -> Member:
    """The i-th of a front: smaller ones with lower scores, over more than a decade of multiply-adds."""
    macs = 4e9 * 0.9**i
    measures = {PARAMS: round(30e6 * 0.95**i), MACS: round(macs), ACTIVATIONS: 20e6 - i, BYTES: 3e8 + i}
    return Member(
        f"cand_{i:04x}",
        f'arch cand_{i:04x} = seed[note = "{STRANGE}"]',
        (i,),
        f"{i:032x}",
        90 - 2.5 * i,
        10 + i / 7,
        {m: float(n) for m, n in measures.items()} | {LATENCY: 3e-3 - 5e-5 * i},
        nearest,
        f"56x56·{96 - i} ×2 → 28x28·192 ×{i + 1}",
        tuple(f"cand_{n:04x}" for n in range(i % 3)),
    )


@pytest.fixture(scope="module")
def study() -> Study:
    published = Published.read()
    models = published.models
    return Study(
        name=f"swin {STRANGE}",
        space=f"{STRANGE}.arch:swin_s3",
        size=7 * 10**13,
        budgets=(parse_budget("4GFLOPs"), parse_budget("15ms@h200x64")),
        objectives=(parse_objective("score"), parse_objective("macs")),
        settings={
            "seed": 3,
            "min_util": 0.975,
            "input": [3, 224, 224],
            "versions": {"numpy": "2.4.6"},
            "none": None,
        },
        members=tuple(member(i, models[i % 5]) for i in range(25)),
        history=(Progress(1, 10, 10, 1, 1, 0.1, 0.5), Progress(7, 123456, 120000, 30000, 25, 0.875, 12.34)),
        digest="0" * 64,
        sentence=f"a sentence {STRANGE}",
        notes=(f"a note {STRANGE}",),
    )


# -- files -----------------------------------------------------------------------------------------


def test_csv_holds_every_digit(study: Study) -> None:
    rows = list(csv.DictReader(StringIO(report.pareto_csv(study))))
    assert [row["id"] for row in rows] == [m.id for m in study.members]
    for row, m in zip(rows, study.members, strict=True):
        assert (float(row["score"]), float(row["spread"])) == (m.score, m.spread)
        assert {int(row[str(measure)]): measure for measure in (PARAMS, MACS, ACTIVATIONS, BYTES)} == {
            int(m.measures[measure]): measure for measure in (PARAMS, MACS, ACTIVATIONS, BYTES)
        }
        assert float(row["latency@h200x64 (s)"]) == m.measures[LATENCY]
        assert (row["nearest"], row["hash"]) == (m.nearest, m.hash)
        assert tuple(row["parents"].split()) == m.parents


UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "ms": 1e-3}


def number(label: str) -> float:
    found = re.fullmatch(r"([\d.]+) ?(|k|M|G|ms)", label)
    assert found is not None, label
    return float(found[1]) * UNITS[found[2]]


def scale(ticks: Sequence[tuple[float, float]], log: bool, value: float) -> float:
    """Where a value stands by the first and the last tick, each a value and its place."""
    f = math.log if log else float
    (first, start), (last, end) = ticks[0], ticks[-1]
    return start + (f(value) - f(first)) / (f(last) - f(first)) * (end - start)


class Figure:
    """A figure read back: ticks of both axes, and circles by their titles."""

    def __init__(self, text: str) -> None:
        root = ElementTree.fromstring(text)
        names = {"svg": "http://www.w3.org/2000/svg"}
        texts = root.findall("svg:text", names)
        bare = [t for t in texts if t.get("class") is None and t.get("transform") is None]
        lower = [t for t in bare if t.get("text-anchor") == "middle"]
        self.title = lower.pop().text
        self.across = [(number(str(t.text)), float(t.attrib["x"])) for t in lower]
        self.up = [(number(str(t.text)), float(t.attrib["y"]) - 4) for t in bare if t.get("text-anchor") == "end"]
        frame = next(p for p in root.findall("svg:path", names) if p.get("class") == "frame")
        left, top, bottom, right = map(float, re.findall(r"[\d.]+", frame.attrib["d"]))
        self.places: dict[str, dict[str, tuple[float, float]]] = {"member": {}, "best": {}, "other": {}}
        for circle in root.findall("svg:circle", names):
            title = circle.find("svg:title", names)
            if title is not None:
                place = float(circle.attrib["cx"]), float(circle.attrib["cy"])
                assert left <= place[0] <= right and top <= place[1] <= bottom
                self.places[circle.attrib["class"]][str(title.text)] = place


def published_numbers() -> Mapping[str, tuple[float, float]]:
    """Multiply-adds and rank by top-1 of every model of the tables, by the name that figures use."""
    read = Published.read()
    top1 = {row["model"]: float(row["top1"]) for row in read_rows(RESULTS) if row["model"] in read.models}
    macs = {row["model"]: float(row["macs"]) for row in read_rows(FEATURES)}
    ranks = {m: 100 * sum((a > b) + (a == b) / 2 for b in top1.values()) / len(top1) for m, a in top1.items()}
    return {m: (macs[m], rank) for m, rank in ranks.items()}


def test_points_of_the_figure_stand_where_their_numbers_say(study: Study) -> None:
    figure = Figure(report.pareto_svg(study))
    assert figure.title == "multiply-adds per image (logarithmic)"
    assert len(figure.across) >= 3 and len(figure.up) >= 3
    assert list(figure.places["best"]) == [study.best.id]
    places = figure.places["member"] | figure.places["best"]
    assert len(places) == len(study.members)
    for m in study.members:
        wanted = scale(figure.across, True, m.measures[MACS]), scale(figure.up, False, m.score)
        assert places[m.id] == pytest.approx(wanted, abs=0.1)
    numbers = published_numbers()
    assert len(figure.places["other"]) > 10
    for name, place in figure.places["other"].items():
        known = [v for model, v in numbers.items() if model.partition(".")[0] == name]
        wanted_places = [(scale(figure.across, True, macs), scale(figure.up, False, rank)) for macs, rank in known]
        assert any(place == pytest.approx(w, abs=0.1) for w in wanted_places), name


def test_axes_follow_the_objectives(study: Study) -> None:
    def titles(*objectives: str) -> list[str]:
        return [str(m) for m in report.plotted(replace(study, objectives=tuple(map(parse_objective, objectives))))]

    assert titles("score", "latency@h200x64", "params") == ["latency@h200x64", "score"]
    assert titles("latency@h200x64", "score") == ["latency@h200x64", "score"]
    assert titles("score") == ["MACs", "score"]
    assert titles("macs") == ["MACs", "params"]
    slow = replace(study, objectives=(parse_objective("score"), parse_objective("latency@h200x64")))
    figure = Figure(report.pareto_svg(slow))
    assert figure.places["other"] == {}, "nobody publishes this latency"
    first = study.members[3]
    wanted = scale(figure.across, False, first.measures[LATENCY]), scale(figure.up, False, first.score)
    assert figure.places["member"][first.id] == pytest.approx(wanted, abs=0.1)


def test_a_front_of_one_has_all_its_files(study: Study) -> None:
    one = replace(study, members=study.members[:1], notes=(), budgets=())
    assert list(Figure(report.pareto_svg(one)).places["best"]) == [one.best.id]
    assert len(tables(report.report_md(one))[0]) == 1
    assert "compare" not in report.report_md(one)
    assert data_of(report.pareto_html(one))["members"][0]["id"] == one.best.id  # type: ignore[index]


@settings(max_examples=60)
@given(
    st.sampled_from([PARAMS, BYTES, LATENCY]),
    st.lists(st.floats(1, 1e7, allow_nan=False), min_size=1, max_size=5),
)
def test_axes_hold_their_values_and_have_distinct_ticks(measure: Measure, values: list[float]) -> None:
    values = [v * (1e-5 if measure == LATENCY else 1e4) for v in values]
    axis = Axis.over(measure, values)
    assert all(0 <= axis.at(v) <= 1 for v in values)
    assert axis.log == (max(values) > 10 * min(values))
    labels = [axis.label(t) for t in axis.ticks]
    assert 2 <= len(set(labels)) == len(labels)
    assert all(axis.low <= t <= axis.high for t in axis.ticks)
    if measure != LATENCY:
        assert [number(label) for label in labels if "T" not in label] == pytest.approx(
            [t for t, label in zip(axis.ticks, labels, strict=True) if "T" not in label], rel=1e-2
        )


# -- the page --------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page read back as browsers read it: the texts of its elements, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data.strip())


def data_of(text: str) -> dict[str, object]:
    page = Page(text)
    assert len(page.scripts) == 2, "its data and its code"
    found = json.loads(page.scripts[0])
    assert isinstance(found, dict)
    return found


def test_the_page_holds_the_study_whatever_its_text(study: Study) -> None:
    text = report.pareto_html(study)
    page, data = Page(text), data_of(text)
    assert data == json.loads(json.dumps(report.page(study)))
    axes = data["axes"]
    names = [axis["name"] for axis in axes]  # type: ignore[attr-defined,index]
    assert names == ["score", "params", "MACs", "activations", "bytes", "latency@h200x64"]
    members = data["members"]
    assert isinstance(members, list)
    for found, m in zip(members, study.members, strict=True):
        assert (found["id"], found["text"], found["stages"], found["nearest"]) == (m.id, m.text, m.stages, m.nearest)
        assert found["values"] == [m.score, *m.measures.values()]
        assert tuple(found["parents"].split()) == m.parents
    for words in (study.name, study.sentence, *study.notes):
        assert words in page.texts
    assert study.space in " ".join(page.texts)
    assert page.loads == [] and "http" not in page.scripts[1] and "innerHTML" not in page.scripts[1]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_pages_code_is_javascript(tmp_path: Path) -> None:
    script = tmp_path / "pareto.js"
    script.write_text((template_dir() / "search" / "pareto.js.j2").read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- the report ------------------------------------------------------------------------------------


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a Markdown text, rows by title."""
    out: list[list[dict[str, str]]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in block.splitlines()]
        assert set("".join(rows[1])) <= set("-:| ")
        out.append([dict(zip(rows[0], row, strict=True)) for row in rows[2:]])
    return out


def test_the_report_lists_members_and_published_models(study: Study) -> None:
    text = report.report_md(study)
    front, published = tables(text)
    assert len(front) == 10
    chosen = [next(m for m in study.members if f"`{m.id}`" == row["id"]) for row in front]
    assert (chosen[0], chosen[-1]) == (study.members[0], study.members[-1])
    for row, m in zip(front, chosen, strict=True):
        mean, spread = row["score"].split(" ± ")
        assert (float(mean), float(spread)) == pytest.approx((m.score, m.spread), abs=0.051)
        for measure in (PARAMS, MACS, ACTIVATIONS, BYTES, LATENCY):
            assert number(row[str(measure)]) == pytest.approx(m.measures[measure], rel=6e-3)
        assert row["stages: positions·channels ×blocks"] == m.stages and row["nearest published"] == m.nearest
        assert tuple(re.findall(r"`(\w+)`", row["parents"])) == m.parents
    rows = {row["model"]: row for row in read_rows(RESULTS)}
    assert {row["model"] for row in published} == {m.nearest for m in chosen}
    ranks = published_numbers()
    for row in published:
        known = rows[row["model"]]
        assert number(row["params"]) == pytest.approx(float(known["params_m"]) * 1e6, rel=1e-2)
        assert number(row["MACs"]) == pytest.approx(float(known["gmacs"]) * 1e9, rel=5e-2)
        assert float(row["top-1"]) == pytest.approx(float(known["top1"]), abs=0.051)
        assert float(row["rank by top-1"]) == pytest.approx(ranks[row["model"]][1], abs=0.051)


def test_the_report_says_what_was_asked_and_how_it_went(study: Study) -> None:
    text = report.report_md(study)
    for words in (
        "`4GFLOPs`: multiply-adds per image: at most 4.00G",
        "`15ms@h200x64`: predicted latency of a batch of 64 on h200, bf16: at most 15 ms",
        "one multiply-add counts as one",
        "predicted rank among published models, 0 to 100: as large as possible",
        "7.00e13 architectures",
        "123,456 candidates",
        "7 generations",
        "120,000 distinct",
        "30,000\n(25%)",
        "at least 97.5%",
        "10 of 25",
        study.sentence,
        *study.notes,
        "archdsl build best.arch",
        f"front/{study.members[-1].id}.arch",
    ):
        assert words in text, words
    later = replace(study, history=(*study.history[:-1], replace(study.history[-1], seconds=999.0)))
    changed = [a for a, b in zip(text.splitlines(), report.report_md(later).splitlines(), strict=True) if a != b]
    assert len(changed) == 1 and "vary between runs" in changed[0]


# -- the configuration -----------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), texts)
flat = st.dictionaries(texts, st.one_of(values, st.lists(values, max_size=3)), max_size=4)


@settings(max_examples=100)
@given(st.dictionaries(texts, st.one_of(values, st.lists(values, max_size=3), flat), max_size=5))
def test_settings_are_read_back(given: dict[str, object]) -> None:
    assert tomllib.loads(report.toml(given)) == given


def test_the_configuration_is_read_back(study: Study) -> None:
    found = tomllib.loads(report.run_toml(study))
    assert found["budgets"] == ["4GFLOPs", "15ms@h200x64"] and found["objectives"] == ["score", "MACs"]
    assert (found["name"], found["space"], found["digest"]) == (study.name, study.space, study.digest)
    assert {key: found[key] for key in study.settings if key != "none"} == {
        key: value for key, value in study.settings.items() if value is not None
    }
    assert "one multiply-add = 1 FLOP" in found["convention"] and found["seconds"] == 12.3


# -- the terminal ----------------------------------------------------------------------------------


def test_the_table_has_ten_rows(study: Study) -> None:
    out = StringIO()
    Console(file=out, width=200).print(report.table(study))
    lines = [line.split() for line in out.getvalue().splitlines() if "cand_" in line]
    assert [line[0] for line in lines] == [f"cand_{i:04x}" for i in (0, 3, 5, 8, 11, 13, 16, 19, 21, 24)]
    assert lines[0][1:9] == ["90.0", "±", "10.0", "30.00M", "4.00G", "20.00M", "3", "ms"]
    assert " ".join(lines[0][9:]) == study.best.stages


def test_json_holds_the_study(study: Study) -> None:
    found = json.loads(json.dumps(report.as_dict(study)))
    assert [m["id"] for m in found["front"]] == [m.id for m in study.members]
    for got, m in zip(found["front"], study.members, strict=True):
        assert got["measures"] == {str(measure): value for measure, value in m.measures.items()}
        assert (got["score"], got["text"], got["hash"]) == (m.score, m.text, m.hash)
        assert tuple(got["parents"]) == m.parents
    assert found["progress"][-1]["distinct"] == 120000 and found["size"] == 7 * 10**13
    assert found["settings"]["seed"] == 3 and found["objectives"][0] == {"measure": "score", "maximize": True}


# -- what members are described by -----------------------------------------------------------------


def test_stages_are_drawn_from_the_graph() -> None:
    drawn = report.stages_of(elaborate("swin_t"))
    assert drawn == "56x56·96 ×2 → 28x28·192 ×2 → 14x14·384 ×6 → 7x7·768 ×2"


@settings(max_examples=40)
@given(st.tuples(*[st.floats(1e6, 1e10)] * 3))
def test_the_nearest_model_is_the_one_of_the_least_distance(sizes: tuple[float, float, float]) -> None:
    published = Published.read()
    wanted = dict.fromkeys(METRICS, 7.0) | dict(zip(("params", "macs", "activations"), sizes, strict=True))
    found = nearest(published, wanted)
    rows = {row["model"]: row for row in read_rows(RESULTS)}
    macs = {row["model"]: float(row["macs"]) for row in read_rows(FEATURES)}

    def distance(model: str) -> float:
        own = float(rows[model]["params_m"]) * 1e6, macs[model], float(rows[model]["macts"]) * 1e6
        return math.hypot(*(math.log(a / b) for a, b in zip(own, sizes, strict=True)))

    assert distance(found) == pytest.approx(min(map(distance, published.models)), abs=1e-12)
