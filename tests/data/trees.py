"""Small data sets of the true layout: one builder per class, which the contract test runs over.

A builder writes its tree below `root` and returns the arguments that open it (None: root=root):

    @tree("Kolektor")
    def kolektor(root):
        paint(root / "kos01/Part0.jpg")
        paint_mask(root / "kos01/Part0_label.bmp", empty=True)

A tree holds enough for a split: 4 or more normal training images, 2 or more normal and 2 or more
defective test images (where the data set has such), and no two images alike.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_nb.data.demo_data import write_demo_folder

Builder = Callable[[Path], dict | None]
TREES: dict[str, Builder] = {}  # class name -> builder


def tree(name: str) -> Callable[[Builder], Builder]:
    "Register the builder of a data set's tree under the name of its class."

    def keep(build: Builder) -> Builder:
        assert name not in TREES, f"{name} has a tree already"
        return TREES.setdefault(name, build)

    return keep


def paint(path: Path, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    "Write an image (height, width) of noise that no other path has; the suffix says the format."
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    Image.fromarray(rng.integers(40, 200, (*size, 3), dtype=np.uint8)).convert(mode).save(path)
    return path


def paint_mask(
    path: Path, size: tuple[int, int] = (32, 32), value: int = 255, empty: bool = False
) -> Path:
    "Write a mask (height, width) with one square of a value, or none."
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 0 if empty else value
    Image.fromarray(mask).save(path)
    return path


def mvtec_like(
    root: Path, defects: tuple[str, ...] = ("dent",), masks: str = "ground_truth", count: int = 4
) -> Path:
    "Write train/good, test/good, test/<defect> and <masks>/<defect>/<name>_mask.png."
    for i in range(count):
        paint(root / f"train/good/{i:03}.png")
        paint(root / f"test/good/{i:03}.png")
        for defect in defects:
            paint(root / f"test/{defect}/{i:03}.png")
            if masks:
                paint_mask(root / f"{masks}/{defect}/{i:03}_mask.png")
    return root


@tree("DemoData")
def demo_data(root: Path) -> dict:
    return {"train": 4, "test": 12, "size": 48}


@tree("Folder")
def folder(root: Path) -> dict:
    return {"root": write_demo_folder(root / "tiles", "tile", train=4, test=12, size=48)}


@tree("MVTecAD")
def mvtec_ad(root: Path) -> None:
    mvtec_like(root / "bottle", ("broken_large", "contamination"))
