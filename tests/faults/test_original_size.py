"""Pixels are judged at the size that is said: the model's, or that of the files; a defect without a mask is left out and counted."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_nb.core.predictions import Predictions
from anomalib_nb.core.types import Batch, Prediction
from anomalib_nb.data import DemoData, Folder
from anomalib_nb.engine import Engine
from anomalib_nb.metrics import (
    Evaluator,
    breakdown,
    connected_regions,
    evaluate,
    get_metric,
    list_metrics,
)
from anomalib_nb.metrics.evaluator import METRICS, Metric, enlarged, lay_over, results_line
from anomalib_nb.metrics.sample import components
from anomalib_nb.metrics.store import Regions
from anomalib_nb.models.contract import AnomalyModule
from anomalib_nb.processing import PreProcessor
from anomalib_nb.visualization.evaluation import evaluation_charts, evidence, totals
from anomalib_nb.visualization.image import enlarge
from anomalib_nb.visualization.metrics import pixels_of

SIZES = {0: (96, 128), 1: (96, 128), 2: (150, 100), 3: (64, 64), 4: (96, 128), 5: (150, 100)}
EVERY = [name for name in list_metrics() if METRICS.get(name).scalar and name not in ("ECE", "MCE", "Brier")]


class Bright(AnomalyModule):
    "Brightness is the map; there is nothing to learn."

    transform = PreProcessor(size=32)

    def forward(self, image: torch.Tensor) -> Prediction:
        maps = image.mean(1)
        return Prediction(maps.amax((1, 2)), maps)


@pytest.fixture
def folder(tmp_path):
    "Pictures of several sizes whose defects are bright squares of four pixels and of twelve."
    random = np.random.default_rng(0)
    for split, kind, numbers in (("train", "good", (0, 1)), ("test", "good", (0, 2, 3)), ("test", "spot", (1, 4, 5))):
        for number in numbers:
            image, mask = random.integers(60, 90, (*SIZES[number], 3)).astype(np.uint8), np.zeros(SIZES[number], np.uint8)
            if kind != "good":
                for y, x, side in ((10, 20, 4), (60, 70, 12)):
                    mask[y : y + side, x : x + side] = 255
                    image[y : y + side, x : x + side] = 250
                masks = tmp_path / "data" / "ground_truth" / kind
                masks.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(masks / f"{number}_mask.png")
            place = tmp_path / "data" / split / kind
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{number}.png")
    return tmp_path / "data"


def engine(tmp_path, **judge) -> Engine:
    return Engine(tmp_path / "results", Evaluator(EVERY, **judge), accelerator="cpu", enable_progress_bar=False)


def by_hand(run: Predictions) -> tuple[list[np.ndarray], list[np.ndarray]]:
    "The maps of a run laid over its pictures, as a picture shows them, and the masks of the files."
    maps, masks = [], []
    for item in run:
        size = item.info["image_size"]
        maps.append(enlarge(item.anomaly_map, size))
        masks.append(np.asarray(Image.open(item.mask_path)) > 0 if item.mask_path else np.zeros(size, bool))
    return maps, masks


def test_a_test_at_the_size_of_the_files_is_what_one_would_do_by_hand(folder, tmp_path):
    data = Folder(folder, val_split_mode="none", test_split_mode="from_dir")
    model, judge = Bright(), engine(tmp_path, at="original")
    model.post.pixel_threshold = 0.6
    found = judge.test(model, data)
    run = Predictions.load(judge.run / "test.zarr")
    maps, masks = by_hand(run)
    for name in EVERY:
        metric = get_metric(name)
        if "pixel" not in metric.fields:
            continue
        decides = metric.fields["pixel"][0] == "pred_mask"
        for values, truth in zip(maps, masks, strict=True):
            metric.update((values >= np.float32(0.6) if decides else values)[None], truth[None])
        value = float(metric.compute())
        assert found[f"pixel_{metric.name}"] == pytest.approx(value, abs=2e-4, nan_ok=True), name
    assert found.judged_at == "the size of the files, 64 × 64 to 150 × 100"
    later = evaluate(run, EVERY, at="original", masks=data.masks)
    assert dict(later) == pytest.approx(dict(found), abs=1e-12, nan_ok=True) and later.judged_at == found.judged_at
    kinds = breakdown(run, ["AUROC"], at="original", masks=data.read_mask)
    assert kinds.whole["pixel_AUROC"] == pytest.approx(found["pixel_AUROC"]) and "64 × 64 to 150 × 100" in kinds._repr_html_()


def test_results_say_at_what_size(folder, tmp_path):
    data = Folder(folder, val_split_mode="none", test_split_mode="from_dir")
    judge = engine(tmp_path)
    found = judge.test(Bright(), data)
    for words in (repr(found), found._repr_html_(), results_line(found)):
        assert "pixels judged at 32 × 32" in words
    assert found.facts()["pixels_judged_at"] == "32 × 32"
    assert json.loads((judge.run / "metrics.json").read_text())["pixels_judged_at"] == "32 × 32"
    assert "pixels judged at 32 × 32" in results_line(evaluate(Predictions.load(judge.run / "test.zarr")))
    images = evaluate(Predictions.load(judge.run / "test.zarr"), levels=["image"])
    assert images.judged_at == "" and "judged" not in results_line(images)


def test_regions_of_four_pixels_are_counted_where_they_can_be_seen(folder, tmp_path):
    data = Folder(folder, val_split_mode="none", test_split_mode="from_dir")
    for at, regions in (("original", 6), ("model", None)):
        judge = engine(tmp_path, at=at)
        judge.test(Bright(), data)
        seen = sum(int(store.compute().images[:, 2].sum()) for (fields, _), store in judge.evaluator.stores.items()
                   if fields == ("anomaly_map", "gt_mask") and hasattr(store, "images"))  # fmt: skip
        assert regions is None or seen == regions
    _, masks = by_hand(Predictions.load(judge.run / "test.zarr"))
    assert sum(len(np.unique(components(mask[None]))) for mask in masks) == 6


def test_what_is_missing_is_said():
    batch = Batch(pred_score=np.ones(2, np.float32), gt_label=np.array([True, False]), anomaly_map=np.ones((2, 4, 4), np.float32),
                  gt_mask=np.zeros((2, 4, 4), bool), image_path=["a.png", "b.png"])  # fmt: skip
    with pytest.raises(ValueError, match=r"evaluate\(run, at='original', masks=data.masks\)"):
        Evaluator(["AUROC"], at="original").update(batch)
    Evaluator(["AUROC"], ["image"], at="original").update(batch)  # images need no mask
    with pytest.raises(ValueError, match="No size 'orignal'. Expected model or original. Did you mean 'original'?"):
        Evaluator(["AUROC"], at="orignal")
    run = Predictions.from_batches([batch])
    with pytest.raises(ValueError, match="The size of a.png is not known"):
        evaluate(run, at="original", masks=np.load)
    sized = Predictions.from_batches([batch.replace(info=[{"image_size": (8, 8)}] * 2)])
    with pytest.raises(ValueError, match="The mask of a.png lies in no file"):
        evaluate(sized, at="original", masks=np.load)
    named = Predictions.from_batches([batch.replace(info=[{"image_size": (8, 8)}] * 2, mask_path=["a_mask.png", ""])])
    with pytest.raises(ValueError, match="a_mask.png is 9 × 8 pixels, its image 8 × 8"):
        evaluate(named, at="original", masks=lambda path: np.zeros((9, 8), bool))


def test_regions_that_saturate_are_read_at_the_size_of_the_files(folder, tmp_path):
    data = Folder(folder, val_split_mode="none", test_split_mode="from_dir")
    known = {path: mask for path, mask in zip(data.table["image_path"], data.table["mask_path"], strict=True)}

    def regions(path: str, size: tuple[int, int]) -> Regions:
        mask = np.asarray(Image.open(known[path])) > 0 if known[path] else np.zeros(size, bool)
        assert mask.shape == tuple(size), "asked at the size of the file"
        (found,) = connected_regions(mask[None])
        return Regions(found.masks, [min(10, int(each.sum())) for each in found.masks])

    judge = engine(tmp_path)
    judge.test(Bright(), data)
    run = Predictions.load(judge.run / "test.zarr")
    found = evaluate(run, ["AUSPRO"], at="original", masks=data.masks, regions=regions)
    metric = get_metric("AUSPRO")
    for item, values, truth in zip(run, *by_hand(run), strict=True):
        metric.update(values[None], truth[None], regions=[regions(item.image_path, truth.shape)])
    assert found["pixel_AUsPRO"] == pytest.approx(float(metric.compute()), abs=1e-6)
    assert "no region was given" not in found.notes.get("pixel_AUsPRO", "")


def test_data_that_lie_in_no_file_are_judged_at_their_size(tmp_path):
    data = DemoData("tile", train=4, test=6, size=64)
    judge = Engine(tmp_path, Evaluator(["AUROC"], ["pixel"], at="original"), accelerator="cpu", enable_progress_bar=False)
    assert judge.test(Bright(), data).judged_at == "the size of the files, 64 × 64"


@pytest.mark.parametrize("size", [(5, 9), (8, 8), (40, 24), (3, 2)])
def test_a_map_is_enlarged_as_pictures_are(size):
    values = np.random.default_rng(0).random((8, 8), np.float32)
    assert np.allclose(enlarged(values, size), enlarge(values, size), atol=1e-4)
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        item = Batch(anomaly_map=torch.from_numpy(values).to(kind), pred_mask=torch.from_numpy(values) > 0.5)
        large = lay_over(item, np.zeros(size, bool), 0.5)
        assert large.anomaly_map.shape == large.pred_mask.shape == (1, *size)
        assert np.array_equal(large.pred_mask, large.anomaly_map >= np.float32(0.5))


def noisy(count: int = 12, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    masks = np.zeros((count, 16, 16), bool)
    masks[1::2, 3:7, 4:9] = True
    maps = (random.random(masks.shape) * 0.7 + 0.3 * masks).astype(np.float32)
    scores, labels = maps.max((1, 2)), masks.any((1, 2))
    return Batch(pred_score=scores, gt_label=labels, anomaly_map=maps, gt_mask=masks, pred_mask=maps > 0.6, pred_label=scores > 0.9,
                 image_path=[f"{i}.png" for i in range(count)], info=[{} for _ in range(count)])  # fmt: skip


@pytest.mark.parametrize("mode", ["exact", "streaming"])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_defect_without_a_mask_counts_as_an_image_and_not_as_pixels(mode, kind):
    names = [name for name in EVERY if mode == "exact" or name not in ("PGn", "PBn")]
    batch, bare = noisy(), [1, 5, 7]
    marked = batch.replace(info=[{"no_mask": True} if i in bare else {} for i in range(12)])
    marked.gt_mask = batch.gt_mask.copy()
    marked.gt_mask[bare] = False
    rest = batch[[i for i in range(12) if i not in bare]]
    every, few, naive = (Evaluator(names, mode=mode) for _ in range(3))
    every.update(getattr(marked, kind)()), few.update(rest), naive.update(marked.replace(info=None))
    found, pixels, wrong = every.compute(), few.compute(), naive.compute()
    for name, value in found.items():
        same = pixels if name.startswith("pixel") else wrong
        assert value == pytest.approx(same[name], nan_ok=True), name
    assert any(abs(found[name] - wrong[name]) > 1e-3 for name in found if name.startswith("pixel"))
    assert found.left_out == 3 and found.images == 12 and found.facts()["images_without_mask"] == 3
    for words in (repr(found), found._repr_html_()):
        assert "pixel metrics leave out 3 images without a mask" in words


def test_a_stored_run_leaves_out_the_same(tmp_path):
    batch, bare = noisy(), [1, 5, 7]
    marked = batch.replace(info=[{"no_mask": True} if i in bare else {} for i in range(12)])
    marked.gt_mask = batch.gt_mask.copy()
    marked.gt_mask[bare] = False
    run = Predictions.load(Predictions.from_batches([marked], image_threshold=0.9, pixel_threshold=0.6).save(tmp_path / "run.zarr"))
    straight = Evaluator(EVERY)
    straight.update(marked.replace(pred_label=batch.pred_score >= np.float32(0.9), pred_mask=batch.anomaly_map >= np.float32(0.6)))
    later = evaluate(run, EVERY)
    assert dict(later) == pytest.approx(dict(straight.compute()), nan_ok=True) and later.left_out == 3
    assert breakdown(run, ["AUROC"]).whole.left_out == 3 and "leave out 3 images" in breakdown(run)._repr_html_()
    assert totals(evidence(run, level="pixel")) == (3 * 20, 9 * 256 - 3 * 20) and totals(evidence(run))[0] == 6
    assert len(pixels_of(run)[0]) == 9 * 256 and pixels_of(run)[1].sum() == 3 * 20
    assert "pro" in evaluation_charts(run)


def test_if_no_defect_has_a_mask_there_is_no_pixel_metric():
    batch = noisy()[[1, 3]]
    evaluator = Evaluator(["AUROC", "AUPRO"])
    evaluator.update(batch.replace(info=[{"no_mask": True}] * 2, gt_mask=np.zeros_like(batch.gt_mask)))
    evaluator.update(noisy()[[0, 2]].replace(gt_mask=None))
    found = evaluator.compute()
    assert list(found) == ["image_AUROC"] and found.left_out == 2


@pytest.mark.parametrize("name", list_metrics())
def test_an_empty_metric_says_so(name):
    metric: Metric = get_metric(name)
    for _ in range(2):
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="nothing to measure: no scores were shown. Call update"):
            metric.compute()
        level = list(metric.fields)[0]
        if name not in ("ECE", "MCE", "Brier"):
            batch = noisy()
            metric.update(*(getattr(batch, field) for field in metric.fields[level]))
        metric.reset()


def test_the_memory_is_bounded(tmp_path):
    "Twenty-four maps laid over pictures of 800 × 600 are 46 MB of scores; the budget is 8 MB, and memory does not grow with them."
    code = """
import sys, resource
import numpy as np
from anomalib_nb.metrics import Evaluator
from anomalib_nb.metrics.evaluator import lay_over
from anomalib_nb.core.types import Batch

def run(count, size):
    random = np.random.default_rng(0)
    judge = Evaluator(["AUROC", "AUPR", "F1Max", "AUPRO"], ["pixel"], at="original")
    for i in range(count):
        mask = np.zeros(size, bool)
        mask[100:120, 100 : 100 + 10 * (i % 2)] = True
        maps = random.random((1, 64, 64), np.float32)
        judge.update(Batch(anomaly_map=maps, gt_mask=np.zeros((1, 64, 64), bool)), lambda item: lay_over(item, mask))
    return judge.compute()

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
run(3, (600, 800))
before = peak()
found = run(int(sys.argv[1]), (600, 800))
print(found.modes["pixel"], peak() - before)
"""
    grown = {}
    for count in (8, 24):
        done = subprocess.run([sys.executable, "-c", code, str(count)], capture_output=True, text=True, check=True, cwd=tmp_path,
                              env={**os.environ, "ANOMALIB_NB__EVALUATION__BUDGET_MB": "8"})  # fmt: skip
        mode, more = done.stdout.split()
        grown[count] = float(more)
        assert mode == "streaming"
    assert grown[24] < grown[8] + 15, grown  # MB; 31 MB of scores more were shown
