"""Charts of a run: the same from arrays, the point where the decision puts it, on both backends."""

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

from anomalib_nb.core.predictions import Predictions
from anomalib_nb.metrics import Confusion, confusion
from anomalib_nb.visualization import (
    EvaluationVisualizer,
    chart_png,
    confusion_chart,
    confusion_of,
    evaluation_charts,
    evidence,
    f1_chart,
    histogram_chart,
    judged,
    pimo_chart,
    precision_recall_chart,
    pro_chart,
    recall_chart,
    roc_chart,
    span_of,
)

KINDS = ["good", "stain", "good", "scratch", "good"] * 6


def make_run(**attributes):
    rng = np.random.default_rng(0)
    masks = np.zeros((len(KINDS), 16, 16), bool)
    for mask, kind in zip(masks, KINDS):
        mask[:4, 3:8] = kind != "good"
    maps = rng.normal(size=masks.shape).astype(np.float32) + 1.5 * masks.astype(np.float32)
    fields = {"pred_score": maps.max((1, 2)), "anomaly_map": maps, "gt_mask": masks}
    fields |= {"gt_label": masks.any((1, 2)), "info": [{"label": kind} for kind in KINDS]}
    return Predictions.from_batches([fields], **attributes)


def points(chart):
    return [
        tuple(map(float, e.data.iloc[0])) for e in chart if type(e).__name__ == "Scatter" and len(e)
    ]


def test_the_point_is_where_the_decision_puts_it():
    run = make_run(image_threshold=3.1, pixel_threshold=1.4)
    said = confusion(run.pred_label, run.labels == 1)
    assert confusion_of(evidence(run)) == said
    assert points(roc_chart(run)) == [pytest.approx((said.fpr, said.recall))]
    assert points(precision_recall_chart(run)) == [pytest.approx((said.recall, said.precision))]
    assert points(f1_chart(run))[-1] == pytest.approx((3.1, said.dice))
    masks = np.asarray(run.masks)
    pixels = confusion(np.asarray(run.maps) >= np.float32(1.4), masks)
    assert confusion_of(evidence(run, level="pixel")) == Confusion(*pixels)
    overlap = (np.asarray(run.maps)[masks].reshape(12, -1) >= np.float32(1.4)).mean()
    assert points(pro_chart(run)) == [pytest.approx((pixels.fpr, overlap))]


def test_arrays_draw_what_the_run_draws():
    run = make_run(image_threshold=3.1, pixel_threshold=1.4)
    maps, masks = np.asarray(run.maps), np.asarray(run.masks)
    for chart in (roc_chart, precision_recall_chart, f1_chart, confusion_chart):
        assert chart_png(chart(run)) == chart_png(chart(run.scores, run.labels, 3.1))
        assert chart_png(chart(run, level="pixel")) == chart_png(chart(maps, masks, 1.4))
    for chart in (pro_chart, pimo_chart):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 18 images of 16 x 16 are few for PIMO
            assert chart_png(chart(run)) == chart_png(chart(maps, masks, 1.4))
    for chart in (histogram_chart, recall_chart):
        assert chart_png(chart(run)) == chart_png(chart(run.scores, run.labels, 3.1, KINDS))


def test_a_stream_is_drawn_as_its_outermost_curves(monkeypatch):
    run = make_run(image_threshold=3.1, pixel_threshold=1.4)
    exact = evidence(run, level="pixel")
    monkeypatch.setenv("ANOMALIB_NB__EVALUATION__BUDGET_MB", "0")
    stream = evidence(run, level="pixel")
    assert type(stream.gathered).__name__ == "Bounds" and type(exact.gathered).__name__ == "Sample"
    assert confusion_of(stream) == pytest.approx(confusion_of(exact), abs=15)
    assert span_of(stream) == span_of(exact)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for chart in (roc_chart, precision_recall_chart, f1_chart, pro_chart, pimo_chart):
            assert chart_png(chart(stream))[:4] == b"\x89PNG"
    assert len([each for each in roc_chart(stream) if type(each).__name__ == "Curve"]) == 2


def test_charts_are_those_that_the_run_allows():
    scores = {"pred_score": np.arange(6.0)}
    unknown = Predictions.from_batches([scores])
    assert list(evaluation_charts(unknown)) == ["histogram"]
    labels = {"gt_label": np.arange(6) > 3}
    assert "recall" not in evaluation_charts(Predictions.from_batches([scores | labels]))
    decided = evaluation_charts(Predictions.from_batches([scores | labels], image_threshold=2.5))
    assert list(decided) == ["histogram", "recall", "confusion", "roc", "precision_recall", "f1"]
    good = Predictions.from_batches([scores | {"gt_label": np.zeros(6, bool)}], image_threshold=2.5)
    assert list(evaluation_charts(good)) == ["histogram", "recall"]
    for chart in (recall_chart, confusion_chart):
        with pytest.raises(ValueError, match="There is no threshold"):
            chart(Predictions.from_batches([scores | labels]))
    with pytest.raises(ValueError, match="Did you mean"):
        EvaluationVisualizer(good).png("recal")


def test_odd_scores_are_left_out():
    scores = np.array([np.nan, 1, 2, np.inf, 3], np.float32)
    run = Predictions.from_batches(
        [{"pred_score": scores, "gt_label": scores > 2}], image_threshold=2.5
    )
    assert sum(map(len, judged(run)[0].values())) == 3
    assert EvaluationVisualizer(run).png()[:4] == b"\x89PNG"


def test_both_backends_and_the_same_bytes(tmp_path):
    import holoviews as hv
    from bokeh.embed import file_html
    from bokeh.resources import INLINE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        show = EvaluationVisualizer(make_run(image_threshold=3.1, pixel_threshold=1.4))
    assert show.png("pimo") == show.png("pimo")
    assert len(show.save(tmp_path)) == len(show.charts) == 11
    page = file_html(
        hv.Store.renderers["bokeh"].get_plot(show.layout()).state, INLINE, "Evaluation"
    )
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"https?:[^\"]*", page)
    assert "AUPRO" in page and "Recall by type" in page


def test_what_others_have_set_is_left_alone():
    code = """
import numpy as np
import holoviews
import holoviews.plotting.mpl
holoviews.Store.set_current_backend("matplotlib")
import matplotlib
before = dict(matplotlib.rcParams)
from anomalib_nb.core.predictions import Predictions
from anomalib_nb.visualization import EvaluationVisualizer
run = Predictions.from_batches([{"pred_score": np.arange(4.0), "gt_label": np.arange(4) > 1}], image_threshold=2.0)
show = EvaluationVisualizer(run)
show.layout(), show.png()
assert holoviews.Store.current_backend == "matplotlib" and dict(matplotlib.rcParams) == before
assert not holoviews.extension._loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
