"""Bad input to data sets: one readable sentence each, naming the file and what to do."""

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from anomalib_nb.data import (
    AnomalibDataModule,
    DemoData,
    Folder,
    MVTecAD,
    check_dataset,
    get_datamodule,
    list_datasets,
    predict_dataset,
    read_image,
    write_demo_folder,
)


@pytest.fixture
def wood(tmp_path):
    return write_demo_folder(tmp_path / "wood", "wood", train=6, test=12, size=48)


def paint(path: Path, size: tuple[int, int] = (8, 8), value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)
    return path


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere.*Check the path"):
        Folder(tmp_path / "nowhere")


def test_a_named_place_that_does_not_exist(wood):
    with pytest.raises(FileNotFoundError, match="no folder .*goood"):
        Folder(wood, normal_dir="train/goood").table


def test_no_images(tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="no images in .*Expected png, jpg"):
        Folder(tmp_path).table


def test_an_empty_named_place(wood):
    (wood / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in .*empty"):
        Folder(wood, normal_dir="empty").table


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_named(wood, content):
    path = wood / "train/good/000.png"
    path.write_bytes(path.read_bytes()[:120] if content is None else content)
    with pytest.raises(ValueError, match=r"000\.png cannot be read as an image"):
        list(Folder(wood).train_dataloader())


def test_a_truncated_jpeg_is_named(tmp_path):
    path = tmp_path / "half.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"half\.jpg cannot be read"):
        read_image(path)


def test_a_missing_mask_is_named(wood):
    next((wood / "ground_truth/dent").iterdir()).unlink()
    with pytest.raises(ValueError, match=r"1 images without a mask of their own: dent/"):
        Folder(wood).table


def test_a_surplus_mask_is_named(wood):
    paint(wood / "ground_truth/dent/777_mask.png")
    with pytest.raises(ValueError, match=r"1 masks without an image: dent/777_mask\.png"):
        Folder(wood).table


def test_masks_can_be_left_out(wood):
    paint(wood / "ground_truth/dent/777_mask.png")
    data = Folder(wood, mask_dir=False)
    assert not data.has_masks and next(iter(data.test_dataloader())).gt_mask is None


def test_a_mask_of_another_size_is_named(wood):
    mask = next((wood / "ground_truth/dent").iterdir())
    paint(mask, (20, 30))
    with pytest.raises(ValueError, match=rf"{mask.name} is 30 × 20 pixels, its image 48 × 48"):
        list(Folder(wood, val_split_mode="none").test_dataloader())


def test_one_mask_for_two_images_is_refused(tmp_path):
    for side in ("a", "b"):
        paint(tmp_path / side / "1.png")
    paint(tmp_path / "ok/1.png")
    paint(tmp_path / "masks/1.png")
    with pytest.raises(ValueError, match="2 images without a mask of their own"):
        Folder(tmp_path, normal_dir="ok", abnormal_dir=["a", "b"], mask_dir="masks").table


def test_no_defective_images_are_allowed(tmp_path):
    for i in range(6):
        paint(tmp_path / f"train/good/{i}.png", value=i)
    (tmp_path / "test").mkdir()
    data = Folder(tmp_path)
    assert data.counts().loc["good"].to_dict() == {"train": 3, "val": 3}
    assert not data.has_masks and len(data.test_dataloader()) == 0
    assert set(next(iter(data.val_dataloader())).gt_label.tolist()) == {False}


def test_all_defective_is_an_error_when_training(wood):
    data = Folder(wood, abnormal_dir="test/dent")
    with pytest.raises(ValueError, match="no normal image to train on.*train/good"):
        data.train_dataloader()
    assert len(list(data.test_dataloader())) == 1


def test_sizes_that_differ(tmp_path):
    for i, size in enumerate([(20, 30), (40, 24), (33, 33)]):
        paint(tmp_path / f"train/good/{i}.png", size)
        paint(tmp_path / f"test/bad/{i}.png", size)
        paint(tmp_path / f"ground_truth/bad/{i}.png", size)
        paint(tmp_path / f"test/good/{i}.png", size)
    data = Folder(tmp_path, val_split_mode="none")
    assert next(iter(data.test_dataloader())).check().image.shape == (6, 3, 33, 40)
    data.size = (16, 12)
    batch = next(iter(data.test_dataloader())).check()
    assert batch.image.shape == (6, 3, 16, 12) and batch.gt_mask.shape == (6, 16, 12)
    assert batch.gt_mask[batch.gt_label].all() and not batch.gt_mask[~batch.gt_label].any()


def test_a_label_that_some_images_lack(tmp_path):
    paint(tmp_path / "train/good/0.png")
    paint(tmp_path / "test/1.png")
    batch = next(iter(Folder(tmp_path, val_split_mode="none").test_dataloader()))
    assert batch.gt_label is None and batch.gt_mask is None


def test_a_defect_without_a_mask_beside_others_says_so(wood):
    class Bare(AnomalibDataModule):
        def index(self, root):
            table = Folder(root).table
            mask = table["mask_path"].where(table["label"] != "dent", "")
            return table.assign(mask_path=mask)

    data = Bare(wood, val_split_mode="none")
    table = data.table[data.table["split"] == "test"]
    bare = (table["label"] == "dent").tolist()
    (batch,) = data.test_dataloader()
    assert any(bare) and [info.get("no_mask", False) for info in batch.info] == bare
    assert not batch.gt_mask[bare].any() and "masks, but not of" in data.facts()


def test_an_image_that_stands_twice(tmp_path):
    class Twice(AnomalibDataModule):
        def index(self, root):
            return pd.DataFrame({"image_path": ["a.png", "a.png"], "split": "train"})

    with pytest.raises(ValueError, match="a.png stands more than once"):
        Twice(tmp_path).table


@pytest.mark.parametrize(
    "arguments, words",
    [({"val_split_mode": "from_tset"}, "Did you mean 'from_test'"), ({"val_split_ratio": 0}, "between 0 and 1"),
     ({"val_split_ratio": 1.0}, "between 0 and 1"), ({"val_split_mode": "from_dir"}, "no validation images of its own")],
)  # fmt: skip
def test_impossible_splits(wood, arguments, words):
    with pytest.raises(ValueError, match=words):
        Folder(wood, **arguments).table


@pytest.mark.parametrize(
    "source, kind",
    [("nowhere", FileNotFoundError), ("nowhere/*.png", FileNotFoundError), ([], ValueError),
     (np.zeros((2, 2)) + 7.0, ValueError), (np.zeros((4, 4, 9), np.uint8), ValueError),
     (np.full((4, 4), np.nan), ValueError)],
)  # fmt: skip
def test_nothing_to_predict_on(source, kind):
    with pytest.raises(kind, match="Expected"):
        predict_dataset(source)


def test_unknown_names():
    with pytest.raises(ValueError, match="Did you mean 'metal'"):
        DemoData("metall")
    with pytest.raises(ValueError, match="Did you mean 'bottle'"):
        MVTecAD(category="botle")
    with pytest.raises(ValueError, match="Did you mean 'DemoData'"):
        get_datamodule("DemoDat")


# what works --------------------------------------------------------------------------------------


def test_sources_to_predict_on(wood):
    one = wood / "test/good" / sorted(os.listdir(wood / "test/good"))[0]
    picture = Image.open(one)
    for source, n in [(one, 1), (str(wood / "test"), 12), (str(wood / "test/*/*.png"), 12), ([one, picture], 2),
                      (np.asarray(picture), 1), (np.zeros((3, 8, 8), np.float32), 1), (torch.zeros(3, 8, 8), 1),
                      (np.zeros((5, 8, 8, 3), np.uint8), 5)]:  # fmt: skip
        data = predict_dataset(source)
        assert len(data) == n and data[0].image.shape[0] == 3 and data[0].gt_label is None


def test_the_same_pixels_from_file_array_and_picture(wood):
    path = next((wood / "test/good").iterdir())
    items = predict_dataset([path, np.asarray(Image.open(path)), Image.open(path)])
    assert torch.equal(items[0].image, items[1].image) and torch.equal(
        items[0].image, items[2].image
    )


def test_non_ascii_folders_and_brackets(tmp_path):
    folder = write_demo_folder(tmp_path / "Prüfstück [1] 螺丝", "tile", train=3, test=12, size=32)
    data = Folder(folder)
    assert len(data.table) == 15 and len(list(data.train_dataloader())) == 1
    named = Folder(
        folder,
        normal_dir="train/g*",
        abnormal_dir="test/crack/*.png",
        mask_dir="ground_truth/crack",
    )
    assert named.counts().to_dict()


def test_upper_case_hidden_and_other_files(tmp_path):
    for name in ("Train/Good/1.PNG", "Train/Good/2.png", "Test/OK/1.JPG", "Test/crack/1.png"):
        paint(tmp_path / name)
    (tmp_path / "Train/Good/._1.png").write_bytes(b"resource fork")
    (tmp_path / "Test/crack/Thumbs.db").write_bytes(b"no image")
    table = Folder(tmp_path, val_split_mode="none").table
    assert len(table) == 4 and set(table["label"]) == {"good", "crack"}


def test_a_link_to_a_folder(tmp_path, wood):
    (tmp_path / "linked").symlink_to(wood, target_is_directory=True)
    assert len(Folder(tmp_path / "linked").table) == 18


def test_own_validation_images(tmp_path):
    for name in ("train/good/1.png", "val/good/2.png", "test/good/3.png", "test/bad/4.png"):
        paint(tmp_path / name)
    assert Folder(tmp_path).table["split"].value_counts()["val"] == 1
    aside = Folder(tmp_path, val_split_mode="none").table
    assert aside["split"].eq("unused").sum() == 1


def test_defects_among_training_images_are_set_aside(tmp_path):
    for name in ("train/good/1.png", "train/bad/2.png", "test/good/3.png", "test/bad/4.png"):
        paint(tmp_path / name)
    data = Folder(tmp_path, val_split_mode="none")
    assert data.counts().loc["bad"].to_dict() == {"train": 0, "test": 1, "unused": 1}


def test_masks_with_names_that_sort_differently(tmp_path):
    for i in (1, 2, 10):
        paint(tmp_path / f"test/bad/{i}.png", (8 + i, 8))
        paint(tmp_path / f"ground_truth/bad/{i}_mask.png", (8 + i, 8))
    paint(tmp_path / "train/good/1.png")
    paint(tmp_path / "test/good/1.png")
    data = Folder(tmp_path, val_split_mode="none")
    data.size = (8, 8)
    assert next(iter(data.test_dataloader())).gt_mask.any(-1).any(-1).sum() == 3


@pytest.mark.parametrize("name", ["DemoData", "Folder", "MVTecAD"])
def test_datasets_are_listed(name):
    assert name in list_datasets()


def test_the_demo_data_pass_their_own_check():
    check_dataset(DemoData(train=4, test=12, size=48))


def test_reading_does_not_touch_the_global_generators():
    torch.manual_seed(3)
    before, state = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = DemoData(train=4, test=4, size=32, train_batch_size=2)
    for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(batches)
    assert torch.equal(before, torch.get_rng_state()) and (state == np.random.get_state()[1]).all()


def test_seeds_decide_and_epochs_differ():
    def orders(seed):
        loader = DemoData(train=8, test=2, size=32, seed=seed).train_dataloader()
        return [list(loader.sampler) for _ in range(2)]

    assert orders(1) == orders(1) and orders(1) != orders(2) and orders(1)[0] != orders(1)[1]


def test_worker_processes_read_the_same(wood):
    one, two = Folder(wood), Folder(wood, num_workers=1)
    for a, b in zip(one.test_dataloader(), two.test_dataloader(), strict=True):
        assert a.image_path == b.image_path and torch.equal(a.image, b.image)


def test_a_dataset_can_be_sent_to_another_process(wood):
    for data in (Folder(wood), DemoData(train=2, test=2, size=32)):
        whole = data.dataset("train")
        assert torch.equal(pickle.loads(pickle.dumps(whole))[0].image, whole[0].image)


def test_the_second_epoch_reads_no_file(wood):
    data = Folder(wood)
    first = next(iter(data.test_dataloader()))
    data.images.read = None  # calling it would raise
    assert torch.equal(next(iter(data.test_dataloader())).image, first.image)


def test_a_memory_of_nothing(wood, monkeypatch):
    monkeypatch.setenv("ANOMALIB_NB__DATA__CACHE_MB", "0")
    data = Folder(wood)
    next(iter(data.test_dataloader()))
    assert not data.images.cache.kept


@pytest.mark.parametrize(
    "name, expected",
    [("magnetic_tile", {"train": 216, "good": 72, "blowhole": 30, "break": 30, "crack": 30, "fray": 20, "uneven": 30}),
     ("dobot_cubes", {"train": 80, "good": 36, "hole": 68})],
)  # fmt: skip
def test_real_folders_are_read(shared, name, expected):
    if not (shared / "data" / name).is_dir():
        pytest.skip(f"no real data in {shared / 'data' / name}")
    data = Folder(shared / "data" / name, val_split_mode="none")
    counts = data.counts()
    found = {"train": counts.loc["good", "train"], **counts["test"].to_dict()}
    defective = sum(expected.values()) - expected["train"] - expected["good"]
    assert found == expected and data.table["mask_path"].ne("").sum() == defective
    data.size = (32, 32)
    item = data.dataset("test")[0]
    assert item.image.shape == (3, 32, 32) and item.gt_mask.shape == (32, 32)
