"""What gave way when data sets were attacked: labels that lack, groups that tear, arguments that pass, names that are none."""

import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trees import TREES, film, mvtec_like, paint, paint_mask

from anomalib_nb.data import (
    VAD,
    AnomalibDataModule,
    DemoData,
    Folder,
    Kaputt,
    MVTecAD,
    MVTecAD2,
    MVTecLOCO,
    RealIAD,
    Tabular,
    UCSDped,
    VideoFolder,
    check_dataset,
    expand,
    list_datasets,
    predict_dataset,
)
from anomalib_nb.data.datamodule import DATASETS
from anomalib_nb.data.splits import SPLIT_MODES, belongs_to, below


def told(make) -> tuple[pd.DataFrame, str]:
    "The table of a data set, and all that was said."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        table = make().table
    return table, " ".join(str(warning.message) for warning in said)


# an image without a label ------------------------------------------------------------------------


def loose(root: Path) -> Path:
    paint(mvtec_like(root) / "test/overview.png")
    return root


def test_a_loose_image_takes_the_truth_from_nobody(tmp_path):
    data = Folder(loose(tmp_path / "parts"), val_split_mode="none")
    (batch,) = data.test_dataloader()
    batch.check()
    alone = [Path(path).name == "overview.png" for path in batch.image_path]
    assert sum(alone) == 1 and [info.get("no_label", False) for info in batch.info] == alone
    assert batch.gt_label.tolist() == [info["label"] == "dent" for info in batch.info]
    assert batch.gt_mask.flatten(1).any(1).tolist() == batch.gt_label.tolist()
    assert "1 of 9 test images without a label" in repr(data) and "1 of 9" in data._repr_html_()
    assert data.counts().loc["unknown", "test"] == 1
    assert data.check_masks() == [] and data.leaks().empty and check_dataset(data)


def test_nobody_has_a_label(tmp_path):
    for i in range(3):
        paint(tmp_path / f"train/good/{i}.png")
        paint(tmp_path / f"test/{i}.png")
    data = Folder(tmp_path, val_split_mode="none")
    (batch,) = data.test_dataloader()
    assert batch.gt_label is None and not any("no_label" in info for info in batch.info)
    assert "3 of 3 test images without a label" in data.facts()


def test_a_row_of_minus_one(tmp_path):
    for i in range(12):
        paint(tmp_path / f"{i:02}.png")
    samples = {
        "image_path": [f"{i:02}.png" for i in range(12)],
        "label_index": [0] * 8 + [1] * 3 + [-1],
        "split": ["train"] * 6 + ["test"] * 6,
    }
    data = Tabular(samples, tmp_path, val_split_mode="none")
    items = list(data.dataset("test"))
    assert [item.info.get("no_label", False) for item in items] == [False] * 5 + [True]
    assert all(item.gt_label is not None for item in items) and not items[5].gt_label


def test_a_mask_of_an_unlabelled_image_is_no_truth(tmp_path):
    paint(tmp_path / "0.png"), paint(tmp_path / "1.png"), paint(tmp_path / "2.png")
    paint_mask(tmp_path / "1_mask.png"), paint_mask(tmp_path / "2_mask.png", (8, 8))
    samples = {
        "image_path": ["0.png", "1.png", "2.png"],
        "label": ["good", "dent", "unknown"],
        "split": ["train", "test", "test"],
        "mask_path": ["", "1_mask.png", "2_mask.png"],
    }
    data = Tabular(samples, tmp_path, val_split_mode="none")
    (batch,) = data.test_dataloader()
    assert batch.gt_mask.flatten(1).any(1).tolist() == [True, False] and data.check_masks() == []


def test_loose_validation_images_beside_labelled_ones(tmp_path):
    root = mvtec_like(tmp_path / "parts")
    paint(root / "validation/good/1.png"), paint(root / "validation/x.png")
    data = Folder(root)
    (batch,) = data.val_dataloader()
    assert batch.gt_label.tolist() == [False, False]
    assert sorted("no_label" in info for info in batch.info) == [False, True]
    assert "1 of 2 val images without a label" in data.facts()


def test_validation_images_without_any_label_are_no_validation_set(tmp_path):
    root = mvtec_like(tmp_path / "parts")
    paint(root / "validation/x.png"), paint(root / "validation/y.png")
    table, said = told(lambda: Folder(root))
    assert table["split"].value_counts().to_dict() == {"train": 4, "val": 4, "test": 4, "unused": 2}
    assert "2 validation images have no label" in said
    with pytest.raises(ValueError, match="no labelled validation images of its own"):
        Folder(root, val_split_mode="from_dir").table


def test_loose_images_of_loco(tmp_path):
    TREES["MVTecLOCO"](tmp_path)
    paint(tmp_path / "breakfast_box/test/overview.png")
    (batch,) = MVTecLOCO(tmp_path, val_split_mode="none").test_dataloader()
    assert batch.gt_mask is not None and sum("no_label" in info for info in batch.info) == 1


def test_a_film_without_masks_beside_others(tmp_path):
    film(tmp_path / "train/1.mp4"), film(tmp_path / "test/2.mp4"), film(tmp_path / "test/3.mp4")
    masks = np.zeros((8, 32, 32), np.uint8)
    masks[3:5, 8:16, 8:16] = 1
    (tmp_path / "masks").mkdir()
    np.save(tmp_path / "masks/2.npy", masks)
    for target in ("last", "all"):
        data = VideoFolder(tmp_path, val_split_mode="none", target_frame=target)
        notes = {
            ("no_label" in clip.info, Path(clip.image_path).name[0])
            for clip in data.dataset("test")
        }
        assert notes == {(False, "2"), (True, "3")}


def test_unlabelled_images_hold_their_group_in_the_test(tmp_path):
    samples = [
        {"image_path": f"{i}.png", "split": "train" if i < 4 else "test", "group": str(i // 2),
         "label": "good" if i < 10 else ("unknown", "dent")[i % 2]}
        for i in range(16)
    ]  # fmt: skip
    for row in samples:
        paint(tmp_path / row["image_path"])
    table = Tabular(samples, tmp_path).table
    assert table.groupby("group")["split"].nunique().max() == 1 and (table["split"] == "val").any()


# groups ------------------------------------------------------------------------------------------


def test_a_pattern_sees_what_images_elsewhere_have_in_common(tmp_path):
    place = tmp_path / "2026/line"
    for i in range(12):
        (
            paint(place / f"ok/part{i // 2:02}_{i % 2}.png"),
            paint(place / f"bad/part{i // 2 + 6:02}_{i % 2}.png"),
        )
    (tmp_path / "root").mkdir()
    table, said = told(lambda: Folder(tmp_path / "root", normal_dir=str(place / "ok"), abnormal_dir=str(place / "bad"), group_by=r"(\d+)_"))  # fmt: skip
    assert table["group"].nunique() == 12 and set(table["split"]) == {"train", "val", "test"}
    assert not said
    table = Folder(tmp_path / "root", normal_dir=str(place), group_by=r"^(\w+)/").table
    assert set(table["group"]) == {"ok", "bad"}


def test_a_root_that_is_written_with_dots(tmp_path, monkeypatch):
    mvtec_like(tmp_path / "parts", count=8)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    table = Folder("../parts", group_by=r"^(\w+/\w+/\d+)").table
    assert set(table["group"].str.split("/").str[0]) == {"train", "test"}
    assert below(pd.Series(["x/1.png"]), "").tolist() == ["x/1.png"]


@pytest.mark.parametrize("nothing", [lambda path: None, lambda path: ""])
def test_a_function_that_knows_no_group_makes_none(tmp_path, nothing):
    table = Folder(mvtec_like(tmp_path / "parts"), group_by=nothing).table
    assert table["group"].nunique() == 12


@pytest.mark.parametrize("pattern", [r"(\d*)", r"nowhere"])
def test_a_pattern_that_finds_nothing_is_refused(tmp_path, pattern):
    with pytest.raises(ValueError, match="finds nothing in test/dent/000.png"):
        Folder(mvtec_like(tmp_path / "parts"), group_by=pattern).table


def test_groups_that_the_folders_tear(tmp_path):
    root = mvtec_like(tmp_path / "parts", count=8)
    for i in (6, 7):
        (root / f"test/good/{i:03}.png").unlink(), (root / f"test/dent/{i:03}.png").unlink()
        (root / f"ground_truth/dent/{i:03}_mask.png").unlink()
    table, said = told(lambda: Folder(root, group_by=r"(\d+)\.png"))
    used = table[table["split"] != "unused"]
    assert used.groupby("group")["split"].nunique().max() == 1
    assert (
        table["split"] == "unused"
    ).sum() == 6 and "6 train images have others of their groups (6)" in said
    test = table[table["image_path"].str.contains("/test/")]
    assert set(test["split"]) == {"val", "test"} and len(test) == 12, "what was published judges"


def test_groups_that_a_table_itself_tears_stay_and_are_said(tmp_path):
    for i in range(10):
        paint(tmp_path / f"{i}.png")
    samples = {
        "image_path": [f"{i}.png" for i in range(10)],
        "label": ["good"] * 7 + ["dent"] * 3,
        "split": ["train"] * 4 + ["test"] * 6,
        "group": [str(i) for i in range(9)] + ["0"],
    }
    table, said = told(lambda: Tabular(samples, tmp_path))
    assert table["split"].ne("unused").all() and "1 train images have others" in said
    assert table.loc[table["group"] == "0", "split"].tolist() == ["train", "test"]
    apart, said = told(
        lambda: Tabular(samples, tmp_path, group_by=lambda path: str(int(path[0]) % 9))
    )
    assert (
        apart.loc[apart["group"] == "0", "split"].isin(["unused", "val"]).all()
        and "set aside" in said
    )


def test_an_empty_side_says_why(tmp_path):
    root = mvtec_like(tmp_path / "parts")
    table, said = told(lambda: Folder(root, group_by=r"(good|dent)/"))
    assert "parts: There is no validation image" in said and "there are 2 groups in all" in said
    assert "no normal image to train on" in said and "smaller groups" in said
    for mode in ("none", "same_as_test"):
        assert "no validation image" not in told(lambda: DemoData(train=4, test=2, size=32, val_split_mode=mode))[1]  # fmt: skip
    few, said = told(lambda: DemoData(train=4, test=2, size=32))
    assert not few["split"].eq("val").any() and "too few for two sides" in said
    assert told(lambda: DemoData(train=4, test=6, size=32))[1] == ""


row = st.tuples(st.sampled_from(("train", "val", "test")), st.sampled_from(("good", "dent", "hole", "unknown")), st.integers(0, 9))  # fmt: skip


@given(
    st.lists(row, min_size=1, max_size=40),
    st.sampled_from(SPLIT_MODES["test_split_mode"]),
    st.sampled_from(SPLIT_MODES["val_split_mode"]),
    st.integers(0, 5),
    st.sampled_from((None, "group", "by")),
)
@settings(deadline=None, max_examples=300)
def test_no_group_is_torn_without_a_word_and_nothing_is_lost(rows, test, val, seed, groups):
    table = pd.DataFrame(rows, columns=["split", "label", "group"])
    table["group"] = "g" + table["group"].astype(str)
    table["image_path"] = [f"/data/{g}/{i:03}.png" for i, g in enumerate(table["group"])]

    class Rows(AnomalibDataModule):
        def index(self, root):
            return table if groups == "group" else table.drop(columns="group")

    data = Rows("/data", test_split_mode=test, val_split_mode=val, seed=seed, group_by=r"(g\d)/" if groups == "by" else None)  # fmt: skip
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            got = data.table
        except ValueError as error:
            assert any(word in str(error) for word in ("validation images of its own", "no labelled test images", "to paint defects on"))  # fmt: skip
            return
    said = " ".join(str(warning.message) for warning in said)
    used = got[got["split"] != "unused"]
    assert sorted(path.partition("#")[0] for path in got["image_path"]) == sorted(
        table["image_path"]
    )
    torn = used["split"].groupby(belongs_to(used)).nunique().max() > 1
    assert not torn or groups == "group" and "They stay" in said
    assert (
        (used["split"] == "val").any()
        or val in ("none", "same_as_test")
        or "no validation image" in said
    )
    assert (
        used["split"].eq("train") & used["label_index"].le(0)
    ).any() or "no normal image to train on" in said
    if used["split"].eq("val").any():
        assert (used.loc[used["split"] == "val", "label_index"] >= 0).any(), (
            "no truth for a threshold"
        )


# labels and masks of deep folders -----------------------------------------------------------------


def nested(root: Path, masks: str = "{label}/{camera}/1.png") -> Path:
    for i in range(4):
        paint(root / f"train/good/cam{i % 2}/{i}.png")
        paint(root / f"test/good/cam{i % 2}/{i}.png")
    for label in ("crack", "dent"):
        for n, camera in enumerate(("cam1", "cam2")):
            paint(root / f"test/{label}/{camera}/1.png", (16 + n, 32))
            paint_mask(
                root / "ground_truth" / masks.format(label=label, camera=camera), (16 + n, 32)
            )
    return root


def test_masks_mirror_the_folders_of_their_images(tmp_path):
    root = nested(tmp_path)
    paint_mask(root / "ground_truth/good/cam1/1.png", empty=True)  # allowed, and not needed
    table = Folder(root).table
    for row in table[table["mask_path"] != ""].itertuples():
        assert row.mask_path == row.image_path.replace("/test/", "/ground_truth/")
    assert (table["mask_path"] != "").sum() == 4 and set(table["label"]) == {
        "good",
        "crack",
        "dent",
    }


def test_no_mask_of_another_label_is_taken(tmp_path):
    root = nested(tmp_path)
    (root / "ground_truth/crack/cam1/1.png").unlink()
    with pytest.raises(ValueError, match="1 images without a mask of their own: cam1/1.png"):
        Folder(root).table
    (root / "test/dent/cam1/1.png").unlink()
    with pytest.raises(ValueError, match="1 images without a mask .*1 masks without an image"):
        Folder(root).table


def test_a_label_that_nobody_has_drawn_may_be_nested_too(tmp_path):
    root = nested(tmp_path)
    paint(root / "test/stain/cam1/1.png")
    table = Folder(root).table
    assert table.loc[table["label"] == "stain", "mask_path"].tolist() == [""]


def test_masks_in_upper_case_and_folders_above_labels(tmp_path):
    root = mvtec_like(tmp_path / "parts", masks="ground_truth/Drawn")
    assert (Folder(root).table["mask_path"] != "").sum() == 4
    loud = nested(tmp_path / "loud", masks="drawn {label} {camera}.png")
    for label, camera in itertools.product(("crack", "dent"), ("cam1", "cam2")):
        new = loud / f"ground_truth/{label.upper()}/{camera.upper()}/1_MASK.png"
        new.parent.mkdir(parents=True, exist_ok=True)
        (loud / f"ground_truth/drawn {label} {camera}.png").rename(new)
    data = Folder(loud)
    assert data.table["mask_path"].ne("").sum() == 4 and data.check_masks() == []


def test_one_rule_for_labels(tmp_path):
    root = nested(tmp_path)
    seen = Folder(root).table
    named = {"normal_dir": "train/good", "normal_test_dir": "test/good"}
    bad = tmp_path / "bad"
    for label in ("crack", "dent"):
        (root / f"test/{label}").rename((bad / label).parent.mkdir(exist_ok=True) or bad / label)
    given = Folder(root, **named, abnormal_dir="bad", mask_dir="ground_truth").table
    assert given.loc[given["label_index"] == 1, "label"].tolist() == seen.loc[seen["label_index"] == 1, "label"].tolist()  # fmt: skip
    assert (given["mask_path"] != "").sum() == 4
    for place, labels in {"bad/*": {"cam1", "cam2"}, "bad/crack": {"cam1", "cam2"}, "bad/*/cam1/*.png": {"cam1"},
                          "bad/crack/cam1": {"cam1"}}.items():  # fmt: skip
        table = Folder(root, **named, abnormal_dir=place, mask_dir=False).table
        assert set(table["label"]) == {"good"} | labels, place


# images and masks in folders of these names -------------------------------------------------------


def segmented(root: Path, masks: str = "masks") -> Path:
    for split, marked in (("train", ()), ("test", (0, 1, 2))):
        for i in range(6):
            paint(root / f"{split}/images/{i}.png")
            if masks:
                paint_mask(root / f"{split}/{masks}/{i}.png", empty=i not in marked)
    return root


@pytest.mark.parametrize("masks", ["masks", "ground_truth"])
def test_images_and_masks_side_by_side(tmp_path, masks):
    root = segmented(tmp_path, masks)
    data = check_dataset(Folder(root, val_split_mode="none"))
    assert data.counts().to_dict() == {
        "train": {"good": 6, "defect": 0},
        "test": {"good": 3, "defect": 3},
    }
    (batch,) = data.test_dataloader()
    assert (
        batch.gt_mask.flatten(1).any(1).tolist()
        == batch.gt_label.tolist()
        == [True] * 3 + [False] * 3
    )
    paint_mask(root / f"train/{masks}/5.png")
    assert Folder(root).counts().loc["defect", "unused"] == 1, "a defect does not train"
    paint_mask(root / f"test/{masks}/77.png")
    with pytest.raises(ValueError, match="1 masks without an image: .*77.png"):
        Folder(root).table


def test_images_without_masks_have_no_label_and_say_so(tmp_path):
    root = segmented(tmp_path)
    (root / "test/masks/5.png").unlink()
    data = Folder(root, val_split_mode="none")
    assert "1 of 6 test images without a label" in data.facts()
    bare = Folder(segmented(tmp_path / "bare", masks=""), val_split_mode="none")
    assert bare.counts().to_dict() == {
        "train": {"good": 6, "unknown": 0},
        "test": {"good": 0, "unknown": 6},
    }


def test_labels_inside_a_folder_of_images(tmp_path):
    for i in range(4):
        for label in ("good", "dent"):
            paint(tmp_path / f"test/images/{label}/{i}.png")
        paint(tmp_path / f"train/images/good/{i}.png")
        paint_mask(tmp_path / f"test/masks/dent/{i}.png")
    table = Folder(tmp_path).table
    assert set(table["label"]) == {"good", "dent"} and (table["mask_path"] != "").sum() == 4


def test_masks_of_loose_images_may_lie_beside_them(tmp_path):
    for i in range(4):
        paint(tmp_path / f"train/{i}.png"), paint(tmp_path / f"test/{i}.png")
        paint_mask(tmp_path / f"test/masks/{i}.png", empty=i < 2)
    counts = Folder(tmp_path, val_split_mode="none").counts()
    assert counts["test"].to_dict() == {"good": 2, "defect": 2} and counts.loc["good", "train"] == 4


@pytest.mark.parametrize("place", ["test/good", "test/caf\udce9"])
def test_names_that_are_no_text_are_refused_by_name(tmp_path, place):
    root = mvtec_like(tmp_path / "parts")
    folder = root / place
    os.makedirs(os.fsencode(folder), exist_ok=True)
    try:
        Image.new("L", (8, 8)).save(root / "x.png")
        os.rename(root / "x.png", os.fsencode(folder) + b"/Pr\xfcfling.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    for open_it in (lambda: Folder(root, mask_dir=False).table, lambda: predict_dataset(folder)):
        with pytest.raises(ValueError, match=r"Pr\\xfcfling.png is no text in UTF-8.*Rename"):
            open_it()


# arguments ---------------------------------------------------------------------------------------

WRONG = {
    "name": (5, ["a"]),
    "train_batch_size": (0, -1, 2.5, "8", None, True, float("nan")),
    "eval_batch_size": (0, -1, 2.5, "8", None, True),
    "num_workers": (-1, 1.5, "two", None, True),
    "test_split_mode": ("form_dir", "", None, 1, ["none"]),
    "test_split_ratio": (0, 1, -1, 2, float("nan"), float("inf"), "half", None, True),
    "val_split_mode": ("From_Test", "", None, 1, ["none"]),
    "val_split_ratio": (0, 1, -1, 2, float("nan"), float("inf"), "half", None, True),
    "seed": (-1, 0.5, "a", None, True, 2**64),
    "on_error": ("Raise", "ignore", "", None, True),
    "group_by": ("(", 5, ["a"], b"x"),
    "white": (0, -3, "bright", float("nan"), True),
    "bgr": ("yes", 1, None),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({*list_datasets(), *TREES}))
def test_every_argument_is_looked_at(name, tmp_path):
    opened = {"root": tmp_path}
    if name == "DemoData":
        opened = {}
    if name == "Tabular":
        opened = {"samples": {"image_path": ["0.png"], "label": ["good"]}}
    kind = DATASETS.get(name)
    kind(**opened)
    for argument, values in WRONG.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{argument} is .*Expected"):
                kind(**opened, **{argument: value})
    if name not in ("DemoData",):
        for root in ("", "  ", 5, b"x"):
            with pytest.raises(ValueError, match="^root is .*Expected a path"):
                kind(**{**opened, "root": root})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda root: Folder(root, normal_dir=""), "normal_dir is ''"),
        (lambda root: Folder(root, abnormal_dir=[5]), "abnormal_dir is 5"),
        (lambda root: Folder(root, normal_test_dir=True), "normal_test_dir is True"),
        (lambda root: Folder(root, mask_dir=5), "mask_dir is 5"),
        (lambda root: Folder(root, mask_dir=""), "mask_dir is ''"),
        (lambda root: VideoFolder(root, mask_dir=""), "mask_dir is ''"),
        (lambda root: VideoFolder(root, clip_length_in_frames=True), "clip_length_in_frames is True"),
        (lambda root: VideoFolder(root, frames_between_clips=0), "frames_between_clips is 0"),
        (lambda root: VideoFolder(root, target_frame="middle"), "target_frame is 'middle'"),
        (lambda root: MVTecAD(root, category=5), "no category 5"),
        (lambda root: MVTecAD(root, category=""), "no category ''"),
        (lambda root: MVTecAD2(root, test_type=None), "test_type is None"),
        (lambda root: RealIAD(root, protocol=5), "has no 5"),
        (lambda root: RealIAD(root, resolution=0), "has no '0'"),
        (lambda root: Kaputt(root, image_mode=None), "has no None"),
        (lambda root: UCSDped(root, test_films="some"), "test_films is 'some'"),
        (lambda root: VAD(root, supervised="yes"), "supervised is 'yes'"),
        (lambda root: Tabular(""), "samples is ''"),
        (lambda root: Tabular(5).table, "samples is 5"),
        (lambda root: Tabular({"image_path": {"a"}, "label": {"b"}}).table, "No table can be made"),
    ],
)  # fmt: skip
def test_arguments_of_single_sources(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        make(tmp_path)


def test_the_size_of_items_is_looked_at():
    data = DemoData(train=2, test=2, size=32)
    for size in (8, (8,), (8, 8, 8), (0, 8), (8, -1), (8.5, 8), "ab", (True, 8)):
        with pytest.raises(ValueError, match="^size"):
            data.size = size
        with pytest.raises(ValueError, match="^size"):
            predict_dataset(np.zeros((8, 8)), size=size)
    for size in ([16, 12], np.array([16, 12]), torch.Size([16, 12])):
        data.size = size
        assert data.size == (16, 12) and data.dataset("train")[0].image.shape == (3, 16, 12)
    data.size = None
    assert data.dataset("train")[0].image.shape == (3, 32, 32)


def test_splits_and_numbers_that_do_not_exist():
    data = DemoData(train=2, test=2, size=32)
    with pytest.raises(ValueError, match="split is 'tset'.*Did you mean 'test'"):
        data.dataset("tset")
    for call, words in ((lambda: check_dataset(data, most=0), "most is 0"), (lambda: data.show(0), "count is 0"),
                        (lambda: data.show(columns=0), "columns is 0")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            call()


# what to predict on -------------------------------------------------------------------------------


@pytest.fixture
def shots(tmp_path):
    return [str(paint(tmp_path / f"{i}.png", (8, 8))) for i in range(4)]


def test_several_images_in_any_form(shots):
    forms = {"tuple": tuple(shots), "generator": (path for path in shots), "iterator": iter(shots), "set": set(shots),
             "frozenset": frozenset(map(Path, shots)), "column": pd.Series(shots, index=[7, 8, 9, 10]), "index": pd.Index(shots),
             "array": np.array(shots), "objects": np.array(list(map(Path, shots)), dtype=object), "keys": dict.fromkeys(shots).keys(),
             "entries": sorted(os.scandir(Path(shots[0]).parent), key=lambda entry: entry.name)}  # fmt: skip
    for form, source in forms.items():
        assert predict_dataset(source).table["image_path"].tolist() == shots, form
    pictures = predict_dataset(np.full((8, 8, 3), 10 * i, np.uint8) for i in range(3))
    assert [round(255 * float(item.image.mean())) for item in pictures] == [0, 10, 20]


def test_black_and_white_images():
    shape = np.eye(8, dtype=bool)
    for source in (
        shape,
        shape[..., None].repeat(3, 2),
        torch.from_numpy(shape),
        Image.fromarray(shape),
    ):
        (item,) = predict_dataset(source)
        assert item.image.shape == (3, 8, 8) and torch.equal(item.image[0], torch.eye(8))
    assert len(predict_dataset(np.zeros((5, 8, 8, 3), bool))) == 5


@pytest.mark.parametrize(
    "source", ["", "   ", None, b"0.png", {"a": 1}, pd.DataFrame({"image_path": ["0.png"]}), 5, [None], ["0.png", ""],
               iter([]), set(), pd.Series([], dtype=str)],
)  # fmt: skip
def test_what_is_no_source_is_refused(shots, source, monkeypatch):
    monkeypatch.chdir(Path(shots[0]).parent)
    with pytest.raises(ValueError, match="Expected"):
        predict_dataset(source)


def test_other_words_for_errors_and_cameras(shots):
    for on_error in ("Raise", "", None, True):
        with pytest.raises(ValueError, match="^on_error is .*Expected raise, skip"):
            predict_dataset(shots, on_error=on_error)
    with pytest.raises(ValueError, match="camera is 4095.*white=4095"):
        predict_dataset(shots, camera=4095)
    with pytest.raises(ValueError, match="source is ''"):
        expand("")
    assert len(expand(Path(shots[0]).parent)) == 4
