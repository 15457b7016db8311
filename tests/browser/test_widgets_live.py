"""The widgets in a real JupyterLab, moved by a real pointer and real keys."""

import pytest

PIXELS = """() => [...document.querySelectorAll('.anb-heat-map canvas')].map(c => {
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    return [d.reduce((h, x) => (h * 31 + x) | 0, 0), +c.dataset.hits]; })"""
SLIDER = ".anb-heat-map input[aria-label=threshold]"
TOTAL = "() => +document.querySelector('.anb-heat-map .anb-tiles').dataset.hits"


@pytest.fixture
def views(notebook):
    "The four views of one run in a notebook; the last cell prints what Python knows."
    notebook.write(
        "views.ipynb",
        "import traitlets\n"
        "from anomalib_nb.widgets import Curves, Gallery, HeatMap, ScoreHistogram, example_run\n"
        "run = example_run()\n"
        "heat_map, gallery, histogram, curves = (view(run) for view in (HeatMap, Gallery, ScoreHistogram, Curves))\n"
        "links = [traitlets.link((histogram, 'threshold'), (view, 'threshold')) for view in (gallery, curves)]\n"
        "links.append(traitlets.link((gallery, 'index'), (heat_map, 'index')))",
        "heat_map",
        "histogram",
        "gallery",
        "curves",
        "print(heat_map.threshold, int(heat_map.mask.sum()), histogram.threshold, gallery.index, histogram.counts['fn'], len(gallery.wrong))",
    ).run_all()
    assert notebook.errors() == []
    return notebook


def known(views) -> list[float]:
    "Pixel threshold, hits, image threshold, chosen image, missed and wrong images, as Python prints them."
    return [float(v) for v in views.run(-1).split()]


def until(page, views, happened) -> list[float]:
    "What Python knows, once `happened` of it is true."
    for _ in range(100):
        if happened(now := known(views)):
            return now
        page.wait_for_timeout(100)
    raise AssertionError(f"Python was not told: {now}")


def on_screen(page, selector):
    "An element, scrolled to (running a cell scrolls to that cell)."
    element = page.locator(selector).first
    element.scroll_into_view_if_needed()
    return element


def test_dragging_repaints_and_python_hears(views, page, shots):
    threshold, hits, *_ = known(views)
    slider = on_screen(page, SLIDER)
    before = page.evaluate(PIXELS)
    assert sum(n for _, n in before) == hits, "the canvas and Python count the same pixels"

    box = slider.bounding_box()
    x, y = box["x"], box["y"] + box["height"] / 2
    page.mouse.move(x + box["width"] * 0.25, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] * 0.7, y, steps=6)
    page.mouse.up()
    after, shown = page.evaluate(PIXELS), float(slider.input_value())
    page.screenshot(path=shots / "widgets.png")
    assert all(a[0] != b[0] for a, b in zip(after[:6], before[:6], strict=True)), (
        "every picture was repainted"
    )
    moved, hits, *_ = until(page, views, lambda now: now[0] == shown)
    assert moved > threshold + 0.2 and sum(n for _, n in after) == hits < sum(n for _, n in before)

    on_screen(page, SLIDER).press("ArrowLeft")
    _, hits, *_ = until(page, views, lambda now: now[0] < moved)
    assert page.evaluate(TOTAL) == hits, "the key moved the slider, not the notebook"
    assert page.blocked == [] and page.errors == []


def test_the_line_of_the_histogram_moves_its_neighbours(views, page):
    box = on_screen(page, ".anb-score-histogram svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5)
    shown = int(page.locator(".anb-score-histogram [data-count=fn]").inner_text())
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    _, _, threshold, _, missed, wrong = until(page, views, lambda now: now[2] > 0.6)
    assert missed == shown > 0
    grid = page.locator(".anb-gallery .anb-thumbs")
    assert int(grid.get_attribute("data-wrong")) == wrong
    on_screen(page, ".anb-score-histogram [role=slider]").press("End")
    until(page, views, lambda now: now[2] > 1)
    page.wait_for_function(
        "() => document.querySelector('.anb-gallery .anb-thumbs').dataset.flagged === '0'"
    )


def test_a_click_in_the_gallery_enlarges_that_map(views, page):
    on_screen(page, ".anb-gallery select").select_option("normal")
    page.locator(".anb-thumb").last.click()
    page.wait_for_function(
        "() => document.querySelectorAll('.anb-heat-map .anb-tile').length === 1"
    )
    name = page.locator(".anb-heat-map .anb-name").text_content()
    assert name.endswith(f"{int(known(views)[3]):02d}")
    assert page.blocked == [] and page.errors == []


def test_running_a_cell_again_leaves_one_view(views, page):
    views.run(1)
    views.run(1)
    page.wait_for_timeout(500)
    assert page.locator(".anb-heat-map").count() == 1
    assert page.errors == []
