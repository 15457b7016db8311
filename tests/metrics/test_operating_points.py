"""Operating points against brute force and scikit-learn; moments against numpy; parts and processes."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from anomalib_nb.core import Batch
from anomalib_nb.metrics import (
    AnomalyScoreDistribution,
    ConformalThreshold,
    Evaluator,
    F1AdaptiveThreshold,
    FPRAtRecall,
    IoU,
    MEBin,
    MinMax,
    PBn,
    PGn,
    RecallAtFPR,
    allowed,
    anomaly_score_distribution,
    fpr_at_recall,
    min_max,
    needed,
    pb,
    pg,
    place_of,
    quantile,
    recall_at_fpr,
    value_at,
)

CALM = settings(derandomize=True, deadline=None, max_examples=60)
SHARES = st.one_of(st.sampled_from([0.0, 0.05, 0.29, 0.5, 0.9, 0.95, 1.0]), st.floats(0, 1))
SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.6])
LABELS = np.array([0, 0, 1, 1, 0, 1])
KINDS = (FPRAtRecall, RecallAtFPR, PGn, PBn)


@st.composite
def samples(draw):
    "Scores of both classes; drawn from few values, so that ties are common."
    size = draw(st.integers(2, 30))
    values = st.one_of(st.integers(-3, 3), st.floats(-1e3, 1e3, width=32))
    scores = np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)
    labels = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    labels[0], labels[1] = False, True
    return scores, labels


# ---- shares --------------------------------------------------------------------------------------


@CALM
@given(SHARES, st.integers(1, 200))
def test_counts_satisfy_their_shares_barely(share, total):
    most, least = allowed(share, total), needed(share, total)
    assert 0 <= most <= total and most / total <= share
    assert most == total or (most + 1) / total > share
    assert 0 <= least <= total and least / total >= share
    assert least == 0 or (least - 1) / total < share


def test_every_share_of_a_count_is_that_count():
    for total in (7, 49, 100, 1000):
        for k in range(total + 1):
            assert allowed(k / total, total) == needed(k / total, total) == k


# ---- exact points --------------------------------------------------------------------------------


@CALM
@given(samples(), SHARES)
def test_points_are_the_best_of_all_thresholds(sample, share):
    scores, labels = sample
    fpr, tpr, _ = sklearn.roc_curve(labels, scores, drop_intermediate=False)
    normal, anomalous = (~labels).sum(), labels.sum()
    alarms, found = np.rint(fpr * normal) / normal, np.rint(tpr * anomalous) / anomalous
    assert fpr_at_recall(scores, labels, share) == alarms[found >= share].min()
    assert recall_at_fpr(scores, labels, share) == found[alarms <= share].max()


def test_the_worked_example():
    assert fpr_at_recall(SCORES, LABELS, 2 / 3) == 0 and fpr_at_recall(SCORES, LABELS) == 2 / 3
    assert recall_at_fpr(SCORES, LABELS, 0) == 2 / 3 and recall_at_fpr(SCORES, LABELS, 2 / 3) == 1
    assert fpr_at_recall(SCORES, LABELS, 0) == 0 and recall_at_fpr(SCORES, LABELS, 1) == 1
    assert pg(SCORES, LABELS) == pb(SCORES, LABELS) == 2 / 3


# ---- PGn and PBn ---------------------------------------------------------------------------------


@CALM
@given(samples(), SHARES)
def test_pg_and_pb_follow_numpy_quantiles(sample, n):
    scores, labels = sample
    normal, anomalous = (scores[labels == kind].astype(np.float64) for kind in (False, True))
    for share in (n, 1 - n):
        assert quantile(anomalous, share) == pytest.approx(np.quantile(anomalous, share), abs=1e-3)
    assert pg(scores, labels, n) == np.mean(normal < quantile(anomalous, n))
    assert pb(scores, labels, n) == np.mean(anomalous > -quantile(-normal, n))


def exact_quantile(values, share):
    "In fractions, of a share as it is written in decimals."
    place = Fraction(str(share)) * (len(values) - 1)
    low, part = divmod(place, 1)
    ordered = [Fraction(float(value)) for value in sorted(values)]
    return ordered[int(low)] * (1 - part) + ordered[min(int(low) + 1, len(ordered) - 1)] * part


@pytest.mark.parametrize("total", [1, 2, 3, 11, 21, 26, 101])
def test_a_part_that_ties_with_a_quantile_lies_neither_below_nor_above(total):
    values, labels = np.arange(total, dtype=float), np.repeat([0, 1], total)
    metrics = [kind(0.0, mode=mode) for kind in (PGn, PBn) for mode in ("exact", "streaming")]
    for metric in metrics:
        metric.update(np.tile(values, 2), labels)
    for percent in range(101):
        n = percent / 100
        low, high = exact_quantile(values, n), -exact_quantile(-values, n)
        below, above = sum(v < low for v in values) / total, sum(v > high for v in values) / total
        assert pg(np.tile(values, 2), labels, n) == below, n
        assert pb(np.tile(values, 2), labels, n) == above, n
        for metric in metrics if percent in (0, 7, 29, 58, 93) else []:
            metric.n, metric._computed = n, None
            found = metric.compute()
            expected = below if isinstance(metric, PGn) else above
            assert abs(found - expected) <= getattr(found, "bound", 0) + 1e-12, (metric, n)


@CALM
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=30), st.floats(0, 1))
def test_a_value_between_two_lies_between_them(values, share):
    place, ordered = place_of(share, len(values)), np.sort(values)
    assert 0 <= place <= len(values) - 1
    found = value_at(np.array(values), place)
    assert ordered[math.floor(place)] <= found <= ordered[math.ceil(place)]


@pytest.mark.parametrize("single", [np.float32, lambda share: torch.tensor(share)])
def test_a_share_in_single_precision_is_the_share_that_was_written(single):
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20, 50])
    scores = random.normal(size=70) + labels
    for share in (0.05, 0.1, 0.29, 0.3, 0.58, 0.9, 0.95):
        for kind, function in zip(KINDS, (fpr_at_recall, recall_at_fpr, pg, pb)):
            assert function(scores, labels, single(share)) == function(scores, labels, share)
            assert kind(single(share)).name == kind(share).name


def test_names_tell_the_share():
    assert [PGn(n).name for n in (0.05, 0.29, 0.005, 0.07)] == ["PG5", "PG29", "PG0.5", "PG7"]
    assert [PBn(n).name for n in (0.05, 0.58, 1 / 3)] == ["PB5", "PB58", "PB33.33333333"]
    assert FPRAtRecall().name == "FPRAtRecall95" and RecallAtFPR().name == "RecallAtFPR1"


def test_a_quantile_of_many_pixels():
    many = np.random.default_rng(0).permutation(2**21).astype(np.float32)
    labels = np.zeros(len(many), bool)
    labels[::2] = True
    assert pg(many, labels) == pytest.approx(0.05, abs=1e-3)
    assert math.isnan(quantile(np.array([-np.inf, np.inf]), 0.5))
    assert quantile(np.array([-np.inf, 0, np.inf]), 0.5) == 0


@CALM
@given(samples(), SHARES)
def test_an_affine_change_changes_nothing(sample, share):
    scores, labels = sample
    scores = np.rint(scores.astype(float))
    for measure in (fpr_at_recall, recall_at_fpr, pg, pb):
        if measure in (pg, pb):
            share = round(share * 8) / 8  # so that quantiles are exact
        assert measure(4 * scores - 8, labels, share) == measure(scores, labels, share)


# ---- the metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@CALM
@given(samples(), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]), st.integers(0, 30))
def test_parts_give_what_the_whole_gives(kind, sample, share, cut):
    function = dict(zip(KINDS, (fpr_at_recall, recall_at_fpr, pg, pb)))[kind]
    scores, labels = sample
    metric = kind(share)
    for part in (slice(cut, None), slice(0, cut)):
        if len(scores[part]):
            metric.update(torch.tensor(scores[part]), torch.tensor(labels[part]))
    assert metric.compute() == function(scores, labels, share)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["smooth", "ties", "one value", "a hair's breadth", "outliers"])
def test_a_stream_holds_the_exact_value(kind, shape):
    random = np.random.default_rng(0)
    labels = random.random(300_000) < 0.1
    scores = random.normal(size=len(labels)) + labels
    scores = {
        "smooth": scores,
        "ties": scores.round(1),
        "one value": np.ones(len(labels)),
        "a hair's breadth": 1 + 1e-7 * scores,
        "outliers": np.where(random.random(len(labels)) < 1e-3, 1e30, scores),
    }[shape].astype(np.float32)
    for share in (0.0, 0.01, 0.05, 0.95, 1.0):
        exact, streamed = kind(share, mode="exact"), kind(share, mode="streaming")
        for metric in (exact, streamed):
            for part in np.array_split(np.arange(len(labels)), 3):
                metric.update(scores[part], labels[part])
        bounded = streamed.compute()
        assert abs(bounded - exact.compute()) <= bounded.bound + 1e-12
        assert bounded.bound <= 1e-3 or kind in (PGn, PBn)  # there, a gap at the quantile counts


def test_an_evaluator_takes_them_at_both_levels():
    random = np.random.default_rng(0)
    masks = random.random((8, 6, 6)) < 0.1
    maps = (random.normal(size=masks.shape) + masks).astype(np.float32)
    masks[::2] = False
    evaluator = Evaluator(["fpr_at_recall", RecallAtFPR(0.1), PGn, PBn(0.1)])
    evaluator.update(
        Batch(
            pred_score=maps.max((1, 2)), gt_label=masks.any((1, 2)), anomaly_map=maps, gt_mask=masks
        )
    )
    results = evaluator.compute()
    assert results["pixel_PG5"] == pg(maps, masks)
    assert results["image_RecallAtFPR10"] == recall_at_fpr(maps.max((1, 2)), masks.any((1, 2)), 0.1)
    assert set(results) == {
        f"{level}_{name}"
        for level in ("image", "pixel")
        for name in ("FPRAtRecall95", "RecallAtFPR10", "PG5", "PB10")
    }


# ---- what is missing or wrong --------------------------------------------------------------------


@pytest.mark.parametrize("function", [fpr_at_recall, recall_at_fpr, pg, pb])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_them_undefined(function, label):
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(function([1.0, 2.0], [label, label]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_one_class_leaves_the_metrics_undefined(kind, mode):
    metric = kind(mode=mode)
    metric.update([1.0, 2.0], [0, 0])
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(metric.compute())


@pytest.mark.parametrize("function", [fpr_at_recall, recall_at_fpr, pg, pb])
@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, 95])
def test_a_share_lies_between_0_and_1(function, share):
    with pytest.raises(ValueError, match="Expected a share between 0 and 1"):
        function(SCORES, LABELS, share)


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_is_checked_when_the_metric_is_made(kind):
    with pytest.raises(ValueError, match="share"):
        kind(5)


@pytest.mark.parametrize("function", [fpr_at_recall, recall_at_fpr, pg, pb])
def test_infinite_scores_rank(function):
    perfect = function([-np.inf, 0, 1, np.inf], [0, 0, 1, 1], 0.5)
    assert perfect == (0 if function is fpr_at_recall else perfect) and 0 <= perfect <= 1


# ---- range and distribution ----------------------------------------------------------------------


def test_the_range_of_parts_is_the_range_of_the_whole():
    values = np.random.default_rng(0).normal(size=(10, 3, 4)).astype(np.float32)
    metric = MinMax()
    for part in np.array_split(values, 3):
        metric.update(torch.tensor(part))
    assert metric.compute() == min_max(values) == (values.min(), values.max())
    metric.reset()
    metric.update(5.0)
    assert metric.compute() == (5, 5)
    with pytest.raises(ValueError, match="NaN"):
        metric.update([1, math.nan])


@pytest.mark.parametrize("ends", [(0.1, 2**24 + 1), (-1e300, 1e300), (1e-300, 2.0**53 - 1), (-math.inf, math.inf)])
def test_ends_stay_as_they_came(ends):
    metric = MinMax()
    for value in reversed(ends):
        metric.update([value])
    assert metric.compute() == min_max(ends) == ends
    metric.update(np.float32([0.3]))
    metric.reset()
    assert metric.compute() == (math.inf, -math.inf)
    metric.update(torch.tensor([0.1]))
    assert metric.compute() == (float(np.float32(0.1)),) * 2  # that is how it came
    assert MinMax()(torch.tensor(ends, dtype=torch.float64)) == ends


@CALM
@given(st.integers(2, 20), st.integers(0, 20), st.integers(0, 100))
def test_the_distribution_is_that_of_the_logarithms(count, cut, seed):
    maps = np.random.default_rng(seed).lognormal(3, 2, size=(count, 3, 2))
    metric = AnomalyScoreDistribution()
    for part in (maps[cut:], maps[:cut]):
        if len(part):
            metric.update(torch.tensor(part.max((1, 2))), torch.tensor(part))
    logs, found = np.log(maps), metric.compute()
    whole = anomaly_score_distribution(maps.max((1, 2)), maps)
    for each in (found, whole):
        np.testing.assert_allclose(each.pixel_mean, logs.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(each.pixel_std, logs.std(0, ddof=1), rtol=1e-9, atol=1e-12)
        assert each.image_mean == pytest.approx(logs.max((1, 2)).mean())
        assert each.image_std == pytest.approx(logs.max((1, 2)).std(ddof=1))
        assert each.left_out == 0


def test_the_reference_example():
    found = anomaly_score_distribution(np.exp([0.0, 1.0, 2.0]))
    assert (found.image_mean, found.image_std) == (pytest.approx(1), pytest.approx(1))
    assert found.pixel_mean.size == 0


def test_means_far_from_zero_keep_their_spread():
    logs = np.array([0.0, 1e-6, 2e-6, 3e-6]) + 500
    metric = AnomalyScoreDistribution()
    for value in np.exp(logs):
        metric.update([value])
    assert metric.compute().image_std == pytest.approx(
        np.std(np.log(np.exp(logs)), ddof=1), rel=1e-4
    )


def test_what_has_no_logarithm_is_counted():
    maps = np.ones((3, 2, 2))
    maps[0, 0, 0], maps[1, 0, 0], maps[2, 1, 1] = 0, -1, math.inf
    with pytest.warns(UserWarning, match="4 scores are not positive and finite"):
        found = anomaly_score_distribution([0.0, 1.0, 1.0], maps)
    assert found.left_out == 4 and found.image_mean == 0
    assert math.isnan(found.pixel_std[0, 0]) and found.pixel_mean[0, 0] == 0
    with pytest.raises(ValueError, match="NaN"):
        anomaly_score_distribution([math.nan])
    metric = AnomalyScoreDistribution()
    metric.update([1.0], np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="follow maps"):
        metric.update([1.0], np.ones((1, 2, 3)))


def test_nothing_seen():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, ends = AnomalyScoreDistribution().compute(), MinMax().compute()
    assert math.isnan(found.image_mean) and found.left_out == 0 and ends == (math.inf, -math.inf)


# ---- two processes -------------------------------------------------------------------------------


def metrics_to_share():
    return {
        "pg": PGn(0.1),
        "recall": RecallAtFPR(0.1),
        "range": MinMax(),
        "spread": AnomalyScoreDistribution(),
        "conformal": ConformalThreshold(0.3),
        "f1": F1AdaptiveThreshold(),
        "iou": IoU(),
        "mebin": MEBin(),
    }


def fed(metrics, rows):
    "The metrics with some rows of a fixed run."
    random = np.random.default_rng(0)
    truth = random.random((12, 6, 6)) < 0.2
    truth[::2] = False
    maps = random.lognormal(size=truth.shape).astype(np.float32) + truth
    for name, metric in metrics.items():
        for i in rows:
            one = slice(i, i + 1)
            if name == "range" or name == "mebin":
                metric.update(maps[one] if name == "mebin" else maps[one].astype(float) + 0.1)
            elif name == "spread":
                metric.update(maps[one].max((1, 2)), maps[one])
            else:
                metric.update(maps[one] > 1.5 if name == "iou" else maps[one], truth[one])
    return metrics


def plain(values):
    return {
        name: [np.asarray(part).tolist() for part in np.atleast_1d(np.asarray(value, object))]
        for name, value in values.items()
    }


def one_process(rank, folder, rows):
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = {name: metric.compute() for name, metric in fed(metrics_to_share(), rows[rank]).items()}
    torch.save(plain(found), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("rows", [(range(0, 5), range(5, 12)), (range(12), range(0))])
def test_two_processes_give_what_one_gives(rows, tmp_path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path), rows), nprocs=2)
    whole = plain({name: m.compute() for name, m in fed(metrics_to_share(), range(12)).items()})
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(shared) == set(whole)
        for name, parts in whole.items():
            for a, b in zip(shared[name], parts, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)
