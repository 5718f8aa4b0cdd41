"""Turns a Study into what a user reads: tables, figures, a page, a report and its settings, all of them text."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from archdsl.cost import CONVENTIONS, price
from archdsl.ir.graph import Graph
from archdsl.resources import template_dir
from archdsl.search.budget import LOCAL, Measure
from archdsl.search.info import large
from archdsl.search.metrics import METRICS
from archdsl.search.published import COMPARED, Published
from archdsl.search.study import Member, Study

if TYPE_CHECKING:
    from rich.table import Table

Place: TypeAlias = tuple[float, float]
SCORE = Measure("score")
ROWS = 10
"""How many members a table shows; pareto.csv has them all."""
NEAR = 2.0
"""A published model is near when its params and its multiply-adds are within this factor of those of the front."""
WORDS: Mapping[str, str] = {
    "score": "predicted rank among published models, 0 to 100",
    "params": "parameters",
    "macs": "multiply-adds per image",
    "activations": "activations per image",
    "bytes": "bytes moved per image",
    LOCAL.metric: "measured latency of one image on this machine (processor time, one thread, median of ten runs)",
}


def stages_of(graph: Graph) -> str:
    """A picture of a graph's stages: `56x56·96 ×2 → 28x28·192 ×2`."""
    return price(graph).picture


def words(measure: Measure) -> str:
    """What a measure measures."""
    if measure.metric == "latency":
        return f"predicted latency of a batch of {measure.batch} on {measure.device}, {measure.dtype}"
    return WORDS.get(measure.metric, measure.metric)


def measures_of(study: Study) -> tuple[Measure, ...]:
    """What is known of every member."""
    return (SCORE, *study.best.measures)


def value_of(member: Member, measure: Measure) -> float:
    return member.score if measure == SCORE else member.measures[measure]


def shown(member: Member, measure: Measure) -> str:
    """A member's value with its unit, the score with its spread."""
    if measure == SCORE:
        return f"{member.score:.1f} ± {member.spread:.1f}"
    return measure.shown(member.measures[measure])


def excerpt(study: Study) -> tuple[Member, ...]:
    """At most ROWS members, evenly spread over the front, the first and the last among them."""
    last = len(study.members) - 1
    if last < ROWS:
        return study.members
    return tuple(study.members[round(i * last / (ROWS - 1))] for i in range(ROWS))


# -- published models ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rival:
    """A published model: how accurate it was, on which images, and what is known of its measures."""

    name: str
    top1: float
    side: int
    measures: Mapping[Measure, float]
    """Its rank by top-1 stands for the score."""


def rivals(study: Study) -> tuple[Rival, ...]:
    """The published models, in the order of the table."""
    published = Published.read()
    known = [m for m in measures_of(study) if m.metric in METRICS]
    out = []
    for i, name in enumerate(published.models):
        row = {m: float(published.metrics[i, METRICS.index(m.metric)]) for m in known}
        measures = {SCORE: float(published.ranks[i])} | {m: n for m, n in row.items() if math.isfinite(n)}
        out.append(Rival(name, float(published.top1[i]), int(published.side[i]), measures))
    return tuple(out)


def near(study: Study) -> tuple[Rival, ...]:
    """The published models about as large as the members."""
    out = rivals(study)
    for measure in (Measure("params"), Measure("macs")):
        sizes = [m.measures[measure] for m in study.members]
        out = tuple(r for r in out if min(sizes) / NEAR <= r.measures[measure] <= max(sizes) * NEAR)
    return out


# -- axes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A measure from `low` to `high`, in even steps or in even ratios."""

    measure: Measure
    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    @staticmethod
    def over(measure: Measure, values: Sequence[float]) -> Axis:
        """An axis on which all the values have a place; by ratios where they exceed a decade."""
        low, high = min(values), max(values)
        if measure != SCORE and low > 0 and high > 10 * low:
            room = (high / low) ** 0.04
            low, high = low / room, high * room
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
            candidates = [m * 10.0**p for p in powers for m in ((1, 2, 5) if high < 1000 * low else (1,))]
            return Axis(measure, low, high, True, tuple(t for t in candidates if low <= t <= high))
        span = max(high - low, 0.04 * abs(high)) or 1.0
        middle = (low + high) / 2
        low, high = middle - 0.54 * span, middle + 0.54 * span
        step = _step(span / 5)
        return Axis(
            measure,
            low,
            high,
            False,
            tuple(i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)),
        )

    def at(self, value: float) -> float:
        """Where a value stands: 0 at `low`, 1 at `high`."""
        f: Callable[[float], float] = math.log if self.log else float
        return (f(value) - f(self.low)) / (f(self.high) - f(self.low))

    @property
    def title(self) -> str:
        return words(self.measure) + (" (logarithmic)" if self.log else "")

    def label(self, tick: float) -> str:
        """`2G`, `0.5 ms`."""
        return re.sub(r"\.0+(?!\d)|(\.\d*[1-9])0+(?!\d)", r"\1", self.measure.shown(tick))


def _step(least: float) -> float:
    """The least of 1, 2, 5, 10, 20 ... and their tenths that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least)


def axes(study: Study, others: Sequence[Rival]) -> tuple[Axis, ...]:
    """An axis for every measure, with room for the members, the spread of their scores, and the others."""
    out = []
    for measure in measures_of(study):
        values = [r.measures[measure] for r in others if measure in r.measures]
        for member in study.members:
            value, off = value_of(member, measure), member.spread if measure == SCORE else 0.0
            values += [value - off, value + off]
        out.append(Axis.over(measure, values))
    return tuple(out)


def plotted(study: Study) -> tuple[Measure, Measure]:
    """The first two objectives, filled up with multiply-adds and params: one to make large goes on the second axis."""
    asked = [o.measure for o in study.objectives]
    large = {o.measure for o in study.objectives if o.maximize}
    found = list(dict.fromkeys([*asked, Measure("macs"), Measure("params")]))[:2]
    first, second = sorted(found, key=lambda m: m in large)
    return first, second


# -- files -----------------------------------------------------------------------------------------


def pareto_csv(study: Study) -> str:
    """The front, a member a row, with every digit."""
    measures = study.best.measures
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    titles = [f"{m} (s)" if m.seconds else str(m) for m in measures]
    writer.writerow(["id", "score", "spread", *titles, "nearest", "parents", "hash"])
    for m in study.members:
        numbers = [_plain(m.measures[measure]) for measure in measures]
        writer.writerow([m.id, m.score, m.spread, *numbers, m.nearest, " ".join(m.parents), m.hash])
    return out.getvalue()


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() else repr(number)


WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 40, 56
LETTER = 6.0
"""Width of a letter of a label, in pixels, about."""


def pareto_svg(study: Study) -> str:
    """The front and the published models near it, over the first two objectives."""
    first, second = plotted(study)
    others = [r for r in near(study) if first in r.measures and second in r.measures]
    by = {axis.measure: axis for axis in axes(study, others)}
    x, y = by[first], by[second]

    def at(one: float, other: float) -> Place:
        across, up = x.at(one) * (WIDTH - LEFT - RIGHT), y.at(other) * (HEIGHT - TOP - BOTTOM)
        return round(LEFT + across, 2), round(HEIGHT - BOTTOM - up, 2)

    places = [at(value_of(m, first), value_of(m, second)) for m in study.members]
    spots = [at(r.measures[first], r.measures[second]) for r in others]
    names = [r.name.partition(".")[0] for r in others]
    best, spread = study.best, study.best.spread
    return _template("pareto.svg.j2").render(
        study=study,
        box={"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
        size=(WIDTH, HEIGHT),
        x=x,
        y=y,
        across=[(at(t, y.low)[0], x.label(t)) for t in x.ticks],
        up=[(at(x.low, t)[1], y.label(t)) for t in y.ticks],
        members=list(zip(places, study.members, strict=True)),
        others=list(zip(spots, names, _anchors(spots, names, places), strict=True)),
        bar=[at(value_of(best, first), best.score + off) for off in (-spread, spread)] if second == SCORE else [],
    )


def _anchors(spots: Sequence[Place], names: Sequence[str], places: Sequence[Place]) -> list[str]:
    """Where the names of spots stand so that they cover nothing: from the spot on ("start"), up to it, or nowhere."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in (*places, *spots)]

    def free(left: float, top: float, right: float, bottom: float) -> bool:
        apart = (right <= x or x_end <= left or bottom <= y or y_end <= top for x, y, x_end, y_end in taken)
        return left > LEFT and right < WIDTH - RIGHT and all(apart)

    out = []
    for (x, y), name in zip(spots, names, strict=True):
        wide = LETTER * len(name)
        boxes = {"start": (x + 5, y - 6, x + 5 + wide, y + 6), "end": (x - 5 - wide, y - 6, x - 5, y + 6)}
        anchor = next((anchor for anchor, box in boxes.items() if free(*box)), "")
        taken += [boxes[anchor]] if anchor else []
        out.append(anchor)
    return out


def pareto_html(study: Study) -> str:
    """A page that needs nothing but itself: the front over any two measures, and as a table."""
    data = json.dumps(page(study), ensure_ascii=False, allow_nan=False)
    escaped = data.replace("<", "\\u003c")  # so that no text in it ends the script it stands in
    return _template("pareto.html.j2").render(study=study, convention=CONVENTIONS["macs"], data=escaped)


def page(study: Study) -> dict[str, object]:
    """What the page draws: the axes, and of every model its values in their order."""
    others = near(study)
    found = axes(study, others)
    measures = [a.measure for a in found]
    return {
        "axes": [
            {
                "name": str(a.measure),
                "title": a.title,
                "low": a.low,
                "high": a.high,
                "log": a.log,
                "ticks": [[t, a.label(t)] for t in a.ticks],
            }
            for a in found
        ],
        "chosen": [measures.index(m) for m in plotted(study)],
        "members": [
            {
                "id": m.id,
                "text": m.text,
                "stages": m.stages,
                "nearest": m.nearest,
                "parents": " ".join(m.parents),
                "spread": m.spread,
                "values": [value_of(m, measure) for measure in measures],
                "shown": [shown(m, measure) for measure in measures],
            }
            for m in study.members
        ],
        "published": [
            {
                "id": r.name,
                "top1": r.top1,
                "values": [r.measures.get(measure) for measure in measures],
                "shown": [measure.shown(r.measures[measure]) if measure in r.measures else "" for measure in measures],
            }
            for r in others
        ],
    }


def report_md(study: Study) -> str:
    """What was searched and how, what was found, and how to go on."""
    members = excerpt(study)
    named = {m.nearest for m in members}
    goals = [f"{words(o.measure)}: as {'large' if o.maximize else 'small'} as possible" for o in study.objectives]
    return _template("report.md.j2").render(
        study=study,
        size=large(study.size),
        budgets=[(b, f"{words(b.measure)}: at most {b.measure.shown(b.limit)}") for b in study.budgets],
        goals=goals,
        last=study.history[-1],
        measures=measures_of(study),
        members=members,
        shown=shown,
        others=[r for r in rivals(study) if r.name in named],
        sizes=[m for m in measures_of(study) if m.metric in COMPARED],
        rank=SCORE,
    )


def run_toml(study: Study) -> str:
    """The resolved configuration. Of equal runs the `seconds` alone differ."""
    settings = {
        "name": study.name,
        "space": study.space,
        "budgets": [str(b) for b in study.budgets],
        "objectives": [str(o) for o in study.objectives],
        "convention": CONVENTIONS["macs"],
        **study.settings,
        "digest": study.digest,
        "seconds": round(study.history[-1].seconds, 1),
    }
    return toml(settings)


def toml(settings: Mapping[str, object]) -> str:
    """Settings as TOML: those that are mappings as tables, at the end; None is left out."""
    flat = {key: value for key, value in settings.items() if not isinstance(value, Mapping) and value is not None}
    out = [f"{_key(key)} = {_literal(value)}" for key, value in flat.items()]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out += ["", f"[{_key(key)}]", *(f"{_key(k)} = {_literal(v)}" for k, v in value.items() if v is not None)]
    return "\n".join(out) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _literal(key)


def _literal(value: object) -> str:
    if isinstance(value, (bool, int, float)):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    assert isinstance(value, (str, Path)), value
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _template(name: str) -> Template:
    return Environment(
        loader=FileSystemLoader(template_dir() / "search"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=lambda name: name is not None and name.endswith((".html.j2", ".svg.j2")),
    ).get_template(name)


# -- the terminal ----------------------------------------------------------------------------------


def table(study: Study) -> Table:
    """At most ROWS members, a row each."""
    from rich import box
    from rich.table import Table

    measures = [m for m in measures_of(study) if m.metric != "bytes"]
    out = Table(box=box.SIMPLE_HEAD)
    out.add_column("id", no_wrap=True)
    for measure in measures:
        out.add_column(str(measure), justify="right", no_wrap=True)
    out.add_column("stages")
    for member in excerpt(study):
        out.add_row(member.id, *(shown(member, measure) for measure in measures), member.stages)
    return out


def as_dict(study: Study) -> dict[str, object]:
    """For JSON."""
    return {
        "name": study.name,
        "space": study.space,
        "size": study.size,
        "budgets": [{"text": b.text, "measure": str(b.measure), "limit": b.limit} for b in study.budgets],
        "objectives": [{"measure": str(o.measure), "maximize": o.maximize} for o in study.objectives],
        "settings": dict(study.settings),
        "convention": CONVENTIONS["macs"],
        "sentence": study.sentence,
        "notes": list(study.notes),
        "digest": study.digest,
        "progress": [asdict(p) for p in study.history],
        "front": [
            {
                "id": m.id,
                "text": m.text,
                "hash": m.hash,
                "score": m.score,
                "spread": m.spread,
                "measures": {str(measure): value for measure, value in m.measures.items()},
                "nearest": m.nearest,
                "parents": list(m.parents),
                "stages": m.stages,
            }
            for m in study.members
        ],
    }
