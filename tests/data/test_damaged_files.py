"""Whatever happens to a picture, a depth map or a film: it is read, or one sentence names it, and it can be left out."""

import io
import itertools
import struct
import tracemalloc
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trees
from PIL import Image

from anomalib_nb.data import (
    Folder,
    MVTec3D,
    UnreadableImage,
    predict_dataset,
    read_depth,
    read_image,
    read_mask,
)
from anomalib_nb.data.images import Remembered, check_array, largest_of, named, read_header, stamp
from anomalib_nb.data.layouts import read_union

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 255, (24, 32, 3), np.uint8)
FIVE = np.dstack([NOISE] * 2)[..., :5]
Z = RNG.random((24, 32)).astype(np.float32)
XYZ = RNG.random((24, 32, 3)).astype(np.float32)
STEPS = (Z * 65535).astype(np.uint16)


def picture(kind: str, array: np.ndarray = NOISE, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def numbers(array: np.ndarray, photometric: str = "minisblack", **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric=photometric, **options)
    return file.getvalue()


def array_file(save, **arrays) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_colours() -> bytes:
    "A PNG of 16 bits in colour, which Pillow cannot write."
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([STEPS] * 3))
    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


ZIP = array_file(np.savez_compressed, a=XYZ)
WHOLE = {
    "z.npy": array_file(np.save, arr=Z), "xyz.npy": array_file(np.save, arr=XYZ), "archive.npy": ZIP, "archive.npz": ZIP,
    "plain.tif": picture("TIFF"), "lzw.tif": picture("TIFF", compression="tiff_lzw"), "packbits.tif": picture("TIFF", compression="packbits"),
    "deflate.tif": picture("TIFF", compression="tiff_adobe_deflate"), "jpeg.tif": picture("TIFF", compression="jpeg"),
    "z.tiff": numbers(Z), "xyz.tiff": numbers(XYZ, "rgb"), "deflated.tiff": numbers(XYZ, "rgb", compression="zlib"),
    "lzma.tiff": numbers(XYZ, "rgb", compression="lzma"), "steps.tif": numbers(STEPS), "deep.tif": numbers(np.dstack([STEPS] * 3), "rgb"),
    "five.tif": numbers(FIVE, planarconfig="contig"), "five_deflated.tif": numbers(FIVE, planarconfig="contig", compression="zlib"),
    "tiles.tif": numbers(FIVE, planarconfig="contig", tile=(16, 16)),
    "8.png": picture("PNG"), "16.png": picture("PNG", STEPS), "deep.png": deep_colours(), "jpeg.jpg": picture("JPEG"), "bmp.bmp": picture("BMP"),
    "webp.webp": picture("WEBP"), "lossless.webp": picture("WEBP", lossless=True), "gif.gif": picture("GIF"), "ppm.ppm": picture("PPM"),
    "jpeg.png": picture("JPEG"), "png.tif": picture("PNG"), "tiff.npy": numbers(Z), "array.tiff": array_file(np.save, arr=Z),
}  # fmt: skip
FIELDS = (b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\1\0")


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    "Cut, with flipped bits, with other bytes at its beginning or its end, another field, or with something put in."
    length, how = len(content), random.integers(0, 6)
    if how == 0:
        return content[: random.integers(0, length)]
    if how == 3:
        at = int(random.integers(0, min(length, 300)))
        return content[:at] + FIELDS[random.integers(0, len(FIELDS))] + content[at + 4 :]
    if how == 5:
        at = int(random.integers(0, length))
        return content[:at] + random.bytes(int(random.integers(1, 9))) + content[at + int(random.integers(0, 9)) :]
    other, near = bytearray(content), length if how == 1 else min(length, 300)
    for _ in range(random.integers(1, 6)):
        at = int(random.integers(0, near))
        other[length - 1 - at if how == 4 else at] ^= 1 << int(random.integers(0, 8))
    return bytes(other)


def readers(path: Path) -> dict:
    "All that may be asked to read a file."
    arrays = path.suffix in (".npy", ".npz")
    found = {} if arrays else {"image": read_image, "white": partial(read_image, white=4095), "mask": read_mask, "header": read_header}
    return found | ({"depth": read_depth} if path.suffix in (".tif", ".tiff", ".png", ".npy") else {})


def sentence(read, path: Path) -> str:
    "What reading comes to: nothing, or one line of ours that names the file once."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the decoder, before it gives up
        try:
            read(path)
        except Exception as error:  # noqa: BLE001 (the kind is what is tested)
            said = str(error)
            assert type(error) is UnreadableImage, repr(error)
            assert said.startswith(f"{path} cannot be read as a") and said.count(str(path)) == 1, said
            assert said.endswith("Copy it anew, or remove it.") and "\n" not in said, said
            return said
    return ""


def damage(folder: Path, count: int, seed: int) -> dict:
    "How many of so many mutations of each file were refused, by each reader."
    random, refused = np.random.default_rng(seed), {}
    for name, content in WHOLE.items():
        path = folder / name
        for number in range(count):
            path.write_bytes(mutated(content, random) if number else b"")
            for kind, read in readers(path).items():
                refused[kind] = refused.get(kind, 0) + bool(sentence(read, path))
            assert path.suffix[:3] == ".np" or largest_of(path) >= 0
    return refused


@pytest.mark.timeout(240)
def test_damaged_files_are_read_or_named(tmp_path):
    refused = damage(tmp_path, 12, seed=0)
    assert set(refused) == {"image", "white", "mask", "header", "depth"} and min(refused.values()) > 50, refused


@pytest.mark.slow
def test_many_damaged_files_are_read_or_named(tmp_path):
    for seed in range(1, 9):
        damage(tmp_path, 60, seed)


def test_undamaged_files_are_read_unless_they_are_something_else(tmp_path):
    for name, content in WHOLE.items():
        path = tmp_path / name
        path.write_bytes(content)
        said = {kind: sentence(read, path) for kind, read in readers(path).items()}
        colours = name in ("plain.tif", "lzw.tif", "packbits.tif", "deflate.tif", "jpeg.tif", "8.png", "deep.png", "jpeg.png", "png.tif")
        other = name in ("archive.npy", "tiff.npy", "array.tiff")
        many, floats = path.stem in ("five", "five_deflated", "tiles"), path.stem in ("xyz", "deflated", "lzma")
        assert bool(said.pop("depth", "")) == (colours or many or other), name
        assert bool(said.pop("mask", "")) == (many or floats or other) or path.suffix == ".npy", name
        assert bool(said.pop("image", "")) == other or path.suffix == ".npy", name
        assert said.pop("header", "") == "" or other and said.pop("white", "other"), name


# ---- what promises too much ---------------------------------------------------------------------
def with_tag(content: bytes, tag: int, value: int) -> bytes:
    "A little-endian TIFF with another value of a tag that holds one number."
    at = content.index(struct.pack("<H", tag), 8)
    return content[: at + 2] + struct.pack("<HII", 4, 1, value) + content[at + 12 :]


def array_of(shape: str, kind: str = "<f4", version: int = 1) -> bytes:
    "An array's file whose header promises a shape, and that holds nothing."
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(head)) + head


GIANTS = {
    "wide.npy": array_of("(1000000, 1000000)"), "deep.npy": array_of("(1000000, 4, 4, 1000000)"), "long.npy": array_of("(90000000000,)"),
    "texts.npy": array_of("(9, 9)", "<U900000000"), "third.npy": array_of("(80000, 80000, 3)", version=3), "less.npy": array_of("(9000, 9000, 3)"),
    "negative.npy": array_of("(-3, 5)"), "side.tiff": with_tag(with_tag(numbers(Z), 256, 2**20), 257, 2**20), "strip.tiff": with_tag(numbers(XYZ, "rgb", compression="zlib"), 279, 2**32 - 2),
    "channels.tif": with_tag(numbers(FIVE, planarconfig="contig"), 277, 2**31), "tile.tif": with_tag(with_tag(numbers(FIVE, planarconfig="contig", tile=(16, 16)), 322, 2**18), 323, 2**18),
    "text.tiff": numbers(Z).replace(b'"shape": [24, 32]', b'"shape": [9**9,9]'),
    "side.bmp": picture("BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + picture("BMP")[26:],
    "side.png": picture("PNG")[:16] + struct.pack(">II", 2**30, 2**30) + picture("PNG")[24:], "side.webp": picture("WEBP", lossless=True)[:21] + b"\xff" * 4 + picture("WEBP")[25:],
}  # fmt: skip


@pytest.mark.parametrize("name", GIANTS)
def test_a_giant_is_refused_before_there_is_room_for_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(GIANTS[name])
    for kind, read in readers(path).items():
        tracemalloc.start()
        said = sentence(read, path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20_000_000, (kind, peak)
        assert said or kind == "header" or name == "text.tiff", kind


def test_how_much_a_file_may_promise():
    check_array((9000, 9000, 3), np.float32), check_array((3, 9000, 9000), np.uint8), check_array((2, 2), object)
    for shape, kind in (((9000, 9000, 3), np.float64), ((1000, 9000, 9000), np.uint8), ((10_000, 10_000), np.uint8)):
        with pytest.raises(ValueError, match="promises|are more than"):
            check_array(shape, kind)


def test_an_error_within_an_error_is_said_once():
    for inner in (ZeroDivisionError("by\nzero"), KeyError(), MemoryError(), UnreadableImage("x cannot be read as an image (why).")):
        with pytest.raises(UnreadableImage) as caught, named("a.tif", "a depth file"), named("a.tif"):
            raise inner
        assert str(caught.value).count("a.tif") == 1 and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="There is no depth file a.tif. Check the path"), named("a.tif", "a depth file"):
        open("/nowhere/at/all")


# ---- data sets go on without them ---------------------------------------------------------------
def refused(folder: Path, count: int, kinds: tuple[str, ...], kind: str) -> list[Path]:
    "Files in a folder that a reader refuses, each for a reason of its own."
    random, said = np.random.default_rng(5), {}
    for number, (name, content) in itertools.product(range(40), WHOLE.items()):
        path = folder / f"{number}_{name}"
        if path.suffix not in kinds or len(said) == count:
            continue
        path.write_bytes(mutated(content, random))
        why = sentence(readers(path)[kind], path).partition("(")[2]
        if not why or (why[:30], path.suffix) in said:
            path.unlink()
        else:
            said[why[:30], path.suffix] = path
    return sorted(said.values())


def test_pictures_and_masks_are_left_out_and_listed(tmp_path):
    trees.mvtec_like(tmp_path)
    good = next((tmp_path / "train/good").iterdir())
    bad = refused(tmp_path / "train/good", 25, (".png", ".jpg", ".tif", ".bmp", ".webp"), "image")
    assert len(bad) > 15 and len({path.suffix for path in bad}) == 5
    mask = next(path for path in (tmp_path / "ground_truth").rglob("*.png"))
    mask.write_bytes(mask.read_bytes()[:-30])
    data = Folder(tmp_path, val_split_mode="none", on_error="skip")
    with pytest.warns(UserWarning, match=f"{len(bad)} of .* train images .* cannot be read"):
        read = [path for batch in data.train_dataloader() for path in batch.image_path]
    assert str(good) in read and not set(map(str, bad)) & set(read)
    with pytest.warns(UserWarning, match="1 of .* test images"):
        list(data.test_dataloader())
    lost = data.skipped
    assert set(lost["image_path"][lost["split"] == "train"]) == set(map(str, bad))
    assert all(path in why for path, why in zip(lost["image_path"][lost["split"] == "train"], lost["reason"]))
    assert str(mask) in lost["reason"][lost["split"] == "test"].item()
    with pytest.raises(UnreadableImage):
        list(Folder(tmp_path, val_split_mode="none").train_dataloader())
    with pytest.warns(UserWarning, match=f"{len(bad)} of {len(bad) + 1} images cannot be read"):
        assert len(predict_dataset([good, *bad], on_error="skip")) == 1


@pytest.mark.parametrize("name", ["deflated.tiff", "lzma.tiff", "archive.npy", "xyz.npy", "16.png"])
def test_scans_are_left_out_and_listed(tmp_path, name):
    trees.mvtec_3d(tmp_path)
    old = tmp_path / "bagel/train/good/xyz/001.tiff"
    new, content = old.with_suffix(Path(name).suffix), WHOLE[name]
    old.unlink()
    new.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImage, match="001.* cannot be read as a depth file"):
        list(MVTec3D(tmp_path).train_dataloader())
    data = MVTec3D(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match="1 of 4 train images"):
        assert len(data.dataset("train")) == 3
    assert str(new) in data.skipped["reason"].item()


@pytest.mark.timeout(120)
def test_damaged_films_are_read_or_named(tmp_path):
    pytest.importorskip("av")
    from anomalib_nb.data import read_frame, video_frames

    random, said = np.random.default_rng(0), []
    content = trees.film(tmp_path / "whole.avi").read_bytes()
    for number in range(60):
        path = tmp_path / f"{number}.avi"
        path.write_bytes(mutated(content, random) if number % 2 else content[: len(content) * number // 60])
        try:
            [frame.shape for frame in video_frames(path)]
        except Exception as error:  # noqa: BLE001 (the kind is what is tested)
            assert type(error) is UnreadableImage and str(error).startswith(str(path)) and "\n" not in str(error), repr(error)
            said.append(str(error))
    assert 5 < len(said) < 60
    with pytest.raises(UnreadableImage, match=r"whole\.avi#000099 cannot be read as a frame of a video \(the film has 8 frames\)"):
        read_frame(f"{tmp_path}/whole.avi#000099")


# ---- what has changed ---------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "masks/more").mkdir(parents=True)
    for name in ("1.png", "2.png", "more/3.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "masks" / name)
    return tmp_path / "masks"


def test_a_folder_of_masks_is_seen_to_change(folder):
    remembered = Remembered(read_union)
    remembered.cache.limit = 1e6
    assert remembered.at(str(folder)).values.sum() == 8
    seen = {stamp(str(folder))}
    for change in (
        lambda: Image.fromarray(np.ones((8, 8), np.uint8)).save(folder / "1.png"),  # written over, in place
        lambda: (folder / "more/3.png").write_bytes((folder / "1.png").read_bytes()),
        lambda: (folder / "2.png").unlink(),
        lambda: (folder / "1.png").rename(folder / "4.png"),
        lambda: (folder / "more/5.png").symlink_to(folder / "4.png"),
    ):
        change()
        assert stamp(str(folder)) not in seen
        seen.add(stamp(str(folder)))
        assert remembered.at(str(folder)).values.sum() == 64
    assert stamp(str(folder)) == stamp(str(folder)) and remembered.bytes > 0


def test_a_stamp_follows_no_circle_and_never_fails(folder):
    (folder / "round").symlink_to(folder)
    (folder / "gone.png").symlink_to(folder / "nowhere")
    assert stamp(str(folder))[0] > 100 and len(stamp(str(folder))) == 3 * 5
    assert stamp("a\0b") == stamp(str(folder / "none")) == stamp("image_0001") == ()
    (folder / "film.avi").write_bytes(bytes(9))
    assert stamp(f"{folder}/film.avi#000003")[0] == 9 and len(stamp(f"{folder}/film.avi")) == 3
