"""Which image is on which side: every mode, with small sets, groups, seeds, and unlabelled images."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_nb.data import (
    AnomalibDataModule,
    DemoData,
    Folder,
    leaks,
    write_demo_folder,
)
from anomalib_nb.data.splits import SPLIT_MODES, belongs_to, made_from, stratified
from anomalib_nb.processing import list_defects


def module(train=10, good=4, bad=6, val=0, unknown=0, group=None, **arguments):
    "A data module over names of images."
    rows = [
        {"image_path": f"/data/{split}/{label}/{i:03}.png", "split": split, "label": label}
        for split, label, count in [("train", "good", train), ("test", "good", good), ("test", "dent", bad),
                                    ("val", "good", val), ("test", "unknown", unknown)]
        for i in range(count)
    ]  # fmt: skip

    class Names(AnomalibDataModule):
        def index(self, root):
            table = pd.DataFrame(rows)
            return table if group is None else table.assign(group=group(table))

    return Names("/data", **arguments)


def share(data):
    "split -> (normal, defective)"
    table = data.table
    return {
        split: (int((rows["label_index"] == 0).sum()), int((rows["label_index"] == 1).sum()))
        for split, rows in table.groupby("split")
    }


# the matrix of the fact sheet: 10 train, 4 normal and 6 anomalous test images ------------------


@pytest.mark.parametrize(
    "test, val, expected",
    [
        ("from_dir", "from_test", {"train": (10, 0), "val": (2, 3), "test": (2, 3)}),
        ("from_dir", "from_train", {"train": (5, 0), "val": (5, 0), "test": (4, 6)}),
        ("from_dir", "synthetic", {"train": (5, 0), "val": (3, 2), "test": (4, 6)}),
        ("from_dir", "same_as_test", {"train": (10, 0), "test": (4, 6)}),
        ("from_dir", "none", {"train": (10, 0), "test": (4, 6)}),
        ("synthetic", "same_as_test", {"train": (10, 0), "test": (2, 2), "unused": (0, 6)}),
        ("synthetic", "from_test", {"train": (10, 0), "val": (1, 1), "test": (1, 1), "unused": (0, 6)}),
        ("synthetic", "synthetic", {"train": (5, 0), "val": (3, 2), "test": (2, 2), "unused": (0, 6)}),
        ("none", "from_train", {"train": (5, 0), "val": (5, 0), "unused": (4, 6)}),
        ("none", "auto", {"train": (5, 0), "val": (5, 0), "unused": (4, 6)}),
    ],
)  # fmt: skip
def test_the_matrix(test, val, expected):
    assert share(module(test_split_mode=test, val_split_mode=val)) == expected


def test_own_validation_images_win_and_are_set_aside_otherwise():
    assert share(module(val=3))["val"] == (3, 0)
    assert share(module(val=3, val_split_mode="from_test")) == {
        "train": (10, 0), "val": (2, 3), "test": (2, 3), "unused": (3, 0)}  # fmt: skip


def test_a_test_part_without_normals_gets_some_of_train():
    assert share(module(good=0, val_split_mode="none")) == {"train": (8, 0), "test": (2, 6)}
    assert share(module(good=0, val_split_mode="none", test_split_ratio=0.5)) == {
        "train": (5, 0),
        "test": (5, 6),
    }
    assert share(module(good=0, bad=0, test_split_mode="synthetic", val_split_mode="none")) == {
        "train": (8, 0), "test": (1, 1)}  # fmt: skip


@pytest.mark.parametrize("train, bad", [(8, 4), (3, 5), (4, 1), (5, 9), (2, 3)])
def test_validation_has_a_normal_image_however_small_the_set(train, bad):
    data = module(train=train, good=0, bad=bad)
    normal = {split: counts[0] for split, counts in share(data).items()}
    assert normal["train"] >= 1 and normal.get("val", 0) >= (bad > 1)
    if train > 2:
        assert normal["test"] >= 1


def test_unlabelled_test_images_never_set_a_threshold():
    data = module(good=0, bad=0, unknown=6)
    assert (data.table.loc[data.table["label"] == "unknown", "split"] == "test").all()
    assert share(data)["val"] == (5, 0)
    mixed = module(unknown=6)
    assert (mixed.table.loc[mixed.table["label"] == "unknown", "split"] == "test").all()


@pytest.mark.parametrize(
    "arguments, words",
    [({"test_split_mode": "form_dir"}, "Did you mean 'from_dir'"), ({"val_split_mode": "same_as_tets"}, "same_as_test"),
     ({"val_split_ratio": 0, "val_split_mode": "from_train"}, "between 0 and 1"), ({"test_split_ratio": 1.0, "good": 0}, "between 0 and 1"),
     ({"test_split_mode": "none", "val_split_mode": "from_test"}, "no labelled test images"),
     ({"test_split_mode": "none", "val_split_mode": "same_as_test"}, "no labelled test images"),
     ({"test_split_mode": "synthetic", "good": 1}, "Expected two or more"),
     ({"val_split_mode": "from_dir"}, "no validation images of its own"),
     ({"group_by": r"part(\d+)"}, "finds nothing in test/dent/000.png")],
)  # fmt: skip
def test_what_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        module(**arguments).table


# groups ---------------------------------------------------------------------------------------


def by_part(table):
    return (
        table["split"]
        + (table.groupby(["split", "label"]).cumcount() // 2).astype(str)
        + table["label"]
    )


@pytest.mark.parametrize("test, val", itertools.product(*SPLIT_MODES.values()))
def test_no_group_is_on_two_sides(test, val):
    if val == "from_dir" or test == "none" and val in ("from_test", "same_as_test"):
        return  # refused, see above
    table = module(group=by_part, test_split_mode=test, val_split_mode=val).table
    assert table[table["split"] != "unused"].groupby("group")["split"].nunique().max() == 1


def test_good_views_of_a_defective_part_do_not_train():
    data = module(
        train=12,
        good=0,
        bad=3,
        group=lambda t: t["image_path"].str[-7:-4].astype(int) % 6,
        val_split_mode="none",
    )
    table = data.table
    assert set(table.loc[table["split"] == "train", "group"]).isdisjoint(
        table.loc[table["split"] == "test", "group"]
    )
    assert share(data) == {"train": (6, 0), "test": (6, 3)}


def test_kinds_that_occur_once_are_on_both_sides():
    labels = ["good"] * 4 + ["dent", "hole", "stain", "crack"]
    table = pd.DataFrame({"image_path": [f"{i}.png" for i in range(8)], "label": labels})
    moved = table[stratified(table, 0.5, 0)]
    assert (moved["label"] == "good").sum() == 2 and len(moved) == 4
    grouped = table.assign(label=labels, group=list("aabbccdd"))  # groups of mixed labels
    assert stratified(grouped, 0.5, 0).sum() == 4


def test_images_without_a_group_are_their_own():
    table = module(group=lambda t: [None, ""] * 10).table
    assert belongs_to(table).nunique() == len(table)


@pytest.mark.parametrize("group_by", [r"/(\d)\d+\.png", lambda path: path[-7]])
def test_a_folder_says_its_groups(tmp_path, group_by):
    write_demo_folder(tmp_path / "parts", train=16, test=12, size=32)
    table = Folder(tmp_path / "parts", group_by=group_by).table
    assert (table["group"] == table["image_path"].str[-7]).all()


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 5), min_size=2, max_size=12),
    st.floats(0.05, 0.95),
)
@settings(deadline=None, max_examples=60)
def test_groups_move_whole_and_both_sides_have_some(seed, sizes, ratio):
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    table = pd.DataFrame(
        {"image_path": [f"{i}.png" for i in range(len(groups))], "label": "good", "group": groups}
    )
    moved = stratified(table, ratio, seed)
    assert table.assign(moved=moved).groupby("group")["moved"].nunique().max() == 1
    assert 0 < moved.sum() < len(table)
    assert abs(moved.sum() - ratio * len(table)) <= max(sizes)


# the same tomorrow ----------------------------------------------------------------------------


def test_seeds_decide_and_the_global_generators_do_not():
    np.random.seed(1)
    first, state = module(seed=5).table, np.random.get_state()[1].copy()
    np.random.seed(2)
    assert module(seed=5).table.equals(first) and not module(seed=6).table.equals(first)
    np.random.seed(1)
    module(seed=5).table
    assert (np.random.get_state()[1] == state).all()


def test_the_place_of_a_folder_does_not_matter(tmp_path):
    tables = []
    for home in ("a", "z/deeper"):
        write_demo_folder(tmp_path / home, train=6, test=12, size=32)
        data = Folder(tmp_path / home, test_split_mode="synthetic", val_split_mode="synthetic")
        pictures = [data.images(path).tobytes() for path in data.table["image_path"]]
        tables.append((data.table["split"].tolist(), pictures))
    assert tables[0] == tables[1]


# defects that are made ------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_defects())
def test_made_defects_are_the_same_whenever_they_are_read(name):
    data = DemoData(train=8, test=4, size=48, val_split_mode="synthetic")
    data.synthetic_defects = (name,)
    again = DemoData(train=8, test=4, size=48, val_split_mode="synthetic", num_workers=1)
    again.synthetic_defects = (name,)
    one, two = next(iter(data.val_dataloader())), next(iter(again.val_dataloader()))
    assert (one.image == two.image).all() and (one.gt_mask == two.gt_mask).all()
    assert (one.gt_mask.flatten(1).any(1) == one.gt_label).all() and one.gt_label.sum() == 2
    made = [info["synthetic"] for info in one.info]
    assert sorted(made) == ["", "", name, name]


def test_made_defects_change_the_image_under_the_mask_only():
    data = DemoData(train=8, test=4, size=48, val_split_mode="synthetic")
    for path in data.table.loc[data.table["label"] == "synthetic", "image_path"]:
        changed = (data.images(path) != data.images(made_from(path)[0])).any(-1)
        assert changed.any() and not (changed & ~data.masks(path)).any()


def test_made_defects_have_masks_where_real_ones_have_none(tmp_path):
    write_demo_folder(tmp_path / "parts", train=8, test=12, size=32)
    data = Folder(tmp_path / "parts", mask_dir=False, val_split_mode="synthetic")
    assert next(iter(data.val_dataloader())).gt_mask.any()
    assert next(iter(data.test_dataloader())).gt_mask is None  # unknown is not empty


def test_nothing_is_written(tmp_path):
    write_demo_folder(tmp_path / "parts", train=8, test=12, size=32)
    before = sorted(tmp_path.rglob("*"))
    data = Folder(tmp_path / "parts", test_split_mode="synthetic", val_split_mode="synthetic")
    list(data.val_dataloader()), list(data.test_dataloader())
    assert sorted(tmp_path.rglob("*")) == before


# leaks ----------------------------------------------------------------------------------------


def test_only_files_of_one_length_are_read(tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(bytes([i % 5]) * (10 + i % 5))
    table = pd.DataFrame({"image_path": [str(tmp_path / f"{i}.png") for i in range(6)],
                          "split": ["train", "test", "test", "train", "val", "test"]})  # fmt: skip
    found = leaks(table)
    assert [path[-5] for path in found["image_path"]] == ["5", "0"] and found[
        "content"
    ].nunique() == 1
    (tmp_path / "1.png").unlink()
    assert len(leaks(table)) == 2  # an absent file leaks nothing


def test_unused_images_leak_nothing(tmp_path):
    write_demo_folder(tmp_path / "parts", train=4, test=12, size=32)
    train = tmp_path / "parts/train/good/000.png"
    (tmp_path / "parts/test/good/900.png").write_bytes(train.read_bytes())
    assert len(Folder(tmp_path / "parts").leaks()) == 2
    assert Folder(tmp_path / "parts", test_split_mode="none").leaks().empty
