"""Half precision, asked for in any way, says nearly what float32 says, and what is written is float32."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from test_broken_fits import NAMES, SIZE, data, engine, made

from anomalib_nb.models.check import sample_images


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    "name -> a fitted model, what it says of the test images, and where runs lie."
    known = {}

    def get(name):
        if name not in known:
            folder, model = tmp_path_factory.mktemp("half"), made(name)
            engine(folder).fit(model, data("metal"))
            known[name] = model, engine(folder).predict(model, data("metal")), folder
        return known[name]

    return get


def nearly(run, exact) -> bool:
    "Scores of a run are near those of another, on the scale of their spread."
    return bool(np.abs(run.scores - exact.scores).max() <= 0.25 * np.ptp(exact.scores) + 0.02 * np.abs(exact.scores).max())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", NAMES)
def test_the_engine_in_half_precision(name, precision, exact):
    model, run, folder = exact(name)
    said = engine(folder, precision=precision).predict(deepcopy(model), data("metal"))
    assert nearly(said, run) and said.maps[0].dtype == np.float32


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", NAMES)
def test_a_fit_in_half_precision(name, precision, exact):
    _, run, folder = exact(name)
    model, half = made(name), engine(folder, precision=precision)
    half.fit(model, data("metal"))
    assert torch.isfinite(torch.tensor([model.post.image_threshold, model.post.pixel_threshold])).all()
    metrics = half.test(model, data("metal"))
    assert np.isfinite(list(metrics.values())).all()
    assert all(b.dtype != torch.bfloat16 for b in model._buffers.values() if b is not None)


@pytest.mark.parametrize("convert", [torch.nn.Module.half, torch.nn.Module.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model(name, convert, exact):
    model, run, folder = exact(name)
    half = convert(deepcopy(model))
    assert nearly(engine(folder).predict(half, data("metal")), run)
    images = sample_images(2, SIZE)
    for image in (images.image, images.image.bfloat16()):
        said = half.eval().predict_batch(images.replace(image=image))
        assert said.pred_score.dtype == said.anomaly_map.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_half_model_is_saved_and_read(name, exact, tmp_path):
    from anomalib_nb.models.zoo import load_model

    model, _, _ = exact(name)
    if name in ("Memory", "Gradient") or "(" in name:
        return  # not in the zoo
    twin = load_model(deepcopy(model).bfloat16().save(tmp_path))
    images = sample_images(2, SIZE)
    assert torch.allclose(twin.predict_batch(images).pred_score, model.eval().predict_batch(images).pred_score, rtol=0.05)
