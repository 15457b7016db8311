"""Intervals and paired tests against scipy, scikit-learn and brute force; how often they are right."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from scipy.special import ndtr
from sklearn import metrics as sklearn

from anomalib_nb.metrics import (
    Interval,
    Plan,
    aupr,
    aupro,
    auroc,
    bca_tails,
    bootstrap,
    bootstrap_interval,
    bootstrap_mean,
    bootstrap_pixels,
    compare,
    critical_difference,
    delong,
    delong_error,
    delong_test,
    expanded_tails,
    expected_error,
    f1_max,
    friedman_test,
    holm,
    image_tables,
    macro,
    mean_ranks,
    paired_t_test,
    pixel_metrics,
    pixel_tables,
    placements,
    plausible,
    pro,
    representatives,
    resamples,
    wilcoxon_test,
)
from anomalib_nb.metrics.statistics import RANKED

CALM = settings(derandomize=True, deadline=None, max_examples=50)

SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.35, 0.6])
LABELS = np.array([0, 0, 1, 1, 0, 1])
A = (0.9, 0.8, 0.7, 0.95, 0.6, 0.5)
B = (0.85, 0.7, 0.72, 0.9, 0.5, 0.5)
EXACT = {"AUROC": auroc, "AUPR": aupr, "F1Max": lambda *x: f1_max(*x)[0], "AUPRO": aupro}


@st.composite
def samples(draw, least=2):
    "Scores with ties and their labels, at least two images of each class."
    size = draw(st.integers(2 * least, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    labels = random.random(size) < 0.5
    labels[:least], labels[-least:] = False, True
    return (random.normal(size=size) + labels).round(draw(st.integers(0, 3))), labels


@st.composite
def map_samples(draw):
    "Small maps with ragged masks; one image at least is normal and one is not."
    shape = draw(st.integers(2, 5)), draw(st.integers(3, 8)), draw(st.integers(3, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    masks = random.random(shape) < draw(st.sampled_from([0.05, 0.3]))
    masks[0], masks[-1, 0, 0] = False, True
    maps = random.normal(size=shape) + masks
    return maps.round(draw(st.integers(0, 4))).astype(np.float32), masks, random


def line(images, random, shift=1.5):
    labels = np.repeat([0, 1], images // 2)
    return random.normal(size=images) + shift * labels, labels


# ---- DeLong ----------------------------------------------------------------------------------
def test_the_example_of_the_fact_sheet():
    v10, v01 = placements(SCORES, LABELS)
    assert v10.tolist() == [0.5, 1, 1] and np.allclose(v01, [1, 2 / 3, 5 / 6])
    assert delong_error(v10, v01) == pytest.approx(0.19245, abs=1e-6)
    found = delong(SCORES, LABELS)
    truth = np.linspace(0, 1, 200_001)[1:-1]  # all AUROCs that there are, one by one
    there = 0.1924501 * np.sqrt(truth * (1 - truth) / (found.value * (1 - found.value)))
    usual = np.sqrt(truth * (1 - truth) * (1 + 2 * (1 - truth) / (2 - truth) + 2 * truth / (1 + truth)) / 9)
    near = np.abs(found.value - truth) <= stats.t.ppf(0.975, 3.2) * np.maximum(there, usual)
    assert [found.low, found.high] == pytest.approx([truth[near].min(), truth[near].max()], abs=1e-5)
    assert (np.diff(np.flatnonzero(near)) == 1).all()  # in one piece
    assert delong(torch.tensor(SCORES), torch.tensor(LABELS)) == found


@CALM
@given(samples())
def test_placements_are_those_of_all_pairs(sample):
    scores, labels = sample
    positive, negative = scores[labels][:, None], scores[~labels][None]
    beats = (positive > negative) + 0.5 * (positive == negative)
    v10, v01 = placements(scores, labels)
    assert np.allclose(v10, beats.mean(1)) and np.allclose(v01, beats.mean(0))
    assert v10.mean() == pytest.approx(sklearn.roc_auc_score(labels, scores))


@CALM
@given(samples(), st.integers(0, 1000))
def test_delongs_test_is_that_of_the_covariances(sample, seed):
    first, labels = sample
    second = first + np.random.default_rng(seed).normal(size=len(first)).round(1)
    pairs = list(zip(placements(first, labels), placements(second, labels)))
    s = sum(np.cov(one, other) / len(one) for one, other in pairs)
    parts = [np.var(one - other, ddof=1) / len(one) for one, other in pairs]
    found = delong_test(first, second, labels)
    assert found.difference == pytest.approx(auroc(first, labels) - auroc(second, labels))
    if sum(parts) > 1e-12:
        values = [auroc(each, labels) for each in (first, second)]
        expected = [expected_error(value, len(pairs[0][0]), len(pairs[1][0])) for value in values]
        both = math.sqrt(s[0, 0] * s[1, 1])
        a, b = np.maximum(np.sqrt(np.diag(s)), expected)
        floor = a * a + b * b - 2 * a * b * (s[0, 1] / both if both else 0)
        t = found.difference / math.sqrt(max(sum(parts), floor))
        fewer = [len(one) - 1 for one, _ in pairs]
        freedom = sum(parts) ** 2 / sum(part**2 / n for part, n in zip(parts, fewer))
        assert min(fewer) - 1e-9 <= freedom <= sum(fewer) + 1e-9
        assert found.statistic == pytest.approx(t)
        assert found.p == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    back = delong_test(second, first, labels)
    assert back.difference == pytest.approx(-found.difference)
    assert back.p == pytest.approx(found.p, nan_ok=True)
    assert delong_test(first, 2 * first + 1, labels) == (0, 0, 1)


@CALM
@given(st.floats(1e-3, 1 - 1e-3), st.floats(0, 0.4), st.floats(0.1, 100), st.integers(2, 300), st.integers(2, 300))
def test_plausible_values_lie_around_the_value_and_mirror(value, error, reach, some, others):
    low, high = plausible(value, error, reach, some, others)
    assert 0 < low < value < high < 1
    back = plausible(1 - value, error, reach, others, some)
    assert back == (pytest.approx(1 - high, abs=1e-9), pytest.approx(1 - low, abs=1e-9))


def test_no_end_is_lost_where_errors_vanish():
    few = np.append(np.arange(50.0), [49.5, 60, 61, 62, 63]), np.arange(55) >= 50
    found = delong(*few)  # one of 250 pairs could be tied or wrong: none is, so the value is 1
    assert found.value == found.high == 1 and found.low == pytest.approx(0.025**0.2)
    few[0][50] = 48.5
    found = delong(*few)  # 249 of 250 are right
    assert found.value == pytest.approx(0.996) and 0.6 < found.low < 0.95 and found.value < found.high < 1
    same = delong(np.ones(30), np.arange(30) >= 25)
    assert same.value == 0.5 and same.low < 0.3 and same.high > 0.7


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_a_perfect_result_is_not_certain(count):
    found = delong(np.arange(2 * count), np.arange(2 * count) >= count)
    assert found.value == found.high == 1 and found.low == pytest.approx(0.025 ** (1 / count))
    worst = delong(-np.arange(2 * count), np.arange(2 * count) >= count)
    assert (worst.value, worst.low, worst.high) == (0, 0, pytest.approx(1 - found.low))


def test_intervals_without_both_classes_are_undefined_and_say_so():
    for labels in ([0, 0, 0], [1, 1, 1]):
        for judge in (delong, bootstrap):
            with pytest.warns(UserWarning, match="undefined without"):
                found = judge([1, 2, 3], labels)
            assert math.isnan(found.value) and math.isnan(found.low) and 0.5 not in found
        with pytest.warns(UserWarning, match="undefined without"):
            assert math.isnan(delong_test([1, 2, 3], [3, 1, 2], labels).p)
    with pytest.warns(UserWarning, match="two images of each class"):
        found = delong([1, 2, 3], [0, 1, 0])
    assert found.value == 0.5 and math.isnan(found.low)
    with pytest.warns(UserWarning, match="undefined without both"):
        empty = np.zeros((2, 4, 4), bool)
        assert math.isnan(bootstrap_pixels(empty.astype(float), empty, B=10).value)


def test_missing_scores_are_named():
    for judge in (delong, bootstrap):
        with pytest.raises(ValueError, match="number 1"):
            judge([0, np.nan, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="of map 1"):
        bootstrap_pixels([np.zeros((2, 2)), np.full((2, 2), np.nan)], np.eye(2)[None].repeat(2, 0))


# ---- draws -----------------------------------------------------------------------------------
def test_draws_do_not_depend_on_blocks_and_keep_the_classes():
    whole = np.concatenate(list(resamples(LABELS, Plan(B=50))))
    small = np.concatenate(list(resamples(LABELS, Plan(B=50), rows=7)))
    assert (whole == small).all() and (whole[:, LABELS == 1].sum(1) == 3).all()
    assert (whole.sum(1) == 6).all() and (whole != resamples_of(Plan(B=50, seed=1))).any()


def resamples_of(plan):
    return np.concatenate(list(resamples(LABELS, plan)))


@CALM
@given(samples(), st.integers(0, 1000))
def test_an_image_that_counts_twice_is_two_images(sample, seed):
    scores, labels = sample
    counts = np.random.default_rng(seed).integers(0, 4, (3, len(scores)))
    counts[:, 0], counts[:, -1] = 1, 2  # both classes
    tables = image_tables(scores, labels)
    for name, rows in RANKED.items():
        found = rows(*tables.drawn(counts.astype(float)))
        for value, row in zip(found, counts):
            again = np.repeat(np.arange(len(scores)), row)
            assert value == pytest.approx(EXACT[name](scores[again], labels[again]))
    weighted = sklearn.roc_auc_score(labels, scores, sample_weight=counts[0])
    assert RANKED["AUROC"](*tables.drawn(counts))[0] == pytest.approx(weighted)
    weighted = sklearn.average_precision_score(labels, scores, sample_weight=counts[0])
    assert RANKED["AUPR"](*tables.drawn(counts))[0] == pytest.approx(weighted)


@pytest.mark.parametrize("metric", ["AUROC", "AUPR", "F1Max"])
def test_a_percentile_interval_is_that_of_a_loop(metric):
    scores, labels = line(24, np.random.default_rng(0))
    plan = Plan(B=200, seed=3)
    values = []
    for counts in np.concatenate(list(resamples(labels, plan))).astype(int):
        again = np.repeat(np.arange(24), counts)
        values.append(EXACT[metric](scores[again], labels[again]))
    found = bootstrap(scores, labels, metric, kind="percentile", B=200, seed=3)
    assert [found.low, found.high] == pytest.approx(np.quantile(values, [0.025, 0.975]))
    assert found.value == pytest.approx(EXACT[metric](scores, labels))
    assert (found.B, found.seed, found.skipped, found.level) == (200, 3, 0, 0.95)


def test_bca_is_that_of_scipy():
    values = np.random.default_rng(0).gamma(1, size=30)
    theirs = stats.bootstrap([values], np.mean, n_resamples=9999, rng=0).confidence_interval
    found = bootstrap_mean(values, B=9999)
    assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=0.02)
    # Two classes, drawn separately.
    scores, labels = line(40, np.random.default_rng(1))

    def area(anomalous, normal):
        return np.mean(anomalous[:, None] > normal)

    groups = scores[labels == 1], scores[labels == 0]
    theirs = stats.bootstrap(groups, area, n_resamples=4000, vectorized=False, rng=0)
    found = bootstrap(scores, labels, B=4000)
    ends = theirs.confidence_interval
    assert [found.low, found.high] == pytest.approx([ends.low, ends.high], abs=0.01)


def test_a_paired_interval_knows_what_is_common():
    random = np.random.default_rng(0)
    common, labels = random.normal(size=80), np.repeat([0, 1], 40)
    first, second = (common + shift * labels + 0.3 * random.normal(size=80) for shift in (2.2, 1.4))
    alone = [bootstrap(each, labels, B=500) for each in (first, second)]
    both = bootstrap(first, labels, against=second, B=500)
    assert both.value == pytest.approx(alone[0].value - alone[1].value)
    assert 0 not in both and alone[0].low < alone[1].high
    back = bootstrap(second, labels, against=first, kind="percentile", B=500)
    there = bootstrap(first, labels, against=second, kind="percentile", B=500)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    same = bootstrap(first, labels, against=np.exp(first), B=100)
    assert same.value == same.low == same.high == 0
    with pytest.raises(ValueError, match="shape"):
        bootstrap(first, labels, against=second[:-1])


def test_draws_without_a_class_are_skipped_and_counted():
    found = bootstrap(np.arange(10), np.arange(10) == 8, stratified=False, B=1000)
    assert found.skipped / 1000 == pytest.approx(0.9**10, abs=0.05)
    assert "draws without a value" in repr(found)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'AUROC'"):
        bootstrap(SCORES, LABELS, "auroc")
    with pytest.raises(ValueError, match="BCa, percentile, expanded"):
        bootstrap(SCORES, LABELS, kind="normal")
    with pytest.raises(ValueError, match="level in"):
        bootstrap(SCORES, LABELS, level=95)
    with pytest.raises(ValueError, match="share in"):
        bootstrap_pixels(np.ones((1, 2, 2)), np.ones((1, 2, 2)), "AUPRO", fpr_limit=0)
    with pytest.raises(ValueError, match="Expected expanded or percentile, whose ends have a bound"):
        bootstrap_pixels(np.ones((2, 2, 2)), np.ones((2, 2, 2)), kind="BCa")
    with pytest.raises(ValueError, match="one mask for each map"):
        bootstrap_pixels(np.ones((2, 2, 2)), np.ones((1, 2, 2)))


# ---- means -----------------------------------------------------------------------------------
def test_images_without_a_value_are_not_drawn():
    values = np.array([np.nan, 0.2, 0.9, np.nan, 0.4])
    assert bootstrap_mean(values) == bootstrap_mean(values[[1, 2, 4]])
    with pytest.raises(ValueError, match="different images"):
        bootstrap_mean(values, against=np.ones(5))
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(bootstrap_mean([np.nan]).value)


def test_regions_follow_their_images():
    random = np.random.default_rng(2)
    masks = random.random((6, 7, 7)) < 0.15
    masks[:, 0, 0] = True
    maps = random.random(masks.shape) + 0.4 * masks
    overlaps = [pro(maps[i : i + 1], masks[i : i + 1], 0.7) for i in range(6)]
    regions = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks]
    found = bootstrap_mean(overlaps, regions, kind="percentile", B=50)
    assert found.value == pytest.approx(pro(maps, masks, 0.7))
    drawn = []
    for counts in np.concatenate(list(resamples(np.zeros(6), Plan(B=50)))).astype(int):
        again = np.repeat(np.arange(6), counts)
        drawn.append(pro(maps[again], masks[again], 0.7))
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


# ---- pixels ----------------------------------------------------------------------------------
@CALM
@given(map_samples(), st.sampled_from([2, 8, 4096]), st.sampled_from([0.05, 0.3, 1.0]))
def test_binned_pixels_are_within_their_bound_in_every_draw(sample, K, limit):
    maps, masks, random = sample
    counts = random.integers(0, 4, (4, len(maps)))
    counts[:, 0], counts[:, -1] = 1, 1  # both classes
    exact = {**EXACT, "AUPRO": lambda *x: aupro(*x, limit)}
    for name, (rows, error) in pixel_metrics(limit).items():
        tables = pixel_tables(maps, masks, name, K)
        held = tables.drawn(counts.astype(float))
        for value, bound, row in zip(rows(*held), error(*held, tables.tied), counts):
            again = np.repeat(np.arange(len(maps)), row)
            assert abs(value - exact[name](maps[again], masks[again])) <= bound + 1e-9
            assert K < 4096 or bound == pytest.approx(0, abs=1e-9)  # each score has a bin


def ends_of_draws(maps, masks, name, plan, against=None):
    "The interval of the pixels themselves, on the same draws: nothing is binned."

    def estimate(counts):
        found = []
        for row in counts.astype(int):
            again = np.repeat(np.arange(len(maps)), row)
            values = [EXACT[name](m[again], masks[again]) for m in (maps, against) if m is not None]
            found.append(values[0] - sum(values[1:]))
        return np.array(found)

    return bootstrap_interval(estimate, masks.any((1, 2)) & plan.stratified, plan)


def trial(seed, draws):
    "How far a binned interval is from the exact one, and its bound."
    random = np.random.default_rng(seed)
    count = int(random.integers(4, 9))
    masks = random.random((count, 5, 6)) < 0.25
    masks[:2], masks[2:, 0, 0] = False, True
    strength = random.gamma(2, 0.7, (count, 1, 1))
    maps, other = (random.normal(size=(2, *masks.shape)) + masks * strength).astype(np.float32)
    against = other if random.random() < 0.3 else None
    name, kind = random.choice(list(EXACT)), random.choice(["expanded", "percentile"])
    plan = {"kind": str(kind), "B": draws, "seed": seed, "level": float(random.choice([0.8, 0.95]))}
    found = bootstrap_pixels(maps, masks, name, against, K=int(random.choice([2, 4, 8, 16, 64])), **plan)
    exact = ends_of_draws(maps, masks, name, Plan(**plan), against)
    off = [getattr(found, end) - getattr(exact, end) for end in ("value", "low", "high")]
    return np.abs(off).max(), found.bound


@pytest.mark.parametrize("trials", [range(60), pytest.param(range(60, 3060), marks=pytest.mark.slow)])
def test_value_and_ends_are_within_the_bound(trials):
    outside = [seed for seed in trials if (found := trial(seed, 40))[0] > found[1] + 1e-9]
    assert not outside


def test_cuts_that_expand_go_further_with_fewer_images_and_meet_the_percentile():
    for images in (2, 5, 30):
        low, high = expanded_tails(images, 0.9)
        reach = math.sqrt(images / (images - 1)) * stats.t.ppf(0.95, images - 1)
        assert (low, high) == (pytest.approx(ndtr(-reach)), pytest.approx(ndtr(reach)))
    assert np.allclose(expanded_tails(10**8, 0.9), [0.05, 0.95]) and expanded_tails(1, 0.9)[0] >= 0
    scores, labels = line(24, np.random.default_rng(0))
    wide, usual = (bootstrap(scores, labels, kind=kind, B=400) for kind in ("expanded", "percentile"))
    assert wide.low < usual.low < usual.high < wide.high and "expanded bootstrap" in repr(wide)


def test_values_that_tie_but_for_rounding_are_ties_to_bca():
    values = np.repeat([0.1, 0.2, 0.3], 40)
    noise = values + np.tile([-1e-16, 0, 1e-16], 40)
    assert np.array_equal(bca_tails(noise, 0.2, 0, 0.95), bca_tails(values, 0.2, 0, 0.95))
    assert np.allclose(bca_tails(noise, 0.2, 0, 0.95), [0.025, 0.975])


def hard(kind, random, shape):
    "Maps that are hard to bin."
    maps = random.normal(size=shape)
    return {
        "smooth": maps,
        "one bin": 0.5 + 1e-6 * maps,
        "tiny gaps": 1 + 1e-12 * random.integers(0, 5000, shape),
        "outliers": np.where(random.random(shape) < 0.01, 1e30 * maps, maps),
        "infinite": np.where(random.random(shape) < 0.1, np.inf, maps),
        "constant": np.zeros(shape),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["smooth", "one bin", "tiny gaps", "outliers", "infinite", "constant"]
)
def test_the_bound_does_not_depend_on_the_distribution(kind):
    random = np.random.default_rng(0)
    masks = np.zeros((8, 64, 64), bool)
    masks[::2, 8:40, 10:30] = masks[::2, 50:56, 50:60] = True
    maps = hard(kind, random, masks.shape)
    maps = np.where(masks, maps + 0.5 * np.abs(maps), maps)
    most = {"AUROC": 1 / 512, "F1Max": 2 / 512, "AUPRO": 1 / 512, "AUPR": 8 / 512}
    for name, (rows, error) in pixel_metrics(0.3).items():
        tables = pixel_tables(maps, masks, name, K=1024)
        held = tables.drawn(np.ones((1, 8)))
        bound = error(*held, tables.tied)[0]
        assert abs(rows(*held)[0] - EXACT[name](maps, masks)) <= bound + 1e-9
        assert bound <= most[name] + 1e-9
        assert kind != "constant" or bound < 1e-9


def test_maps_may_differ_in_size_and_come_one_by_one():
    random = np.random.default_rng(0)
    sizes = [(8, 9), (12, 5), (7, 7), (10, 10)]
    masks = [np.zeros(size, bool) for size in sizes]
    masks[1][2:5, 1:3] = masks[3][4, 4] = True
    maps = [random.normal(size=mask.shape) + mask for mask in masks]
    pooled = [np.concatenate([each.ravel() for each in part]) for part in (maps, masks)]
    for name in ("AUROC", "AUPR", "F1Max"):
        found = bootstrap_pixels(maps, masks, name, B=50)
        assert found.value == pytest.approx(EXACT[name](*pooled)) and found.low <= found.high
    assert bootstrap_pixels(maps, masks, "AUPRO", B=50).bound == pytest.approx(0, abs=1e-9)


def test_pixels_of_two_models_are_drawn_together():
    random = np.random.default_rng(0)
    masks = np.zeros((10, 16, 16), bool)
    masks[5:, 4:9, 3:9] = True
    first, second = (random.normal(size=masks.shape) + s * masks for s in (1.5, 1.0))
    found = bootstrap_pixels(first, masks, against=second, B=200)
    assert found.value == pytest.approx(auroc(first, masks) - auroc(second, masks), abs=1e-3)
    assert 0 not in found and found.low < found.value < found.high
    assert bootstrap_pixels(first, masks, against=first, B=50).high == 0


def test_intervals_by_images_are_wider_than_by_pixels():
    random = np.random.default_rng(0)
    masks = np.zeros((20, 16, 16), bool)
    masks[10:, 4:9, 3:9] = True
    maps = random.normal(size=masks.shape) + masks * random.gamma(2, 1, (20, 1, 1))
    by_image, by_pixel = bootstrap_pixels(maps, masks, B=300), delong(maps.ravel(), masks.ravel())
    assert by_image.high - by_image.low > 2 * (by_pixel.high - by_pixel.low)


# ---- how often intervals are right -------------------------------------------------------------
def test_nineteen_of_twenty_intervals_hold_the_truth():
    random, true = np.random.default_rng(0), float(ndtr(1.5 / math.sqrt(2)))
    runs = [line(50, random) for _ in range(120)]
    held = {
        "DeLong": [true in delong(*run) for run in runs],
        "BCa": [true in bootstrap(*run, B=300) for run in runs],
        "percentile": [true in bootstrap(*run, kind="percentile", B=300) for run in runs],
        "80 %": [true in delong(*run, level=0.8) for run in runs],
    }
    rates = {name: np.mean(each) for name, each in held.items()}
    assert 0.9 <= rates["DeLong"] <= 1 and 0.88 <= rates["BCa"] <= 1, rates
    assert 0.86 <= rates["percentile"] <= 1 and 0.7 <= rates["80 %"] <= 0.9, rates


def test_equal_models_are_rarely_called_different():
    random, alarms = np.random.default_rng(0), {"DeLong": 0, "bootstrap": 0}
    for _ in range(120):
        common, labels = line(50, random)
        pair = [common + 0.7 * random.normal(size=50) for _ in range(2)]
        alarms["DeLong"] += delong_test(*pair, labels).p < 0.05
        alarms["bootstrap"] += 0 not in bootstrap(pair[0], labels, against=pair[1], B=300)
    assert all(count <= 0.11 * 120 for count in alarms.values()), alarms


def test_intervals_shrink_like_the_root_of_the_number_of_images():
    random = np.random.default_rng(0)
    width = [
        np.mean([e.high - e.low for e in (delong(*line(n, random)) for _ in range(20))])
        for n in (100, 400)
    ]
    assert width[0] / width[1] == pytest.approx(2, rel=0.15)


# ---- image by image --------------------------------------------------------------------------
def test_paired_tests_of_the_fact_sheet():
    assert wilcoxon_test(A, B).p == pytest.approx(0.125)
    assert wilcoxon_test(A, B, "greater").p == pytest.approx(0.0625)
    assert paired_t_test(A, B).p == pytest.approx(0.0696, abs=1e-4)
    found = compare({"b": B, "a": A}, alternative="greater")
    assert found.models == ("a", "b") and found.ranks.tolist() == [1.25, 1.75]
    assert found.confidence[0, 1] == pytest.approx(0.9375) and math.isnan(found.friedman)
    assert compare({"b": B, "a": A}, keep_order=True).models == ("b", "a")


@CALM
@given(
    st.integers(2, 40), st.integers(0, 10_000), st.sampled_from(["two-sided", "less", "greater"])
)
def test_paired_tests_are_those_of_scipy(size, seed, alternative):
    random = np.random.default_rng(seed)
    first, second = random.random((2, size))
    apart = first - second
    apart[np.abs(apart) <= 1e-3] = 0
    expected = (
        stats.wilcoxon(apart[apart != 0], alternative=alternative).pvalue if apart.any() else 1
    )
    assert wilcoxon_test(first, second, alternative).p == pytest.approx(expected)
    expected = stats.ttest_rel(first, second, alternative=alternative).pvalue
    assert paired_t_test(first, second, alternative).p == pytest.approx(expected)


def test_equal_images_prove_nothing():
    assert wilcoxon_test(A, np.add(A, 5e-4)).p == 1
    assert wilcoxon_test(A, np.add(A, 5e-4), tolerance=0).p < 1
    assert paired_t_test(A, A).p == 1 and paired_t_test([1, 2], [0, 1], "less").p == 1
    assert paired_t_test([1, 2], [0, 1]).p == 0


def test_images_without_a_value_are_left_out_of_a_comparison():
    gap = [np.nan, *A], [np.nan, *B]
    assert wilcoxon_test(*gap) == wilcoxon_test(A, B)
    with pytest.raises(ValueError, match="different images"):
        wilcoxon_test([np.nan, *A], [0.3, *B])
    with pytest.raises(ValueError, match="at least two"):
        wilcoxon_test([np.nan, 1], [np.nan, 2])
    with pytest.raises(ValueError, match="at least two"):
        compare({"a": A})
    with pytest.raises(ValueError, match="no test 'anova'"):
        compare({"a": A, "b": B}, test="anova")


@CALM
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_stops_at_the_first_that_holds(p):
    order, expected, worst = np.argsort(p, kind="stable"), np.zeros(len(p)), 0.0
    for step, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(p) - step)))
        expected[i] = worst
    adjusted = holm(p)
    assert np.allclose(adjusted, expected) and (adjusted >= np.array(p) - 1e-15).all()


def test_many_models_are_sorted_and_corrected():
    random = np.random.default_rng(0)
    base = random.normal(size=30)
    models = {n: base + s + 0.3 * random.normal(size=30) for n, s in zip("xyz", (0, 1, 0.02))}
    found = compare(models)
    table = np.array([models[name] for name in found.models])
    assert found.models[0] == "y" and (np.diff(found.ranks) >= 0).all()
    assert np.allclose(found.ranks, mean_ranks(table))
    assert found.friedman == pytest.approx(stats.friedmanchisquare(*table).pvalue)
    upper = np.triu_indices(3, 1)
    assert np.allclose(found.adjusted[upper], holm(found.p[upper]))
    assert np.allclose(found.adjusted, found.adjusted.T, equal_nan=True)
    one_sided = compare(models, alternative="greater")
    off = ~np.eye(3, dtype=bool)
    assert np.allclose(one_sided.adjusted[off], holm(one_sided.p[off]))
    by_mean = compare(models, test="t")
    assert (np.diff(by_mean.means) <= 0).all()
    assert friedman_test(np.ones((3, 5))) == 1


def test_critical_differences_are_those_of_the_table():
    for models, q in ((2, 1.960), (5, 2.728), (10, 3.164)):  # Demšar 2006, table 5
        expected = q * math.sqrt(models * (models + 1) / (6 * 20))
        assert critical_difference(models, 20) == pytest.approx(expected, rel=1e-3)


def test_marks_have_images_of_their_own():
    values = [0.5, 0.505, np.nan, 0.1, 0.9, 0.3, 0.7]
    found = representatives(values)
    assert [mark for mark, *_ in found][0] == "low whisker" and found[0].image == 3
    assert found[-1] == ("high whisker", 0.9, 4) and 2 not in [each.image for each in found]
    middle = {each.mark: each.image for each in found}
    assert {middle["mean"], middle["median"]} == {0, 1}
    assert sorted(found, key=lambda each: each.value) == found


# ---- categories and seeds ----------------------------------------------------------------------
def test_macro_means_count_categories_alike():
    found = macro({"a": [0.9, 0.8], "b": [0.5, 0.7], "c": [0.1, np.nan]})
    assert found.mean == pytest.approx((0.85 + 0.6) / 2) and found.skipped == ("c",)
    assert found.over_categories == pytest.approx(np.std([0.85, 0.6], ddof=1))
    assert found.over_seeds == pytest.approx(np.std([0.7, 0.75], ddof=1))
    single = macro({"a": 0.9, "b": 0.5})
    assert single.mean == pytest.approx(0.7) and math.isnan(single.over_seeds)
    with pytest.raises(ValueError, match="one for each seed"):
        macro({"a": [1, 2], "b": [1]})
    with pytest.warns(UserWarning, match="undefined"):
        assert math.isnan(macro({"a": np.nan}).mean)


# ---- what one sees ---------------------------------------------------------------------------
def test_results_show_themselves():
    found = bootstrap(SCORES, LABELS, B=50)
    assert "B = 50, seed 0" in repr(found) and "<svg" in found._repr_html_()
    assert "<svg" not in Interval(math.nan, math.nan, math.nan)._repr_html_()
    html = compare({"<b>": B, "a": A})._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html and "nan" not in html
    assert "over seeds" in repr(macro({"a": [1, 2]}))
    own = bootstrap_interval(lambda counts: counts @ np.arange(6) / 6, np.zeros(6), Plan(B=50))
    assert own.value == 2.5 and 2.5 in own
