"""A mask that does not fit is found before anything is learned, and a run is opened only for what can run."""

import numpy as np
import pytest
from PIL import Image
from test_broken_fits import engine, made

from anomalib_nb.data import Folder


@pytest.fixture
def folder(tmp_path):
    "Good images, two defective ones, and their masks, of which the second is too small."
    rng = np.random.default_rng(0)
    for place in ("train/good/1", "train/good/2", "test/good/3", "test/hole/4", "test/hole/5"):
        (file := tmp_path / f"{place}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(file)
    (tmp_path / "ground_truth" / "hole").mkdir(parents=True)
    for name, size in (("4", (40, 48)), ("5", (48, 40))):
        Image.fromarray(np.eye(*size, dtype=np.uint8) * 255).save(tmp_path / "ground_truth" / "hole" / f"{name}_mask.png")
    return tmp_path


@pytest.mark.parametrize("verb", ["fit", "test", "train"])
def test_a_mask_that_does_not_fit_is_found_at_the_start(folder, tmp_path_factory, verb):
    results, model = tmp_path_factory.mktemp("results"), made("Memory")
    with pytest.raises(ValueError, match="1 of 2 masks .* do not fit.*5_mask.png"):
        getattr(engine(results), verb)(model, Folder(folder))
    assert not list(results.rglob("run.json")) and model.learned_from == []


def test_a_mask_of_no_image_is_found_at_the_start(folder, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    (folder / "ground_truth" / "hole" / "5_mask.png").rename(folder / "ground_truth" / "hole" / "9_mask.png")
    with pytest.raises(ValueError, match="9_mask.png"):
        engine(results).fit(made("Memory"), folder)
    assert not list(results.rglob("run.json"))
