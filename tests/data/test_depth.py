"""Depth: every kind of file, nothing made up between points, and the right depth for each image."""

import pickle

import numpy as np
import pytest
import tifffile
import torch
import trees
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anomalib_nb.data import (
    ADAM3D,
    Folder3D,
    MVTec3D,
    as_depth,
    match_depth,
    measured,
    nearest,
    read_depth,
)
from anomalib_nb.data import images as images_module

RNG = np.random.default_rng(0)
Z = RNG.uniform(0.3, 0.6, (12, 16)).astype(np.float32)
XYZ = RNG.uniform(0.1, 0.6, (12, 16, 3)).astype(np.float32)


# ---- files --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name, array, options",
    [
        ("z.tiff", Z, {}),
        ("xyz.tiff", XYZ, {}),
        ("xyz.TIF", XYZ, {"photometric": "rgb"}),
        ("planes.tiff", XYZ.transpose(2, 0, 1), {}),
        ("deflated.tiff", XYZ, {"compression": "zlib", "photometric": "rgb"}),
        ("double.tiff", XYZ.astype(np.float64), {"photometric": "rgb"}),
        ("steps.tiff", (Z * 9999).astype(np.uint16), {}),
        ("signed.tiff", -(Z * 9999).astype(np.int32), {}),
    ],
)
def test_tiffs_are_read_unscaled(tmp_path, name, array, options):
    tifffile.imwrite(tmp_path / name, array, **options)
    found = read_depth(tmp_path / name)
    expected = np.moveaxis(array, 0, -1) if array.shape[0] == 3 else array
    assert found.dtype == np.float32
    assert (found == expected.reshape(12, 16, -1).astype(np.float32)).all()


def test_other_files_are_read_unscaled(tmp_path):
    steps = (Z * 65535).astype(np.uint16)
    Image.fromarray(steps).save(tmp_path / "steps.png")
    Image.fromarray((Z * 255).astype(np.uint8)).save(tmp_path / "bytes.png")
    np.save(tmp_path / "xyz.npy", XYZ)
    assert (read_depth(tmp_path / "steps.png")[..., 0] == steps).all()
    assert read_depth(tmp_path / "bytes.png").max() > 100
    assert (read_depth(tmp_path / "xyz.npy") == XYZ).all()


def test_what_was_not_measured_is_zero():
    points = XYZ.copy()
    points[0, 0, 2], points[1, 1], points[2, 2, 0], points[3, 3] = np.nan, np.nan, -np.inf, 0
    found = as_depth(points)
    assert np.isfinite(found).all()
    assert (found == 0).all(-1).nonzero()[0].tolist() == [0, 1, 2, 3]
    assert (~measured(torch.from_numpy(found).permute(2, 0, 1))).nonzero().tolist() == [
        [0, 0],
        [1, 1],
        [2, 2],
        [3, 3],
    ]


class Trap:
    "Code that runs when it is unpickled."

    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_what_is_no_depth_is_named(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colours.png")
    np.save(tmp_path / "trap.npy", np.array([Trap()]), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "four.npy", np.zeros((8, 8, 4)))
    (tmp_path / "empty.tiff").write_bytes(b"")
    (tmp_path / "text.tiff").write_bytes(b"no depth")
    tifffile.imwrite(tmp_path / "whole.tiff", XYZ)
    (tmp_path / "cut.tiff").write_bytes((tmp_path / "whole.tiff").read_bytes()[:400])
    (tmp_path / "whole.tiff").unlink()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    for path in files:
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as a depth file"):
            read_depth(path)
    with pytest.raises(FileNotFoundError, match="There is no depth file"):
        read_depth(tmp_path / "absent.tiff")


def test_a_giant_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "giant.tiff", Z)
    monkeypatch.setattr(images_module, "MAX_PIXELS", 100)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)  # calling it would raise
    with pytest.raises(ValueError, match="12 × 16 pixels are more than 100"):
        read_depth(tmp_path / "giant.tiff")


# ---- sizes --------------------------------------------------------------------------------------
@given(
    old=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    new=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_resizing_makes_nothing_up(old, new, channels, seed):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 0.6, (channels, *old)) * (rng.random(old) > 0.3)
    depth = torch.from_numpy(depth.astype(np.float32))
    found = nearest(depth, new)
    assert found.shape == (channels, *new)
    points = {tuple(p) for p in depth.flatten(1).T.tolist()}
    assert {tuple(p) for p in found.flatten(1).T.tolist()} <= points
    if all(n >= o for n, o in zip(new, old)):
        assert {tuple(p) for p in found.flatten(1).T.tolist()} == points


# ---- which depth belongs to which image ---------------------------------------------------------
def test_depth_is_matched_by_name(tmp_path):
    for name in ("1.tiff", "2_depth.tiff", "10_xyz.tif", "._1.tiff", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    names = match_depth(["a/10.png", "a/1.png", "b/2.jpg"], tmp_path)
    assert [path.rpartition("/")[2] for path in names] == ["10_xyz.tif", "1.tiff", "2_depth.tiff"]
    with pytest.raises(ValueError, match=r"1 images have no depth file.*a/3\.png"):
        match_depth(["a/1.png", "a/3.png"], tmp_path)
    (tmp_path / "1_depth.png").write_bytes(b"")
    with pytest.raises(ValueError, match="are both the depth of 1"):
        match_depth(["a/1.png"], tmp_path)


def test_labels_keep_equal_names_apart(tmp_path):
    for folder in ("good", "dent"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "000.tiff").write_bytes(b"")
    names = match_depth(["rgb/dent/000.png", "rgb/good/000.png"], tmp_path)
    assert [path.rsplit("/", 2)[1] for path in names] == ["dent", "good"]


# ---- data sets ----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_pictures_of_any_mode(tmp_path, mode):
    trees.mvtec_3d(tmp_path)
    path = tmp_path / "bagel/train/good/rgb/000.png"
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L"))
        changed = (
            Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        )
    changed.save(path)
    for item in MVTec3D(tmp_path).dataset("train"):
        assert item.check().image.shape == (3, 32, 32) and item.depth_map.shape == (3, 32, 32)


def test_every_row_has_a_mask_or_needs_none(tmp_path):
    trees.mvtec_3d(tmp_path)
    table = MVTec3D(tmp_path, val_split_mode="none").table
    assert (table["mask_path"] != "").equals(table["label"] == "hole")
    assert table["mask_path"].map(type).eq(str).all()
    (tmp_path / "bagel/test/hole/gt/002.png").unlink()
    with pytest.raises(ValueError, match="1 images without a mask.*002.png"):
        MVTec3D(tmp_path).table


def test_validation_scans_validate(tmp_path):
    trees.mvtec_3d(tmp_path)
    assert MVTec3D(tmp_path).counts()["val"].to_dict() == {"good": 4, "hole": 0}


def test_a_missing_scan_is_named(tmp_path):
    trees.mvtec_3d(tmp_path)
    (tmp_path / "bagel/train/good/xyz/001.tiff").unlink()
    with pytest.raises(ValueError, match=r"no depth file in .*xyz.*rgb/001\.png"):
        MVTec3D(tmp_path).table


def test_an_absent_depth_folder_is_named(tmp_path):
    trees.adam_3d(tmp_path)
    place = tmp_path / "1m1/test/good/xyz"
    place.rename(place.with_name("gone"))
    with pytest.raises(FileNotFoundError, match="There is no folder .*xyz"):
        ADAM3D(tmp_path).table


def test_depth_of_another_shape_is_refused(tmp_path):
    trees.mvtec_3d(tmp_path)
    trees.paint_depth(tmp_path / "bagel/train/good/xyz/001.tiff", (32, 48))
    with pytest.raises(ValueError, match=r"001\.tiff is 32 × 48 pixels, its image 32 × 32"):
        list(MVTec3D(tmp_path).train_dataloader())
    with pytest.warns(UserWarning, match="1 of 4 train images"):
        assert len(MVTec3D(tmp_path, on_error="skip").dataset("train")) == 3


def test_depth_of_fewer_pixels_is_brought_to_its_image(tmp_path):
    trees.mvtec_3d(tmp_path)
    small = read_depth(trees.paint_depth(tmp_path / "bagel/train/good/xyz/001.tiff", (16, 16)))
    item = MVTec3D(tmp_path).dataset("train")[1]
    assert item.depth_map.shape == (3, 32, 32)
    assert (item.depth_map[:, ::2, ::2].permute(1, 2, 0).numpy() == small).all()


def test_scans_of_different_sizes_share_a_batch(tmp_path):
    trees.mvtec_3d(tmp_path)
    trees.paint(tmp_path / "bagel/train/good/rgb/001.png", (20, 40))
    trees.paint_depth(tmp_path / "bagel/train/good/xyz/001.tiff", (20, 40))
    batch = next(iter(MVTec3D(tmp_path).train_dataloader())).check()
    assert batch.image.shape == batch.depth_map.shape == (4, 3, 32, 40)


def test_synthetic_defects_keep_their_depth(tmp_path):
    trees.mvtec_3d(tmp_path)
    data = MVTec3D(tmp_path, val_split_mode="synthetic")
    batch = next(iter(data.val_dataloader())).check()
    assert batch.gt_label.any() and measured(batch.depth_map).any()


def test_folder_3d_says_what_is_not_there(tmp_path):
    arguments = trees.folder_3d(tmp_path)
    with pytest.raises(ValueError, match="abnormal_dir has no depth.*abnormal_depth_dir"):
        Folder3D(**{**arguments, "abnormal_depth_dir": None})
    with pytest.raises(FileNotFoundError, match="There is no folder .*gone"):
        Folder3D(**{**arguments, "normal_depth_dir": "gone"}).table
    (tmp_path / "bad_z/3_depth.tif").unlink()
    with pytest.raises(ValueError, match=r"1 images have no depth file in .*bad_z.*3\.png"):
        Folder3D(**arguments).table


def test_folder_3d_keeps_equal_names_of_places_apart(tmp_path):
    table = Folder3D(**trees.folder_3d(tmp_path), val_split_mode="none").table
    for row in table.itertuples():
        image, depth = (str(path).rsplit("/", 2)[1:] for path in (row.image_path, row.depth_path))
        assert depth[0] == f"{image[0]}_z" and depth[1][0] == image[1][0]


def test_folder_3d_reads_scans(tmp_path):
    trees.mvtec_3d(tmp_path)
    table = Folder3D(tmp_path / "bagel").table
    assert len(table) == 16 and (table["depth_path"] != "").all()


def test_folder_3d_without_scans(tmp_path):
    trees.mvtec_like(tmp_path)
    with pytest.raises(FileNotFoundError, match="There are no scans in .*Expected .*rgb"):
        Folder3D(tmp_path).table


def test_arrays_of_every_layout(tmp_path):
    for number, array in enumerate(
        (np.asfortranarray(XYZ), XYZ[::2, ::-1], Z.astype(">f8"), Z[:, :1], (Z * 99).astype(np.int8))
    ):
        np.save(tmp_path / f"{number}.npy", array)
        found = read_depth(tmp_path / f"{number}.npy")
        assert (found == array.reshape(*array.shape[:2], -1).astype(np.float32)).all()
        assert found.flags.writeable
    np.save(tmp_path / "far.npy", np.array([[1e300, 2.0]]))
    assert read_depth(tmp_path / "far.npy")[..., 0].tolist() == [[0, 2]]  # not infinity
    np.save(tmp_path / "none.npy", np.zeros((0, 9)))
    with pytest.raises(ValueError, match=r"none.npy cannot be read as a depth file .*shape \(0, 9"):
        read_depth(tmp_path / "none.npy")
