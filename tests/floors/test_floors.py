"""The table of floors holds, and a planted violation of each of its rules is found."""

import subprocess
import sys
from pathlib import Path

import floors
import pytest

ROOT = Path(__file__).parents[2]
HEADER = "# File to edit: ../../nbs/{}/{}_x.ipynb.\n__all__ = ['{}']\n"
SKETCH = {
    "core.types": HEADER.format("core", "00", "Batch"),
    "models.contract": HEADER.format("models", "00", "AnomalyModule"),
    "models.padim": HEADER.format("models", "10", "Padim"),
    "models.patchcore": HEADER.format("models", "20", "PatchCore"),
    "data.datamodule": HEADER.format("data", "00", "AnomalibDataModule"),
    "data.folder": HEADER.format("data", "10", "Folder"),
    "data.tabular": HEADER.format("data", "12", "Tabular"),
    "data.video": HEADER.format("data", "60", "VideoFile"),
    "widgets.base": HEADER.format("widgets", "00", "Widget"),
    "widgets.heat_map": HEADER.format("widgets", "01", "HeatMap"),
    "steps.session": HEADER.format("steps", "00", "Session"),
    "steps.data": HEADER.format("steps", "01", "DataStep"),
    "steps.workbench": HEADER.format("steps", "08", "Workbench"),
}


def planted(module: str, line: str) -> list[str]:
    "What is found when `line` is added to one module of the sketch."
    return floors.check(
        {**SKETCH, module: SKETCH.get(module, HEADER.format("x", "00", "x")) + line + "\n"}
    )


def test_the_package_keeps_to_its_floors():
    assert floors.check(floors.modules()) == []


def test_a_clean_sketch_has_no_problems():
    assert floors.check(SKETCH) == []


@pytest.mark.parametrize(
    "module, line",
    [
        ("core.types", "from anomalib_nb.models.padim import Padim"),
        ("core.types", "from ..models.padim import Padim"),
        ("core.types", "import pandas"),
        ("core.types", "def f():\n    from ..engine.engine import Engine"),
        ("layers.flow", "from ..metrics.curves import auroc"),
        ("layers.flow", "import lightning"),
        ("metrics.curves", "import sklearn"),
        ("processing.pre", "from anomalib_nb.data import Folder"),
        ("processing.synthetic", "from ..data.images import read_image"),
        ("models.padim", "from anomalib_nb.data import Folder"),
        ("models.padim", "from .patchcore import embed"),
        ("models.padim", "from anomalib_nb.models.patchcore import embed"),
        ("models.padim", "from anomalib_nb.models import PatchCore"),
        ("models.padim", "from anomalib_nb import models"),
        ("models.padim", "import anomalib_nb.models.patchcore as other"),
        ("models.contract", "from ..engine.engine import Engine"),
        ("models.contract", "PACKAGE = 'anomalib_nb.data'"),
        ("models.padim", "import transformers"),
        ("data.datamodule", "from ..models.contract import AnomalyModule"),
        ("data.mvtec", "import av"),
        ("data.video", "from .tabular import Tabular"),
        ("deploy.export", "from ..engine.engine import Engine"),
        ("deploy.export", "import openvino"),
        ("engine.engine", "from ..pipelines.runners import run"),
        ("widgets.heat_map", "from ..layers.blur import blur"),
        ("widgets.heat_map", "from ..models.contract import AnomalyModule"),
        ("widgets.heat_map", "import lightning"),
        ("widgets.heat_map", "import ipywidgets"),
        ("steps.data", "import panel"),
        ("steps.session", "from fastcore.basics import patch"),
        ("steps.session", "def f():\n    import nbdev"),
        ("attic.old", "import torch"),
    ],
)
def test_a_planted_violation_is_found(module, line):
    found = planted(module, line)
    assert len(found) == 1 and found[0].startswith(module), found


@pytest.mark.parametrize(
    "module, line",
    [
        ("models.padim", "from .contract import AnomalyModule"),
        ("models.padim", "from anomalib_nb.models import AnomalyModule"),
        (
            "models.padim",
            "from ..processing.pre import PreProcessor\nfrom ..layers.blur import blur\nimport timm, torch, math",
        ),
        ("models.draem", "from ..processing.synthetic import get_defect"),
        ("data.datamodule", "from ..processing.synthetic import get_defect"),
        ("models.padim", "def f():\n    import transformers"),
        (
            "models.contract",
            "def names():\n    return Registry('model', 'anomalib_nb.models', 'AnomalyModule')",
        ),
        ("engine.engine", "def export():\n    from ..deploy.export import export"),
        ("deploy.export", "def f():\n    import openvino"),
        (
            "widgets.heat_map",
            "from ..core.types import Batch\nfrom .base import Widget\nimport anywidget, traitlets, numpy",
        ),
        ("steps.workbench", "from .data import DataStep"),
        ("data.tabular", "from .video import VideoFile"),
        ("core.types", "if TYPE_CHECKING:\n    import pandas"),
        ("core.types", "'''The registry of anomalib_nb.models is one.'''"),
    ],
)
def test_what_is_allowed_is_not_reported(module, line):
    assert planted(module, line) == []


def run(code: str):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, anomalib_nb\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'lightning', 'timm', 'matplotlib') if m in sys.modules])"
    )
    result = run(code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_widgets_load_without_training_code():
    names = [m for m in floors.modules() if m.startswith("widgets.")]
    code = (
        "import sys\nfor m in ('lightning', 'timm', 'torchvision', 'openvino', 'panel'): sys.modules[m] = None\n"
        f"import importlib\nfor m in {names}: importlib.import_module('anomalib_nb.' + m)"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_every_floor_loads_without_its_extras_and_without_nbdev():
    blocked = sorted(
        floors.INSIDE_ONLY - {"IPython", "huggingface_hub"} | floors.NEVER - {"pytest"}
    )
    names = [m for m in floors.modules() if not m.startswith("dashboards.")]
    code = (
        f"import sys\nfor m in {blocked}: sys.modules[m] = None\n"
        f"import importlib\nfor m in {names}: importlib.import_module('anomalib_nb.' + m)"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr
