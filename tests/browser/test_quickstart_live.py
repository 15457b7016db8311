"""The first page of the book, clicked through: run all, drag the line, see pixels and Python change."""

PIXELS = """() => [...document.querySelectorAll('.anb-heat-map canvas')].map(c => {
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    return d.reduce((h, x) => (h * 31 + x) | 0, 0); })"""
CELL_OF = """text => { const cells = jupyterapp.shell.currentWidget.content.model.cells;
    return [...Array(cells.length).keys()].find(i => cells.get(i).type === 'code' && cells.get(i).sharedModel.getSource().includes(text)) }"""


def test_quickstart(notebook, page, shots):
    page.set_default_timeout(300_000)
    notebook.open("tutorials/00_quickstart.ipynb").run_all()
    assert notebook.errors() == []
    report = page.evaluate(CELL_OF, "image threshold of the model")
    show = lambda text: page.evaluate(  # noqa: E731
        "i => jupyterapp.shell.currentWidget.content.scrollToItem(i, 'start')",
        page.evaluate(CELL_OF, text),
    )
    before = notebook.run(report)

    show("step = ThresholdStep")
    plot = page.locator(".anb-score-histogram svg").first
    plot.scroll_into_view_if_needed()
    page.locator(".anb-heat-map canvas").first.wait_for()
    flagged = int(page.locator(".anb-thumbs").get_attribute("data-flagged"))
    box = plot.bounding_box()
    line = float(page.locator(".anb-score-histogram [role=slider] line").get_attribute("x1")) / 640
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * line, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * (line + 0.98) / 2, y, steps=10)
    page.mouse.up()
    assert int(page.locator(".anb-thumbs").get_attribute("data-flagged")) < flagged
    moved = float(page.locator(".anb-score-histogram [role=slider]").get_attribute("aria-valuenow"))

    slider = page.locator(".anb-heat-map input[aria-label=threshold]")
    slider.scroll_into_view_if_needed()
    pixels = page.evaluate(PIXELS)
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.15, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()
    assert page.evaluate(PIXELS) != pixels, "the maps were repainted"
    page.locator(".anb-step").first.scroll_into_view_if_needed()
    page.screenshot(path=shots / "quickstart.png")

    for _ in range(100):
        if f"{moved:.3f}" in (after := notebook.run(report)):
            break
        page.wait_for_timeout(100)
    assert (
        float(page.locator(".anb-score-histogram [role=slider]").get_attribute("aria-valuenow"))
        == moved
    ), "it stays where it was dropped"
    assert f"image threshold of the model: {moved:.3f}" in after != before
    assert page.blocked == [], "nothing leaves this machine"
    assert page.errors == []
