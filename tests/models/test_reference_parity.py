"""Networks of the reference, loaded into ours, say the same: fixtures of its own outputs."""

import importlib.util

import pytest
import torch

from anomalib_nb.models import from_reference
from anomalib_nb.models.patchcore import embed, patches
from anomalib_nb.models.reference import init_arguments, pre_of, read_checkpoint, thresholds_of
from anomalib_nb.processing.post import decide
from anomalib_nb.processing.pre import PreProcessor


@pytest.fixture(scope="module")
def golden(shared):
    spec = importlib.util.spec_from_file_location("golden_load", shared / "golden/load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load


def test_patchcore_predicts_like_the_reference(golden):
    g = golden("patchcore")
    model = from_reference(
        g.state,
        "PatchCore",
        backbone=g.meta["backbone"],
        layers=tuple(g.meta["constructor"]["layers"]),
    )
    image = g.input["image"]
    g.check("embedding", patches(embed(model.backbone(image))))
    said = model(image)
    g.check("anomaly_map", said.anomaly_map)
    g.check("pred_score", said.pred_score)


def test_a_lightning_checkpoint_is_read_without_the_reference(shared):
    whole = read_checkpoint(shared / "golden/engine_padim.ckpt")
    assert whole["hyper_parameters"]["backbone"] == "test_resnet.r160_in1k"
    spec = whole["anomalib_pre_processor_config"]
    assert init_arguments(spec, "Resize")["size"] == [64, 64]
    assert pre_of(spec, PreProcessor()).size == (64, 64)


def test_thresholds_decide_like_the_references(shared):
    state = read_checkpoint(shared / "golden/engine_padim.ckpt")["state_dict"]
    theirs, ours = state["post_processor._image_threshold"], thresholds_of(state)["image_threshold"]
    values = torch.stack([theirs, theirs.nextafter(torch.tensor(torch.inf)), theirs - 1])
    assert decide(values, ours).tolist() == (values > theirs).tolist()


def test_a_state_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit PatchCore"):
        from_reference(
            {"memory_bank": torch.ones(2, 2)}, "PatchCore", backbone="test_resnet.r160_in1k"
        )


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x04."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read safely"):
        from_reference(tmp_path / "x.ckpt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": {}, "x": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        from_reference(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "ran").exists()


def test_named_strings_of_the_reference_become_strings(tmp_path):
    import sys
    import types
    from enum import Enum

    module = types.ModuleType("anomalib.precision")
    module.Precision = Enum(
        "Precision",
        {"FLOAT32": "float32"},
        type=str,
        module="anomalib.precision",
        qualname="Precision",
    )
    sys.modules.update({"anomalib": types.ModuleType("anomalib"), "anomalib.precision": module})
    try:
        torch.save(
            {"state_dict": {}, "hyper_parameters": {"precision": module.Precision.FLOAT32}},
            tmp_path / "e.ckpt",
        )
    finally:
        del sys.modules["anomalib"], sys.modules["anomalib.precision"]
    read = read_checkpoint(tmp_path / "e.ckpt")["hyper_parameters"]["precision"]
    assert isinstance(read, str) and read == "float32"
