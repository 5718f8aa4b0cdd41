"""Turns the score into checks: its features agree with timm's models, it equals a refit, and it is sane."""

from __future__ import annotations

import json
import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from archdsl.api import elaborate
from archdsl.cli import main
from archdsl.cost import price
from archdsl.diagnostics import ArchError
from archdsl.search.metrics import COSTS, KINDS, METRICS, measure
from archdsl.search.published import FEATURES, RESULTS, Published, family, helped, read_rows
from archdsl.search.score import SIZES, Score, load, rate
from archdsl.search.validation import SHARES, Validation, fit, kendall, nonnegative, validate

TWINS = {
    "convnext_t": "convnext_tiny.fb_in1k",
    "poolformer_s12": "poolformer_s12.sail_in1k",
    "pvt_v2_b1": "pvt_v2_b1.in1k",
    "convformer_s18": "convformer_s18.sail_in1k",
    "convformer_s18:caformer_s18": "caformer_s18.sail_in1k",
    "vit_s16": "deit_small_patch16_224.fb_in1k",
    "swinv2_t": "swinv2_tiny_window8_256.ms_in1k",
}
"""Our specs and the rows of the shipped table that describe the same model."""


@pytest.fixture(scope="module")
def found() -> Validation:
    return validate()


def named(spec: str) -> dict[str, float]:
    name, _, arch = spec.partition(":")
    return dict(zip(METRICS, measure(elaborate(f"specs/{name}.arch:{arch or name}")), strict=True))


# -- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "model"), TWINS.items())
def test_kinds_of_ops_agree_with_the_counter_on_timms_model(spec: str, model: str) -> None:
    ours, theirs = named(spec), next(row for row in read_rows(FEATURES) if row["model"] == model)
    for column in ("params", "macs", *(f"macs_{kind}" for kind in KINDS if kind != "other")):
        assert ours[column] == int(theirs[column]), column
    published = next(row for row in read_rows(RESULTS) if row["model"] == model)
    for column, name, unit in (("params", "params_m", 1e6), ("timm", "gmacs", 1e9), ("activations", "macts", 1e6)):
        assert ours[column] == pytest.approx(float(published[name]) * unit, abs=0.02 * unit), column


MAXVIT_BIASES = 2 * (2 * 2 + 2 * 4 + 5 * 8 + 2 * 16) * (49 * 13 * 13 + 49 * 13 * 49)
"""timm turns MaxViT's tables of positions into biases by two matrix products a head, in every call."""


@pytest.mark.parametrize(
    ("spec", "model", "more"),
    [("swin_t", "swin_tiny_patch4_window7_224", 0), ("maxvit_t", "maxvit_tiny_tf_224", MAXVIT_BIASES)],
)
def test_kinds_of_ops_agree_with_the_counter_now(spec: str, model: str, more: int) -> None:
    import timm

    from benchmarks.score_features import spent

    ours, theirs = named(spec), spent(timm.create_model(model), 224)
    assert theirs.total() == ours["macs"] + more
    for kind in KINDS:
        assert theirs[f"macs_{kind}"] == ours[f"macs_{kind}"] + (more if kind == "attention" else 0), kind


@pytest.mark.parametrize("spec", ["swin_t", "hornet_t", "overlock_xt"])
def test_metrics_are_the_costs_and_kinds_add_up(spec: str) -> None:
    graph = elaborate(spec)
    ours = dict(zip(METRICS, measure(graph), strict=True))
    assert {name: ours[name] for name in COSTS} == price(graph).total.as_dict()
    assert sum(ours[f"macs_{kind}"] for kind in KINDS) == ours["macs"]
    assert measure(graph, price(graph)) == measure(graph)


# -- data ----------------------------------------------------------------------------------------


def test_the_two_tables_describe_the_same_models() -> None:
    published, counted = read_rows(RESULTS), read_rows(FEATURES)
    assert [row["model"] for row in published] == [row["model"] for row in counted]
    for a, b in zip(published, counted, strict=True):
        assert float(a["params_m"]) == pytest.approx(int(b["params"]) / 1e6, abs=0.011), a["model"]
        assert int(b["macs"]) == sum(int(b[f"macs_{kind}"]) for kind in KINDS if kind != "other")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("swinv2_cr_tiny_ns_224.sw_in1k", "swinv"),
        ("caformer_b36.sail_in1k", "metaformer"),
        ("poolformerv2_s12.sail_in1k", "metaformer"),
        ("coatnet_0_rw_224.sw_in1k", "maxxvit"),
        ("coat_tiny.in1k", "coat"),
        ("deit3_small_patch16_224.fb_in1k", "vit"),
    ],
)
def test_families_follow_from_names(model: str, name: str) -> None:
    assert family(model) == name


def test_what_learned_from_more_is_left_out() -> None:
    assert helped("tiny_vit_21m_384.dist_in22k_ft_in1k")
    assert helped("deit_tiny_distilled_patch16_224.fb_in1k")
    assert not helped("hiera_tiny_224.mae_in1k_ft_in1k")
    published = Published.read()
    assert "sequencer2d_s.in1k" not in published.models, "the counter sees no recurrent layer"
    assert not any(map(helped, published.models))
    assert not np.isnan(published.metrics[:, [METRICS.index(n) for n in load("features").names]]).any()


def test_ranks_count_those_beaten() -> None:
    published = Published.read()
    for own, rank in zip(published.top1, published.ranks, strict=True):
        beaten = sum(1.0 if own > other else 0.5 if own == other else 0.0 for other in published.top1)
        assert rank == pytest.approx(100 * beaten / len(published))


# -- the fit and its validation ------------------------------------------------------------------


def test_the_shipped_scores_equal_a_refit(found: Validation) -> None:
    assert load().name == found.default
    for judged in found.judged:
        shipped = load(judged.score.name)
        assert (shipped.name, shipped.models, shipped.shares) == (
            judged.score.name,
            len(found.published),
            judged.score.shares,
        )
        for field in ("trend", "caps", "knots", "heights", "low", "high", "slopes", "centre", "precision", "deviation"):
            np.testing.assert_allclose(getattr(shipped, field), getattr(judged.score, field), rtol=1e-6, atol=1e-9)
        for field in ("everywhere", "band"):
            tau, again = getattr(shipped, field), getattr(judged.score, field)
            assert (tau.value, tau.low, tau.high) == pytest.approx((again.value, again.low, again.high), abs=1e-6)


def test_the_default_is_what_validation_allows(found: Validation) -> None:
    size, features = (j.score for j in found.judged)
    assert found.gain.value == pytest.approx(features.everywhere.value - size.everywhere.value)
    assert found.gain.low < found.gain.value < found.gain.high
    assert (load().name == "features") == (found.gain.low > 0)


def test_no_model_is_predicted_from_its_own_family(found: Validation) -> None:
    """Held-out predictions, once more, with the family's accuracies replaced by nonsense."""
    published = found.published
    own = published.families == "metaformer"
    spoiled = Published(
        published.models, published.families, np.where(own, 1.0, published.top1), published.side, published.metrics
    )
    again = fit(spoiled.where(~own)).predict(published.metrics[own])[0]
    np.testing.assert_allclose(again, found.judged[0].predictions[own])


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_nonnegative_least_squares_is_the_best_of_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, n = rng.normal(size=(9, 5)), 5
    gram, target = rows.T @ rows + 0.1 * np.eye(n), rng.normal(size=n)
    bounded = np.arange(n) < rng.integers(0, n + 1)

    def loss(w: np.ndarray) -> float:
        return float(w @ gram @ w / 2 - target @ w)

    best = math.inf
    for size in range(n + 1):
        for free in map(list, combinations(range(n), size)):
            w = np.zeros(n)
            w[free] = np.linalg.solve(gram[np.ix_(free, free)], target[free])
            if (w[bounded] >= 0).all():
                best = min(best, loss(w))
    w = nonnegative(gram, target, bounded)
    assert (w[bounded] >= 0).all()
    assert loss(w) == pytest.approx(best, abs=1e-9)


@given(arrays.arrays(np.int64, (3, 7), elements=st.integers(0, 4)))
@settings(max_examples=30, deadline=None)
def test_tau_counts_pairs(drawn: np.ndarray) -> None:
    a, b, times = drawn
    members = np.repeat(np.arange(7), times)
    signs = [
        (np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]), a[i] != a[j], b[i] != b[j]) for i, j in combinations(members, 2)
    ]
    agree, first, second = (sum(int(s[k]) for s in signs) for k in range(3))
    if first and second:
        tau = kendall(a.astype(float), b.astype(float), times[None].astype(float))[0]
        assert tau == pytest.approx(agree / math.sqrt(first * second))


# -- predictions ---------------------------------------------------------------------------------


def by_hand(score: Score, row: dict[str, float]) -> tuple[float, float]:
    """The same formula, one model at a time, from the shipped numbers."""
    macs, params, activations = (math.log(row[name]) for name in SIZES)
    capped = [macs]
    for x, (start, slope), cap in zip((params, activations), score.trend, score.caps, strict=True):
        capped.append(min(x, start + slope * macs + cap))
    mean = 0.0
    for x, knots, heights in zip(capped, score.knots, score.heights, strict=True):
        left = max((i for i in range(len(knots) - 1) if knots[i] <= x), default=0)
        part = min(max((x - knots[left]) / (knots[left + 1] - knots[left]), 0.0), 1.0)
        mean += heights[left] + part * (heights[left + 1] - heights[left])
    shares = [row[f"macs_{kind}"] / row["macs"] for kind in score.shares]
    for share, low, high, slope in zip(shares, score.low, score.high, score.slopes, strict=True):
        mean += slope * min(max(share, low), high)
    off = [x - c for x, c in zip((macs, params, activations, *shares), score.centre, strict=True)]
    distance = sum(off[i] * off[j] * score.precision[i][j] for i, j in product(range(len(off)), repeat=2))
    return mean, score.deviation * math.sqrt(1 + 1 / score.models + distance)


@pytest.mark.parametrize("name", ["size", "features"])
def test_predictions_follow_from_the_shipped_numbers(name: str) -> None:
    score = load(name)
    rows = [named(spec) for spec in TWINS]
    means, spreads = score.predict(np.array([[row[m] for m in METRICS] for row in rows]))
    for row, mean, spread in zip(rows, means, spreads, strict=True):
        assert (mean, spread) == pytest.approx(by_hand(score, row), rel=1e-9)


@given(st.lists(st.floats(0, 12), min_size=3, max_size=3), st.sampled_from(SIZES), st.floats(1, 1000))
@settings(max_examples=200, deadline=None)
def test_more_of_one_size_is_never_worse_and_the_score_stays_a_percentage(
    logs: list[float], grown: str, factor: float
) -> None:
    score = load("size")
    row = np.zeros((2, len(METRICS)))
    row[:, [METRICS.index(name) for name in SIZES]] = 10.0 ** np.array(logs)
    row[1, METRICS.index(grown)] *= factor
    (before, after), _ = score.predict(row)
    assert after >= before - 1e-9
    assert 0 <= before <= 100


def test_there_is_nothing_to_gain_beyond_published_models() -> None:
    """At swin_t's multiply-adds, activations and params without end stay below the best published model's rank."""
    score, published = load("size"), Published.read()
    row = np.array([[named("swin_t")[m] for m in METRICS]] * 2)
    row[1, [METRICS.index("params"), METRICS.index("activations")]] *= 1e3
    (plain, absurd), (spread, doubt) = score.predict(row)
    assert plain <= absurd <= published.ranks.max()
    assert doubt > 2 * spread


def test_a_score_orders_what_it_was_fitted_on_better_than_chance() -> None:
    published = Published.read()
    for name in ("size", "features"):
        mean, _ = load(name).predict(published.metrics)
        assert kendall(mean, published.top1, np.ones((1, len(published))))[0] > 0.5


def test_an_unknown_score_is_a_mistake_with_a_way_out() -> None:
    with pytest.raises(ArchError, match="no score `sizes`"):
        load("sizes")


# -- the command ---------------------------------------------------------------------------------


def test_the_place_is_among_the_published_models() -> None:
    rated = rate([elaborate("swin_t"), elaborate("poolformer_s12")])
    ranks = Published.read().ranks
    first, second = rated.rows
    assert first.place < second.place
    for row in rated.rows:
        assert row.place == 1 + sum(rank > row.mean for rank in ranks)


def test_score_prints_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "swin_t", "convnext_t", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in record["rows"]] == ["swin_t", "convnext_t"]
    assert "not an accuracy" in record["sentence"]
    assert main(["score", "eval", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in record["scores"]] == ["size", "features"]
    assert record["default"] == load().name
    assert record["scores"][1]["tau"]["value"] == pytest.approx(load("features").everywhere.value)
    assert set(load("features").shares) == set(SHARES)
