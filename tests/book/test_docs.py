"""The site, as far as it can be built without Quarto: every page, link, symbol, and the README."""

import subprocess
import sys
from pathlib import Path

import docs_check

ROOT = Path(__file__).parents[2]


def test_the_site_can_be_built():
    result = subprocess.run(
        [sys.executable, "tools/docs_check.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]


def test_a_sidebar_pattern_means_the_pages_it_finds():
    pages = ["core/00_types.ipynb", "core/01_registry.ipynb", "index.ipynb"]
    assert docs_check.expand("core/*", pages) == pages[:2]
    assert docs_check.expand("index.ipynb", pages) == ["index.ipynb"]
    assert docs_check.expand("guides/*", pages) == []
