#!/usr/bin/env python3
"""Who may import whom: the table of floors, and a reader of sources that makes it true.

    floors.py            list what breaks the table; silent when nothing does

A package imports from lower floors only. Imports inside functions count, relative ones are
resolved, and so does a dotted name in a string (`Registry("model", "anomalib_nb.models", ...)`).
Nothing is imported to find out.
"""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

HOME = "anomalib_nb"
ROOT = Path(__file__).resolve().parents[1]


class Floor(NamedTuple):
    level: int
    lower: tuple[str, ...]  # packages it may import, besides itself
    third: frozenset[str]  # third parties it names itself
    shared: int | None = (
        None  # modules of chapters numbered below this may be imported by their neighbours
    )


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BASE = ("core", "layers", "metrics", "visualization")
TRAIN = (*BASE, "processing", "data", "models")
RUN = (*TRAIN, "engine", "deploy")
FLOORS = {
    "core": Floor(0, (), words("torch numpy xarray zarr safetensors")),
    # huggingface_hub: timm's own cache of weights; skimage, PIL: pictures to train the embedded backbone on
    "layers": Floor(1, ("core",), words("timm einops huggingface_hub skimage PIL")),
    # pandas: tables of results
    "metrics": Floor(1, ("core",), words("torchmetrics scipy pandas")),
    "visualization": Floor(1, ("core",), words("holoviews PIL matplotlib")),
    "processing": Floor(2, BASE, words("torchvision")),
    "data": Floor(
        2, BASE, words("torchvision pandas lightning tqdm filelock av tifffile pillow_heif cloudpickle"), shared=10
    ),
    "models": Floor(3, (*BASE, "processing"), words("lightning"), shared=10),
    "engine": Floor(4, TRAIN, words("lightning")),
    "deploy": Floor(4, TRAIN, words("lightning openvino nncf onnx onnxruntime onnxscript gradio")),
    "pipelines": Floor(5, RUN, words("jsonargparse optuna ray")),
    "cli": Floor(5, RUN, words("jsonargparse optuna ray")),
    "widgets": Floor(
        6, ("core", "metrics", "visualization"), words("anywidget traitlets"), shared=1
    ),
    "steps": Floor(7, (*RUN, "pipelines", "cli", "widgets"), words("ipywidgets"), shared=1),
    "dashboards": Floor(8, (*RUN, "pipelines", "cli", "widgets", "steps"), words("panel")),
}
# Two packages of one floor: the first may import the second, never the other way round.
NEIGHBOURS = {
    ("engine", "deploy"),
    ("cli", "pipelines"),
    ("visualization", "metrics"),
    ("data", "processing"),  # data paints defects; models learn from the same ones, without data
}
# A chapter that is the sum of its neighbours.
SUMS = {"steps.workbench"}
# A chapter that its neighbours are built on, although it stands among them.
BASES = {"data.folder", "data.depth", "data.video", "data.clips"}
# Installed with an extra, or slow to load: inside functions only, so that a floor loads without them.
INSIDE_ONLY = words(
    "openvino nncf onnx onnxruntime onnxscript gradio panel jupyterlab optuna ray av tensorboard IPython huggingface_hub skimage"
)
# What notebooks are written with; a user does not have it.
NEVER = words("nbdev fastcore execnb nbclient pytest anomalib")


def third_parties(package: str) -> frozenset[str]:
    "What a package may import from outside: what it names, and what the packages below it name."
    return FLOORS[package].third.union(*(FLOORS[lower].third for lower in FLOORS[package].lower))


class Use(NamedTuple):
    line: int
    target: str  # dotted name of the module
    inside: bool  # in a function, so only when it is called


def absolute(node: ast.ImportFrom, module: str) -> str:
    "The module that `from .x import y` means in `module`."
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def targets(node: ast.AST, module: str) -> list[str]:
    "The modules that one node reaches."
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = absolute(node, module)
        return (
            [f"{base}.{alias.name}" for alias in node.names]
            if base.split(".")[0] == HOME
            else [base]
        )
    if (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(rf"{HOME}(\.\w+)+", node.value)
    ):
        return [node.value]
    return []


def uses(source: str, module: str) -> list[Use]:
    "Every module that a source reaches, and where."
    found: list[Use] = []

    def walk(node: ast.AST, inside: bool):
        found.extend(Use(node.lineno, target, inside) for target in targets(node, module))
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            if not type_checking(child):
                walk(child, inside)

    walk(ast.parse(source), False)
    return found


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def number(source: str) -> int | None:
    "The number of the chapter that a module was exported from."
    found = re.search(r"File to edit: \S*?/(\d+)\w?_[^/]*\.ipynb", source)
    return int(found[1]) if found else None


class Package(NamedTuple):
    numbers: dict[str, int | None]  # module -> number of its chapter
    homes: dict[str, str]  # public name -> module


def packages(modules: dict[str, str]) -> dict[str, Package]:
    "What is known of each package, from modules given as 'package.name' -> source."
    found: dict[str, Package] = {}
    for dotted, source in modules.items():
        package, name = dotted.split(".", 1)
        here = found.setdefault(package, Package({}, {}))
        here.numbers[name] = number(source)
        names = re.search(r"^__all__ = (\[.*?\])", source, re.M | re.S)
        here.homes.update(dict.fromkeys(ast.literal_eval(names[1]) if names else [], name))
    return found


def sideways(package: str, name: str, target: str, known: Package) -> str:
    "What is wrong with an import inside one package; empty when nothing is."
    shared, mine = FLOORS[package].shared, known.numbers[name]
    if shared is None or mine is None or mine < shared or f"{package}.{name}" in SUMS:
        return ""
    asked = target.split(".")[2] if target.count(".") >= 2 else ""
    other = asked if asked in known.numbers else known.homes.get(asked, "")
    theirs = known.numbers.get(other)
    if other == name or f"{package}.{other}" in BASES or (theirs is not None and theirs < shared):
        return ""
    return f"imports {target}, its neighbour: what two chapters share belongs on a lower floor"


def problem(package: str, name: str, use: Use, known: Package) -> str:
    "What is wrong with one import; empty when nothing is."
    top, _, rest = use.target.partition(".")
    if top in NEVER:
        return f"imports {top}, which a user does not have"
    if top == HOME:
        other = rest.split(".")[0] if rest.split(".")[0] in FLOORS else "core"
        if other == package:
            return sideways(package, name, use.target, known)
        if other in FLOORS[package].lower or (package, other) in NEIGHBOURS:
            return ""
        return f"is on floor {FLOORS[package].level} and may not import {other} (floor {FLOORS[other].level})"
    if top in sys.stdlib_module_names:
        return ""
    own_option = package == "models" and use.inside
    if top in INSIDE_ONLY and not use.inside and package != "dashboards":
        return f"imports {top} at its top; do it in the function that needs it"
    return "" if own_option or top in third_parties(package) else f"may not import {top}"


def check(modules: dict[str, str]) -> list[str]:
    "What breaks the table in modules given as 'package.name' -> source."
    known, found = packages(modules), []
    for dotted, source in sorted(modules.items()):
        package, name = dotted.split(".", 1)
        if package not in FLOORS:
            found.append(f"{dotted}: the package {package} stands on no floor")
            continue
        for use in uses(source, f"{HOME}.{dotted}"):
            if wrong := problem(package, name, use, known[package]):
                found.append(f"{dotted}:{use.line}: {wrong}")
    return found


def modules() -> dict[str, str]:
    "The package's modules, 'package.name' -> source."
    found = {}
    for path in sorted((ROOT / HOME).glob("*/**/*.py")):
        name = path.relative_to(ROOT / HOME).with_suffix("").as_posix().replace("/", ".")
        if path.name != "__init__.py":
            found[name] = path.read_text(encoding="utf-8")
    return found


def main() -> int:
    found = check(modules())
    print("\n".join(found) if found else f"floors: {len(modules())} modules keep to the table")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
