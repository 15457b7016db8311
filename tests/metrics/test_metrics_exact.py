"""Metrics against scikit-learn, against brute force, and against numbers worked out by hand."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn import metrics as sklearn

from anomalib_nb.core import Batch
from anomalib_nb.metrics import (
    AUPIMO,
    AUPR,
    AUPRO,
    AUROC,
    PRO,
    Evaluator,
    F1Max,
    F1Score,
    Metric,
    aupimo,
    aupr,
    aupro,
    auroc,
    check_metric,
    components,
    f1_adaptive_threshold,
    f1_max,
    f1_score,
    get_metric,
    list_metrics,
    precision_recall_curve,
    pro,
    pro_curve,
    roc_curve,
    same,
    small_run,
    tally,
    target_fpr_threshold,
)

# The same examples in every run, and no clock: the machine may be busy.
CALM = settings(derandomize=True, deadline=None, max_examples=50)

SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.6])
LABELS = np.array([0, 0, 1, 1, 0, 1])
MAPS = np.array(
    [[[0.9, 0.4, 0.3, 0.1], [0.2, 0.1, 0.2, 0.6]], [[0.5, 0.1, 0.2, 0.3], [0.1, 0.1, 0.2, 0.1]]]
)
MASKS = np.array([[[1, 1, 0, 0], [0, 0, 0, 1]], [[0] * 4, [0] * 4]])


@st.composite
def samples(draw, both=True):
    "A few scores with their labels; drawn from few values, so that ties are common."
    size = draw(st.integers(2, 30))
    values = st.one_of(st.integers(-3, 3), st.floats(-1e3, 1e3, width=32))
    scores = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    if both:
        labels[0], labels[1] = False, True
    return scores, labels


@st.composite
def map_samples(draw):
    "Small maps with ragged masks; at least one anomalous pixel and one of background."
    shape = draw(st.integers(1, 3)), draw(st.integers(2, 5)), draw(st.integers(2, 6))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    masks = random.random(shape) < draw(st.sampled_from([0.1, 0.3, 0.6]))
    masks.flat[0], masks.flat[-1] = True, False
    maps = random.normal(size=shape) + masks
    return (maps.round(draw(st.integers(0, 2))) + 0.0).astype(np.float32), masks


def thresholds_of(scores):
    return np.unique(scores)[::-1]


# ---- against scikit-learn --------------------------------------------------------------------


@CALM
@given(samples())
def test_auroc_is_the_one_of_scikit_learn(sample):
    assert math.isclose(auroc(*sample), sklearn.roc_auc_score(sample[1], sample[0]), abs_tol=1e-12)


@CALM
@given(samples())
def test_aupr_is_the_average_precision_of_scikit_learn(sample):
    expected = sklearn.average_precision_score(sample[1], sample[0])
    assert math.isclose(aupr(*sample), expected, abs_tol=1e-12)


@CALM
@given(samples())
def test_every_roc_point_lies_on_the_corners(sample):
    scores, labels = sample
    fpr, tpr, thresholds = roc_curve(scores, labels)
    x, y, _ = sklearn.roc_curve(labels, scores, drop_intermediate=False)
    for point in zip(x, y):
        pieces = zip(zip(fpr, tpr), zip(fpr[1:], tpr[1:]))
        assert any(on_piece(point, *piece) for piece in pieces)
    assert (
        (np.diff(fpr) >= 0).all() and (np.diff(tpr) >= 0).all() and (np.diff(thresholds) < 0).all()
    )
    for a, b, threshold in zip(fpr, tpr, thresholds):
        assert a == (scores[~labels] >= threshold).mean()
        assert b == (scores[labels] >= threshold).mean()


def on_piece(point, start, end):
    (x, y), (a, b), (c, d) = point, start, end
    inside = a - 1e-12 <= x <= c + 1e-12 and b - 1e-12 <= y <= d + 1e-12
    return inside and abs((c - a) * (y - b) - (d - b) * (x - a)) < 1e-12


@CALM
@given(samples())
def test_precision_and_recall_are_those_at_their_thresholds(sample):
    scores, labels = sample
    precision, recall, thresholds = precision_recall_curve(scores, labels)
    assert (precision[-1], recall[-1]) == (1, 0) and len(precision) == len(thresholds) + 1
    for a, b, threshold in zip(precision, recall, thresholds):
        said = scores >= threshold
        assert a == labels[said].mean() and b == said[labels].mean()
    full = sklearn.precision_recall_curve(labels, scores)
    kept = np.isin(full[2], thresholds)
    np.testing.assert_allclose(full[0][:-1][kept], precision[:-1])
    # What is left out repeats a recall, between two precisions that are kept.
    assert set(full[1].round(12)) == set(recall.round(12))


@CALM
@given(samples(both=False))
def test_f1_score_is_the_one_of_scikit_learn(sample):
    decisions, labels = sample[0] > 0, sample[1]
    expected = sklearn.f1_score(labels, decisions, zero_division=0)
    assert math.isclose(f1_score(decisions, labels), expected)


# ---- against brute force ---------------------------------------------------------------------


@CALM
@given(samples())
def test_f1_max_is_the_best_of_all_thresholds_and_the_smallest_such(sample):
    scores, labels = sample
    every = {float(t): f1_score(scores >= t, labels) for t in np.unique(scores)}
    value, threshold = f1_max(scores, labels)
    assert value == max(every.values())
    assert threshold == min(t for t, f1 in every.items() if f1 == value)


@CALM
@given(samples())
def test_the_tally_counts(sample):
    scores, labels = sample
    counted = tally(scores, labels)
    for i, u in enumerate(counted.score):
        assert counted.count[i] == (scores[labels] == u).sum()
        assert counted.below[i] == (scores[~labels] < u).sum()
        assert counted.upto[i] == (scores[~labels] <= u).sum()
        assert counted.lower[i] == max(scores[scores < u], default=-np.inf)
        assert counted.higher[i] == min(scores[scores > u], default=np.inf)


def slow_overlap(maps, masks, threshold):
    shares = []
    for values, mask in zip(maps, masks):
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        shares += [(values[regions == k + 1] >= threshold).mean() for k in range(count)]
    return np.mean(shares)


def slow_aupro(maps, masks, limit):
    "Every threshold in turn, then the trapezoid, cut at the limit."
    points = [(0.0, 0.0)]
    points += [
        ((maps[~masks] >= t).mean(), slow_overlap(maps, masks, t)) for t in thresholds_of(maps)
    ]
    total = 0.0
    for (a, low), (b, high) in zip(points, points[1:]):
        end = min(b, limit)
        if end > a:
            total += (end - a) * (low + low + (high - low) * (end - a) / (b - a)) / 2
    return total / limit


@settings(CALM, max_examples=30)
@given(map_samples(), st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_is_the_area_over_every_threshold(sample, limit):
    assert math.isclose(aupro(*sample, limit), slow_aupro(*sample, limit), abs_tol=1e-12)


@settings(CALM, max_examples=30)
@given(map_samples())
def test_pro_is_the_mean_over_regions(sample):
    maps, masks = sample
    for threshold in thresholds_of(maps):
        expected = slow_overlap(maps, masks, threshold)
        assert math.isclose(pro(maps, masks, threshold), expected, abs_tol=1e-12)
    fpr, overlap, thresholds = pro_curve(maps, masks)
    for x, y, threshold in zip(fpr, overlap, thresholds):
        assert x == (maps[~masks] >= threshold).mean()
        assert math.isclose(y, slow_overlap(maps, masks, threshold), abs_tol=1e-12)


@settings(CALM, max_examples=30)
@given(map_samples())
def test_components_follow_the_order_of_the_mask(sample):
    _, masks = sample
    expected, first = [], 0
    for mask in masks:
        regions, count = ndimage.label(mask, np.ones((3, 3)))
        expected += (regions[mask] + first - 1).tolist()
        first += count
    assert components(masks).tolist() == expected


# ---- by hand ---------------------------------------------------------------------------------


def test_six_scores_by_hand():
    assert math.isclose(auroc(SCORES, LABELS), 0.8333333, abs_tol=1e-6)
    assert math.isclose(aupr(SCORES, LABELS), 0.8666667, abs_tol=1e-6)
    assert f1_max(SCORES, LABELS) == (0.8, 0.6)
    assert f1_max([0.1, 0.2, 0.3, 0.4], [1, 0, 0, 1]) == (pytest.approx(2 / 3), 0.1)
    assert f1_max([2.3, 1.6, 2.6, 7.9, 3.3], [0, 0, 0, 1, 1]) == (1.0, 3.3)
    assert f1_score([1, 1, 0, 0], [1, 0, 1, 0]) == 0.5 and f1_score([0, 0], [0, 0]) == 0


def test_curves_by_hand():
    fpr, tpr, _ = roc_curve(SCORES, LABELS)
    third = 1 / 3
    np.testing.assert_allclose(fpr, [0, 0, 0, third, 2 * third, 1])
    np.testing.assert_allclose(tpr, [0, third, 2 * third, 2 * third, 1, 1])
    precision, recall, thresholds = precision_recall_curve(SCORES, LABELS)
    np.testing.assert_allclose(precision, [0.5, 0.6, 2 * third, 1, 1, 1])
    np.testing.assert_allclose(recall, [1, 1, 2 * third, 2 * third, third, 0])
    assert thresholds.tolist() == [0.1, 0.35, 0.4, 0.6, 0.8]


def test_region_overlap_by_hand():
    assert math.isclose(aupro(MAPS, MASKS, 0.3), 0.935897, abs_tol=1e-6)
    assert math.isclose(aupro(MAPS, MASKS, 0.05), 0.75, abs_tol=1e-6)
    assert math.isclose(aupro(MAPS, MASKS, 1), 0.980769, abs_tol=1e-6)
    assert [pro(MAPS, MASKS, t) for t in (0.35, 0.5, 0.7)] == [1, 0.75, 0.25]
    assert math.isclose(aupro(np.zeros((2, 2, 4)), MASKS), 0.15)


# ---- properties ------------------------------------------------------------------------------


@CALM
@given(samples())
def test_only_the_order_counts(sample):
    scores, labels = sample
    ranks = np.unique(scores, return_inverse=True)[1].reshape(scores.shape).astype(np.float32)
    for metric in (auroc, aupr):
        assert metric(scores, labels) == metric(ranks, labels) == metric(ranks**3 - 7, labels)
    value, threshold = f1_max(scores, labels)
    assert f1_max(ranks, labels) == (value, np.unique(scores).tolist().index(threshold))


@CALM
@given(samples())
def test_bounds(sample):
    assert 0 <= auroc(*sample) <= 1 and 0 < aupr(*sample) <= 1 and 0 < f1_max(*sample)[0] <= 1
    assert math.isclose(auroc(-sample[0], sample[1]), 1 - auroc(*sample), abs_tol=1e-12)


@settings(CALM, max_examples=30)
@given(map_samples(), st.data())
def test_batches_do_not_change_a_value(sample, data):
    maps, masks = sample
    batch = Batch(anomaly_map=maps, gt_mask=masks)
    metrics = [AUROC, AUPR, F1Max, AUPRO, AUPRO(fpr_limit=0.05)]
    whole, parts = Evaluator(metrics), Evaluator(metrics)
    whole.update(batch)
    cut = data.draw(st.integers(0, len(maps)))
    for part in (slice(cut, None), slice(0, cut)):  # also in another order
        if len(maps[part]):
            parts.update(batch[part].torch())
    assert parts.compute() == pytest.approx(whole.compute(), abs=1e-12)
    expected = {
        "pixel_AUROC": auroc(maps, masks),
        "pixel_AUPR": aupr(maps, masks),
        "pixel_F1Max": f1_max(maps, masks)[0],
        "pixel_AUPRO": aupro(maps, masks),
        "pixel_AUPRO_0.05": aupro(maps, masks, 0.05),
    }
    assert whole.compute() == expected


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, torch.bfloat16, torch.half])
def test_any_precision_and_any_holder(kind):
    values = [0.0, 0.25, 0.5, 1.0]
    held = (
        torch.tensor(values, dtype=kind)
        if isinstance(kind, torch.dtype)
        else np.array(values, kind)
    )
    assert auroc(held, torch.tensor([0, 1, 0, 1])) == 0.75
    assert isinstance(auroc(held, [0, 1, 0, 1]), float)


def test_counts_beyond_single_precision_are_exact():
    scores = np.zeros(2**24 + 3, np.float32)
    labels = np.zeros(len(scores), bool)
    scores[0], labels[0] = 1, True  # one anomalous element, above all others but one
    scores[1] = 2
    assert auroc(scores, labels) == (2**24 + 1) / (2**24 + 2)
    assert aupr(scores, labels) == 0.5


# ---- what is missing or wrong ----------------------------------------------------------------


def quiet(function, *arguments):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = function(*arguments)
    return value, [str(w.message) for w in said]


@pytest.mark.parametrize("metric", [auroc, aupr])
def test_without_anomalous_elements_nothing_can_be_ranked(metric):
    value, said = quiet(metric, [1.0, 2.0], [0, 0])
    assert math.isnan(value) and "anomalous" in said[0]


def test_without_normal_elements():
    assert math.isnan(quiet(auroc, [1.0, 2.0], [1, 1])[0])
    assert aupr([1.0, 2.0], [1, 1]) == 1 and f1_max([2.0, 1.0], [1, 1]) == (1, 1)
    assert f1_max([2.0, 1.0], [0, 0]) == (0, 1)


@pytest.mark.parametrize("fill", [0, 1])
def test_region_overlap_needs_regions_and_background(fill):
    masks = np.full((2, 3, 3), fill)
    value, said = quiet(aupro, np.random.default_rng(0).random((2, 3, 3)), masks)
    assert math.isnan(value) and "background" in said[0]
    with pytest.raises(ValueError, match="Expected regions and background"):
        pro_curve(np.zeros((2, 3, 3)), masks)


def test_pro_without_a_region():
    value, said = quiet(pro, np.zeros((1, 3, 3)), np.zeros((1, 3, 3)), 0.5)
    assert math.isnan(value) and "region" in said[0]


@pytest.mark.parametrize("metric", [auroc, aupr, f1_max, f1_adaptive_threshold])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([], [], "at least one"),
        ([1.0, 2.0], [0], "shape"),
        ([1.0, np.nan, np.nan], [0, 1, 1], "2 of 3 scores are NaN, in number 1, number 2"),
        ([1.0, 2.0], [-1, 1], r"\[-1\]"),
        ([1.0, 2.0], [0, 0.5], "0.5"),
    ],
)
def test_bad_input_is_refused_with_its_reason(metric, scores, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


@pytest.mark.parametrize("limit", [0, -0.1, 1.5, math.nan])
def test_a_limit_is_a_share(limit):
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro(MAPS, MASKS, limit)


def test_infinite_scores_rank():
    assert auroc([-np.inf, 0, np.inf], [0, 0, 1]) == 1
    assert auroc([np.inf, np.inf], [0, 1]) == 0.5
    counted = tally([-np.inf, -np.inf, np.inf], [0, 1, 1])
    assert counted.below.tolist() == [0, 1] and counted.upto.tolist() == [1, 1]


# ---- evaluator -------------------------------------------------------------------------------


def made_up(count=6, size=8, seed=0):
    random = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), bool)
    masks[::2, 2:4, 3:6] = True
    maps = (random.normal(size=masks.shape) + masks).astype(np.float32)
    return Batch(
        pred_score=maps.max((1, 2)),
        gt_label=masks.any((1, 2)),
        anomaly_map=maps,
        gt_mask=masks,
        pred_label=maps.max((1, 2)) > 2,
        pred_mask=maps > 1,
        image_path=[f"{i}.png" for i in range(count)],
    )


def test_an_evaluator_crosses_metrics_and_levels():
    batch = made_up()
    evaluator = Evaluator(["auroc", F1Max(), F1Score, PRO, AUPRO])
    evaluator.update(batch)
    results = evaluator.compute()
    assert list(results) == [
        "image_AUROC",
        "image_F1Max",
        "image_F1Score",
        "pixel_AUROC",
        "pixel_F1Max",
        "pixel_F1Score",
        "pixel_PRO",
        "pixel_AUPRO",
    ]
    assert results["image_F1Score"] == f1_score(batch.pred_label, batch.gt_label)
    assert results["pixel_PRO"] == pro(batch.pred_mask, batch.gt_mask)
    thresholds = [evaluator.metrics[f"{level}_F1Max"][0].threshold for level in ("image", "pixel")]
    assert thresholds[0] == f1_max(batch.pred_score, batch.gt_label)[1]
    assert thresholds[1] == f1_max(batch.anomaly_map, batch.gt_mask)[1]
    assert all(isinstance(value, float) for value in results.values())


def test_scores_are_sorted_once(monkeypatch):
    from anomalib_nb.metrics import sample

    calls, count_around = [], sample.count_around

    def counted(anomalous, *normal):
        calls.append(len(anomalous) + sum(map(len, normal)))
        return count_around(anomalous, *normal)

    monkeypatch.setattr(sample, "count_around", counted)
    evaluator = Evaluator([AUROC, AUPR, F1Max, AUPRO, AUPRO(fpr_limit=0.1)])
    evaluator.update(made_up())
    evaluator.compute()
    evaluator.compute()
    assert calls == [6, 6 * 8 * 8]


def test_levels_that_were_not_fed_are_left_out():
    batch = made_up()
    evaluator = Evaluator([AUROC, AUPRO])
    assert evaluator.compute() == {}
    evaluator.update(batch.replace(gt_mask=None))
    assert list(evaluator.compute()) == ["image_AUROC"]
    evaluator.reset()
    evaluator.update(batch.replace(pred_score=None))
    assert list(evaluator.compute()) == ["pixel_AUROC", "pixel_AUPRO"]
    assert list(Evaluator([AUROC, AUPRO], levels=["image"]).metrics) == ["image_AUROC"]


def test_a_nan_is_traced_to_its_image():
    batch = made_up()
    batch.anomaly_map[3, 0, :2] = np.nan
    with pytest.raises(ValueError, match=r"2 of 384 scores are NaN, in 3\.png"):
        Evaluator([AUROC]).update(batch)


def test_wrong_requests():
    with pytest.raises(ValueError, match="Did you mean 'AUROC'"):
        Evaluator(["AUROK"])
    with pytest.raises(ValueError, match="Did you mean 'pixel'"):
        Evaluator([AUROC], levels=["pixels"])
    with pytest.raises(ValueError, match="twice"):
        Evaluator([AUROC, "auroc"])
    with pytest.raises(ValueError, match="Expected auto, exact, streaming"):
        Evaluator([AUROC], mode="exakt")
    with pytest.raises(ValueError, match="Did you mean 'trapezoid'"):
        aupr(SCORES, LABELS, rule="trapezoids")
    with pytest.raises(ValueError, match="Expected mvtec, anomalib, mvtec_3d"):
        aupro(MAPS, MASKS, rule="visa")
    with pytest.raises(ValueError, match="lower < upper"):
        aupimo(MAPS, MASKS, fpr_bounds=(1e-3, 1e-4))


def test_maps_of_several_sizes_are_pooled():
    metrics = [AUROC, AUPR, F1Max, AUPRO]
    sizes = [made_up(size=8), made_up(size=11, seed=1)]
    evaluator = Evaluator(metrics, levels=["pixel"])
    for batch in sizes:
        evaluator.update(batch)
    scores = np.concatenate([batch.anomaly_map.ravel() for batch in sizes])
    labels = np.concatenate([batch.gt_mask.ravel() for batch in sizes])
    results = evaluator.compute()
    assert results["pixel_AUROC"] == auroc(scores, labels)
    assert results["pixel_AUPR"] == aupr(scores, labels)
    assert results["pixel_F1Max"] == f1_max(scores, labels)[0]


@pytest.mark.filterwarnings("ignore:AUPIMO is coarse")
def test_every_normal_image_counts_the_same_whatever_its_size():
    small, large = made_up(size=8), made_up(size=16, seed=1)
    metric = AUPIMO((0.05, 0.5))
    for batch in (small, large):
        metric.update(batch.anomaly_map, batch.gt_mask)
    metric.compute()
    normal = [each[~mask.any()] for batch in (small, large)
              for each, mask in zip(batch.anomaly_map, batch.gt_mask) if not mask.any()]  # fmt: skip
    thresholds = np.unique(np.concatenate([each.ravel() for each in normal]))[::-1]
    rates = [np.mean([(each >= t).mean() for each in normal]) for t in thresholds]
    defect = small.anomaly_map[0][small.gt_mask[0]]
    shares = [(defect >= t).mean() for t in thresholds]
    x = np.log(np.clip(rates, 0.05, 0.5))
    steps = np.sum(np.diff(x) * np.array(shares)[:-1])  # vertical pieces at each threshold
    ties = np.sum(np.diff(x) * np.array(shares)[1:])
    low, high = (each / math.log(10) for each in (steps, ties))
    assert low - 0.02 <= metric.scores[0] <= high + 0.02


def test_raw_scores_are_never_squashed():
    scores = np.array([18.0, 19.0, 20.5, 21.0, 20.0, 22.0, 23.0])
    labels = np.array([0, 0, 1, 0, 0, 1, 1])
    assert auroc(scores, labels) == 11 / 12
    evaluator = Evaluator([AUROC], levels=["image"])
    evaluator.update(Batch(pred_score=scores.astype(np.float32), gt_label=labels == 1))
    assert evaluator.compute() == {"image_AUROC": 11 / 12}


def test_read_only_arrays_are_taken():
    scores = np.arange(4, dtype=np.float32)
    scores.flags.writeable = False
    metric = AUROC()
    metric.update(scores, [0, 0, 1, 1])
    assert metric.compute() == 1


@pytest.mark.parametrize("name", list_metrics())
def test_every_metric_keeps_its_promises(name):
    metric = check_metric(get_metric(name))
    assert isinstance(metric, Metric) and metric.name and metric.fields


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list_metrics())
def test_a_metric_is_a_torchmetrics_object(name):
    metric = get_metric(name)
    level = next(iter(metric.fields))
    judged, truth = metric.fields[level]
    batch = small_run().torch()
    alone = metric(getattr(batch, judged), getattr(batch, truth))
    kept = pickle.loads(pickle.dumps(metric))
    copied = metric.clone().to("cpu")
    for each in (kept, copied):
        assert same(each.compute(), alone) and same(metric.compute(), alone)


# ---- threshold rules -------------------------------------------------------------------------


@CALM
@given(samples())
def test_the_f1_threshold_decides_like_the_optimum_from_the_middle_of_a_gap(sample):
    scores, labels = sample
    threshold = f1_adaptive_threshold(scores, labels)
    best = f1_max(scores, labels)[1]
    said = scores >= np.float32(threshold)
    assert (said == (scores >= best)).all() and float(np.float32(threshold)) == threshold
    if (~said).any():
        lower = scores[~said].max()
        assert lower < threshold <= best
        assert math.isclose(threshold, (float(lower) + best) / 2, rel_tol=1e-6, abs_tol=1e-30)
    else:
        assert threshold == best == scores.min()


@CALM
@given(samples(), st.sampled_from([0.0, 0.05, 0.29, 0.5, 0.99, 1.0]))
def test_the_false_alarm_rate_is_kept_by_the_smallest_such_threshold(sample, fpr):
    scores, labels = sample
    threshold = np.float32(target_fpr_threshold(scores, labels, fpr))
    normal = scores[~labels]
    assert (normal >= threshold).mean() <= fpr
    if (scores < threshold).any():
        assert (normal >= scores[scores < threshold].max()).mean() > fpr


@CALM
@given(samples(both=False))
def test_one_class_only(sample):
    scores = sample[0]
    normal = np.zeros(len(scores))
    for threshold in (
        f1_adaptive_threshold(scores, normal),
        target_fpr_threshold(scores, normal, 0),
    ):
        assert not (scores >= np.float32(threshold)).any()
        assert threshold - scores.max() <= 1.1e-3 * max(1, abs(scores).max(), np.ptp(scores))
    assert f1_adaptive_threshold(scores, normal + 1) == scores.min()
    assert target_fpr_threshold(scores, normal + 1, 0.1) == scores.min()


def test_the_threshold_decides_the_same_in_torch_and_numpy():
    scores = np.nextafter(np.float32(1), np.float32([0, 2]))  # the neighbours of 1 on both sides
    threshold = f1_adaptive_threshold(scores, [0, 1])
    assert (
        (scores >= threshold).tolist()
        == (torch.tensor(scores) >= threshold).tolist()
        == [False, True]
    )


@pytest.mark.parametrize("fpr", [-0.1, 1.1, math.nan])
def test_a_false_alarm_rate_is_a_share(fpr):
    with pytest.raises(ValueError, match="fpr"):
        target_fpr_threshold(SCORES, LABELS, fpr)


def test_aupimo_alone_holds_no_background():
    maps, masks = np.random.default_rng(0).random((6, 40, 40), np.float32), np.zeros((6, 40, 40))
    masks[::2, 5:15, 5:15] = 1
    batch = Batch(anomaly_map=maps, gt_mask=masks)
    bounds = {"fpr_bounds": (1e-3, 1e-1)}
    values = []
    for names in ([], ["AUROC"]):
        evaluator = Evaluator([AUPIMO(**bounds), *names], levels=["pixel"])
        evaluator.update(batch)
        values.append(evaluator.compute()["pixel_AUPIMO_0.001_0.1"])
        [store] = evaluator.stores.values()
        assert bool(len(store.compute().background)) == bool(names)
    assert values[0] == values[1] > 0
