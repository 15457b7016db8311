"""What a camera says is what a model sees: white, the order of channels, and frames that are none."""

import struct
import sys
import warnings
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from anomalib_nb.core.settings import DataSettings
from anomalib_nb.data import Folder, get_datamodule, predict_dataset
from anomalib_nb.data.datamodule import loader, takes_camera
from anomalib_nb.data.images import (
    Remembered,
    from_array,
    identity,
    open_cache,
    read_image,
    to_tensor,
)
from anomalib_nb.data.video import read_frame
from anomalib_nb.processing.camera import Camera

sys.path.append(str(Path(__file__).parents[1] / "data"))
from trees import TREES  # noqa: E402

TWELVE = Camera(white=4095)


def levels(seed: int = 0, shape=(24, 32), channels: int = 0) -> np.ndarray:
    "Numbers of a camera with 12 bits."
    rng = np.random.default_rng(seed)
    return rng.integers(200, 3900, (*shape, *[channels] * bool(channels))).astype(np.uint16)


def seen(values: np.ndarray, white: float = 4095) -> np.ndarray:
    "What a model should see of them, as bytes."
    return (values * (255 / white)).round().astype(np.uint8)


def write_png16(path: Path, array: np.ndarray) -> Path:
    "A PNG with 16 bits of each colour, which Pillow cannot write."

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def twelve_bit_folder(root: Path, count: int = 6) -> Path:
    for split in ("train", "test"):
        (root / split / "good").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(levels(i)).save(root / split / "good" / f"{i}.png")
    return root


def quietly(make, *arguments, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*arguments, **more)


# ---- every way into the house sees the same


def ways_in(tmp_path: Path) -> dict:
    "The same numbers as files, arrays, tensors and a film."
    grey = levels()
    colour = np.repeat(grey[..., None], 3, -1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    tifffile.imwrite(tmp_path / "colour.tif", colour, photometric="rgb")
    write_png16(tmp_path / "colour.png", colour)
    with av.open(str(tmp_path / "film.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "gray16le"
        film.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray16le")))
        film.mux(stream.encode())
    files = {
        name: tmp_path / name
        for name in ("grey.png", "grey.tif", "colour.tif", "colour.png", "film.mkv")
    }
    arrays = {
        "uint16": grey,
        "int64": grey.astype(np.int64),
        "floats": grey.astype(float),
        "channels first": colour.transpose(2, 0, 1),
        "tensor": torch.from_numpy(colour.transpose(2, 0, 1).astype(np.int32)),
        "PIL": Image.fromarray(grey),
    }
    return files | arrays


def test_whatever_comes_in_is_seen_alike(tmp_path):
    for name, source in ways_in(tmp_path).items():
        image = predict_dataset(source, camera=TWELVE)[0].image
        assert np.abs(image.numpy() * 255 - seen(levels())).max() <= 0.5, name
        path = f"{source}#000000" if name == "film.mkv" else source
        one = (read_frame if isinstance(source, Path) else from_array)(path, white=4095)
        assert np.abs(to_tensor(one).numpy() * 255 - seen(levels())).max() <= 0.5, name


def test_bgr_turns_colours_whatever_they_come_in(tmp_path):
    red = np.zeros((24, 32, 3), np.uint8)
    red[..., 0], red[4:9, :, 1] = 200, 60
    Image.fromarray(red).save(tmp_path / "red.png")
    tifffile.imwrite(tmp_path / "red.tif", red.astype(np.uint16) * 257, photometric="rgb")
    write_png16(tmp_path / "deep.png", red.astype(np.uint16) * 257)
    files = [tmp_path / name for name in ("red.png", "red.tif", "deep.png")]
    arrays = [red, torch.from_numpy(red.transpose(2, 0, 1)), Image.fromarray(red), red / 255.0]
    for source in [*files, *arrays]:
        for white in (None, 65535):
            plain, turned = (
                predict_dataset(source, camera=Camera(white, bgr))[0].image for bgr in (False, True)
            )
            assert torch.equal(plain.flip(0), turned)
            assert (plain[0] - 200 / 255).abs().max() < 0.005


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_source_takes_both(name, tmp_path):
    arguments = TREES[name](tmp_path) or {"root": tmp_path}
    plain = get_datamodule(name, **arguments)
    turned = get_datamodule(name, **arguments, white=4095, bgr=True)
    assert turned.camera == Camera(4095, True) and plain.camera == Camera()
    path = plain.table["image_path"][0]
    assert np.array_equal(plain.images(path)[..., ::-1], turned.images(path))
    item, back = plain.dataset("train")[0], turned.dataset("train")[0]
    assert torch.equal(item.image.flip(-3), back.image)
    assert str(turned.camera) in turned.facts() and "white" not in plain.facts()


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_source_of_files_reads_twelve_bits(name, tmp_path):
    arguments = TREES[name](tmp_path) or {"root": tmp_path}
    data = quietly(get_datamodule, name, **arguments, white=4095)
    paths = [Path(path) for path in data.table["image_path"]]
    files = [path for path in paths if path.is_file()]
    for i, path in enumerate(files):
        with Image.open(path) as image:
            shape = image.height, image.width
        kind = (
            "TIFF" if path.suffix.lower() in (".tif", ".tiff") else "PNG"
        )  # others may say what they like
        Image.fromarray(levels(i, shape)).save(path, kind)
    assert takes_camera(data.read_image) or not files
    for i in range(0, len(files), 5):
        expected = seen(levels(i, data.images(str(files[i])).shape[:2]))
        assert np.array_equal(data.images(str(files[i]))[..., 0], expected), name


# ---- the guess


def test_white_is_guessed_once_and_said(tmp_path):
    data = Folder(twelve_bit_folder(tmp_path), val_split_mode="none")
    with pytest.warns(UserWarning, match=r"4095 is taken for white.*white=65535"):
        image = data.dataset("train")[0].image
    assert data.camera == TWELVE and "white is 4095" in data.facts()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        data.dataset("test")[0], data.facts(), repr(data)
    assert image.max() > 0.9


def test_a_dark_image_gets_no_white_of_its_own(tmp_path):
    root = twelve_bit_folder(tmp_path)
    dark = np.full((24, 32), 300, np.uint16)
    dark[3:9] = 900
    Image.fromarray(dark).save(root / "test/good/0.png")
    data = quietly(Folder, root, val_split_mode="none")
    item = quietly(data.dataset, "test")[0]
    assert item.image.max() == pytest.approx(900 / 4095, abs=0.005)


def test_the_guess_can_be_overruled_and_bytes_are_not_guessed(tmp_path):
    root = twelve_bit_folder(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        dark = Folder(root, val_split_mode="none", white=65535)
        assert dark.dataset("train")[0].image.max() < 0.07
        bright = Folder(write_bright(tmp_path / "bright"), val_split_mode="none")
        assert bright.camera == Camera()


def write_bright(root: Path) -> Path:
    (root / "train/good").mkdir(parents=True)
    (root / "test/good").mkdir(parents=True)
    for i in range(4):
        Image.fromarray((levels(i) * 16).astype(np.uint16)).save(root / f"train/good/{i}.tif")
        Image.fromarray(seen(levels(i))).save(root / f"test/good/{i}.png")
    return root


def test_beyond_a_guess_is_an_error_that_says_what_to_do(tmp_path):
    root = twelve_bit_folder(tmp_path)
    Image.fromarray(np.full((24, 32), 5000, np.uint16)).save(root / "test/good/0.png")
    data = quietly(Folder, root, val_split_mode="none")
    with pytest.raises(ValueError, match=r"test/good/0.png.*white is 4095.*white=…"):
        quietly(data.dataset, "test")[0]


def test_a_class_that_has_said_it_is_believed(tmp_path):
    from functools import partial

    class Mine(Folder):
        read_image = staticmethod(partial(read_image, white=4000, bgr=True))

    root = twelve_bit_folder(tmp_path)
    assert Mine(root).camera == Camera(4000, True)
    assert Mine(root, white=4095).camera == Camera(4095, True)


def test_a_reader_of_ones_own_may_give_what_its_camera_gives(tmp_path):
    class Driver(Folder):
        read_image = staticmethod(lambda path: levels(3))  # (H, W), 12 bits

    root = twelve_bit_folder(tmp_path)
    item = Driver(root, val_split_mode="none", white=4095).dataset("train")[0]
    assert item.image.shape == (3, 24, 32)
    assert np.abs(item.image[0].numpy() * 255 - seen(levels(3))).max() <= 0.5


def test_a_camera_can_be_set_by_whoever_knows_it(tmp_path):
    data = quietly(Folder, twelve_bit_folder(tmp_path), val_split_mode="none")
    before = quietly(data.dataset, "train")[0].image
    data.camera = Camera(white=8190)
    after = data.dataset("train")[0].image
    assert after.max() == pytest.approx(float(before.max()) / 2, abs=0.005)


# ---- what is remembered


def test_what_is_remembered_on_disk_belongs_to_its_camera(tmp_path, monkeypatch):
    settings = DataSettings(cache_mb=9, cache_on_disk=True, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(
        "anomalib_nb.data.datamodule.get_settings", lambda: type("S", (), {"data": settings})()
    )
    root = twelve_bit_folder(tmp_path / "set")
    pictures = {}
    for white in (4095, 8190, 4095):
        data = Folder(root, val_split_mode="none", white=white)
        image = data.dataset("train")[0].image
        assert torch.equal(pictures.setdefault(white, image), image)
    assert not torch.equal(pictures[4095], pictures[8190])
    assert len({identity(data.images.read), identity(Folder(root, bgr=True, white=9).images.read)}) == 2  # fmt: skip


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_is_odd_is_found_once_and_remembered(tmp_path, monkeypatch, on_disk):
    Image.new("RGB", (30, 20)).save(tmp_path / "black.png")
    cache = open_cache(DataSettings(cache_mb=9, cache_on_disk=on_disk, cache_dir=str(tmp_path)))
    calls = []
    monkeypatch.setattr(
        "anomalib_nb.data.images.odd_frame", lambda values: calls.append(1) or "black"
    )
    reader = Remembered(read_image, cache)
    frames = [reader.at(str(tmp_path / "black.png"), (8, 8)).frame for _ in range(3)]
    assert frames == ["black"] * 3 and len(calls) == 1


# ---- frames that are none

NOISE = np.random.default_rng(0)
FRAMES = {
    "black": NOISE.integers(0, 4, (40, 60, 3), np.uint8),
    "dark": NOISE.integers(0, 16, (40, 60, 3), np.uint8),
    "saturated": NOISE.integers(251, 256, (40, 60, 3)).astype(np.uint8),
    "constant": np.full((40, 60, 3), (0, 0, 255), np.uint8),
    "": NOISE.integers(0, 256, (40, 60, 3)).astype(np.uint8),
}


def test_no_odd_frame_passes_in_silence(tmp_path):
    for i, (name, frame) in enumerate(FRAMES.items()):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    sources = [tmp_path / f"{i}.png" for i in range(5)], list(FRAMES.values())
    floats = [torch.from_numpy(f.transpose(2, 0, 1)) / 255 for f in FRAMES.values()]
    for source in (*sources, floats):
        (batch,) = loader(predict_dataset(source, size=(16, 16)))
        assert [info.get("frame", "") for info in batch.info] == list(FRAMES)


def test_an_odd_frame_of_a_clip_is_the_clips(tmp_path):
    from trees import video_folder

    arguments = video_folder(tmp_path)
    data = get_datamodule("VideoFolder", **arguments)
    clips = data.dataset("train")
    frames = clips.frames.table["image_path"].iloc[clips.rows[0]].tolist()
    kept, black = clips.frames.read_image, np.zeros((32, 32, 3), np.uint8)
    clips.frames.read_image = Remembered(lambda path: black if path == frames[0] else kept(path))
    assert clips[0].info["frame"] == "black" and "frame" not in clips[len(clips) - 1].info


# ---- arrays that are no images are refused in words


@pytest.mark.parametrize(
    "array",
    [np.full((9, 9), 300.0), np.full((9, 9), 7), np.full((9, 9, 5), 7, np.uint8),
     np.full((9, 9), -1.0), np.full((9, 9), np.nan), np.zeros((0, 9, 3), np.uint8),
     np.full((9, 9), 1j)],
)  # fmt: skip
def test_what_has_no_white_is_refused(array):
    with pytest.raises(ValueError, match="Expected"):
        predict_dataset(array)


@pytest.mark.parametrize("values", [np.full((9, 9), 51.0), np.full((9, 9), 51)])
def test_floats_and_integers_up_to_255_are_read_once_white_is_said(values):
    with pytest.raises(ValueError, match="white=255"):
        predict_dataset(values)
    assert predict_dataset(values, camera=Camera(255))[0].image.unique().tolist() == [
        pytest.approx(0.2)
    ]


def test_floats_from_0_to_1_and_bytes_stay_what_they_are():
    floats, bytes_ = NOISE.random((9, 9, 3)).astype(np.float32), FRAMES[""]
    for camera in (Camera(), TWELVE):
        assert np.array_equal(from_array(floats, **camera.told()), floats)
        assert np.array_equal(from_array(bytes_, **camera.told()), bytes_)


def test_colours_under_transparent_pixels_stay_in_files_and_arrays(tmp_path):
    layer = np.dstack([FRAMES[""], np.zeros((40, 60), np.uint8)])
    Image.fromarray(layer).save(tmp_path / "clear.png")
    for source in (tmp_path / "clear.png", layer, Image.fromarray(layer), layer.transpose(2, 0, 1)):
        image = predict_dataset(source)[0].image
        assert np.array_equal((image * 255).round().numpy(), FRAMES[""].transpose(2, 0, 1))


def test_turned_colour_of_16_bits_is_upright_with_and_without_white(tmp_path):
    colour = levels(0, channels=3)
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb", extratags=[(274, 3, 1, 6)])
    assert read_image(tmp_path / "a.tif").shape == (32, 24, 3)
    assert np.array_equal(read_image(tmp_path / "a.tif", white=4095), np.rot90(seen(colour), -1))
