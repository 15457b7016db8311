"""Items, batches, skipped files, overviews, films to predict on, and what runs say about their data."""

import base64
import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from trees import mvtec_like, paint, paint_mask

from anomalib_nb.core import Batch
from anomalib_nb.core.io import read_json
from anomalib_nb.data import (
    AnomalibDataModule,
    DemoData,
    Folder,
    collate,
    copies,
    expand,
    loader,
    overview,
    predict_dataset,
    write_demo_folder,
)
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore


@pytest.fixture
def parts(tmp_path):
    return mvtec_like(tmp_path / "parts")


@pytest.fixture
def broken(parts):
    "A cut-off training image, an empty test image, and a mask that is text."
    (parts / "train/good/001.png").write_bytes((parts / "train/good/001.png").read_bytes()[:99])
    (parts / "test/good/002.png").write_bytes(b"")
    (parts / "ground_truth/dent/003_mask.png").write_text("no mask")
    return parts


# words and truth ------------------------------------------------------------------------------


def test_items_carry_the_words_of_their_row(parts):
    class Views(AnomalibDataModule):
        def index(self, root):
            table = Folder(root).table.drop(columns="label_index")
            return table.assign(group="a", regions=[[{"defect": i}] for i in range(len(table))])

    batch = next(iter(Views(parts, val_split_mode="none", num_workers=1).test_dataloader()))
    assert set(batch.info[0]) == {"label", "split", "group", "regions", "image_size"}
    assert [i["label"] == "dent" for i in batch.info] == batch.gt_label.tolist()
    assert isinstance(batch.info[0]["regions"][0]["defect"], int)


@pytest.mark.parametrize("first", [0, 1])
def test_every_item_of_a_batch_is_asked(first):
    "The order of items must not decide which fields a batch has."
    image = torch.rand(3, 8, 8)
    good = Batch(image=image, image_path="a", gt_label=torch.tensor(False))
    bad = Batch(image=image, image_path="b", mask_path="m", gt_label=torch.tensor(True),
                gt_mask=torch.ones(8, 8, dtype=torch.bool), info={"label": "dent"})  # fmt: skip
    items = [good, bad][:: -1 if first else 1]
    batch = collate(items).check()
    assert sorted(batch.mask_path) == ["", "m"] and sorted(map(len, batch.info)) == [0, 1]
    assert batch.gt_mask is None and batch.gt_label.sum() == 1


def test_sizes_that_differ_become_the_largest_of_each_side(tmp_path):
    for i, size in enumerate([(20, 50), (40, 24)]):
        paint(tmp_path / f"train/good/{i}.png", size)
        paint(tmp_path / f"test/bad/{i}.png", size)
        paint_mask(tmp_path / f"ground_truth/bad/{i}.png", size)
        paint(tmp_path / f"test/good/{i}.png", size)
    batch = next(iter(Folder(tmp_path, val_split_mode="none").test_dataloader())).check()
    assert batch.image.shape == (4, 3, 40, 50) and batch.gt_mask.shape == (4, 40, 50)


# skipped files --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_left_out_listed_and_warned_about_once(broken, workers):
    data = Folder(broken, val_split_mode="none", on_error="skip", num_workers=workers)
    with pytest.warns(UserWarning) as said:
        shown = [
            path
            for b in (*data.train_dataloader(), *data.test_dataloader())
            for path in b.image_path
        ]
        list(data.train_dataloader()), list(data.test_dataloader())
    assert len([w for w in said if "cannot be read and are left out" in str(w.message)]) == 2
    lost = data.skipped
    assert [Path(p).parts[-3:] for p in lost["image_path"]] == [
        ("train", "good", "001.png"), ("test", "dent", "003.png"), ("test", "good", "002.png")]  # fmt: skip
    assert "003_mask.png" in lost["reason"][1] and "empty" in lost["reason"][2]
    assert len(shown) == 12 - 3 and not set(shown) & set(lost["image_path"])
    assert "3 unreadable images left out" in repr(data) and "3 unreadable" in data._repr_html_()


def test_a_broken_file_that_is_not_skipped_is_named(broken):
    with pytest.raises(ValueError, match=r"train/good/001\.png cannot be read"):
        list(Folder(broken).train_dataloader())


def test_splits_do_not_depend_on_what_can_be_read(parts):
    before = Folder(parts, on_error="skip").table
    (parts / "test/good/002.png").write_bytes(b"")
    assert Folder(parts, on_error="skip").table.equals(before)


def test_a_whole_broken_batch_is_no_empty_one(parts):
    for path in sorted((parts / "test/good").iterdir()):
        path.write_bytes(b"")
    data = Folder(parts, val_split_mode="none", on_error="skip", eval_batch_size=2)
    assert [len(b) for b in data.test_dataloader()] == [2, 2]


def test_nothing_left_to_train_on_is_said(parts):
    for path in (parts / "train/good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="no normal image to train on"):
        Folder(parts, on_error="skip").train_dataloader()


def test_looking_for_broken_files_disturbs_no_generator(broken):
    before = torch.get_rng_state()
    Folder(broken, on_error="skip").train_dataloader()
    assert torch.equal(before, torch.get_rng_state())


def test_predictions_stay_aligned_with_what_was_read(broken):
    found = predict_dataset(broken / "test", on_error="skip", size=(16, 16))
    assert (
        len(found) == 7
        and [b.image_path for b in loader(found, 7)][0] == found.table["image_path"].tolist()
    )
    with pytest.raises(ValueError, match="No image can be read"):
        predict_dataset(broken / "test/good/002.png", on_error="skip")


# runs -----------------------------------------------------------------------------------------


def small():
    return PatchCore(weights="random", coreset_sampling_ratio=0.05)


def test_a_run_goes_on_without_broken_files(broken, tmp_path):
    engine, model = Engine(tmp_path / "results", accelerator="cpu"), small()
    data = Folder(broken, on_error="skip", val_split_mode="same_as_test")
    engine.fit(model, data)
    assert np.isfinite(engine.test(model, data)["image_AUROC"])
    told = read_json(engine.run / "metrics.json")
    assert told["judged_images_that_thresholds_have_seen"] == told["images"] == 6
    run = engine.predict(model, data)
    assert len(run) == 8 - 2 and not set(run.paths) & set(data.skipped["image_path"])
    assert len(engine.predict(model, broken / "test", on_error="skip")) == 7


def test_without_a_test_there_is_an_answer_and_no_run(parts, tmp_path):
    engine, model = Engine(tmp_path / "results", accelerator="cpu"), small()
    data = Folder(parts, test_split_mode="none")
    engine.fit(model, data)
    before = sorted((tmp_path / "results").rglob("*"))
    for verb in (engine.test, engine.predict):
        with pytest.raises(ValueError, match="no test images to .*test_split_mode is 'none'"):
            verb(model, data)
    with pytest.raises(ValueError, match="no val images to validate"):
        engine.validate(model, Folder(parts, val_split_mode="none"))
    assert sorted((tmp_path / "results").rglob("*")) == before


def test_a_run_on_made_defects_keeps_their_pictures(parts, tmp_path):
    engine, model = Engine(tmp_path / "results", accelerator="cpu"), small()
    data = Folder(parts, test_split_mode="synthetic", val_split_mode="synthetic", eval_batch_size=1)
    engine.fit(model, data)
    assert "1 anomalous" in model.post.fitted_on and np.isfinite(
        engine.test(model, data)["pixel_AUPRO"]
    )
    run = engine.predict(model, data)
    assert (run.labels == [("#" in path) for path in run.paths]).all() and run.labels.sum() == 2
    assert all(item.image is not None for item in run)


# films ----------------------------------------------------------------------------------------


@pytest.fixture
def film(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "belt.mp4"
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for i in range(5):
            frame = av.VideoFrame.from_ndarray(
                np.full((24, 32, 3), 40 * i, np.uint8), format="rgb24"
            )
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path


def test_a_video_is_its_frames(film):
    assert [Path(p).name for p in expand(film)] == [f"belt.mp4#{i:06}" for i in range(5)]
    assert expand(film.parent / "*.mp4") == expand(film)
    found = predict_dataset([film, np.zeros((24, 32, 3), np.uint8)])
    assert len(found) == 6
    assert [round(float(found[i].image.mean()) * 255 / 40) for i in range(5)] == [0, 1, 2, 3, 4]


def test_a_video_without_pyav_says_what_to_install(film, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    copy = film.with_name("other.mp4")
    copy.write_bytes(film.read_bytes())
    with pytest.raises(ImportError, match=r"pip install .anomalib_nb\[video\]"):
        predict_dataset(copy)


def test_a_video_that_is_none_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"no\.mp4 cannot be read as a video"):
        predict_dataset(tmp_path / "no.mp4")


# overviews ------------------------------------------------------------------------------------


def test_an_overview_counts_sizes_copies_and_broken_files(broken):
    paint(broken / "test/good/900.png", (16, 48), "L")
    (broken / "train/good/901.png").write_bytes((broken / "test/good/000.png").read_bytes())
    seen = overview(Folder(broken))
    assert seen.looked_at == 14 and seen.unreadable == 1 and seen.copies == 1
    assert seen.sizes == "32 × 32 (12), 16 × 48 (1)" and seen.colours == "RGB (12), grey (1)"


def test_a_page_holds_a_picture_the_licence_and_no_markup_of_others(tmp_path):
    data = Folder(mvtec_like(tmp_path / "x", ("<b>dent",)), name="<i>parts")
    data.licence = "CC0"
    page = data._repr_html_()
    assert "licence: CC0" in page and "<i>" not in page and "<b>dent" not in page
    picture = Image.open(io.BytesIO(base64.b64decode(page.split("base64,")[1].split('"')[0])))
    assert picture.width == 8 * 96 + 7 * 4


def test_an_overview_is_the_same_each_time(parts):
    pages = {Folder(parts)._repr_html_() for _ in range(2)}
    assert len(pages) == 1
    assert np.array_equal(np.asarray(Folder(parts).show(5)), np.asarray(Folder(parts).show(5)))


def test_show_marks_every_label_and_survives_broken_files(broken):
    assert Folder(broken).show(4, side=64, columns=2).size == (132, 2 * (64 + 1 + 18) + 4)


def test_a_page_of_many_rows_reads_few_of_them():
    class Many(AnomalibDataModule):
        reads = 0

        def index(self, root):
            paths = [f"/nowhere/{i:06}.png" for i in range(50_000)]
            return pd.DataFrame({"image_path": paths, "split": "train", "label": "good"})

        def read_image(self, path):
            Many.reads += 1
            return np.zeros((8, 8, 3), np.uint8)

    data = Many("/nowhere")
    assert "50000 images" in data._repr_html_() and Many.reads <= 16


def test_copies_are_whole_files_not_lengths(tmp_path):
    for name, content in {"a": b"x" * 9000, "b": b"x" * 9000, "c": b"y" * 9000}.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in "abc"]
    assert copies([*paths, "no file"]) == [paths[:2]]


def test_the_demo_data_show_themselves():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "base64" in DemoData(train=2, test=4, size=32)._repr_html_()


def test_written_demo_data_open_again(tmp_path):
    assert len(Folder(write_demo_folder(tmp_path / "x", train=2, test=4, size=32)).table) == 6
