"""Exported models decide like the model, stay editable, and are there whole or not at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from anomalib_nb.core.types import Batch
from anomalib_nb.data import DemoData, to_tensor
from anomalib_nb.data.images import read_image
from anomalib_nb.deploy import (
    Inferencer,
    LightningInferencer,
    OnnxInferencer,
    OpenVINOInferencer,
    TorchInferencer,
    read_parity,
)
from anomalib_nb.deploy.export import export
from anomalib_nb.deploy.parity import parity
from anomalib_nb.engine import Engine
from anomalib_nb.layers.resize import resize
from anomalib_nb.models import PatchCore
from anomalib_nb.processing.pre import PreProcessor

FORMATS = {"torch": TorchInferencer, "onnx": OnnxInferencer, "openvino": OpenVINOInferencer}


@pytest.fixture(scope="module")
def data():
    return DemoData("tile", train=8, test=16, size=96)


@pytest.fixture(scope="module")
def fitted(data, tmp_path_factory):
    "A model at 64 pixels, so that the 96-pixel images are resized by the graph."
    model = PatchCore(coreset_sampling_ratio=0.05)
    model.pre = PreProcessor(size=64)
    engine = Engine(
        tmp_path_factory.mktemp("results"), accelerator="cpu", enable_progress_bar=False
    )
    run = engine.fit(model, data)
    return model.eval(), run


@pytest.fixture(scope="module")
def exports(fitted, data, tmp_path_factory):
    home = tmp_path_factory.mktemp("exports")
    return {format: export(fitted[0], format, home / format, datamodule=data) for format in FORMATS}


@pytest.fixture
def pictures(data):
    paths = data.dataset("test").table["image_path"]
    return [data.read_image(path) for path in paths]


def expected(model, picture):
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return model.predict_batch(Batch(image=image)).numpy()


@pytest.mark.parametrize("format", FORMATS)
def test_no_label_flips_on_the_test_images(format, exports, fitted, data):
    report = parity(fitted[0], Inferencer(exports[format]), data)
    assert report.images == len(data.dataset("test")) > 0
    assert report.label_flips == 0
    assert report.score_relative < 1e-4 and report.map_relative < 1e-3
    assert report.pixel_flips <= report.pixels * 1e-4
    assert read_parity(exports[format]).label_flips == 0


@pytest.mark.parametrize("format", FORMATS)
def test_images_of_any_size_alone_and_together(format, exports, fitted):
    chance = np.random.default_rng(0)
    sizes = [(64, 64), (64, 64), (200, 90), (33, 47), (65, 63), (513, 20), (64, 64)]
    images = [chance.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    inferencer = Inferencer(exports[format])
    assert isinstance(inferencer, FORMATS[format])
    together = inferencer(images).check()
    assert together.anomaly_map.shape == (7, 64, 64) and isinstance(together.pred_score, np.ndarray)
    for i, image in enumerate(images):
        truth, alone = expected(fitted[0], image), inferencer(image)
        for said in (together[i : i + 1], alone):
            assert np.allclose(said.pred_score, truth.pred_score, rtol=1e-4)
            assert np.allclose(said.anomaly_map, truth.anomaly_map, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_the_resize_of_training_is_in_the_graph(format, exports, fitted, data):
    "Fourteen pixels become one: with another antialiasing, or none, the answers would be far apart."
    y, x = np.mgrid[:900, :1200]
    stripes = np.where((x + y) % 3 == 0, 255, 0)[..., None] * np.ones(3)
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3))
    for picture in (np.uint8(stripes), np.uint8(noise)):
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        loaded = to_tensor(picture, (64, 64))[None]  # what training sees
        assert torch.allclose(resize(image, (64, 64)), loaded, atol=1e-5)
        with torch.no_grad():
            truth = fitted[0](fitted[0].pre(loaded))
            rough = fitted[0](fitted[0].pre(F.interpolate(image, (64, 64), mode="bilinear")))
        said = Inferencer(exports[format])(picture)
        assert said.info[0]["image_size"] == (900, 1200)
        assert np.allclose(said.pred_score, truth.pred_score, rtol=1e-3)
        assert np.allclose(said.anomaly_map, truth.anomaly_map, rtol=5e-3, atol=5e-3)
        assert not np.allclose(said.pred_score, rough.pred_score, rtol=0.02)


@pytest.mark.parametrize("format", FORMATS)
def test_every_form_of_an_image_is_the_same_image(format, exports, pictures, tmp_path):
    picture = pictures[0]
    Image.fromarray(picture).save(tmp_path / "part.png")
    inferencer = Inferencer(exports[format])
    forms = [
        picture,
        picture.astype(np.float32) / 255,
        picture / 255,
        Image.fromarray(picture),
        tmp_path / "part.png",
        str(tmp_path / "part.png"),
    ]
    scores = [float(inferencer(form).pred_score[0]) for form in forms]
    assert np.allclose(scores, scores[0], rtol=1e-6)
    assert inferencer(tmp_path / "part.png").image_path == [str(tmp_path / "part.png")]


def test_pictures_are_turned_upright_as_in_training(exports, pictures, tmp_path):
    path, exif = tmp_path / "turned.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pictures[0]).save(path, exif=exif)
    inferencer = Inferencer(exports["onnx"])
    assert np.array_equal(inferencer(path).pred_score, inferencer(read_image(path)).pred_score)


@pytest.mark.parametrize("format", FORMATS)
def test_edited_thresholds_are_honoured(format, exports, pictures, tmp_path):
    folder = Path(shutil.copytree(exports[format], tmp_path / format))
    score = float(Inferencer(folder)(pictures[0]).pred_score[0])
    for threshold, label in ((score * 1.01, False), (score * 0.99, True)):
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata["post"]["image_threshold"] = threshold
        (folder / "metadata.json").write_text(json.dumps(metadata))
        assert Inferencer(folder)(pictures[0]).pred_label.tolist() == [label]
    inferencer = Inferencer(folder)
    inferencer.post.image_threshold, inferencer.post.pixel_threshold = score * 2, 1e9
    said = inferencer(pictures[0])
    assert not said.pred_label[0] and not said.pred_mask.any()
    inferencer.save_thresholds()
    assert Inferencer(folder).post == inferencer.post
    assert "parity" in json.loads((folder / "metadata.json").read_text())


def test_checkpoints_and_model_folders_run_in_lightning(fitted, pictures):
    model, run = fitted
    truth = expected(model, pictures[0])
    checkpoint = next((run / "checkpoints").glob("*.safetensors"))
    assert isinstance(Inferencer(checkpoint), LightningInferencer)
    assert isinstance(Inferencer(run), TorchInferencer)
    for inferencer in (Inferencer(checkpoint), LightningInferencer(run / "model"), Inferencer(run)):
        assert np.allclose(inferencer(pictures[0]).pred_score, truth.pred_score, rtol=1e-5)
    with pytest.raises(ValueError, match="checkpoint"):
        Inferencer(checkpoint).save_thresholds()


def test_half_precision_is_half_the_size(fitted, exports, tmp_path, data):
    half = export(fitted[0], "openvino", tmp_path / "half", precision="fp16", datamodule=data)
    sizes = [(folder / "model.bin").stat().st_size for folder in (half, exports["openvino"])]
    assert sizes[0] < 0.6 * sizes[1]
    assert read_parity(half).score_relative < 0.01


def test_exporting_leaves_the_model_as_it_was(fitted, tmp_path):
    model = fitted[0]
    model.train()
    before = {name: part.training for name, part in model.named_modules()}
    export(model, "openvino", tmp_path / "x")
    assert {name: part.training for name, part in model.named_modules()} == before
    model.eval()


def test_a_failure_leaves_the_older_export_and_no_debris(fitted, tmp_path, monkeypatch):
    folder = export(fitted[0], "torch", tmp_path / "shipped")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setitem(export.__globals__, "check_parity", broken)
    with pytest.raises(OSError, match="disk full"):
        export(fitted[0], "openvino", folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["shipped"]
    with pytest.raises(OSError, match="disk full"):
        export(fitted[0], "torch", tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["shipped"]


def test_a_new_format_replaces_the_old_one_whole(fitted, tmp_path):
    folder = export(fitted[0], "torch", tmp_path / "shipped")
    export(fitted[0], "openvino", folder)
    assert sorted(p.name for p in folder.iterdir()) == ["metadata.json", "model.bin", "model.xml"]


def test_a_folder_of_other_things_is_not_replaced(fitted, tmp_path):
    (tmp_path / "holiday.jpg").write_text("precious")
    with pytest.raises(FileExistsError, match="no export"):
        export(fitted[0], "onnx", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_graph_that_says_something_else_is_not_shipped(fitted, tmp_path, monkeypatch):
    real = torch.export.export

    class Other(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, image):
            score, where = self.network(image)
            return 1.1 * score, where

    monkeypatch.setattr(
        torch.export, "export", lambda network, *a, **k: real(Other(network), *a, **k)
    )
    with pytest.raises(RuntimeError, match="says something else"):
        export(fitted[0], "openvino", tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wish", [("onxx", "fp32"), ("openvino", "int8"), ("onnx", "fp16"), ("torch", "int8")]
)
def test_impossible_wishes_are_refused_at_once(fitted, tmp_path, wish):
    with pytest.raises(ValueError):
        export(fitted[0], wish[0], tmp_path / "x", precision=wish[1])
    assert not list(tmp_path.iterdir())


def test_wrong_paths_are_explained(tmp_path, exports):
    with pytest.raises(FileNotFoundError, match="There is no"):
        Inferencer(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no model in"):
        Inferencer(tmp_path)
    with pytest.raises(ValueError, match="is a model for onnx"):
        OpenVINOInferencer(exports["onnx"])
    with pytest.raises(FileNotFoundError, match="Did you mean 'onnx'"):
        Inferencer(exports["onnx"].with_name("onxx"))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 7)),
        np.full((8, 8, 3), 200.0),
        np.zeros((8, 8, 3), np.int64),
        np.full((8, 8, 3), np.nan),
    ],
)
def test_wrong_arrays_are_explained(image, exports):
    with pytest.raises(ValueError, match="image"):
        Inferencer(exports["onnx"])(image)


def test_no_images_are_explained(exports, tmp_path):
    with pytest.raises(ValueError, match="no images"):
        Inferencer(exports["onnx"])([])
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ValueError, match="bad.png"):
        Inferencer(exports["onnx"])(tmp_path / "bad.png")


@pytest.mark.parametrize(
    "content", ["[]", "{}", "nonsense", '{"model": "x", "post": {"image_treshold": 1}}']
)
def test_damaged_metadata_is_explained(fitted, tmp_path, content, exports):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((exports["onnx"] / "model.onnx").read_bytes())
    (folder / "metadata.json").write_text(content)
    with pytest.raises(ValueError):
        Inferencer(folder)


FRESH = """
import sys
from anomalib_nb.deploy import Inferencer
import numpy as np
batch = Inferencer(sys.argv[1])(np.zeros((50, 40, 3), np.uint8))
loaded = sorted(m for m in sys.modules if m.startswith("anomalib_nb.models") or m in ("lightning", "timm", "pandas"))
print(batch.anomaly_map.shape, loaded, "openvino.tools.ovc.convert" in sys.modules)
"""


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_fresh_process_needs_no_model_class(format, exports):
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(exports[format])],
        capture_output=True,
        text=True,
        env={**os.environ, "CI": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 64, 64) []"), done.stdout


def test_exporting_is_silent(fitted, tmp_path, capfd, recwarn):
    for format in FORMATS:
        export(fitted[0], format, tmp_path / format)
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    assert not recwarn.list


def test_a_missing_runtime_says_how_to_get_it(fitted, tmp_path, monkeypatch, exports):
    for module in ("openvino", "openvino.frontend", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'anomalib_nb\[openvino\]'"):
        export(fitted[0], "openvino", tmp_path / "x")
    with pytest.raises(ImportError, match=r"pip install 'anomalib_nb\[onnx\]'"):
        export(fitted[0], "onnx", tmp_path / "x")
    with pytest.raises(ImportError, match=r"pip install 'anomalib_nb\[onnx\]'"):
        Inferencer(exports["onnx"])
    assert not list(tmp_path.iterdir())
