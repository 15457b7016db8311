"""Workers answer: from programs with threads, with classes of a notebook, from scripts of any kind."""

import os
import subprocess
import sys
from textwrap import dedent

import trees

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
