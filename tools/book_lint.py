#!/usr/bin/env python3
"""What keeps the book a book: every rule of a chapter's form, as one small function.

    book_lint.py                     every notebook: a table, then what is wrong, by notebook and cell
    book_lint.py nbs/models/10_padim.ipynb ...

A rule takes a `Notebook` and yields problems. `RULES` is all of them; tests/book plants a fault for each.
"""

import ast
import builtins
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CELL_MEDIAN, CELL_MAX = 15, 60  # lines of an exported cell
FUNCTION_MEDIAN, FUNCTION_MAX = 8, 60  # lines of a function's body
SHOWN, NEAR = 0.85, 4  # share of public definitions used within so many cells
OUTPUT_KB = 300  # kept outputs of one notebook
MODEL_ARGUMENTS = 7
FEW = 3  # no median of fewer than so many
FIGURES = ("models", "metrics", "visualization", "widgets", "data")
TOLD_DEFAULT = re.compile(
    r"\bby default\b|\bdefaults?\b\s*(?:is\b|to\b|[:=\-\d'\"`]|None|True|False)", re.I
)
EMPTY_NAMES = ("utils", "util", "helpers", "helper", "common", "misc", "tools")


class Problem(NamedTuple):
    notebook: str
    cell: str  # its id; empty for the notebook as a whole
    rule: str
    what: str

    def __str__(self) -> str:
        return (
            f"{self.notebook}{' cell ' + self.cell if self.cell else ''}: {self.what} [{self.rule}]"
        )


@dataclass
class Cell:
    id: str
    kind: str  # code, markdown or raw
    source: str
    outputs: list

    @cached_property
    def directives(self) -> dict[str, str]:
        found = (
            re.findall(r"^\s*#\s*\|\s*([\w-]+):?[ \t]*(.*)$", self.source, re.M)
            if self.kind == "code"
            else []
        )
        return {name: value.strip() for name, value in found}

    @property
    def exported(self) -> bool:
        return bool({"export", "exports", "exporti"} & set(self.directives))

    @property
    def lesson(self) -> bool:
        return (
            self.kind == "code"
            and not self.exported
            and not {"default_exp", "hide"} & set(self.directives)
        )

    @property
    def code(self) -> str:
        "The source without directives."
        return re.sub(r"^\s*#\s*\|.*\n?", "", self.source, flags=re.M).strip("\n")

    @property
    def lines(self) -> int:
        return len(self.code.splitlines())

    @cached_property
    def tree(self) -> ast.Module:
        "Parsed; magics are left out, and what is not Python is empty."
        try:
            return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", self.code, flags=re.M))
        except SyntaxError:
            return ast.Module([], [])

    @cached_property
    def names(self) -> set[str]:
        return mentioned(self.tree)

    @property
    def figures(self) -> int:
        return sum("image/png" in output.get("data", {}) for output in self.outputs)


@dataclass
class Notebook:
    path: str  # relative to nbs/, "models/10_padim.ipynb"
    cells: list[Cell]

    @property
    def folder(self) -> str:
        return self.path.split("/")[0] if "/" in self.path else ""

    @property
    def stem(self) -> str:
        return Path(self.path).stem

    @property
    def number(self) -> int:
        found = re.match(r"\d+", self.stem)
        return int(found[0]) if found else 0

    @property
    def chapter(self) -> bool:
        return self.folder not in ("", "tutorials", "guides")

    @cached_property
    def exported(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.exported]

    @cached_property
    def definitions(self) -> list[tuple[int, Cell, ast.AST]]:
        "Public functions and classes: place of the cell, cell, node."
        return [
            (i, c, n)
            for i, c in enumerate(self.cells)
            if c.exported
            for n in c.tree.body
            if isinstance(n, DEFINITION) and not n.name.startswith("_")
        ]

    @cached_property
    def functions(self) -> list[tuple[Cell, ast.AST]]:
        "Every function and method of the exported cells."
        return [(c, n) for c in self.exported for n in ast.walk(c.tree) if isinstance(n, FUNCTION)]

    def problem(self, cell: Cell | None, rule: str, what: str) -> Problem:
        return Problem(self.path, cell.id if cell else "", rule, what)


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITION = (*FUNCTION, ast.ClassDef)
IMPORT = (ast.Import, ast.ImportFrom)


def joined(source) -> str:
    return source if isinstance(source, str) else "".join(source)


def read(path: Path) -> Notebook:
    "A notebook file, without its empty cells."
    cells = [
        Cell(c.get("id", str(i)), c["cell_type"], joined(c["source"]), c.get("outputs", []))
        for i, c in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"])
    ]
    path = path.resolve()
    name = (
        path.relative_to(ROOT / "nbs")
        if path.is_relative_to(ROOT / "nbs")
        else Path(*path.parts[-2:])
    )
    return Notebook(name.as_posix(), [cell for cell in cells if cell.source.strip()])


def notebooks(paths: list[str] = ()) -> list[Notebook]:
    found = [Path(p) for p in paths] or sorted((ROOT / "nbs").rglob("*.ipynb"))
    return [read(p) for p in found if ".ipynb_checkpoints" not in p.parts]


def mentioned(tree: ast.AST) -> set[str]:
    "Every name and attribute in some code."
    nodes = list(ast.walk(tree))
    return {n.id for n in nodes if isinstance(n, ast.Name)} | {
        n.attr for n in nodes if isinstance(n, ast.Attribute)
    }


def body_lines(node: ast.AST) -> int:
    "Lines of a function's body without its docstring."
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def shown(book: Notebook) -> list[tuple[Cell, str, bool]]:
    "Public definitions, and whether a lesson within reach uses each, itself or by a definition that is shown."
    found: dict[str, tuple[Cell, str, bool]] = {}
    for place, cell, node in reversed(book.definitions):
        near = book.cells[place + 1 : place + 1 + NEAR]
        works = any(node.name in c.names for c in near if c.lesson)
        inner = any(
            n.name in found and found[n.name][2]
            for c in (cell, *near)
            if c.exported
            for n in c.tree.body
            if isinstance(n, DEFINITION) and node.name in mentioned(n)
        )
        found[node.name] = (cell, node.name, works or inner)
    return list(reversed(found.values()))


# ---- rules --------------------------------------------------------------------------------------
def title(book: Notebook) -> Iterator[Problem]:
    "A page opens with its title and one line that says what it is about."
    first = book.cells[0] if book.cells else None
    if not first or first.kind != "markdown" or not re.match(r"# \S.*\n+> \S", first.source):
        yield book.problem(first, "title", "the first cell is not '# Title' and '> one line'")


def module(book: Notebook) -> Iterator[Problem]:
    "A chapter exports one module of its own name, and the name says something."
    if not book.chapter:
        return
    cells = [c for c in book.cells if "default_exp" in c.directives]
    expected = f"{book.folder}.{re.sub(r'^[0-9]+[a-z]?_', '', book.stem)}"
    if [c.directives["default_exp"] for c in cells] != [expected]:
        yield book.problem(
            cells[0] if cells else None, "module", f"expected one '#| default_exp {expected}'"
        )
    if expected.split(".")[1] in EMPTY_NAMES:
        yield book.problem(None, "module", f"{expected}: the name says nothing")


def cell_size(book: Notebook) -> Iterator[Problem]:
    "Exported cells are short."
    for cell in book.exported:
        if (lines := len(cell.source.strip().splitlines())) > CELL_MAX:  # directives, too
            yield book.problem(
                cell, "cell size", f"{lines} lines in an exported cell; at most {CELL_MAX}"
            )
    sizes = [cell.lines for cell in book.exported]
    if len(sizes) >= FEW and median(sizes) > CELL_MEDIAN:
        yield book.problem(
            None,
            "cell size",
            f"half of the exported cells have over {median(sizes):g} lines; at most {CELL_MEDIAN}",
        )


def function_size(book: Notebook) -> Iterator[Problem]:
    "Functions are short."
    for cell, node in book.functions:
        if body_lines(node) > FUNCTION_MAX:
            yield book.problem(
                cell,
                "function size",
                f"{node.name} has {body_lines(node)} lines; at most {FUNCTION_MAX}",
            )
    sizes = [body_lines(node) for _, node in book.functions]
    if len(sizes) >= FEW and median(sizes) > FUNCTION_MEDIAN:
        yield book.problem(
            None,
            "function size",
            f"half of the functions have over {median(sizes):g} lines; at most {FUNCTION_MEDIAN}",
        )


def used(book: Notebook) -> Iterator[Problem]:
    "What is defined is soon seen at work; one definition in a chapter may be an exception."
    all_ = shown(book)
    missed = [(cell, name) for cell, name, near in all_ if not near]
    if len(missed) > max(1, (1 - SHOWN) * len(all_)):
        for cell, name in missed:
            yield book.problem(
                cell, "used", f"nothing in the next {NEAR} cells shows {name} at work"
            )


def imports(book: Notebook) -> Iterator[Problem]:
    "A cell with an import holds nothing else: the docs are built by running every cell that has one."
    for cell in book.cells:
        if cell.kind != "code":
            continue
        top = [isinstance(n, IMPORT) for n in cell.tree.body]
        nested = cell.lesson and any(isinstance(n, IMPORT) for n in ast.walk(cell.tree))
        if (any(top) and not all(top)) or (nested and not any(top)):
            yield book.problem(cell, "imports", "an import and other code in one cell")


def evaluated(book: Notebook) -> Iterator[Problem]:
    "Every cell runs."
    for cell in book.cells:
        if cell.directives.get("eval", "").lower() == "false":
            yield book.problem(cell, "evaluated", "eval: false; what is shown must run")


def magics(book: Notebook) -> Iterator[Problem]:
    "Exported cells are Python."
    for cell in book.exported:
        if re.search(r"^\s*[%!]", cell.code, re.M):
            yield book.problem(cell, "magics", "a magic in an exported cell")


def finished(book: Notebook) -> Iterator[Problem]:
    "Nothing is left for later."
    for cell in book.cells:
        if found := re.search(r"\b(TODO|FIXME|XXX)\b", cell.source):
            yield book.problem(cell, "finished", f"{found[1]} in a published chapter")


def excepts(book: Notebook) -> Iterator[Problem]:
    "An error that nobody expected is not swallowed."
    for cell in book.cells:
        for node in ast.walk(cell.tree):
            if isinstance(node, ast.ExceptHandler):
                kind = ast.unparse(node.type) if node.type else ""
                if kind in ("", "Exception", "BaseException") and not any(
                    isinstance(n, ast.Raise) for n in ast.walk(node)
                ):
                    yield book.problem(
                        cell, "excepts", f"except {kind}".strip() + " swallows what nobody expected"
                    )


def docstrings(book: Notebook) -> Iterator[Problem]:
    "A docstring is one line; the prose stands above the cell."
    for _, cell, node in book.definitions:
        if ast.get_docstring(node) is None:
            yield book.problem(cell, "docstrings", f"{node.name} has no docstring")
    for cell in book.exported:
        for node in ast.walk(cell.tree):
            if isinstance(node, DEFINITION) and "\n" in (ast.get_docstring(node) or ""):
                yield book.problem(
                    cell, "docstrings", f"the docstring of {node.name} has more than one line"
                )


def constructor(node: ast.AST) -> ast.AST | None:
    "What a caller fills in: a function's own arguments, or those of a class's `__init__`."
    if isinstance(node, FUNCTION):
        return node
    return next((n for n in node.body if isinstance(n, FUNCTION) and n.name == "__init__"), None)


def arguments(node: ast.AST) -> list[ast.arg]:
    "The arguments that a caller names, without `self`, `*args` and `**kwargs`."
    spec = node.args
    return [
        a for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs) if a.arg not in ("self", "cls")
    ]


def comment(line: str) -> str:
    "The docment at the end of a line."
    return line.rpartition("  #")[2].strip() if "  #" in line else ""


def docments(book: Notebook) -> Iterator[Problem]:
    "Each argument is annotated and says beside it what it is, without its default."
    for _, cell, node in book.definitions:
        call, lines = constructor(node), cell.code.splitlines()
        for argument in arguments(call) if call else ():
            said = comment(lines[argument.end_lineno - 1])
            name = f"{argument.arg} of {node.name}"
            if argument.annotation is None:
                yield book.problem(cell, "docments", f"{name} has no annotation")
            if not said:
                yield book.problem(cell, "docments", f"{name} has no comment that says what it is")
            if TOLD_DEFAULT.search(said):
                yield book.problem(cell, "docments", f"{name} tells its default again")


def annotations(book: Notebook) -> Iterator[Problem]:
    "An annotation in quotes names something that the module has: the docs evaluate it."
    bound = set(dir(builtins)).union(*(bindings(cell.tree) for cell in book.exported))
    for cell, node in book.functions:
        for note in [node.returns, *(a.annotation for a in arguments(node))]:
            for part in ast.walk(note) if note else ():
                if (
                    isinstance(part, ast.Constant)
                    and isinstance(part.value, str)
                    and not literal(note, part)
                ):
                    missing = {
                        n.id for n in ast.walk(quoted(part.value)) if isinstance(n, ast.Name)
                    } - bound
                    for name in sorted(missing):
                        yield book.problem(
                            cell,
                            "annotations",
                            f"{node.name}: the module has no {name!r}, which its annotation names",
                        )


def quoted(text: str) -> ast.AST:
    "A quoted annotation as code."
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError:
        return ast.Module([], [])


def literal(note: ast.AST, part: ast.Constant) -> bool:
    "Is a string a value of a `Literal`, not the name of a type?"
    return any(
        isinstance(n, ast.Subscript)
        and ast.unparse(n.value).endswith("Literal")
        and part in list(ast.walk(n))
        for n in ast.walk(note)
    )


def bindings(tree: ast.Module) -> set[str]:
    "The names that a cell gives its module."
    found = set()
    for node in tree.body:
        if isinstance(node, DEFINITION):
            found.add(node.name)
        elif isinstance(node, IMPORT):
            found |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {
                n.id
                for n in ast.walk(node)
                if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
            }
    return found


def few_arguments(book: Notebook) -> Iterator[Problem]:
    "A model is set up with few numbers."
    if book.folder != "models":
        return
    for _, cell, node in book.definitions:
        call = constructor(node) if isinstance(node, ast.ClassDef) else None
        if call and len(arguments(call)) > MODEL_ARGUMENTS:
            yield book.problem(
                cell,
                "few arguments",
                f"{node.name} takes {len(arguments(call))} arguments; at most {MODEL_ARGUMENTS}",
            )


def no_enums(book: Notebook) -> Iterator[Problem]:
    "A choice is a string with a `Literal`."
    for _, cell, node in book.definitions:
        bases = {ast.unparse(b).split(".")[-1] for b in getattr(node, "bases", [])}
        if bases & {"Enum", "StrEnum", "IntEnum", "Flag"}:
            yield book.problem(cell, "no enums", f"{node.name} is an enum; use a Literal")


def figure(book: Notebook) -> Iterator[Problem]:
    "What can be seen is shown; contract, zoo and checks of models have nothing to see."
    machinery = book.folder == "models" and book.number < 10
    if book.folder in FIGURES and not machinery and not any(cell.figures for cell in book.cells):
        yield book.problem(
            None, "figure", "no kept figure (a PNG output: nbdev-test --save, then nbtext clean)"
        )


def references(book: Notebook) -> Iterator[Problem]:
    "A model and a metric name their papers; contract, zoo and evaluator have none."
    if not (
        book.folder == "models"
        and book.number >= 10
        or book.folder == "metrics"
        and book.number >= 1
    ):
        return
    parts = [
        re.search(r"^## References\s*\n(.*)", c.source, re.M | re.S)
        for c in book.cells
        if c.kind == "markdown"
    ]
    said = " ".join(p[1] for p in parts if p)
    if not re.search(r"\b(19|20)\d\d\b", said):
        yield book.problem(None, "references", "no '## References' with a paper and its year")


def links(book: Notebook) -> Iterator[Problem]:
    "A symbol in backticks becomes a link by itself; inside another link the page breaks."
    for cell in book.cells:
        if cell.kind == "markdown" and (
            found := re.search(r"\[[^\]\n]*`\w+`[^\]\n]*\]\([^)\s]*\)", cell.source)
        ):
            yield book.problem(cell, "links", f"{found[0]}: no backticks in the text of a link")


def outputs(book: Notebook) -> Iterator[Problem]:
    "Kept outputs are few, small and still."
    free = book.folder == "tutorials" or book.path == "index.ipynb"
    for cell in book.cells:
        for output in cell.outputs:
            data = output.get("data", {})
            html = joined(data.get("text/html", ""))
            if not free and set(data) != {"image/png"}:
                yield book.problem(cell, "outputs", "a chapter keeps figures only (nbtext clean)")
            elif "<script" in html or any(
                k.startswith(("application/", "image/jpeg")) for k in data
            ):
                yield book.problem(
                    cell, "outputs", "kept outputs are text, tables and PNG only (nbtext clean)"
                )
    size = sum(len(json.dumps(o)) for cell in book.cells for o in cell.outputs) / 1000
    if size > OUTPUT_KB:
        yield book.problem(None, "outputs", f"{size:.0f} kB of kept outputs; at most {OUTPUT_KB}")


RULES = (
    title,
    module,
    cell_size,
    function_size,
    used,
    imports,
    evaluated,
    magics,
    finished,
    excepts,
    docstrings,
    docments,
    annotations,
    few_arguments,
    no_enums,
    figure,
    references,
    links,
    outputs,
)


def lint(book: Notebook) -> list[Problem]:
    "What is wrong with one notebook."
    return [problem for rule in RULES for problem in rule(book)]


# ---- report -------------------------------------------------------------------------------------
def row(book: Notebook) -> tuple:
    "A notebook in numbers."
    cells = [c.lines for c in book.exported] or [0]
    functions = [body_lines(n) for _, n in book.functions] or [0]
    seen = [near for _, _, near in shown(book)]
    kb = sum(len(json.dumps(o)) for cell in book.cells for o in cell.outputs) / 1000
    return (
        book.path,
        len(book.cells),
        f"{median(cells):g}",
        max(cells),
        f"{median(functions):g}",
        max(functions),
        f"{sum(seen)}/{len(seen)}",
        sum(c.figures for c in book.cells),
        f"{kb:.0f}",
        len(lint(book)),
    )


def table(books: list[Notebook]) -> str:
    "One line per notebook."
    head = (
        "notebook",
        "cells",
        "cell",
        "max",
        "function",
        "max",
        "shown",
        "figures",
        "kB",
        "problems",
    )
    rows = [head, *(tuple(map(str, row(book))) for book in books)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(v.ljust(w) if i == 0 else v.rjust(w) for i, (v, w) in enumerate(zip(r, widths)))
        for r in rows
    )


def share_shown(books: list[Notebook]) -> float:
    "Of all public definitions of the book, how many a lesson within reach uses."
    seen = [near for book in books for _, _, near in shown(book)]
    return sum(seen) / len(seen) if seen else 1.0


def main(arguments_: list[str]) -> int:
    books = notebooks(arguments_)
    found = [problem for book in books for problem in lint(book)]
    print(table(books), *found, sep="\n")
    print(
        f"\n{share_shown(books):.0%} of the public definitions are shown at work; {len(found)} problems"
    )
    return bool(found) or share_shown(books) < SHOWN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
