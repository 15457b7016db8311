"""Overlap and confusion against scikit-learn, MEBin against labelling each level."""

import math
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
    Confusion,
    Dice,
    Evaluator,
    IoU,
    MEBin,
    Span,
    confusion,
    count_parts,
    dice,
    dice_per_image,
    eroded,
    f1_score,
    iou,
    iou_per_image,
    mebin,
    quiet_level,
    span,
    steps_of,
    to_levels,
)

CALM = settings(derandomize=True, deadline=None, max_examples=50)


@st.composite
def mask_pairs(draw):
    "Small masks, predicted and true; empty ones are common."
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    shares = [draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in range(2)]
    return tuple(random.random(shape) < share for share in shares)


# ---- counts and overlap --------------------------------------------------------------------------


@CALM
@given(mask_pairs())
def test_counts_are_those_of_scikit_learn(pair):
    said, true = pair
    (tn, fp), (fn, tp) = sklearn.confusion_matrix(true.ravel(), said.ravel(), labels=[0, 1])
    found = confusion(said, torch.tensor(true))
    assert found == Confusion(tp, fp, fn, tn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shares = found.precision, found.recall, found.accuracy
        expected = (
            sklearn.precision_score(true.ravel(), said.ravel(), zero_division=math.nan),
            sklearn.recall_score(true.ravel(), said.ravel(), zero_division=math.nan),
            sklearn.accuracy_score(true.ravel(), said.ravel()),
        )
    np.testing.assert_allclose(shares, expected)


@CALM
@given(mask_pairs())
def test_overlap_is_that_of_scikit_learn(pair):
    said, true = pair
    if not (said | true).any():
        with pytest.warns(UserWarning, match="undefined"):
            assert math.isnan(iou(said, true))
        with pytest.warns(UserWarning, match="undefined"):
            assert math.isnan(dice(said, true))
        return
    assert iou(said, true) == pytest.approx(sklearn.jaccard_score(true.ravel(), said.ravel()))
    assert dice(said, true) == pytest.approx(sklearn.f1_score(true.ravel(), said.ravel()))
    assert dice(said, true) == f1_score(said, true)


@CALM
@given(mask_pairs())
def test_images_are_judged_one_by_one(pair):
    said, true = pair
    for a, b, u, d in zip(said, true, iou_per_image(said, true), dice_per_image(said, true)):
        if (a | b).any():
            assert (u, d) == (
                (a & b).sum() / (a | b).sum(),
                2 * (a & b).sum() / (a.sum() + b.sum()),
            )
        else:
            assert math.isnan(u) and math.isnan(d)


@CALM
@given(mask_pairs(), st.integers(0, 4))
def test_parts_give_what_the_whole_gives(pair, cut):
    said, true = pair
    if not (said | true).any():
        return
    for metric, function in ((IoU(), iou), (Dice(), dice)):
        for part in (slice(cut, None), slice(0, cut)):
            if len(said[part]):
                metric.update(torch.tensor(said[part]), true[part])
        assert metric.compute() == function(said, true)


def test_an_evaluator_judges_masks_at_the_pixel_level():
    random = np.random.default_rng(0)
    said, true = (random.random((4, 5, 5)) < 0.4 for _ in range(2))
    evaluator = Evaluator([IoU, "dice"])
    evaluator.update(
        Batch(pred_mask=said, gt_mask=true, pred_label=said.any((1, 2)), gt_label=true.any((1, 2)))
    )
    assert evaluator.compute() == {"pixel_IoU": iou(said, true), "pixel_Dice": dice(said, true)}


def test_counts_show_themselves():
    html = Confusion(2, 1, 0, 4)._repr_html_()
    assert html.startswith("<table>") and "<td>2</td><td>0</td>" in html and "recall 1" in html
    assert "precision nan" in Confusion(0, 0, 1, 4)._repr_html_()


@pytest.mark.parametrize("function", [confusion, iou, dice, iou_per_image, dice_per_image])
def test_what_is_no_pair_of_masks(function):
    with pytest.raises(ValueError, match="Expected one shape"):
        function(np.zeros((1, 2, 2)), np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="0.5"):
        function(np.full((1, 2, 2), 0.5), np.zeros((1, 2, 2)))


# ---- MEBin ---------------------------------------------------------------------------------------


def labelled(maps, ends=None, side=6):
    "MEBin level by level: cut, erode, label."
    peaks = maps.max((1, 2))
    low, high = ends or (maps.min() if peaks.min() == peaks.max() else peaks.min(), peaks.max())
    found = []
    for each in maps.astype(np.float64):
        levels = np.clip((each - low) / (high - low) * 255, 0, 255)
        cuts = [levels > 255 - 4 * i for i in range(64)]
        cuts = [ndimage.binary_erosion(c, np.ones((side, side)), border_value=1) for c in cuts]
        level, _ = quiet_level([ndimage.label(c, np.ones((3, 3)))[1] for c in cuts])
        found.append(each > np.float32(level / 255 * (high - low) + low))
    return np.array(found)


@CALM
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([0.0, 1.0, 3.0]))
def test_masks_are_those_of_labelling_each_level(seed, count, smooth):
    maps = np.random.default_rng(seed).normal(size=(count, 17, 23))
    maps = ndimage.gaussian_filter(maps, (0, smooth, smooth)).astype(np.float32)
    for side in (1, 3, 6):
        masks, thresholds = mebin(maps, erode=side)
        assert (masks == labelled(maps, side=side)).all()
        assert (masks == (maps >= thresholds[:, None, None])).all()


@CALM
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 12), st.integers(2, 64))
def test_parts_are_counted_at_every_cut(seed, height, width, kinds):
    levels = np.random.default_rng(seed).integers(0, kinds, (height, width)) * (255 / (kinds - 1))
    expected = [ndimage.label(levels > 255 - 4 * i, np.ones((3, 3)))[1] for i in range(64)]
    assert count_parts(steps_of(levels)).tolist() == expected


def test_the_quiet_stretch_of_the_reference():
    assert quiet_level([0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 1]) == (215, 2)
    assert quiet_level([0, 1, 2, 3]) == (255, 0)
    assert quiet_level([1, 1, 1, 1, 2, 2, 2, 2]) == (243, 1)
    assert quiet_level([0] * 64) == (255, 0)
    assert quiet_level([1] * 4 + [2] * 5 + [1] * 5) == (255 - 4 * 13, 1)  # 1 was found first


def test_erosion_stops_at_the_border():
    levels = np.full((7, 9), 10.0)
    assert (eroded(levels) == 10).all()
    levels[3, 4] = 0
    gone = np.argwhere(eroded(levels) == 0)
    assert gone.min(0).tolist() == [1, 2] and gone.max(0).tolist() == [6, 7]


def test_constant_maps_have_no_outline():
    masks, thresholds = mebin(np.full((2, 4, 4), 3.0))
    assert not masks.any() and (thresholds > 3).all()
    assert span(np.full((1, 2, 2), 3.0)) == Span(3, 3)


def test_the_smallest_peak_of_a_set_stays_empty():
    random = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(random.normal(size=(4, 40, 40)), (0, 2, 2))
    masks, _ = mebin(maps)
    assert not masks[maps.max((1, 2)).argmin()].any()
    assert (to_levels(maps, span(maps))[maps.max((1, 2)).argmin()] == 0).all()


def test_gathered_ends_make_masks_independent_of_their_company():
    random = np.random.default_rng(0)
    maps = ndimage.gaussian_filter(random.normal(size=(9, 30, 30)), (0, 2, 2)).astype(np.float32)
    metric = MEBin(erode=3)
    for part in np.array_split(maps[:6], 3):
        metric.update(torch.tensor(part))
    assert metric.compute() == span(maps[:6])
    whole, _ = metric.masks(maps)
    for i in range(9):
        assert (metric.masks(maps[i : i + 1])[0][0] == whole[i]).all()
    assert (whole[:6] == mebin(maps[:6], erode=3)[0]).all()


@pytest.mark.parametrize("arguments", [{"erode": 0}, {"step": 0}, {"stable": -1}])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        mebin(np.zeros((1, 2, 2)), **arguments)


def test_wrong_maps():
    with pytest.raises(ValueError, match=r"Expected \(N, H, W\)"):
        mebin(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="NaN, in number 1"):
        mebin(np.array([[[0.0]], [[math.nan]]]))
    with pytest.raises(ValueError, match="NaN"):
        MEBin().update(np.array([[[math.nan]]]))
