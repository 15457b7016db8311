"""Exact, on a grid and in a stream a metric is one number: on ties, at bounds, at given thresholds, in any order."""

import math
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from anomalib_nb.core import Batch
from anomalib_nb.core.predictions import decide
from anomalib_nb.metrics import (
    AUPIMO,
    AUPR,
    AUPRO,
    AUROC,
    AUSPRO,
    PIMO,
    PRO,
    SPRO,
    Evaluator,
    F1Max,
    Regions,
    aupimo,
    aupro,
    lowest_decided,
    pimo,
    pro,
    spro,
    store,
    summary,
)
from anomalib_nb.metrics.store import Store, Streams, held

# The same examples in every run, and no clock: the machine may be busy.
CALM = settings(derandomize=True, deadline=None, max_examples=60)
pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = ["integer", "constant", "clipped", "rounded", "plain", "double", "zeros", "infinite"]


def scores_of(kind, random, masks):
    "Maps of a kind: most have ties, at the top too."
    maps = random.normal(size=masks.shape) + random.uniform(0, 2) * masks
    if kind == "constant":
        return np.full(masks.shape, 0.7, np.float32)
    if kind == "zeros":
        maps = np.where(random.random(masks.shape) < 0.8, 0, np.abs(maps))
    if kind == "infinite":
        maps[maps > 1.5] = np.inf
    changed = {
        "integer": np.round(2 * maps),
        "clipped": maps.clip(-0.5, 0.5),
        "rounded": maps.round(1),
    }
    maps = changed.get(kind, maps)
    return maps if kind == "double" else (maps + 0.0).astype(np.float32)


@st.composite
def runs(draw, sizes=1):
    "Batches of maps and masks, each of a size of its own; normal images and defects in every one."
    random, kind = np.random.default_rng(draw(st.integers(0, 2**31))), draw(st.sampled_from(KINDS))
    found = []
    for _ in range(sizes):
        shape = draw(st.integers(2, 6)), draw(st.integers(3, 9)), draw(st.integers(3, 9))
        masks = random.random(shape) < draw(st.sampled_from([0.1, 0.4]))
        masks[::2] = False
        masks[1, 0, 0], masks[1, -1, -1] = True, False
        found.append((scores_of(kind, random, masks), masks))
    return found


@contextmanager
def coarsely(piece=40, fineness=1 / 16):
    "Pieces and cells so large that a few scores are thinned away."
    kept = summary.PIECE, summary.FINENESS
    summary.PIECE = store.PIECE = piece
    summary.FINENESS = fineness
    summary.first_ranks.cache_clear()
    try:
        yield
    finally:
        summary.PIECE, summary.FINENESS = kept
        store.PIECE = kept[0]
        summary.first_ranks.cache_clear()


def fed(metric, run, step):
    for maps, masks in run:
        for start in range(0, len(maps), step):
            metric.update(maps[start : start + step], masks[start : start + step])
    return metric


def agree(exact, stream, tight):
    "A stream is as far off as it says, and not at all where nothing was thinned."
    if math.isnan(exact):
        assert math.isnan(stream)
    else:
        assert abs(stream - exact) <= stream.bound + 1e-9
        assert not tight or stream.bound <= 1e-9


# ---- every metric ------------------------------------------------------------------------------


@CALM
@given(runs(sizes=2), st.sampled_from([1, 3, 100]), st.booleans())
def test_a_stream_contains_the_exact_value(run, step, coarse):
    for make in (AUROC, AUPR, lambda **mode: AUPR("trapezoid", **mode), F1Max, AUPRO, lambda **mode: AUPRO(0.05, **mode),
                 lambda **mode: AUSPRO(0.1, **mode)):  # fmt: skip
        exact = fed(make(mode="exact"), run, 100).compute()
        with coarsely() if coarse else coarsely(2**21, 1 / 8192):
            stream = fed(make(mode="streaming"), run, step).compute()
        # Where a defect ties with nothing that is known exactly, F1 and precision keep a bound.
        agree(exact, stream, tight=False)


@CALM
@given(runs(), st.sampled_from([1, 3, 100]), st.booleans(), st.data())
def test_aupimo_in_a_stream(run, step, coarse, data):
    bounds = some_bounds(run, data)
    exact, stream = AUPIMO(bounds, mode="exact"), AUPIMO(bounds, mode="streaming")
    value = fed(exact, run, 100).compute()
    with coarsely() if coarse else coarsely(2**21, 1 / 8192):
        agree(value, fed(stream, run, step).compute(), tight=not coarse)
    if not coarse:
        np.testing.assert_allclose(stream.scores, exact.scores, atol=1e-12)


# ---- AUPIMO ------------------------------------------------------------------------------------


def some_bounds(run, data):
    "Two rates at which normal images may have a step, or rates in between."
    sizes = {mask.size for _, masks in run for mask in masks if not mask.any()}
    rates = sorted({k / size for size in sizes for k in range(1, size + 1)} | {1e-3, 0.013, 0.111})
    low = data.draw(st.integers(0, len(rates) - 2))
    return rates[low], rates[data.draw(st.integers(low + 1, len(rates) - 1))]


def aupimo_by_definition(run, bounds):
    "At each rate the most that thresholds find which cost no more, on a logarithmic axis."
    images = [(one, mask) for maps, masks in run for one, mask in zip(maps, masks, strict=True)]
    normal = [one for one, mask in images if not mask.any()]
    thresholds, cost = [math.nan], [0.0]  # the first one reports nothing
    for threshold in np.unique(np.concatenate([one.ravel() for one, _ in images]))[::-1]:
        thresholds.append(threshold)
        cost.append(np.mean([(one >= threshold).mean() for one in normal]))
        if cost[-1] > bounds[1]:
            break
    cost = np.array(cost)
    edges = np.log(np.unique(np.clip([*cost, *bounds], *bounds)))
    found = []
    for one, mask in images:
        if mask.any():
            shares = np.array([(one[mask] >= t).mean() for t in thresholds])
            middles = np.exp((edges[1:] + edges[:-1]) / 2)
            heights = [shares[cost <= rate].max() for rate in middles]
            found.append(np.diff(edges) @ heights / np.log(bounds[1] / bounds[0]))
    return np.array(found)


@CALM
@given(st.integers(1, 2).flatmap(lambda sizes: runs(sizes=sizes)), st.data())
def test_aupimo_is_what_the_chapter_says(run, data):
    bounds = some_bounds(run, data)
    metric = fed(AUPIMO(bounds), run, 100)
    metric.compute()
    found = metric.scores[~np.isnan(metric.scores)]
    np.testing.assert_allclose(found, aupimo_by_definition(run, bounds), atol=1e-9)


def ten(seed=0):
    random = np.random.default_rng(seed)
    masks = np.zeros((10, 100, 100), bool)
    masks[5:, 20:40, 20:40] = True
    return (random.normal(size=masks.shape) + masks).astype(np.float32), masks


@pytest.mark.parametrize("seed", range(5))
def test_a_step_that_stands_at_the_upper_bound(seed):
    maps, masks = ten(seed)  # 50,000 normal pixels: five of them are a rate of 1e-4
    exact, stream = AUPIMO(mode="exact"), AUPIMO(mode="streaming")
    value, bounded = (fed(metric, [(maps, masks)], 3).compute() for metric in (exact, stream))
    assert math.isclose(
        value, aupimo_by_definition([(maps, masks)], (1e-5, 1e-4)).mean(), abs_tol=1e-9
    )
    assert math.isclose(value, bounded, abs_tol=1e-12) and bounded.bound < 1e-12


USELESS = {
    "constant": lambda maps: np.full_like(maps, 0.7),
    "zero": np.zeros_like,
    "saturated": lambda maps: maps.clip(max=np.quantile(maps, 0.9)),
    "inverted": lambda maps: -np.abs(maps) * (maps > 0),
    "two values": lambda maps: (maps > 0).astype(np.float32),
    "one outlier": lambda maps: np.where(np.arange(maps.size).reshape(maps.shape) == 77, 1, np.zeros_like(maps)),
}  # fmt: skip


@pytest.mark.parametrize("kind", USELESS)
def test_a_useless_model_has_0(kind):
    maps, masks = ten()
    useless = USELESS[kind](maps)
    for mode in ("exact", "streaming"):
        metric = AUPIMO(mode=mode)
        with pytest.warns(UserWarning, match="AUPIMO is coarse"):
            assert fed(metric, [(useless, masks)], 4).compute() == 0
    for steps in (None, 50, 3000):
        with pytest.warns(UserWarning, match="AUPIMO is coarse"):
            found = aupimo(useless, masks, num_thresholds=steps)
        # Between two values no grid has two rates; it says so.
        assert (found[5:] == 0).all() or (kind == "one outlier" and steps and np.isnan(found).all())
    above = np.where(masks, useless.max() + 1, useless)
    assert np.nanmin(aupimo(above, masks)) == 1, "but what exceeds all normal images is found"


def test_coarseness_is_about_distinct_rates():
    random = np.random.default_rng(0)
    masks = np.zeros((8, 300, 300), bool)
    masks[4:, 20:40, 20:40] = True
    maps = random.random(masks.shape)  # 360,000 normal pixels: 32 rates between the bounds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aupimo(maps, masks)
        fed(AUPIMO(mode="streaming"), [(maps, masks)], 3).compute()
    with pytest.warns(UserWarning, match="neither rounded nor clipped"):
        aupimo(maps.round(4), masks)
    with pytest.warns(UserWarning, match="neither rounded nor clipped"):
        fed(AUPIMO(mode="streaming"), [(maps.round(4), masks)], 3).compute()
    with pytest.warns(UserWarning, match="180000 normal pixels have .* 153334 more normal pixels"):
        aupimo(maps[2:], masks[2:])


@pytest.mark.parametrize("upper", [0, -1, 2, math.nan, math.inf])
def test_a_rate_where_curves_end(upper):
    for function in (lambda: pimo(*ten(), upper=upper), lambda: PIMO(upper)):
        with pytest.raises(ValueError, match=r"upper is .*in \(0, 1\]"):
            function()


def test_mixed_sizes_are_refused_by_a_stream_alone():
    run = [
        (np.random.default_rng(size).random((2, size, size)), np.zeros((2, size, size), bool))
        for size in (8, 9)
    ]
    run[0][1][1, 2, 2] = True
    fed(AUPIMO((0.01, 0.5)), run, 1).compute()
    with pytest.raises(ValueError, match="several sizes.*mode='exact'"):
        fed(AUPIMO((0.01, 0.5), mode="streaming"), run, 1).compute()


# ---- given thresholds --------------------------------------------------------------------------


@CALM
@given(st.floats(allow_nan=False), st.lists(st.floats(allow_nan=False), max_size=20), st.data())
def test_the_smallest_score_that_is_decided(threshold, values, data):
    near = [
        np.float32(threshold),
        np.nextafter(np.float32(threshold), np.float32(-np.inf)),
        lowest_decided(threshold),
    ]
    near += [np.nextafter(float(each), end) for each in near for end in (-np.inf, np.inf)]
    scores = np.array([*values, *map(float, near), threshold, np.inf, -np.inf])
    assert ((scores >= lowest_decided(threshold)) == decide(scores, threshold)).all()


def pro_by_definition(run, threshold):
    shares = []
    for maps, masks in run:
        for one, mask in zip(maps, masks, strict=True):
            regions, count = ndimage.label(mask, np.ones((3, 3)))
            shares += [decide(one, threshold)[regions == k + 1].mean() for k in range(count)]
    return np.mean(shares)


@CALM
@given(runs(sizes=2), st.sampled_from([1, 100]), st.booleans(), st.data())
def test_overlap_at_a_given_threshold(run, step, coarse, data):
    values = np.unique(np.concatenate([maps.ravel() for maps, _ in run]))
    choice = data.draw(st.integers(0, len(values) - 1))
    beside = np.nextafter(
        values[choice], data.draw(st.sampled_from([-np.inf, np.inf])), dtype=values.dtype
    )
    threshold = data.draw(
        st.sampled_from(
            [values[choice], float(values[choice]), float(beside), 0.7, 0, np.float64(0.5)]
        )
    )
    expected = pro_by_definition(run, threshold)
    for make, function in ((PRO, pro), (SPRO, None)):
        exact = fed(make(threshold, mode="exact"), run, 100).compute()
        assert math.isclose(exact, expected, abs_tol=1e-12)
        with coarsely() if coarse else coarsely(2**21, 1 / 8192):
            agree(
                exact, fed(make(threshold, mode="streaming"), run, step).compute(), tight=not coarse
            )
        if function:
            one = [run[0]]
            assert math.isclose(
                function(*run[0], threshold), pro_by_definition(one, threshold), abs_tol=1e-12
            )


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "threshold", [0.7, np.float32(0.7), np.float64(0.7), float(np.float32(0.7))]
)
def test_maps_that_are_all_at_the_threshold(precision, threshold):
    maps, masks = (
        np.full((2, 4, 4), 0.7 if precision != np.float16 else 0.75, precision),
        np.zeros((2, 4, 4), bool),
    )
    masks[0, :2] = True
    regions = [Regions(masks[:1], [4]), Regions(masks[:0], [])]
    assert pro(maps, masks, threshold) == spro(maps, regions, threshold) == 1
    for mode in ("exact", "streaming"):
        for metric in (PRO(threshold, mode=mode), SPRO(threshold, mode=mode)):
            metric.update(maps, masks)
            assert metric.compute() == 1


def test_a_threshold_is_a_number():
    maps, masks = np.zeros((1, 2, 2)), np.ones((1, 2, 2))
    for function in (lambda: pro(maps, masks, math.nan), lambda: PRO(math.nan), lambda: SPRO(math.nan),
                     lambda: spro(maps, [Regions(masks, [1])], math.nan)):  # fmt: skip
        with pytest.raises(ValueError, match="threshold is NaN"):
            function()


# ---- the published rule for 3D -----------------------------------------------------------------


def published_for_3d(maps, masks, limit, positions=100):
    "At equal steps in rank of the background: the share of ranks above, and what each region has above that score."
    background = sorted(maps[~masks].tolist())
    regions = []
    for one, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [one[labels == k + 1] for k in range(count)]
    points = [(1.0, 1.0)]
    for i in range(positions):
        rank = int(i * (len(background) - 1) / (positions - 1))
        overlap = [
            sum(score > background[rank] for score in region) / len(region) for region in regions
        ]
        points.append((1 - (rank + 1) / len(background), sum(overlap) / len(overlap)))
    points, total = points[::-1], 0.0
    for (left, low), (right, high) in zip(points, points[1:], strict=False):
        end = min(right, limit)
        if end > left:
            total += (end - left) * (low + low + (high - low) * (end - left) / (right - left)) / 2
    return total / limit


@settings(CALM, max_examples=40)
@given(runs(), st.sampled_from([0.05, 0.3, 1.0]))
def test_mvtec_3d_is_the_published_evaluation(run, limit):
    [(maps, masks)] = run
    expected = published_for_3d(maps, masks, limit)
    assert math.isclose(aupro(maps, masks, limit, "mvtec_3d"), expected, abs_tol=1e-9)
    assert math.isclose(fed(AUPRO(limit, "mvtec_3d"), run, 1).compute(), expected, abs_tol=1e-9)


def test_mvtec_3d_where_most_of_the_background_is_0():
    random = np.random.default_rng(0)
    masks = np.zeros((20, 32, 32), bool)
    masks[10:, 5:15, 5:15] = True
    maps = np.where(random.random(masks.shape) < 0.9 - 0.1 * masks, 0, random.random(masks.shape))
    expected = published_for_3d(maps, masks, 0.3)
    assert math.isclose(aupro(maps, masks, rule="mvtec_3d"), expected, abs_tol=1e-9)
    assert expected < 0.8 * aupro(maps, masks), "ranks count on where scores tie"


# ---- memory, in any order ----------------------------------------------------------------------

ORDERS = {
    "equal": [6] * 60,
    "growing": list(range(1, 40)),
    "shrinking": [40 - i // 2 for i in range(60)],
    "alternating": [20, 1] * 30,
    "one at a time": [1] * 300,
    "one huge first": [300] + [1] * 60,
    "one huge last": [1] * 60 + [300],
}


def streamed(sizes, side=24):
    "Levels, bytes and the largest sum of both that a stream came to, with its value and the exact one."
    metrics = [AUROC, AUPRO, AUPIMO((1e-2, 1e-1))]
    evaluators = {
        mode: Evaluator(metrics, levels=["pixel"], mode=mode) for mode in ("streaming", "exact")
    }
    [kept], random, most, levels = (
        evaluators["streaming"].stores.values(),
        np.random.default_rng(0),
        0,
        0,
    )
    seen = 0
    for size in sizes:
        masks = np.zeros((size, side, side), bool)
        masks[seen % 2 :: 2, 4:9, 4:9] = True
        maps = (random.normal(size=masks.shape) + masks).astype(np.float32)
        seen += size
        for evaluator in evaluators.values():
            evaluator.update(Batch(anomaly_map=maps, gt_mask=masks))
        streams = [getattr(kept, f"stream_{name}") for name in Streams._fields]
        levels = max(levels, *map(len, streams))
        most = max(most, held(kept) + sum(part.nbytes for parts in streams for part in parts))
    values = (evaluator.compute() for evaluator in evaluators.values())
    return levels, most, *values


@pytest.mark.parametrize("order", ORDERS)
def test_memory_in_any_order_of_batches(order):
    piece, side = 2000, 24
    sizes = ORDERS[order]
    with coarsely(piece, 1 / 256):
        levels, most, stream, exact = streamed(sizes, side)
    pieces = sum(sizes) * side**2 / piece
    assert levels <= math.log2(pieces) + 6, "one of each power of two"
    # What waits, and for each of four summaries a few levels of some cells.
    assert most < 8 * piece * 4 + 4 * levels * 40 * 4 * 256
    for name, value in stream.items():
        assert abs(value - exact[name]) <= value.bound + 1e-9, name


@CALM
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_levels_of_any_order(sizes):
    levels, random = [], np.random.default_rng(0)
    for size in sizes:
        levels = summary.absorb(levels, random.random(size))
        weights = [each[-1, summary.FROM_HIGH] for each in levels]
        assert weights == sorted(weights, reverse=True)
        assert len({int(math.log2(weight)) for weight in weights}) == len(weights)
    assert sum(weights) == sum(sizes)


def test_a_wrong_batch_is_refused_as_a_whole():
    maps, masks = ten()
    maps[9, 5, 5] = np.nan
    names = [f"{i}.png" for i in range(10)]
    with coarsely(20_000, 1 / 256):
        kept = Store("streaming")
        with pytest.raises(ValueError, match=r"9\.png"):
            kept.update(maps, masks, names)
        with pytest.raises(ValueError, match="several|There are 3 Regions"):
            Store("streaming", needs=("regions",)).update(
                np.zeros_like(maps), masks, regions=[Regions(masks[:0], [])] * 3
            )
        with pytest.raises(ValueError, match="no scores"):
            kept.compute()


def test_many_small_parts_become_one():
    kept = Store("exact")
    for i in range(1000):
        kept.update(np.full((1, 2, 2), i, np.float32), np.full((1, 2, 2), i % 2 == 0))
    assert max(len(getattr(kept, name)) for name in ("normal", "anomalous", "images")) < 300
    sample = kept.compute()
    assert (
        len(sample.images) == 1000
        and (np.sort(sample.normal) == np.repeat(np.arange(1, 1000, 2), 4)).all()
    )
    assert (sample.anomalous == np.repeat(np.arange(0, 1000, 2), 4)).all()
