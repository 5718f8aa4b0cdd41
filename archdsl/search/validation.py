"""Turns published models into scores, and leaves out one family after the other to see how well they rank it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.search.genome import stream
from archdsl.search.metrics import METRICS
from archdsl.search.published import Published
from archdsl.search.score import Score, Tau, capped, shares_of, sizes_of

if TYPE_CHECKING:
    from rich.table import Table

Array: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

SHARES = ("dense", "depthwise", "attention")
"""The shares of multiply-adds that "features" adds to the sizes; what is pointwise follows from them."""
RAMPS = 3
"""Pieces of each size's curve, between quantiles of the published models."""
PENALTY = 1.0
CAP = 0.95
"""The quantile of published params and activations above their trend beyond which more counts for nothing."""
BAND, SIDE = (2e9, 6e9), 224
"""Multiply-adds and image size among which models are hard to tell apart."""
RESAMPLES = 2000
_INTERVALS = 0x7A75
"""The purpose of the random numbers behind intervals."""


def fit(published: Published, shares: tuple[str, ...] = ()) -> Score:
    """The score of published ranks by sizes, and by shares of kinds of op. It is not yet validated.

    Ridge regression on ramps whose weights may not be negative: each size's curve rises from knot to knot.
    """
    sizes, kinds = sizes_of(published.metrics), shares_of(published.metrics, shares)
    macs = np.stack([np.ones(len(published)), sizes[0]], 1)
    trend = np.linalg.lstsq(macs, sizes[1:].T, rcond=None)[0].T
    caps = np.quantile(sizes[1:] - trend @ macs.T, CAP, axis=1)
    limited = capped(sizes, _rows(trend), caps.tolist())
    knots = np.quantile(limited, np.linspace(0, 1, RAMPS + 1), axis=1).T
    widths = np.diff(knots)
    ramps = np.clip((limited[:, :, None] - knots[:, None, :-1]) / widths[:, None], 0, 1) * np.sqrt(widths)[:, None]
    scale = kinds.std(0)
    design = np.concatenate([*ramps, kinds / scale], 1)
    middle, goal = design.mean(0), published.ranks.mean()
    off = design - middle
    gram = off.T @ off + PENALTY * np.eye(len(middle))
    bounded = np.arange(len(middle)) < widths.size
    weights = nonnegative(gram, off.T @ (published.ranks - goal), bounded)
    rises = weights[bounded].reshape(widths.shape) * np.sqrt(widths)
    heights = np.concatenate([np.zeros((len(rises), 1)), np.cumsum(rises, 1)], 1)
    heights[0] += goal - middle @ weights
    features = np.concatenate([sizes, kinds.T]).T
    centre = features.mean(0)
    scatter = (features - centre).T @ (features - centre)
    return Score(
        "features" if shares else "size",
        len(published),
        trend=_rows(trend),
        caps=tuple(caps.tolist()),
        knots=_rows(knots),
        heights=_rows(heights),
        shares=shares,
        low=tuple(kinds.min(0).tolist()),
        high=tuple(kinds.max(0).tolist()),
        slopes=tuple((weights[~bounded] / scale).tolist()),
        centre=tuple(centre.tolist()),
        precision=_rows(np.linalg.inv(scatter)),
    )


def nonnegative(gram: Array, target: Array, bounded: Flags) -> Array:
    """The minimiser of w'Gw/2 - t'w whose bounded members are not negative (Murty's rule: the last wrong one turns).

    `gram` is positive definite, so the rule ends.
    """
    free = ~bounded
    while True:
        w = np.zeros(len(target))
        w[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
        gain = target - gram @ w
        wrong = np.flatnonzero(bounded & np.where(free, w < 0, gain > 1e-9 * np.abs(target).max()))
        if not len(wrong):
            return w
        free = free.copy()
        free[wrong[-1]] ^= True


def held_out(published: Published, regress: Callable[[Published, Array], Array]) -> Array:
    """What `regress` (train, metrics of others) predicts for each family from all the others."""
    out = np.empty(len(published))
    for name in np.unique(published.families):
        others = published.families != name
        out[~others] = regress(published.where(others), published.metrics[~others])
    return out


def kendall(a: Array, b: Array, weights: Array) -> Array:
    """Kendall's tau-b of a and b [N] for each row of weights [R, N], which say how often a member counts."""
    first, second = np.sign(a[:, None] - a), np.sign(b[:, None] - b)

    def total(pairs: Array) -> Array:
        return np.asarray(((weights @ pairs) * weights).sum(1))

    return np.asarray(total(first * second) / np.sqrt(total(np.abs(first)) * total(np.abs(second))))


@dataclass(frozen=True)
class Judged:
    """A score and its held-out predictions."""

    score: Score
    predictions: Array
    covered: float
    """The share of models whose published rank is no further from the held-out prediction than the spread."""


@dataclass(frozen=True)
class Validation:
    """Two scores, what features add to sizes, and the score that is the default because of it."""

    published: Published
    judged: tuple[Judged, ...]
    gain: Tau
    gain_in_band: Tau

    @property
    def default(self) -> str:
        """The features' score where its gain's interval lies above 0, else the sizes'."""
        return "features" if self.gain.low > 0 else "size"

    def text(self) -> str:
        families, band = len(np.unique(self.published.families)), int(in_band(self.published).sum())
        verdict = "above 0" if self.gain.low > 0 else "not surely above 0"
        return (
            f"features over size: {self.gain}, of 2 to 6 GMACs {self.gain_in_band}\n"
            f"{verdict}, so the default score is `{self.default}`\n"
            f"tau: Kendall's, with the published top-1 of {len(self.published)} models; each of {families} families is "
            f"predicted from the others\n"
            f"2 to 6 GMACs: {band} of them, at {SIDE} px; in brackets: 95% of {RESAMPLES} resamplings of families\n"
            f"size: params, multiply-adds, activations; features: also the shares of {', '.join(SHARES)} ones\n"
            "error: root mean square, of ranks from 0 to 100, families held out"
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "models": len(self.published),
            "families": len(np.unique(self.published.families)),
            "band": int(in_band(self.published).sum()),
            "default": self.default,
            "scores": [
                {
                    "name": j.score.name,
                    "tau": asdict(j.score.everywhere),
                    "band": asdict(j.score.band),
                    "deviation": j.score.deviation,
                    "covered": j.covered,
                }
                for j in self.judged
            ],
            "gain": asdict(self.gain),
            "gain_in_band": asdict(self.gain_in_band),
        }

    def table(self) -> Table:
        """A row a score, as a rich table."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("score")
        for title in ("tau", "2 to 6 GMACs", "error", "within spread"):
            table.add_column(title, justify="right")
        for j in self.judged:
            numbers = str(j.score.everywhere), str(j.score.band), f"{j.score.deviation:.1f}", f"{100 * j.covered:.0f}%"
            table.add_row(j.score.name, *numbers)
        return table


def in_band(published: Published) -> Flags:
    macs = published.metrics[:, METRICS.index("timm")]
    return np.asarray((macs >= BAND[0]) & (macs <= BAND[1]) & (published.side == SIDE))


def validate() -> Validation:
    """Both scores, fitted on the shipped tables and judged on families left out."""
    published = Published.read()
    counts = resampled(published)
    judged = []
    for shares in ((), SHARES):
        predictions = held_out(published, partial(_predict, shares))
        errors = np.abs(predictions - published.ranks)
        score = replace(
            fit(published, shares),
            deviation=float(np.sqrt((errors**2).mean())),
            everywhere=interval(kendall(predictions, published.top1, counts)),
            band=interval(kendall(predictions, published.top1, counts * in_band(published))),
        )
        covered = float((errors <= score.predict(published.metrics)[1]).mean())
        judged.append(Judged(score, predictions, covered))
    size, features = (j.predictions for j in judged)

    def gain(weights: Array) -> Tau:
        return interval(kendall(features, published.top1, weights) - kendall(size, published.top1, weights))

    return Validation(published, tuple(judged), gain(counts), gain(counts * in_band(published)))


def _predict(shares: tuple[str, ...], train: Published, metrics: Array) -> Array:
    return fit(train, shares).predict(metrics)[0]


def resampled(published: Published) -> Array:
    """[1 + RESAMPLES, models]: once each, and then as often as its family is drawn, with replacement."""
    names, of = np.unique(published.families, return_inverse=True)
    drawn = stream(0, _INTERVALS, 0).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return np.concatenate([np.ones((1, len(published))), drawn[:, of]])


def interval(values: Array) -> Tau:
    """The first value, with the interval of the others."""
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return Tau(float(values[0]), float(low), float(high))


def _rows(values: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values.tolist()))
