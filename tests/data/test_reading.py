"""Every file that can be an image becomes the same thing; every broken one is one error."""

import io
import os
import struct
import warnings
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from anomalib_nb.core.settings import DataSettings
from anomalib_nb.data import (
    AnomalibDataModule,
    DiskCache,
    Folder,
    MemoryCache,
    Remembered,
    UnreadableImage,
    identity,
    image_paths,
    list_images,
    open_cache,
    planes,
    read_image,
    read_mask,
    to_tensor,
    write_demo_folder,
)
from anomalib_nb.layers import resize

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def encoded(kind: str, array: np.ndarray = NOISE, **options) -> bytes:
    "A picture as the content of a file."
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def flipped(content: bytes, at: float) -> bytes:
    "One byte changed, at a share of the length."
    i = int(len(content) * at)
    return content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :]


def chunk(kind: bytes, body: bytes) -> bytes:
    "A part of a PNG, with its checksum."
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width: int, height: int, colour: int = 2, depth: int = 8) -> bytes:
    "A PNG whose header promises a size, and whose pixels are a few zeros."
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bands(array: np.ndarray, **options) -> bytes:
    "A TIFF with many channels, (H, W, C)."
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", planarconfig="contig", **options)
    return file.getvalue()


def with_tag(content: bytes, tag: int, value: int) -> bytes:
    "A little-endian TIFF with another value of a tag that holds one number."
    at = content.index(struct.pack("<H", tag), 8)
    return content[: at + 8] + struct.pack("<I", value) + content[at + 12 :]


def zeros_of(megapixels: int) -> bytes:
    "A small PNG that unfolds to many pixels."
    pack = zlib.compressobj(9)
    row = bytes(1 + 10_000)
    body = b"".join(pack.compress(row) for _ in range(100 * megapixels)) + pack.flush()
    head = struct.pack(">IIBBBBB", 10_000, 100 * megapixels, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


PNG, JPG, TIF, FIVE = (
    encoded("PNG"),
    encoded("JPEG"),
    encoded("TIFF"),
    np.dstack([NOISE] * 2)[..., :5],
)
FLOATS = NOISE[..., 0].astype(np.float32)
BROKEN = {
    "empty.png": b"",
    "empty.tif": b"",
    "one_byte.jpg": b"\xff",
    "zeros.png": bytes(5000),
    "text.png": "kein Bild".encode("utf-16"),
    "page.jpg": b"<!doctype html><title>404</title>",
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "vectors.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "cut.png": PNG[: len(PNG) // 2],
    "head_only.png": PNG[:33],
    "flipped.png": flipped(PNG, 0.5),
    "flipped_stored.png": flipped(encoded("PNG", compress_level=0), 0.5),
    "flipped_head.png": flipped(PNG, 18 / len(PNG)),
    "lies_about_length.png": PNG[:33] + b"\0\0\0\x40" + PNG[37:],
    "no_pixels.png": png_of(0, 40),
    "too_few_pixels.png": png_of(40, 40),
    "strange_depth.png": png_of(40, 40, depth=3),
    "bomb.png": png_of(60_000, 60_000),
    "bomb_that_unfolds.png": zeros_of(95),
    "cut.jpg": JPG[: len(JPG) // 2],
    "no_tables.jpg": JPG[:2] + JPG[-300:],
    "cut.bmp": encoded("BMP")[:2000],
    "huge.bmp": encoded("BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + encoded("BMP")[26:],
    "cut.webp": encoded("WEBP")[:200],
    "cut.tif": TIF[: len(TIF) // 2],
    "lost_directory.tif": TIF[:4] + b"\xff\xff\xff\x7f" + TIF[8:],
    "cut_bands.tif": bands(FIVE)[:9000],
    "cut_packed_bands.tif": bands(FIVE, compression="zlib")[:-300],
    "huge_bands.tif": with_tag(with_tag(bands(FIVE), 256, 2**20), 257, 2**20),
    "unknown_packing.tif": with_tag(bands(FIVE), 259, 34925 + 7),
    "floats_without_a_white.tif": encoded("TIFF", FLOATS),
    "not_a_number.tif": encoded("TIFF", FLOATS * np.nan),
    "wide_bands.tif": bands(FIVE.astype(np.float32)),
    "cut.pgm": encoded("PPM")[:900],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    return folder


def test_there_are_thirty_of_them():
    assert len(BROKEN) >= 30


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_readable_error(corpus, name):
    with warnings.catch_warnings(), pytest.raises(UnreadableImage) as caught:
        warnings.simplefilter("ignore")  # of the decoder, before it gives up
        read_image(corpus / name)
    message = str(caught.value)
    assert message.startswith(f"{corpus / name} cannot be read as an image (")
    assert message.endswith("Copy it anew, or remove it.") and message.count("\n") == 0
    assert len(message) < 400 + len(str(corpus))


@pytest.mark.parametrize("name", [name for name in BROKEN if not name.endswith("bands.tif")])
def test_a_broken_mask_is_the_same_error(corpus, name):
    if name in ("floats_without_a_white.tif", "not_a_number.tif"):
        assert read_mask(corpus / name).shape == (40, 60)  # a mask asks only what is zero
        return
    with warnings.catch_warnings(), pytest.raises(UnreadableImage, match=name.replace(".", r"\.")):
        warnings.simplefilter("ignore")
        read_mask(corpus / name)


def test_a_bomb_is_refused_before_it_unfolds(corpus):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("bomb.png", "bomb_that_unfolds.png", "huge_bands.tif", "huge.bmp"):
        with warnings.catch_warnings(), pytest.raises(UnreadableImage):
            warnings.simplefilter("ignore")
            read_image(corpus / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("pipe.png", "folder.png", "loop.png"):
        with pytest.raises(UnreadableImage, match=name):
            read_image(tmp_path / name)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"There is no image .*gone\.png"):
        read_image(tmp_path / "gone.png")


def test_a_run_can_go_without_broken_files(corpus, tmp_path):
    (tmp_path / "good").mkdir()
    for i in range(4):
        (tmp_path / f"good/{i}.png").write_bytes(PNG)
    for name, content in BROKEN.items():
        if "unfolds" not in name:
            (tmp_path / "good" / name).write_bytes(content)
    broken = len(BROKEN) - 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UnreadableImage):
            list(Folder(tmp_path, normal_dir="good", val_split_mode="none").train_dataloader())
        data = Folder(
            tmp_path,
            normal_dir="good",
            val_split_mode="none",
            test_split_mode="none",
            on_error="skip",
        )
        batches = list(data.train_dataloader())
    assert sum(len(batch) for batch in batches) == 4
    listed = data.left_out["train"]
    assert len(listed) == broken
    assert all(path in reason for path, reason in zip(listed["image_path"], listed["reason"]))


WAYS = {
    "grey.png": ("L", {}), "grey.jpg": ("L", {"quality": 100}), "one_bit.png": ("1", {}),
    "one_bit.tif": ("1", {"compression": "group4"}), "palette.png": ("P", {}), "palette.bmp": ("P", {}),
    "with_alpha.png": ("LA", {}), "with_alpha.webp": ("RGBA", {"lossless": True}),
    "colour_with_alpha.tif": ("RGBA", {}), "print.tif": ("CMYK", {}), "print.jpg": ("CMYK", {"quality": 100}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}), "colour.bmp": ("RGB", {}), "colour.ppm": ("RGB", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_same_picture_in_every_format(tmp_path, name):
    black_and_white = np.zeros((32, 48), np.uint8)
    black_and_white[8:24, 8:24] = 255
    mode, options = WAYS[name]
    Image.fromarray(black_and_white).convert("RGB").convert(mode).save(tmp_path / name, **options)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8 and image.shape == (32, 48, 3)
    lossy = 3 if name.endswith("jpg") else 0
    assert np.abs(image - black_and_white[..., None].astype(int)).max() <= lossy


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_way_to_hold_a_camera(tmp_path, kind, orientation):
    smooth = np.zeros((32, 48), np.uint8)
    smooth[:16, :24] = 250
    back = {1: smooth, 2: smooth[:, ::-1], 3: smooth[::-1, ::-1], 4: smooth[::-1], 5: smooth.T,
            6: np.rot90(smooth), 7: smooth[::-1, ::-1].T, 8: np.rot90(smooth, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "x"
    path.write_bytes(encoded(kind, np.ascontiguousarray(back[orientation]), exif=exif))
    image = read_image(path)
    assert image.shape == (32, 48, 3)
    assert image[4, 4, 0] > 240 and image[4, 40, 0] < 15 and image[28, 4, 0] < 15


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype, full", [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
@pytest.mark.parametrize("channels", [2, 3, 5, 9])
def test_many_channels(tmp_path, channels, dtype, full, planar):
    shares = np.linspace(0, 1, channels)
    array = np.broadcast_to(shares, (20, 30, channels)) * full
    array = array.round().astype(dtype) if full > 1 else array.astype(dtype)
    if planar == "separate":
        array = array.transpose(2, 0, 1)
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig=planar)
    expected = (shares * 255).round() if channels > 2 else [0]
    picked = (0, 1, 2) if channels > 2 else (0, 0, 0)
    np.testing.assert_allclose(read_image(path)[5, 5], [expected[i] for i in picked], atol=1)
    if channels > 2:
        backwards = tuple(range(channels))[: -4 if channels > 4 else None : -1][:3]
        image = read_image(path, bands=backwards)
        np.testing.assert_allclose(image[5, 5], [expected[i] for i in backwards], atol=1)
    with (
        pytest.raises(UnreadableImage, match="bands is")
        if channels > 2
        else warnings.catch_warnings()
    ):
        read_image(path, bands=(0, 1, channels))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "colour.tif", "bands.tif"])
def test_a_camera_of_12_bits(tmp_path, name):
    values = np.linspace(0, 4095, 600).round().astype(np.uint16).reshape(20, 30)
    channels = {"colour": 3, "bands": 5}.get(name.split(".")[0], 1)
    array = values if channels == 1 else np.dstack([values] * channels)
    if name.endswith("png"):
        Image.fromarray(values).save(tmp_path / name)
    else:
        tifffile.imwrite(
            tmp_path / name, array, photometric="rgb" if channels == 3 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
        )  # fmt: skip
    image = read_image(tmp_path / name, white=4095)
    assert np.abs(image[..., 0] - values / 4095 * 255).max() <= 0.51
    assert read_image(tmp_path / name).max() in (15, 16)  # of 16 bits it would be nearly black
    with pytest.raises(UnreadableImage, match="white is 1023"):
        read_image(tmp_path / name, white=1023)


def test_links_are_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/1.png").write_bytes(PNG)
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "far")
    (tmp_path / "here/self").symlink_to(tmp_path / "here")
    (tmp_path / "here/gone.png").symlink_to(tmp_path / "nothing.png")
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path / "here")]
    assert found == ["here/gone.png", "here/link/1.png"]
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        list(image_paths(tmp_path / "nowhere"))


# What is remembered


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    return MemoryCache(9) if request.param == "memory" else DiskCache(tmp_path / "cache", 9)


@pytest.fixture
def photo(tmp_path) -> str:
    (tmp_path / "photo.png").write_bytes(PNG)
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize("size", [None, (40, 60), (24, 20), (64, 80)])
def test_what_is_remembered_is_what_was_read(cache, photo, size):
    remembered = Remembered(read_image, cache)
    first, second = remembered.at(photo, size), remembered.at(photo, size)
    plain = to_tensor(read_image(photo))
    expected = resize(plain[None], size)[0] if size else plain
    for picture in (first, second):
        assert picture.shape == (40, 60)
        assert torch.equal(to_tensor(picture.values.transpose(1, 2, 0)), expected)
    assert first.values.dtype == (np.float32 if size in ((24, 20), (64, 80)) else np.uint8)


def test_the_second_time_reads_nothing(cache, photo):
    remembered = Remembered(read_image, cache)
    first = remembered.at(photo, (8, 8))
    remembered.read = None  # calling it would raise
    assert np.array_equal(remembered.at(photo, (8, 8)).values, first.values)


def test_a_changed_file_is_read_anew(cache, photo):
    remembered = Remembered(read_image, cache)
    remembered(photo)
    before = os.stat(photo)
    Path(photo).write_bytes(encoded("PNG", 255 - NOISE))
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` would leave it
    assert np.array_equal(remembered(photo), 255 - NOISE)


def test_sizes_and_readers_do_not_mix(cache, photo):
    remembered = Remembered(read_image, cache)
    mirrored = Remembered(partial(read_image, bands=(2, 1, 0)), cache)
    mask = Remembered(read_mask, cache)
    shapes = [remembered.at(photo, size).values.shape[1:] for size in (None, (8, 9), (9, 8))]
    assert shapes == [(40, 60), (8, 9), (9, 8)]
    mirrored(photo)
    assert mask(photo).dtype == bool and remembered(photo).dtype == np.uint8


def test_what_is_remembered_cannot_be_changed_by_accident(cache, photo):
    remembered = Remembered(read_image, cache)
    with pytest.raises(ValueError, match="read-only"):
        remembered(photo)[:] = 0
    assert np.array_equal(remembered(photo), NOISE)


def test_items_own_their_memory(tmp_path):
    wood = write_demo_folder(tmp_path / "wood", "wood", train=2, test=6, size=32)
    data = Folder(wood, val_split_mode="none")
    for size in (None, (16, 16)):
        data.size = size
        whole = data.dataset("test")
        kept = [(item.image.clone(), item.gt_mask.clone()) for item in whole]
        for item in whole:
            item.image.zero_(), item.gt_mask.fill_(True)
        for batch in data.test_dataloader():
            batch.image.zero_(), batch.gt_mask.fill_(True)
        for item, (image, mask) in zip(whole, kept):
            assert torch.equal(item.image, image) and torch.equal(item.gt_mask, mask)


@pytest.mark.parametrize(
    "make", [lambda mb, folder: MemoryCache(mb), lambda mb, folder: DiskCache(folder, mb)]
)
def test_a_cache_stays_below_its_limit(tmp_path, make):
    cache = make(0.1, tmp_path / "cache")
    remembered = Remembered(read_image, cache)
    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(PNG)
        assert np.array_equal(remembered(str(tmp_path / f"{i}.png")), NOISE)
    files = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    kept = files or cache.used
    assert 0 < kept <= 100_000


def test_old_pictures_make_room(tmp_path):
    folder = tmp_path / "cache"
    old = DiskCache(folder, 1)
    remembered = Remembered(read_image, old)
    for i in range(140):
        (tmp_path / f"{i}.png").write_bytes(PNG)
        remembered(str(tmp_path / f"{i}.png"))
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    (tmp_path / "new.png").write_bytes(PNG)
    later = DiskCache(folder, 1)
    Remembered(read_image, later)(str(tmp_path / "new.png"))
    again = Remembered(read_image, later)
    again.read = None
    assert np.array_equal(again(str(tmp_path / "new.png")), NOISE)


def test_another_session_finds_what_is_on_disk(photo, tmp_path):
    Remembered(read_image, DiskCache(tmp_path / "cache", 9))(photo)
    later = Remembered(read_image, DiskCache(tmp_path / "cache", 9))
    later.read = None
    assert np.array_equal(later(photo), NOISE)


def test_a_reader_of_ones_own_is_not_found_again(photo, tmp_path):
    mine = lambda path: read_image(path) // 2  # noqa: E731
    assert identity(mine) != identity(mine) and identity(read_image) == identity(read_image)
    assert identity(partial(read_image, white=1)) != identity(partial(read_image, white=2))
    Remembered(mine, DiskCache(tmp_path / "cache", 9))(photo)
    later = Remembered(lambda path: read_image(path) // 3, DiskCache(tmp_path / "cache", 9))
    assert np.array_equal(later(photo), NOISE // 3)


@pytest.mark.parametrize("damage", [b"", b"{}", bytes(400), None])
def test_a_damaged_file_of_the_cache_is_a_miss(photo, tmp_path, damage):
    Remembered(read_image, DiskCache(tmp_path / "cache", 9))(photo)
    (place,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    place.write_bytes(place.read_bytes()[:-9] + bytes(9) if damage is None else damage)
    assert np.array_equal(Remembered(read_image, DiskCache(tmp_path / "cache", 9))(photo), NOISE)


def test_ctrl_c_leaves_no_half_file(photo, tmp_path, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalib_nb.data.images.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Remembered(read_image, DiskCache(tmp_path / "cache", 9))(photo)
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert np.array_equal(Remembered(read_image, DiskCache(tmp_path / "cache", 9))(photo), NOISE)


def test_a_full_disk_does_not_end_a_run(photo, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anomalib_nb.data.images.os.replace", full)
    with pytest.warns(UserWarning, match="keeps no more pictures.*No space left"):
        assert np.array_equal(
            Remembered(read_image, DiskCache(tmp_path / "cache", 9))(photo), NOISE
        )


@pytest.mark.parametrize("on_disk", ["no", "yes"])
def test_processes_that_read_ahead(tmp_path, monkeypatch, on_disk):
    monkeypatch.setenv("ANOMALIB_NB__DATA__CACHE_ON_DISK", on_disk)
    monkeypatch.setenv("ANOMALIB_NB__DATA__CACHE_DIR", str(tmp_path / "cache"))
    wood = write_demo_folder(tmp_path / "wood", "wood", train=2, test=8, size=32)
    read = partial(Folder, wood, val_split_mode="none", eval_batch_size=4)
    expected = torch.cat([batch.image for batch in read().test_dataloader()])
    ahead = read(num_workers=2).test_dataloader()
    for _ in range(2):
        batches = list(ahead)
        assert torch.equal(torch.cat([batch.image for batch in batches]), expected)
    if on_disk == "yes":  # what the workers kept is there for everybody
        data = read()
        data.images.read = data.masks.read = None
        assert torch.equal(torch.cat([b.image for b in data.test_dataloader()]), expected)


def test_the_settings_decide(tmp_path):
    assert isinstance(open_cache(DataSettings()), MemoryCache)
    disk = open_cache(DataSettings(cache_on_disk=True, cache_dir=tmp_path / "c", cache_mb=2))
    assert isinstance(disk, DiskCache) and disk.limit == 2e6
    nothing = open_cache(DataSettings(cache_on_disk=True, cache_dir=tmp_path / "c", cache_mb=0))
    nothing.keep(("a",), None) if isinstance(nothing, DiskCache) else None
    assert isinstance(nothing, MemoryCache) and not (tmp_path / "c").exists()


def test_a_reader_of_a_class_is_used_and_remembered(tmp_path):
    tifffile.imwrite(
        tmp_path / "1.tif",
        np.full((8, 9, 5), 4095, np.uint16),
        photometric="minisblack",
        planarconfig="contig",
    )

    class Leaves(AnomalibDataModule):
        read_image = staticmethod(partial(read_image, white=4095))

        def index(self, root):
            return [{"image_path": str(root / "1.tif"), "split": "train", "label": "good"}]

    import pandas as pd

    index = Leaves.index
    Leaves.index = lambda self, root: pd.DataFrame(index(self, root))
    batch = next(iter(Leaves(tmp_path, val_split_mode="none").train_dataloader()))
    assert batch.image.min() == 1 and batch.image.shape == (1, 3, 8, 9)


def test_planes_do_not_round():
    image = read_or_made = np.dstack([np.arange(64, dtype=np.uint8).reshape(8, 8)] * 3)
    small = planes(image, (4, 4))
    assert small.dtype == np.float32 and len(np.unique(small * 255 % 1)) > 1
    assert np.shares_memory(read_or_made, image)
