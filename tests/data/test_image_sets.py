"""The traps of Kolektor, Real-IAD, AutoVI, BMAD and Kaputt, each on a small tree of its layout."""

import json
import shutil
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from trees import TREES, bmad, paint, paint_mask, real_iad

from anomalib_nb.data import (
    BMAD,
    AutoVI,
    Kaputt,
    Kolektor,
    NamedDataModule,
    RealIAD,
    get_datamodule,
    list_datasets,
)


@pytest.fixture
def planted(tmp_path):
    "Write the tree of a class and return its root."
    return lambda kind: (TREES[kind.__name__](tmp_path), tmp_path)[1]


SETS = (Kolektor, RealIAD, AutoVI, BMAD, Kaputt)


@pytest.mark.parametrize("kind", SETS)
def test_facts_are_told_where_there_is_no_network(kind, tmp_path, monkeypatch, capsys):
    def offline(url, start):
        raise URLError("no network")

    monkeypatch.setattr("anomalib_nb.data.download.ask", offline)
    assert kind.licence.startswith("CC BY-NC") and kind.homepage.startswith("https://")
    assert issubclass(kind, NamedDataModule) and kind.__name__ in list_datasets()
    with pytest.raises(ConnectionError if kind.source else FileNotFoundError) as error:
        kind.download(tmp_path)
    assert kind.homepage in str(error.value)
    assert kind.licence in capsys.readouterr().out


@pytest.mark.parametrize("kind", SETS)
def test_a_category_that_does_not_exist(kind, tmp_path):
    with pytest.raises(ValueError, match=f"{kind.title} has no category 'engine_wirin'"):
        kind(tmp_path, "engine_wirin")


# ---- KolektorSDD


def test_a_black_mask_is_a_good_image(planted):
    data = Kolektor(planted(Kolektor), val_split_mode="none")
    counts = data.counts()
    assert counts.loc["defect", "test"] == 4 and counts.loc["good"].sum() == 20
    assert counts.loc["good", "test"] == 4  # a fifth


def test_the_seed_of_the_data_set_draws(planted):
    root = planted(Kolektor)
    held = [
        frozenset(
            Kolektor(root, val_split_mode="none", seed=seed)
            .dataset("test")
            .table.query("label == 'good'")["image_path"]
        )
        for seed in (0, 0, 1, 2)
    ]
    assert held[0] == held[1] and len(set(held)) > 1


def test_the_share_can_be_chosen(planted):
    data = Kolektor(planted(Kolektor), test_split_ratio=0.5, val_split_mode="none")
    assert data.counts().loc["good", "test"] == 10


def test_every_image_has_a_mask_or_is_named(planted):
    root = planted(Kolektor)
    (root / "kos02/Part1_label.bmp").unlink()
    with pytest.raises(ValueError, match="1 images have no mask: kos02/Part1.jpg.*Part0_label.bmp"):
        Kolektor(root).table


def test_an_empty_folder_is_no_data_set(tmp_path):
    (tmp_path / "kos01").mkdir()
    with pytest.raises(FileNotFoundError, match="There is no KolektorSDD.*Part0.jpg"):
        Kolektor(tmp_path).table


def test_an_archive_that_was_unpacked_into_a_folder_of_its_own(planted, tmp_path):
    planted(Kolektor)
    (tmp_path / "KolektorSDD").mkdir()
    for folder in tmp_path.glob("kos*"):
        shutil.move(folder, tmp_path / "KolektorSDD" / folder.name)
    assert len(Kolektor(tmp_path).table) == 24


def test_narrow_pictures_keep_their_shape_until_asked(planted):
    data = Kolektor(planted(Kolektor))
    item = data.dataset("test")[0]
    assert item.image.shape == (3, 64, 26) and item.gt_mask.shape == (64, 26)


# ---- Real-IAD


def test_good_test_images_stay(planted):
    counts = RealIAD(planted(RealIAD)).counts()
    assert counts.loc["good", "val"] > 0 and counts.loc["good", "test"] > 0
    assert counts.loc["good"].sum() == 52 and counts.loc["BX"].sum() == 8


@pytest.mark.parametrize("modes", [{}, {"val_split_mode": "from_train"}, {"val_split_ratio": 0.3}])
def test_the_views_of_a_part_stay_together(planted, modes):
    root = planted(RealIAD)
    for seed in range(3):
        table = RealIAD(root, seed=seed, **modes).table
        used = table[table["split"] != "unused"]
        assert used.groupby("group")["split"].nunique().max() == 1
        assert (used.groupby("group").size() == 5).all()


def test_a_view_that_shows_nothing_is_good_although_its_part_is_not(planted):
    table = RealIAD(planted(RealIAD)).table
    mixed = table[table["group"].str.startswith("NG")].groupby("group")["label"].nunique()
    assert (mixed == 2).all() and (table["mask_path"].ne("") == table["label"].eq("BX")).all()


def test_protocols_are_files(tmp_path):
    real_iad(tmp_path)
    real_iad(tmp_path, file="realiad_jsons_sv")
    noisy = json.loads((tmp_path / "realiad_jsons/realiad_jsons/audiojack.json").read_text())
    noisy["train"] += [entry for entry in noisy["test"] if entry["mask_path"]][:3]
    noisy["test"] = [entry for entry in noisy["test"] if entry not in noisy["train"]]
    folder = tmp_path / "realiad_jsons/realiad_jsons_fuiad_0.1"
    folder.mkdir()
    (folder / "audiojack.json").write_text(json.dumps(noisy))
    assert len(RealIAD(tmp_path, protocol="single_view").table) == 60
    assert RealIAD(tmp_path, protocol="noisy_0.1").counts().loc["BX", "train"] == 3
    with pytest.raises(FileNotFoundError, match="fuiad_0.2"):
        RealIAD(tmp_path, protocol="noisy_0.2").table


@pytest.mark.parametrize("resolution", [512, "raw", "512"])
def test_resolutions_are_folders(tmp_path, resolution):
    real_iad(tmp_path)
    (tmp_path / "realiad_256").rename(tmp_path / f"realiad_{resolution}")
    assert len(RealIAD(tmp_path, resolution=resolution).table) == 60
    with pytest.raises(FileNotFoundError, match="realiad_256"):
        RealIAD(tmp_path).table


@pytest.mark.parametrize("wrong", [{"resolution": 300}, {"protocol": "multi-view"}])
def test_other_copies_do_not_exist(tmp_path, wrong):
    with pytest.raises(ValueError, match="Real-IAD has no '.*Expected one of"):
        RealIAD(tmp_path, **wrong)


@pytest.mark.parametrize(
    "content", ["[]", '{"train": [{"image": 1}]}', '{"train": [], "test": []}']
)
def test_a_list_that_is_none_is_named(planted, content):
    root = planted(RealIAD)
    (root / "realiad_jsons/realiad_jsons/audiojack.json").write_text(content)
    with pytest.raises(ValueError, match="audiojack.json is no list of Real-IAD"):
        RealIAD(root).table


def test_a_list_cannot_lead_out(planted):
    root = planted(RealIAD)
    entry = {"image_path": "../../../secret/x.png", "mask_path": None, "anomaly_class": "OK"}
    path = root / "realiad_jsons/realiad_jsons/audiojack.json"
    path.write_text(json.dumps({"train": [entry], "test": [entry]}))
    with pytest.raises(ValueError, match="lead out"):
        RealIAD(root).table


def test_thousands_of_rows_are_read_once(tmp_path):
    entries = [
        {"image_path": f"OK/S{i // 5:05}/a_{i}.jpg", "mask_path": None, "anomaly_class": "OK"}
        for i in range(20_000)
    ]
    (tmp_path / "realiad_256/tape").mkdir(parents=True)
    folder = tmp_path / "realiad_jsons/realiad_jsons"
    folder.mkdir(parents=True)
    (folder / "tape.json").write_text(
        json.dumps({"train": entries[:10_000], "test": entries[10_000:]})
    )
    table = RealIAD(tmp_path, "tape", val_split_mode="none").table
    assert table["split"].value_counts().to_dict() == {"train": 10_000, "test": 10_000}


# ---- AutoVI


def test_all_masks_of_an_image_are_one(planted):
    data = AutoVI(planted(AutoVI))
    masks = {
        row.label: data.read_mask(row.mask_path) for row in data.table.itertuples() if row.mask_path
    }
    assert masks["blue_hoop"].sum() == 64 and masks["multiple"].sum() == 64 + 32 - 8


def test_an_image_without_masks_is_named(planted):
    root = planted(AutoVI)
    shutil.rmtree(root / "engine_wiring/ground_truth/multiple/002")
    with pytest.raises(ValueError, match="1 images without masks: multiple/002.png"):
        AutoVI(root).table


def test_suffixes_of_any_case(planted):
    root = planted(AutoVI)
    for suffix, path in zip(
        ("PNG", "jpg", "JPEG"), sorted((root / "engine_wiring/test/blue_hoop").iterdir())
    ):
        Image.open(path).save(path.with_suffix(f".{suffix}"))
        path.unlink()
    assert AutoVI(root).counts().loc["blue_hoop"].sum() == 4


def test_other_categories_need_not_be_there(planted):
    root = planted(AutoVI)
    assert len(AutoVI(root).table) == 16
    with pytest.raises(FileNotFoundError, match="There is no AutoVI in .*tank_screw"):
        AutoVI(root, "tank_screw").table


# ---- BMAD


def test_validation_comes_with_the_data_and_has_both_kinds(planted):
    data = BMAD(planted(BMAD))
    assert data.counts().loc["Ungood"].tolist() == [0, 4, 4]
    assert data.counts().loc["good"].tolist() == [4, 4, 4]


def test_masks_are_no_images_and_masks_of_good_ones_are_not_used(planted):
    table = BMAD(planted(BMAD)).table
    assert not table["image_path"].str.contains("/label/").any()
    assert (table["mask_path"].ne("") == table["label"].eq("Ungood")).all()


def test_without_masks_labels_are_all_there_is(tmp_path):
    bmad(tmp_path, "Chest", masks=False)
    data = BMAD(tmp_path, "Chest")
    assert not data.has_masks
    batch = next(iter(data.test_dataloader())).check()
    assert batch.gt_mask is None and batch.gt_label.sum() == 4


def test_a_split_whose_defects_have_no_masks_has_none(planted):
    root = planted(BMAD)
    shutil.rmtree(root / "Brain/valid/Ungood/label")
    data = BMAD(root)
    masks = [next(iter(some())).gt_mask for some in (data.val_dataloader, data.test_dataloader)]
    assert masks[0] is None and masks[1].any() and "not of 4 defective images" in data.facts()


# ---- Kaputt


def test_defective_training_queries_do_not_train(planted):
    data = Kaputt(planted(Kaputt), "all")
    counts = data.counts()
    assert counts.loc["deformation + hole"].tolist() == [0, 8, 8, 8]
    assert counts.loc["good"].tolist() == [8, 8, 8, 0]


def test_references_follow_the_material_of_their_item(planted):
    root = planted(Kaputt)
    both = Kaputt(root, "paper", image_mode="query_and_reference").table
    assert set(both["material"]) == {"paper"}
    references = both[both["image_path"].str.contains("reference-image")]
    assert len(references) == 8 and references["image_path"].str.contains("train-paper").all()
    assert (references["split"] == "train").all() and (references["label"] == "good").all()


def test_references_alone(planted):
    table = Kaputt(planted(Kaputt), image_mode="reference_only").table
    train = table[table["split"] == "train"]
    assert len(train) == 8 and train["image_path"].str.contains("reference-image").all()
    assert {"val", "test"} <= set(table["split"])


def test_masks_outline_the_item_and_are_no_truth(planted):
    root = planted(Kaputt)
    whole, cut = Kaputt(root), Kaputt(root, image_type="crop")
    assert not whole.has_masks and not cut.has_masks
    item = whole.dataset("test")[0]
    assert whole.read_mask(item.info["item_mask"]).shape == (32, 40) == tuple(item.image.shape[-2:])
    assert "item_mask" not in cut.table and cut.dataset("test")[0].image.shape == (3, 20, 24)


def test_indexing_asks_for_no_file(planted):
    root = planted(Kaputt)
    shutil.rmtree(root / "query-image")
    data = Kaputt(root)
    assert len(data.table) == 24
    with pytest.raises(FileNotFoundError, match="no image .*query-image"):
        data.dataset("test")[0]


def test_kinds_of_defects_may_be_lists_words_or_absent(planted):
    root = planted(Kaputt)
    path = root / "datasets/query-test.parquet"
    table = pd.read_parquet(path)
    table["defect_types"] = [["tear", "hole"] if i == 8 else None for i in range(len(table))]
    table.to_parquet(path)
    labels = Kaputt(root).table.query("split == 'test'")["label"]
    assert set(labels) == {"good", "defect", "hole + tear"}


@pytest.mark.parametrize("wrong", [{"image_type": "crops"}, {"image_mode": "references"}])
def test_other_modes_do_not_exist(tmp_path, wrong):
    with pytest.raises(ValueError, match="Kaputt has no '.*Expected one of.*Did you mean"):
        Kaputt(tmp_path, **wrong)


# ---- all of them


@pytest.mark.parametrize("kind", SETS)
def test_accents_hidden_files_and_other_files(kind, tmp_path):
    root = tmp_path / "données 数据"
    TREES[kind.__name__](root)
    expected = len(get_datamodule(kind.__name__, root=root).table)
    for folder in {path.parent for path in root.rglob("*.*") if path.suffix in (".png", ".jpg")}:
        (folder / "notes.txt").write_text("hello")
        (folder / "._000.png").write_bytes(b"\0")
    data = get_datamodule(kind.__name__, root=root)
    assert len(data.table) == expected
    for split in ("train", "val", "test"):
        for item in data.dataset(split):
            assert item.image.ndim == 3


def test_masks_are_bool_whatever_their_values(tmp_path):
    paint(tmp_path / "kos01/Part0.jpg")
    paint_mask(tmp_path / "kos01/Part0_label.bmp", value=1)
    table = Kolektor(tmp_path, test_split_mode="none").index(tmp_path)
    assert table["label"].tolist() == ["defect"]
    assert np.asarray(Kolektor.read_mask(table["mask_path"][0])).dtype == bool
