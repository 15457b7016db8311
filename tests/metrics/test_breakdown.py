"""Breakdowns: equal to metrics of hand-picked images, lazily read, honest about thresholds."""

import math

import numpy as np
import pytest

from anomalib_nb.core import Predictions
from anomalib_nb.core.predictions import LazyArray
from anomalib_nb.metrics import (
    AUPIMO,
    AUPRO,
    AUROC,
    PIMO,
    Evaluator,
    F1Score,
    PrecisionRecallCurve,
    PROCurve,
    Results,
    ROCCurve,
    aupro,
    auroc,
    batches_of,
    breakdown,
    by_category,
    evaluate,
    groups_of,
    macro,
    precision_recall_curve,
    pro_curve,
    results_warnings,
    roc_curve,
)

KINDS = ["good", "stain", "good", "scratch", "good", "stain", "scratch", "good", "scratch", "good"]


def make_run(seed=0, size=16, kinds=KINDS, **attributes):
    rng = np.random.default_rng(seed)
    masks = np.zeros((len(kinds), size, size), bool)
    for mask, kind in zip(masks, kinds):
        mask[3:7, 2:9] = kind != "good"
    maps = rng.normal(size=masks.shape).astype(np.float32) + masks
    fields = {"pred_score": maps.max((1, 2)), "anomaly_map": maps, "gt_mask": masks}
    fields |= {"gt_label": masks.any((1, 2)), "info": [{"label": kind} for kind in kinds]}
    return Predictions.from_batches([fields], **attributes)


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_each_type_is_judged_against_all_good_images(mode):
    run = make_run()
    found = breakdown(run, [AUROC, AUPRO], mode=mode)
    kinds, maps, masks = np.array(KINDS), np.asarray(run.maps), np.asarray(run.masks)
    for kind in ("stain", "scratch"):
        rows = (kinds == "good") | (kinds == kind)
        expected = {
            "image_AUROC": auroc(run.scores[rows], run.labels[rows]),
            "pixel_AUROC": auroc(maps[rows], masks[rows]),
            "pixel_AUPRO": aupro(maps[rows], masks[rows]),
        }
        assert found.types[kind] == pytest.approx(expected, abs=1e-9 if mode == "exact" else 1e-3)
        assert found.types[kind].images == rows.sum()
    assert found.counts == {"good": 5, "scratch": 3, "stain": 2}
    mean = found.means["pixel_AUPRO"]
    assert mean.mean == pytest.approx(
        np.mean([found.types[k]["pixel_AUPRO"] for k in mean.categories])
    )
    assert found.whole == pytest.approx(evaluate(run, [AUROC, AUPRO], mode=mode), abs=1e-3)


def test_the_table_says_what_it_stands_on():
    run = make_run(image_threshold=2.5, pixel_threshold=1.5, fitted_on="f1 on two of them")
    run.attrs["fitted_images"] = " ".join(run.fingerprints[:2])
    found = breakdown(run, [AUROC, F1Score])
    table = found.to_pandas()
    assert list(table.index) == ["scratch", "stain", "mean over types", "all images"]
    assert list(table.columns[:2]) == ["good", "anomalous"] and "pixel_F1Score" in table
    assert "Optimistic" in found._repr_html_() and "mean over types" in repr(found)
    assert found.whole.optimistic and evaluate(run, [AUROC]).fitted_on == "f1 on two of them"
    assert found.whole.seen == 2 and "fitted on 2 of the 10 images" in repr(evaluate(run, [AUROC]))


def test_maps_are_read_a_few_at_a_time(tmp_path, monkeypatch):
    run = Predictions.load(make_run(size=64).save(tmp_path / "run.zarr"))
    read = LazyArray.__getitem__

    def few(self, key):
        found = read(self, key)
        assert self.name == "gt_mask" or len(found) <= 2 or found.ndim < 3
        return found

    monkeypatch.setattr(LazyArray, "__getitem__", few)
    monkeypatch.setattr(batches_of, "__defaults__", (2 * 64 * 64, True))
    assert evaluate(run, [AUROC]) == evaluate(make_run(size=64), [AUROC])


def test_images_of_unknown_truth_are_left_out():
    scores = np.array([0.1, 0.9, 0.5], np.float32)
    known = Predictions.from_batches(
        [{"pred_score": scores[:2], "gt_label": np.array([False, True])}]
    )
    run = Predictions.from_batches(
        [{"pred_score": scores, "gt_label": np.array([0, 1, -1], np.int8)}]
    )
    assert evaluate(run, [AUROC]) == evaluate(known, [AUROC]) and evaluate(run, [AUROC]).images == 2
    assert list(groups_of(run)[1]) == ["unnamed"]
    with pytest.raises(ValueError, match="words for 3 images"):
        groups_of(run, by=["a"])


def test_degenerate_runs_are_answers():
    good = breakdown(make_run(kinds=["good"] * 4), [AUROC])
    assert good.types == {} and math.isnan(good.whole["image_AUROC"]) and len(good.to_pandas()) == 1
    with pytest.warns(UserWarning, match="undefined"):
        bad = breakdown(make_run(kinds=["stain"] * 4), [AUROC])
        assert math.isnan(bad.means["image_AUROC"].mean)
    assert "nan" in repr(bad)
    unlabelled = Predictions.from_batches([{"pred_score": np.arange(3.0)}])
    assert evaluate(unlabelled, [AUROC]) == {} and "all images" in repr(
        breakdown(unlabelled, [AUROC])
    )


def test_categories_average_seeds_first():
    runs = {"tile": [make_run(0), make_run(1)], "wood": [make_run(2), make_run(3)]}
    found = by_category(runs, [AUROC])
    values = {
        name: [float(evaluate(run, [AUROC])["pixel_AUROC"]) for run in each]
        for name, each in runs.items()
    }
    assert found.metrics["pixel_AUROC"] == macro(values)
    assert found.images == {"tile": 20, "wood": 20}
    single = by_category({"tile": make_run(0)}, [AUROC], of_types=True)
    assert single.metrics["image_AUROC"].mean == pytest.approx(
        breakdown(make_run(0), [AUROC]).means["image_AUROC"].mean
    )
    assert list(single.to_pandas().index) == ["tile", "mean"] and "types" in single._repr_html_()


# ---- curves as metrics ------------------------------------------------------------------------


def test_curves_are_metrics_of_their_own():
    run = make_run()
    maps, masks = np.asarray(run.maps), np.asarray(run.masks)
    for kind, function in (
        (ROCCurve, roc_curve),
        (PrecisionRecallCurve, precision_recall_curve),
        (PROCurve, pro_curve),
    ):
        metric = kind()
        for i in range(len(maps)):
            metric.update(maps[i : i + 1], masks[i : i + 1])
        assert all(map(np.array_equal, metric.compute(), function(maps, masks)))
        with pytest.raises(ValueError, match=f"{kind.__name__} is a curve"):
            Evaluator([AUROC, kind])
        empty = kind(mode="streaming")
        empty.update(maps[:1], np.zeros_like(masks[:1]))
        with pytest.warns(UserWarning, match="undefined"):
            assert all(np.isnan(each).all() for curve in empty.compute() for each in curve)


def test_streams_hold_the_curve_between_two():
    rng = np.random.default_rng(0)
    labels = rng.random(300_000) < 0.05
    scores = (rng.normal(size=300_000) + 2 * labels).astype(np.float32)
    metric = ROCCurve(mode="streaming")
    for part in np.array_split(np.arange(300_000), 30):
        metric.update(scores[part], labels[part])
    worst, best = metric.compute()
    fpr, tpr, _ = roc_curve(scores, labels)
    for at in (1e-3, 0.01, 0.1, 0.5):
        low, high = (np.interp(at, *curve[:2]) for curve in (worst, best))
        assert low <= np.interp(at, fpr, tpr) + 1e-9 and np.interp(at, fpr, tpr) <= high + 1e-9
        assert high - low < 5e-3


def test_pimo_curves_need_both_kinds_of_images():
    run = make_run(size=32)
    maps, masks = np.asarray(run.maps), np.asarray(run.masks)
    whole, stream = PIMO(0.1), PIMO(0.1, mode="streaming")
    for metric in (whole, stream):
        metric.update(maps, masks)
    exact, (worst, best) = whole.compute(), stream.compute()
    assert exact.images.tolist() == worst.images.tolist() == [1, 3, 5, 6, 8]
    assert (worst.tpr <= best.tpr).all() and (worst.fpr >= best.fpr).all()
    for mode in ("exact", "streaming"):
        metric = PIMO(mode=mode)
        metric.update(maps, masks * 0)
        with pytest.warns(UserWarning, match="undefined"):
            metric.compute()
    assert AUPIMO.scalar and not PIMO.scalar


def test_copies_among_the_test_images_mark_the_table():
    results = Results({"image_AUROC": 1.0}, images=10, leaks=3)
    assert "3 of 10 images are copies" in results_warnings(results)[0]
    assert "copies" in results._repr_html_() and results.facts()["leaks"] == 3
    assert results_warnings(Results({})) == []
