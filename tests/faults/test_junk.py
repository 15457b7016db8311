"""What is not data is not a class, and what looks like an image is read or named."""

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_nb.data import (
    AnomalibDataModule,
    Folder,
    check_dataset,
    get_datamodule,
    predict_dataset,
)
from anomalib_nb.data.images import (
    UNREAD_SUFFIXES,
    ImageFiles,
    is_image,
    is_junk,
    list_images,
    matching,
    read_image,
    read_mask,
)

sys.path.append(str(Path(__file__).parents[1] / "data"))
from trees import TREES, paint  # noqa: E402

NAMES = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", ".Trash", "lost+found",
         "$RECYCLE.BIN", "Thumbs.db", ".DS_Store", "._x.png", ".git"]  # fmt: skip
FOLDERS = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "lost+found", "$RECYCLE.BIN"]


def test_names():
    assert all(map(is_junk, NAMES))
    assert not any(map(is_junk, ["good", "scratch", "trash", "x.png", "eaDir", "_x", "$1"]))


def litter(root: Path) -> None:
    "Leave behind, in each folder of a tree, what systems and programs do."
    for folder in [Path(place) for place, _, _ in os.walk(root)]:
        pictures = [path for path in sorted(folder.iterdir()) if is_image(path) and path.is_file()]
        for name in FOLDERS:
            (folder / name / "good").mkdir(parents=True)
            for path in pictures[:2]:
                shutil.copy(path, folder / name / f"{path.stem}-checkpoint{path.suffix}")
                shutil.copy(path, folder / name / "good" / f"{path.stem}2{path.suffix}")
            Image.new("L", (9, 9)).save(folder / name / "thumb.png")
        for path in pictures[:2]:
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7 Mac OS X")
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
            (folder / name).write_bytes(b"\0")


@pytest.mark.parametrize("name", sorted(TREES))
def test_no_source_takes_litter_for_data(name, tmp_path):
    arguments = TREES[name](tmp_path) or {"root": tmp_path}
    before = get_datamodule(name, **arguments).table
    litter(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = get_datamodule(name, **arguments)
        pd.testing.assert_frame_equal(data.table, before)
        check_dataset(data)


def test_what_is_left_out_is_said(tmp_path):
    for i in range(6):
        paint(tmp_path / f"{'train' if i < 4 else 'test'}/good/{i}.png")
    litter(tmp_path / "train")
    (tmp_path / "train/good/shot.dng").write_bytes(b"raw")
    data = Folder(tmp_path, val_split_mode="none")
    with pytest.warns(UserWarning) as said:
        assert len(data.table) == 6
    text = " ".join(str(each.message) for each in said)
    assert ".ipynb_checkpoints" in text and "no data" in text
    assert "shot.dng" in text and "cannot be read here" in text and "Thumbs.db" not in text
    assert "passed over" in data.facts()


def test_predicting_on_a_folder_leaves_it_out_and_says_so(tmp_path):
    for i in range(3):
        paint(tmp_path / f"shift/{i}.png")
    litter(tmp_path)
    (tmp_path / "shift/9.CR2").write_bytes(b"raw")
    for source in (tmp_path, f"{tmp_path}/**/*.png", f"{tmp_path}/shift"):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = predict_dataset(source)
        assert [Path(path).name for path in found.table["image_path"]] == [
            "0.png",
            "1.png",
            "2.png",
        ]
        if "*" not in str(source):
            text = " ".join(str(each.message) for each in said)
            assert "are no data" in text and "9.CR2" in text


def test_a_hidden_folder_that_is_asked_for_is_meant(tmp_path):
    paint(tmp_path / ".cache/parts/1.png")
    assert len(list_images(tmp_path / ".cache")) == 1
    assert len(predict_dataset(tmp_path / ".cache/parts")) == 1
    assert len(predict_dataset(f"{tmp_path}/.cache/*/*.png")) == 1


def test_a_check_finds_junk_in_a_table_of_ones_own(tmp_path):
    for i in range(4):
        paint(tmp_path / f"good/.ipynb_checkpoints/{i}.png")

    class Careless(AnomalibDataModule):
        def index(self, root):
            paths = [str(path) for path in root.rglob("*.png")]
            return pd.DataFrame({"image_path": paths, "split": "train", "label": "good"})

    with pytest.raises(ValueError, match=r"lies in \.ipynb_checkpoints, which is no data"):
        check_dataset(Careless(tmp_path, val_split_mode="none"))


def test_a_check_finds_a_lens_cap_among_training_images(tmp_path):
    for i in range(4):
        paint(tmp_path / f"train/good/{i}.png")
        paint(tmp_path / f"test/good/{i}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "train/good/9.png")
    with pytest.raises(ValueError, match="9.png is black"):
        check_dataset(Folder(tmp_path, val_split_mode="none"))


# ---- formats


@pytest.mark.parametrize("suffix", [".jfif", ".JFIF", ".gif", ".jpe", ".pnm", ".heic"])
def test_uncommon_names_are_read(tmp_path, suffix):
    if suffix == ".heic":
        heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
        heif.register_heif_opener()
    picture = np.random.default_rng(0).integers(60, 200, (3, 4, 3)).repeat(16, 0).repeat(16, 1)
    kinds = {".jfif": "JPEG", ".gif": "GIF", ".jpe": "JPEG", ".pnm": "PPM", ".heic": "HEIF"}
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"a{suffix}", kinds[suffix.lower()])
    assert [path.name for path in list_images(tmp_path)] == [f"a{suffix}"]
    (path,) = predict_dataset(tmp_path).table["image_path"]
    assert np.abs(read_image(path).astype(int) - picture).mean() < 8


def test_a_telephone_picture_without_its_reader_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert len(list_images(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"a.heic.*pip install 'anomalib_nb\[heif\]'"):
        predict_dataset(tmp_path)[0]


@pytest.mark.parametrize("suffix", UNREAD_SUFFIXES)
def test_what_cannot_be_read_here_is_named(tmp_path, suffix):
    paint(tmp_path / "a.png")
    (tmp_path / f"b{suffix}").write_bytes(b"?")
    with pytest.warns(UserWarning, match=rf"b{suffix}.*PNG"):
        assert len(predict_dataset(tmp_path)) == 1


# ---- paths as people write them


def test_home_is_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for i in range(4):
        paint(tmp_path / f"parts/{'train' if i < 2 else 'test'}/good/{i}.png")
    Image.new("1", (9, 9)).save(tmp_path / "mask.png")
    data = Folder("~/parts", val_split_mode="none")
    assert len(data.table) == 4 and data.root == tmp_path / "parts" and data.name == "parts"
    assert len(next(iter(data.train_dataloader()))) == 2
    for source in ("~/parts", "~/parts/*/good/*.png", ["~/parts/train/good/0.png"]):
        assert predict_dataset(source)[0].image.shape == (3, 32, 32)
    assert read_image("~/parts/train/good/0.png").shape == (32, 32, 3)
    assert not read_mask("~/mask.png").any() and len(list_images("~/parts")) == 4
    assert ImageFiles("~/parts")[0].shape == (32, 32, 3)


@pytest.mark.parametrize("folder", ["run[1]", "[a]", "what?", "a*b", "[1", "ä ö (1)"])
def test_what_exists_is_no_pattern(tmp_path, folder):
    for name in ("a.png", "b[2].png"):
        paint(tmp_path / folder / name)
    place = tmp_path / folder
    for source in (place, place / "a.png", place / "b[2].png", f"{place}/*.png", f"{place}/[ab]*"):
        names = [Path(path).name for path in predict_dataset(source).table["image_path"]]
        assert names == {"a.png": ["a.png"], "b[2].png": ["b[2].png"]}.get(
            Path(source).name, ["a.png", "b[2].png"]
        )
    assert matching("a.png", place) == [place / "a.png"] and matching("no.png", place) == []


def test_patterns_stay_patterns(tmp_path, monkeypatch):
    for name in ("1.png", "2.png", "x.png"):
        paint(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source, count in (
        ("[0-9].png", 2),
        ("*.png", 3),
        ("./*.png", 3),
        ("**/*.png", 3),
        ("x.png", 1),
    ):
        assert len(predict_dataset(source)) == count
    with pytest.raises(FileNotFoundError, match="no file, folder or image like"):
        predict_dataset("y*.png")


# ---- folders that change


def test_files_that_were_added_are_said_and_not_slipped_in(tmp_path):
    for i in range(6):
        paint(tmp_path / f"{'train' if i < 4 else 'test'}/good/{i}.png")
    data = Folder(tmp_path, val_split_mode="none")
    data.train_dataloader()
    paint(tmp_path / "train/good/8.png")
    paint(tmp_path / "test/dent/9.png")
    (tmp_path / "test/good/5.png").unlink()
    with pytest.warns(UserWarning, match=r"2 were added and 1 were removed.*data.reload\(\)"):
        assert len(data.dataset("train")) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data.setup()  # once is enough
    assert len(data.reload().table) == 7 and len(data.dataset("train")) == 5


def test_changes_that_are_no_images_are_not_worth_a_word(tmp_path):
    for i in range(6):
        paint(tmp_path / f"{'train' if i < 4 else 'test'}/good/{i}.png")
    data = Folder(tmp_path, val_split_mode="synthetic")
    data.setup()
    (tmp_path / "train/good/notes.txt").write_text("no image")
    (tmp_path / "results").mkdir()
    litter(tmp_path / "train")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data.setup()
