"""Names are text: nothing that comes from data, files or errors is run, hidden or lost on a page or in a picture.

Every check makes a thing twice, once with a harmless name and once with a hostile one: the page must be the same page,
the same elements with the same attributes, and say the hostile name.
"""

import ast
import base64
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import anomalib_nb
from anomalib_nb.core import Predictions, tag, visible
from anomalib_nb.data import Folder
from anomalib_nb.engine import Engine
from anomalib_nb.metrics import Results
from anomalib_nb.models import PatchCore
from anomalib_nb.models.contract import describe
from anomalib_nb.steps import Page, Session, list_steps
from anomalib_nb.steps.session import STEPS, settle
from anomalib_nb.steps.train import as_table
from anomalib_nb.visualization import ImageVisualizer
from anomalib_nb.visualization.evaluation import as_word, histogram_chart, picture, recall_chart
from anomalib_nb.visualization.image import INK, file_name, font_with, label, spelled
from anomalib_nb.widgets import get_widget, list_widgets
from anomalib_nb.widgets.base import FORBIDDEN, Run, static, synced

HOSTILE = {
    "an image": "<img src=x onerror=alert(1)>",
    "a script": "<script>alert(1)<script>",
    "double quotes": '"><svg onload=alert(1)>',
    "single quotes": "'><svg onload='alert(1)",
    "entities": "&lt;b&gt;&amp;",
    "a formula": "$\\frac{",
    "a whole formula": "$$x^2$$",
    "braces": "{name}%s",
    "the other direction": "annex\u202egpj.exe",
    "a control character": "a\x1b[31mb",
    "no UTF-8": b"part\xff".decode("utf-8", "surrogateescape"),
    "scripts": "Größe 划痕 خدش трещина",
    "an underscore": "_hidden",
}
EACH = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
TAMED = "harmless"


class Reader(HTMLParser):
    "The elements of a page with the names of their attributes, and its text."

    def __init__(self, page):
        super().__init__()
        self.elements, self.words = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, sorted(key for key, _ in attributes)))

    def handle_data(self, data):
        self.words.append(data)


def is_text(page, tame, name):
    "A page made with a hostile name is the one made with a harmless name, and says it."
    hostile, harmless = Reader(page), Reader(tame)
    assert hostile.elements == harmless.elements, "the name has become a part of the page"
    page.encode()  # or no message could carry it
    assert TAMED in "".join(harmless.words), "the test looks at a page that shows the name"
    assert visible(name) in "".join(hostile.words) or name in "".join(hostile.words)


# ---- the one place where pages are made ----


@EACH
def test_a_tag_escapes_what_it_is_given(name):
    is_text(tag("p", name, title=name), tag("p", TAMED, title=TAMED), name)
    is_text(Page(name).value, Page(TAMED).value, name)
    is_text(Page(tag("b", "x") + name).value, Page(tag("b", "x") + TAMED).value, name)


def modules():
    for found in pkgutil.walk_packages(anomalib_nb.__path__, "anomalib_nb."):
        yield importlib.import_module(found.name)


ELEMENT = re.compile(r"</?(a|b|br|button|code|details|div|h\d|i|img|input|li|p|pre|script|small|span|style|svg|t[dhr]|table|u?o?l)\b")


def html_in(source):
    "Texts with elements in them, of f-strings, `+` and `%` and format: places where a page is put together by hand."
    for node in ast.walk(ast.parse(source)):
        parts = []
        if isinstance(node, ast.JoinedStr) and any(isinstance(part, ast.FormattedValue) for part in node.values):
            parts = node.values
        elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
            parts = [getattr(node.func, "value", None)]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str) and ELEMENT.search(part.value):
                yield node.lineno, part.value


@pytest.mark.parametrize("package", ["steps", "widgets", "visualization", "data"])
def test_no_page_is_put_together_by_hand(package):
    allowed = {("session.py", "<style>"), ("session.py", "</style>")}  # the package's own style sheet
    folder = Path(anomalib_nb.__file__).parent / package
    found = {(file.name, text) for file in folder.glob("*.py") for _, text in html_in(file.read_text())}
    assert found - allowed - {("markup.py", text) for _, text in found} == set()


def test_the_search_for_pages_made_by_hand_finds_them():
    assert [text for _, text in html_in("x = f'<b>{name}</b>'; y = '<p>' + name; z = '<td>{}</td>'.format(name); w = '<i>%s' % name")] == [
        "<b>", "</b>", "<p>", "<td>{}</td>", "<i>%s"]  # fmt: skip


# ---- every class that a notebook shows as a page ----


def results(name, metric=None):
    return Results({f"image_{metric or name}": 0.5}, notes={f"image_{metric or name}": name}, images=4, fitted_on=name, leaks=2)


def predictions(name):
    rows = {"pred_score": np.array([0.1, 0.9]), "gt_label": np.array([False, True]), "image_path": [f"{name}/a.png", f"b/{name}.png"],
            "info": [{"label": name}] * 2, "anomaly_map": np.float32(np.arange(2 * 64).reshape(2, 8, 8) / 128)}  # fmt: skip
    return Predictions.from_batches([rows], image_threshold=0.5, pixel_threshold=0.5, model=name, dataset=name, fitted_on=name)


def macro(name):
    from anomalib_nb.metrics.statistics import Macro

    return Macro(0.5, 0.1, 0.1, {name: 0.5}, (name,))


def model(name):
    made = PatchCore(weights="random")
    made.arguments, made.learned_from, made.post.fitted_on = {"backbone": name}, [{"data": name, "images": 3}], name
    return made


def folder(name):
    table = pd.DataFrame({"image_path": [f"{name}/{i}.png" for i in range(4)], "mask_path": "", "split": ["train", "val", "test", "test"], "label": ["good", "good", "good", name]})

    class Made(Folder):
        def index(self, root):
            return table

    return Made(".", name=name)


def made_with(cls, name):
    "An object of a class, all of whose words are a name."
    eye = np.full((1, 1), 0.5)
    makers = {
        "Markup": lambda: tag("b", name),
        "Predictions": lambda: predictions(name),
        "AnomalibDataModule": lambda: folder(name),
        "AnomalyModule": lambda: model(name),
        "Results": lambda: results(name),
        "Macro": lambda: macro(name),
        "Breakdown": lambda: cls({name: results(name, "AUROC")}, results(name, "AUROC"), {"good": 2, name: 2}),
        "Categories": lambda: cls({name: macro(name)}, {name: 3}),
        "Comparison": lambda: cls((name,), np.array([0.5]), np.array([1.0]), eye, eye, 0.5, 4, name),
        "Interval": lambda: cls(0.5, 0.4, 0.6, kind=name),
        "Parity": lambda: cls(4, 0, 0, 0, 0, 0, 0, 9, 1.0, 1.0, name),
    }
    if cls.__name__ not in makers:
        if not any(inspect.signature(cls).parameters[p].annotation in (str, "str") for p in inspect.signature(cls).parameters):
            return None  # it holds no words
        pytest.fail(f"{cls.__name__} has words in its page: say here how it is made")
    return makers[cls.__name__]()


def pages():
    "Every class of the package with a page of its own."
    found = {cls for module in modules() for cls in vars(module).values() if inspect.isclass(cls) and "_repr_html_" in vars(cls)}
    return sorted((cls for cls in found if cls.__module__.startswith("anomalib_nb.")), key=lambda cls: cls.__qualname__)


@EACH
@pytest.mark.parametrize("cls", pages(), ids=lambda cls: cls.__name__)
def test_a_page_shows_names_as_text(cls, name):
    if not name.isprintable() and "\udcff" in name and cls.__name__ in ("AnomalibDataModule", "Results"):
        return  # the columns of pandas hold Unicode only
    if (made := made_with(cls, name)) is None:
        return
    page, tame = made._repr_html_(), made_with(cls, TAMED)._repr_html_()
    hostile, harmless = Reader(page), Reader(tame)
    assert hostile.elements == harmless.elements, "the name has become a part of the page"


# ---- every step ----


def tree(root, name):
    "A folder of images in which folders and files are called by a name."
    name = name.replace("/", "").encode("utf-8", "replace").decode()  # the columns of pandas hold Unicode only
    for split, kind in (("train", "good"), ("test", "good"), ("test", name)):
        (root / name / split / kind).mkdir(parents=True)
        for i in range(4):
            rng = np.random.default_rng(i)
            with open(root / name / split / kind / f"{name}{i}.png", "wb") as file:
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(file, "PNG")
    data = Folder(root / name, name=name, train_batch_size=2)
    data.setup()
    return data


def values(widget):
    "All pages and other texts of a step."
    for each in ("value", "titles", "options"):
        if isinstance(value := getattr(widget, each, None), (str, tuple)):
            yield isinstance(widget, Page), value if isinstance(value, str) else " ".join(map(str, value))
    for child in getattr(widget, "children", ()):
        yield from values(child)


def opened(root, name, step):
    "All that a step writes about things with a name: data, model, predictions, metrics, an export, an error."
    session = Session(tree(root, name), model(name), Engine(root / "runs"), predictions(name))
    settle(session, session.origin(), metrics=results(name))
    session.exported = exported(Path(session.data.root))
    made = STEPS.get(step)(session)
    before = list(values(made))
    made.fail(ValueError(name))
    return [page for is_page, page in before + list(values(made)) if is_page]


def exported(folder):
    "An export as far as its page is concerned: a folder with a report in it."
    from anomalib_nb.deploy.parity import Parity

    report = {"parity": asdict(Parity(4, 0, 0, 0, 0, 0, 0, 9, 1.0, 1.0, "onnx"))}
    known = {**describe(PatchCore(weights="random")), "runtime": "onnx", "format": "onnx", **report}
    (folder / "metadata.json").write_text(json.dumps(known))
    return folder


@EACH
@pytest.mark.parametrize("step", list_steps())
def test_a_step_shows_names_as_text(tmp_path, step, name):
    hostile, harmless = opened(tmp_path / "a", name, step), opened(tmp_path / "b", TAMED, step)
    assert [Reader(page).elements for page in hostile] == [Reader(page).elements for page in harmless]
    assert any(visible(name) in "".join(Reader(page).words) for page in hostile)
    "".join(hostile).encode()


def test_metrics_of_any_name_are_text():
    for name in HOSTILE.values():
        is_text(as_table(results(name), name), as_table(results(TAMED), TAMED), name)


# ---- every widget: what is sent, and what the script makes of it ----


def renamed(value, name):
    "The same value, all of whose words are a name."
    if isinstance(value, str):
        return name
    if isinstance(value, dict):
        return {key: renamed(each, name) for key, each in value.items()}
    return [renamed(each, name) for each in value] if isinstance(value, (list, tuple)) else value


def played(widget, name, tmp_path):
    "What a widget's script builds: elements with their attributes, and texts."
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    choices = {each for each, trait in type(widget).class_traits(sync=True).items() if hasattr(trait, "values")}
    state = {each: getattr(widget, each) for each in synced(type(widget))}
    state = {each: value if each in choices else renamed(value, name) for each, value in state.items()}
    sent = {n: {"bytes": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for n, v in state.items()}
    script = """
      const nodes = [], texts = [];
      const walk = n => { for (const c of n.children) if (c && c.tag) {
        nodes.push([c.tag, Object.keys(c.attributes).sort()]); texts.push(...Object.values(c.attributes).map(String), String(c.textContent ?? "")); walk(c); }
        else texts.push(String(c)); };
      walk(page.el);
      return [nodes, texts.join("\\n")]"""
    (tmp_path / "in.json").write_text(json.dumps({"esm": widget._esm, "state": sent, "script": script}))
    page = Path(__file__).parents[1] / "widgets" / "page.mjs"
    done = subprocess.run(["node", page, tmp_path / "in.json"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("widget", list_widgets())
def test_a_widget_writes_names_as_text(widget, tmp_path):
    example = get_widget(widget).example()
    tame, _ = played(example, TAMED, tmp_path)
    for name in HOSTILE.values():
        nodes, texts = played(example, visible(name), tmp_path)
        assert nodes == tame, "the name has become a part of the page"
        assert visible(name) in texts or not {"names", "tiles"} & set(synced(type(example)))


@EACH
def test_names_that_are_sent_to_a_browser_can_be_sent(name):
    run = Run(np.float32([0.1, 0.9]), np.int8([0, 1]), [name, name], np.zeros((2, 4, 4), np.float32), None, 0.5, 0.5)
    for widget in list_widgets():
        try:
            made = get_widget(widget)(run)
        except (TypeError, ValueError) as error:  # not a widget of runs
            assert "run" in str(error).lower(), error
            continue
        json.dumps([v for n in synced(type(made)) if not isinstance(v := getattr(made, n), bytes)], ensure_ascii=False).encode()


@pytest.mark.parametrize("file", sorted(p.name for p in (Path(anomalib_nb.__file__).parent / "static").glob("*.js")))
def test_no_script_makes_html_of_data(file):
    assert not FORBIDDEN.search(static(file))


@pytest.mark.parametrize("way", ["e.innerHTML = x", "e.outerHTML=x", "e.insertAdjacentHTML('beforeend', x)", "document.write(x)", "eval(x)"])
def test_ways_to_make_html_of_data_are_forbidden(way):
    assert FORBIDDEN.search(way)


# ---- pictures: on paper, on the screen, on disk ----


@EACH
def test_a_line_of_a_picture_says_a_name_in_letters_that_its_fonts_have(name):
    said = spelled(name)
    assert all(font_with(letter) is not None for letter in said), "no boxes and no question marks"
    assert np.asarray(label([(said, INK)], 400, 16)).min() < 100
    for letter in name:
        assert letter in said or f"\\u{ord(letter):04x}" in said


@pytest.mark.parametrize("text", ["größer", "ñandú", "Łódź", "трещина", "γρατζουνιά", "خدش", "Çatlak ğ"])
def test_letters_of_these_scripts_are_drawn_everywhere(text):
    assert spelled(text) == text and font_with(text)


def test_an_accent_that_is_a_sign_of_its_own_is_joined():
    assert spelled("gro\u0308ßer") == "größer"


def test_a_letter_without_a_font_is_spelled(monkeypatch):
    from anomalib_nb.visualization import image

    only = image.font_files()[:1]
    monkeypatch.setattr(image, "font_files", lambda: only)
    font_with.cache_clear()
    assert spelled("a 部 😀") == "a \\u90e8 " + ("😀" if font_with("😀") else "\\u1f600")
    font_with.cache_clear()


@EACH
def test_charts_of_types_are_drawn_with_their_names(name):
    import holoviews

    scores, types = np.linspace(0, 1, 12, dtype=np.float32), ["good", name] * 6
    labels = np.array([each != "good" for each in types])
    for chart in (histogram_chart, recall_chart):
        drawn = chart(scores, labels, 0.5, types=types)
        assert picture(drawn).size[0] > 100
        page = holoviews.renderer("bokeh").html(drawn)
        assert "<img src=x" not in page and "<svg onload" not in page and "<script>alert" not in page
        page.encode()
    assert as_word(name).lstrip("\u200b") == spelled(name)


@EACH
def test_saved_pictures_have_names_that_any_system_takes(tmp_path, name):
    item = SimpleNamespace(image_path=f"a/{name}.png", info={"label": name})
    made = file_name(3, item)
    assert not re.search(r'[<>:"/\\|?*$&\'\x00-\x1f\ud800-\udfff\u202e ]', made) and len(made.encode()) < 140
    (tmp_path / made).write_text("")
    run = predictions(name)
    assert len(set(ImageVisualizer().save(run, tmp_path))) == len(run)


def test_saved_pictures_keep_the_letters_of_their_script():
    item = SimpleNamespace(image_path="a/划痕 7.png", info={"label": "Größe"})
    assert file_name(3, item) == "00003_Größe_划痕-7.png"
    assert len(file_name(3, SimpleNamespace(image_path="划" * 300 + ".png", info={})).encode()) < 140
