"""The extractor on real weights, in exported forms, and on what users get wrong."""

import numpy as np
import pytest
import torch

from anomalib_nb.layers import FeatureExtractor
from anomalib_nb.layers import features as module

IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
FILES = {
    "resnet18": (["layer1", "layer2", "layer3"], [64, 128, 256]),
    "mobilenetv2_100": (["blocks.1", "blocks.2", "blocks.4"], [24, 32, 96]),
    "mobilenetv2_035": (["blocks.1", "blocks.2", "blocks.4"], [8, 16, 32]),
}


@pytest.mark.parametrize("backbone", FILES)
def test_real_weights(shared, backbone):
    import timm
    from safetensors.torch import load_file

    layers, channels = FILES[backbone]
    path = shared / "weights" / f"{backbone}.safetensors"
    extractor = FeatureExtractor(backbone, layers, path)
    assert (extractor.channels, extractor.strides) == (channels, [4, 8, 16])
    plain = timm.create_model(backbone, features_only=True, out_indices=(1, 2, 3)).eval()
    weights, own = load_file(path), plain.state_dict()
    plain.load_state_dict({k: v for k, v in weights.items() if k in own}, strict=False)
    for found, expected in zip(extractor(IMAGE), plain(IMAGE), strict=True):
        scale = float(expected.abs().max())  # folding the norms rounds differently
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def test_weights_are_found_in_the_data_folder(shared, monkeypatch, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenetv2_035.safetensors").symlink_to(
        shared / "weights" / "mobilenetv2_035.safetensors"
    )
    monkeypatch.setenv("ANOMALIB_NB__DATA__ROOT", str(tmp_path))
    found = FeatureExtractor("mobilenetv2_035", ["blocks.2"])(IMAGE)[0]
    named = FeatureExtractor(
        "mobilenetv2_035", ["blocks.2"], tmp_path / "weights" / "mobilenetv2_035.safetensors"
    )
    assert torch.equal(found, named(IMAGE)[0])


def test_layer4_is_not_in_the_file(shared):
    with pytest.raises(ValueError, match="layer4"):
        FeatureExtractor("resnet18", ["layer4"], shared / "weights" / "resnet18.safetensors")


def test_a_file_of_another_network(shared):
    with pytest.raises(ValueError, match="lacks"):
        FeatureExtractor("resnet18", ["layer1"], shared / "weights" / "mobilenetv2_100.safetensors")


def test_a_file_of_another_width(shared):
    with pytest.raises(ValueError, match="has shape"):
        FeatureExtractor(
            "mobilenetv2_100", ["blocks.2"], shared / "weights" / "mobilenetv2_035.safetensors"
        )


def test_no_network_is_asked(monkeypatch, tmp_path):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("the network was touched"))
    monkeypatch.setenv("ANOMALIB_NB__DATA__ROOT", str(tmp_path))
    FeatureExtractor("resnet18", ["layer1"], "random")
    with pytest.raises(FileNotFoundError, match="wide_resnet50_2.safetensors"):
        FeatureExtractor("wide_resnet50_2", ["layer1"])


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [
        ("resnet18", ["layer3", "layer1"]),
        ("mobilenetv2_035", ["blocks.4", "blocks.2"]),
        ("test_vit", ["blocks.4", "blocks.1"]),
        ("test_vit3", ["blocks.1"]),
        ("efficientnet_b0", ["blocks.2"]),
        ("convnext_atto", ["stages.1"]),
        ("regnety_004", ["s2"]),
    ],
)
def test_shapes_are_known_beforehand(backbone, layers):
    extractor = FeatureExtractor(backbone, layers, "random")
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(extractor.channels, extractor.strides)]
    assert [tuple(m.shape) for m in extractor(IMAGE)] == expected


def test_last_axis_channels_are_moved():
    extractor = FeatureExtractor("swin_tiny_patch4_window7_224", ["layers.1"], "random")
    assert extractor(torch.zeros(1, 3, 224, 224))[0].shape == (1, 192, 28, 28)


@pytest.mark.parametrize("backbone", ["resnet18", "test_vit"])
def test_random_is_the_same_every_time(backbone):
    layer = module.layer_names([1], list(module.stages(backbone)), backbone)
    torch.manual_seed(5)
    first, state = FeatureExtractor(backbone, layer, "random"), torch.get_rng_state()
    torch.manual_seed(6)
    assert torch.equal(first(IMAGE)[0], FeatureExtractor(backbone, layer, "random")(IMAGE)[0])
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())


def test_frozen_inside_a_model():
    parent = torch.nn.Sequential(
        FeatureExtractor("resnet18", ["layer1"], "random"), torch.nn.Identity()
    ).train()
    before = {k: v.clone() for k, v in parent.state_dict().items()}
    parent(IMAGE)
    assert all(torch.equal(v, before[k]) for k, v in parent.state_dict().items())
    assert not any(p.requires_grad for p in parent.parameters())


def test_the_reference_backbone_state_fits(shared):
    from safetensors.torch import load_file

    prefix = "state/feature_extractor.feature_extractor."
    stored = load_file(shared / "golden" / "patchcore.safetensors")
    names = {k.removeprefix(prefix) for k in stored if k.startswith(prefix)}
    own = FeatureExtractor("test_resnet", ["layer2", "layer3"], "random").network.body.state_dict()
    assert names <= set(own)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize(
    ("backbone", "layers"),
    [("mobilenetv2_035", ["blocks.4", "blocks.2"]), ("test_vit", ["blocks.3"])],
)
def test_exports(runtime, backbone, layers, tmp_path):
    extractor = FeatureExtractor(backbone, layers, "random")
    if runtime == "openvino":
        openvino = pytest.importorskip("openvino")
        graph = openvino.convert_model(extractor, example_input=IMAGE)
        found = list(
            openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
                IMAGE.numpy()
            ).values()
        )
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        torch.onnx.export(extractor, (IMAGE,), str(tmp_path / "m.onnx"), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
        found = session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})
    for a, b in zip(found, extractor(IMAGE), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "layers", "message"),
    [
        ("resnet18", ["layer9"], "layer1, layer2"),
        ("resnet18", [], "No layer"),
        ("resnet18", [7], "no layer 7"),
        ("resnet81", ["layer1"], "resnet"),
    ],
)
def test_what_cannot_be_asked(backbone, layers, message):
    with pytest.raises(ValueError, match=message):
        FeatureExtractor(backbone, layers, "random")


@pytest.mark.parametrize("layers", [["layer1"], ["layer3", "layer2"], [2]])
def test_embedded(layers):
    from anomalib_nb.layers import EmbeddedBackbone

    extractor = FeatureExtractor("embedded", layers)
    whole = EmbeddedBackbone().eval()
    maps = dict(zip(whole.layers, whole(IMAGE)))
    for name, found, c, s in zip(
        extractor.layers, extractor(IMAGE), extractor.channels, extractor.strides, strict=True
    ):
        scale = float(maps[name].abs().max())
        torch.testing.assert_close(found, maps[name], rtol=0, atol=1e-5 * scale)
        assert found.shape == (2, c, 64 // s, 96 // s)
    assert sum(
        p.numel() for p in FeatureExtractor("embedded", ["layer1"]).parameters()
    ) < 0.2 * sum(p.numel() for p in whole.parameters())


def test_embedded_with_other_weights(tmp_path):
    from safetensors.torch import save_file

    random = FeatureExtractor("embedded", ["layer2"], "random")
    save_file(random.network.body.state_dict(), tmp_path / "own.safetensors")
    own = FeatureExtractor("embedded", ["layer2"], tmp_path / "own.safetensors")
    assert torch.equal(own(IMAGE)[0], random(IMAGE)[0])
    assert not torch.equal(own(IMAGE)[0], FeatureExtractor("embedded", ["layer2"])(IMAGE)[0])
