#!/usr/bin/env python3
"""Does a shipped model decide like the model? Three formats, demo and real images, one table.

    python benchmarks/parity.py [--data DIR ...] [--formats torch onnx openvino openvino:fp16] [--size 256] [--train 40]

Each DIR is a data set in a layout that `Folder` recognises; without any, the demo surfaces only.
PatchCore with the embedded backbone is fitted on `--train` images, exported, and both are asked about
every test image at its own size, one at a time. Label flips must be 0; times are medians.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from anomalib_nb.data import AnomalibDataModule, DemoData, Folder
from anomalib_nb.deploy import Inferencer, export, parity
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.processing.pre import PreProcessor

HEAD = (
    "data",
    "format",
    "images",
    "label flips",
    "pixel flips",
    "score diff",
    "map diff",
    "model ms",
    "runtime ms",
    "MB",
)


def fewer(data: AnomalibDataModule, count: int) -> AnomalibDataModule:
    "The same data with some of the training images, evenly spaced by name."
    train = data.table.index[data.table["split"] == "train"]
    kept = train[
        np.unique(np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int))
    ]
    data.table.loc[train.difference(kept), "split"] = "unused"
    return data


def fitted(data: AnomalibDataModule, size: int, folder: Path) -> PatchCore:
    "PatchCore on normal images, thresholds on validation images."
    model = PatchCore()
    model.pre = PreProcessor(size=size)
    Engine(folder, accelerator="cpu", enable_progress_bar=False).fit(model, data)
    return model


def rows(data: AnomalibDataModule, size: int, formats: list[str]) -> list[tuple]:
    "One row for each format."
    found = []
    with tempfile.TemporaryDirectory() as aside:
        model = fitted(data, size, Path(aside))
        for wish in formats:
            format, _, precision = wish.partition(":")
            folder = export(
                model, format, Path(aside) / wish.replace(":", "_"), precision or "fp32"
            )
            said = parity(model, Inferencer(folder), data)
            megabytes = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
            found.append(
                (
                    data.name,
                    wish,
                    said.images,
                    said.label_flips,
                    f"{said.pixel_flips}/{said.pixels / 1e6:.1f}M",
                    f"{said.score_relative:.1e}",
                    f"{said.map_relative:.1e}",
                    f"{said.model_ms:.1f}",
                    f"{said.runtime_ms:.1f}",
                    f"{megabytes:.1f}",
                )
            )
    return found


def show(row: tuple) -> None:
    print(
        "".join(
            f"{str(value):>{width}}"
            for value, width in zip(row, (16, 15, 8, 13, 16, 12, 10, 10, 12, 8))
        ),
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="*", default=[], type=Path)
    parser.add_argument(
        "--formats", nargs="*", default=["torch", "onnx", "openvino", "openvino:fp16"]
    )
    parser.add_argument("--size", type=int, default=256, help="of the model's input, in pixels")
    parser.add_argument("--train", type=int, default=40, help="normal images to learn from")
    parser.add_argument("--surfaces", nargs="*", default=["metal", "tile"], help="of the demo data")
    wish = parser.parse_args()
    show(HEAD)
    flips = 0
    for data in [
        *(DemoData(s, train=wish.train, name=f"demo {s}") for s in wish.surfaces),
        *(Folder(d) for d in wish.data),
    ]:
        for row in rows(fewer(data, wish.train), wish.size, wish.formats):
            show(row)
            flips += row[3] if not row[1].endswith("fp16") else 0
    print(
        "no decision changed at full precision"
        if not flips
        else f"{flips} decisions changed at full precision"
    )
    return bool(flips)


if __name__ == "__main__":
    raise SystemExit(main())
