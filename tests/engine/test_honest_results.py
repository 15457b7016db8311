"""Results say what makes them look better than they are: thresholds and images seen before."""

import shutil

import numpy as np
import pytest
from PIL import Image

from anomalib_nb.core import Predictions, read_json
from anomalib_nb.data import DemoData, Folder
from anomalib_nb.engine import Engine, copied_images, copies_among
from anomalib_nb.metrics import evaluate
from anomalib_nb.models import PatchCore


def tiles(root, kind="png"):
    rng = np.random.default_rng(0)
    for part, count in (("train/good", 6), ("test/good", 4), ("test/crack", 4)):
        (root / part).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(
                root / part / f"{i}.{kind}"
            )
    return root


def fitted(engine, data):
    model = PatchCore(weights="random", coreset_sampling_ratio=0.5)
    engine.fit(model, data)
    return model


@pytest.fixture
def engine(tmp_path):
    return Engine(tmp_path / "runs", accelerator="cpu", enable_progress_bar=False)


@pytest.mark.parametrize("kind", ["png", "bmp"])  # files of many lengths, and of one
def test_copies_are_counted_and_shown(tmp_path, engine, kind):
    root = tiles(tmp_path / "tiles", kind)
    clean = Folder(root)
    model = fitted(engine, clean)
    assert engine.test(model, clean).leaks == 0
    shutil.copy(root / "train/good" / f"0.{kind}", root / "test/good" / f"same.{kind}")
    dirty = Folder(root, val_split_mode="none")
    found = engine.test(model, dirty)
    assert found.leaks == 1 == len(copied_images(dirty)) and found.images == 9
    assert "1 of 9 images are copies" in found._repr_html_()
    assert read_json(engine.run / "metrics.json")["leaks"] == 1
    assert evaluate(Predictions.load(engine.run / "test.zarr"), ["AUROC"], ["image"]).leaks == 1
    assert copies_among(dirty.table, "test")["image_path"].iloc[0].endswith(f"same.{kind}")
    assert engine.test(model, dirty, leak_check=False).leaks == 0


def test_little_is_read(tmp_path, monkeypatch):
    root = tiles(tmp_path / "tiles", "bmp")
    read = []
    monkeypatch.setattr("anomalib_nb.data.splits.file_bytes", lambda path: read.append(path) or b"")
    assert not copied_images(Folder(root)) and not read


def test_what_cannot_be_read_does_not_end_a_test(tmp_path, monkeypatch):
    def broken(*_):
        raise PermissionError("not yours")

    monkeypatch.setattr("anomalib_nb.engine.engine.excerpt", broken)
    with pytest.warns(UserWarning, match="not yours"):
        assert not copied_images(Folder(tiles(tmp_path / "tiles", "bmp")))


def test_thresholds_meet_test_images_only_by_name(engine):
    for mode in ("auto", "from_test", "from_train", "synthetic"):
        data = DemoData(train=6, test=8, size=32, val_split_mode=mode)
        found = engine.test(fitted(engine, data), data)
        assert not found.optimistic and "validation images" in found.fitted_on
        assert read_json(engine.run / "metrics.json")["thresholds_fitted_on"] == found.fitted_on
    data = DemoData(train=6, test=8, size=32, val_split_mode="same_as_test")
    found = engine.test(fitted(engine, data), data)
    assert found.optimistic and "Optimistic" in found._repr_html_()
    again = evaluate(Predictions.load(engine.run / "test.zarr"))
    assert again.optimistic and again == found
