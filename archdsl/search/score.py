"""Turns metrics into a predicted rank among published models, with its spread.

The prediction is data (data/score.json, fitted by validation.py): a sum of ramps of the logarithms of three sizes,
each rising and level beyond the published models. More is never worse, and nothing is gained outside the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archdsl.cost import human
from archdsl.diagnostics import did_you_mean, error
from archdsl.ir.graph import Graph
from archdsl.search.metrics import METRICS, measure
from archdsl.search.published import DATA, Published

if TYPE_CHECKING:
    from rich.table import Table

FILE = DATA / "score.json"
SIZES = ("timm", "params", "activations")
"""The sizes every score rests on. Multiply-adds come first (as timm counts them: that is what is published)."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Tau:
    """Kendall's tau of held-out predictions with the published top-1, and its 95% interval over families."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


UNKNOWN = Tau(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Score:
    """A predicted rank: the percentage of `models` published models that a model is predicted to beat.

    Logarithms of sizes follow SIZES. Params and activations count up to `caps` above their trend over multiply-adds,
    `trend` (at one multiply-add, and per unit of its logarithm). `heights` are the values at `knots`, a row a size.
    `shares` names kinds of op; their shares of the multiply-adds, clipped to `low` and `high`, weigh `slopes`.
    `centre` and `precision` are the mean of the published models and their inverse scatter: they say how far off a
    model is. `deviation` is the root mean square error on held-out families,
    not a number before validation.
    """

    name: str
    models: int
    trend: Rows
    caps: tuple[float, ...]
    knots: Rows
    heights: Rows
    shares: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    slopes: tuple[float, ...]
    centre: tuple[float, ...]
    precision: Rows
    deviation: float = math.nan
    everywhere: Tau = UNKNOWN
    band: Tau = UNKNOWN

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics it reads."""
        return (*SIZES, *(("macs", *(f"macs_{kind}" for kind in self.shares)) if self.shares else ()))

    @property
    def sentence(self) -> str:
        """What the score is, and how far it can be trusted."""
        seen = "sizes and kinds of op" if self.shares else "sizes alone"
        return (
            f"score: a predicted rank among {self.models} published models (0 to 100), not an accuracy; from {seen}; "
            f"tau on held-out families {self.everywhere}, of 2 to 6 GMACs {self.band}"
        )

    def predict(self, metrics: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and spread [N] of metrics [N, METRICS]."""
        sizes, shares = sizes_of(metrics), shares_of(metrics, self.shares)
        mean = np.clip(shares, self.low, self.high) @ np.array(self.slopes)
        for x, knots, heights in zip(capped(sizes, self.trend, self.caps), self.knots, self.heights, strict=True):
            mean += np.interp(x, knots, heights)
        off = np.concatenate([sizes, shares.T]) - np.array(self.centre)[:, None]
        distance = np.einsum("in,in->n", off, np.array(self.precision) @ off)
        return mean, self.deviation * np.sqrt(1 + 1 / self.models + distance)


def sizes_of(metrics: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithms of SIZES [SIZES, N] of metrics [N, METRICS]."""
    return np.log(np.maximum(metrics[:, [METRICS.index(name) for name in SIZES]].T, 1.0))


def shares_of(metrics: NDArray[np.float64], kinds: Sequence[str]) -> NDArray[np.float64]:
    """What part of the multiply-adds each kind of op takes [N, kinds], of metrics [N, METRICS]."""
    spent = metrics[:, [METRICS.index(f"macs_{kind}") for kind in kinds]]
    return spent / np.maximum(metrics[:, [METRICS.index("macs")]], 1.0)


def capped(sizes: NDArray[np.float64], trend: Rows, caps: Sequence[float]) -> NDArray[np.float64]:
    """Sizes whose params and activations are at most their cap above the trend over multiply-adds."""
    out = sizes.copy()
    for x, (start, slope), cap in zip(out[1:], trend, caps, strict=True):
        np.minimum(x, start + slope * sizes[0] + cap, out=x)
    return out


@cache
def load(name: str = "default") -> Score:
    """A shipped score: "size", "features", or "default", the one of the two that validation chose."""
    record = json.loads(FILE.read_text(encoding="utf-8"))
    known = {entry["name"]: entry for entry in record["scores"]}
    wanted = record["default"] if name == "default" else name
    if wanted not in known:
        raise error("E-NAME", f"there is no score `{name}`", help=did_you_mean(name, known))
    return Score(**{key: _read(value) for key, value in known[wanted].items()})


def dump(scores: Sequence[Score], default: str) -> str:
    """The text of score.json."""
    return json.dumps({"default": default, "scores": [asdict(s) for s in scores]}, indent=1) + "\n"


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return Tau(**value)
    return tuple(map(_read, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Rated:
    """One graph's score: its mean and spread, and the published model that stands next below."""

    name: str
    metrics: tuple[float, ...]
    mean: float
    spread: float
    place: int
    """1 + the number of published models that stand higher."""
    below: str

    def __getitem__(self, name: str) -> float:
        return self.metrics[METRICS.index(name)]


@dataclass(frozen=True)
class Ratings:
    """Graphs and their scores."""

    score: Score
    rows: tuple[Rated, ...]

    def text(self) -> str:
        return self.score.sentence

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        rows = [
            {"name": r.name, "score": r.mean, "spread": r.spread, "place": r.place, "below": r.below}
            | {name: r[name] for name in self.score.names}
            for r in self.rows
        ]
        return {"score": self.score.name, "sentence": self.score.sentence, "models": self.score.models, "rows": rows}

    def table(self) -> Table:
        """A row a graph, as a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for title in ("arch", "score", "place", "params", "FLOPs (timm)", "activations", "published just below"):
            table.add_column(title, justify="left" if title in ("arch", "published just below") else "right")
        for r in self.rows:
            sizes = (human(int(r[name])) for name in ("params", "timm", "activations"))
            place = f"{r.place} of {self.score.models + 1}"
            table.add_row(r.name, f"{r.mean:.1f} ± {r.spread:.1f}", place, *sizes, r.below)
        return table


def rate(graphs: Sequence[Graph], name: str = "default") -> Ratings:
    """The scores of graphs, and where the published models place them."""
    score, published = load(name), Published.read()
    metrics = [measure(graph) for graph in graphs]
    means, spreads = score.predict(np.array(metrics).reshape(-1, len(METRICS)))
    order = np.argsort(-published.ranks, kind="stable")
    rows = []
    for graph, row, mean, spread in zip(graphs, metrics, means, spreads, strict=True):
        higher = int((published.ranks > mean).sum())
        below = published.models[order[higher]] if higher < len(order) else ""
        rows.append(Rated(graph.name, row, float(mean), float(spread), 1 + higher, below))
    return Ratings(score, tuple(rows))
