"""Pictures: original resolution, one scale, nothing clipped, the same bytes every time."""

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_nb.core.predictions import Predictions
from anomalib_nb.core.types import Batch
from anomalib_nb.visualization.image import (
    COLUMNS,
    ImageVisualizer,
    contour,
    enlarge,
    heat,
    label,
    original,
    outline,
    overlay,
    panel,
    to_scale,
    true_mask,
)

STYLE = {"alpha": 0.7, "contour": True}


def make_run(folder=None, size=(300, 200), **attributes):
    rng, paths = np.random.default_rng(0), []
    for i, kind in enumerate(("good", "crack")):
        path = f"part/test/{kind}/{i}.png"
        if folder is not None:
            (folder / kind).mkdir()
            path = str(folder / kind / f"{i}.png")
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path)
        paths.append(path)
    maps = rng.random((2, 16, 16), np.float32)
    maps[1, 4:8, 4:8] += 2
    batch = {
        "image": rng.random((2, 3, 32, 32), np.float32),
        "image_path": paths,
        "gt_label": np.array([False, True]),
        "gt_mask": maps > 1,
        "anomaly_map": maps,
        "pred_score": maps.max((1, 2)),
    }
    return Predictions.from_batches([batch], images=True, **attributes)


@pytest.mark.parametrize("size", [(256, 256), (300, 200), (2000, 1500), (20, 30)])
def test_tiles_have_the_original_resolution(tmp_path, size):
    run = make_run(tmp_path, size, image_threshold=1.5, pixel_threshold=1.5)
    assert original(run[1]).shape == (*size, 3) and true_mask(run[1], size).shape == size
    picture = ImageVisualizer(columns=("image",))(run[1])
    pixels = np.asarray(picture)
    top = np.flatnonzero((pixels[:, : size[1]] != 255).mean((1, 2)) > 0.9)[0]
    assert np.array_equal(pixels[top : top + size[0], : size[1]], original(run[1]))


def test_a_mask_file_of_original_size_is_taken(tmp_path):
    mask = np.zeros((300, 200), bool)
    mask[7, 9] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    run = make_run(tmp_path)
    item = run[1]
    item.mask_path = str(tmp_path / "mask.png")
    assert np.array_equal(true_mask(item, (300, 200)), mask)


def test_a_colour_means_the_same_in_the_whole_run():
    low, high = np.array([[0.0, 1.0]]), np.array([[1.0, 9.0]])
    scale = (0, 2, 10)
    assert to_scale(low, *scale)[0, 1] == to_scale(high, *scale)[0, 0]
    assert to_scale(np.array([2.0]), *scale) == 0.5
    assert np.array_equal(to_scale(np.array([-99.0, 99.0]), *scale), [0, 1])


@pytest.mark.parametrize(
    "values",
    [np.full((4, 4), 3.0), np.full((4, 4), np.nan), np.array([[np.inf, 0, np.nan, -np.inf]])],
)
def test_odd_maps_still_have_colours(values):
    scaled = to_scale(values)
    assert np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 1
    assert heat(scaled).dtype == np.uint8


def test_brightness_tells_the_value():
    grey = heat(np.linspace(0, 1, 256)[None])[0].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) > -0.5).all() and grey[-1] - grey[0] > 200


def test_where_all_is_well_the_image_is_untouched():
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    assert np.array_equal(overlay(image, np.full((8, 8), 0.3)), image)
    assert np.array_equal(outline(image, np.zeros((8, 8), bool)), image)
    full = overlay(np.full((8, 8, 3), 255, np.uint8), np.ones((8, 8)), alpha=1.0)
    assert np.array_equal(full, heat(np.ones((8, 8))))


def test_the_line_leaves_the_region_visible():
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = mask[0, 0] = True
    for width in (1, 2, 3):
        assert not (contour(mask, width) & mask).any() and contour(mask, width).any()
    image = np.full((900, 900, 3), 90, np.uint8)
    image[400:405, 400:405] = 10
    region = image[..., 0] == 10
    assert (outline(image, region)[region] == 10).all()
    assert (outline(image, region)[400, 396:400] == 255).any()


def test_enlarging_keeps_masks_and_ranges():
    values = np.random.default_rng(0).random((7, 5), np.float32)
    large = enlarge(values, (70, 51))
    assert large.shape == (70, 51) and large.min() >= values.min() and large.max() <= values.max()
    mask = enlarge(values > 0.5, (14, 10))
    assert mask.dtype == bool and np.array_equal(mask[::2, ::2], values > 0.5)


@pytest.mark.parametrize("width", [60, 256, 2000])
def test_text_is_inside_its_line(width):
    line = np.asarray(
        label(
            [("anomalous", (0, 0, 0)), ("x/" * 200 + "Qg", (0, 0, 0))], width, max(11, width // 15)
        )
    )
    inked = np.argwhere((line < 128).any(-1))
    assert inked.size and inked[:, 0].min() > 0 and inked[:, 0].max() < line.shape[0] - 1
    assert inked[:, 1].max() < line.shape[1] - 1


def test_the_same_bytes_every_time(tmp_path):
    run = make_run(image_threshold=1.5, pixel_threshold=1.5)
    show = ImageVisualizer()
    one, two = (show.save(run, tmp_path / name) for name in ("one", "two"))
    assert (
        [p.name for p in one]
        == ["00000_good_0.png", "00001_crack_1.png"]
        == sorted(p.name for p in (tmp_path / "one").iterdir())
    )
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_names_are_safe_and_unique(tmp_path):
    batch = {
        "image_path": ["../../etc/pass wd", "a/部.png", "a/部.png", "", "x" * 300],
        "pred_score": np.zeros(5, np.float32),
    }
    paths = ImageVisualizer(columns=("image",)).save(Predictions.from_batches([batch]), tmp_path)
    assert len(set(paths)) == 5 and all(
        p.parent == tmp_path and p.is_file() and len(p.name.encode()) < 140 for p in paths
    )
    assert "部" in paths[1].name and " " not in paths[0].name


def test_items_of_a_batch_are_drawn_too():
    batch = Batch(
        image=torch.rand(2, 3, 24, 32),
        anomaly_map=torch.rand(2, 24, 32),
        pred_score=torch.tensor([0.2, 0.8]),
        pred_label=torch.tensor([False, True]),
        pred_mask=torch.rand(2, 24, 32) > 0.5,
    )
    show = ImageVisualizer(columns=("image", "overlay"))
    assert show(batch[1]).width >= 64 and show.grid(batch).height > show(batch[0], 160).height / 2


def test_nothing_is_needed_but_a_score():
    item = Predictions.from_batches([{"pred_score": np.float32([3])}])[0]
    assert panel(item, COLUMNS, STYLE).width > 4 * 256


def test_a_grid_of_many_and_of_one():
    run = make_run()
    show = ImageVisualizer()
    assert show.grid(run[:1]).width < show.grid(run).width == show(run).width
    with pytest.raises(ValueError, match="nothing to draw"):
        show.grid(run, n=0)


def test_wrong_arguments_say_what_is_right():
    with pytest.raises(ValueError, match="no column 'overlai'.*Did you mean 'overlay'"):
        ImageVisualizer(columns=("overlai",))
    with pytest.raises(ValueError, match="alpha is 7"):
        ImageVisualizer(alpha=7)
    with pytest.raises(ValueError, match="no columns"):
        ImageVisualizer(columns=())
