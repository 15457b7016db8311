"""What a person tries in the first hour: each row of a table works the same through every door, or is one sentence."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "data"))
from trees import film, mvtec_like, paint, paint_mask

from anomalib_nb.data import DemoData, Folder, Tabular, predict_dataset, write_demo_folder
from anomalib_nb.deploy import Inferencer
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore
from anomalib_nb.processing.camera import Camera
from anomalib_nb.processing.pre import PreProcessor

SIZE = 32


def tiny() -> PatchCore:
    model = PatchCore(coreset_sampling_ratio=0.2)
    model.pre = PreProcessor(size=SIZE)
    return model


def quiet(root: Path) -> Engine:
    return Engine(root, accelerator="cpu", enable_progress_bar=False)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    model, engine = tiny(), quiet(tmp_path_factory.mktemp("results"))
    run = engine.fit(model, DemoData("tile", train=6, test=8, size=48))
    return model, engine, run


@pytest.fixture(scope="module")
def picture():
    "A defective tile (48, 64, 3) uint8 in colours that are no greys."
    data = DemoData("tile", train=1, test=8, size=64, val_split_mode="none")
    path = data.table.loc[data.table["label_index"] == 1, "image_path"].iloc[-1]
    grey = data.read_image(path)[8:56].astype(float)
    return (grey * (1, 0.75, 0.5)).round().astype(np.uint8)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- one picture, in every form that people have it in -------------------------------------------


class Form(NamedTuple):
    "A form of a picture."

    make: Callable[[Path, np.ndarray], Any]  # folder, picture -> what is given to a door
    apart: float = 0.0  # how far its pixels may be from the picture's, in the mean
    seen: Callable[[np.ndarray], np.ndarray] = lambda p: p  # what should be seen of the picture
    camera: Camera | None = None  # what has to be said
    count: int = 1  # pictures


def saved(name: str, mode: str = "RGB", **options) -> Callable[[Path, np.ndarray], Path]:
    def make(folder, picture):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture)
        (image if mode == "RGB" else image.convert(mode)).save(path, **options)
        return path

    return make


def transparent(picture, alpha=255):
    return np.dstack([picture, np.full(picture.shape[:2], alpha, np.uint8)])


def turned(folder, picture):
    "Stored lying, with a note that it should stand, as telephones do."
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "turned.png"
    Image.fromarray(np.rot90(picture)).save(path, exif=exif)
    return path


def deep(folder, picture, white=65535):
    path = folder / "deep.png"
    Image.fromarray((picture[..., 0] / 255 * white).round().astype(np.uint16)).save(path)
    return path


def beside(folder, picture):
    "A folder as a desktop leaves it."
    saved("shots/part.png")(folder, picture)
    (folder / "shots/Thumbs.db").write_bytes(b"no image")
    (folder / "shots/._part.png").write_bytes(b"no image")
    (folder / "shots/notes.txt").write_text("tile 7")
    return folder / "shots"


def grey(p):
    return np.asarray(Image.fromarray(p).convert("L").convert("RGB"))


def red(p):
    return np.repeat(p[..., :1], 3, -1)


FORMS = {
    "a path": Form(saved("part.png")),
    "a path as text": Form(lambda f, p: str(saved("part.png")(f, p))),
    "a path in the home folder": Form(lambda f, p: f"~/{saved('part.png')(f, p).relative_to(f)}"),
    "a relative path": Form(lambda f, p: saved("part.png")(f, p).name),
    "a folder": Form(beside),
    "a folder with a slash": Form(lambda f, p: f"{beside(f, p)}/"),
    "a pattern": Form(lambda f, p: f"{beside(f, p)}/*.png"),
    "a pattern over folders": Form(lambda f, p: f"{beside(f, p).parent}/**/*.png"),
    "a name with spaces, umlauts and brackets": Form(saved("Prüfling [2] 螺丝/Bild 1 (neu).png")),
    "upper case": Form(saved("PART.PNG")),
    "a list of one": Form(lambda f, p: [saved("part.png")(f, p)]),
    "paths, arrays and pictures in a list": Form(lambda f, p: [saved("part.png")(f, p), p, Image.fromarray(p), torch.from_numpy(p)], count=4),
    "bmp": Form(saved("part.bmp")),
    "tif": Form(saved("part.tif")),
    "tif, compressed": Form(saved("part.tiff", compression="tiff_lzw")),
    "ppm": Form(saved("part.ppm")),
    "webp": Form(saved("part.webp", lossless=True)),
    "webp, lossy": Form(saved("part.webp", quality=90), 0.03),
    "jpg": Form(saved("part.jpg", quality=95), 0.03),
    "jfif": Form(saved("part.jfif", format="JPEG", quality=95), 0.03),
    "gif": Form(saved("part.gif"), 0.05),
    "CMYK": Form(saved("part.jpg", mode="CMYK", quality=95), 0.03),
    "CMYK in a tif": Form(saved("part.tif", mode="CMYK"), 0.01),
    "a palette": Form(saved("part.png", mode="P"), 0.15),
    "grey": Form(saved("part.png", mode="L"), seen=grey),
    "1 bit": Form(saved("part.png", mode="1"), seen=lambda p: np.asarray(Image.fromarray(p).convert("1").convert("RGB"))),
    "alpha": Form(saved("part.png", mode="RGBA")),
    "grey and alpha": Form(saved("part.png", mode="LA"), seen=grey),
    "turned by EXIF": Form(turned),
    "16 bits": Form(deep, 0.003, seen=red),
    "12 bits in 16": Form(lambda f, p: deep(f, p, 4095), 0.003, seen=red, camera=Camera(white=4095)),
    "a name that says another format": Form(lambda f, p: Path(saved("part.png", format="BMP")(f, p))),
    "an array": Form(lambda f, p: p),
    "floats from 0 to 1": Form(lambda f, p: p / 255, 1e-6),
    "float32 from 0 to 1": Form(lambda f, p: (p / 255).astype(np.float32), 1e-6),
    "floats from 0 to 255": Form(lambda f, p: p.astype(np.float32), 1e-6, camera=Camera(white=255)),
    "integers from 0 to 255": Form(lambda f, p: p.astype(np.int64), 0.003, camera=Camera(white=255)),
    "channels first": Form(lambda f, p: np.moveaxis(p, -1, 0)),
    "a tensor": Form(lambda f, p: torch.from_numpy(np.moveaxis(p / 255, -1, 0).copy()), 1e-6),
    "a batch": Form(lambda f, p: np.stack([p, p]), count=2),
    "a batch of tensors": Form(lambda f, p: torch.from_numpy(np.moveaxis(np.stack([p, p]), -1, 1).copy()), count=2),
    "a list of arrays": Form(lambda f, p: [p, p, p], count=3),
    "an array with alpha": Form(lambda f, p: transparent(p)),
    "an array of greys": Form(lambda f, p: p[..., 0], seen=red),
    "an array of greys (H, W, 1)": Form(lambda f, p: p[..., :1], seen=red),
    "an array of greys (1, H, W)": Form(lambda f, p: p[None, ..., 0], seen=red),
    "an array of 16 bits": Form(lambda f, p: p.astype(np.uint16) * 257),
    "an array that is not contiguous": Form(lambda f, p: np.asfortranarray(p)[::-1][::-1]),
    "an array that may not be written": Form(lambda f, p: np.frombuffer(p.tobytes(), np.uint8).reshape(p.shape)),
    "truths": Form(lambda f, p: p[..., 0] > 90, seen=lambda p: np.repeat((p[..., :1] > 90) * np.uint8(255), 3, -1)),
    "a picture": Form(lambda f, p: Image.fromarray(p)),
    "a picture in CMYK": Form(lambda f, p: Image.fromarray(p).convert("CMYK"), 0.01),
    "blue first": Form(lambda f, p: p[..., ::-1], camera=Camera(bgr=True)),
    "blue first, in files": Form(lambda f, p: saved("part.png")(f, p[..., ::-1]), camera=Camera(bgr=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_picture_in_every_form(name, fitted, picture, home, monkeypatch):
    form, (model, engine, run) = FORMS[name], fitted
    source, truth = form.make(home, picture), form.seen(picture)
    expected = engine.predict(model, truth).scores[0]
    monkeypatch.setattr(model, "camera", form.camera or Camera())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = predict_dataset(source, camera=form.camera)
        scores = engine.predict(model, source).scores
        door = Inferencer(run, camera=form.camera or Camera())
        answer = door(source)
    assert len(items) == form.count
    for item in items:
        difference = np.abs(item.image.numpy() - truth.transpose(2, 0, 1) / 255)
        assert difference.mean() <= form.apart + 1e-6
    assert scores == pytest.approx(answer.pred_score, rel=1e-4) and len(scores) == form.count
    assert scores == pytest.approx([expected] * form.count, rel=1e-4 if form.apart < 1e-4 else 0.5)
    assert answer.anomaly_map.shape[0] == form.count


def test_colours_that_are_swapped_are_never_guessed(fitted, picture):
    model, engine, run = fitted
    right, swapped = (engine.predict(model, p).scores[0] for p in (picture, picture[..., ::-1]))
    assert right != pytest.approx(swapped, rel=1e-3)


SIZES = {"12 MP": (3000, 4000), "one pixel": (1, 1), "a strip": (8, 700), "a column": (700, 8), "as trained": (48, 48)}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "array"])
def test_pictures_of_every_size(name, as_file, fitted, tmp_path):
    model, engine, run = fitted
    small = np.random.default_rng(0).integers(60, 190, (6, 8, 3), np.uint8)
    whole = np.asarray(Image.fromarray(small).resize(SIZES[name][::-1]))
    source = saved("part.png", compress_level=1)(tmp_path, whole) if as_file else whole
    said = engine.predict(model, source)
    assert np.isfinite(said.scores).all() and said.maps[0].shape == (SIZE, SIZE)
    answer = Inferencer(run)(source)
    assert answer.pred_score == pytest.approx(said.scores, rel=1e-4) and tuple(answer.info[0]["image_size"]) == SIZES[name]


# ---- what is no picture --------------------------------------------------------------------------


def written(name: str, content: bytes | str) -> Callable[[Path, np.ndarray], Path]:
    def make(folder, picture):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


def cut_off(folder, picture):
    path = saved("part.png")(folder, picture)
    path.write_bytes(path.read_bytes()[:300])
    return path


def holes(picture):
    return np.where(picture > 100, np.nan, picture / 255)


NO_PICTURES = {
    "a path that does not exist": (lambda f, p: f / "nowhere.png", FileNotFoundError, "no file, folder or image like .*nowhere.png|no image .*nowhere.png"),
    "a pattern of nothing": (lambda f, p: f"{f}/*.png", FileNotFoundError, r"\*\.png"),
    "an empty folder": (lambda f, p: (f / "empty").mkdir() or f / "empty", (FileNotFoundError, ValueError), "empty"),
    "an empty list": (lambda f, p: [], ValueError, "no images|no pictures|Expected"),
    "an empty file": (written("part.png", b""), ValueError, "part.png cannot be read as an image .*empty"),
    "text called png": (written("part.png", "hello"), ValueError, "part.png cannot be read as an image"),
    "a page of the web": (written("part.jpg", "<!DOCTYPE html><html>"), ValueError, "part.jpg cannot be read as an image"),
    "half a file": (cut_off, ValueError, "part.png cannot be read as an image"),
    "one broken file among good ones": (lambda f, p: [saved("good.png")(f, p), cut_off(f, p)], ValueError, "part.png cannot be read"),
    "floats from 0 to 255": (lambda f, p: p.astype(float), ValueError, "from 0.* to .*white"),
    "floats below 0": (lambda f, p: p / 255 - 0.5, ValueError, "from -0.* white|from -0"),
    "NaN": (lambda f, p: holes(p), ValueError, "nan"),
    "nine channels": (lambda f, p: np.repeat(p, 3, -1), ValueError, r"shape \(48, 64, 9\)"),
    "no pixels": (lambda f, p: p[:0], ValueError, r"shape \(0, 64, 3\)"),
    "None": (lambda f, p: None, (ValueError, TypeError), r"None|shape \(\)"),
    "a number": (lambda f, p: 7, (ValueError, TypeError), "int|shape|7"),
    "words": (lambda f, p: np.array(["a", "b"]), (FileNotFoundError, ValueError, TypeError), "str|shape|<U1|no file, folder or image like a"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_PICTURES)
@pytest.mark.parametrize("door", ["predict_dataset", "Engine.predict", "Inferencer"])
def test_what_is_no_picture_is_one_sentence(name, door, fitted, picture, home):
    make, kinds, said = NO_PICTURES[name]
    model, engine, run = fitted
    source = make(home, picture)
    doors = {"predict_dataset": lambda s: list(predict_dataset(s)), "Engine.predict": lambda s: engine.predict(model, s), "Inferencer": lambda s: Inferencer(run)(s)}
    with pytest.raises(kinds, match=said) as error:
        doors[door](source)
    assert len(str(error.value)) < 700 and "\n" not in str(error.value).strip()


# ---- data to fit on --------------------------------------------------------------------------------


def few(folder: Path, train: int = 3, good: int = 2, bad: int = 2) -> Path:
    for place, count in {"train/good": train, "test/good": good, "test/dent": bad}.items():
        for i in range(count):
            paint(folder / place / f"{i}.png", (48, 48))
    return folder


def mixed(folder: Path) -> Path:
    "Sizes, modes and formats as they come."
    for i, (name, mode) in enumerate((("a.png", "L"), ("b.jpg", "RGB"), ("c.tif", "RGBA"), ("d.webp", "RGB"), ("e.gif", "P"), ("f.bmp", "1"))):
        for place in ("train/good", "test/good", "test/bad"):
            paint(folder / place / name, (40 + 5 * i, 60 - 4 * i), mode)
    return folder


def table(folder: Path) -> Path:
    few(folder)
    rows = [{"image_path": str(path.relative_to(folder)), "label": {"good": "OK", "dent": "NOK"}[path.parent.name]} for path in sorted(folder.rglob("*.png"))]
    pd.DataFrame(rows).to_csv(folder / "list.csv", index=False, sep=";")
    return folder / "list.csv"


def beside_masks(folder: Path) -> Path:
    few(folder)
    for i in range(2):
        paint_mask(folder / f"test/dent/{i}_mask.png", (48, 48))
    return folder


def one_without_masks(folder: Path) -> Path:
    few(folder)
    for i in range(2):
        paint_mask(folder / f"ground_truth/dent/{i}_mask.png", (48, 48))
        paint(folder / f"test/stain/{i}.png", (48, 48))
    return folder


def litter(folder: Path) -> Path:
    few(folder)
    for place in ("train/good", "test/dent", "test"):
        paint(folder / place / ".ipynb_checkpoints/0-checkpoint.png", (48, 48))
        (folder / place / "Thumbs.db").write_bytes(b"no image")
    return folder


def read_only(folder: Path) -> Path:
    few(folder)
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


DATA = {
    "three training images": (lambda f: Folder(few(f)), 3),
    "one training image": (lambda f: Folder(few(f, train=1)), 1),
    "good images only": (lambda f: Folder(few(f, 4, 0, 0) / "train"), None),
    "no normal test images": (lambda f: Folder(few(f, 5, 0, 3)), 3),
    "a folder for each label": (lambda f: Folder(few(f, good=5) / "test"), None),
    "a folder, by its path": (lambda f: str(few(f)), 3),
    "a relative folder": (lambda f: Folder(os.path.relpath(few(f / "parts"))), 3),
    "a folder at home": (lambda f: Folder(f"~/{few(f / 'parts').name}"), 3),
    "spaces and umlauts": (lambda f: Folder(few(f / "Prüf linge [neu] 螺丝")), 3),
    "a heap and patterns": (lambda f: Folder(few(f), normal_dir="train/*/*.png", abnormal_dir="test/dent/*.png"), None),
    "all formats and sizes": (lambda f: Folder(mixed(f)), 6),
    "pass and fail": (lambda f: Folder(few(f) and [(f / "test/good").rename(f / "test/pass"), (f / "test/dent").rename(f / "test/fail")] and f), 3),
    "masks beside their images": (lambda f: Folder(beside_masks(f)), 3),
    "a defect without masks": (lambda f: Folder(one_without_masks(f)), 3),
    "what a desktop leaves": (lambda f: Folder(litter(f)), 3),
    "a folder that may not be written to": (lambda f: Folder(read_only(f / "parts")), 3),
    "a table of Excel": (lambda f: Tabular(table(f)), None),
    "drawn parts": (lambda f: DemoData("metal", train=4, test=6, size=48), 4),
}  # fmt: skip


@pytest.mark.parametrize("name", DATA)
def test_data_to_fit_on(name, home):
    make, train = DATA[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = make(home)
        model, engine = tiny(), quiet(home / "Ergebnisse ä [1]")
        engine.fit(model, data)
        if not isinstance(data, str):
            assert train is None or (data.table["split"] == "train").sum() == train
            metrics = engine.test(model, data) if data.table["label_index"].eq(1).any() else {}
            assert all(np.isfinite(value) for key, value in metrics.items() if key == "image_AUROC")
        said = engine.predict(model, np.full((48, 48, 3), 90, np.uint8))
    assert np.isfinite(said.scores).all() and engine.run.is_relative_to(home / "Ergebnisse ä [1]")


NO_DATA = {
    "a path that does not exist": (lambda f: Folder(f / "nowhere"), FileNotFoundError, "There is no folder .*nowhere"),
    "a file": (lambda f: Folder(paint(f / "part.png")), FileNotFoundError, "There is no folder .*part.png"),
    "an empty folder": (lambda f: Folder(f), ValueError, "no folders train and test, and none called good.*Folder\\(..., normal_dir"),
    "a folder too high": (lambda f: mvtec_like(f / "set/bottle") and Folder(f / "set"), ValueError, "Open one of its folders: bottle"),
    "a heap": (lambda f: paint(f / "1.png") and Folder(f), ValueError, "1 images in it are good parts, say so"),
    "only defective ones": (lambda f: Folder(few(f, 0, 0, 3), abnormal_dir="test/dent"), ValueError, "no normal image to train on"),
    "truth values as labels": (lambda f: Tabular({"image_path": [str(p) for p in sorted(few(f).rglob("*.png"))], "label": [True] * 7}), ValueError, "label holds numbers or truth values: True"),
    "a broken training image": (lambda f: written("train/good/7.png", "no image")(few(f), None) and Folder(f), ValueError, "7.png cannot be read as an image"),
    "a mask that does not fit": (lambda f: beside_masks(f) and paint_mask(f / "test/dent/1_mask.png", (20, 20)) and Folder(f), ValueError, "1_mask.png is 20 × 20 pixels, its image 48 × 48"),
    "no data at all": (lambda f: None, (ValueError, TypeError), "None|Expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_DATA)
def test_what_is_no_data_is_one_sentence(name, home):
    make, kinds, said = NO_DATA[name]
    with warnings.catch_warnings(), pytest.raises(kinds, match=said) as error:
        warnings.simplefilter("ignore")
        quiet(home / "results").fit(tiny(), make(home))
    assert len(str(error.value)) < 700


def test_results_where_nothing_may_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="Results cannot be written to .*default_root_dir"):
        quiet(tmp_path / "file/results").fit(tiny(), DemoData("tile", train=3, test=2, size=48))


def test_a_film_and_a_demo_folder_at_home(fitted, home):
    model, engine, run = fitted
    film(home / "line 1 ü.mp4", 4)
    write_demo_folder("~/tiles", "tile", train=2, test=4, size=48)
    assert len(engine.predict(model, "~/line 1 ü.mp4")) == 4 == len(Inferencer(run)("~/line 1 ü.mp4"))
    assert len(engine.predict(model, "~/tiles/test")) == 4 == len(Inferencer(run)("~/tiles/test/*/*.png"))
