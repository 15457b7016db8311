"""A stream is off by no more than it says, and by no more than 1e-3, whatever the scores are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_nb.core import Batch
from anomalib_nb.metrics import (
    AUPIMO,
    AUPR,
    AUPRO,
    AUROC,
    Bounded,
    Evaluator,
    F1Max,
    bounds_at,
    merge,
    summarize,
    summary,
    thin,
)

METRICS = [AUROC, AUPR, AUPR("trapezoid"), F1Max, AUPRO, AUPRO(0.05)]
CALM = settings(derandomize=True, deadline=None, max_examples=40)


def noise(random, masks):
    return random.normal(size=masks.shape)


def one_bin(random, masks):
    return 0.998 + 1e-6 * random.random(masks.shape)


def tiny_gaps(random, masks):
    return 0.5 + 1e-12 * random.permutation(masks.size).reshape(masks.shape)


def outliers(random, masks):
    maps = random.normal(size=masks.shape)
    maps.flat[random.integers(0, maps.size, 200)] *= 1e30
    return maps


def few_values(random, masks):
    return random.integers(0, 3, masks.shape) * 0.5


def constant(random, masks):
    return np.full(masks.shape, 7.0)


def rising(random, masks):
    return np.arange(masks.size, dtype=np.float64).reshape(masks.shape)


def falling(random, masks):
    return -rising(random, masks)


def mixed(random, masks):
    maps = random.normal(size=masks.shape)
    maps[: len(maps) // 2] = 1e-12 * maps[: len(maps) // 2]
    maps[-2:] = np.inf
    return maps


def rare(random, masks):
    masks[:] = False
    masks[1, 3, 3:6] = True
    return random.normal(size=masks.shape) + 3 * masks


HARD = [noise, one_bin, tiny_gaps, outliers, few_values, constant, rising, falling, mixed, rare]


def made_hard(kind, seed=0, count=24, size=72):
    random = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), bool)
    masks[1::2, 10:30, 20:50] = True
    masks[3::4, 60, 60] = True
    maps = kind(random, masks)
    maps = maps + 0.7 * np.where(np.isfinite(maps), maps.std(where=np.isfinite(maps)), 0) * masks
    return maps, masks


def measured(maps, masks, mode, batch):
    evaluator = Evaluator([*METRICS, AUPIMO((1e-3, 1e-1))], levels=["pixel"], mode=mode)
    for start in range(0, len(maps), batch):
        part = slice(start, start + batch)
        evaluator.update(Batch(anomaly_map=maps[part], gt_mask=masks[part]))
    return evaluator.compute()


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("coarse", [False, True])
def test_the_bound_holds(kind, coarse, monkeypatch):
    if coarse:  # pieces and cells so large that much is thinned away
        from anomalib_nb.metrics import store as stores

        for module in (summary, stores):
            monkeypatch.setattr(module, "PIECE", 5000)
        monkeypatch.setattr(summary, "FINENESS", 1 / 64)
        summary.first_ranks.cache_clear()
    maps, masks = made_hard(kind)
    exact, bounded = measured(maps, masks, "exact", 24), measured(maps, masks, "streaming", 3)
    summary.first_ranks.cache_clear()
    for name, value in bounded.items():
        assert isinstance(value, Bounded) and exact.modes == {"pixel": "exact"}
        assert bounded.modes == {"pixel": "streaming"}
        assert abs(value - exact[name]) <= value.bound + 1e-9, name
        if not coarse:
            assert value.bound <= 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", HARD)
def test_the_bound_is_small_for_ten_million_pixels(kind):
    maps, masks = made_hard(kind, count=160, size=256)
    exact, bounded = measured(maps, masks, "exact", 160), measured(maps, masks, "streaming", 16)
    for name, value in bounded.items():
        assert abs(value - exact[name]) <= value.bound + 1e-9 and value.bound <= 1e-3, name


@CALM
@given(st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=40), min_size=1, max_size=5))
def test_merged_and_thinned_bounds_hold_everywhere(parts):
    everything = np.concatenate([np.array(part, float) for part in parts])
    merged = thin(merge([thin(summarize(np.array(part, float)), 300.0) for part in parts]), 300.0)
    x = np.arange(-12, 13) / 2
    low_above, high_above, low, high = bounds_at(merged, x).T
    above, reached = (everything > x[:, None]).sum(1), (everything >= x[:, None]).sum(1)
    assert (low_above <= above).all() and (above <= high_above).all()
    assert (low <= reached).all() and (reached <= high).all()


def test_exact_turns_into_a_stream_when_the_budget_is_spent(monkeypatch):
    monkeypatch.setenv("ANOMALIB_NB__EVALUATION__BUDGET_MB", "1")
    maps, masks = made_hard(noise)
    exact, bounded = measured(maps, masks, "exact", 8), measured(maps, masks, "auto", 4)
    few = measured(maps[:4], masks[:4], "auto", 4)
    assert few.modes == {"pixel": "exact"} and not isinstance(few["pixel_AUROC"], Bounded)
    assert bounded.modes == {"pixel": "streaming"} and "stream" in bounded.notes["pixel_AUROC"]
    for name, value in bounded.items():
        assert abs(value - exact[name]) <= value.bound + 1e-9


def test_memory_does_not_grow_with_the_images(monkeypatch):
    from anomalib_nb.metrics import store as stores
    from anomalib_nb.metrics.store import Streams, held

    for module in (summary, stores):
        monkeypatch.setattr(module, "PIECE", 20_000)
    monkeypatch.setattr(summary, "FINENESS", 1 / 256)
    summary.first_ranks.cache_clear()
    evaluator, sizes = Evaluator([AUROC, AUPRO], levels=["pixel"], mode="streaming"), []
    for seed in range(60):
        maps, masks = made_hard(noise, seed, count=4)
        evaluator.update(Batch(anomaly_map=maps, gt_mask=masks))
        (store,) = evaluator.stores.values()
        streams = [getattr(store, f"stream_{name}") for name in Streams._fields]
        sizes.append(held(store) + sum(part.nbytes for parts in streams for part in parts))
    summary.first_ranks.cache_clear()
    seen = 60 * maps.size * 4
    assert max(sizes[40:]) < seen / 4 and max(sizes[40:]) < 2 * max(sizes[10:20])


def test_only_one_kind_in_a_stream():
    maps, masks = made_hard(noise)
    for fill in (False, True):
        with pytest.warns(UserWarning, match="undefined"):
            results = measured(maps, np.full_like(masks, fill), "streaming", 6)
        assert math.isnan(results["pixel_AUROC"]) and math.isnan(results["pixel_AUPRO"])
