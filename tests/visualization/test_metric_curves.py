"""Curves: right by another implementation, the same bytes every time, no network, no global state."""

import re
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from anomalib_nb.core.predictions import Predictions
from anomalib_nb.visualization.metrics import (
    MetricsVisualizer,
    area,
    charts_of,
    count,
    pr_curve,
    roc_curve,
    roc_points,
    score_histogram,
    thin,
)


def make_run(**attributes):
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3 == 0
    maps = rng.random((30, 8, 8), np.float32)
    masks = np.zeros((30, 8, 8), bool)
    masks[labels, :3] = True
    maps += 0.5 * masks
    fields = {
        "gt_label": labels,
        "gt_mask": masks,
        "anomaly_map": maps,
        "pred_score": maps.max((1, 2)),
    }
    return Predictions.from_batches([fields], **attributes)


@pytest.mark.parametrize("seed", range(5))
def test_areas_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(200) < 0.3
    scores = (rng.normal(size=200) + labels).round(seed % 3).astype(np.float32)  # with ties
    assert roc_curve(scores, labels).area == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    curve = pr_curve(scores, labels)
    assert curve.area == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert np.allclose(curve.x, recall[::-1]) and np.allclose(curve.y[1:], precision[::-1][1:])


def test_the_point_is_where_the_decision_puts_it():
    run = make_run(image_threshold=1.3, pixel_threshold=0.9)
    truth, said = run.labels == 1, run.pred_label
    expected = ((said & ~truth).sum() / (~truth).sum(), (said & truth).sum() / truth.sum())
    assert charts_of(run)["roc"].point == pytest.approx(expected)
    masks, maps = np.asarray(run.masks), np.asarray(run.maps) >= np.float32(0.9)
    expected = ((maps & ~masks).sum() / (~masks).sum(), (maps & masks).sum() / masks.sum())
    assert charts_of(run)["pixel_roc"].point == pytest.approx(expected)


def test_a_thinned_curve_looks_the_same():
    rng = np.random.default_rng(0)
    labels = rng.random(100_000) < 0.02
    x, y = roc_points(count(rng.normal(size=100_000) + labels, labels))
    few = thin(x, y)
    assert len(few[0]) < 3000 and abs(area(x, y) - area(*few)) < 2e-3
    assert (few[0][0], few[1][0], few[0][-1], few[1][-1]) == (0, 0, 1, 1)
    assert np.abs(np.interp(x, *few) - y).max() < 0.05


def test_charts_are_those_that_the_run_allows():
    run = make_run()
    assert list(MetricsVisualizer(run).charts) == ["histogram", "roc", "pr", "pixel_roc"]
    scores = {"pred_score": run.scores}
    assert list(charts_of(Predictions.from_batches([scores]))) == ["histogram"]
    assert list(
        charts_of(Predictions.from_batches([scores | {"gt_label": np.zeros(30, bool)}]))
    ) == ["histogram"]
    labelled = Predictions.from_batches([scores | {"gt_label": run.labels == 1}])
    assert list(charts_of(labelled)) == ["histogram", "roc", "pr"]
    assert MetricsVisualizer(labelled).png()[:4] == b"\x89PNG"


def test_odd_scores_are_counted_where_they_can_be():
    values = np.array([np.nan, 2, 2, np.inf], np.float32)
    histogram = score_histogram(Predictions.from_batches([{"pred_score": values}]))
    assert histogram.counts["unknown"].sum() == 2
    MetricsVisualizer(
        Predictions.from_batches([{"pred_score": values, "gt_label": values == 2}])
    ).png()


def test_the_same_bytes_every_time(tmp_path):
    run = make_run(image_threshold=1.3)
    one, two = (MetricsVisualizer(run).save(tmp_path / name) for name in ("one", "two"))
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two] and len(one) == 4


def test_the_interactive_charts_are_drawn_by_bokeh_without_a_server():
    import holoviews as hv
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    show = MetricsVisualizer(make_run(image_threshold=1.3))
    for layout in (show.layout(), show.layout("roc")):
        page = file_html(hv.Store.renderers["bokeh"].get_plot(layout).state, INLINE, "Curves")
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"https?:[^\"]*", page)
        assert "ROC · area" in page or r"ROC \u00b7 area" in page


def test_what_others_have_set_is_left_alone():
    code = """
import sys
import numpy as np
from anomalib_nb.core.predictions import Predictions
from anomalib_nb.visualization import MetricsVisualizer
assert not {"torch", "holoviews", "matplotlib"} & set(sys.modules)
import holoviews
import holoviews.plotting.mpl
holoviews.Store.set_current_backend("matplotlib")
import matplotlib
before = dict(matplotlib.rcParams)
run = Predictions.from_batches([{"pred_score": np.arange(4.0), "gt_label": np.arange(4) > 1}], image_threshold=2.0)
MetricsVisualizer(run).layout(), MetricsVisualizer(run).png()
assert holoviews.Store.current_backend == "matplotlib" and dict(matplotlib.rcParams) == before
assert not holoviews.extension._loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
