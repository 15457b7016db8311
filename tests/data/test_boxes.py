"""Boxes and masks say the same, and the way back leads to the original pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anomalib_nb.core.predictions import Predictions
from anomalib_nb.core.types import Batch
from anomalib_nb.data import (
    DemoData,
    boxes_of,
    boxes_to_map,
    boxes_to_mask,
    mask_to_boxes,
    resized,
    scale_boxes,
    to_original,
)
from anomalib_nb.deploy import Inferencer
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.processing.pre import PreProcessor

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))


@settings(max_examples=100, deadline=None)
@given(mask=shapes.flatmap(lambda size: arrays(bool, size)), seed=st.integers(0, 99))
def test_boxes_of_any_mask(mask, seed):
    heat = np.random.default_rng(seed).random(mask.shape).astype(np.float32)
    corners, scores = mask_to_boxes(mask, heat)
    filled = boxes_to_mask(corners, mask.shape)
    assert not (mask & ~filled).any(), "a pixel of the mask lies in no box"
    assert len(corners) == len(scores) and (corners[:, :2] <= corners[:, 2:]).all()
    for x1, y1, x2, y2 in corners:
        inside = mask[y1 : y2 + 1, x1 : x2 + 1]
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
    assert mask.any() == bool(len(corners))
    if len(scores):
        assert scores.max() == heat[mask].max()
        assert np.array_equal(boxes_to_map(corners, scores, mask.shape) > 0, filled)


@settings(max_examples=100, deadline=None)
@given(
    cells=arrays(bool, (3, 4)),
    inset=st.tuples(*[st.integers(0, 3)] * 2),
    size=st.tuples(*[st.integers(1, 4)] * 2),
)
def test_boxes_that_do_not_touch_survive(cells, inset, size):
    corners = [
        (9 * x + inset[0], 9 * y + inset[1], 9 * x + inset[0] + size[0], 9 * y + inset[1] + size[1])
        for y, x in np.argwhere(cells)
    ]
    again = mask_to_boxes(boxes_to_mask(corners, (27, 36))).corners
    assert sorted(map(tuple, again.tolist())) == sorted(corners)


def test_examples_of_the_fact_sheet():
    mask = np.zeros((8, 8), bool)
    mask[1:3, 2:5] = mask[5, 5] = True
    assert mask_to_boxes(mask).corners.tolist() == [[2, 1, 4, 2], [5, 5, 5, 5]]
    assert boxes_to_mask([[2, 1, 4, 2], [5, 5, 5, 5]], (8, 8)).sum() == 7
    assert mask_to_boxes(torch.zeros(4, 4, dtype=torch.bool)).corners.shape == (0, 4)
    assert boxes_to_map(np.zeros((0, 4), int), [], (3, 3)).sum() == 0
    assert boxes_to_map([[0, 0, 1, 1], [0, 0, 0, 0]], [-2.0, -3.0], (2, 2))[0, 0] == -2


def test_columns_scale_with_the_width():
    "(w, h, w, h): of an image twice as high the columns stay."
    assert scale_boxes([[1, 2, 3, 4]], (10, 20), (20, 20)).tolist() == [[1, 4, 3, 9]]
    assert scale_boxes([[1, 2, 3, 4]], (20, 10), (20, 20)).tolist() == [[2, 2, 7, 4]]


@settings(max_examples=100, deadline=None)
@given(mask=arrays(bool, (9, 7)), height=st.integers(9, 60), width=st.integers(7, 60))
def test_boxes_of_an_enlarged_mask_are_the_enlarged_boxes(mask, height, width):
    enlarged = mask_to_boxes(resized(mask, (height, width))).corners
    scaled = scale_boxes(mask_to_boxes(mask).corners, (9, 7), (height, width))
    assert np.array_equal(enlarged, scaled)


@settings(max_examples=200, deadline=None)
@given(
    original=st.tuples(st.integers(8, 500), st.integers(8, 500)),
    model=st.tuples(st.integers(8, 256), st.integers(8, 256)),
    place=st.tuples(*[st.floats(0, 0.999)] * 4),
)
def test_there_and_back_within_a_pixel(original, model, place):
    "A box that goes to the model's pixels and back is wrong by less than one of the larger pixels."
    (x1, x2), (y1, y2) = sorted(place[:2]), sorted(place[2:])
    height, width = original
    box = [int(x1 * width), int(y1 * height), int(x2 * width), int(y2 * height)]
    back = scale_boxes(scale_boxes([box], original, model), model, original)[0]
    allowed = [max(1, n / m) for n, m in ((width, model[1]), (height, model[0]))] * 2
    assert (np.abs(back - box) <= np.ceil(allowed)).all()
    assert (back[:2] >= 0).all() and back[2] < width and back[3] < height


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_batch_of_images_of_several_sizes(kind):
    batch = Batch(
        image=torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        anomaly_map=torch.arange(512.0).view(2, 16, 16) / 512,
        pred_mask=torch.arange(512).view(2, 16, 16) % 16 > 7,
        pred_score=torch.tensor([0.5, 1.0]),
        info=[{"image_size": (20, 30)}, {"image_size": (40, 10)}],
    )
    items = to_original(batch if kind == "torch" else batch.numpy())
    assert [item.anomaly_map.shape for item in items] == [(20, 30), (40, 10)]
    assert [tuple(item.image.shape) for item in items] == [(3, 20, 30), (3, 40, 10)]
    assert isinstance(items[0].pred_mask, torch.Tensor if kind == "torch" else np.ndarray)
    assert boxes_of(items[0]).corners.tolist() == [[15, 0, 29, 19]]
    assert boxes_of(items[1]).corners.tolist() == [[5, 0, 9, 39]]
    assert to_original(batch[0], size=(5, 6)).anomaly_map.shape == (5, 6)


def test_errors_say_what_to_do():
    item = Batch(pred_score=np.float32(1), anomaly_map=np.zeros((4, 4), np.float32))
    for info in (None, {}, {"image_size": (0, 0)}):
        with pytest.raises(ValueError, match=r"Pass the size: to_original"):
            to_original(item.replace(info=info))
    with pytest.raises(ValueError, match="no pred_mask"):
        boxes_of(item)


def test_every_prediction_finds_its_way_back(tmp_path):
    "Predicted from files, from arrays and by a shipped model: each knows how large its image was."
    data = DemoData("wood", train=4, test=8, size=96)
    model = PatchCore(coreset_sampling_ratio=0.05)
    model.pre = PreProcessor(64)
    engine = Engine(tmp_path, accelerator="cpu", enable_progress_bar=False)
    run = engine.fit(model, data)
    wide = np.random.default_rng(0).integers(0, 256, (50, 120, 3), np.uint8)
    for predictions, size in (
        (engine.predict(model, data), (96, 96)),
        (engine.predict(model, [wide]), (50, 120)),
    ):
        assert isinstance(predictions, Predictions)
        found = to_original(predictions[0])
        assert found.anomaly_map.shape == found.pred_mask.shape == size
        boxes_of(found)
    shipped = to_original(Inferencer(run)([wide, wide[:40]]))
    assert [item.pred_mask.shape for item in shipped] == [(50, 120), (40, 120)]
