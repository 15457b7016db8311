"""The book keeps its form; and each rule of the lint finds the fault that it is for."""

import book_lint
import pytest
from book_lint import Cell, Notebook

FIGURE = [{"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBORw0KGgo="}}]
DEFINE = """#| export
def distance(
    x: float,  # in pixels
    y: float = 0.0,  # in pixels, >= 0
) -> float:
    "How far two numbers are apart."
    return abs(x - y)"""


def good(path: str = "models/10_padim.ipynb") -> Notebook:
    "A small chapter that keeps every rule."
    folder, stem = path[: -len(".ipynb")].split("/")
    sources = [
        "# PaDiM\n\n> A Gaussian per place",
        f"#| default_exp {folder}.{stem.split('_', 1)[1]}",
        "#| export\nimport math",
        "How far is far?",
        DEFINE,
        "distance(1, 3)",
        "distance(4, 4)",
        "## References\n\n* Defard et al., PaDiM, 2021.",
    ]
    cells = [
        Cell(f"{i:08x}", "markdown" if s[0] in "#H" and s[1] != "|" else "code", s, [])
        for i, s in enumerate(sources)
    ]
    cells[6].outputs = FIGURE
    return Notebook(path, cells)


def edited(
    book: Notebook, place: int, source: str | None = None, outputs: list | None = None
) -> Notebook:
    "The same chapter with one cell changed."
    old = book.cells[place]
    book.cells[place] = Cell(
        old.id,
        old.kind,
        old.source if source is None else source,
        old.outputs if outputs is None else outputs,
    )
    return book


def added(book: Notebook, *sources: str) -> Notebook:
    "The same chapter with code cells more."
    cells = [Cell(f"add{i:05}", "code", source, []) for i, source in enumerate(sources)]
    return Notebook(book.path, [*book.cells, *cells])


def function(name: str, lines: int) -> str:
    return (
        f'#| export\ndef {name}():\n    "One line."\n'
        + "    x = 1\n" * (lines - 1)
        + "    return 1"
    )


def rules(book: Notebook) -> set[str]:
    return {problem.rule for problem in book_lint.lint(book)}


def stream(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text}


@pytest.mark.parametrize("book", book_lint.notebooks(), ids=lambda book: book.path)
def test_the_form_of(book):
    problems = list(map(str, book_lint.lint(book)))
    assert not problems, "\n" + "\n".join(problems)


def test_the_book_shows_what_it_defines():
    assert book_lint.share_shown(book_lint.notebooks()) >= book_lint.SHOWN


@pytest.mark.parametrize(
    "path",
    [
        "models/10_padim.ipynb",
        "metrics/01_curves.ipynb",
        "core/00_types.ipynb",
        "steps/01_data.ipynb",
    ],
)
def test_a_good_chapter_has_no_problems(path):
    assert book_lint.lint(good(path)) == []


FAULTS = {
    "no title": ("title", lambda b: edited(b, 0, "PaDiM")),
    "no description": ("title", lambda b: edited(b, 0, "# PaDiM")),
    "another module": ("module", lambda b: edited(b, 1, "#| default_exp models.patchcore")),
    "two modules": ("module", lambda b: added(b, "#| default_exp models.padim")),
    "an empty name": (
        "module",
        lambda b: Notebook(
            "models/10_utils.ipynb", edited(b, 1, "#| default_exp models.utils").cells
        ),
    ),
    "a long cell": ("cell size", lambda b: added(b, "#| export\n" + "x = 1\n" * 61)),
    "long cells": ("cell size", lambda b: added(b, *["#| export\n" + "x = 1\n" * 16] * 3)),
    "a long function": ("function size", lambda b: added(b, function("_long", 61))),
    "long functions": (
        "function size",
        lambda b: added(b, *[function(f"_f{i}", 9) for i in range(3)]),
    ),
    "not shown": ("used", lambda b: added(b, function("a", 1), function("b", 1))),
    "shown too late": (
        "used",
        lambda b: added(b, function("a", 1), function("b", 1), "1", "2", "3", "4", "a(), b()"),
    ),
    "exported import with code": (
        "imports",
        lambda b: edited(b, 2, "#| export\nimport math\nTAU = 2 * math.pi"),
    ),
    "lesson import with code": (
        "imports",
        lambda b: edited(b, 5, "import math\ndistance(math.pi, 3)"),
    ),
    "nested lesson import": (
        "imports",
        lambda b: edited(b, 5, "if True:\n    import math\ndistance(1, 3)"),
    ),
    "eval false": ("evaluated", lambda b: edited(b, 5, "#| eval: false\ndistance(1, 3)")),
    "eval:false": ("evaluated", lambda b: edited(b, 5, "#|eval:false\ndistance(1, 3)")),
    "a magic": ("magics", lambda b: edited(b, 2, "#| export\n%matplotlib inline")),
    "left over": ("finished", lambda b: edited(b, 3, "How far? TODO")),
    "swallowed": (
        "excepts",
        lambda b: edited(b, 5, "try:\n    distance(1, 3)\nexcept Exception:\n    print('no')"),
    ),
    "bare except": (
        "excepts",
        lambda b: edited(b, 5, "try:\n    distance(1, 3)\nexcept:\n    print('no')"),
    ),
    "no docstring": (
        "docstrings",
        lambda b: edited(b, 4, DEFINE.replace('    "How far two numbers are apart."\n', "")),
    ),
    "long docstring": (
        "docstrings",
        lambda b: edited(
            b, 4, DEFINE.replace('"How far two numbers are apart."', '"""How far.\n\n    More."""')
        ),
    ),
    "no comment": ("docments", lambda b: edited(b, 4, DEFINE.replace("  # in pixels\n", "\n"))),
    "no annotation": ("docments", lambda b: edited(b, 4, DEFINE.replace("x: float", "x"))),
    "the default again": ("docments", lambda b: edited(b, 4, DEFINE.replace(">= 0", "default 0"))),
    "an unknown name in quotes": (
        "annotations",
        lambda b: edited(b, 4, DEFINE.replace("-> float", "-> 'pandas.DataFrame'")),
    ),
    "undocumented constructor": (
        "docments",
        lambda b: edited(
            b,
            4,
            '#| export\nclass distance:\n    "One."\n    def __init__(self, x: int): self.x = x',
        ),
    ),
    "many arguments": (
        "few arguments",
        lambda b: edited(
            b,
            4,
            '#| export\nclass distance:\n    "One."\n    def __init__(\n        self,\n'
            + "".join(f"        a{i}: int,  # a number\n" for i in range(8))
            + "    ): ...",
        ),
    ),
    "an enum": (
        "no enums",
        lambda b: edited(b, 4, '#| export\nclass distance(enum.StrEnum):\n    "One."\n    a = 1'),
    ),
    "no figure": ("figure", lambda b: edited(b, 6, outputs=[])),
    "no references": ("references", lambda b: Notebook(b.path, b.cells[:-1])),
    "references without a year": (
        "references",
        lambda b: edited(b, 7, "## References\n\n* Defard et al."),
    ),
    "a link in a link": ("links", lambda b: edited(b, 3, "See [`distance`](11_x.ipynb).")),
    "text kept": ("outputs", lambda b: edited(b, 5, outputs=[stream("2")])),
    "much kept": (
        "outputs",
        lambda b: edited(
            b, 5, outputs=[{"output_type": "display_data", "data": {"image/png": "x" * 300_000}}]
        ),
    ),
    "a script kept": (
        "outputs",
        lambda b: Notebook(
            "tutorials/00_x.ipynb",
            edited(
                b,
                5,
                outputs=[
                    {"output_type": "display_data", "data": {"text/html": "<script>1</script>"}}
                ],
            ).cells,
        ),
    ),
    "a widget kept": (
        "outputs",
        lambda b: Notebook(
            "tutorials/00_x.ipynb",
            edited(
                b,
                5,
                outputs=[
                    {
                        "output_type": "display_data",
                        "data": {"application/vnd.jupyter.widget-view+json": {}},
                    }
                ],
            ).cells,
        ),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    rule, plant = FAULTS[fault]
    too_long = {"cell size"} if fault == "a long function" else set()
    assert rules(plant(good())) == {rule} | too_long


@pytest.mark.parametrize(
    "path", ["data/00_images.ipynb", "widgets/00_base.ipynb", "visualization/00_image.ipynb"]
)
def test_every_page_of_what_can_be_seen_has_a_figure(path):
    assert rules(edited(good(path), 6, outputs=[])) == {"figure"}


def test_every_rule_has_a_planted_fault():
    assert {rule for rule, _ in FAULTS.values()} == {
        rule.__name__.replace("_", " ") for rule in book_lint.RULES
    }


def test_a_message_names_the_notebook_and_the_cell():
    (problem,) = book_lint.lint(edited(good(), 5, "#| eval: false\ndistance(1, 3)"))
    assert (
        str(problem)
        == "models/10_padim.ipynb cell 00000005: eval: false; what is shown must run [evaluated]"
    )


def test_a_definition_counts_as_shown_through_the_one_that_uses_it():
    inner, outer = function("inner", 1), function("outer", 1).replace("return 1", "return inner()")
    assert rules(added(good(), inner, outer, function("other", 1), "outer(), other()")) == set()
    assert rules(added(good(), inner, outer, function("other", 1), "1")) == {"used"}


def test_annotations_in_quotes_may_name_what_the_module_has():
    kinds = DEFINE.replace("x: float", "x: 'float | None'").replace(
        "-> float", "-> \"Literal['a', 'b'] | math.Number\""
    )
    assert (
        rules(
            edited(
                edited(good(), 4, kinds), 2, "#| export\nimport math\nfrom typing import Literal"
            )
        )
        == set()
    )


def test_tutorials_keep_text_and_tables():
    book = Notebook("tutorials/00_x.ipynb", edited(good(), 5, outputs=[stream("2")]).cells)
    assert rules(book) == set()


def test_the_report_is_a_table(capsys):
    text = book_lint.table([good()])
    assert text.splitlines()[1].split() == [
        "models/10_padim.ipynb",
        "8",
        "3.5",
        "6",
        "1",
        "1",
        "1/1",
        "1",
        "0",
        "0",
    ]
