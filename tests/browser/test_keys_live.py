"""Keys stay in the step: with the focus on anything in a step or widget, the notebook hears no letter of it."""

import pytest
from labpage import CELLS

from anomalib_nb.steps import list_steps
from anomalib_nb.widgets import list_widgets

SETUP = """
import numpy as np
from anomalib_nb.core import Predictions
from anomalib_nb.data import DemoData
from anomalib_nb.models import PatchCore
from anomalib_nb.steps import *
from anomalib_nb.widgets import example_run, get_widget
made = example_run(9)
rows = dict(pred_score=made.pred_score, gt_label=made.gt_label == 1, anomaly_map=made.anomaly_map,
            image=np.float32(made.image).transpose(0, 3, 1, 2) / 255)
run = Predictions.from_batches([rows], images=True, image_threshold=0.45, pixel_threshold=0.3)
session = Session(DemoData(train=4, test=4, size=64), PatchCore(weights="random"), predictions=run)
"""
COMMANDS = ("m", "y", "x", "d", "d", "a", "b", "z", "j", "k", "c", "v", "h", "0", "0", "1", "ArrowDown", "ArrowUp", "Shift+m", "Shift+l")
BOX = ".jp-OutputArea-output .anb-step, .jp-OutputArea-output .anb"
FOCUSABLE = "button, select, input, textarea, [tabindex], [contenteditable=true]"
# every place that can take the focus, one after the other: whether it did, and what the notebook heard of its keys
HEARD = f"""async ([keys, box]) => {{
    const heard = [], seen = [];
    const ear = event => {{ if (!event.ctrlKey) heard.push(event.key); }};
    document.addEventListener('keydown', ear);
    for (const node of document.querySelector(box).querySelectorAll('{FOCUSABLE}')) {{
      if (!node.checkVisibility() || node.disabled) continue;
      node.focus();
      if (document.activeElement !== node) continue;
      seen.push(node.tagName + '.' + (node.getAttribute('class') ?? ''));
      for (const key of keys) node.dispatchEvent(new KeyboardEvent('keydown', {{ key, bubbles: true, cancelable: true }}));
    }}
    document.removeEventListener('keydown', ear);
    return [seen, heard]; }}"""
STATE = f"() => {{ const cells = {CELLS}; return [...Array(cells.length).keys()].map(i => cells.get(i).type + ': ' + cells.get(i).sharedModel.getSource()) }}"


def settled(page, box):
    "The step or widget, once it is on the page and holds its keys."
    page.locator(box).first.wait_for()
    page.locator(box).first.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    return page.locator(box).first


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_timeout(200)


@pytest.fixture(scope="module")
def shown():
    "A cell for every step and every widget there is."
    steps = {name: f"shown = {name}(session)\nshown" for name in list_steps()}
    return steps | {name: f"get_widget('{name}').example()" for name in list_widgets()}


def test_no_control_of_any_step_or_widget_lets_its_keys_out(notebook, page, shown):
    notebook.write("keys.ipynb", SETUP, *(f"#\n{source}" for source in shown.values())).run_all()
    assert notebook.errors() == []
    before = page.evaluate(STATE)
    for i, name in enumerate(shown, 1):
        notebook.page.evaluate(f"() => jupyterapp.shell.currentWidget.content.scrollToItem({i}, 'start')")
        page.evaluate("i => { jupyterapp.shell.currentWidget.content.activeCellIndex = i }", i)
        here = f".jp-Cell.jp-mod-active :is({BOX})"
        settled(page, here)
        seen, heard = page.evaluate(HEARD, [["m", "d", "x", "a", "b", "ArrowDown"], here])
        assert seen, f"{name} has something to focus"
        assert heard == [], f"{name}: the notebook heard {set(heard)}"
    assert page.evaluate(STATE) == before and page.errors == []


def test_real_keys_on_a_button_change_nothing_and_would_without_this(notebook, page):
    notebook.write("button.ipynb", SETUP, "step = ThresholdStep(session)\nstep", "other = 1").run_all()
    assert notebook.errors() == []
    before = page.evaluate(STATE)
    box = settled(page, ".anb-step")
    button = box.locator("button:has-text('as fitted')")
    button.focus()
    press(page, *COMMANDS)
    assert page.evaluate(STATE) == before, "all cells are there, and what they were"
    assert page.evaluate("() => document.activeElement.textContent.trim()") == "as fitted", "the focus stays"
    # the same button outside of its box's care: a copy without the listener
    page.evaluate(
        "() => { const box = document.querySelector('.anb-step'), copy = box.cloneNode(true); box.replaceWith(copy); copy.querySelector('button').focus() }"
    )
    press(page, "m")
    assert page.evaluate(STATE) != before, "this is what keys do to a cell"


def test_fields_sliders_buttons_and_tabs_take_their_keys_and_ctrl_s_saves(notebook, page):
    notebook.write(
        "fields.ipynb",
        SETUP,
        "bench = Workbench(session)\nbench",
        "print(bench.data.text.value, '|', bench.visualize.alpha.value, '|', bench.visualize.place.value, '|', bench.shown, '|', bench.threshold.threshold)",
    ).run_all()
    assert notebook.errors() == []
    box = settled(page, ".anb-step")
    text = box.locator("input[type=text]").first
    text.click()
    page.keyboard.type("mad box 00")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.tagName") == "BUTTON", "Tab goes on to the next control"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("() => document.activeElement.tagName") == "INPUT"

    box.locator(".lm-TabBar-tab", has_text="Visualize").first.click()
    step = box.locator(".anb-step", has_text="Visualize").last
    step.locator(".noUi-handle").first.focus()
    page.keyboard.press("ArrowLeft")
    step.locator("button:has-text('▶')").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    page.wait_for_timeout(800)
    said = [part.strip() for part in notebook.run(-1).split("|")]
    assert said[0] == "mad box 00" and float(said[1]) == pytest.approx(0.65) and said[2] == "3" and said[3] == "visualize"

    page.evaluate("() => { jupyterapp.shell.currentWidget.context.model.cells.get(2).sharedModel.setSource('changed = 1') }")
    assert page.evaluate("() => jupyterapp.shell.currentWidget.context.model.dirty")
    box.scroll_into_view_if_needed()
    step.locator("button:has-text('▶')").focus()
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !jupyterapp.shell.currentWidget.context.model.dirty")
    assert page.errors == []
