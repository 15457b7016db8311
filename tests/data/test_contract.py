"""Every data set of the list, on a small tree of its true layout."""

import re
import socket
import warnings
from pathlib import Path

import pytest
import torch
from trees import TREES

from anomalib_nb.data import check_dataset, get_datamodule, list_datasets

NAMES = sorted({*list_datasets(), *TREES})


@pytest.fixture(params=NAMES)
def name(request):
    assert request.param in TREES, (
        f"tests/data/trees.py has no tree of {request.param}: write one, @tree({request.param!r})"
    )
    assert request.param in list_datasets(), f"there is no data set {request.param}"
    return request.param


@pytest.fixture
def opened(name, tmp_path):
    arguments = TREES[name](tmp_path) or {"root": tmp_path}
    return lambda **more: get_datamodule(name, **{**arguments, **more})


def test_it_passes_its_check(opened):
    check_dataset(opened())


def test_batches_have_what_was_promised(opened):
    data = opened(train_batch_size=2, eval_batch_size=3)
    data.size = (32, 32)
    for batches in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in batches:
            batch.check()
            assert batch.image.shape[-2:] == (32, 32) and batch.image.dtype == torch.float32
            assert 0 <= batch.image.min() and batch.image.max() <= 1
            assert len(batch.info) == len(batch) and all(
                {"label", "split"} <= set(i) for i in batch.info
            )
            if batch.gt_mask is not None and batch.gt_label is not None:
                marked = batch.gt_mask.flatten(1).any(1)
                assert not (marked & ~batch.gt_label).any(), "a good image has a mask"


def test_the_second_reading_is_the_first(opened):
    one, two = opened(seed=3), opened(seed=3)
    assert one.table.equals(two.table)
    assert (
        next(iter(one.train_dataloader())).image_path
        == next(iter(two.train_dataloader())).image_path
    )


def test_nobody_is_in_two_splits(opened):
    data = opened()
    assert data.leaks().empty and not data.table["image_path"].duplicated().any()
    if "group" in data.table:
        used = data.table[data.table["split"] != "unused"]
        assert used.groupby("group")["split"].nunique().max() == 1


def test_it_says_what_it_is(opened):
    data = opened()
    assert data.name in repr(data) and str(len(data.table)) in repr(data)
    assert len(data._repr_html_()) > 100


def test_a_broken_file_is_named_or_left_out(opened):
    table = opened().table
    paths = [
        path for path in table.loc[table["split"] == "train", "image_path"] if Path(path).is_file()
    ]
    if not paths:
        return  # drawn, or frames of videos
    Path(paths[0]).write_bytes(b"broken")
    with pytest.raises(ValueError, match=re.escape(Path(paths[0]).name)):
        list(opened().train_dataloader())
    data = opened(on_error="skip")
    with pytest.warns(UserWarning, match="left out"):
        read = [path for batch in data.train_dataloader() for path in batch.image_path]
    assert read and paths[0] not in read and data.skipped["image_path"].tolist() == [paths[0]]


def test_absent_data_are_explained(name, tmp_path, monkeypatch):
    if name in ("DemoData",):
        return  # draws its images
    monkeypatch.setattr(socket, "create_connection", None)  # calling it would raise
    with warnings.catch_warnings(), pytest.raises((FileNotFoundError, TypeError)) as error:
        get_datamodule(name, root=tmp_path / "nowhere").table
    assert "Expected" in str(error.value) or "missing" in str(error.value)
