"""Blur and neighbours against plain formulas, and in every exported form."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anomalib_nb.layers import GaussianBlur, nearest
from anomalib_nb.layers.neighbours import half_norms


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Memory(nn.Module):
    def __init__(self, bank, k):
        super().__init__()
        self.register_buffer("bank", bank)
        self.k = k

    def forward(self, x):
        return nearest(x, self.bank, self.k)


def exported_numbers(module, image, runtime, folder):
    if runtime == "openvino":
        openvino = pytest.importorskip("openvino")
        compiled = openvino.compile_model(
            openvino.convert_model(module, example_input=image),
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32"},
        )
        return [np.array(v) for v in compiled(image.numpy()).values()]
    onnxruntime = pytest.importorskip("onnxruntime")
    path = str(folder / "m.onnx")
    torch.onnx.export(module, (image,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: image.numpy()})


@pytest.mark.parametrize("sigma", [0.6, 2.0, 4.0])
def test_blur_equals_the_square_kernel(sigma):
    blur, x = GaussianBlur(sigma), noise(2, 40, 37)
    r, square = blur.radius, torch.outer(blur.kernel, blur.kernel)[None, None]
    expected = F.conv2d(F.pad(x[:, None], (r,) * 4, mode="reflect"), square)[:, 0]
    torch.testing.assert_close(blur(x), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 40), (3, 40, 40), (3, 1, 40, 40), (2, 5, 40, 40)])
def test_blur_keeps_shape(shape):
    assert GaussianBlur()(torch.zeros(shape)).shape == shape


def test_blur_equals_the_reference_kernel(shared):
    from safetensors import safe_open

    with safe_open(shared / "golden" / "patchcore.safetensors", "pt") as file:
        kernel = file.get_tensor("state/anomaly_map_generator.blur.kernel")[0, 0]
    ours = GaussianBlur(4.0).kernel
    torch.testing.assert_close(torch.outer(ours, ours), kernel, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_blur_exports(runtime, tmp_path):
    x = noise(2, 48, 40)
    [found] = exported_numbers(GaussianBlur().eval(), x, runtime, tmp_path)
    np.testing.assert_allclose(found, GaussianBlur()(x), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 50),
    m=st.integers(1, 60),
    c=st.integers(1, 9),
    k=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_nearest_equals_all_distances(n, m, c, k, seed):
    queries, bank, k = noise(n, c, seed=seed), noise(m, c, seed=seed + 1), min(k, m)
    distances, indices = nearest(queries, bank, k)
    expected = torch.cdist(queries.double(), bank.double()).sort(1).values[:, :k]
    torch.testing.assert_close(distances.double(), expected, atol=1e-5, rtol=1e-5)
    again = (queries[:, None] - bank[indices]).square().sum(2).sqrt()  # (n, k)
    torch.testing.assert_close(distances, again)


def test_tiles_change_nothing(monkeypatch):
    from anomalib_nb.layers import neighbours

    queries, bank = noise(70, 16), noise(500, 16, seed=1)
    whole = {k: nearest(queries, bank, k) for k in (1, 7)}
    monkeypatch.setattr(neighbours, "BANK_ROWS", 3)
    monkeypatch.setattr(neighbours, "TILE", 30)
    for k, (distances, indices) in whole.items():
        found = nearest(queries, bank, k, norms=half_norms(bank))
        assert torch.equal(found[1], indices)
        torch.testing.assert_close(found[0], distances)


def test_distance_is_exact_far_from_the_origin():
    bank = noise(200, 32) + 1000
    distances, _ = nearest(bank + 0.0, bank)
    assert distances.max() == 0


def test_half_precision_bank():
    bank = noise(100, 8).half()
    distances, _ = nearest(bank.float(), bank)
    assert distances.dtype == torch.float32 and distances.max() == 0


def test_no_queries():
    distances, indices = nearest(torch.zeros(0, 4), noise(9, 4), 2)
    assert distances.shape == indices.shape == (0, 2)


@pytest.mark.parametrize("k", [0, 4])
def test_impossible_number_of_neighbours(k):
    with pytest.raises(ValueError, match="bank of 3 rows"):
        nearest(noise(2, 4), noise(3, 4), k)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(3, 5\)"):
        nearest(noise(2, 4), noise(3, 5))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_nearest_exports(runtime, k, tmp_path):
    queries, bank = noise(6, 16), noise(9000, 16, seed=1)
    found = exported_numbers(Memory(bank, k).eval(), queries, runtime, tmp_path)
    distances, indices = nearest(queries, bank, k)
    np.testing.assert_allclose(found[0], distances, atol=1e-5)
    np.testing.assert_array_equal(found[1], indices)
