"""A real Chromium that reaches this machine only, and a real JupyterLab on a copy of the book.

All of these tests form one group: they follow each other, on one worker.
"""

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from labpage import LabPage
from servers import ROOT, Lab

HERE = Path(__file__).parent
LOCAL = ("127.0.0.1", "localhost", None)  # None: about:, data:, blob:


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: make test installs it"
    )
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("there is no chromium: make test installs it")
    # no sandbox: needed by root; no /dev/shm: it is small in containers
    switches = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    with playwright.sync_playwright() as running:
        window = running.chromium.launch(executable_path=chromium, args=switches)
        yield window
        window.close()


@pytest.fixture
def page(browser):
    "An empty page; `page.blocked` lists what it asked from elsewhere, `page.errors` its JavaScript errors."
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.blocked, page.errors = [], []

    def gate(route):
        if urlsplit(route.request.url).hostname in LOCAL:
            return route.continue_()
        page.blocked.append(route.request.url)
        route.abort()

    context.route("**/*", gate)  # not 'http*://**': that pattern matches nothing
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.set_default_timeout(60_000)
    yield page
    context.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "JupyterLab on a copy of nbs/, for all tests of the session."
    server = Lab(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture
def notebook(page, lab):
    "A notebook in JupyterLab: `.open(path)` or `.write(name, *cells)`, then `.run_all()`, `.run(cell)`, `.text(cell)`."
    return LabPage(page, lab)


@pytest.fixture(scope="session")
def shots() -> Path:
    "Where tests leave screenshots, to be looked at."
    folder = ROOT / "shots"
    folder.mkdir(exist_ok=True)
    return folder
