"""Our metrics beside recorded values of anomalib 2.7, where the definitions agree."""

import json
from pathlib import Path

import numpy as np
import pytest
from runs import SHAPES, made_run

from anomalib_nb.metrics import (
    aupimo,
    aupr,
    aupro,
    auroc,
    f1_max,
    f1_score,
    pb,
    pg,
    pro,
)

RECORDED = json.loads((Path(__file__).parent / "reference_values.json").read_text())["runs"]


@pytest.fixture(params=SHAPES)
def run(request):
    maps, masks = made_run(request.param)
    return maps, masks, maps.max((1, 2)), masks.any((1, 2)), RECORDED[request.param]


def close(value, recorded):
    np.testing.assert_allclose(value, recorded, rtol=0, atol=1e-6)


def test_areas_and_f1(run):
    maps, masks, scores, labels, recorded = run
    for level, sample in (("image", (scores, labels)), ("pixel", (maps, masks))):
        close(auroc(*sample), recorded[f"{level}_AUROC"])
        close(aupr(*sample), recorded[f"{level}_AUPR"])
        value, threshold = f1_max(*sample)
        close(value, recorded[f"{level}_F1Max"])
        close(threshold, recorded[f"{level}_F1Max_threshold"])


@pytest.mark.parametrize("rule", ["mvtec", "anomalib"])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_overlap(run, limit, rule):
    maps, masks, *_, recorded = run
    close(aupro(maps, masks, limit, rule), recorded[f"pixel_AUPRO_{limit}"])
    above = np.nextafter(np.float32(0.5), np.float32(1))  # theirs: above 0.5
    close(pro(maps, masks, above), recorded["pixel_PRO_0.5"])


def test_decisions(run):
    maps, masks, scores, labels, recorded = run
    close(f1_score(scores > 0.6, labels), recorded["image_F1Score"])
    close(f1_score(maps > 0.5, masks), recorded["pixel_F1Score"])
    close(pg(scores, labels, 0.05), recorded["image_PG5"])
    close(pb(scores, labels, 0.05), recorded["image_PB5"])


@pytest.mark.filterwarnings("ignore:AUPIMO is coarse")
def test_aupimo_on_the_published_grid(run):
    maps, masks, *_, recorded = run
    names = [name for name in recorded if name.startswith("pixel_AUPIMO")]
    assert names
    for name in names:
        low, high, steps = name.removeprefix("pixel_AUPIMO_").split("_")
        found = aupimo(maps, masks, (float(low), float(high)), num_thresholds=int(steps))
        expected = np.array(recorded[name], float)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        close(found[~np.isnan(found)], expected[~np.isnan(expected)])
