"""Threads change nothing but the time; workers answer from programs with threads, with classes of a
notebook, from scripts of any kind."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from textwrap import dedent

import pytest
import torch
import trees

from anomalib_nb.data.datamodule import AnomalibDataset
from anomalib_nb.data.folder import Folder
from anomalib_nb.data.images import MemoryCache, Remembered, read_image
from anomalib_nb.data.workers import cores, guarded_lines, in_threads, pool

# a reader whose lock is held by a thread of the program that starts the workers
CAMERA = """
from threading import Event, Lock, Thread
from anomalib_nb.data.images import read_image

lock, taken = Lock(), Event()


def read(path):
    with lock:
        return read_image(path)


def hold():
    lock.acquire()
    taken.set()
    Event().wait()


def start_a_thread_that_holds_the_lock():
    Thread(target=hold, daemon=True).start()
    taken.wait()
"""

LOCKED = """
import camera
from anomalib_nb.data.folder import Folder

data = Folder("tiles", normal_dir="train/good", test_split_mode="none", val_split_mode="none", num_workers=2, train_batch_size=2)
data.read_image = camera.read
if __name__ == "__main__":
    camera.start_a_thread_that_holds_the_lock()
    print([len(batch.image) for batch in data.train_dataloader()])
"""

OWN = """
from anomalib_nb.data.folder import Folder
from anomalib_nb.data.images import read_image

FACTOR = 2


def darker(path):
    return read_image(path) // FACTOR


class Mine(Folder):
    read_image = staticmethod(darker)


for workers in (0, 2):
    data = Mine("tiles", normal_dir="train/good", test_split_mode="none", val_split_mode="none", num_workers=workers, train_batch_size=6, on_error="skip")
    print([round(batch.image.max().item() * 255) for batch in data.train_dataloader()])
"""


def program(tmp_path, text, as_script):
    for i in range(6):
        trees.paint(tmp_path / f"tiles/train/good/{i}.png")
    (tmp_path / "camera.py").write_text(dedent(CAMERA))
    (tmp_path / "main.py").write_text(text)
    command = ["main.py"] if as_script else ["-c", text]  # -c has no file, as a notebook
    path = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=os.environ | path,
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split("\n")[:-1]


def test_a_lock_of_another_thread_holds_no_worker_up(tmp_path):
    assert program(tmp_path, LOCKED, as_script=True) == ["[2, 2, 2]"]


def test_workers_know_what_a_notebook_defined(tmp_path):
    alone, ahead = program(tmp_path, OWN, as_script=False)
    assert alone == ahead and eval(ahead)[0] <= 127


def test_a_script_without_a_guard_still_reads(tmp_path):
    alone, ahead = program(tmp_path, OWN, as_script=True)
    assert alone == ahead


# ---- however the program was started ------------------------------------------------------------
EPOCH = """
from anomalib_nb.data.folder import Folder
from anomalib_nb.data.images import read_image


def read(path):
    return read_image(path) // 2


def epoch():
    places = dict(normal_dir="train/good", test_split_mode="none", val_split_mode="none")
    data = Folder("tiles", num_workers=2, train_batch_size=2, **places)
    data.read_image = read
    print([len(batch.image) for batch in data.train_dataloader()])
"""
PLAIN = EPOCH + "\n\nepoch()\n"
COMMENT = EPOCH + "\n\nepoch()  # runs as __main__, if __name__ == '__main__':\n"
LATE = EPOCH + "\n\nepoch()\nif __name__ == '__main__':\n    print('done')\n"
GUARDED = EPOCH + "\n\nif '__main__' == __name__:\n    epoch()\n"
OTHERWISE = (
    EPOCH + "\n\nif __name__ == '__main__':\n    pass\nelse:\n    raise SystemExit(7)\nepoch()\n"
)
KERNEL = """
import sys, types
main = types.ModuleType("__main__")  # as a kernel makes one
sys.modules["__main__"] = main
exec(compile({source!r}, "<cell 1>", "exec"), vars(main))
"""
QUICK = {
    "standard input": (PLAIN, []),
    "a comment": (COMMENT, ["main.py"]),
    "a guard elsewhere": (LATE, ["main.py"]),
}
WAYS = QUICK | {
    "a script": (PLAIN, ["main.py"]),
    "guarded standard input": (GUARDED, []),
    "-c": (PLAIN, ["-c", PLAIN]),
    "-m": (PLAIN, ["-m", "main"]),
    "-m of a guarded one": (GUARDED, ["-m", "main"]),
    "-m of a package": (PLAIN, ["-m", "pack"]),
    "a folder": (PLAIN, ["pack"]),
    "another way round": (OTHERWISE, ["main.py"]),
    "a guarded script": (GUARDED, ["main.py"]),
    "a kernel": (PLAIN, ["-c", KERNEL.format(source=PLAIN)]),
    "a link to a script": (GUARDED, ["./link"]),
    "after its end": (EPOCH, ["-i", "main.py"]),
}


@pytest.mark.parametrize("way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS])  # fmt: skip
def test_workers_start_however_the_program_was_started(tmp_path, way):
    text, command = WAYS[way]
    for i in range(4):
        trees.paint(tmp_path / f"tiles/train/good/{i}.png")
    (tmp_path / "pack").mkdir()
    for name in ("main.py", "pack/__main__.py"):
        (tmp_path / name).write_text(text)
    (tmp_path / "link").symlink_to("main.py")
    asked = "epoch()\n" if "-i" in command else text
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, input=asked, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.split("\n") if line and line != "done"] == ["[2, 2]"], (
        "once"
    )


GUARDS = {
    "if __name__ == '__main__':\n    a\n    b": {2, 3},
    'if "__main__" == __name__:\n    a': {2},
    "if __name__ == '__main__': a": {1},
    "if (__name__ ==\n    '__main__'):\n    a\nelse:\n    b": {3},
    "if __name__ != '__main__':\n    a": set(),
    "# if __name__ == '__main__':\na = '__main__'": set(),
    "def f():\n    if __name__ == '__main__':\n        a": set(),
    "if name == '__main__':\n    a": set(),
    "if __name__ == '__main__' or a:\n    b": set(),
    "no python": set(),
    "a = '\0'": set(),
}


@pytest.mark.parametrize("source", GUARDS)
def test_lines_that_no_worker_runs(source):
    assert guarded_lines(source.encode()) == GUARDS[source]


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_where_nothing_can_be_forked_it_reads_alone(tmp_path, monkeypatch, system):
    monkeypatch.setattr("anomalib_nb.data.workers.sys.platform", system)
    monkeypatch.setattr("anomalib_nb.data.workers.is_importable", lambda main: False)
    data = parts(tmp_path)(num_workers=2)
    with pytest.warns(UserWarning, match="reads alone.*below if __name__.*num_workers=0"):
        assert len(list(data.train_dataloader())) == 3


def parts(tmp_path, count=9, size=128):  # 49 kB of noise
    for i in range(count):
        trees.paint(tmp_path / f"good/{i}.png", (size, size))
    places = {"normal_dir": "good", "test_split_mode": "none", "val_split_mode": "none"}
    return partial(Folder, tmp_path, **places, train_batch_size=4)


def who_reads(monkeypatch):
    "The threads that read rows, while rows are read."
    seen, sample = set(), AnomalibDataset.sample

    def watched(self, i):
        seen.add(threading.current_thread().name)
        time.sleep(0.01)
        return sample(self, i)

    monkeypatch.setattr(AnomalibDataset, "sample", watched)
    return seen


def test_threads_read_what_one_reads_in_the_same_order(tmp_path, monkeypatch):
    read = parts(tmp_path)
    alone = read()
    monkeypatch.setattr("anomalib_nb.data.workers.cores", lambda: 1)
    expected = list(alone.train_dataloader())
    monkeypatch.setattr("anomalib_nb.data.workers.cores", lambda: 4)
    seen = who_reads(monkeypatch)
    found = list(read().train_dataloader())
    assert len(seen) > 1 and "MainThread" not in seen
    assert [b.image_path for b in found] == [b.image_path for b in expected]
    assert all(torch.equal(a.image, b.image) for a, b in zip(found, expected, strict=True))


def test_what_is_remembered_needs_no_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_nb.data.workers.cores", lambda: 4)
    loader = parts(tmp_path)().train_dataloader()
    list(loader), list(loader)  # the second epoch finds out that nothing is read
    seen = who_reads(monkeypatch)
    list(loader)
    assert seen == {"MainThread"}


def test_small_files_need_no_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_nb.data.workers.cores", lambda: 4)
    loader = parts(tmp_path, size=32)().train_dataloader()
    next(iter(loader))  # the first batch finds out how large they are
    seen = who_reads(monkeypatch)
    list(loader)
    assert seen == {"MainThread"}


def test_a_reader_that_is_not_ours_is_never_shared(tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_nb.data.workers.cores", lambda: 4)
    data = parts(tmp_path)()
    data.read_image = lambda path: read_image(path)
    seen = who_reads(monkeypatch)
    list(data.train_dataloader())
    assert seen == {"MainThread"}


def test_an_error_in_a_thread_names_the_first_file(tmp_path, monkeypatch):
    monkeypatch.setattr("anomalib_nb.data.workers.cores", lambda: 4)
    data = parts(tmp_path)()
    for i in range(9):
        (tmp_path / f"good/{i}.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"good/\d.png cannot be read as an image"):
        list(data.train_dataloader())


def test_threads_do_not_overfill_a_cache(tmp_path):
    paths = [str(trees.paint(tmp_path / f"{i}.png")) for i in range(40)]
    cache = MemoryCache(10 * 32 * 32 * 3 / 1e6)
    read = Remembered(read_image, cache)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            list(pool.map(read, paths))
    assert len(cache.kept) == 10
    assert cache.used == sum(picture.values.nbytes for picture in cache.kept.values())


def test_readers_have_no_helpers_and_take_none_from_the_program():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        pool.cache_clear()
        found = list(in_threads(lambda row: torch.get_num_threads(), range(20)))
        assert cores() == 1 or set(found) == {1}
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
