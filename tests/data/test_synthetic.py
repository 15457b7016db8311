"""Made defects keep their promises on any image, for any seed."""

import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_nb.data import ImageFiles, draw_image
from anomalib_nb.processing import (
    VISIBLE,
    Perlin,
    SyntheticDefect,
    as_last_resort,
    get_defect,
    list_defects,
    poisson_blend,
    settle,
)

NAMES = list_defects()


def picture(height: int, width: int, kind: str) -> np.ndarray:
    "An image of a size: drawn, random, black or white."
    if kind == "drawn":
        return np.ascontiguousarray(
            draw_image("demo/tile/train/good/000.png", max(height, width), 0)[:height, :width]
        )
    if kind == "random":
        return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.full((height, width, 3), {"black": 0, "white": 255}[kind], np.uint8)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    kind=st.sampled_from(["drawn", "random", "black", "white"]),
    seed=st.integers(0, 2**32),
)
def test_promises(name, height, width, kind, seed):
    good = picture(height, width, kind)
    before = good.copy()
    damaged, mask = get_defect(name)(good, seed)
    assert np.array_equal(good, before), "the image that was given has changed"
    assert damaged.shape == good.shape and damaged.dtype == np.uint8
    assert mask.shape == good.shape[:2] and mask.dtype == bool and mask.any()
    assert np.array_equal(damaged[~mask], good[~mask])
    change = np.abs(damaged.astype(int) - good).max(-1)
    assert (change[mask] >= VISIBLE).mean() > 0.04  # nowhere farther than two pixels from a change
    again, same = get_defect(name)(good, seed)
    assert np.array_equal(damaged, again) and np.array_equal(mask, same)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_differ(name):
    good = picture(96, 96, "drawn")
    assert len({get_defect(name)(good, seed)[0].tobytes() for seed in range(10)}) > 5


LARGEST = {"CutPaste": 0.18, "CutPasteScar": 0.05, "NSA": 0.5, "Perlin": 0.9}  # of the image; pens: a fifth


@pytest.mark.parametrize("kind", ["drawn", "black", "white"])
@pytest.mark.parametrize("size", [16, 17, 20, 24, 31, 48, 63, 64, 128, 512])
@pytest.mark.parametrize("name", NAMES)
def test_defects_of_any_size_are_small_and_vary(name, size, kind):
    good, count = picture(size, size + size // 3, kind), 24 if size < 128 else 4
    masks = [get_defect(name)(good, seed)[1] for seed in range(count)]
    assert all(mask.any() and mask.mean() <= LARGEST.get(name, 0.2) for mask in masks)
    assert len({mask.tobytes() for mask in masks}) >= 0.75 * count
    assert np.any(masks, 0).sum() > 2 * np.mean([mask.sum() for mask in masks])  # in other places


@pytest.mark.parametrize("name", ["Scratches", "Spots", "Stains"])
@pytest.mark.parametrize("size", [16, 20, 24])
def test_pens_reach_all_sides_of_small_images(name, size):
    good = picture(size, size, "drawn")
    masks = np.array([get_defect(name)(good, seed)[1] for seed in range(150)])
    assert masks.mean((1, 2)).max() <= 0.2 and masks.mean() < 0.1
    half = size // 2
    for part in (masks[:, :half], masks[:, half:], masks[:, :, :half], masks[:, :, half:]):
        assert part.any((1, 2)).mean() > 0.3
    assert masks.any(0).mean() > 0.3


# What the pens drew on images of 64 pixels and more before small ones were taken care of.
DRAWN = {"Scratches": "7c5683fc8915", "Spots": "86a33e34b370", "Stains": "57aa0f514b06"}


@pytest.mark.parametrize("name", DRAWN)
def test_defects_of_usual_size_stay_what_they_were(name):
    good = picture(64, 80, "random")
    made = b"".join(get_defect(name)(good, seed)[1].tobytes() for seed in range(5))
    assert hashlib.sha256(made).hexdigest()[:12] == DRAWN[name]


def test_what_cannot_be_seen_takes_another_brightness_in_another_place():
    black = np.zeros((100, 100, 3), np.uint8)
    masks = [get_defect("stains")(black, seed)[1] for seed in range(10)]
    assert len({mask.tobytes() for mask in masks}) == 10 and max(mask.mean() for mask in masks) < 0.1
    places = [as_last_resort(np.random.default_rng(i), black, np.zeros((100, 100), bool))[1] for i in range(10)]
    assert len({mask.tobytes() for mask in places}) == 10
    assert all(0.005 < mask.mean() <= 0.1 for mask in places)


def test_global_generators_are_left_alone_and_do_not_matter():
    good = picture(64, 64, "drawn")
    outcomes = []
    for start in (0, 1):
        random.seed(start), np.random.seed(start), torch.manual_seed(start)
        before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
        outcomes.append([get_defect(name)(good, 3)[0].tobytes() for name in NAMES])
        assert random.getstate() == before[0] and np.random.get_state()[1].tobytes() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
    assert outcomes[0] == outcomes[1]


def test_another_process_makes_the_same():
    code = (
        "import hashlib; from anomalib_nb.data import draw_image;"
        "from anomalib_nb.processing import get_defect, list_defects;"
        "good = draw_image('demo/metal/train/good/000.png', 64, 0);"
        "print(hashlib.sha256(b''.join(get_defect(n)(good, 5)[0].tobytes() for n in list_defects())).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(runs) == 1 and len(runs.pop().strip()) == 64


@pytest.mark.parametrize("name", NAMES)
def test_batch(name):
    images = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    damaged, masks = get_defect(name).batch(images, seed=1)
    assert damaged.shape == images.shape and damaged.dtype == images.dtype
    assert masks.shape == (2, 40, 48) and masks.dtype == torch.bool and masks.any((1, 2)).all()
    outside = ~masks[:, None].expand_as(images)
    assert (
        torch.equal(damaged[outside], images[outside]) and 0 <= damaged.min() <= damaged.max() <= 1
    )
    twin = (images[1].permute(1, 2, 0) * 255).round().byte().numpy()
    assert np.array_equal(get_defect(name)(twin, (1, 1))[1], masks[1].numpy())


@pytest.mark.parametrize(("name", "argument"), [("Perlin", "textures"), ("NSA", "source")])
def test_pictures_of_a_folder(name, argument, tmp_path):
    (tmp_path / "deep").mkdir()
    red = np.zeros((20, 30, 3), np.uint8)
    red[::2] = (255, 0, 0)
    Image.fromarray(red).save(tmp_path / "deep" / "red.png")
    good = picture(64, 64, "drawn")
    with_folder = get_defect(name, **{argument: ImageFiles(tmp_path)})
    with_list = get_defect(name, **{argument: [red]})
    assert not np.array_equal(with_folder(good, 0)[0], get_defect(name)(good, 0)[0])
    assert np.array_equal(with_folder(good, 0)[0], with_list(good, 0)[0])
    assert argument in repr(with_folder) and len(repr(with_list)) < 200
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageFiles(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no pictures"):
        ImageFiles(tmp_path / "empty")
    for nothing in ([], tmp_path, str(tmp_path)):
        with pytest.raises(ValueError, match="holds no pictures.*ImageFiles"):
            get_defect(name, **{argument: nothing})


def test_the_makers_are_found_in_their_package_and_load_no_data_set():
    assert issubclass(Perlin, SyntheticDefect) and type(get_defect("PERLIN")) is Perlin
    assert {"CutPaste", "CutPasteScar", "NSA", "Perlin", "Scratches", "Spots", "Stains"} <= set(
        NAMES
    )
    code = (
        "import sys; sys.modules['anomalib_nb.data'] = None;"
        "from anomalib_nb.processing import get_defect, list_defects;"
        "print(len([get_defect(name) for name in list_defects()]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == len(NAMES)


def test_what_is_too_faint_is_undone():
    good = np.full((20, 20, 3), 100, np.uint8)
    shape = np.ones((20, 20), bool)
    assert np.array_equal(settle(good, good + (VISIBLE - 1.0), shape)[0], good)
    assert not settle(good, good + (VISIBLE - 1.0), shape)[1].any()
    assert settle(good, good + float(VISIBLE), shape)[1].all()
    faint, mask = get_defect("perlin", blend=(0.03, 0.06))(picture(128, 128, "drawn"), 0)
    strong_mask = get_defect("perlin", blend=(1, 1))(picture(128, 128, "drawn"), 0)[1]
    assert 0 < mask.sum() < strong_mask.sum()


def test_perlin_marks_a_sensible_share():
    good = picture(64, 64, "drawn")
    shares = [get_defect("perlin")(good, seed)[1].mean() for seed in range(60)]
    assert 0.02 < np.mean(shares) < 0.35


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    mixed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_blend_keeps_its_border_and_its_own_patch(height, width, mixed, seed):
    rng = np.random.default_rng(seed)
    below, patch = rng.uniform(0, 255, (2, height, width, 3)).astype(np.float32)
    blend = poisson_blend(below, patch, mixed)
    border = np.ones((height, width), bool)
    border[1:-1, 1:-1] = False
    assert np.array_equal(blend[border], below[border])
    assert np.allclose(poisson_blend(below, below + 30, mixed), below, atol=0.01)


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="Did you mean.*Perlin"):
        get_defect("perln")
    for wrong in (
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 3)),
        np.zeros((8, 64, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match=r"Expected \(H, W, 3\) uint8"):
            get_defect("spots")(wrong)
    for name, arguments in [
        ("perlin", {"blend": (0, 1)}),
        ("cutpaste", {"area": (0.2, 0.1)}),
        ("nsa", {"patches": 0}),
    ]:
        with pytest.raises(ValueError, match="Expected"):
            get_defect(name, **arguments)
