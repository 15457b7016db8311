"""Tiles: cut and joined they are the image; a tiled model is fitted, saved and exported like any other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_nb.core.types import Batch, Prediction
from anomalib_nb.data import DemoData
from anomalib_nb.deploy import Inferencer, read_parity
from anomalib_nb.deploy.export import export
from anomalib_nb.engine import Engine
from anomalib_nb.models import AnomalyModule, PatchCore, Tiled, get_model, learns_by, load_model
from anomalib_nb.models.check import fit_briefly, sample_images
from anomalib_nb.models.tiled import blending, cut_tiles, join_tiles, tile_pixels, tile_starts
from anomalib_nb.processing.pre import PreProcessor

ENDINGS = ("shift", "padding", "interpolation")


class Brightness(AnomalyModule):
    "A pixel is as anomalous as it is bright."

    transform = PreProcessor(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def forward(self, image):
        anomaly_map = image.mean(1)
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


axis = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)).map(
    lambda n: (max(n), sorted(n)[1], min(n))
)  # image ≥ tile ≥ stride


@settings(max_examples=150, deadline=None)
@given(
    height=axis,
    width=axis,
    ending=st.sampled_from(("shift", "padding")),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_untile_of_tile_is_identity(height, width, ending, batch, seed):
    image = torch.rand(batch, 2, height[0], width[0], generator=torch.Generator().manual_seed(seed))
    (rows, _), (columns, _) = (tile_starts(*plan, ending) for plan in (height, width))
    tiles = cut_tiles(
        image, tile_pixels(height[0], height[1], rows), tile_pixels(width[0], width[1], columns)
    )
    assert tiles.shape == (batch * len(rows) * len(columns), 2, height[1], width[1])
    shares = blending(height[0], height[1], rows), blending(width[0], width[1], columns)
    for channel in range(2):
        joined = join_tiles(tiles[:, channel], *shares)
        assert torch.allclose(joined, image[:, channel], atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(plan=axis, ending=st.sampled_from(ENDINGS))
def test_tiles_cover_everything_and_nothing_else(plan, ending):
    length, tile, stride = plan
    starts, covered = tile_starts(length, tile, stride, ending)
    assert starts[0] == 0 and all(0 <= b - a <= stride for a, b in zip(starts, starts[1:]))
    assert covered == starts[-1] + tile >= length and covered - length < stride
    assert ending != "shift" or covered == length
    reached = covered if ending == "interpolation" else length
    pixels, share = tile_pixels(reached, tile, starts), blending(reached, tile, starts)
    assert 0 <= pixels.min() and pixels.max() == reached - 1
    assert torch.allclose(share.sum(1), torch.ones(reached)) and share.min() >= 0


def test_examples_of_the_fact_sheet():
    assert tile_starts(512, 256, 222, "padding")[1] == 700
    assert [len(tile_starts(e, 4, 3, "padding")[0]) for e in (10, 11, 9)] == [3, 4, 3]
    assert [tile_starts(e, 4, 3, "padding")[1] for e in (11, 9)] == [13, 10]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("stride", [None, 10, (16, 7)])
def test_a_pixelwise_model_says_the_same_on_tiles(ending, stride):
    tiled = Tiled(Brightness(), image_size=(50, 44), tile=(16, 20), stride=stride, ending=ending)
    image = sample_images(2, size=64).image
    whole, said = Brightness()(tiled.pre(image)), tiled(tiled.pre(image))
    tolerance = 0.05 if ending == "interpolation" else 1e-5
    assert torch.allclose(said.anomaly_map, whole.anomaly_map, atol=tolerance)
    assert torch.allclose(said.pred_score, whole.pred_score, atol=tolerance)


def test_no_seams():
    class Place(AnomalyModule):
        "Another constant for every tile."

        def forward(self, image):
            said = torch.arange(len(image)) % 3 / 2.0
            return Prediction(said, said[:, None, None].expand(-1, *image.shape[-2:]))

    tiled = Tiled(Place(), image_size=128, tile=32, stride=16)
    anomaly_map = tiled(torch.zeros(1, 3, 128, 128)).anomaly_map[0]
    steps = max(float(anomaly_map.diff(dim=d).abs().max()) for d in (0, 1))
    assert steps < 0.12  # with plain averages they are a quarter and more


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_border_is_no_anomaly(ending):
    "Good images that do not fit the tiles get no higher values in their last rows and columns."
    inner = PatchCore(coreset_sampling_ratio=0.05)
    tiled = Tiled(inner, image_size=100, tile=48, stride=32, ending=ending)
    data = DemoData("fabric", train=6, test=6, size=100, val_split_mode="none")
    data.size = (100, 100)
    for i, batch in enumerate(data.train_dataloader()):
        tiled.training_step(batch.replace(image=tiled.pre(batch.image)), i)
    tiled.finalize()
    batch = next(iter(data.test_dataloader()))
    with torch.no_grad():
        maps = tiled.eval()(tiled.pre(batch.image[~batch.gt_label])).anomaly_map
    assert maps[:, -12:].mean() < 1.25 * maps.mean() and maps[..., -12:].mean() < 1.25 * maps.mean()


def test_one_bad_tile_decides():
    dark = torch.zeros(1, 3, 64, 64)
    spotted = dark.clone()
    spotted[..., 40:44, 40:44] = 1
    scores = {}
    for how in ("max", "mean", "map"):
        tiled = Tiled(Brightness(), image_size=64, tile=16, score=how)
        scores[how] = float(tiled(spotted).pred_score - tiled(dark).pred_score)
    assert scores == pytest.approx({"max": 1.0, "mean": 1 / 16, "map": 1.0})


def test_blocks_do_not_matter(monkeypatch):
    tiled = Tiled(Brightness(), image_size=64, tile=16, stride=8)
    image = sample_images(3, size=64).image
    whole = tiled(image)
    monkeypatch.setattr("anomalib_nb.models.tiled.BLOCK", 5)
    parts = tiled(image)
    assert torch.equal(parts.pred_score, whole.pred_score)
    assert torch.equal(parts.anomaly_map, whole.anomaly_map)


def test_a_memory_model_learns_from_tiles():
    tiled = Tiled(
        PatchCore(weights="random", coreset_sampling_ratio=1.0), image_size=64, tile=32, stride=16
    )
    tiled.training_step(Batch(image=tiled.pre(sample_images(2).image)), 0)
    tiled.finalize()
    assert learns_by(tiled) == "memory"
    assert len(tiled.inner.bank) == 2 * 9 * 16  # images, tiles, patches of each tile


def test_saved_with_the_model_inside(tmp_path):
    inner = PatchCore(weights="random", layers=("layer3",), coreset_sampling_ratio=0.3)
    inner.pre = PreProcessor(32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    tiled = fit_briefly(Tiled(inner, image_size=(72, 56), stride=24, score="map"), sample_images())
    tiled.post.image_threshold = 0.25
    twin = load_model(tiled.save(tmp_path))
    image = sample_images(2, seed=3).image
    assert isinstance(twin, Tiled) and isinstance(twin.inner, PatchCore)
    assert twin.tile == (32, 32) and twin.post.image_threshold == 0.25
    assert twin.pre.settings() == tiled.pre.settings() and twin.inner.arguments["layers"] == [
        "layer3"
    ]
    for a, b in zip(twin(twin.pre(image)), tiled(tiled.pre(image))):
        assert torch.equal(a, b)


def test_it_is_found_by_name():
    tiled = get_model("tiled", model="patch_core", image_size=96, tile=32)
    assert isinstance(tiled.inner, PatchCore) and tiled.stride == tiled.tile == (32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 128}, "Expected 0 < stride ≤ tile ≤ image"),
        ({"tile": 32, "stride": 40}, "Expected 0 < stride ≤ tile ≤ image"),
        ({"tile": 32, "stride": -1}, "Expected 0 < stride ≤ tile ≤ image"),
        ({"tile": 32, "ending": "zeros"}, "Expected shift, padding, interpolation"),
        ({"tile": 32, "score": "median"}, "Expected max, mean, map"),
        ({"tile": 4}, "The image size is 4"),
    ],
)
def test_errors_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tiled(Brightness(), image_size=64, **arguments)


@pytest.fixture(scope="module")
def data():
    return DemoData("tile", train=6, test=12, size=120)


@pytest.mark.parametrize(
    ("format", "ending"),
    [("onnx", "shift"), ("openvino", "padding"), ("openvino", "interpolation")],
)
def test_exports_say_the_same(format, ending, data, tmp_path):
    inner = PatchCore(coreset_sampling_ratio=0.05)
    inner.pre = PreProcessor(48)
    tiled = Tiled(inner, image_size=100, stride=32, ending=ending)
    engine = Engine(tmp_path / "runs", accelerator="cpu", enable_progress_bar=False)
    run = engine.fit(tiled, data)
    assert not np.isnan(tiled.post.image_threshold)
    folder = export(tiled, format, tmp_path / "export", datamodule=data)
    report = read_parity(folder)
    assert report.label_flips == 0 and report.score_relative < 1e-4 and report.map_relative < 1e-3
    pictures = [np.zeros((33, 150, 3), np.uint8)] * 2
    said = Inferencer(folder)(pictures)
    assert said.anomaly_map.shape == (2, 100, 100)
    checkpoint = next((run / "checkpoints").glob("*.safetensors"))
    assert np.allclose(Inferencer(checkpoint)(pictures).pred_score, said.pred_score, rtol=1e-4)
