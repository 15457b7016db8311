"""How often intervals hold the truth and tests call equal models different, in drawn test sets."""

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from anomalib_nb.metrics import bootstrap_pixels, delong, delong_test

SIZES = [(5, 100), (10, 100), (5, 5), (20, 20), (50, 50), (100, 5)]
AREAS = (0.6, 0.8, 0.9, 0.97)
SHAPES = ("bell", "wide defects", "narrow defects", "heavy tails", "integers", "some unseen")
SPREAD = {"wide defects": 3.0, "narrow defects": 1 / 3}
QUICK, LONG = 60, 2000


def tailed(area):
    "The shift of Student's t of three degrees that gives an area; its difference, simulated once."
    random = np.random.default_rng(1)
    return float(np.quantile(random.standard_t(3, 400_000) - random.standard_t(3, 400_000), area))


def detector(shape, area):
    "A function from random numbers and sizes to scores of defects and of good parts; its AUROC."
    spread = SPREAD.get(shape, 1.0)
    shift = tailed(area) if shape == "heavy tails" else ndtri(area) * math.hypot(1, spread)
    if shape == "some unseen":  # three in ten look like good parts, the others do not
        shift, area = 5.0, 0.7 * ndtr(5 / math.sqrt(2)) + 0.3 * 0.5
    if shape == "integers":
        k = np.arange(-14, 18)
        good, bad = (ndtr(k + 0.5 - at) - ndtr(k - 0.5 - at) for at in (0, shift))
        area = bad @ (np.cumsum(good) - good / 2)

    def scores(random, anomalous, normal):
        if shape == "heavy tails":
            return random.standard_t(3, anomalous) + shift, random.standard_t(3, normal)
        seen = random.random(anomalous) < 0.7 if shape == "some unseen" else 1
        bad, good = spread * random.normal(size=anomalous) + shift * seen, random.normal(size=normal)
        return (np.rint(bad), np.rint(good)) if shape == "integers" else (bad, good)

    return scores, float(area)


def held(shape, area, sizes, runs, level=0.95):
    "The share of intervals that hold the truth."
    scores, true = detector(shape, area)
    labels, random = np.repeat([1, 0], sizes), np.random.default_rng([*sizes, int(100 * area)])
    return np.mean([true in delong(np.concatenate(scores(random, *sizes)), labels, level) for _ in range(runs)])


def least(promised, runs):
    "What a share of runs may be if the promise is kept, but for chance: once in ten thousand."
    return promised - 3.7 * math.sqrt(promised * (1 - promised) / runs)


@pytest.mark.parametrize("sizes", [(5, 100), (20, 20)])
@pytest.mark.parametrize("shape", ["bell", "wide defects", "integers"])
def test_intervals_hold_in_few_test_sets(shape, sizes):
    assert held(shape, 0.9, sizes, 4 * QUICK) >= least(0.93, 4 * QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_hold(shape, sizes):
    rates = {area: held(shape, area, sizes, LONG) for area in AREAS}
    assert min(rates.values()) >= least(0.93, LONG), rates


@pytest.mark.slow
@pytest.mark.parametrize(("level", "lowest"), [(0.8, 0.7), (0.9, 0.87), (0.99, 0.98)])
def test_intervals_hold_at_other_levels(level, lowest):
    for sizes in SIZES:
        for shape in ("bell", "wide defects"):
            rate = held(shape, 0.9, sizes, LONG, level)
            assert rate >= least(lowest, LONG), (sizes, shape, rate)


def alarms(shape, area, common, sizes, runs):
    "The share of pairs of equal models that are called different at 5 %."
    labels, random = np.repeat([1, 0], sizes), np.random.default_rng([*sizes, int(100 * common)])
    found = []
    for _ in range(runs):
        same = [random.normal(size=count) for count in sizes]

        def judged(shift, spread):
            own = [random.normal(size=count) for count in sizes]
            bad, good = (math.sqrt(common) * a + math.sqrt(1 - common) * b for a, b in zip(same, own))
            return np.concatenate([spread * bad + shift, good])

        spread = SPREAD.get(shape, 1.0)
        pair = judged(ndtri(area) * math.sqrt(2), 1), judged(ndtri(area) * math.hypot(1, spread), spread)
        pair = [np.rint(1.5 * each) for each in pair] if shape == "integers" else pair
        found.append(delong_test(*pair, labels).p < 0.05)
    return np.mean(found)


def most(promised, runs):
    "What a share of alarms may be, but for chance."
    return promised + 3.7 * math.sqrt(promised * (1 - promised) / runs)


@pytest.mark.parametrize("sizes", [(5, 100), (20, 20)])
def test_equal_models_are_rarely_called_different_in_few_test_sets(sizes):
    assert alarms("bell", 0.8, 0.5, sizes, 3 * QUICK) <= most(0.05, 3 * QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [*SIZES, (30, 200)], ids=str)
@pytest.mark.parametrize("shape", ["bell", "integers", "wide defects"])
def test_equal_models_are_rarely_called_different(shape, sizes):
    rates = {(area, common): alarms(shape, area, common, sizes, LONG)
             for area in (0.6, 0.8, 0.95) for common in (0, 0.5, 0.9)}  # fmt: skip
    assert max(rates.values()) <= most(0.06, LONG), rates


def test_a_difference_is_still_found():
    random, labels, found = np.random.default_rng(0), np.repeat([1, 0], 50), []
    for _ in range(QUICK):
        common = random.normal(size=100)
        pair = [common + random.normal(size=100) + shift * labels for shift in (2.5, 1.0)]
        found.append(delong_test(*pair, labels).p < 0.05)
    assert np.mean(found) > 0.9


def parts(random, anomalous, normal):
    "Small maps whose defects are seen better or worse as a whole."
    masks = np.zeros((normal + anomalous, 12, 12), bool)
    masks[normal:, 3:6, 2:9] = True
    seen = random.gamma(3, 0.8, (len(masks), 1, 1)) * masks
    return (random.normal(size=masks.shape) + 0.5 * random.normal(size=(len(masks), 1, 1)) + seen), masks


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "lowest"), [("AUROC", 0.9), ("AUPR", 0.92), ("AUPRO", 0.92)])
def test_expanded_intervals_of_pixels_hold_about_nine_times_in_ten(metric, lowest):
    true = bootstrap_pixels(*parts(np.random.default_rng(5), 1500, 1500), metric, B=2).value
    for count, promised in ((10, lowest - 0.03), (30, lowest)):
        runs = [parts(np.random.default_rng([count, i]), count, count) for i in range(300)]
        rate = np.mean([true in bootstrap_pixels(*run, metric, B=300, K=256) for run in runs])
        assert rate >= least(promised, 300), (count, rate)
