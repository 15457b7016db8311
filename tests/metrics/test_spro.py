"""Saturated overlap against its definition, threshold by threshold, and from a data set to a number."""

import importlib.util
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_nb.core import Batch, Predictions
from anomalib_nb.core.types import Prediction
from anomalib_nb.data import MVTecLOCO
from anomalib_nb.engine import Engine
from anomalib_nb.metrics import (
    AUPRO,
    AUROC,
    AUSPRO,
    LIMITS,
    SPRO,
    Evaluator,
    Regions,
    Saturation,
    aupro,
    auroc,
    auspro,
    breakdown,
    by_category,
    check_metric,
    connected_regions,
    evaluate,
    get_metric,
    pro,
    read_saturation,
    saturation_of,
    spro,
    spro_curve,
)
from anomalib_nb.models.contract import AnomalyModule
from anomalib_nb.processing.pre import PreProcessor

# The same examples in every run, and no clock: the machine may be busy.
CALM = settings(derandomize=True, deadline=None, max_examples=60)

# One image with a region {.9, .8, .3, .2} of which two pixels are enough, and a good one.
MAPS = np.array(
    [[[0.9, 0.8, 0.85, 0.1], [0.3, 0.2, 0.1, 0.1], [0.1] * 4, [0.1] * 4], [[0.1] * 4] * 4],
    np.float32,
)
MASK = np.zeros((4, 4), bool)
MASK[:2, :2] = True
MASKS = np.stack([MASK, MASK & False])
REGIONS = [Regions(MASK[None], [2]), Regions(np.zeros((0, 4, 4), bool), [])]
BY_HAND = (0.5 / 28 + (0.05 - 1 / 28)) / 0.05


@st.composite
def marked_maps(draw, full=False):
    "Small maps with many ties, and regions that overlap and have several parts."
    shape = draw(st.integers(1, 3)), draw(st.integers(2, 5)), draw(st.integers(2, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    regions = []
    for i in range(shape[0]):
        masks = random.random((random.integers(0, 4) + (i == 0), *shape[1:])) < random.uniform(0.05, 0.5)  # fmt: skip
        masks[..., -1, -1] = False  # some background
        masks[:1, 0, 0] |= i == 0  # some region
        areas = masks.sum((1, 2))
        most = areas if full else random.integers(1, 8, len(masks))
        regions.append(Regions(masks, most))
    union = np.stack([masks.any(0) for masks, _ in regions])
    maps = (random.normal(size=shape) + union).round(draw(st.integers(0, 2))) + 0.0
    return maps.astype(np.float32), regions, union


def by_definition(maps, regions, union, threshold):
    "FPR and sPRO at a threshold, as the paper writes them."
    shares = [
        min(((one >= threshold) & mask).sum() / min(most, mask.sum()), 1)
        for one, (masks, saturation) in zip(maps, regions, strict=True)
        for mask, most in zip(masks, saturation, strict=True)
        if mask.any()
    ]
    return (maps[~union] >= threshold).mean(), np.mean(shares)


def area_by_definition(maps, regions, union, limit):
    "The area under the points of all thresholds, one after the other."
    points = [(0.0, 0.0)]
    points += [by_definition(maps, regions, union, t) for t in np.unique(maps)[::-1]]
    area, (before, height) = 0.0, points[0]
    for x, y in points[1:]:
        end = min(x, limit)
        if x > before:
            y_end = height + (y - height) * (end - before) / (x - before)
            area += (end - before) * (height + y_end) / 2
        before, height = x, y
        if x >= limit:
            break
    return area / limit


# ---- by hand -----------------------------------------------------------------------------------


def test_the_worked_example():
    assert math.isclose(BY_HAND, 0.642857, abs_tol=1e-6)
    assert math.isclose(auspro(MAPS, REGIONS), BY_HAND)
    assert math.isclose(auspro(torch.tensor(MAPS), REGIONS, 0.05), BY_HAND)
    fpr, overlap, thresholds = spro_curve(MAPS, REGIONS)
    assert np.allclose(fpr * 28, [0, 0, 1, 1, 28]) and overlap.tolist() == [0, 0.5, 0.5, 1, 1]
    assert thresholds.tolist() == [math.inf, *np.float32([0.9, 0.85, 0.8, 0.1]).tolist()]
    assert [spro(MAPS, REGIONS, t) for t in (1, 0.9, 0.85, 0.8, 0.2)] == [0, 0.5, 0.5, 1, 1]


def test_metrics_give_the_worked_example():
    batch = Batch(anomaly_map=MAPS, gt_mask=MASKS, pred_mask=MAPS >= np.float32(0.8))
    batch = batch.replace(info=[{"regions": each} for each in REGIONS])
    for mode in ("exact", "streaming", "auto"):
        evaluator = Evaluator([*map(AUSPRO, LIMITS), SPRO, AUPRO(0.05), AUROC], mode=mode)
        for part in (batch[0:1], batch[1:2].torch()):
            evaluator.update(part)
        results = evaluator.compute()
        assert math.isclose(results["pixel_AUsPRO"], BY_HAND)
        assert results["pixel_sPRO"] == 1 and "image_AUsPRO" not in results
        for limit in (0.01, 0.1, 0.3, 1):
            assert math.isclose(results[f"pixel_AUsPRO_{limit:g}"], auspro(MAPS, REGIONS, limit))
        assert math.isclose(results["pixel_AUPRO_0.05"], aupro(MAPS, MASKS, 0.05))


def test_the_promises_of_every_metric():
    for name in ("AUSPRO", "SPRO"):
        check_metric(type(get_metric(name)))


def test_found_by_name():
    assert isinstance(get_metric("auspro"), AUSPRO) and isinstance(get_metric("sPRO"), SPRO)
    assert get_metric("AUsPRO").name == "AUsPRO" and get_metric("auspro", fpr_limit=0.3).name == "AUsPRO_0.3"  # fmt: skip
    for wrong in (0, 1.1, math.nan):
        with pytest.raises(ValueError, match="fpr_limit"):
            AUSPRO(wrong)


@pytest.mark.parametrize(
    "area, threshold, relative, scale, enough",
    [
        (1600, 60, False, 1.0, 60),
        (50, 60, False, 1.0, 50),  # no region needs more than it has
        (1600, 60, False, 0.25, 15),  # pixels of the map
        (400, 1, False, 0.01, 1),  # at least one
        (7, 0.5, True, 0.25, 3),  # rounded down; a share has no scale
        (3, 0.2, True, 1.0, 1),
        (5, 1.0, True, 1.0, 5),
        (0, 1.0, True, 1.0, 1),
    ],
)
def test_saturations(area, threshold, relative, scale, enough):
    assert saturation_of(area, threshold, relative, scale) == enough


def test_overlapping_regions_of_several_parts():
    parts = np.zeros((4, 4), bool)
    parts[0, :2] = parts[3, 2:] = True
    regions = [Regions(np.stack([MASK, parts]), [4, 2])]
    report = np.zeros((1, 4, 4), np.float32)
    report[0, 3, 2:] = 1  # one part is enough for the second; nothing of the first
    assert spro(report, regions) == 0.5
    report[0, 0, :2] = 1  # in both: half of the first
    assert spro(report, regions) == 0.75
    fpr, overlap, _ = spro_curve(report, regions)
    assert fpr.tolist() == [0, 0, 1] and overlap.tolist() == [0, 0.75, 1], (
        "neither is a false alarm"
    )


# ---- against the definition --------------------------------------------------------------------


@CALM
@given(marked_maps())
def test_the_definition(drawn):
    maps, regions, union = drawn
    for limit in LIMITS:
        expected = area_by_definition(maps, regions, union, limit)
        assert math.isclose(auspro(maps, regions, limit), expected, abs_tol=1e-12)
    for threshold in np.unique(maps):
        expected = by_definition(maps, regions, union, threshold)[1]
        assert math.isclose(spro(maps, regions, threshold), expected, abs_tol=1e-12)
    for x, y, threshold in zip(*spro_curve(maps, regions), strict=True):
        assert np.allclose([x, y], by_definition(maps, regions, union, threshold), atol=1e-12)


@CALM
@given(marked_maps())
def test_without_saturation_it_is_pro(drawn):
    maps, _, masks = drawn
    whole = connected_regions(masks)
    assert all((each.masks.sum(0) == mask).all() for each, mask in zip(whole, masks, strict=True))
    for limit in LIMITS:
        assert math.isclose(auspro(maps, whole, limit), aupro(maps, masks, limit), abs_tol=1e-12)
    for threshold in np.unique(maps):
        assert math.isclose(spro(maps, whole, threshold), pro(maps, masks, threshold), abs_tol=1e-12)  # fmt: skip


@CALM
@given(marked_maps())
def test_metrics_are_their_functions_however_images_come(drawn):
    maps, regions, union = drawn
    threshold = float(np.median(maps))
    expected = auspro(maps, regions, 0.3), spro(maps, regions, threshold)
    for mode in ("exact", "streaming"):
        metrics = AUSPRO(0.3, mode=mode), SPRO(threshold, mode=mode), SPRO()
        for i in reversed(range(len(maps))):
            part = union[i : i + 1]
            for metric, judged in zip(metrics, (maps, maps, maps >= threshold), strict=True):
                metric.update(torch.from_numpy(judged[i : i + 1]), part, regions=regions[i : i + 1])
        found = [metric.compute() for metric in metrics]
        assert np.allclose(found, [expected[0], expected[1], expected[1]], atol=1e-12)


@CALM
@given(marked_maps(), st.sampled_from([np.exp, lambda x: 3 * x - 20, np.cbrt]))
def test_only_the_order_of_scores_counts(drawn, change):
    maps, regions, _ = drawn
    changed = change(maps.astype(np.float64))
    assert math.isclose(auspro(changed, regions), auspro(maps, regions), abs_tol=1e-12)


@CALM
@given(marked_maps())
def test_less_to_find_is_never_harder(drawn):
    maps, regions, _ = drawn
    eased = [Regions(each.masks, np.maximum(each.saturation // 2, 1)) for each in regions]
    assert auspro(maps, eased) >= auspro(maps, regions) - 1e-12
    once = [Regions(each.masks, np.ones(len(each.masks), int)) for each in regions]
    assert auspro(maps, once) >= auspro(maps, eased) - 1e-12


# ---- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["normal", "ties", "gaps", "outliers"])
def test_a_stream_stays_within_its_bound(kind):
    random = np.random.default_rng(0)
    metrics = [AUSPRO(limit, mode=mode) for limit in (0.05, 1.0) for mode in ("exact", "streaming")]
    metrics += [SPRO(1.0, mode=mode) for mode in ("exact", "streaming")]
    for _ in range(12):
        masks = np.zeros((8, 3, 96, 96), bool)
        masks[:4, 0, 10:60, 10:50], masks[:4, 1, 40:80, 40:60], masks[:4, 2, 90:92, 3:5] = True, True, True  # fmt: skip
        union = masks.any(1)
        maps = random.normal(size=union.shape) + 1.5 * union
        maps = {
            "normal": maps,
            "ties": maps.round(),
            "gaps": 1 + 1e-12 * maps,
            "outliers": maps * 10.0 ** random.integers(-9, 9, (8, 1, 1)),
        }[kind]
        regions = [Regions(each if i < 4 else each[:0], [60, 400, 4] if i < 4 else []) for i, each in enumerate(masks)]  # fmt: skip
        for metric in metrics:
            metric.update(maps, union, regions=regions)
    for exact, stream in zip(metrics[::2], metrics[1::2], strict=True):
        value = stream.compute()
        assert abs(value - exact.compute()) <= value.bound + 1e-12 and value.bound <= 1e-3


def one_process(rank, folder, rows):
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for metric in (AUSPRO(), AUSPRO(mode="streaming"), SPRO(0.8), SPRO()):
        for i in rows[rank]:
            one = slice(i, i + 1)
            judged = MAPS > 0.88 if metric.fields["pixel"][0] == "pred_mask" else MAPS
            metric.update(judged[one], MASKS[one], regions=REGIONS[one])
        found.append(float(metric.compute()))
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path):
    torch.multiprocessing.spawn(one_process, (str(tmp_path), [[1], [0]]), nprocs=2)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        np.testing.assert_allclose(found, [BY_HAND, BY_HAND, 1, 0.5])


def test_half_precision_and_booleans():
    maps = torch.tensor(MAPS).bfloat16()
    for metric in (AUSPRO(), AUSPRO(mode="streaming")):
        metric.update(maps, torch.tensor(MASKS), regions=REGIONS)
        assert math.isclose(metric.compute(), auspro(maps, REGIONS))
    said = [Regions(torch.tensor(each.masks), torch.tensor(each.saturation)) for each in REGIONS]
    assert spro(MAPS > 0.88, said) == spro(torch.tensor(MAPS) > 0.88, REGIONS) == 0.5


# ---- degenerate input ---------------------------------------------------------------------------


def test_nothing_to_find():
    good = [REGIONS[1]] * 2
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert math.isnan(auspro(MAPS, good)) and math.isnan(spro(MAPS, good))
        for metric in (AUSPRO(), SPRO(0.5), AUSPRO(mode="streaming"), SPRO(0.5, mode="streaming")):
            metric.update(MAPS, MASKS & False, regions=good)
            assert math.isnan(metric.compute())
        decided = SPRO()
        decided.update(MAPS > 0.5, MASKS & False, regions=good)
        assert math.isnan(decided.compute())
    assert len(said) == 7 and all("undefined without" in str(each.message) for each in said)
    with pytest.raises(ValueError, match="no region"):
        spro_curve(MAPS, good)


def test_no_background():
    with pytest.warns(UserWarning, match="background"):
        assert math.isnan(auspro(MAPS[:1], [Regions(np.ones((1, 4, 4), bool), [3])]))


def test_constant_and_perfect_maps():
    assert math.isclose(auspro(MAPS * 0, REGIONS, 0.3), 0.15)
    assert auspro(MASKS.astype(float), REGIONS) == 1
    assert auspro(np.where(MASKS, np.inf, -np.inf), REGIONS) == 1
    with pytest.raises(ValueError, match="NaN.*number 0"):
        auspro(np.where(MASKS, np.nan, 0), REGIONS)


def test_a_region_that_vanished_is_none():
    lost = Regions(np.stack([MASK, MASK & False]), [2, 1])
    assert math.isclose(auspro(MAPS, [lost, REGIONS[1]]), BY_HAND)
    assert spro(MAPS, [lost, REGIONS[1]], 0.8) == 1
    for mode in ("exact", "streaming"):
        metrics = AUSPRO(mode=mode), SPRO(0.8, mode=mode)
        for metric in metrics:
            metric.update(MAPS, MASKS, regions=[lost, REGIONS[1]])
        assert math.isclose(metrics[0].compute(), BY_HAND) and metrics[1].compute() == 1


@pytest.mark.parametrize(
    "regions, match",
    [
        (REGIONS[:1], "1 Regions for maps of shape"),
        ([Regions(np.ones((1, 8, 8)), [1]), REGIONS[1]], r"Image 0 .*\(1, 8, 8\).*Expected \(K, 4, 4\)"),
        ([REGIONS[0], Regions(MASK[None], [1, 2])], "Image 1 .*2 saturations"),
        ([REGIONS[0], Regions(MASK, [1])], "Image 1 has regions of shape"),
        ([REGIONS[0], Regions(np.full((1, 4, 4), 7), [1])], "Labels hold"),
    ],
)  # fmt: skip
def test_regions_that_do_not_fit(regions, match):
    with pytest.raises(ValueError, match=match):
        auspro(MAPS, regions)
    infos = [{"regions": each} for each in regions]
    if len(infos) == 2:
        with pytest.raises(ValueError, match=match):
            Evaluator([AUSPRO]).update(Batch(anomaly_map=MAPS, gt_mask=MASKS, info=infos))


# ---- the file of rules --------------------------------------------------------------------------
RULE = {"pixel_value": 255, "defect_name": "dent", "saturation_threshold": 40, "relative_saturation": False}  # fmt: skip


def test_rules(tmp_path):
    path = tmp_path / "defects_config.json"
    share = {**RULE, "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True}
    path.write_text(json.dumps([RULE, share]))
    assert read_saturation(path) == {255: Saturation("dent", 40, False), 254: Saturation("dent", 0.5, True)}  # fmt: skip
    path.write_text("[]")
    assert read_saturation(str(path)) == {}
    with pytest.raises(FileNotFoundError, match="none.json"):
        read_saturation(tmp_path / "none.json")


@pytest.mark.parametrize(
    "content, match",
    [
        ("{", "is not JSON"),
        (json.dumps(RULE), "holds no list"),
        (json.dumps([RULE, RULE]), "two rules for the grey value 255"),
        (json.dumps([7]), "an object with pixel_value"),
        ("[" * 100_000, "nested too deeply"),
        (" " * 1_000_001, "Expected rules for 255 grey values"),
        *(
            (json.dumps([{**RULE, key: value}]), match)
            for key, value, match in [
                ("pixel_value", 0, "pixel_value from 1 to 255"),
                ("pixel_value", 256, "pixel_value from 1 to 255"),
                ("pixel_value", True, "pixel_value from 1 to 255"),
                ("pixel_value", "255", "pixel_value from 1 to 255"),
                ("defect_name", None, "text as defect_name"),
                ("relative_saturation", 1, "true or false"),
                ("relative_saturation", True, "above 0, up to 1"),
                ("saturation_threshold", 0, "whole pixels"),
                ("saturation_threshold", 2.5, "whole pixels"),
                ("saturation_threshold", math.inf, "whole pixels"),
                ("saturation_threshold", math.nan, "whole pixels"),
                ("saturation_threshold", True, "whole pixels"),
                ("saturation_threshold", "40", "whole pixels"),
                ("saturation_threshold", None, "whole pixels"),
            ]
        ),
    ],
)
def test_wrong_rules(tmp_path, content, match):
    path = tmp_path / "defects_config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=match) as caught:
        read_saturation(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


# ---- from a data set to a number ----------------------------------------------------------------


class Brightness(AnomalyModule):
    "A model that needs no training."

    transform = PreProcessor(size=16)

    def forward(self, image):
        anomaly_map = image.mean(1)
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


@pytest.fixture(scope="module")
def trees():
    "The small trees of tests/data."
    path = Path(__file__).parents[1] / "data" / "trees.py"
    spec = importlib.util.spec_from_file_location("small_trees", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TREES


@pytest.fixture
def loco(tmp_path, trees):
    trees["MVTecLOCO"](tmp_path / "loco")
    return MVTecLOCO(tmp_path / "loco", eval_batch_size=5)


def test_loco_from_files_to_auspro(tmp_path, loco):
    evaluator = Evaluator([AUROC, AUSPRO, AUPRO(0.05), SPRO])
    engine = Engine(tmp_path / "runs", evaluator=evaluator, accelerator="cpu", enable_progress_bar=False)  # fmt: skip
    model = Brightness()
    engine.fit(model, loco)
    results = engine.test(model, loco)

    run = Predictions.load(engine.run / "test.zarr")
    items = {item.image_path: item for item in loco.dataset("test")}
    regions = [items[path].info["regions"] for path in run.paths]
    assert [len(each.masks) for each in regions] == [0] * 4 + [2] * 4 + [1] * 4
    # The tree marks 8 x 8 of 32 x 32 pixels: half of them are enough, or 20. Maps have half the side.
    assert {tuple(each.saturation) for each in regions} == {(), (8, 5), (5,)}
    maps = run.maps[:]
    threshold = run.attrs["pixel_threshold"]
    assert not math.isclose(results["pixel_AUsPRO"], results["pixel_AUPRO_0.05"])

    for whole in (results, evaluate(run, [AUROC, AUSPRO, SPRO], regions=loco.regions)):
        assert math.isclose(whole["pixel_AUsPRO"], auspro(maps, regions))
        assert math.isclose(whole["pixel_sPRO"], spro(maps, regions, np.float32(threshold)))

    report = breakdown(run, [AUROC, AUSPRO], regions=loco.regions)
    labels, expected = np.array(run.words("label")), {}
    for kind in ("structural_anomalies", "logical_anomalies"):
        rows = np.flatnonzero((labels == "good") | (labels == kind))
        values = {
            "image_AUROC": auroc(run.scores[rows], run.labels[rows]),
            "pixel_AUsPRO": auspro(maps[rows], [regions[i] for i in rows]),
        }
        for name, value in values.items():
            assert math.isclose(report.types[kind][name], value)
            expected.setdefault(name, []).append(value)
    runs, read = {loco.name: run}, {loco.name: loco.regions}
    categories = by_category(runs, [AUROC, AUSPRO], of_types=True, regions=read)
    for name, values in expected.items():
        assert math.isclose(report.means[name].mean, np.mean(values))
        assert math.isclose(categories.metrics[name].mean, np.mean(values))


def test_regions_are_of_one_data_set(loco):
    batch = next(iter(loco.test_dataloader()))
    assert len(loco.regions(batch.image_path[0]).masks) == 0
    run = Predictions.from_batches([batch.replace(image_path=list("abcde"), pred_score=torch.rand(5), anomaly_map=torch.rand(5, 8, 8), gt_mask=None)])  # fmt: skip
    with pytest.raises(ValueError, match="a is not an image of breakfast_box"):
        evaluate(run, [AUSPRO], regions=loco.regions)
    assert "image_AUROC" in evaluate(run, [AUROC])


def test_synthetic_defects_have_no_rule(loco):
    data = MVTecLOCO(loco.base, val_split_mode="synthetic")
    made = {bool(item.gt_label): "regions" in item.info for item in data.dataset("val")}
    assert made == {False: True, True: False}
    assert all(len(item.info["regions"].masks) == 0 for item in data.dataset("train"))
