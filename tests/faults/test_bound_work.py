"""Work is bound to what it was started with: what a step shows is the session's own, or says so, or is gone."""

import threading
from pathlib import Path

import ipywidgets
import numpy as np
import pytest

from anomalib_nb.core import Predictions
from anomalib_nb.data import DemoData
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.steps import (
    DataStep,
    ExportStep,
    ModelStep,
    Session,
    ThresholdStep,
    TrainStep,
    VisualizeStep,
    Workbench,
    list_steps,
)
from anomalib_nb.steps.data import look
from anomalib_nb.steps.session import STEPS, at_work, decide_at, foreign, refitted, settle
from anomalib_nb.widgets import Curves, Gallery, ScoreHistogram, example_run


def data_of(surface="metal", **more):
    return DemoData(surface, **{"train": 4, "test": 4, "size": 64, "train_batch_size": 1} | more)


def model_of():
    model = PatchCore(weights="random", coreset_sampling_ratio=0.05)
    model.pre.size = 64
    return model


def engine_of(root):
    return Engine(root, accelerator="cpu", enable_progress_bar=False)


@pytest.fixture
def session(tmp_path):
    return Session(data_of(), model_of(), engine_of(tmp_path))


def run_of(count=12, **attributes) -> Predictions:
    made = example_run(count)
    rows = {"pred_score": made.pred_score, "gt_label": made.gt_label == 1, "anomaly_map": made.anomaly_map}
    return Predictions.from_batches([rows], image_threshold=0.45, pixel_threshold=0.3, **attributes)


# ---- the table: every cause, every result ----

CHANGES = {
    "data": lambda session: setattr(session, "data", data_of("tile")),
    "model": lambda session: setattr(session, "model", model_of()),
    "the model learned anew": lambda session: refitted(session, session.model),
    "engine": lambda session: setattr(session, "engine", engine_of(session.engine.root / "other")),
    "thresholds": lambda session: decide_at(session, image=0.2),
}
GONE = {  # a result of this origin does not outlive these changes
    "predictions": {"data", "model", "the model learned anew"},
    "metrics": {"data", "model", "the model learned anew"},
    "exported": {"data", "model", "the model learned anew", "thresholds"},
}


@pytest.mark.parametrize("cause", CHANGES)
@pytest.mark.parametrize("result", GONE)
def test_a_result_does_not_outlive_what_it_was_made_from(session, cause, result):
    settle(session, session.origin(), predictions=run_of(), metrics={"image_AUROC": 1.0}, exported=Path("made"))
    heard = []
    session.watch(result, lambda: heard.append(getattr(session, result)))
    CHANGES[cause](session)
    assert (getattr(session, result) is None) == (cause in GONE[result])
    assert heard == [None] * (cause in GONE[result]), "whoever shows it was told"
    assert getattr(session, result) is None or not foreign(session, result)


@pytest.mark.parametrize("cause", CHANGES)
def test_predictions_that_were_given_stay_and_decide_for_their_own_model_only(session, cause):
    session.predictions = run_of()
    CHANGES[cause](session)
    assert len(session.predictions) == 12
    step = ThresholdStep(session)
    step.threshold = 0.7
    assert session.predictions.attrs["image_threshold"] == 0.7
    reached = cause not in ("model", "the model learned anew")
    assert (session.model.post.image_threshold == 0.7) == reached
    assert ("not known to come from" in step.note.value) == (cause in GONE["predictions"])
    assert ("not known to come from" in VisualizeStep(session).note.value) == (cause in GONE["predictions"])


def test_what_is_given_in_one_breath_belongs_together():
    model = model_of()
    step = ThresholdStep(run_of(), model=model)
    step.threshold = 0.7
    assert model.post.image_threshold == 0.7 and not foreign(step.session, "predictions")


def test_a_fit_that_the_session_did_not_hear_of_is_noticed(session):
    TrainStep(session).run()
    step = ThresholdStep(session)
    session.engine.fit(session.model, data_of("tile", train=6))
    fitted = session.model.post.image_threshold
    step.threshold = 0.7
    assert session.model.post.image_threshold == fitted
    assert "not known to come from this model as it is now" in step.note.value


# ---- training: what changes while it runs ----


def during(step, stage, change):
    "Train, and change something after the first batch of a stage."
    report, once = step.report, threading.Event()

    def watch(now, share):
        report(now, share)
        if now == stage and not once.is_set():
            once.set()
            change()

    step.report = watch
    step.start()
    return step.wait(120)


@pytest.mark.parametrize("stage", ["training", "validating", "testing"])
@pytest.mark.parametrize("field", ["data", "model", "engine"])
def test_a_training_ends_with_what_it_was_started_with(session, tmp_path, stage, field):
    data, model, engine = session.data, session.model, session.engine
    other = {"data": data_of("tile"), "model": model_of(), "engine": engine_of(tmp_path / "b")}[field]
    step = TrainStep(session)
    metrics = during(step, stage, lambda: setattr(session, field, other))
    assert step.stage.value == "done" and "image_AUROC" in metrics and getattr(session, field) is other
    assert model.learned_from == [{"data": data.name, "images": 4}]
    said = Predictions.load(engine.run / "test.zarr")
    assert said.attrs["dataset"] == data.name and set(said.paths) == set(data.dataset("test").table["image_path"])
    if field == "engine":
        assert session.metrics is metrics and session.predictions.attrs == said.attrs
        return
    assert session.metrics is None and session.predictions is None and "anb-cell" not in step.results.value
    assert str(engine.run) in step.note.value and data.name in step.note.value
    if field == "model":
        assert not other.learned_from and np.isnan(other.post.image_threshold)


def test_a_training_finds_its_own_run_whatever_the_engine_does_meanwhile(session, tmp_path):
    step = TrainStep(session)
    metrics = during(step, "testing", lambda: setattr(session.engine, "run", tmp_path / "elsewhere"))
    assert session.metrics is metrics and (step.work.engine.run / "test.zarr").exists()
    folder = Path(ExportStep(session).session.origins["predictions"].run)
    assert folder == step.work.engine.run


def test_while_other_data_are_there_the_step_says_what_it_works_on(session):
    step, said = TrainStep(session), []

    def change():
        session.data = data_of("tile")
        said.append(step.note.value)

    during(step, "training", change)
    assert "PatchCore on metal" in said[0] and "no longer holds" in said[0]


def test_two_trainings_never_share_a_model_or_data(session):
    shared = Session(session.data, model_of(), session.engine), Session(data_of(), session.model)
    refused = []

    def others():
        for one in (session, *shared):
            with pytest.raises(RuntimeError, match="goes on already"):
                TrainStep(one).start()
            refused.append(one)

    during(TrainStep(session), "training", others)
    assert len(refused) == 3 and TrainStep(shared[1]).run()


def test_a_model_that_is_being_trained_is_not_shipped(session):
    TrainStep(session).run()
    step = ExportStep(session)
    with at_work(session.model), pytest.raises(RuntimeError, match="is being trained"):
        step.attempt(step.export)
    assert step.exported is None and "is being trained" in step.note.value


# ---- what steps show ----


def texts(widget):
    "All that a step writes."
    for name in ("value", "titles", "description"):
        if isinstance(value := getattr(widget, name, ""), (str, tuple)):
            yield str(value)
    for child in getattr(widget, "children", ()):
        yield from texts(child)


@pytest.mark.parametrize("cause", ["data", "model"])
def test_no_step_goes_on_showing_another_ones_results(session, cause):
    steps = {name: STEPS.get(name)(session) for name in list_steps()}
    steps["TrainStep"].run()
    steps["ExportStep"].format.value = "torch"
    steps["ExportStep"].export()
    before = {name: " ".join(texts(step)) for name, step in steps.items()}
    assert all("metal" in before[name] for name in ("DataStep", "TrainStep", "ThresholdStep", "ExportStep", "Workbench"))
    assert steps["Workbench"].tabs.titles[2].endswith("✓") and steps["Workbench"].tabs.titles[5].endswith("✓")
    CHANGES[cause](session)
    after = {name: " ".join(texts(step)) for name, step in steps.items()}
    own = set() if cause == "data" else {"DataStep", "Workbench"}  # these go on showing the data, which are still there
    assert [name for name, text in after.items() if "metal" in text and name not in own] == []
    assert "done" not in after["TrainStep"] and "decides" not in after["ExportStep"]
    assert "anb-cell" not in steps["TrainStep"].results.value and steps["TrainStep"].bar.value == 0
    assert [title[-1] == "✓" for title in steps["Workbench"].tabs.titles] == [True, True, False, False, False, False]
    assert steps["ExportStep"].exported is None and steps["ThresholdStep"].views is None


def test_training_is_not_ticked_for_predictions_that_were_given():
    bench = Workbench(Session(data_of(), predictions=run_of()))
    assert [title[-1] == "✓" for title in bench.tabs.titles] == [True, False, False, True, True, False]


@pytest.mark.parametrize("surface", ["tile", "wood", "button"])
def test_the_pictures_are_of_the_data_that_are_loaded(surface):
    step = DataStep(data_of())
    choice = step.split.value, step.label.value
    step.data = data_of(surface)
    assert (step.split.value, step.label.value) == choice, "the words are the same, the pictures are not"
    assert step.pictures.value == look(step.data, *choice) != look(data_of(), *choice)


def test_the_model_step_describes_the_model_that_there_is(session):
    step = ModelStep(session)
    step.fields["num_neighbors"].value = 3
    session.model = PatchCore(weights="random", num_neighbors=5)
    assert "num_neighbors=5" in step.note.value and step.fields["num_neighbors"].value == 5
    step.fields["num_neighbors"].value = 2
    session.tell("model")
    assert "num_neighbors=5" in step.note.value and step.fields["num_neighbors"].value == 2


def test_words_about_one_threshold_do_not_stay_for_another():
    step = ThresholdStep(Predictions.from_batches([
        {"pred_score": np.array([0.1, 0.9]), "gt_label": np.array([False, True]),
         "anomaly_map": np.float32([[[0.1, 0.1]], [[0.1, 0.9]]]), "gt_mask": np.array([[[False, False]], [[False, True]]])}
    ], image_threshold=0.5, pixel_threshold=0.5))
    step.tell_pixels()
    assert "pixels at 0.5" in step.note.value
    step.views.heat_map.set_state({"threshold": 0.95})
    assert "pixels" not in step.note.value
    step.suggest("best F1")
    step.suggest("no false alarm")
    assert "optimistic" in step.note.value
    step.views.histogram.set_state({"threshold": 0.05})
    assert "optimistic" not in step.note.value


def test_as_fitted_means_as_fitted_in_every_step_over_a_session():
    first = ThresholdStep(session := Session(predictions=run_of()))
    first.threshold = 0.7
    second = ThresholdStep(session)
    second.reset()
    assert first.threshold == second.threshold == session.predictions.attrs["image_threshold"] == 0.45


def test_steps_over_one_session_stand_at_one_threshold():
    session = Session(predictions=run_of())
    steps = [ThresholdStep(session) for _ in range(3)]
    steps[1].views.curves.set_state({"threshold": 0.6})
    steps[2].views.heat_map.set_state({"threshold": 0.2})
    assert [(step.threshold, step.pixel_threshold) for step in steps] == [(0.6, 0.2)] * 3


@pytest.mark.parametrize("count", [40, 401, 1500])
def test_all_views_of_a_run_count_the_same_images(count):
    rng = np.random.default_rng(count)
    score, label = rng.normal(size=count).astype(np.float32), rng.integers(-1, 2, count)
    gallery, histogram, curves = Gallery(score, gt_label=label), ScoreHistogram(score, gt_label=label), Curves(score, gt_label=label)
    for threshold in (-1.0, 0.0, 2.5):
        gallery.threshold = histogram.threshold = curves.threshold = threshold
        assert gallery.state.counts == histogram.state.counts == curves.state.counts
        assert len(gallery.wrong) == histogram.counts["fp"] + histogram.counts["fn"]
    assert len(gallery.names) == len(gallery.ids) == min(count, 400)


def test_every_step_keeps_its_html_in_pages():
    def plain(widget):
        yield from [widget] if type(widget) is ipywidgets.HTML else []
        for child in getattr(widget, "children", ()):
            yield from plain(child)

    assert [found for name in list_steps() for found in plain(STEPS.get(name)(Session(data_of(), model_of(), predictions=run_of())))] == []
