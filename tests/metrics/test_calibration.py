"""Calibration against scikit-learn and brute force; streams hold what they bound."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from anomalib_nb.core import Batch
from anomalib_nb.metrics import (
    ECE,
    MCE,
    Brier,
    Evaluator,
    at_rate,
    auroc,
    bin_edges,
    brier,
    ece,
    fit_isotonic,
    fit_logistic,
    mce,
    reliability,
)

CALM = settings(derandomize=True, deadline=None, max_examples=50)

SIX = np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.6])
TRUTH = np.array([0, 0, 1, 1, 0, 1])


@st.composite
def promises(draw):
    "Probabilities with their truth; many of them on the edges of bins."
    size = draw(st.integers(1, 40))
    values = st.one_of(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]), st.floats(0, 1))
    probabilities = np.array(draw(st.lists(values, min_size=size, max_size=size)))
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    return probabilities, labels


@st.composite
def validations(draw):
    "Raw scores with their truth and ties, both classes present."
    size = draw(st.integers(4, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    labels = random.random(size) < 0.5
    labels[:2] = False, True
    return (random.normal(size=size) + labels).round(draw(st.integers(0, 2))), labels


def gaps_by_hand(probabilities, labels, bins):
    "One bin after another, closed on the right; the first holds 0 too."
    found = []
    for i in range(bins):
        inside = (probabilities > i / bins) & (probabilities <= (i + 1) / bins)
        inside |= (probabilities == 0) & (i == 0)
        if inside.any():
            gap = abs(labels[inside].mean() - probabilities[inside].mean())
            found.append((inside.sum(), gap))
    return np.array(found).T


# ---- judging ---------------------------------------------------------------------------------
def test_the_example_of_the_fact_sheet():
    assert ece(SIX, TRUTH, bins=5) == pytest.approx(0.133333, abs=1e-6)
    assert brier(SIX, TRUTH) == pytest.approx(0.1525, abs=1e-12)
    assert mce(SIX, TRUTH, bins=5) == pytest.approx(0.4)
    assert ece(torch.tensor(SIX), torch.tensor(TRUTH), bins=5) == ece(SIX, TRUTH, bins=5)


@CALM
@given(promises(), st.sampled_from([1, 2, 5, 10, 15]))
def test_errors_are_those_of_bins_taken_one_by_one(sample, bins):
    probabilities, labels = sample
    count, gap = gaps_by_hand(probabilities, labels, bins)
    assert ece(probabilities, labels, bins) == pytest.approx(np.sum(count * gap) / count.sum())
    assert mce(probabilities, labels, bins) == pytest.approx(gap.max())


@CALM
@given(promises(), st.integers(1, 12))
def test_bins_of_equal_mass_hold_equal_shares_and_keep_ties_together(sample, bins):
    probabilities, labels = sample
    found = reliability(probabilities, labels, bins, "mass")
    ties = np.unique(probabilities, return_counts=True)[1].max()
    assert found.count.sum() == len(labels) and len(found.count) <= bins
    assert found.count.max() <= -(-len(labels) // bins) + ties - 1 or bins > len(labels)
    order = np.random.default_rng(0).permutation(len(labels))
    again = reliability(probabilities[order], labels[order], bins, "mass")
    assert np.allclose(np.array(found), np.array(again))


@CALM
@given(promises())
def test_brier_is_that_of_scikit_learn(sample):
    probabilities, labels = sample
    expected = brier_score_loss(labels, probabilities, pos_label=True)
    assert brier(probabilities, labels) == pytest.approx(expected)
    assert 0 <= ece(probabilities, labels) <= mce(probabilities, labels) + 1e-12 <= 1 + 1e-9


@pytest.mark.parametrize("wrong", [[1.5, 0.2], [-0.1, 0.2], [np.inf, 0.2], [np.nan, 0.2]])
@pytest.mark.parametrize("metric", [ece, mce, brier, reliability])
def test_what_is_no_probability_is_refused(metric, wrong):
    with pytest.raises(ValueError, match="outside of|NaN"):
        metric(wrong, [0, 1])


def test_bins_are_at_least_one_and_of_a_known_kind():
    with pytest.raises(ValueError, match="at least one bin"):
        ece(SIX, TRUTH, bins=0)
    with pytest.raises(ValueError, match="'width' or 'mass'"):
        ece(SIX, TRUTH, equal="wide")


# ---- fitting ---------------------------------------------------------------------------------
@CALM
@given(validations())
def test_the_staircase_is_that_of_scikit_learn(sample):
    scores, labels = sample
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, labels)
    at = np.linspace(scores.min() - 1, scores.max() + 1, 50)
    assert np.allclose(fit_isotonic(scores, labels)(at), theirs.predict(at), atol=1e-7)


@CALM
@given(validations())
def test_the_logistic_curve_is_that_of_scikit_learn_on_softened_labels(sample):
    scores, labels = sample
    if np.ptp(scores) == 0:
        return
    anomalous, normal = labels.sum(), (~labels).sum()
    target = np.where(labels, (anomalous + 1) / (anomalous + 2), 1 / (normal + 2))
    twice, outcome = np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores))
    weight = np.append(target, 1 - target)
    theirs = LogisticRegression(C=1e10, tol=1e-10, max_iter=10_000).fit(twice, outcome, weight)
    expected = theirs.predict_proba(scores[:, None])[:, 1]
    assert np.allclose(fit_logistic(scores, labels)(scores), expected, atol=1e-4)


@pytest.mark.parametrize("shift, scale", [(0, 1), (1e6, 1), (0, 1e-9), (-3e4, 1e4)])
def test_the_logistic_curve_does_not_mind_the_scale_of_scores(shift, scale):
    random = np.random.default_rng(0)
    labels = random.random(200) < 0.3
    scores = random.normal(size=200) + 2 * labels
    plain = fit_logistic(scores, labels)(scores)
    moved = shift + scale * scores
    assert np.allclose(fit_logistic(moved, labels)(moved), plain, atol=1e-5)
    assert auroc(plain, labels) == pytest.approx(auroc(scores, labels))


def test_separated_classes_give_a_finite_slope_and_one_class_a_constant():
    apart = fit_logistic(np.arange(100), np.arange(100) >= 50)
    assert np.isfinite(apart.slope) and 0.9 < apart([99])[0] < 1
    assert np.allclose(fit_logistic([1, 2, 3], [0, 0, 0])([1, 2, 3]), 0.2, atol=1e-6)
    assert (fit_isotonic([1, 2, 3], [1, 1, 1])([0, 9]) == 1).all()
    for same in (0.1, 0.7, 1e-30, 1e12 + 0.1):  # their mean, rounded, may be another number
        assert np.allclose(fit_logistic([same] * 3, [0, 0, 0])([same, same * 1.001]), 0.2, atol=1e-3)


@pytest.mark.parametrize("fit", [fit_logistic, fit_isotonic])
def test_a_fit_refuses_infinite_and_missing_scores(fit):
    with pytest.raises(ValueError, match="infinite"):
        fit([1, np.inf], [0, 1])
    with pytest.raises(ValueError, match="NaN"):
        fit([1, np.nan], [0, 1])


@CALM
@given(st.floats(0, 1), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_moving_to_another_rate_and_back_changes_nothing(p, here, there):
    assert at_rate(at_rate(p, here, there), there, here) == pytest.approx(p, abs=1e-9)
    assert at_rate(p, here, here) == pytest.approx(p)
    assert at_rate(here, here, there) == pytest.approx(there)


# ---- metrics, in parts and in streams -----------------------------------------------------------
@pytest.mark.parametrize("mode", ["exact", "streaming"])
@pytest.mark.parametrize("kind", [ECE, MCE, Brier])
def test_parts_in_any_order_give_the_whole(kind, mode):
    whole, parts = kind(mode=mode), kind(mode=mode)
    whole.update(SIX, TRUTH)
    for i in reversed(range(6)):
        parts.update(SIX[i : i + 1], TRUTH[i : i + 1])
    assert parts.compute() == pytest.approx(whole.compute(), abs=1e-12)


def test_raw_scores_need_a_calibration():
    random = np.random.default_rng(0)
    labels = random.random(300) < 0.4
    scores = (random.normal(size=300) + 2 * labels + 20).astype(np.float32)
    for mode in ("exact", "streaming"):
        metric = ECE(mode=mode)
        metric.update(scores, labels)
        with pytest.raises(ValueError, match="300 of 300|values lie outside"):
            metric.compute()
    curve = fit_logistic(scores, labels)
    metric = ECE(calibration=curve)
    metric.update(scores, labels)
    assert metric.compute() == pytest.approx(ece(curve(scores), labels))


def adversarial(kind, size=60_000):
    "Probabilities that are hard to keep in few numbers."
    random = np.random.default_rng(0)
    if kind == "uniform":
        return random.random(size)
    if kind == "one bin":
        return 0.5 + 1e-3 * random.random(size)
    if kind == "tiny gaps":
        return 0.2 + 1e-7 * random.integers(-20, 20, size)
    if kind == "ties":
        return random.choice([0.0, 0.2, 0.6, 1.0], size)
    return random.beta(0.05, 0.3, size)  # both ends


@pytest.mark.parametrize("kind", ["uniform", "one bin", "tiny gaps", "ties", "both ends"])
def test_streams_hold_what_they_bound(kind):
    values = adversarial(kind).astype(np.float32)
    labels = np.random.default_rng(1).random(len(values)) < values**2
    evaluators = [Evaluator([ECE, MCE, Brier], ["image"], mode) for mode in ("exact", "streaming")]
    for part in np.array_split(np.arange(len(values)), 4):
        for evaluator in evaluators:
            evaluator.update(Batch(pred_score=values[part], gt_label=labels[part]))
    exact, stream = (evaluator.compute() for evaluator in evaluators)
    for name, value in stream.items():
        assert abs(value - exact[name]) <= value.bound + 1e-9
    assert exact["image_ECE"] == pytest.approx(ece(values, labels))
    assert stream["image_Brier"].bound < 1e-3
    if kind != "tiny gaps":  # there the edge of a bin lies in the midst of all
        assert stream["image_ECE"].bound < 5e-3


def as_they_come(values, how):
    "Single-precision numbers, in single or in double precision."
    return {"tensor": torch.tensor(values), "list": values.tolist(), "double": values.astype(float)}[how]


@pytest.mark.parametrize("how", ["tensor", "list", "double"])
@pytest.mark.parametrize("bins", [5, 10, 15])
def test_numbers_in_another_precision_are_in_the_same_bins(bins, how):
    random = np.random.default_rng(0)
    edges = np.float32(np.arange(1, bins) / bins)
    around = [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(1))]
    values = random.permutation(np.concatenate([*around, random.random(200, np.float32)]))
    labels = random.random(len(values)) < values
    given = as_they_come(values, how)
    found, expected = reliability(given, labels, bins), reliability(values, labels, bins)
    assert found.count.tolist() == expected.count.tolist() and ece(given, labels, bins) == ece(values, labels, bins)
    for kind in (ECE, MCE):
        for calibration in (None, np.sqrt, lambda p: 0.9 * p):
            exact, stream = (kind(bins, calibration=calibration, mode=mode) for mode in ("exact", "streaming"))
            for metric in (exact, stream):
                metric.update(given, labels)
            assert abs(stream.compute() - exact.compute()) <= stream.compute().bound + 1e-12


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_edge_belongs_to_the_bin_below_in_either_precision(dtype):
    for bins in range(1, 40):
        edges = (np.arange(1, bins) / bins).astype(dtype)
        values = np.repeat(edges, 2)
        values[1::2] = np.nextafter(values[1::2], dtype(1))
        found = np.searchsorted(bin_edges(values, bins, "width"), values)
        assert found[::2].tolist() == list(range(bins - 1))
        beyond = np.nextafter(np.float32(edges), np.float32(1)).astype(dtype)
        assert np.searchsorted(bin_edges(values, bins, "width"), beyond).tolist() == list(range(1, bins))


def test_equal_mass_is_not_streamed_and_says_so():
    metric = ECE(equal="mass", mode="streaming")
    metric.update(SIX, TRUTH)
    with pytest.raises(NotImplementedError, match="ECE_mass cannot be measured in a stream"):
        metric.compute()
    assert ECE(bins=10).name == "ECE_10" and MCE().name == "MCE"
