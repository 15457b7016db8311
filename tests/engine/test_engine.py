"""The engine: fresh trainers, resumable runs, honest numbers."""

import json

import numpy as np
import pytest
import torch

from anomalib_nb.core.predictions import Predictions
from anomalib_nb.core.types import Prediction
from anomalib_nb.data import DemoData
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore, load_model
from anomalib_nb.models.contract import AnomalyModule
from anomalib_nb.processing.pre import PreProcessor


class Learner(AnomalyModule):
    "A model that learns its brightness by gradient."

    transform = PreProcessor(size=32)
    trainer_defaults = {"max_epochs": 2}

    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.lr, self.mean = lr, torch.nn.Parameter(torch.zeros(()))

    def forward(self, image):
        anomaly_map = (image.mean(1) - self.mean).abs()
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)

    def training_step(self, batch, batch_idx):
        return (batch.image.mean() - self.mean).square()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class ZeroShot(AnomalyModule):
    "A model that needs no training."

    transform = PreProcessor(size=32)

    def forward(self, image):
        anomaly_map = image.std(1)
        return Prediction(anomaly_map.amax((1, 2)), anomaly_map)


@pytest.fixture
def data():
    return DemoData(train=6, test=8, size=64, train_batch_size=3)


@pytest.fixture
def engine(tmp_path):
    return Engine(tmp_path, accelerator="cpu", enable_progress_bar=False)


def small_patchcore(**arguments):
    model = PatchCore(weights="random", coreset_sampling_ratio=0.05, **arguments)
    model.pre = PreProcessor(size=64)
    return model


def test_a_second_model_inherits_nothing_from_the_first(engine, data):
    engine.fit(Learner(), data)
    assert engine.trainer.max_epochs == 2
    engine.fit(small_patchcore(), data)
    assert engine.trainer.max_epochs == 1


def test_the_users_arguments_win_and_it_is_said(tmp_path, data, capsys):
    engine = Engine(tmp_path, max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    engine.fit(Learner(), data)
    assert engine.trainer.max_epochs == 3
    assert "asks for max_epochs=2" in capsys.readouterr().out


def test_zero_shot_models_are_only_calibrated(engine, data):
    model = ZeroShot()
    engine.fit(model, data)
    assert np.isfinite(model.post.image_threshold) and "validation" in model.post.fitted_on


def test_test_and_validate_leave_thresholds_alone(engine, data):
    model = small_patchcore()
    engine.fit(model, data)
    model.post.image_threshold = 123.0
    tested, validated = engine.test(model, data), engine.validate(model, data)
    assert model.post.image_threshold == 123.0
    assert validated.optimistic and not tested.optimistic  # thresholds come from validation images


def test_metrics_of_test_are_those_of_the_raw_scores(engine, data):
    from sklearn.metrics import roc_auc_score

    model = small_patchcore()
    metrics = engine.train(model, data)
    run = Predictions.load(engine.run / "test.zarr")
    assert metrics["image_AUROC"] == pytest.approx(roc_auc_score(run.labels, run.scores), abs=1e-9)
    assert (
        json.loads((engine.run / "metrics.json").read_text())["image_AUROC"]
        == metrics["image_AUROC"]
    )


def test_a_saved_model_predicts_the_same(engine, data):
    model = small_patchcore()
    run = engine.fit(model, data)
    before = engine.predict(model, data)
    after = engine.predict(load_model(run / "model"), data)
    assert np.array_equal(before.scores, after.scores)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    data = DemoData(
        train=6, test=8, size=64, train_batch_size=6
    )  # one batch: shuffling changes nothing
    first, second = Learner(), Learner()
    run = Engine(tmp_path, max_epochs=1, accelerator="cpu", enable_progress_bar=False).fit(
        first, data
    )
    saved = next((run / "checkpoints").glob("*.safetensors"))
    later = Engine(tmp_path, max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    later.fit(second, data, ckpt_path=saved)
    whole = Learner()
    Engine(tmp_path, max_epochs=2, accelerator="cpu", enable_progress_bar=False).fit(whole, data)
    assert later.trainer.global_step == 2
    assert float(second.mean) == pytest.approx(float(whole.mean), abs=1e-6)


def test_a_memory_model_writes_a_checkpoint(engine, data):
    model = small_patchcore()
    run = engine.fit(model, data)
    saved = next((run / "checkpoints").glob("*.safetensors"))
    twin = small_patchcore()
    engine.trainer.strategy.checkpoint_io.load_checkpoint(saved)
    from anomalib_nb.core.io import load_tree

    tree = load_tree(saved)
    twin.on_load_checkpoint(tree)
    twin.load_state_dict(tree["state_dict"])
    assert torch.equal(twin.bank, model.bank)


def test_the_same_seed_gives_the_same_run(tmp_path, data):
    scores = []
    for _ in range(2):
        model = small_patchcore()
        engine = Engine(tmp_path, accelerator="cpu", enable_progress_bar=False)
        engine.fit(model, DemoData(train=6, test=8, size=64))
        scores.append(engine.predict(model, data).scores)
    assert np.array_equal(*scores)


def test_every_kind_of_source_is_predicted_alike(engine, data, tmp_path):
    from PIL import Image

    model = small_patchcore()
    engine.fit(model, data)
    array = (data.dataset("test")[0].image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    sources = [array, [array], Image.fromarray(array), tmp_path / "a.png", str(tmp_path / "*.png")]
    scores = [float(engine.predict(model, source).scores[0]) for source in sources]
    assert np.ptp(scores) < 1e-6 * max(scores)


def test_a_data_sets_name_cannot_leave_the_results(engine, data, tmp_path):
    data.name = "../../outside"
    run = engine.fit(small_patchcore(), data)
    assert run.resolve().is_relative_to(tmp_path.resolve())
