"""The first command that a stranger runs, without a network, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("quickstart")  # one run for all of them


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> str:
    "What `make quickstart` prints once the package is installed."
    folder = tmp_path_factory.mktemp("quickstart")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "offline"), "HOME": str(folder)}
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from anomalib_nb.cli.quickstart import show_quickstart; show_quickstart()",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_prints_the_metrics(said):
    for name in ("image_AUROC", "image_F1Max", "pixel_AUPRO"):
        assert re.search(rf"{name}\W+[01]\.\d+", said), said


def test_it_finds_the_defects(said):
    assert float(re.search(r"image_AUROC\W+([01]\.\d+)", said)[1]) > 0.9


def test_it_says_where_the_run_lies_and_how_to_go_on(said):
    assert "results" in said and "make lab" in said


def test_make_runs_it():
    plan = subprocess.run(
        ["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "tools/setup.sh notebook,openvino,onnx" in plan.stdout
    assert "anomalib_nb.cli.quickstart import show_quickstart" in plan.stdout
