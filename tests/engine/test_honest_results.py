"""Results say what makes them look better than they are: thresholds and images seen before."""

import shutil

import numpy as np
import pytest
from PIL import Image

from anomalib_nb.cli.cli import refitted
from anomalib_nb.core import Predictions, read_json
from anomalib_nb.core.origins import BY_HAND, origin_in_words
from anomalib_nb.core.types import Batch
from anomalib_nb.data import DemoData, Folder
from anomalib_nb.engine import Engine, copied_images, copies_among
from anomalib_nb.metrics import AUROC, AUSPRO, Evaluator, F1Max, F1Score, Regions, evaluate
from anomalib_nb.metrics.threshold_rules import ConformalThreshold, F1AdaptiveThreshold
from anomalib_nb.models import PatchCore, load_model
from anomalib_nb.processing import PostProcessor
from anomalib_nb.steps.session import Session, decide_at


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


# ---- where thresholds come from: six ways to be wrong about it -----------------------------------


def test_images_are_known_by_their_content_not_by_the_name_of_a_split(tmp_path, engine):
    root = tiles(tmp_path / "tiles")
    fitted_from_test = Folder(root, val_split_mode="from_test")
    model = fitted(engine, fitted_from_test)
    lent = set(fitted_from_test.table.query("split == 'val'")["image_path"])
    assert not engine.test(model, fitted_from_test).optimistic
    whole = Folder(root, val_split_mode="from_train")  # all that was validation is test now
    found = engine.test(model, whole)
    assert found.seen == len(lent & set(whole.table.query("split == 'test'")["image_path"])) > 0 and found.optimistic
    told = read_json(engine.run / "metrics.json")
    assert told["judged_images_that_thresholds_have_seen"] == found.seen
    stored = evaluate(Predictions.load(engine.run / "test.zarr"))
    assert stored.seen == found.seen and f"fitted on {found.seen} of the 8 images" in repr(stored)
    renamed = shutil.copytree(root, tmp_path / "elsewhere")
    for path in sorted((renamed / "test/good").iterdir()):
        path.rename(path.with_name(f"part-{path.name}"))
    assert engine.test(load_model(engine.last_run() / "model"), Folder(renamed, val_split_mode="none")).seen == found.seen


def test_other_data_are_not_the_test_images(tmp_path, engine):
    model = fitted(engine, Folder(tiles(tmp_path / "tiles"), val_split_mode="same_as_test"))
    other = DemoData(train=2, test=8, size=32, seed=5, val_split_mode="none")
    found = engine.test(model, other)
    assert found.fitted_on and not found.optimistic and "Optimistic" not in repr(found)


def test_a_refit_keeps_what_it_was_made_of(tmp_path, engine):
    data = Folder(tiles(tmp_path / "tiles"), val_split_mode="same_as_test")
    model = fitted(engine, data)
    refitted(model, data, "target_fpr(fpr=0.2)")
    found = engine.test(model, data)
    assert found.seen == found.images == 8 and found.fitted_on.startswith("target_fpr(fpr=0.2) on ")


def test_a_threshold_set_by_hand_says_so(engine):
    data = DemoData(train=6, test=8, size=32)
    model = fitted(engine, data)
    rule = model.post.fitted_on
    model.post.image_threshold += 1
    assert (model.post.fitted_on, model.post.pixel_fitted_on) == (BY_HAND, rule)
    found = engine.test(model, data)
    assert found.fitted_on == f"{BY_HAND}; pixels: {rule}" and BY_HAND in repr(model)
    model.post.pixel_threshold += 1
    assert origin_in_words(model.post.state_dict()) == BY_HAND and not model.post.fitted_images
    same = PostProcessor().load_state_dict(model.post.state_dict())
    same.image_threshold = model.post.image_threshold  # nothing was changed
    assert same == model.post


@pytest.mark.parametrize("rule", [F1AdaptiveThreshold(), ConformalThreshold(0.5)], ids=["f1", "conformal"])
@pytest.mark.parametrize("gathers", [False, True])
def test_a_rule_that_was_fitted_on_a_run_is_known_to_be(engine, rule, gathers):
    data = DemoData(train=6, test=12, size=32)
    model = fitted(engine, data)
    engine.test(model, data)
    run = Predictions.load(engine.run / "test.zarr")
    first, labels = run[:6], run.labels == 1
    assert not evaluate(run.at(1.0), [F1Score], ["image"]).optimistic
    rule.reset()
    if gathers:
        for i in range(6):
            rule.update(run.scores[i : i + 1], labels[i : i + 1])
    found = rule.compute() if gathers else rule.fit(first.scores, labels[:6])
    decided = run.at(found)
    assert decided.attrs["fitted_on"].startswith(repr(rule)) and "scores" in decided.attrs["fitted_on"]
    assert evaluate(decided, [F1Score], ["image"]).seen == 6
    assert evaluate(decided[:3], [F1Score], ["image"]).seen == 3
    assert evaluate(decided[6:], [F1Score], ["image"]).seen == 0
    of_pixels = F1AdaptiveThreshold().fit(run.maps[:4], run.masks[:4])
    assert evaluate(run.at(run.attrs["image_threshold"], of_pixels), [F1Score], ["pixel"]).seen == 4


def test_scores_without_maps_leave_the_pixel_threshold_its_origin(engine):
    model = fitted(engine, DemoData(train=6, test=8, size=32))
    before, prints = model.post.fitted_on, set(model.post.fitted_images.split())
    threshold = model.post.pixel_threshold
    model.post.calibrate(Batch(pred_score=np.float32([0, 1, 2]), gt_label=np.array([0, 0, 1], bool)))
    assert model.post.pixel_threshold == threshold and model.post.pixel_fitted_on == before
    assert "2 normal and 1 anomalous" in model.post.fitted_on and set(model.post.fitted_images.split()) == prints


def test_a_threshold_chosen_by_looking_at_images_has_seen_them(engine):
    data = DemoData(train=6, test=8, size=32)
    model = fitted(engine, data)
    engine.test(model, data)
    session = Session(model=model, predictions=Predictions.load(engine.run / "test.zarr"))
    decide_at(session, image=1.0)
    assert evaluate(session.predictions, [F1Score], ["image"]).optimistic
    judged = evaluate(session.predictions, [F1Score], ["image"]).images
    assert engine.test(model, data).seen == judged and "showed, by hand" in model.post.fitted_on
    decide_at(session, **session.fitted)
    assert session.predictions.attrs["fitted_on"].startswith("f1_adaptive on ")


def test_a_sensitivity_without_a_range_is_refused():
    for state in ({"image_threshold": 1.0, "image_sensitivity": 0.7}, {"pixel_threshold": 1.0, "pixel_sensitivity": 0.2, "pixel_min": 0.0}):
        with pytest.raises(ValueError, match=r"range of \w+ scores, a share of which it means, is not known"):
            PostProcessor(**state)
        post = PostProcessor()
        with pytest.raises(ValueError, match="is not known"):
            post.load_state_dict(state)
        assert post == PostProcessor()
    post = PostProcessor(image_sensitivity=0.75)  # a wish, for when there is one
    with pytest.raises(ValueError, match="is not known"):
        post.image_threshold = 2.0
    assert np.isnan(post.threshold()) and post.load_state_dict({"image_min": 0.0, "image_max": 10.0, "image_threshold": 2.0}).threshold() == -0.5
    with pytest.raises(ValueError, match="from 0 to 1"):
        post.image_sensitivity = 7


# ---- what is counted -----------------------------------------------------------------------------


def judged(count=6, **also):
    random = np.random.default_rng(0)
    maps = random.random((count, 8, 8), dtype=np.float32)
    masks = np.zeros((count, 8, 8), bool)
    masks[1::2, 2:5, 2:5] = True
    return Batch(pred_score=maps.max((1, 2)), anomaly_map=maps, gt_label=masks.any((1, 2)), gt_mask=masks, **also)


def test_the_mode_of_a_level_does_not_depend_on_the_order_of_metrics():
    for metrics in ([AUROC, F1Score], [F1Score, AUROC]):
        evaluator = Evaluator(metrics, ["image"], mode="streaming")
        batch = judged()
        evaluator.update(batch.replace(pred_label=batch.gt_label))
        assert evaluator.compute().modes == {"image": "streaming"}


def test_leaks_of_a_part_are_those_in_it(tmp_path, engine):
    root = tiles(tmp_path / "tiles")
    for i in range(2):
        shutil.copy(root / "train/good" / f"{i}.png", root / "test/good" / f"same{i}.png")
    data = Folder(root, val_split_mode="none")
    model = fitted(engine, Folder(root, val_split_mode="none"))
    assert engine.test(model, data).leaks == 2
    run = Predictions.load(engine.run / "test.zarr")
    clean = run[np.flatnonzero(~run.leaks)]
    assert evaluate(clean).leaks == 0 and evaluate(run[np.flatnonzero(run.leaks)], [AUROC], ["image"]).leaks == 2
    assert "2 of training" in repr(run) and run.to_pandas()["leak"].sum() == 2
    again = run.save(tmp_path / "again.zarr")
    assert evaluate(Predictions.load(again)).leaks == 2


def test_what_has_no_truth_is_counted_and_said():
    evaluator = Evaluator([AUROC, F1Max])
    evaluator.update(judged(info=[{"no_label": i == 0} for i in range(6)]))
    evaluator.update(judged().replace(gt_label=None, gt_mask=None))
    evaluator.update(judged().replace(gt_mask=None))
    found = evaluator.compute()
    assert (found.images, found.unlabelled, found.left_out) == (11, 7, 6)
    assert "7 more have no label" in repr(found) and "leave out 6 images without a mask" in repr(found)
    assert found.facts()["images_without_label"] == 7
    without = Evaluator([AUROC])
    without.update(judged().replace(gt_mask=None))
    assert without.compute().left_out == 0  # nothing is judged at the pixel level, so nothing is left out of it


@pytest.mark.parametrize("apart", [False, True])
def test_regions_that_some_images_lack_are_said(apart):
    whole = judged()
    regions = [Regions(mask[None] if mask.any() else mask[None][:0], [4] if mask.any() else []) for mask in whole.gt_mask]
    said = [{"regions": each} if i < 4 else {} for i, each in enumerate(regions)]
    evaluator, every = Evaluator([AUSPRO], ["pixel"]), Evaluator([AUSPRO], ["pixel"])
    for rows in [np.arange(4), np.arange(4, 6)] if apart else [np.arange(6)]:
        evaluator.update(whole.replace(info=said)[rows])
    every.update(whole.replace(info=[{"regions": each} for each in regions]))
    found = evaluator.compute()
    assert "regions of 1 images have no saturation" in found.notes["pixel_AUsPRO"]
    assert "pixel_AUsPRO" not in every.compute().notes and found != every.compute()


def test_runs_keep_what_has_no_label(tmp_path):
    batch = judged(info=[{"no_label": i == 0, "fingerprint": f"{i:08}"} for i in range(6)], image_path=[f"{i}.png" for i in range(6)])
    run = Predictions.from_batches([batch.replace(info=batch.info)], fitted_images="00000001 00000002")
    assert run.labels.tolist() == [-1, 1, 0, 1, 0, 1] and run.fingerprints[3] == "00000003"
    found = evaluate(Predictions.load(run.save(tmp_path / "run.zarr")), [AUROC], ["image"])
    assert (found.images, found.unlabelled, found.seen) == (5, 1, 2)


def test_thresholds_are_fitted_on_what_has_a_label():
    known = judged(info=[{"no_label": i < 2} for i in range(6)])
    post = PostProcessor().calibrate(known)
    alone = PostProcessor().calibrate(judged()[np.arange(2, 6)])
    assert post.image_threshold == alone.image_threshold and post.pixel_threshold == alone.pixel_threshold
    assert "without 2 that have no label" in post.fitted_on
    nobody = PostProcessor().calibrate(judged(info=[{"no_label": True}] * 6))
    assert nobody == PostProcessor()


@pytest.mark.parametrize("mode", ["from_test", "same_as_test", "from_train", "from_dir"])
def test_a_loose_image_takes_the_truth_from_nobody(tmp_path, engine, mode):
    root = tiles(tmp_path / "tiles")
    shutil.copytree(root / "test", root / "validation")
    for part in ("test", "validation"):
        Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(root / part / "overview.png")
    data = Folder(root, val_split_mode=mode)
    model = fitted(engine, data)
    found = engine.test(model, data)
    assert np.isfinite(found["image_AUROC"]) and found.unlabelled == 1
    assert found.images == (data.table["split"].eq("test") & data.table["label_index"].ge(0)).sum()
    run = Predictions.load(engine.run / "test.zarr")
    assert run.labels[[path.endswith("overview.png") for path in run.paths]].tolist() == [-1]
    assert evaluate(run) == found and evaluate(run).unlabelled == 1
    assert len(engine.predict(model, data)) == found.images + 1


def test_validation_images_without_any_label_end_no_fit(tmp_path, engine):
    root = tiles(tmp_path / "tiles")
    (root / "validation").mkdir()
    for i in range(3):
        shutil.copy(root / "test/good" / f"{i}.png", root / "validation")
    with pytest.warns(UserWarning, match="validation images have no label"):
        model = fitted(engine, Folder(root))
    assert model.post.fitted_on and np.isfinite(model.post.image_threshold)  # found elsewhere
