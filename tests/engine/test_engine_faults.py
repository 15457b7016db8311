"""What goes wrong is said in one sentence, and nothing already written is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from anomalib_nb.core.io import read_json
from anomalib_nb.core.predictions import Predictions
from anomalib_nb.data import DemoData
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.processing.pre import PreProcessor


def fitted(root):
    model = PatchCore(weights="random", coreset_sampling_ratio=0.05)
    model.pre = PreProcessor(size=64)
    engine, data = (
        Engine(root, accelerator="cpu", enable_progress_bar=False),
        DemoData(train=4, test=8, size=64, eval_batch_size=2),
    )
    engine.fit(model, data)
    return engine, model, data


def test_a_results_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Results cannot be written to .* Pass Engine"):
        fitted(tmp_path / "file")


def test_a_read_only_results_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="no permission to write"):
        fitted(tmp_path)


def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    engine, model, data = fitted(tmp_path)
    import anomalib_nb.core.predictions as module

    grow, calls = module.grow, []

    def full(*args):
        calls.append(1)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return grow(*args)

    monkeypatch.setattr(module, "grow", full)
    with pytest.raises(OSError, match="(?i)space"):
        engine.predict(model, data)
    kept = Predictions.load(engine.run / "predict.zarr")
    assert 0 < len(kept) < 8 and np.isfinite(kept.scores).all()
    assert read_json(engine.run / "run.json")["status"] == "failed"


def test_a_full_disk_while_saving_a_model_keeps_the_old_one(tmp_path, monkeypatch):
    engine, model, data = fitted(tmp_path)
    before = (engine.run / "model/metadata.json").read_text()
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    )
    with pytest.raises(OSError, match="No space"):
        model.save(engine.run / "model")
    assert (engine.run / "model/metadata.json").read_text() == before
    assert sorted(p.name for p in (engine.run / "model").iterdir()) == [
        "metadata.json",
        "model.safetensors",
    ]


def test_an_error_names_the_model_the_stage_and_the_files(tmp_path, monkeypatch):
    engine, model, data = fitted(tmp_path)
    monkeypatch.setattr(type(model), "forward", lambda self, image: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        engine.test(model, data)
    note = "\n".join(caught.value.__notes__)
    assert "PatchCore, test" in note and ".png" in note


SLOW_FIT = """
    import sys, time, torch
    from anomalib_nb.core.types import Prediction
    from anomalib_nb.data import DemoData
    from anomalib_nb.engine import Engine
    from anomalib_nb.models.contract import AnomalyModule
    from anomalib_nb.processing.pre import PreProcessor

    class Slow(AnomalyModule):
        transform = PreProcessor(size=32)
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(()))
        def forward(self, image): return Prediction(image.mean((1, 2, 3)) + self.w, image.mean(1) + self.w)
        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)
        def training_step(self, batch, i):
            time.sleep(0.2)
            return (self.w - 1) ** 2

    engine = Engine(sys.argv[1], max_epochs=500, accelerator="cpu", enable_progress_bar=False)
    try:
        engine.fit(Slow(), DemoData(train=2, test=4, size=32))
    except KeyboardInterrupt as error:
        try:
            print("SAID:", error, flush=True)
            time.sleep(30)
        except KeyboardInterrupt:
            print("AGAIN", flush=True)
"""


def test_ctrl_c_during_fit(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SLOW_FIT))
    # A job in the background starts with Ctrl-C ignored, and hands that on.
    job = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "results")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "results").rglob("*.safetensors")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    said = job.stdout.readline()
    job.send_signal(signal.SIGINT)
    again = job.communicate(timeout=60)[0]
    assert said.startswith("SAID: Interrupted. What was written is in") and "ckpt_path=" in said
    assert "AGAIN" in again, "a second Ctrl-C works as ever"
    run = next((tmp_path / "results").rglob("run.json"))
    assert json.loads(run.read_text())["status"] == "interrupted"


def test_a_killed_fit_leaves_a_whole_checkpoint(tmp_path):
    from anomalib_nb.core.io import load_tree

    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SLOW_FIT))
    job = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "results")], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "results").rglob("*.safetensors")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    job.kill()
    job.wait()
    assert "state_dict" in load_tree(next((tmp_path / "results").rglob("*.safetensors")))


def test_data_without_anomalies_is_fitted_and_says_so(tmp_path):
    engine, model, data = fitted(tmp_path)

    class Good(DemoData):
        def index(self, root):
            table = super().index(root)
            return table[table["label"] == "good"]

    good = Good(train=4, test=8, size=64)
    engine.fit(model, good)
    assert model.post.fitted_on.endswith("0 anomalous validation images")
    assert (engine.predict(model, good).at(model.post.threshold()).pred_label == 0).mean() > 0.4


def test_data_without_normal_images_is_refused(tmp_path):
    engine, model, _ = fitted(tmp_path)

    class Bad(DemoData):
        def index(self, root):
            table = super().index(root)
            return table[table["label"] != "good"].assign(split="train")

    with pytest.raises(ValueError, match="no normal image to train on"):
        engine.fit(model, Bad(train=4, test=8, size=64))
