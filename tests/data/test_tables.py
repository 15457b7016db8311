"""Data sets that are tables: what is inferred, what is kept, what is refused."""

import builtins
import json
import pickle

import numpy as np
import pandas as pd
import pytest
from trees import paint, paint_mask

from anomalib_nb.core.io import write_json
from anomalib_nb.data import Datumaro, Tabular, files_below, read_table


@pytest.fixture
def parts(tmp_path):
    "Eight good images, four with a dent, one folder."
    for i in range(12):
        paint(tmp_path / f"{i:02}.png")
        if i >= 8:
            paint_mask(tmp_path / f"{i:02}_mask.png")
    return tmp_path


def columns(good="good", bad="dent", masks=True):
    return {
        "image_path": [f"{i:02}.png" for i in range(12)],
        "label": [good] * 8 + [bad] * 4,
        "mask_path": [f"{i:02}_mask.png" if masks and i >= 8 else "" for i in range(12)],
    }


def opened(samples, root, **loading):
    return Tabular(samples, root, **{"val_split_mode": "none", **loading})


def write(table: pd.DataFrame, path):
    writers = {
        ".csv": lambda: table.to_csv(path, index=False),
        ".parquet": lambda: table.to_parquet(path),
    }
    writers[".json"] = lambda: path.write_text(table.to_json(orient="records"))
    writers[path.suffix]()
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_files_frames_columns_and_rows_are_one(parts, suffix):
    frame = pd.DataFrame(columns())
    expected = opened(frame, parts).table
    assert len(expected) == 12 and expected["mask_path"].ne("").sum() == 4
    for samples in (columns(), frame.to_dict("records"), write(frame, parts / f"t{suffix}")):
        assert opened(samples, parts).table.equals(expected)
    assert opened(str(parts / f"t{suffix}"), None).table.equals(expected)  # beside the file


def test_json_by_columns_as_pandas_writes_it(parts):
    (parts / "t.json").write_text(pd.DataFrame(columns()).to_json())
    assert len(Tabular(parts / "t.json").table) == 12


@pytest.mark.parametrize(
    "given",
    [
        {"label": ["normal"] * 6 + ["normal_test"] * 2 + ["abnormal"] * 4},
        {"label_index": [0] * 8 + [1] * 4},
        {"label_index": [False] * 8 + [True] * 4},
        {"label_index": [0.0] * 8 + [1.0] * 4},
        {"split": ["train"] * 8 + ["test"] * 4},
    ],
    ids=["words", "numbers", "truths", "floats", "splits"],
)
def test_one_column_is_enough(parts, given):
    table = opened({"image_path": columns()["image_path"], **given}, parts).table
    assert table["label_index"].tolist() == [0] * 8 + [1] * 4
    assert (table.loc[8:, "split"] == "test").all() and (table.loc[:5, "split"] == "train").any()
    if "label" in given:  # these two were meant for the test, and nobody else is held out
        assert table["split"].tolist() == ["train"] * 6 + ["test"] * 6


def test_of_splits_and_masks_masks_say_who_is_defective(parts):
    samples = {**columns(), "split": ["train"] * 6 + ["test"] * 6}
    del samples["label"]
    assert opened(samples, parts).table["label_index"].tolist() == [0] * 8 + [1] * 4


def test_own_splits_stay(parts):
    splits = ["train"] * 4 + ["val"] * 2 + ["test"] * 2 + ["val"] * 2 + ["test"] * 2
    data = Tabular({**columns(), "split": splits}, parts)
    assert data.table["split"].tolist() == splits


def test_text_stays_text_and_other_columns_travel(parts):
    samples = {**columns(bad="007"), "shift": ["early", "late"] * 6, "oven": range(12)}
    data = opened(write(pd.DataFrame(samples), parts / "t.csv"), None)
    assert set(data.table["label"]) == {"good", "007"} and data.table["oven"].tolist() == list(
        range(12)
    )
    assert data.dataset("test")[0].info["shift"] in ("early", "late")


@pytest.mark.parametrize("word", ["None", "NA", "null"])
def test_a_word_that_looks_like_nothing_is_a_word(parts, word):
    data = opened(write(pd.DataFrame(columns(bad=word)), parts / "t.csv"), None)
    assert set(data.table["label"]) == {"good", word}


def test_a_table_from_a_spreadsheet_program(parts):
    path = write(pd.DataFrame(columns()), parts / "t.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(Tabular(path).table) == 12


def test_groups_stay_together_and_empty_ones_stand_alone(parts):
    samples = {**columns(), "group": ["a"] * 4 + [None, ""] + ["b"] * 2 + ["c", "c", "d", "d"]}
    for seed in range(4):
        table = Tabular(samples, parts, seed=seed).table
        assert table.groupby("group")["split"].nunique().max() == 1
    assert table["group"].nunique() == 6


def test_the_callers_table_is_not_changed(parts):
    frame = pd.DataFrame({**columns(), "mask_path": [None] * 12})
    before = frame.copy()
    opened(frame, parts).table
    pd.testing.assert_frame_equal(frame, before)


def test_unknown_images_need_a_split(parts):
    samples = columns(bad="unknown", masks=False)
    with pytest.raises(ValueError, match="4 images are unlabelled.*column split"):
        opened(samples, parts).table
    data = opened({**samples, "split": ["train"] * 8 + ["unused"] * 4}, parts)
    assert data.counts().loc["unknown", "unused"] == 4


BAD = {
    "no image_path": ({"image": ["00.png"], "label": ["good"]}, "columns image, label. Expected image_path"),
    "nothing said": ({"image_path": ["00.png"]}, "one of label, label_index, split"),
    "empty": ([], "columns none"),
    "a gap": ({"image_path": ["00.png", None], "label": ["good"] * 2}, "image_path is empty in 1 of 2"),
    "NaN": ({"image_path": ["00.png"], "label_index": [np.nan]}, "label_index is empty"),
    "no word": ({"image_path": ["00.png"], "label": [""]}, "label is empty in 1 of 1 rows, such as row 0"),
    "numbers": ({"image_path": ["00.png", "08.png"], "label": [0, 1]}, "label holds numbers.*label_index"),
    "index 2": ({"image_path": ["00.png"], "label_index": [2]}, "label_index holds 2. Expected"),
    "disagree": (
        {"image_path": ["00.png"], "label": ["good"], "label_index": [1]},
        r"1 of 1 images have a label_index.*00.png \(good\)",
    ),
    "trains": (
        {"image_path": ["08.png"], "label": ["dent"], "split": ["train"]},
        r"1 of 1 images are defective.*08.png \(dent\)",
    ),
    "split": ({"image_path": ["00.png"], "label": ["good"], "split": ["training"]}, "split 'training'"),
    "twice": ({"image_path": ["00.png"] * 2, "label": ["good"] * 2}, "more than once"),
    "outside": ({"image_path": ["../x.png"], "label": ["good"]}, r"1 of 1 paths lead out of .*\.\./x.png"),
    "absolute": ({"image_path": ["/etc/passwd"], "label": ["good"]}, "lead out of .*: /etc/passwd"),
    "mask outside": (
        {"image_path": ["08.png"], "label": ["dent"], "mask_path": ["/etc/passwd"]},
        "lead out of .*: /etc/passwd",
    ),
}  # fmt: skip


@pytest.mark.parametrize("samples, said", BAD.values(), ids=BAD)
def test_what_is_wrong_is_said(parts, samples, said):
    with pytest.raises(ValueError, match=said):
        opened(samples, parts).table


def test_missing_files_are_listed(parts):
    (parts / "03.png").unlink()
    (parts / "09_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 12 files do not exist: .*03.png.*root="):
        opened(columns(), parts).table
    paint(parts / "03.png")
    with pytest.raises(FileNotFoundError, match="1 of 4 files do not exist: .*09_mask.png"):
        opened(columns(), parts).table


def test_a_link_out_of_the_root_is_out(parts, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    paint(other / "00.png")
    (parts / "away").symlink_to(other)
    with pytest.raises(ValueError, match="lead out"):
        opened({"image_path": ["away/00.png"], "label": ["good"]}, parts).table


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".h5", ".hdf", ".xlsx", ""])
def test_other_formats_are_not_opened(parts, suffix):
    path = parts / f"table{suffix}"
    path.write_bytes(pickle.dumps({"image_path": ["00.png"]}))
    with pytest.raises(ValueError, match="No table can be read.*csv, .json, .parquet"):
        Tabular(path).table


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00rubbish", b"[1, 2"], ids=["empty", "bytes", "torn"]
)
def test_a_broken_table_is_named(parts, suffix, content):
    path = parts / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken|columns"):
        Tabular(path).table


def test_an_absent_table(parts):
    with pytest.raises(FileNotFoundError, match="no table .*nowhere.csv"):
        Tabular(parts / "nowhere.csv").table


def test_parquet_without_pyarrow_names_the_extra(parts, monkeypatch):
    path = write(pd.DataFrame(columns()), parts / "t.parquet")
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name.split(".")[0] in ("pyarrow", "fastparquet"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr("pandas.read_parquet", lambda path: refuse("pyarrow"))
    with pytest.raises(ImportError, match=r"needs pyarrow.*anomalib_nb\[tables\]"):
        read_table(path)


def test_many_paths_are_joined_without_asking_for_each(tmp_path, monkeypatch):
    asked = []
    original = type(tmp_path).resolve
    monkeypatch.setattr(
        type(tmp_path), "resolve", lambda self, *a: asked.append(self) or original(self, *a)
    )
    assert len(files_below(tmp_path, [f"{i % 3}/{i}.png" for i in range(3000)])) == 3000
    assert len(asked) < 10


def annotated(root, names, marks, subset="default", media="image"):
    "A project of Datumaro: one image for each list of label numbers."
    items = []
    for i, numbers in enumerate(marks):
        paint(root / f"images/{subset}/{subset}_{i:02}.png")
        annotations = [{"type": "label", "label_id": number} for number in numbers]
        items.append(
            {"id": str(i), media: {"path": f"{subset}_{i:02}.png"}, "annotations": annotations}
        )
    categories = {"label": {"labels": [{"name": name} for name in names]}}
    write_json(root / f"annotations/{subset}.json", {"categories": categories, "items": items})
    return root


@pytest.mark.parametrize(
    "names, good", [(["Normal", "Anomalous"], 0), (["Anomalous", "normal"], 1), (["a", "b"], 0)]
)
def test_names_decide_what_is_good(tmp_path, names, good):
    data = Datumaro(annotated(tmp_path, names, [[good]] * 8 + [[1 - good]] * 4))
    assert data.table["label_index"].tolist() == [0] * 8 + [1] * 4
    assert (data.table.loc[:7, "split"] == "train").sum() == 4  # the other half is held out


def test_every_annotation_counts(tmp_path):
    data = Datumaro(
        annotated(tmp_path, ["good", "hole", "dent"], [[0]] * 4 + [[0, 1], [2, 1], [1, 1], []])
    )
    assert data.table["label"].tolist()[4:] == ["hole", "dent + hole", "hole", "unknown"]
    assert data.table["split"].tolist()[7] == "unused"


def test_files_named_after_splits_are_splits(tmp_path):
    for subset in ("train", "val", "test"):
        annotated(tmp_path, ["good", "dent"], [[0], [0], [1]], subset, media="media")
    counts = Datumaro(tmp_path).counts()
    assert counts.loc["good"].tolist() == [2, 2, 2, 0]
    assert counts.loc["dent"].tolist() == [0, 1, 1, 1]  # the one in train is set aside


def test_what_is_left_out_is_said(tmp_path):
    annotated(tmp_path, ["good", "dent"], [[0]] * 4 + [[1]] * 2)
    path = tmp_path / "annotations/default.json"
    notes = json.loads(path.read_text())
    notes["items"][5]["annotations"].append(
        {"type": "polygon", "points": [1, 1, 5, 1, 5, 5], "label_id": 1}
    )
    path.write_text(json.dumps(notes))
    with pytest.warns(UserWarning, match="1 images of default.json have boxes"):
        assert not Datumaro(tmp_path).has_masks


@pytest.mark.parametrize(
    "notes, said",
    [
        ("{", "is not JSON"),
        ("[]", "no annotations of Datumaro"),
        ('{"categories": {}, "items": []}', "no annotations of Datumaro"),
        ('{"categories": {"label": {"labels": [{"name": "good"}]}}, "items": [{"id": "1"}]}', "no annotations"),
        (
            '{"categories": {"label": {"labels": [{"name": "good"}]}}, "items": '
            '[{"id": "7", "image": {"path": "7.png"}, "annotations": [{"label_id": 3}]}]}',
            "Image '7' has label 3. Expected a number from 0 to 0",
        ),
        (
            '{"categories": {"label": {"labels": [{"name": "good"}]}}, "items": '
            '[{"id": "7", "image": {"path": "../../../7.png"}, "annotations": []}]}',
            "lead out of",
        ),
    ],
)  # fmt: skip
def test_broken_annotations_are_named(tmp_path, notes, said):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/default.json").write_text(notes)
    with pytest.raises(ValueError, match=said):
        Datumaro(tmp_path).table
