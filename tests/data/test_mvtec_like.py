"""Data sets that are laid out like MVTec AD, or nearly: each trap of their files, on small trees."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import TREES, mvtec_like, paint, paint_mask

from anomalib_nb.core.io import write_json
from anomalib_nb.data import (
    MPDD,
    VAD,
    BTech,
    MVTecAD,
    MVTecAD2,
    MVTecLOCO,
    VisA,
    check_dataset,
)


def opened(kind: type, root: Path, **arguments):
    TREES[kind.__name__](root)
    return kind(root, **arguments)


def pairs(data) -> dict[str, str]:
    "Name of each masked image -> name of its mask."
    rows = data.table[data.table["mask_path"] != ""].itertuples()
    return {Path(row.image_path).name: Path(row.mask_path).name for row in rows}


# ---- MVTec AD -----------------------------------------------------------------------------------
def test_unpadded_names(tmp_path):
    root = mvtec_like(tmp_path / "bottle", ())
    for i in range(1, 13):
        paint(root / f"test/dent/{i}.png")
        paint_mask(root / f"ground_truth/dent/{i}_mask.png")
    assert pairs(MVTecAD(tmp_path)) == {f"{i}.png": f"{i}_mask.png" for i in range(1, 13)}


def test_a_missing_and_a_surplus_mask_are_listed(tmp_path):
    truth = mvtec_like(tmp_path / "bottle") / "ground_truth/dent"
    (truth / "001_mask.png").rename(truth / "009_mask.png")
    with pytest.raises(ValueError, match=r"without a mask .*dent/001.png.*without an image: dent/009_mask"):  # fmt: skip
        MVTecAD(tmp_path).table


def test_upper_case_suffixes_hidden_files_and_deeper_folders(tmp_path):
    root = mvtec_like(tmp_path / "bottle")
    paint(root / "train/good/more/004.PNG")
    (root / "train/good/._000.png").write_bytes(b"no image")
    (root / "train/good/Thumbs.db").write_bytes(b"no image")
    assert MVTecAD(tmp_path).counts().loc["good", "train"] == 5


def test_grey_files(tmp_path):
    root = mvtec_like(tmp_path / "grid")
    for path in root.glob("t*/*/*.png"):
        paint(path, mode="L")
    data = check_dataset(MVTecAD(tmp_path, "grid"))
    assert data.dataset("train")[0].image.shape == (3, 32, 32)


def test_wrong_categories():
    for kind, name, right in ((MVTecAD, "botle", "bottle"), (VisA, "pcb", "pcb1"), (BTech, "1", "01"),
                              (MPDD, "tube", "tubes"), (MVTecLOCO, "pushpin", "pushpins")):  # fmt: skip
        with pytest.raises(ValueError, match=f"no category '{name}'.*{right}"):
            kind(category=name)
    with pytest.raises(ValueError, match="no category 'vad'. It is in one piece"):
        VAD(category="vad")


def test_numbers_of_categories():
    kinds = {MVTecAD: 15, MVTecAD2: 8, MVTecLOCO: 5, VisA: 12, BTech: 3, MPDD: 6, VAD: 0}
    assert {kind: len(kind.categories) for kind in kinds} == kinds


# ---- MVTec AD 2 ---------------------------------------------------------------------------------
def test_ad2_public(tmp_path):
    data = opened(MVTecAD2, tmp_path)
    assert data.counts().to_dict() == {
        "train": {"good": 8, "bad": 0},
        "val": {"good": 8, "bad": 0},
        "test": {"good": 8, "bad": 8},
    }
    assert len(data.dataset("test")) == 16, "normal test images stay"
    assert pairs(data)["003_shift_1.png"] == "003_shift_1_mask.png"
    assert set(data.table["light"]) == {"regular", "shift_1"}


@pytest.mark.parametrize("test_type", ["private", "private_mixed"])
def test_ad2_private(tmp_path, test_type):
    data = opened(MVTecAD2, tmp_path, test_type=test_type)
    test = data.table[data.table["split"] == "test"]
    assert set(test["label"]) == {"unknown"} and set(test["label_index"]) == {-1} and len(test) == 4
    assert all(f"test_{test_type}/" in path for path in test["image_path"])
    batch = next(iter(data.test_dataloader()))
    assert batch.gt_label is None and batch.gt_mask is None and len(batch.image_path) == 4


def test_ad2_lights_stay_together(tmp_path):
    data = opened(MVTecAD2, tmp_path, val_split_mode="from_test")
    used = data.table[data.table["split"].isin(["val", "test"])]
    assert used.groupby("group")["split"].nunique().max() == 1
    assert used.groupby("group").size().max() == 2 and set(used["split"]) == {"val", "test"}


def test_ad2_missing_mask(tmp_path):
    TREES["MVTecAD2"](tmp_path)
    (tmp_path / "can/test_public/ground_truth/bad/002_regular_mask.png").unlink()
    with pytest.raises(ValueError, match="002_regular.png"):
        MVTecAD2(tmp_path).table
    assert len(MVTecAD2(tmp_path, test_type="private").table) == 20


def test_ad2_only_images_count(tmp_path):
    TREES["MVTecAD2"](tmp_path)
    (tmp_path / "can/train/good/backing").write_text("ends in g")
    assert MVTecAD2(tmp_path).counts().loc["good", "train"] == 8


def test_ad2_test_types(tmp_path):
    with pytest.raises(ValueError, match="test_type is 'mixed'.*public, private, private_mixed"):
        MVTecAD2(tmp_path, test_type="mixed")
    TREES["MVTecAD2"](tmp_path)
    shutil.rmtree(tmp_path / "can/test_private")
    with pytest.raises(FileNotFoundError, match="Expected .*test_private.*mvtec_ad_2.tar.gz"):
        MVTecAD2(tmp_path, test_type="private").table


# ---- MVTec LOCO ---------------------------------------------------------------------------------
def test_loco_regions(tmp_path):
    data = opened(MVTecLOCO, tmp_path)
    items = {item.info["label"]: item for item in data.dataset("test")}
    assert [len(items[name].info["defects"]) for name in sorted(items)] == [0, 2, 1]
    whole, some = items["logical_anomalies"].info["defects"]
    assert (whole["pixel_value"], whole["threshold"], whole["relative"]) == (255, 0.5, True)
    assert (some["pixel_value"], some["threshold"], some["relative"]) == (254, 20, False)
    assert Path(some["mask_path"]).name == "001.png" and some["name"] == "defect 254"
    assert data.counts()["val"].to_dict()["good"] == 4


def test_loco_union_and_parts(tmp_path):
    TREES["MVTecLOCO"](tmp_path)
    part = np.zeros((32, 32), np.uint8)
    part[20:24, 20:24] = 254
    name = tmp_path / "breakfast_box/ground_truth/logical_anomalies/001/001.png"
    Image.fromarray(part).save(name)
    data = MVTecLOCO(tmp_path)
    item = next(i for i in data.dataset("test") if i.mask_path.endswith("logical_anomalies/001"))
    masks, saturation = item.info["regions"]
    assert masks.shape == (2, 32, 32) and masks.sum((1, 2)).tolist() == [64, 16]
    assert saturation == [32, 16], "half of the first; of the second 20, and it has only 16"
    assert (masks.any(0) == item.gt_mask.numpy()).all() and item.gt_mask.sum() == 80


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (64, 64)])
def test_loco_batches_keep_regions(tmp_path, size):
    data = opened(MVTecLOCO, tmp_path, eval_batch_size=12, num_workers=1)
    data.size = size
    batch = next(iter(data.test_dataloader()))
    regions = [info["regions"] for info in batch.info]
    assert [len(each.masks) for each in regions] == [0] * 4 + [2] * 4 + [1] * 4
    assert batch.gt_mask.shape == (12, *size)
    assert all(each.masks.shape[1:] == size for each in regions)
    scale = size[0] * size[1] / 32**2
    for each, mask in zip(regions, batch.gt_mask.numpy(), strict=True):
        assert (each.masks.any(0) == mask).all()
    assert regions[4].saturation == [regions[4].masks[0].sum() // 2, int(20 * scale)]


@pytest.mark.parametrize(
    "break_it, match",
    [
        (lambda p: shutil.rmtree(p / "ground_truth/logical_anomalies/002"), "without masks: logical_anomalies/002.png"),
        (lambda p: (p / "ground_truth/logical_anomalies/002/000.png").unlink() or (p / "ground_truth/logical_anomalies/002/001.png").unlink(), "without masks"),
        (lambda p: paint_mask(p / "ground_truth/logical_anomalies/077/000.png"), "without an image: logical_anomalies/077"),
        (lambda p: paint_mask(p / "ground_truth/logical_anomalies/002/000.png", value=7), "grey value 7.*253, 254, 255"),
        (lambda p: paint_mask(p / "ground_truth/logical_anomalies/002/000.png", empty=True), r"grey values \[\]"),
        (lambda p: write_json(p / "defects_config.json", [{"pixel_value": 255}]), "Expected a text as defect_name"),
        (lambda p: paint_mask(p / "ground_truth/logical_anomalies/002/000.png", size=(8, 8)), "no common size: 32 × 32, 8 × 8"),
    ],
    ids=["no folder", "empty folder", "surplus", "meaning unknown", "black", "config", "sizes"],
)  # fmt: skip
def test_loco_faults(tmp_path, break_it, match):
    TREES["MVTecLOCO"](tmp_path)
    break_it(tmp_path / "breakfast_box")
    with pytest.raises(ValueError, match=match):
        for item in MVTecLOCO(tmp_path, val_split_mode="none").dataset("test"):
            assert item.gt_mask is not None


def test_loco_without_its_config(tmp_path):
    TREES["MVTecLOCO"](tmp_path)
    (tmp_path / "breakfast_box/defects_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="defects_config.json"):
        MVTecLOCO(tmp_path).table


def test_loco_mask_of_two_values(tmp_path):
    TREES["MVTecLOCO"](tmp_path)
    path = tmp_path / "breakfast_box/ground_truth/structural_anomalies/000/000.png"
    values = np.zeros((32, 32), np.uint8)
    values[:2], values[4:6] = 253, 254
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=r"\[253, 254\].*one besides black"):
        MVTecLOCO(tmp_path).table


# ---- VisA ---------------------------------------------------------------------------------------
def visa_list(root: Path, change) -> VisA:
    TREES["VisA"](root)
    path = root / "split_csv/1cls.csv"
    path.write_text(change(path.read_text()))
    return VisA(root)


def test_visa_as_published(tmp_path):
    data = opened(VisA, tmp_path, val_split_mode="none")
    before = sorted(tmp_path.rglob("*"))
    assert data.counts().to_dict() == {"train": {"good": 6, "anomaly": 0}, "test": {"good": 4, "anomaly": 4}}  # fmt: skip
    items = [item for item in data.dataset("test") if item.gt_label]
    assert [int(item.gt_mask.sum()) for item in items] == [64] * 4, "values 1 to 4 are all masks"
    assert sorted(tmp_path.rglob("*")) == before, "nothing is copied"


def test_visa_converted_by_others(tmp_path):
    root = mvtec_like(tmp_path / "candle", ("bad",))
    for path in root.rglob("*.png"):
        if "ground_truth" not in path.parts:
            path.rename(path.with_suffix(".JPG"))
    assert len(VisA(tmp_path).table) == 12 and VisA(tmp_path).has_masks


@pytest.mark.parametrize(
    "old, new, match",
    [
        ("train,normal", "validation,normal", "split 'validation'"),
        ("test,anomaly", "test,defect", "label 'defect'"),
        (",candle/Data/Masks/Anomaly/002.png", ",", "anomalies without a mask: .*Anomaly/002.JPG"),
        ("candle/Data/Images/Normal/0003.JPG", "../../secret.JPG", "lead out"),
        ("candle/Data/Images/Normal/0003.JPG", "/etc/secret.JPG", "lead out"),
        ("object,split", "thing,split", "no column object"),
    ],
)
def test_visa_lists(tmp_path, old, new, match):
    with pytest.raises(ValueError, match=match):
        visa_list(tmp_path, lambda text: text.replace(old, new)).table


def test_visa_files_that_are_missing(tmp_path):
    data = opened(VisA, tmp_path)
    (tmp_path / "candle/Data/Images/Normal/0003.JPG").unlink()
    with pytest.raises(FileNotFoundError, match="Normal/0003.JPG"):
        data.table


def test_visa_other_categories_do_not_matter(tmp_path):
    more = "capsules,train,normal,capsules/Data/Images/Normal/0.JPG,\n"
    assert len(visa_list(tmp_path, lambda text: text + more).table) == 14


# ---- BTech --------------------------------------------------------------------------------------
def test_btech_formats_in_any_mix(tmp_path):
    data = opened(BTech, tmp_path)
    assert {"0000.bmp": "0000.png", "0001.png": "0001.png", "0002.bmp": "0002.bmp", "0003.png": "0003.bmp"} == pairs(data)  # fmt: skip
    assert set(data.table["label"]) == {"good", "ko"} and check_dataset(data)


@pytest.mark.parametrize("stem", ["map", "0010_bump", "png", "1.bmp"])
def test_btech_names_that_end_in_letters_of_a_suffix(tmp_path, stem):
    TREES["BTech"](tmp_path)
    paint(tmp_path / f"01/test/ko/{stem}.bmp")
    paint_mask(tmp_path / f"01/ground_truth/ko/{stem}.png")
    assert pairs(BTech(tmp_path))[f"{stem}.bmp"] == f"{stem}.png"


def test_btech_masks_of_good_images_are_no_surplus(tmp_path):
    TREES["BTech"](tmp_path)
    paint_mask(tmp_path / "01/ground_truth/ok/0000.png", empty=True)
    assert BTech(tmp_path).table.query("label == 'good'").mask_path.eq("").all()


# ---- VAD ----------------------------------------------------------------------------------------
def test_vad(tmp_path):
    data = opened(VAD, tmp_path)
    assert not data.has_masks and data.counts().loc["bad", "unused"] == 3
    assert data.root == tmp_path and data.name == "VAD"
    both = VAD(tmp_path, supervised=True)
    assert both.counts().loc["bad", "train"] == 3
    labels = [bool(item.gt_label) for item in both.dataset("train")]
    assert sorted(labels) == [False] * 4 + [True] * 3


def test_vad_without_its_inner_folder(tmp_path):
    TREES["VAD"](tmp_path)
    assert VAD(tmp_path / "vad").table["label"].tolist() == VAD(tmp_path).table["label"].tolist()


def test_vad_unseen_defects(tmp_path):
    TREES["VAD"](tmp_path)
    paint(tmp_path / "vad/test/bad_unseen_defects/9.png")
    assert "bad_unseen_defects" in VAD(tmp_path).counts().index


# ---- MPDD ---------------------------------------------------------------------------------------
def test_mpdd(tmp_path):
    data = opened(MPDD, tmp_path)
    assert data.has_masks and set(data.table["label"]) == {"good", "hole", "scratches"}
