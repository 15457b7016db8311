"""Every chapter is a test: its cells run in order, in a fresh process, without a network.

The processes are forked from one that has the heavy imports done, so a chapter costs what its
lessons cost. Tutorials run on a real kernel instead, in tests/tutorials.
"""

import multiprocessing
import os
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NBS = ROOT / "nbs"
CHAPTERS = sorted(
    p
    for p in NBS.rglob("*.ipynb")
    if "tutorials" not in p.parts and ".ipynb_checkpoints" not in p.parts
)
FLAGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["nbdev"]["tst_flags"].split()
LIMIT_S = 600
HEAVY = [
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "scipy.stats",
    "pandas",
    "xarray",
    "zarr",
    "matplotlib.pyplot",
    "nbdev.test",
]


def run_chapter(path: Path, log: Path):
    "Run a notebook's cells as nbdev-test does; the process ends with 0 when all passed."
    with open(log, "w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    os.environ["MPLBACKEND"] = "agg"
    sys.path.insert(0, str(ROOT / "tests" / "offline"))
    import nbdev.test
    import offline

    offline.close()
    passed, _ = nbdev.test.test_nb(path, skip_flags=FLAGS, basepath=ROOT)
    sys.stderr.flush()
    os._exit(0 if passed else 1)  # a chapter's threads and open files end with it


def outcome(path: Path, log: Path, limit: float = LIMIT_S) -> tuple[int | None, str]:
    "Exit code (None: took too long) and what the chapter printed."
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    child = context.Process(target=run_chapter, args=(path, log))
    child.start()
    child.join(limit)
    code = child.exitcode
    if code is None:
        child.kill()
        child.join()
    return code, log.read_text(errors="replace")


@pytest.mark.parametrize(
    "chapter", CHAPTERS, ids=lambda p: p.relative_to(NBS).with_suffix("").as_posix()
)
def test_chapter(chapter, tmp_path):
    code, said = outcome(chapter, tmp_path / "said.txt")
    assert code == 0, (
        f"{chapter.relative_to(ROOT)} "
        + ("took too long" if code is None else "failed")
        + f"\n{said[-6000:]}"
    )


@pytest.mark.parametrize(
    "source, expected",
    [
        ("assert 1 + 1 == 2", 0),
        ("assert 1 + 1 == 3", 1),
        ("import time; time.sleep(60)", None),
        ("import socket; socket.create_connection(('198.51.100.1', 80), 1)", 1),
        ("raise SystemExit(0)\n", 1),
    ],
    ids=["passes", "fails", "hangs", "asks the network", "leaves early"],
)
def test_the_runner_tells_good_from_bad(source, expected, tmp_path):
    import nbformat

    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell(source),
        nbformat.v4.new_code_cell("assert True"),
    ]
    path = tmp_path / "00_planted.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    code, said = outcome(path, tmp_path / "said.txt", limit=15 if expected is None else LIMIT_S)
    assert code == expected, said
