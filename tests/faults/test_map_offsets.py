"""Maps lie where the defect is: for every backbone, stage, weights, size and export."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anomalib_nb.core.types import Batch
from anomalib_nb.deploy.export import export
from anomalib_nb.layers import FeatureExtractor
from anomalib_nb.layers import features as features_module
from anomalib_nb.layers.offsets import Gaze, all_misses, lay
from anomalib_nb.models import PatchCore, from_reference, load_model

STAGES, BLOCKS = ("layer1", "layer2", "layer3"), ("blocks.1", "blocks.2", "blocks.4")
PLAIN = torch.empty(0, 2)


def cloths(count, size, seed=5):
    chance = torch.Generator().manual_seed(seed)
    coarse = 0.35 + 0.3 * torch.rand(count, 3, 12, 12, generator=chance)
    smooth = F.interpolate(coarse, size=size, mode="bicubic")
    return (smooth + 0.02 * torch.randn(smooth.shape, generator=chance)).clamp(0, 1)


def with_squares(clean, seed=6, margin=32):
    "One square on each image, and the centres."
    chance, marked, centres = torch.Generator().manual_seed(seed), clean.clone(), []
    for image in marked:
        side = int(torch.randint(8, 19, (), generator=chance))
        y, x = (
            int(torch.randint(margin, n - margin - side + 1, (), generator=chance))
            for n in image.shape[1:]
        )
        image[:, y : y + side, x : x + side] += (
            0.4 if torch.rand((), generator=chance) < 0.5 else -0.3
        )
        centres.append([y + side / 2, x + side / 2])
    return marked.clamp(0, 1), torch.tensor(centres)


def fitted(model, clean):
    with torch.no_grad():
        model.training_step(Batch(image=model.pre(clean)), 0)
    model.finalize()
    return model.eval()


def peaks(maps):
    "The centre of the hundred hottest pixels of each map."
    hottest = maps.flatten(1).topk(100).indices
    width = maps.shape[-1]
    return torch.stack([hottest // width, hottest % width], -1).float().mean(1) + 0.5


def offset(backbone, layers, weights, plain=False):
    "The mean miss of the peaks on 24 painted squares, in pixels at 256."
    clean = cloths(4, (256, 256))
    marked, centres = with_squares(clean.repeat(6, 1, 1, 1))
    model = PatchCore(backbone, layers, weights, coreset_sampling_ratio=0.02)
    if plain:
        model.backbone.look(PLAIN)
    fitted(model, clean)
    with torch.no_grad():
        maps = torch.cat([model(model.pre(part)).anomaly_map for part in marked.split(8)])
    return (peaks(maps) - centres).mean(0)


@pytest.mark.parametrize("layers", [("layer1",), ("layer2",), ("layer3",), ("layer2", "layer3")])
def test_the_packaged_network_points_at_the_square(layers):
    assert offset("embedded", layers, None).abs().max() <= 1


@pytest.mark.parametrize("backbone", ["embedded", "test_resnet", "resnet18"])
def test_random_weights_lean_and_are_put_straight(backbone):
    "Such a network finds no defects, but it answers: up to half a stride away, by geometry."
    network = FeatureExtractor(backbone, ["layer2"], "random")
    plainly, laid = (all_misses(network, gazes=g, seed=4).median(1).values for g in ((), network.gazes))
    assert plainly.min() > 1 and laid.abs().max() <= 0.8


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_100", "mobilenetv2_035"])
@pytest.mark.parametrize("stages", [(0,), (1,), (2,), (1, 2)])
def test_shared_weights_point_at_the_square(shared, backbone, stages):
    names = STAGES if backbone == "resnet18" else BLOCKS
    weights = shared / "weights" / f"{backbone}.safetensors"
    layers = tuple(names[i] for i in stages)
    bound = 2.5 if stages == (2,) else 1  # at stride 16 the cloth and the shape of a mark count, too
    assert offset(backbone, layers, str(weights)).abs().max() <= bound


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "mobilenetv2_035"])
def test_what_was_transplanted_leaned(shared, backbone):
    weights = shared / "weights" / f"{backbone}.safetensors"
    assert offset(backbone, BLOCKS[1:], str(weights), plain=True)[0] > 5


def test_the_file_says_where_its_network_looks():
    packaged = FeatureExtractor("embedded", STAGES)
    assert packaged.offsets.shape == (3, 2)
    found = all_misses(packaged, gazes=packaged.gazes, seed=9).median(1).values
    assert found.abs().max() < 1.5


def test_it_is_measured_once(monkeypatch):
    calls = []
    measure = features_module.measure_offsets
    monkeypatch.setattr(
        features_module, "measure_offsets", lambda *a: calls.append(1) or measure(*a)
    )
    monkeypatch.setattr(features_module, "MEASURED", {})
    first = FeatureExtractor("test_resnet", ["layer2"], "random")
    assert first.gazes == first.gazes == FeatureExtractor("test_resnet", ["layer2"], "random").gazes
    assert len(calls) == 1
    assert FeatureExtractor("test_resnet", ["layer1"], "random").gazes and len(calls) == 2
    FeatureExtractor("embedded", ["layer1"]).gazes
    assert len(calls) == 2


def leaning(size=64, layers=("layer2", "layer3")):
    "A fitted model whose layers look up and left."
    model = PatchCore("embedded", layers, weights="random")
    model.pre.size = size if isinstance(size, tuple) else (size, size)
    return fitted(model, cloths(2, model.pre.size))


def test_a_saved_model_does_not_measure_again(tmp_path, monkeypatch):
    model = leaning()
    twin_of = model.save(tmp_path)
    monkeypatch.setattr(features_module, "measure_offsets", None)
    monkeypatch.setattr(features_module, "MEASURED", {})
    twin, image = load_model(twin_of), cloths(1, (64, 64), seed=1)
    assert twin.backbone.gazes == model.backbone.gazes != []
    assert torch.equal(twin(twin.pre(image)).anomaly_map, model(model.pre(image)).anomaly_map)


def test_offsets_put_back_to_nothing_are_measured_again():
    "What a new fit does to the buffers of a model fitted before."
    model = leaning()
    known = model.backbone.gazes
    model.backbone.offsets = torch.empty(0)
    assert model.backbone.gazes == known and model.backbone.offsets.shape == (2, 2)


def test_bf16_as_the_default_type():
    "As lightning's bf16-true does it."
    torch.set_default_dtype(torch.bfloat16)
    try:
        measured = all_misses(lambda images: [F.avg_pool2d(images, 8)]).median(1).values
        laid = lay(torch.eye(5)[None, None], (40, 40), Gaze(8, 2.0, 1.0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert measured.abs().max() < 0.3
    torch.testing.assert_close(laid.float(), lay(torch.eye(5)[None, None], (40, 40), Gaze(8, 2.0, 1.0)), atol=0.02, rtol=0)


def test_a_model_saved_before_offsets_keeps_its_maps():
    old = PatchCore("embedded", weights="random")
    old.backbone.look(PLAIN)
    fitted(old, cloths(2, (64, 64)))
    state = {k: v for k, v in old.state_dict().items() if k != "backbone.offsets"}
    twin = PatchCore("embedded", weights="random")
    twin.bank = torch.empty_like(state["bank"])
    twin.load_state_dict(state)
    image = old.pre(cloths(1, (64, 64), seed=1))
    assert twin.eval().backbone.gazes == []
    assert torch.equal(twin(image).anomaly_map, old(image).anomaly_map)


def test_imported_models_enlarge_plainly():
    ours = PatchCore("resnet18", weights="random", upsampling="nearest")
    ours.backbone.look(PLAIN)
    fitted(ours, cloths(2, (64, 64)))
    names = {"bank": "memory_bank", "backbone.network.body.": "feature_extractor.feature_extractor."}
    state = {
        next((new + k.removeprefix(old) for old, new in names.items() if k.startswith(old)), k): v
        for k, v in ours.state_dict().items()
        if k != "backbone.offsets"
    }
    theirs = from_reference(state, "PatchCore", backbone="resnet18")
    image = ours.pre(cloths(1, (64, 96), seed=1))
    assert theirs.backbone.gazes == []
    assert torch.equal(theirs(image).anomaly_map, ours(image).anomaly_map)


@pytest.mark.parametrize("size", [(64, 96), (128, 80), (100, 70)])
def test_odd_sizes(size):
    model = leaning(size)
    clean = cloths(6, size, seed=2)
    marked, _ = with_squares(clean, margin=16)
    with torch.no_grad():
        found = model(model.pre(marked)).anomaly_map
    assert found.shape == (6, *size) and found.isfinite().all()
    graph = torch.export.export(model, (model.pre(marked),), strict=False).module()
    torch.testing.assert_close(graph(model.pre(marked)).anomaly_map, found, rtol=1e-4, atol=1e-4)


def test_a_grid_that_does_not_divide_the_image_lies_right():
    "13 cells of stride 8 on 100 pixels: each lies where it looks, not stretched."
    ramp = (torch.arange(13) * 8.0 + 4).view(1, 1, 1, 13)
    laid = lay(ramp, (1, 100), Gaze(8))[0, 0, 0]
    torch.testing.assert_close(laid[4:96], torch.arange(4, 96) + 0.5)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_exports_carry_the_offsets(format, tmp_path):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    from anomalib_nb.deploy import Inferencer

    model = leaning(64)
    picture = cloths(1, (64, 64), seed=3)
    with torch.no_grad():
        expected = model(model.pre(picture)).anomaly_map[0]
    model.post.image_threshold, model.post.pixel_threshold = 1.0, 1.0
    export(model, format, tmp_path / format)
    said = Inferencer(tmp_path / format)(picture[0].permute(1, 2, 0).numpy())
    found = np.asarray(said.anomaly_map).reshape(64, 64)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3 * float(expected.max()))
    model.backbone.look(PLAIN)
    with torch.no_grad():
        plain = model(model.pre(picture)).anomaly_map[0].numpy()
    assert np.abs(found - plain).max() > 10 * np.abs(found - expected.numpy()).max()


def test_a_transformer_is_not_moved():
    blocks = FeatureExtractor("test_vit", ["blocks.2", "blocks.5"], "random")
    assert all((g.down, g.right) == (0, 0) for g in blocks.gazes)


def test_half_precision_keeps_the_offsets():
    model = leaning()
    before = model.backbone.gazes
    assert model.half().backbone.gazes == before
    assert model.float().backbone.gazes == before
