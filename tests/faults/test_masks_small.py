"""A defect never vanishes on the way from its mask's file to the model's pixels."""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from anomalib_nb.core.types import Batch
from anomalib_nb.data import AnomalibDataModule, Folder, get_datamodule
from anomalib_nb.data.boxes import resized
from anomalib_nb.data.clips import read_frame_mask
from anomalib_nb.data.datamodule import to_size
from anomalib_nb.data.images import nearest, read_header, read_image, read_mask
from anomalib_nb.data.layouts import read_union

sys.path.append(str(Path(__file__).parents[1] / "data"))
from trees import TREES, paint  # noqa: E402

SMALL = (256, 256)


def dents(count: int = 12, shape=(1536, 2048), side: int = 4, seed: int = 0) -> list[np.ndarray]:
    "One mask each, with a small square."
    rng, masks = np.random.default_rng(seed), []
    for _ in range(count):
        mask = np.zeros(shape, bool)
        y, x = (rng.integers(0, length - side) for length in shape)
        mask[y : y + side, x : x + side] = True
        masks.append(mask)
    return masks


def sampled_only(mask: torch.Tensor, size) -> torch.Tensor:
    return F.interpolate(mask[None, None].float(), size=size, mode="nearest-exact")[0, 0] > 0


# ---- the rule


def test_no_square_of_the_issue_vanishes():
    masks = torch.from_numpy(np.stack(dents()))
    lost = [not sampled_only(mask, SMALL).any() for mask in masks]
    assert sum(lost) >= 8  # without the rule
    small = nearest(masks, SMALL)
    assert small.flatten(1).sum(1).tolist() == [1 if gone else int(sampled_only(mask, SMALL).sum())
                                                for gone, mask in zip(lost, masks)]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_every_region_is_met_and_larger_ones_keep_their_pixels(seed):
    rng = np.random.default_rng(seed)
    (h, w), size = rng.integers(1, 90, 2), tuple(int(n) for n in rng.integers(1, 60, 2))
    mask = rng.random((h, w)) < rng.choice([0.002, 0.02, 0.2])
    small, plain = nearest(torch.from_numpy(mask), size), sampled_only(torch.from_numpy(mask), size)
    assert not (plain & ~small).any()
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, (h, w)))
    met = set(parts[np.ix_(rows, columns)].ravel())
    added = (small & ~plain).sum()
    lost = [part for part in range(1, count + 1) if part not in met]
    assert added <= len(lost)
    for part in lost:  # its pixel lies where it does
        place = [slice(at.min() * new // old, -(-(at.max() + 1) * new // old))
                 for at, new, old in zip(np.nonzero(parts == part), size, (h, w))]  # fmt: skip
        assert small[tuple(place)].any()


def test_it_is_fast_where_nothing_vanishes():
    empty, large = torch.zeros(2, 1536, 2048, dtype=torch.bool)
    large[300:900, 400:1200] = True

    def best(function, mask):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            function(mask)
            times.append(time.perf_counter() - start)
        return min(times)

    whole = best(
        lambda mask: ndimage.label(mask.numpy()), large
    )  # what it would take to look at all of it
    assert best(lambda mask: nearest(mask, SMALL), empty) < whole / 2
    assert best(lambda mask: nearest(mask, SMALL), large) < whole


def test_depths_are_not_marked():
    depth = torch.zeros(1, 90, 90)
    depth[0, 1, 1] = 5
    assert not nearest(depth, (9, 9)).any()


# ---- whoever reads masks


def small_defect(kind: str, root: Path) -> tuple[str, object]:
    "A mask of 600 × 800 pixels with a square of 2, stored in one of the ways that are read."
    mask = np.zeros((600, 800), bool)
    mask[101:103, 204:206] = True
    if kind == "file":
        Image.fromarray(mask).save(root / "mask.png")
        return str(root / "mask.png"), read_mask
    if kind == "folder":
        (root / "masks").mkdir()
        for i, part in enumerate((mask, np.roll(mask, 300, 0))):
            Image.fromarray(part).save(root / f"masks/{i}.png")
        return str(root / "masks"), read_union
    np.save(root / "film.npy", mask[None])
    return f"{root / 'film.npy'}#000000", read_frame_mask


@pytest.mark.parametrize("kind", ["file", "folder", "film"])
def test_items_of_every_reader_keep_it(kind, tmp_path):
    path, reader = small_defect(kind, tmp_path)
    paint(tmp_path / "image.png", (600, 800))

    class One(AnomalibDataModule):
        read_mask = staticmethod(reader)

        def index(self, root):
            return pd.DataFrame({"image_path": [str(root / "image.png")], "split": "test",
                                 "label": "dent", "mask_path": [path]})  # fmt: skip

    data = One(tmp_path, val_split_mode="none")
    data.size = (32, 32)
    assert data.dataset("test")[0].gt_mask.sum() == (2 if kind == "folder" else 1)
    assert data.check_masks() == []


def test_batches_of_several_sizes_and_the_way_back_keep_it():
    mask = torch.zeros(600, 800, dtype=torch.bool)
    mask[101:103, 204:206] = True
    item = to_size(Batch(image=torch.rand(3, 600, 800), gt_mask=mask), (32, 32))
    assert item.gt_mask.sum() == 1
    assert resized(mask, (32, 32)).sum() == resized(mask.numpy(), (32, 32)).sum() == 1


@pytest.mark.parametrize("name", sorted(TREES))
def test_no_marked_image_of_any_source_is_unmarked_at_a_small_size(name, tmp_path):
    data = get_datamodule(name, **(TREES[name](tmp_path) or {"root": tmp_path}))
    test = data.dataset("test")
    whole = [getattr(test[i], "gt_mask", None) for i in range(len(test))]
    data.size = (8, 8)
    small = data.dataset("test")
    for i, mask in enumerate(whole):
        if mask is not None:
            assert bool(small[i].gt_mask.any()) == bool(mask.any())


# ---- masks in files that need thought


@pytest.mark.parametrize("kind", ["jpg", "webp", "jpeg in tiff"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_lossy_mask_is_as_large_as_it_was(tmp_path, kind, mode):
    mask = np.zeros((96, 96), np.uint8)
    mask[21:61, 33:73] = 255
    options = {"jpg": {"quality": 75}, "webp": {"quality": 60}, "jpeg in tiff": {"compression": "jpeg"}}[kind]  # fmt: skip
    path = tmp_path / f"mask.{kind.split()[-1]}"
    Image.fromarray(mask).convert(mode).save(path, **options)
    assert abs(int(read_mask(path).sum()) / 1600 - 1) < 0.005


def test_a_lossless_mask_of_class_numbers_still_counts(tmp_path):
    for name in ("mask.png", "mask.webp", "mask.gif"):
        Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(tmp_path / name, lossless=True)
        assert read_mask(tmp_path / name).tolist() == [[False, True], [True, True]], name


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize(
    "colours",
    ["black on nothing", "white on nothing", "white everywhere", "a photograph", "black and white"],
)
def test_a_mask_in_the_alpha_channel(tmp_path, colours, suffix):
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:45] = True
    alpha = np.where(mask, 255, 0)
    photo = np.random.default_rng(0).integers(1, 255, (40, 60))
    grey = {"black on nothing": mask * 0, "white on nothing": mask * 255, "white everywhere": mask * 0 + 255,
            "a photograph": photo, "black and white": mask * 255}[colours]  # fmt: skip
    if colours == "black and white":  # on a margin that is transparent
        alpha = np.zeros((40, 60), int)
        alpha[4:36, 4:56] = 255
    Image.fromarray(np.dstack([grey] * 3 + [alpha]).astype(np.uint8)).save(
        tmp_path / f"mask.{suffix}", lossless=True, exact=True
    )
    assert np.array_equal(read_mask(tmp_path / f"mask.{suffix}"), mask)


def test_an_alpha_channel_that_is_constant_says_nothing(tmp_path):
    for alpha in (0, 255):
        layer = np.full((9, 9, 4), alpha, np.uint8)
        layer[..., :3] = 0
        layer[2:4, 3:6, 0] = 255
        Image.fromarray(layer).save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png").sum() == 6


# ---- images that a note turns


def turned_set(root: Path, shape, turns, way: str) -> Folder:
    "Defective images that are stored turned, with masks as they are shown, or as they are stored."
    rng = np.random.default_rng(0)
    for i, turn in enumerate([1, 1, *turns]):
        defect = i > 1
        pixels = rng.integers(40, 90, shape).astype(np.uint8)  # as stored
        mask = np.zeros(shape, bool)
        if defect:
            mask[3:9, 5:15], pixels[3:9, 5:15] = True, 250
        place = root / ("test/spot" if defect else "train/good")
        place.mkdir(parents=True, exist_ok=True)
        note = Image.Exif()
        note[0x0112] = turn
        Image.fromarray(pixels).save(place / f"{i}.png", exif=note)
        if defect:
            (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
            whole = Image.fromarray(mask)
            whole.save(root / f"ground_truth/spot/{i}.png", exif=note if way == "noted" else None)
            if way == "shown":
                upright = read_mask(root / f"ground_truth/spot/{i}.png")
                Image.fromarray(mask).save(root / "note.png", exif=note)
                upright = read_mask(root / "note.png")
                (root / "note.png").unlink()
                Image.fromarray(upright).save(root / f"ground_truth/spot/{i}.png")
    return Folder(root, val_split_mode="none")


def aligned(data: Folder, size=None) -> bool:
    "Does every mask lie on what is bright?"
    data.size = size
    items = [item for item in data.dataset("test") if item.gt_label]
    bright = [item.image[0] > 0.7 for item in items]
    return all(torch.equal(item.gt_mask, spot) for item, spot in zip(items, bright))


@pytest.mark.parametrize("way", ["stored", "shown", "noted"])
def test_masks_of_turned_images_lie_where_the_defect_is(tmp_path, way):
    data = turned_set(tmp_path, (30, 50), [5, 6, 7, 8, 1], way)
    assert data.check_masks() == [] and aligned(data)
    data.size = (20, 16)
    again = data.dataset("test")
    assert all(item.gt_mask.shape == (20, 16) for item in again)


def test_a_set_without_a_data_module_turns_them_too(tmp_path):
    data = turned_set(tmp_path, (30, 50), [6, 8], "stored")
    from anomalib_nb.data.datamodule import AnomalibDataset

    for item in AnomalibDataset(data.table[data.table["label"] == "spot"]):
        assert torch.equal(item.gt_mask, item.image[0] > 0.7)


def test_masks_that_cannot_tell_follow_those_that_can(tmp_path):
    assert aligned(turned_set(tmp_path / "a", (30, 50), [6, 3, 2, 4], "stored"))
    assert aligned(turned_set(tmp_path / "b", (30, 50), [6, 3, 2, 4], "shown"))


@pytest.mark.parametrize("shape, turns", [((40, 40), [6, 8]), ((30, 50), [3, 1])])
def test_where_nothing_tells_it_is_said(tmp_path, shape, turns):
    data = turned_set(tmp_path, shape, turns, "shown")
    with pytest.warns(UserWarning, match="nothing tells whether their masks are"):
        assert aligned(data)


# ---- all masks, before anything is paid for


def test_a_mask_that_fits_nothing_is_found_without_reading(tmp_path, monkeypatch):
    data = turned_set(tmp_path, (30, 50), [1, 6, 1], "stored")
    Image.new("1", (31, 50)).save(tmp_path / "ground_truth/spot/3.png")
    Image.new("1", (50, 31)).save(tmp_path / "ground_truth/spot/4.png")
    monkeypatch.setattr("PIL.Image.Image.load", lambda self: 1 / 0)
    with pytest.raises(
        ValueError, match=r"2 of 3 masks .*3.png is 50 × 31 pixels, its image 50 × 30"
    ):
        data.check_masks()
    data = Folder(tmp_path, val_split_mode="none", on_error="skip")
    assert len(data.check_masks()) == 2


def test_ten_thousand_masks_take_seconds(tmp_path):
    Image.new("L", (640, 480)).save(tmp_path / "image.jpg")
    Image.new("1", (640, 480)).save(tmp_path / "mask.png")
    pairs = 500
    for i in range(pairs):
        (tmp_path / f"{i}.jpg").symlink_to("image.jpg")

    class Many(AnomalibDataModule):
        def index(self, root):
            return pd.DataFrame({"image_path": [str(root / f"{i}.jpg") for i in range(pairs)],
                                 "split": "test", "label": "dent", "mask_path": str(root / "mask.png")})  # fmt: skip

    data = Many(tmp_path, val_split_mode="none")
    data.table  # noqa: B018
    start = time.perf_counter()
    assert data.check_masks() == []
    assert (time.perf_counter() - start) / pairs * 10_000 < 20


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_source_has_masks_that_fit(name, tmp_path):
    data = get_datamodule(name, **(TREES[name](tmp_path) or {"root": tmp_path}))
    assert data.check_masks() == []


def test_headers_say_what_reading_says(tmp_path):
    paint(tmp_path / "a.jpg", (20, 30))
    for turn in range(1, 9):
        note = Image.Exif()
        note[0x0112] = turn
        for name in ("b.jpg", "b.png", "b.tif", "b.webp"):
            Image.open(tmp_path / "a.jpg").save(tmp_path / name, exif=note)
            assert read_header(tmp_path / name).shape == read_image(tmp_path / name).shape[:2]
