"""A folder of pictures that many use at once: nothing wrong is served, nothing raises, and a part of it stays."""

import multiprocessing
import os
import shutil
import stat
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import anomalib_nb.data.caches as caches
from anomalib_nb.data import (
    DiskCache,
    Folder,
    MemoryCache,
    Picture,
    Remembered,
    free_bytes,
    packed,
    read_image,
    unpacked,
    write_beside,
)
from anomalib_nb.data.caches import LATE, MONTH, Waiting, files_in

FULL = 200 * (3 * 20 * 30 + 160) / 1e6  # MB of 200 pictures


def picture(i: int) -> Picture:
    return Picture(np.full((3, 20, 30), i % 251, np.uint8), (20, 30), "" if i % 3 else "dark")


def walk(cache, orders, data: str = "a") -> list[int]:
    "How many pictures are found in each epoch; each must be the right one."
    found = []
    for order in orders:
        hits = 0
        for i in order:
            if (kept := cache.get((data, int(i)))) is None:
                cache.keep((data, int(i)), picture(int(i)))
            else:
                assert (kept.values == i % 251).all() and kept[1:] == picture(int(i))[1:]
                hits += 1
        found.append(hits)
    return found


def session(folder: Path, order, data: str = "a", share: float = 0.5) -> int:
    "How many pictures a new session finds."
    time.sleep(2 * LATE)
    return walk(DiskCache(folder, share * FULL), [order], data)[0]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "waiting"]


FORWARD, MIXED = list(range(200)), np.random.default_rng(0)
ORDERS = {
    "forward": [FORWARD] * 5,
    "turned": [FORWARD, FORWARD[::-1]] * 2 + [FORWARD],
    "halves": [FORWARD[100:] + FORWARD[:100], FORWARD] * 2 + [FORWARD],
    "shuffled": [MIXED.permutation(200).tolist() for _ in range(5)],
}


# ---- which ones stay ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ORDERS)
def test_half_of_the_room_serves_half_of_a_pass(tmp_path, name):
    hits = [session(tmp_path, order) for order in ORDERS[name]]
    assert hits[0] == 0 and min(hits[1:]) >= 90, hits


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_any_share_of_the_room(tmp_path, share):
    hits = [session(tmp_path, order, share=share) for order in ORDERS["turned"]]
    assert min(hits[1:]) >= 200 * share - 5, hits


def test_processes_of_their_own_find_it_too(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    for order in ORDERS["turned"]:
        one = context.Process(target=lambda order=order: found.put(session(tmp_path, order)))
        one.start()
        one.join(60)
    hits = [found.get(timeout=9) for _ in ORDERS["turned"]]
    assert hits[0] == 0 and min(hits[1:]) >= 90, hits


def test_a_data_set_that_is_no_longer_used_makes_room(tmp_path):
    old = [session(tmp_path, ORDERS["shuffled"][i]) for i in range(2)]
    new = [session(tmp_path, ORDERS["shuffled"][i], "b") for i in range(4)]
    assert old[1] >= 90 and new[0] == 0 and min(new[2:]) >= 90, new
    assert session(tmp_path, FORWARD) == 0


def test_a_new_data_set_needs_one_round_of_a_long_session(tmp_path):
    session(tmp_path, FORWARD)
    time.sleep(2 * LATE)
    hits = walk(DiskCache(tmp_path, FULL / 2), ORDERS["shuffled"][:4], "b")
    assert hits[:1] == [0] and min(hits[2:]) >= 90, hits


def test_two_data_sets_that_take_turns_do_not_chase_each_other(tmp_path):
    hits = [session(tmp_path, FORWARD, "ab"[i % 2]) for i in range(8)]
    assert sum(hits[-2:]) >= 90, hits


def test_a_session_that_was_broken_off_costs_no_more_than_it_read(tmp_path):
    session(tmp_path, FORWARD)
    for _ in range(3):
        session(tmp_path, FORWARD[190:])
    assert session(tmp_path, ORDERS["shuffled"][0]) >= 85


def test_sessions_at_once_do_not_chase_each_other(tmp_path):
    session(tmp_path, FORWARD)
    time.sleep(2 * LATE)
    both = [DiskCache(tmp_path, FULL / 2) for _ in range(3)]
    assert [walk(cache, [order])[0] >= 90 for cache, order in zip(both, ORDERS["shuffled"])] == [True] * 3


def test_frames_that_are_read_many_times_are_no_round(tmp_path):
    session(tmp_path, FORWARD)
    clips = [i + j for i in FORWARD[:-15] for j in range(16)]
    time.sleep(2 * LATE)
    walk(DiskCache(tmp_path, FULL / 2), [clips], "b")
    assert session(tmp_path, FORWARD) >= 70


def test_what_was_unused_for_a_month_goes_at_once_and_the_limit_holds(tmp_path):
    session(tmp_path, FORWARD)
    long_ago = time.time() - MONTH - 100
    for path in files(tmp_path):
        os.utime(path, (long_ago, long_ago))
    assert session(tmp_path, FORWARD, "b") == 0 and session(tmp_path, FORWARD, "b") >= 90
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= FULL / 2 * 1e6
    assert session(tmp_path, FORWARD, "b", share=0.25) >= 40  # somebody has lowered it
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= FULL / 4 * 1e6


def test_a_folder_is_not_counted_for_every_picture(tmp_path, monkeypatch):
    counts, count = [], caches.files_in
    monkeypatch.setattr(caches, "files_in", lambda folder: counts.append(folder) or count(folder))
    walk(cache := DiskCache(tmp_path, FULL / 2), [FORWARD])
    assert len(counts) < 60
    del counts[:]
    walk(cache, ORDERS["shuffled"])
    assert len(counts) <= 2
    del counts[:]
    walk(DiskCache(tmp_path, FULL / 2), ORDERS["shuffled"])
    assert len(counts) <= 6


def test_lists_do_not_pile_up(tmp_path):
    for _ in range(5):
        session(tmp_path, FORWARD)
    assert len(list((tmp_path / "waiting").iterdir())) <= 2
    (tmp_path / "waiting/notes.txt").write_bytes(b"not a time")
    (tmp_path / "waiting/9.5").write_bytes(bytes(13))
    assert session(tmp_path, FORWARD) >= 90


def test_what_a_list_says(tmp_path):
    names = [bytes([i]) * 8 for i in range(32)]
    waiting = Waiting(tmp_path, time.time() - 5)
    assert [waiting.claim(name) for name in names] == [(0.0, 0)] * 32
    assert waiting.claim(names[3]) == (waiting.since - LATE, 32) and waiting.claim(names[4]) == (0.0, 0)
    later = Waiting(tmp_path, time.time() + 5)
    assert later.claim(names[9])[1] == 32 and later.claim(b"surprise") == (0.0, 0)
    assert Waiting(tmp_path, time.time() - 100).before == (0.0, set())  # none was over by then


# ---- many at once -------------------------------------------------------------------------------
def chase(folder: str, seed: int, seconds: float, wrong) -> None:
    "Write, read and make room, over and over, in sessions of a moment each."
    warnings.simplefilter("error")
    random, end = np.random.default_rng(seed), time.time() + seconds
    try:
        while time.time() < end:
            cache = DiskCache(folder, 0.05 * FULL)
            cache.since += random.choice([-10, 0, 10])  # what may go, another time nothing
            walk(cache, [random.integers(0, 40, 60).tolist()] * 2, str(random.integers(0, 3)))
            free_bytes(Path(folder), 0.03 * FULL * 1e6, time.time() + 10)
    except BaseException as error:
        wrong.put(repr(error))
        raise


def test_processes_that_write_read_and_make_room_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    wrong = context.Queue()
    others = [context.Process(target=chase, args=(str(tmp_path), seed, 4, wrong)) for seed in range(3)]
    [process.start() for process in others]
    for _ in range(8):  # and somebody clears it up
        time.sleep(0.5)
        shutil.rmtree(tmp_path, ignore_errors=True)
    [process.join(60) for process in others]
    assert [process.exitcode for process in others] == [0] * 3 and wrong.empty()


def test_threads_share_a_cache(tmp_path):
    cache, found = DiskCache(tmp_path, FULL / 2), []
    work = [threading.Thread(target=lambda order=order: found.append(walk(cache, [order] * 2))) for order in ORDERS["shuffled"][:4]]
    [thread.start() for thread in work]
    [thread.join() for thread in work]
    assert len(found) == 4 and all(hits[1] >= 90 for hits in found)


def test_a_file_that_goes_while_it_is_counted_does_not_count(tmp_path, monkeypatch):
    for i in range(20):
        write_beside(tmp_path / f"{i:02}", bytes(100))
    look = os.stat

    def gone(path, *args, **options):
        if str(path).endswith("7"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", gone)
    assert len(files_in(tmp_path)) == 18 and free_bytes(tmp_path, 2000, 0) == 200
    assert files_in(tmp_path / "nowhere") == []


# ---- what may not be written --------------------------------------------------------------------
@contextmanager
def somebody_else():
    "Another user, for whom folders that are not writable are not writable."
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(me)


@pytest.fixture
def shared():
    "A folder that everybody may look into."
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place / "cache"
    for path in (place, *place.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.parametrize("known", [50, 0])
def test_a_folder_that_may_only_be_read_is_read(shared, known):
    if known:
        walk(DiskCache(shared, FULL), [FORWARD[:known]])
    for path in (shared.parent, *shared.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in shared.rglob("*")}
    with somebody_else(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cache = DiskCache(shared, FULL)
        assert walk(cache, [FORWARD] * 2) == [known] * 2
        assert walk(cache, [FORWARD], "b") == [0]
    assert len(said) == 1 and f"{shared} is read, but keeps no more pictures (" in str(said[0].message)
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*")} == before


def test_a_full_folder_that_may_only_be_read(shared):
    walk(DiskCache(shared, FULL / 2), [FORWARD])
    for path in (shared.parent, *shared.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with somebody_else(), pytest.warns(UserWarning, match="keeps no more pictures") as said:
        assert walk(DiskCache(shared, FULL / 2), [FORWARD] * 3)[2] >= 90
        free_bytes(shared, 1000, time.time() + 9)  # none of them may go
    assert len(said) == 1


@pytest.mark.parametrize("name", ["utime", "replace", "mkdir"])
def test_whatever_cannot_be_changed_is_said_once(tmp_path, monkeypatch, name):
    walk(DiskCache(tmp_path, FULL), [FORWARD[:50]])

    def refused(*args, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, name, refused)
    with pytest.warns(UserWarning, match="keeps no more pictures .*Read-only file system") as said:
        assert walk(DiskCache(tmp_path, FULL), [FORWARD] * 2) == [50, 50]
    assert len(said) == 1


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.warns(UserWarning, match="keeps no more pictures") as said:
        assert walk(DiskCache(tmp_path / "cache", FULL), [FORWARD[:9]] * 2) == [0, 0]
    assert len(said) == 1


@pytest.mark.parametrize("mask, expected", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_belong_to_whom_new_files_belong(tmp_path, mask, expected):
    before = os.umask(mask)
    try:
        walk(DiskCache(tmp_path / "cache", FULL / 50), [FORWARD[:30]])
    finally:
        os.umask(before)
    found = list((tmp_path / "cache").rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {expected}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o777 & ~mask}


def test_good_images_are_never_listed_as_broken(tmp_path, monkeypatch):
    for i in range(30):
        (tmp_path / "parts/train/good").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), i, np.uint8)).save(tmp_path / f"parts/train/good/{i}.png")
    monkeypatch.setenv("ANOMALIB_NB__DATA__CACHE_ON_DISK", "yes")
    monkeypatch.setenv("ANOMALIB_NB__DATA__CACHE_DIR", str(tmp_path / "cache"))
    stop = threading.Event()

    def evict() -> None:
        while not stop.wait(0.001):
            free_bytes(tmp_path / "cache", 0, time.time() + 9)
            shutil.rmtree(tmp_path / "cache/waiting", ignore_errors=True)

    other = threading.Thread(target=evict)
    other.start()
    try:
        for _ in range(10):
            data = Folder(tmp_path / "parts", normal_dir="train/good", val_split_mode="none", test_split_mode="none", on_error="skip")
            shades = sorted(item.image.mean().item() * 255 for item in data.dataset("train"))
            assert np.allclose(shades, range(30), atol=0.01) and not len(data.skipped)
    finally:
        stop.set()
        other.join()


# ---- what lies there ----------------------------------------------------------------------------
def test_no_byte_may_differ(tmp_path):
    "Not in the head either, where a size or a word would be taken for another."
    content = packed(picture(3))
    assert unpacked(content).frame == "dark"
    for at in range(len(content)):
        other = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        with pytest.raises(ValueError):
            unpacked(other)
    cache = DiskCache(tmp_path, FULL)
    cache.keep((3,), picture(3))
    for at in (0, 20, 60, 90, 158, 159, 160, len(content) - 1):
        cache.place((3,)).write_bytes(content[:at] + b"0" + content[at + 1 :] if content[at : at + 1] != b"0" else content[:at])
        assert DiskCache(tmp_path, FULL).get((3,)) is None
    Remembered(read_image, MemoryCache(0))
    cache.keep((3,), picture(3))
    assert DiskCache(tmp_path, FULL).get((3,)).frame == "dark"
