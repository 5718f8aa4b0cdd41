"""Turns the published table into the shipped scores, and into a comparison with other regressors.

python -m benchmarks.score_models            writes archdsl/search/data/score.json
python -m benchmarks.score_models --peers    prints the comparison (needs archdsl[score])
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archdsl.search.published import Published
from archdsl.search.score import FILE, SIZES, dump, shares_of, sizes_of
from archdsl.search.validation import SHARES, fit, held_out, in_band, interval, kendall, resampled, validate

Rows: TypeAlias = NDArray[np.float64]


def peers() -> dict[str, Callable[[], Any]]:
    """Constructors of scikit-learn's regressors, with what is usual for a hundred rows."""
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kernel = ConstantKernel(1.0) * RBF(2.0) + WhiteKernel(0.3)
    return {
        "gradient boosting": lambda: GradientBoostingRegressor(
            max_depth=2, learning_rate=0.08, subsample=0.7, min_samples_leaf=3, random_state=0
        ),
        "ridge": lambda: make_pipeline(StandardScaler(), Ridge(1.0)),
        "gaussian process": lambda: make_pipeline(
            StandardScaler(), GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        ),
    }


def compare() -> None:
    """Prints held-out Kendall tau from sizes, from features, and what features add, of all models and of the band."""
    published = Published.read()
    counts = resampled(published)

    def learn(peer: Callable[[], Any], shares: tuple[str, ...], t: Published, m: Rows) -> Rows:
        return peer().fit(columns(t.metrics, shares), t.ranks).predict(columns(m, shares))

    def ramps(shares: tuple[str, ...], t: Published, m: Rows) -> Rows:
        return fit(t, shares).predict(m)[0]

    regressors = {"ramps": ramps} | {name: partial(learn, peer) for name, peer in peers().items()}
    for where, weights in (("all", counts), ("2 to 6 GMACs", counts * in_band(published))):
        for name, regress in regressors.items():
            size, features = (
                kendall(held_out(published, partial(regress, shares)), published.top1, weights)
                for shares in ((), SHARES)
            )
            print(f"{where}, {name}: {size[0]:.3f} {features[0]:.3f} gain {interval(features - size)}")
        for name, values in zip(SIZES, sizes_of(published.metrics), strict=True):
            print(f"{where}, {name} alone: {kendall(values, published.top1, weights)[0]:.3f}")


def columns(metrics: Rows, shares: tuple[str, ...]) -> Rows:
    return np.concatenate([sizes_of(metrics).T, shares_of(metrics, shares)], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits the shipped scores.")
    parser.add_argument("--peers", action="store_true", help="compare with other regressors instead")
    if parser.parse_args().peers:
        compare()
        return
    found = validate()
    FILE.write_text(dump([j.score for j in found.judged], found.default), encoding="utf-8")
    print(found.text())


if __name__ == "__main__":
    main()
