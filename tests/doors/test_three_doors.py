"""One job through the notebook's calls, the widgets and the command line: the same numbers, on real images."""

from pathlib import Path

import pytest

from anomalib_nb.core.io import read_json


@pytest.fixture(scope="module")
def tiles(shared, tmp_path_factory) -> Path:
    "A dozen good tiles to learn from, and a few of each kind to judge, as links."
    home = tmp_path_factory.mktemp("doors") / "magnetic_tile"
    source = shared / "data/magnetic_tile"
    for folder in (source / "train/good", *sorted((source / "test").iterdir())):
        target = home / folder.relative_to(source)
        target.mkdir(parents=True)
        for file in sorted(folder.iterdir())[:: 20 if "train" in folder.parts else 8][:10]:
            (target / file.name).symlink_to(file)
            mask = source / "ground_truth" / folder.name / f"{file.stem}_mask.png"
            if mask.exists():
                linked = home / mask.relative_to(source)
                linked.parent.mkdir(parents=True, exist_ok=True)
                linked.symlink_to(mask)
    return home


@pytest.fixture(scope="module")
def called(tiles, tmp_path_factory) -> dict[str, float]:
    from anomalib_nb.data import Folder
    from anomalib_nb.engine import Engine
    from anomalib_nb.models import PatchCore

    engine = Engine(tmp_path_factory.mktemp("called"), accelerator="cpu", enable_progress_bar=False)
    return engine.train(PatchCore(), Folder(tiles))


def test_the_job_is_done(called):
    assert set(called) >= {"image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_AUPRO"}
    assert called["image_AUROC"] > 0.5


def test_the_widgets_give_the_same_numbers(tiles, called, tmp_path):
    from anomalib_nb.data import Folder
    from anomalib_nb.engine import Engine
    from anomalib_nb.models import PatchCore
    from anomalib_nb.steps import Session, TrainStep

    engine = Engine(tmp_path, accelerator="cpu", enable_progress_bar=False)
    session = Session(data=Folder(tiles), model=PatchCore(), engine=engine)
    step = TrainStep(session)
    assert step.run() == called


def test_the_command_line_gives_the_same_numbers(tiles, called, tmp_path):
    from anomalib_nb.cli.cli import main

    main(
        ["train", "--model", "PatchCore", "--data", str(tiles)]
        + ["--engine.default_root_dir", str(tmp_path), "--engine.accelerator", "cpu"]
    )
    newest = max(tmp_path.rglob("metrics.json"), key=lambda p: p.stat().st_mtime)
    written = read_json(newest)
    assert {name: written[name] for name in called} == called
