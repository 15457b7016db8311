"""Steps without a browser: sessions that are shared, clicks, stops, and messages that do not echo."""

import threading
import time

import comm
import numpy as np
import pytest
from comm.base_comm import BaseComm

from anomalib_nb.core import Predictions
from anomalib_nb.data import DemoData
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.steps import Session, ThresholdStep, TrainStep, Workbench, link, list_steps
from anomalib_nb.steps.data import arguments_of
from anomalib_nb.steps.session import STEPS, settle
from anomalib_nb.steps.train import Listener
from anomalib_nb.widgets import Curves, Gallery, HeatMap, ScoreHistogram, example_run


@pytest.fixture
def session(tmp_path):
    data = DemoData(train=12, test=8, size=64, train_batch_size=1, eval_batch_size=4)
    model = PatchCore(weights="random", coreset_sampling_ratio=0.05)
    return Session(data, model, Engine(tmp_path, accelerator="cpu", enable_progress_bar=False))


def run_of(count=12, **attributes) -> Predictions:
    made = example_run(count)
    rows = {
        "pred_score": made.pred_score,
        "gt_label": made.gt_label == 1,
        "anomaly_map": made.anomaly_map,
    }
    return Predictions.from_batches([rows], **attributes)


def test_the_steps_are_found():
    assert list_steps() == [
        "DataStep",
        "ExportStep",
        "ModelStep",
        "ThresholdStep",
        "TrainStep",
        "VisualizeStep",
        "Workbench",
    ]


@pytest.mark.parametrize("name", list_steps())
def test_every_step_opens_with_nothing_and_says_what_it_waits_for(name):
    step = STEPS.get(name)()
    waits = step.steps.values() if name == "Workbench" else [step]
    assert all("anb-say" in one.note.value for one in waits) and step.error is None


def test_what_is_out_of_date_goes(session):
    settle(session, session.origin(), predictions=run_of(), metrics={"image_AUROC": 1.0})
    session.model = PatchCore(weights="random")
    assert session.predictions is None and session.metrics is None


def test_a_step_follows_predictions_that_come_later(session):
    step = ThresholdStep(session)
    with pytest.raises(AttributeError, match="no histogram yet"):
        step.threshold = 0.3
    session.predictions = run_of(image_threshold=0.45)
    assert step.threshold == 0.45 and step.views is not None
    session.predictions = None
    assert step.body.children == () and step.views is None


def test_a_dragged_threshold_decides_in_model_and_predictions(session):
    session.predictions = run_of(image_threshold=0.45, pixel_threshold=0.3)
    (
        session.model.post.image_sensitivity,
        session.model.post.image_min,
        session.model.post.image_max,
    ) = 0.7, 0.0, 1.0
    step = ThresholdStep(session)
    step.views.curves.set_state({"threshold": 0.6})
    step.views.heat_map.set_state({"threshold": 0.2})
    post, attrs = session.model.post, session.predictions.attrs
    assert post.threshold("image") == attrs["image_threshold"] == step.threshold == 0.6
    assert post.threshold("pixel") == attrs["pixel_threshold"] == 0.2
    step.reset()
    assert (post.image_threshold, post.pixel_threshold) == (0.45, 0.3)


def test_suggestions_do_what_they_say():
    step = ThresholdStep(run_of(24, image_threshold=0.45))
    step.suggest("no false alarm")
    assert step.metrics["fp"] == 0
    step.suggest("nothing missed")
    assert step.metrics["fn"] == 0
    step.suggest("best F1")
    best = step.metrics["f1"]
    for threshold in np.linspace(0, 1.1, 300):
        step.threshold = float(threshold)
        assert not step.metrics["f1"] > best + 1e-12


class Wire(BaseComm):
    "Keeps what is sent, and can play the browser."

    def __init__(self, *args, **kwargs):
        self.sent = []
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **keys):
        self.sent.append((msg_type, data or {}))

    def browser(self, **state):
        self.handle_msg(
            {
                "content": {"data": {"method": "update", "state": state, "buffer_paths": []}},
                "buffers": [],
            }
        )

    def updates(self):
        return [data["state"] for _, data in self.sent if data.get("method") == "update"]


@pytest.mark.parametrize("mover", range(4))
def test_linked_widgets_do_not_send_back_what_the_browser_knows(mover, monkeypatch):
    """What is sent back while a hand drags is old news, and linked widgets would pass it round for ever."""
    monkeypatch.setattr(comm, "create_comm", Wire)
    run = example_run()
    widgets = ScoreHistogram(run), Curves(run), Gallery(run), HeatMap(run)
    traits = ["threshold"] * 3 + ["image_threshold"]
    links = link("threshold", *widgets[:3], (widgets[3], "image_threshold"))
    assert [one.source for one in links] == [(widgets[0], "threshold")] * 3
    assert [one.target for one in links] == list(zip(widgets, traits, strict=True))[1:]
    for widget in widgets:
        widget.comm.sent.clear()
    for value in (0.6, 0.61, 0.62):
        widgets[mover].comm.browser(**{traits[mover]: value})
        assert [getattr(w, t) for w, t in zip(widgets, traits, strict=True)] == [value] * 4
    assert [widget.comm.sent for widget in widgets] == [[]] * 4
    setattr(widgets[mover], traits[mover], 0.7)
    assert [widget.comm.updates() for widget in widgets] == [[{trait: 0.7}] for trait in traits]


def stopped_in(session, stage):
    "A step that is stopped after the first batch of a stage, and what it reported."
    seen, enough = [], threading.Event()
    step = TrainStep(session)
    report = step.report

    def watch(now, share):
        report(now, share)
        seen.append(now)
        if now == stage and not enough.is_set():
            enough.set()
            step.halt.click()

    step.report = watch
    step.go.click()
    assert step.wait(120) == {}
    assert not step.go.disabled and step.halt.disabled and session.engine.callbacks == []
    return step, seen


def test_a_stop_in_the_first_fit_leaves_an_untrained_model(session):
    step, seen = stopped_in(session, "training")
    assert seen.count("training") == 1 < 12
    assert step.stage.value == "stopped; the model is untrained"
    assert session.metrics is None and session.predictions is None
    assert not session.model.bank.numel() and session.model.post.fitted_on == ""


@pytest.mark.parametrize("stage", ["training", "validating"])
def test_a_stop_in_a_second_fit_leaves_the_first_one_whole(session, stage):
    first = TrainStep(session)
    first.run()
    bank, run, metrics = session.model.bank.clone(), session.predictions, session.metrics
    thresholds = session.model.post.state_dict()
    step, seen = stopped_in(session, stage)
    assert seen.count(stage) == 1 and step.stage.value == "stopped; the model is as it was before"
    assert session.model.bank.equal(bank) and session.model.post.state_dict() == thresholds
    assert session.predictions is run and session.metrics is metrics
    ThresholdStep(session).threshold = 0.5
    assert session.model.post.image_threshold == 0.5, "its predictions are still its own"


def test_a_stop_in_the_test_leaves_the_finished_fit(session):
    first = TrainStep(session)
    first.run()
    step, seen = stopped_in(session, "testing")
    assert step.stage.value == "stopped; the model is fitted, but not tested"
    assert session.model.bank.numel() and not np.isnan(session.model.post.image_threshold)
    assert session.metrics is None and session.predictions is None, "they were the former fit's"


def test_a_threshold_that_is_dragged_while_a_stopped_fit_runs_is_the_models_too(session):
    first = TrainStep(session)
    first.run()
    threshold = ThresholdStep(session)
    step = TrainStep(session)
    report = step.report

    def watch(stage, share):
        report(stage, share)
        threshold.threshold = 0.625
        step.stop()

    step.report = watch
    step.start()
    step.wait(120)
    assert session.predictions.attrs["image_threshold"] == 0.625
    assert session.model.post.image_threshold == 0.625


def test_training_does_not_block_and_does_not_start_twice(session):
    step = TrainStep(session)
    begun = time.monotonic()
    step.start()
    assert time.monotonic() - begun < 1
    with pytest.raises(RuntimeError, match="goes on already"):
        step.start()
    assert set(step.wait(120)) >= {"image_AUROC", "pixel_AUPRO"}
    assert step.stage.value == "done" and "image AUROC" in step.results.value


def test_an_error_in_training_is_shown_and_raised(session):
    class Broken(Listener):
        def on_train_batch_end(self, *args):
            raise RuntimeError("the camera is gone")

    session.engine.callbacks.append(Broken(lambda *a: None, threading.Event()))
    step = TrainStep(session)
    step.start()
    with pytest.raises(RuntimeError, match="the camera is gone"):
        step.wait(120)
    assert (
        "the camera is gone" in step.note.value
        and step.error is not None
        and step.stage.value == "failed"
    )
    assert not step.go.disabled


@pytest.mark.parametrize(
    "text", ["root=open('x')", "root=[1 for _ in 'a']", "a=1; b=2", "a=", "root=f'{1}'"]
)
def test_arguments_are_literals_only(text):
    with pytest.raises(ValueError, match="not a list of arguments"):
        arguments_of(text)


def test_the_workbench_shares_one_session(session):
    bench = Workbench(session)
    assert {step.session for step in bench.steps.values()} == {session}
    assert bench.tabs.titles[0].endswith("✓") and not bench.tabs.titles[5].endswith("✓")
    bench.shown = "threshold"
    assert bench.tabs.selected_index == 3
