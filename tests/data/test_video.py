"""Films: every frame where it belongs, in every file; clips, masks, splits; nothing read runs code."""

import pickle
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anomalib_nb.data import (
    Avenue,
    ShanghaiTech,
    UCSDped,
    VideoFile,
    VideoFolder,
    clips_of,
    frame_table,
    open_video,
    predict_dataset,
    read_frame,
    read_volume,
    video_frames,
    windows,
)
from anomalib_nb.data import avenue as avenue_module
from anomalib_nb.deploy.parity import questions


# ---- clips --------------------------------------------------------------------------------------
@given(n=st.integers(0, 60), length=st.integers(1, 12), step=st.integers(1, 20))
def test_clip_arithmetic(n, length, step):
    clips = windows(np.arange(n), length, step)
    assert len(clips) == ((n - length) // step + 1 if n >= length else 0)
    assert clips.shape[1] == length
    for k, clip in enumerate(clips):
        assert clip.tolist() == list(range(k * step, k * step + length))


@given(
    films=st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=4),
    length=st.integers(1, 5),
    step=st.integers(1, 4),
)
def test_clips_never_leave_their_film_or_jump(films, length, step):
    rows = [(f"film {k}", i) for k, kept in enumerate(films) for i, keep in enumerate(kept) if keep]
    table = pd.DataFrame(rows, columns=["group", "frame"]).sample(frac=1, random_state=0)
    found = clips_of(table, length, step)
    for clip in found:
        part = table.iloc[clip]
        assert part["group"].nunique() == 1
        assert (np.diff(part["frame"]) == 1).all()
    if step == 1:
        starts = {(g, i) for g, i in rows if all((g, i + k) in rows for k in range(length))}
        assert len(found) == len(starts)


def test_a_film_that_is_too_short_is_named():
    table = pd.DataFrame({"group": ["long"] * 4 + ["short"] * 2, "frame": [0, 1, 2, 3, 0, 1]})
    with pytest.warns(UserWarning, match="1 films have fewer than 3 frames.*short"):
        assert len(clips_of(table, 3, 1)) == 2


# ---- files --------------------------------------------------------------------------------------
BITS, CELL = 8, 12


def numbered(i: int) -> np.ndarray:
    "A frame that shows its number in bars that no codec blurs away."
    frame = np.full((64, BITS * CELL, 3), 40, np.uint8)
    for bit in range(BITS):
        if i >> bit & 1:
            frame[:, bit * CELL : (bit + 1) * CELL] = 220
    return frame


def number_of(frame: np.ndarray) -> int:
    return sum(1 << b for b in range(BITS) if frame[:, b * CELL + 4 : b * CELL + 8].mean() > 128)


def write(path, codec: str, count: int = 50, times=None, **options):
    "A film of numbered frames; `times` are their time stamps."
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height = BITS * CELL, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = {key: str(value) for key, value in options.items()}
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(i), format="rgb24")
            if times:
                frame.pts = times[i]
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


KINDS = {
    "b_frames.mp4": ("libx264", {"g": 12, "bf": 2}),
    "open_gop.mp4": ("libx264", {"g": 12, "bf": 3, "x264-params": "open-gop=1:scenecut=0"}),
    "b_frames.mkv": ("libx264", {"g": 12, "bf": 2}),
    "one_key.mp4": ("libx264", {"g": 500, "bf": 2}),
    "mpeg4_b.avi": ("mpeg4", {"g": 12, "bf": 2}),
    "mpeg4.avi": ("mpeg4", {"g": 12}),
    "no_order.avi": ("libx264", {"g": 12, "bf": 2}),  # its time stamps lie
    "no_times.h264": ("libx264", {"g": 12, "bf": 2}),
    "keys_only.avi": ("mjpeg", {}),
    "stream.mpg": ("mpeg2video", {"g": 12, "bf": 2}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_where_it_belongs(tmp_path, name):
    codec, options = KINDS[name]
    film = VideoFile(write(tmp_path / name, codec, **options), megabytes=0)
    assert len(film) == 50 and film[0].shape == (64, 96, 3)
    assert film.timing.told == (not name.startswith("no_"))
    order = np.random.default_rng(1).permutation(50).tolist()
    assert [number_of(film[i]) for i in order] == order
    assert [number_of(frame) for frame in film] == list(range(50))
    assert [number_of(frame) for frame in film[40:3:-6]] == list(range(40, 3, -6))
    assert number_of(film[-1]) == 49
    with pytest.raises(IndexError):
        film[50]


def test_a_film_that_lies_on_its_side_is_turned(tmp_path):
    path = write(tmp_path / "phone.mp4", "libx264", count=3)
    content = path.read_bytes()
    matrix = content.index(b"tkhd") + 44
    assert struct.unpack_from(">3i", content, matrix) == (1 << 16, 0, 0)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    plain = VideoFile(path)[1]
    path.write_bytes(content[:matrix] + turned + content[matrix + 36 :])
    assert (VideoFile(path)[1] == np.rot90(plain, -1)).all()


def test_frames_of_uneven_pace(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 50)).tolist()
    film = VideoFile(write(tmp_path / "pace.mkv", "libx264", times=times, g=12, bf=2), megabytes=0)
    order = np.random.default_rng(2).permutation(50).tolist()
    assert [number_of(film[i]) for i in order] == order


@settings(max_examples=40, deadline=None)
@given(wanted=st.lists(st.integers(0, 49), min_size=1, max_size=12), room=st.sampled_from([0, 0.1]))
def test_any_order_of_asking(tmp_path_factory, wanted, room):
    folder = tmp_path_factory.getbasetemp() / "any_order"
    folder.mkdir(exist_ok=True)
    path = folder / "film.mp4"
    if not path.exists():
        write(path, "libx264", g=12, bf=2)
    film = VideoFile(path, megabytes=room)
    assert [number_of(film[i]) for i in wanted] == wanted
    assert sum(frame.nbytes for frame in film.kept.values()) <= max(room * 1e6, film[0].nbytes)


def test_threads_share_a_film(tmp_path):
    film = VideoFile(write(tmp_path / "film.mp4", "libx264", g=12), megabytes=0)
    order = np.random.default_rng(3).integers(0, 50, 60).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert [number_of(frame) for frame in pool.map(film.__getitem__, order)] == order


def test_workers_read_what_one_process_reads(tmp_path):
    for name in ("train/1.mp4", "train/2.mp4", "test/good/3.mp4", "test/good/4.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, "libx264", count=20, g=6, bf=2)
    read_frame(f"{tmp_path / 'train/1.mp4'}#000007")  # open in this process, too
    one, two = (
        [
            batch.image
            for batch in VideoFolder(
                tmp_path, clip_length_in_frames=3, train_batch_size=5, num_workers=workers
            ).train_dataloader()
        ]
        for workers in (0, 2)
    )
    assert len(one) == 8 and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_film_written_anew_is_read_anew(tmp_path):
    path = write(tmp_path / "film.mp4", "libx264", count=20)
    assert number_of(read_frame(f"{path}#000005")) == 5
    write(path, "libx264", count=30)
    assert number_of(read_frame(f"{path}#000025")) == 25


def test_pictures_are_counted_as_people_count(tmp_path):
    for i in (1, 2, 10, 11):
        trees.paint(tmp_path / f"{i}.png")
    (tmp_path / "._3.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("")
    assert [path.rpartition("/")[2] for path in video_frames(tmp_path).paths] == [
        "1.png",
        "2.png",
        "10.png",
        "11.png",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"no film", b"#EXTM3U\n#EXTINF:1\nhttp://127.0.0.1:9/a.ts\n"]
)
def test_a_file_that_is_no_film_is_named(tmp_path, content):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"film\.mp4 cannot be read as a video"):
        video_frames(tmp_path / "film.mp4")


def test_only_files_are_opened(tmp_path):
    for address in ("http://127.0.0.1:9/film.mp4", f"concat:{tmp_path}/a.mp4"):
        with pytest.raises(FileNotFoundError, match="no video"):
            open_video(address)


def test_a_film_cut_short(tmp_path):
    path = write(tmp_path / "film.avi", "mpeg4", g=12)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    film = VideoFile(path)
    assert 4 < len(film) < 50
    assert [number_of(frame) for frame in film[: len(film) - 1]] == list(range(len(film) - 1))


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "film.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"anomalib_nb\[video\]"):
        video_frames(tmp_path / "film.mp4")


def test_predict_takes_a_film(tmp_path):
    path = write(tmp_path / "film.mp4", "libx264", count=9)
    found = predict_dataset(path)
    assert len(found) == 9 and found[4].image_path.endswith("film.mp4#000004")
    assert number_of((found[4].image.permute(1, 2, 0) * 255).numpy()) == 4


# ---- truth --------------------------------------------------------------------------------------
class Trap:
    "Code that runs when it is unpickled."

    def __reduce__(self):
        return (exec, ("raise SystemExit('code ran')",))


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "trap.npy", np.array([Trap()]), allow_pickle=True)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "archive.npz", a=np.zeros((2, 2, 2)))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for name in ("trap", "bare", "archive"):
        with pytest.raises(ValueError, match=f"{name}.npy"):
            read_volume(tmp_path / f"{name}.npy")


def test_counts_must_agree(tmp_path):
    film = trees.film(tmp_path / "film.avi")
    with pytest.raises(ValueError, match="8 frames and 7 masks"):
        frame_table(film, "test", "anomaly", np.ones(8), ["m.png"] * 7)
    with pytest.raises(ValueError, match="8 frames and 9 labels"):
        frame_table(film, "test", "anomaly", np.ones(9))


@pytest.mark.parametrize("target, at", [("first", 0), ("mid", 1), ("last", 2)])
def test_one_frame_of_a_clip_counts(tmp_path, target, at):
    arguments = trees.video_folder(tmp_path)
    data = VideoFolder(**arguments, target_frame=target, val_split_mode="none")
    for clip in data.dataset("test"):
        frame = clip.info["frames"][at]
        fall = "fall" in clip.image_path and frame in range(2, 5)
        assert bool(clip.gt_label) == fall == bool(clip.gt_mask.any())
        assert clip.image_path.endswith((f"/{frame}.png", f"#{frame:06}"))
        assert "frame" not in clip.info and clip.image.shape == (3, 3, 32, 32)


def test_all_frames_of_a_clip_count(tmp_path):
    data = VideoFolder(**trees.video_folder(tmp_path), target_frame="all", val_split_mode="none")
    batch = next(iter(data.test_dataloader())).check()
    assert batch.gt_label.shape == (24, 3) and batch.gt_mask.shape == (24, 3, 32, 32)
    assert torch.equal(batch.gt_mask.flatten(2).any(2), batch.gt_label)
    assert len(batch[0].image_path) > 1 and not batch[0].batched


def test_films_of_different_sizes_share_a_batch(tmp_path):
    for film, size in {"train/1": (20, 30), "train/2": (30, 20), "test/good/3": (20, 20)}.items():
        for i in range(4):
            trees.paint(tmp_path / film / f"{i}.png", size)
    batch = next(iter(VideoFolder(tmp_path, val_split_mode="none").train_dataloader())).check()
    assert batch.image.shape == (6, 2, 3, 30, 30)


def test_wrong_clips_are_refused(tmp_path):
    with pytest.raises(ValueError, match="clip_length_in_frames is 0"):
        VideoFolder(tmp_path, clip_length_in_frames=0)
    with pytest.raises(ValueError, match="Did you mean 'last'"):
        VideoFolder(tmp_path, target_frame="lst")


def test_a_broken_picture_makes_a_gap(tmp_path):
    arguments = trees.video_folder(tmp_path)
    (tmp_path / "train/03/4.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"4\.png cannot be read"):
        list(VideoFolder(**arguments).train_dataloader())
    data = VideoFolder(**arguments, on_error="skip")
    with pytest.warns(UserWarning, match="cannot be read"):
        clips = [item.info["frames"] for item in data.dataset("train") if "/03/" in item.image_path]
    assert clips == [[0, 1, 2], [1, 2, 3], [5, 6, 7]]  # what would reach over the gap is no clip


def test_frames_are_images_for_models_of_images(tmp_path):
    data = VideoFolder(**{**trees.video_folder(tmp_path), "clip_length_in_frames": 1})
    assert next(iter(data.train_dataloader())).check().image.shape[1:] == (3, 32, 32)
    assert all(picture.shape == (1, 3, 32, 32) for picture in questions(data))  # of an export


def test_splits_move_whole_films(tmp_path):
    arguments = trees.video_folder(tmp_path)
    for mode in ("from_test", "from_train"):
        table = VideoFolder(**arguments, val_split_mode=mode).table
        assert table.groupby("group")["split"].nunique().eq(1).all() and "val" in set(
            table["split"]
        )


# ---- data sets ----------------------------------------------------------------------------------
def test_ped1_films_without_masks_are_not_taken_for_empty(tmp_path):
    trees.ucsd_ped(tmp_path, "UCSDped1", masked=2)
    masked = UCSDped(tmp_path, "UCSDped1", val_split_mode="none")
    assert set(masked.table.query("split == 'test'")["group"].str[-3:]) == {"001", "002"}
    assert masked.table.query("split == 'unused'")["label"].eq("unknown").all()
    every = UCSDped(tmp_path, "UCSDped1", test_films="all", val_split_mode="none")
    assert len(every.table.query("split == 'test'")) == 4 * 12 and not every.has_masks
    found = every.table.query("label == 'anomaly'").groupby("group")["frame"].apply(list)
    assert found.tolist() == [[1, 10, 11], [1, 11]] * 2


def test_ucsd_lists_must_fit(tmp_path):
    trees.ucsd_ped(tmp_path)
    with pytest.raises(ValueError, match="test_films is 'some'"):
        UCSDped(tmp_path, test_films="some")
    (tmp_path / "UCSDped2/Test/UCSDped2.m").write_text("TestVideoFile{end+1}.gt_frame = [1:2];")
    with pytest.raises(ValueError, match="knows 1 films.*has 4"):
        UCSDped(tmp_path, test_films="all").table
    (tmp_path / "UCSDped2/Test/UCSDped2.m").unlink()
    with pytest.raises(FileNotFoundError, match="no list"):
        UCSDped(tmp_path, test_films="all").table


def test_ucsd_mask_and_frame_counts_must_agree(tmp_path):
    trees.ucsd_ped(tmp_path)
    (tmp_path / "UCSDped2/Test/Test002_gt/007.bmp").unlink()
    with pytest.raises(ValueError, match="Test002 has 12 frames and 11 masks"):
        UCSDped(tmp_path).table


def test_ucsd_clips_are_far_apart_unless_asked(tmp_path):
    trees.ucsd_ped(tmp_path)
    frames = [item.info["frames"] for item in UCSDped(tmp_path).dataset("train")]
    assert frames == [[0, 1], [10, 11]] * 4


def test_avenue_reads_a_file_of_masks_once(tmp_path, monkeypatch):
    trees.avenue(tmp_path)
    read = []
    monkeypatch.setattr(
        avenue_module,
        "loadmat",
        lambda path, **more: read.append(path) or scipy.io.loadmat(path, **more),
    )
    data = Avenue(tmp_path, val_split_mode="none")
    items = [item for item in data.dataset("test")]
    assert len(read) == 3 and sum(bool(item.gt_label) for item in items) == 9
    assert all(bool(item.gt_mask.any()) == bool(item.gt_label) for item in items)


def test_avenue_takes_masks_that_are_pictures(tmp_path):
    trees.avenue(tmp_path)
    truth = tmp_path / "ground_truth_demo/testing_label_mask"
    (truth / "2_label").mkdir()
    for i, mask in enumerate(trees.events()):
        Image.fromarray(mask).save(truth / f"2_label/{i:04}.png")  # 1 of 255: looks black
    (truth / "2_label.mat").unlink()
    test = Avenue(tmp_path, val_split_mode="none").table.query("split == 'test'")
    assert (test["label"] == "anomaly").groupby(test["group"]).sum().tolist() == [3, 3, 3]


def broken_mat(path, kind: str):
    "A file that looks like masks of MATLAB, and is none."
    cell = np.empty((1, 2), object)
    cell[0, :] = [np.zeros((4, 4), np.uint8), np.zeros((4, 5 if kind == "sizes" else 4), np.uint8)]
    scipy.io.savemat(
        path, {"other" if kind == "name" else "volLabel": 3.0 if kind == "number" else cell}
    )
    if kind == "version 7.3":
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    if kind in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 200 if kind == "cut" else 0])


@pytest.mark.parametrize("kind", ["name", "number", "sizes", "version 7.3", "cut", "empty"])
def test_avenue_names_masks_that_are_none(tmp_path, kind):
    broken_mat(tmp_path / "1_label.mat", kind)
    with pytest.raises(ValueError, match=r"1_label\.mat (has no masks|cannot be read)"):
        avenue_module.read_matlab_masks(tmp_path / "1_label.mat")


def test_shanghai_labels_need_no_masks(tmp_path, monkeypatch):
    trees.shanghai_tech(tmp_path)
    monkeypatch.setattr(np.memmap, "any", None, raising=False)  # calling it would raise
    table = ShanghaiTech(tmp_path).table
    assert (table["label"] == "anomaly").sum() == 9
    volume = read_volume(tmp_path / "testing/test_pixel_mask/01_0014.npy")
    assert isinstance(volume, np.memmap)


def test_shanghai_without_labels_asks_the_masks(tmp_path):
    trees.shanghai_tech(tmp_path)
    for path in (tmp_path / "testing/test_frame_mask").iterdir():
        path.unlink()
    assert (ShanghaiTech(tmp_path).table["label"] == "anomaly").sum() == 9


def test_shanghai_labels_run_no_code(tmp_path):
    trees.shanghai_tech(tmp_path)
    np.save(tmp_path / "testing/test_frame_mask/01_0014.npy", np.array([Trap()]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read as an array"):
        ShanghaiTech(tmp_path).table


def test_shanghai_scenes(tmp_path):
    trees.shanghai_tech(tmp_path)
    trees.shanghai_tech(tmp_path, "07")
    assert (
        len(ShanghaiTech(tmp_path, "07").table) == 48
        and len(ShanghaiTech(tmp_path, "all").table) == 96
    )
    with pytest.raises(FileNotFoundError, match="13_"):
        ShanghaiTech(tmp_path, "13").table
    with pytest.raises(ValueError, match="no category '7'"):
        ShanghaiTech(tmp_path, "7")
    (tmp_path / "training/videos").rename(tmp_path / "training/converted_videos")
    assert len(ShanghaiTech(tmp_path, "07").table) == 48
    (tmp_path / "testing/test_pixel_mask/07_0014.npy").unlink()
    with pytest.raises(FileNotFoundError, match="07_0014 has no masks"):
        ShanghaiTech(tmp_path, "07").table
