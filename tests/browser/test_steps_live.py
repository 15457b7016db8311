"""Steps in a real JupyterLab: one hand moves four views, a stop is heard while training runs."""

import pytest

SETUP = """
import tempfile
from anomalib_nb.data import DemoData
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.steps import Session, ThresholdStep, TrainStep
session = Session(DemoData(train={train}, test=16, size=64, train_batch_size=1),
                  PatchCore(weights="random", coreset_sampling_ratio=0.05),
                  Engine(tempfile.mkdtemp(), accelerator="cpu", enable_progress_bar=False))
"""
KNOWN = """
post, shown = session.model.post, step.predictions.attrs
print(step.threshold, post.image_threshold, shown["image_threshold"], step.pixel_threshold, post.pixel_threshold, int(step.views.heat_map.mask.sum()))
"""


def known(notebook) -> list[float]:
    return [float(v) for v in notebook.run(-1).split()]


def until(page, notebook, happened) -> list[float]:
    for _ in range(100):
        if happened(now := known(notebook)):
            return now
        page.wait_for_timeout(100)
    raise AssertionError(f"Python was not told: {now}")


def on_screen(page, selector):
    element = page.locator(selector).first
    element.scroll_into_view_if_needed()
    return element


@pytest.fixture
def threshold(notebook):
    notebook.write(
        "threshold.ipynb",
        SETUP.format(train=4),
        "train = TrainStep(session); train.run()\nstep = ThresholdStep(session)\nstep",
        KNOWN,
    ).run_all()
    assert notebook.errors() == []
    return notebook


def test_one_hand_moves_four_views_and_the_post_processor(threshold, page, shots):
    before = known(threshold)
    plot = on_screen(page, ".anb-score-histogram svg")
    flagged, line = page.locator(".anb-thumbs"), page.locator(".anb-line")
    was = line.text_content()
    box = plot.bounding_box()
    # the kernel is kept busy: what moves now, moves in the browser alone
    page.evaluate(
        "() => { jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({ code: 'import time; time.sleep(4)' }) }"
    )
    page.wait_for_timeout(300)
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.5, steps=8)
    page.mouse.up()
    assert line.text_content() != was, "the gallery moved while the kernel slept"
    value = float(page.locator(".anb-score-histogram [role=slider]").get_attribute("aria-valuenow"))
    badges = page.locator(".anb-tile .anb-badge").all_text_contents()
    now = until(page, threshold, lambda now: now[0] == value)
    on_screen(page, ".anb-score-histogram svg")
    handle = page.locator(".anb-score-histogram [role=slider]")
    rest = [
        (page.wait_for_timeout(100), float(handle.get_attribute("aria-valuenow")))[1]
        for _ in range(15)
    ]
    assert set(rest) == {value} == {known(threshold)[0]}, (
        "linked widgets come to rest where the hand left them"
    )
    assert now[0] == now[1] == now[2] != before[0], (
        "widget, post-processor and predictions hold one threshold"
    )
    assert sum("anomalous" in b or "false alarm" in b for b in badges) <= int(
        flagged.get_attribute("data-flagged")
    )

    slider = on_screen(page, ".anb-heat-map input[aria-label=threshold]")
    for _ in range(5):
        slider.press("PageDown")
    moved = until(page, threshold, lambda now: now[3] < before[3])
    page.wait_for_timeout(500)
    moved = known(threshold)
    assert moved[3] == moved[4]
    assert (
        page.evaluate("() => +document.querySelector('.anb-heat-map .anb-tiles').dataset.hits")
        == moved[5]
    )
    on_screen(page, ".anb-step")
    page.screenshot(path=shots / "threshold_step.png")
    assert page.blocked == [] and page.errors == []


def test_stop_is_heard_while_training_runs(notebook, page):
    notebook.write(
        "train.ipynb",
        SETUP.format(train=400),
        "step = TrainStep(session)\nstep",
        "print(step.stage.value, '|', step.job is not None and step.job.running)",
    ).run_all()
    assert notebook.errors() == []
    on_screen(page, ".anb-step button:has-text('Start')").click()
    page.locator(".anb-step .widget-label", has_text="training").wait_for()
    assert "True" in notebook.run(-1), "another cell runs while training goes on"
    on_screen(page, ".anb-step button:has-text('Stop')").click()
    page.locator(".anb-step .widget-label", has_text="stopped; the model is untrained").wait_for()
    assert "False" in notebook.run(-1)
    assert page.blocked == [] and page.errors == []
