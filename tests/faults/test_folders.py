"""Folders and tables as people have them: understood, or refused in a sentence; never a wrong table in silence."""

import os
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "data"))
from trees import TREES, bmad, mvtec_like, paint, paint_mask

from anomalib_nb.data import (
    Folder,
    MVTecAD,
    Tabular,
    VideoFolder,
    check_dataset,
    get_datamodule,
    list_datasets,
    write_demo_folder,
)
from anomalib_nb.data.layouts import label_of
from anomalib_nb.data.tabular import read_samples

NAMES = sorted({*list_datasets(), *TREES})
ON_DISK = [name for name in NAMES if name != "DemoData"]  # it draws its images
JUNK = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "$RECYCLE.BIN", "lost+found")


def litter(root: Path) -> int:
    "What systems and programs leave in folders: in each folder of a tree, and in its root."
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in folders:
        for name in JUNK:
            (folder / name / "good").mkdir(parents=True)
            paint(folder / name / "000.png")
            paint(folder / name / "good" / "1-checkpoint.jpg")
        for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
            (folder / name).write_bytes(b"\0\1 no image")
        for name in ("._x.png", "._Part0.jpg", "._01.avi", "._default.json", "._000.tiff", "._1.npy"):
            (folder / name).write_bytes(b"\0\5\x16\7 Mac OS X")
    return len(folders)


@pytest.mark.parametrize("name", ON_DISK)
def test_junk_changes_no_data_set(name, tmp_path):
    arguments = TREES[name](tmp_path) or {"root": tmp_path}
    before = get_datamodule(name, **arguments).table
    assert litter(tmp_path) > 1
    data = get_datamodule(name, **arguments)
    assert data.table.equals(before)
    for split in ("train", "val", "test"):  # masks in folders, depth and frames are looked for when they are read
        if split in set(before["split"]):
            assert data.dataset(split)[0].image.ndim >= 3


def test_junk_beside_named_places_and_patterns(tmp_path):
    for i in range(4):
        paint(tmp_path / f"shots/ok_{i}.png")
        paint(tmp_path / f"shots/ng_{i}.png")
    litter(tmp_path)
    for normal, abnormal in (("shots/ok_*.png", "shots/ng_*"), ("**/ok_*", "*/ng_*.png")):
        data = Folder(tmp_path, normal_dir=normal, abnormal_dir=abnormal, val_split_mode="none")
        assert len(data.table) == 8 and set(data.table["label_index"]) == {0, 1}
    paint(tmp_path / "shots/.ipynb_checkpoints/ok_9.png")
    assert len(Folder(tmp_path, normal_dir="**/ok_*.png", val_split_mode="none").table) == 4


# ---- names of labels


WORDS = {
    "good": ["good", "Good", "OK", "ok ", "O.K.", "okay", "pass", "PASSED", "normal", "io", "i.O.", "i. O.", "gut", "good_01", "OK 2",
             "defect-free", "no_defect", "fehlerfrei"],
    "unknown": ["unknown", "Unlabelled", "unlabeled"],
    "": ["nok", "NG", "not ok", "fail", "failed", "bad", "ungood", "not_good", "defect", "defective", "anomaly", "abnormal", "nio", "n.i.O.",
         "schlecht", "Ausschuss", "scratch", "007", "0", "1", "good?bad", "noise", "passage"],
}  # fmt: skip


@pytest.mark.parametrize("meant, word", [(meant, word) for meant, words in WORDS.items() for word in words])
def test_what_a_name_means(meant, word):
    assert label_of(word) == (meant or word)


@pytest.mark.parametrize("good, bad", [("pass", "fail"), ("OK", "NOK"), ("ok", "ng"), ("normal", "anomaly"), ("i.O.", "n.i.O."), ("Gut", "Schlecht")])
@pytest.mark.parametrize("layout", ["splits", "labels"])
def test_names_of_folders(good, bad, layout, tmp_path):
    for i in range(5):
        places = [good, bad] if layout == "labels" else [f"train/{good}", f"train/{bad}", f"test/{good}", f"test/{bad}"]
        for place in places:
            paint(tmp_path / place / f"{i}.png")
    data = Folder(tmp_path, val_split_mode="none")
    train = data.table[data.table["split"] == "train"]
    assert set(train["label"]) == {"good"} and train["image_path"].str.contains(f"/{good}/", regex=False).all()
    test = data.table[data.table["split"] == "test"]
    assert set(test["label"]) == {"good", bad} and (test["label"].eq("good") == test["label_index"].eq(0)).all()
    if layout == "splits":
        assert data.counts().loc[bad, "unused"] == 5, "defective parts do not train"


def test_train_alone_and_other_names_of_splits(tmp_path):
    for i in range(6):
        paint(tmp_path / f"alone/train/good/{i}.png")
        paint(tmp_path / f"long/Training/{i}.png")
        paint(tmp_path / f"long/Testing/bad/{i}.png")
    assert set(Folder(tmp_path / "alone", val_split_mode="none").table["label"]) == {"good"}
    counts = Folder(tmp_path / "long", val_split_mode="none").counts()
    assert counts.loc["bad", "test"] == 6 and counts.loc["good", "train"] == 5


def test_a_folder_too_high_or_without_names_says_what_to_write(tmp_path):
    mvtec_like(tmp_path / "set/bottle"), mvtec_like(tmp_path / "set/cable")
    with pytest.raises(ValueError, match="Open one of its folders: bottle, cable"):
        Folder(tmp_path / "set").table
    paint(tmp_path / "heap/1.png"), paint(tmp_path / "heap/2.png")
    with pytest.raises(ValueError, match=r"If the 2 images in it are good parts, say so: Folder\(..., normal_dir='.'\)"):
        Folder(tmp_path / "heap").table
    assert len(Folder(tmp_path / "heap", normal_dir=".", val_split_mode="none").table) == 2


# ---- masks beside their images


def pairs(data) -> dict[str, str]:
    "Name of each image -> name of its mask."
    return {Path(row.image_path).name: Path(row.mask_path).name for row in data.table.itertuples() if row.mask_path}


@pytest.mark.parametrize(
    "image, mask",
    [("{}.jpg", "{}.png"), ("{}.png", "{}_mask.png"), ("{}.png", "{}_GT.png"), ("{}.JPG", "{}_gt.bmp"), ("Part{}.jpg", "Part{}_label.bmp"),
     ("{}.png", "{}-Mask.png"), ("{}.tif", "{}.mask.png"), ("{}.png", "{}.jpg"), ("{}.bmp", "{}.png"), ("{}.jpg", "masks/{}.png"), ("{}.jpg", "GT/{}_mask.png")],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["splits", "labels", "places"])
def test_masks_beside_images_are_masks(image, mask, layout, tmp_path):
    good, bad = {"splits": ("train/good", "test/dent"), "labels": ("good", "dent"), "places": ("a", "dent")}[layout]
    for i in range(4):
        paint(tmp_path / good / image.format(i))
        paint_mask(tmp_path / good / mask.format(i), empty=True)
        paint(tmp_path / bad / image.format(i))
        paint_mask(tmp_path / bad / mask.format(i))
    named = {"normal_dir": good, "abnormal_dir": bad} if layout == "places" else {}
    data = Folder(tmp_path, val_split_mode="none", **named)
    assert len(data.table) == 8 and data.table["label"].value_counts().to_dict() == {"good": 4, "dent": 4}
    assert pairs(data) == {image.format(i): Path(mask.format(i)).name for i in range(4)}
    assert [int(item.gt_mask.sum()) for item in data.dataset("test") if item.gt_label] == [64] * 4
    assert ("4 of the masks lie beside their images" in repr(data)) == ("/" not in mask)
    without = Folder(tmp_path, val_split_mode="none", mask_dir=False, **named)
    assert not without.has_masks and without.table["image_path"].tolist() == data.table["image_path"].tolist()


def test_kolektor_2(tmp_path):
    for split in ("train", "test"):
        for i in range(6):
            paint(tmp_path / split / f"{10000 + i}.png")
            paint_mask(tmp_path / split / f"{10000 + i}_GT.png", empty=i > 1)
    data = Folder(tmp_path, val_split_mode="none")
    assert data.counts().to_dict() == {"train": {"good": 4, "defect": 0}, "test": {"good": 4, "defect": 2}, "unused": {"good": 0, "defect": 2}}
    assert set(pairs(data).values()) == {"10000_GT.png", "10001_GT.png"} and check_dataset(data)


def test_what_was_guessed_is_said(tmp_path):
    for i in range(3):
        paint(tmp_path / f"good/{i}.jpg")
        paint(tmp_path / f"bad/{i}.jpg")
        paint_mask(tmp_path / f"bad/{i}.png")
    with pytest.warns(UserWarning, match="3 files lie beside an image of the same name and look like masks.*bad/0.png"):
        Folder(tmp_path).table


def test_two_photographs_of_one_name_stay_two_images(tmp_path):
    for name in ("train/good/1.jpg", "train/good/1.tif", "test/dent/2.png", "test/dent/2.jpg", "test/good/3.png"):
        paint(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(Folder(tmp_path, val_split_mode="none").table) == 5


def test_a_photograph_of_a_label_is_no_mask(tmp_path):
    for name in ("train/good/1.jpg", "train/good/1_label.jpg", "test/dent/2.jpg", "test/dent/2_label.jpg"):
        paint(tmp_path / name)
    data = Folder(tmp_path, val_split_mode="none")
    assert len(data.table) == 4 and not data.has_masks


def test_pictures_of_black_and_white_parts_are_no_masks_without_a_pair(tmp_path):
    for i in range(3):
        paint_mask(tmp_path / f"train/good/{i}.png")
        paint_mask(tmp_path / f"test/bad/{i}.png", value=200)
    assert len(Folder(tmp_path, val_split_mode="none").table) == 6


@pytest.mark.parametrize(
    "names, said",
    [(("dent/9_mask.png",), "1 masks without an image: dent/9_mask.png"),
     (("dent/1_mask.png", "dent/1_gt.png"), "1 images with several masks: dent/1.jpg"),
     (("dent/1.png", "dent/1.bmp"), "have one name, and it is not clear"),
     (("good/1_mask.png",), "1 images lie among good ones, and the masks beside them mark defects: good/1.jpg"),
     (("dent/masks/1.png", "dent/masks/7.png"), "1 masks without an image: masks/7.png")],
)  # fmt: skip
def test_masks_beside_images_that_do_not_match(names, said, tmp_path):
    for name in ("train/good/0.jpg", "test/good/1.jpg", "test/dent/1.jpg"):
        paint(tmp_path / name)
    for name in names:
        paint_mask(tmp_path / "test" / name)
    with pytest.raises(ValueError, match=said):
        Folder(tmp_path).table


def test_an_unreadable_file_of_a_pair_is_left_to_the_reader(tmp_path):
    for i in range(3):
        paint(tmp_path / f"train/good/{i}.jpg")
    (tmp_path / "train/good/1.png").write_bytes(b"no image")
    data = Folder(tmp_path, val_split_mode="none", on_error="skip")
    with pytest.warns(UserWarning, match="1.png cannot be read"):
        assert sum(len(batch) for batch in data.train_dataloader()) == 3


def test_masks_in_the_heap_of_their_images(tmp_path):
    for i in range(4):
        paint(tmp_path / f"ok_{i}.jpg")
        paint(tmp_path / f"ng_{i}.jpg")
        paint_mask(tmp_path / f"ng_{i}_mask.png")
    data = Folder(tmp_path, normal_dir="ok_*", abnormal_dir="ng_*.jpg", mask_dir=".", val_split_mode="none")
    assert len(data.table) == 8 and len(pairs(data)) == 4
    assert len(Folder(tmp_path, normal_dir="ok_*", abnormal_dir="ng_*", val_split_mode="none").table) == 8


def test_a_product_called_mask_is_a_product(tmp_path):
    for i in range(3):
        paint(tmp_path / f"mask/ok/{i}.png")
        paint(tmp_path / f"mask/torn/{i}.png")
    assert len(Folder(tmp_path / "mask", val_split_mode="none").table) == 6
    assert len(Folder(tmp_path, normal_dir="mask/ok", abnormal_dir="mask/torn", val_split_mode="none").table) == 6


def test_a_mask_dir_is_used_for_a_layout_that_is_seen(tmp_path):
    mvtec_like(tmp_path / "splits", masks="Marken")
    for i in range(3):
        paint(tmp_path / f"labels/ok/{i}.png")
        paint(tmp_path / f"labels/dent/{i}.png")
        paint_mask(tmp_path / f"labels/Marken/dent/{i}.png")
    for place, count in (("splits", 4), ("labels", 3)):
        data = Folder(tmp_path / place, mask_dir="Marken", val_split_mode="none")
        assert data.table["mask_path"].ne("").sum() == count and set(data.table["label"]) == {"good", "dent"}


# ---- a kind of defect without masks, beside others with


def test_a_label_without_masks_beside_others(tmp_path):
    mvtec_like(tmp_path / "bottle", ("dent", "stain"))
    for path in (tmp_path / "bottle/ground_truth/stain").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="4 images without a mask of their own: stain/000.png"):  # it has a folder: were they lost?
        Folder(tmp_path / "bottle").table
    (tmp_path / "bottle/ground_truth/stain").rmdir()
    for table in (Folder(tmp_path / "bottle").table, MVTecAD(tmp_path, "bottle").table):
        bare = table[table["label"] == "stain"]
        assert len(bare) == 4 and bare["mask_path"].eq("").all()
        assert table.loc[table["label"] == "dent", "mask_path"].ne("").all()
    (tmp_path / "bottle/ground_truth/dent/002_mask.png").unlink()
    with pytest.raises(ValueError, match="1 images without a mask of their own: dent/002.png"):
        Folder(tmp_path / "bottle").table


def test_items_without_a_mask_say_so(tmp_path):
    mvtec_like(tmp_path, ("dent",))
    for i in range(3):
        paint(tmp_path / f"test/stain/{i}.png")
    items = {(item.info["label"], item.info.get("no_mask", False), bool(item.gt_mask.any())) for item in Folder(tmp_path, val_split_mode="none").dataset("test")}
    assert items == {("good", False, False), ("dent", False, True), ("stain", True, False)}


def test_one_split_of_a_medical_set_without_masks(tmp_path):
    bmad(tmp_path)
    for path in (tmp_path / "Brain/valid/Ungood/label").iterdir():
        path.unlink()
    (tmp_path / "Brain/valid/Ungood/label").rmdir()
    table = get_datamodule("BMAD", root=tmp_path).table
    assert table.loc[(table["label"] == "Ungood") & (table["split"] == "val"), "mask_path"].eq("").all()
    assert table.loc[(table["label"] == "Ungood") & (table["split"] == "test"), "mask_path"].ne("").all()


# ---- paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ON_DISK)
def test_a_tilde_is_the_home_folder(name, home):
    arguments = TREES[name](home) or {"root": home}
    expected = get_datamodule(name, **arguments).table
    short = {key: f"~{str(value).removeprefix(str(home))}" if key in ("root", "samples") else value for key, value in arguments.items()}
    data = get_datamodule(name, **short)
    assert data.table.equals(expected) and "~" not in str(data.root)


def test_a_tilde_in_places_masks_and_tables(home, monkeypatch):
    write_demo_folder("~/tiles", "tile", train=4, test=12, size=32)
    assert (home / "tiles/train/good").is_dir()
    named = Folder("~", normal_dir="~/tiles/train/good", abnormal_dir="~/tiles/test/dent/*.png", mask_dir="~/tiles/ground_truth/dent")
    assert named.table["mask_path"].ne("").any()
    assert Folder("~/tiles", mask_dir="~/tiles/ground_truth").has_masks
    table = Tabular({"image_path": ["~/tiles/train/good/000.png", "tiles/train/good/001.png"], "label": ["good", "good"]}, "~", val_split_mode="none")
    assert table.table["image_path"].tolist() == [str(home / f"tiles/train/good/00{i}.png") for i in range(2)]


@pytest.mark.parametrize("name", ON_DISK)
def test_a_relative_root_means_the_same_after_a_change_of_folder(name, tmp_path, monkeypatch):
    arguments = TREES[name](tmp_path) or {"root": tmp_path}
    expected = get_datamodule(name, **arguments).table
    monkeypatch.chdir(tmp_path)
    relative = {key: os.path.relpath(value) if key in ("root", "samples") else value for key, value in arguments.items()}
    data = get_datamodule(name, **relative)
    monkeypatch.chdir("/")
    assert data.root.is_absolute() and data.table.equals(expected)
    assert data.root_given in {str(value) for value in relative.values()}, "and what was given is kept"


@pytest.mark.parametrize("name", ["line [2]", "a*b?", "[!x]{1}", "teile (neu) #1", "50%", "-rf", "$HOME", "O'Brien \"x\"", "naïve & co"])
def test_signs_in_real_paths(name, tmp_path):
    root = tmp_path / name
    for i in range(4):
        paint(root / f"[ok] {i}/{i}[1].png")
        paint(root / f"shots [a]/ng_{i}*.png")
    mvtec_like(root / "whole")
    assert len(Folder(root / "whole").table) == 12
    places = [f"[ok] {i}" for i in range(3)] + ["[ok] 3/3[1].png"]
    data = Folder(root, normal_dir=places, abnormal_dir="shots [a]/ng_*.png", val_split_mode="none")
    assert data.table["label_index"].tolist().count(0) == data.table["label_index"].tolist().count(1) == 4
    assert len(list(data.train_dataloader())) == 1


def test_spaces_scripts_and_both_ways_to_write_an_umlaut(tmp_path):
    whole, parted = (unicodedata.normalize(form, "Schürfung") for form in ("NFC", "NFD"))
    assert whole != parted
    for i, label in enumerate((parted, "划痕", "царапина", "خدش", " lead", "two words")):
        paint(tmp_path / f"test/{label}/Bild ä{i}.png")
        paint_mask(tmp_path / f"ground_truth/{whole if label == parted else label}/{unicodedata.normalize('NFD', f'Bild ä{i}')}_mask.png")
    for i in range(3):
        paint(tmp_path / f"train/Good/{i}.png")
    data = Folder(tmp_path, val_split_mode="none")
    assert set(data.table["label"]) == {"good", whole, "划痕", "царапина", "خدش", "lead", "two words"}
    assert len(pairs(data)) == 6 and check_dataset(data)


def test_upper_and_lower_case_of_labels_and_masks(tmp_path):
    for i in range(3):
        paint(tmp_path / f"TRAIN/GOOD/{i}.PNG")
        paint(tmp_path / f"Test/Dent/IMG_{i}.JPG")
        paint_mask(tmp_path / f"Ground_Truth/dent/img_{i}_MASK.png")
    data = Folder(tmp_path, val_split_mode="none")
    assert len(pairs(data)) == 3 and data.counts().loc["Dent", "test"] == 3


def test_links_slashes_and_files_that_were_added(tmp_path):
    mvtec_like(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in ("train", "test", "ground_truth"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name, target_is_directory=True)
    (tmp_path / "real/train/good/loop").symlink_to(tmp_path / "real/train", target_is_directory=True)
    for root in (f"{tmp_path}/linked/", f"{tmp_path}/linked//", tmp_path / "linked/../linked", tmp_path / "real"):
        assert len(Folder(root).table) == 12 and Folder(root).name in ("linked", "real")


def test_back_slashes_in_tables(tmp_path):
    for i in range(4):
        paint(tmp_path / f"shots/good/{i}.png")
        paint(tmp_path / f"shots/bad/{i}.png")
        paint_mask(tmp_path / f"masks/{i}.png")
    rows = [{"image_path": rf"shots\{label}\{i}.png", "label": label, "mask_path": rf".\masks\{i}.png" if label == "bad" else ""}
            for label in ("good", "bad") for i in range(4)]  # fmt: skip
    for root in (None, tmp_path):
        pd.DataFrame(rows).to_csv(tmp_path / "parts.csv", index=False)
        data = Tabular(tmp_path / "parts.csv", root, val_split_mode="none")
        assert len(data.table) == 8 and len(list(data.test_dataloader())) == 1
    with pytest.raises(ValueError, match="lead out"):
        Tabular([{"image_path": r"..\secret.png", "label": "good"}], tmp_path).table


def test_a_video_folder_takes_masks_from_anywhere(home):
    TREES["VideoFolder"](home)
    assert VideoFolder("~", mask_dir="~/masks").has_masks


# ---- labels in tables


@pytest.fixture
def parts(tmp_path):
    "Four good images and four others."
    for i in range(8):
        paint(tmp_path / f"{i}.png")
    return tmp_path


def labelled(root, labels, column="label", **more):
    samples = {"image_path": [f"{i}.png" for i in range(8)], column: labels, **more}
    return Tabular(samples, root, val_split_mode="none").table.sort_values("image_path")["label_index"].tolist()


RIGHT = [0] * 4 + [1] * 4
UNDERSTOOD = {
    "blanks": ["good ", " good", "GOOD", "Good\t"] + ["dent ", " dent", "scratch", "nok"],
    "pass and fail": ["pass"] * 4 + ["fail"] * 4,
    "OK and NG": ["OK"] * 4 + ["NG"] * 4,
    "German": ["i.O."] * 2 + ["io"] * 2 + ["n.i.O."] * 2 + ["nio"] * 2,
    "categories": pd.Categorical(["good"] * 4 + ["bad"] * 4),
    "categories that are not used": pd.Categorical(["good"] * 4 + ["bad"] * 4, ["bad", "good", "other"]),
    "numpy text": np.array(["good"] * 4 + ["bad"] * 4),
    "numbers among words": ["good"] * 4 + ["1", "2", "007", "12"],
}  # fmt: skip


@pytest.mark.parametrize("labels", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_labels_that_are_understood(labels, parts):
    assert labelled(parts, labels) == RIGHT


REFUSED = {
    "truths": ([False] * 4 + [True] * 4, "False, True, the first in row 0"),
    "numpy truths": (np.array(RIGHT, bool), "False, True, the first in row 0"),
    "numbers": (RIGHT, "0, 1, the first in row 0"),
    "floats": ([0.0] * 4 + [1.0] * 4, "0.0, 1.0, the first in row 0"),
    "numpy numbers": (np.array(RIGHT, np.uint8), "0, 1"),
    "text": (list("00001111"), "'0', '1'"),
    "texts of floats": (["0.0"] * 4 + ["1.0"] * 4, "'0.0', '1.0'"),
    "texts of truths": (["False"] * 4 + ["True"] * 4, "'False', 'True'"),
    "classes": (list("01234567"), "'0', '1', '2'"),
    "categories": (pd.Categorical(RIGHT), "0, 1"),
    "one among words": (["good"] * 3 + [0] + ["dent"] * 4, "0, the first in row 3"),
    "one truth among words": (["good"] * 4 + ["dent"] * 3 + [True], "True, the first in row 7"),
    "yes": (["yes"] * 4 + ["no"] * 4, "'yes', 'no'"),
}  # fmt: skip


@pytest.mark.parametrize("labels, said", REFUSED.values(), ids=REFUSED)
def test_labels_that_mean_anything_are_refused_by_name(labels, said, parts):
    with pytest.raises(ValueError, match=f"label holds numbers or truth values: {said}.*label_index"):
        labelled(parts, labels)


INDICES = {
    "ints": RIGHT,
    "floats": [0.0] * 4 + [1.0] * 4,
    "truths": [False] * 4 + [True] * 4,
    "numpy": np.array(RIGHT, np.int8),
    "numpy truths": np.array(RIGHT, bool),
    "text": list("00001111"),
    "Excel": ["0,0"] * 4 + ["1,0"] * 4,
    "words of truths": ["FALSE"] * 4 + ["True"] * 4,
    "categories": pd.Categorical(RIGHT),
    "categories of text": pd.Categorical(list("00001111")),
    "nullable": pd.array(RIGHT, "Int64"),
    "mixed": [0, 0.0, False, "0", 1, 1.0, True, "1"],
}  # fmt: skip


@pytest.mark.parametrize("numbers", INDICES.values(), ids=INDICES)
def test_numbers_of_labels_of_any_type(numbers, parts):
    assert labelled(parts, numbers, "label_index") == RIGHT
    assert labelled(parts, numbers, "label_index", label=["good"] * 4 + ["dent"] * 4) == RIGHT
    with pytest.raises(ValueError, match="8 of 8 images have a label_index that differs from their label"):
        labelled(parts, numbers, "label_index", label=["dent"] * 4 + ["good"] * 4)


@pytest.mark.parametrize(
    "wrong, said", [(2, "2"), (0.5, "0.5"), ("good", "'good'"), ("x", "'x'"), ("inf", "'inf'")]
)
def test_a_number_of_a_label_that_is_none(wrong, said, parts):
    with pytest.raises(ValueError, match=f"In row 5, label_index holds {said}. Expected"):
        labelled(parts, [*RIGHT[:5], wrong, 1, 1], "label_index")


@pytest.mark.parametrize("blank", ["", "  ", None, np.nan, pd.NA])
def test_a_blank_is_a_gap(blank, parts):
    with pytest.raises(ValueError, match="label is empty in 1 of 8 rows, such as row 2"):
        labelled(parts, ["good", "good", blank, "good"] + ["dent"] * 4)


def test_splits_with_blanks_and_upper_case(parts):
    samples = {"image_path": [f"{i}.png" for i in range(8)], "split": ["Train ", "TRAIN"] * 2 + [" test"] * 4}
    table = read_samples(samples)
    assert table["split"].tolist() == ["train"] * 4 + ["test"] * 4 and set(table["label"][4:]) == {"defect"}


# ---- files of tables


CSV = {
    "commas": "image_path,label,grams\n{rows}",
    "semicolons": "image_path;label;grams\n{rows}",
    "tabulators": "image_path\tlabel\tgrams\n{rows}",
    "blanks in the header": " image_path ; label;grams \n{rows}",
}  # fmt: skip


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("text", CSV.values(), ids=CSV)
def test_csv_as_programs_write_it(text, end, mark, parts):
    sign = next(sign for sign in ";\t," if sign in text)
    rows = "\n".join(sign.join((f"{i}.png", "i.O." if i < 4 else "Maß", f"{i}{'.' if sign == ',' else ','}5")) for i in range(8))
    (parts / "t.csv").write_bytes((mark + text.format(rows=rows) + "\n").replace("\n", end).encode())
    table = Tabular(parts / "t.csv", val_split_mode="none").table
    assert table["label"].tolist() == ["good"] * 4 + ["Maß"] * 4
    assert table["grams"].tolist() == ([i + 0.5 for i in range(8)] if sign != "\t" else [f"{i},5" for i in range(8)])


def test_a_csv_that_is_not_utf_8_says_how_to_save_it(parts):
    (parts / "t.csv").write_bytes("image_path,label\n0.png,Maß\n".encode("cp1252"))
    with pytest.raises(ValueError, match="t.csv cannot be read as csv.*Save it as CSV UTF-8"):
        Tabular(parts / "t.csv").table


def test_a_csv_of_truths_is_refused_or_read_by_column(parts):
    for column in ("label", "label_index"):
        text = "\n".join([f"image_path,{column}", *(f"{i}.png,{i > 3}" for i in range(8))])
        (parts / f"{column}.csv").write_text(text)
    assert Tabular(parts / "label_index.csv", val_split_mode="none").table["label_index"].tolist() == RIGHT
    with pytest.raises(ValueError, match="label holds numbers or truth values: 'False', 'True', the first in row 0"):
        Tabular(parts / "label.csv").table


def test_a_column_that_stands_twice(parts):
    with pytest.raises(ValueError, match="several columns label"):
        Tabular(pd.DataFrame([["0.png", "good", "bad"]], columns=["image_path", "label", "label "]), parts).table
