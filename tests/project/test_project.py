"""Each file in the root does its job, and the modules are what the notebooks export."""

import ast
import filecmp
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "anomalib_nb"
PACKAGES = sorted(p.parent for p in PACKAGE.glob("*/__init__.py"))
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))


def public(path: Path) -> list[str]:
    "The names in a module's `__all__`."
    found = re.search(r"^__all__ = (\[.*?\])", path.read_text(), re.M | re.S)
    return ast.literal_eval(found[1]) if found else []


def copied(target: Path, *names: str) -> Path:
    "A copy of parts of the repository."
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, target / name)
    return target


def test_modules_are_what_the_notebooks_export(tmp_path):
    copied(
        tmp_path,
        "nbs",
        "anomalib_nb",
        "pyproject.toml",
        "settings.ini",
        "_quarto.yml",
        "README.md",
        "LICENSE",
    )
    for path in (tmp_path / "anomalib_nb").rglob("*.py"):
        if path.name != "__init__.py":
            path.unlink()  # so that a module whose notebook is gone is found too
    environment = {
        k: v for k, v in os.environ.items() if k != "IN_TEST"
    }  # nbdev-export does nothing while it is set
    subprocess.run(
        [sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    exported = {
        p.relative_to(tmp_path / "anomalib_nb").as_posix()
        for p in (tmp_path / "anomalib_nb").rglob("*.py")
    } - {"_modidx.py"}
    tracked = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")} - {"_modidx.py"}
    assert tracked == exported, f"only on one side: {sorted(tracked ^ exported)}"
    _, differ, errors = filecmp.cmpfiles(
        PACKAGE, tmp_path / "anomalib_nb", sorted(tracked), shallow=False
    )
    assert not differ and not errors, f"not what nbdev-export writes: {differ + errors}"


def test_notebooks_are_canonical():
    result = subprocess.run(
        [sys.executable, "tools/nbtext.py", "check"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_tools_and_tests_are_tidy():
    folders = [name for name in ("tools", "tests", "benchmarks") if (ROOT / name).is_dir()]
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_site_has_one_configuration():
    link = ROOT / "nbs" / "_quarto.yml"
    assert link.is_symlink() and link.resolve() == (ROOT / "_quarto.yml").resolve(), (
        "git config core.symlinks true"
    )


def test_settings_are_found_from_every_folder(monkeypatch):
    from anomalib_nb.core.settings import find_settings

    for folder in (".", "nbs", "nbs/core"):
        monkeypatch.chdir(ROOT / folder)
        assert Path(find_settings()).resolve() == ROOT / "settings.ini"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_an_init_holds_no_list(package):
    assert (package / "__init__.py").read_text() == (PACKAGE / "core" / "__init__.py").read_text()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_no_module_hides_a_public_name(package):
    "Importing the module `layers.coreset` must not put a module where the function `coreset` belongs."
    import importlib
    import types

    module = importlib.import_module(f"anomalib_nb.{package.name}")
    modules = {p.stem for p in package.glob("*.py")}
    for name in modules & {name for p in package.glob("*.py") for name in public(p)}:
        importlib.import_module(f"anomalib_nb.{package.name}.{name}")
        assert not isinstance(getattr(module, name), types.ModuleType)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_every_public_name_has_one_home(package):
    homes: dict[str, list[str]] = {}
    for path in package.glob("*.py"):
        for name in public(path):
            homes.setdefault(name, []).append(path.stem)
    assert {name: at for name, at in homes.items() if len(at) > 1} == {}


@pytest.mark.parametrize(
    "module", MODULES, ids=lambda p: p.relative_to(PACKAGE).with_suffix("").as_posix()
)
def test_public_names_resolve(module):
    import importlib

    package = importlib.import_module("anomalib_nb." + module.parent.name)
    defined = importlib.import_module(f"anomalib_nb.{module.parent.name}.{module.stem}")
    for name in public(module):
        assert getattr(package, name) is getattr(defined, name), name
        assert name in dir(package)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, set[str]]:
    "Names of the files in a wheel and a source distribution, built without a network."
    work = tmp_path_factory.mktemp("build")
    copied(work, "anomalib_nb", "pyproject.toml", "README.md", "LICENSE", "settings.ini")
    code = "from setuptools.build_meta import build_wheel, build_sdist; build_wheel('dist'); build_sdist('dist')"
    subprocess.run(
        [sys.executable, "-c", f"import os; os.makedirs('dist'); {code}"],
        cwd=work,
        check=True,
        capture_output=True,
    )
    with (
        zipfile.ZipFile(next(work.glob("dist/*.whl"))) as wheel,
        tarfile.open(next(work.glob("dist/*.tar.gz"))) as source,
    ):
        return {
            "wheel": set(wheel.namelist()),
            "source": {n.split("/", 1)[-1] for n in source.getnames()},
        }


@pytest.mark.xdist_group("build")
@pytest.mark.parametrize("kind", ["wheel", "source"])
def test_what_is_shipped_is_whole(built, kind):
    modules = {p.relative_to(ROOT).as_posix() for p in MODULES} | {
        f"anomalib_nb/{p.name}/__init__.py" for p in PACKAGES
    }
    static = {
        p.relative_to(ROOT).as_posix() for p in (PACKAGE / "static").rglob("*") if p.is_file()
    }
    assert modules | static <= built[kind], sorted((modules | static) - built[kind])
    assert any(name.endswith("LICENSE") for name in built[kind])


def test_the_package_stays_small():
    "The terms of a package index, and of people on slow lines."
    sizes = {p.name: p.stat().st_size for p in (PACKAGE / "static").rglob("*") if p.is_file()}
    assert sum(sizes.values()) < 10e6, sizes


def test_requirements_have_floors():
    bare = [r for r in CONFIG["project"]["dependencies"] if ">=" not in r]
    assert not bare


def test_a_stranger_finds_the_doors():
    names = {
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Makefile",
        "settings.ini",
        "pyproject.toml",
        "_quarto.yml",
    }
    assert {n for n in names if not (ROOT / n).is_file()} == set()
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "make quickstart" in listed and "make test" in listed
