"""Several processes at once want one data set in one folder, and some are killed: all of it, or not yet."""

import hashlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from anomalib_nb.data import write_demo_folder
from anomalib_nb.data.download import HERE, Download, alone, fetch, left_behind, unfinished, unpack

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")

# imports once, then forks whom it is asked for: real processes that start at the same moment
NURSERY = """
import json, os, signal, sys, traceback
from pathlib import Path
import filelock
from anomalib_nb.data import write_demo_folder
from anomalib_nb.data import write_demo_folder
from anomalib_nb.data.download import Download, fetch, unpack


def no_locks(*_, **__):
    raise OSError(37, "No locks available")


def work(what, root, url, sha, name, locks):
    if not locks:
        filelock.FileLock.acquire = no_locks
    if what == "draw":
        write_demo_folder(root, "tile", train=6, test=6, size=48)
    elif what == "unpack":
        unpack(root.parent / name, root)
    else:
        unpack(fetch(Download(url, sha, name), root), root)


def child(task, said):
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    try:
        work(**task | {"root": Path(task["root"])})
        sys.stdout.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


print("ready", flush=True)
while line := sys.stdin.readline():
    task, processes = json.loads(line), []
    task_kills = task.pop("kills")
    for said in task.pop("said"):
        processes.append(os.fork())
        if not processes[-1]:
            child(task, said)
    print(json.dumps({"processes": len(processes)}), flush=True)
    if task_kills and sys.stdin.readline():
        os.kill(processes[0], signal.SIGKILL)  # it may have ended; its number is kept until it is asked for
    codes = [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in processes]
    print(json.dumps({"codes": codes}), flush=True)
"""


@pytest.fixture(scope="module")
def nursery():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", NURSERY], text=True, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def at_once(nursery, tmp_path):
    "Several processes that do the same at the same moment; the first may be killed after a while."

    def run(count, what, root, *, url=None, sha="0" * 64, name="", locks=True, kill=None):
        said = [tmp_path / f"said{i}" for i in range(count)]
        task = {
            "what": what,
            "root": str(root),
            "url": url,
            "sha": sha,
            "name": name,
            "locks": locks,
        }
        more = {"said": [str(path) for path in said], "kills": kill is not None}
        nursery.stdin.write(json.dumps(task | more) + "\n")
        nursery.stdin.flush()
        assert "processes" in json.loads(nursery.stdout.readline())
        try:
            if kill is not None:
                kill() if callable(kill) else time.sleep(kill)
        finally:
            if kill is not None:
                nursery.stdin.write("kill\n")
                nursery.stdin.flush()
            codes = json.loads(nursery.stdout.readline())["codes"]
        words = [path.read_text(errors="replace") if path.exists() else "" for path in said]
        first = int(kill is not None)
        assert codes[first:] == [0] * (count - first), "\n".join(words)
        return words

    return run


def flat(count: int) -> dict[str, bytes]:
    "Many small files side by side: there is time to be killed between any two of them."
    return {f"{i:05}.png": b"%d" % i * 50 for i in range(count)}


def deep(count: int) -> dict[str, bytes]:
    return {f"set/{i % 7}/{i:05}.png": b"%d" % i * 50 for i in range(count)}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


class Slow(BaseHTTPRequestHandler):
    "Sends the server's content little by little, from where it is asked to."

    def do_GET(self):
        content, start = self.server.content, int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.server.starts.append(start)
        self.send_response(206 if start and start < len(content) else 416 if start else 200)
        self.send_header("Content-Length", str(max(0, len(content) - start)))
        self.end_headers()
        for place in range(start, len(content), self.server.step):
            try:
                self.wfile.write(content[place : place + self.server.step])
            except OSError:
                return  # they were killed
            time.sleep(self.server.wait)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    server.content, server.starts, server.step, server.wait = b"", [], 1 << 16, 0.002
    server.url = f"http://127.0.0.1:{server.server_port}/x"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def whole(root: Path, files: dict[str, bytes], archive: str | None = None) -> None:
    "Every file is there and right, and nothing else is."
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    assert sorted(found) == sorted([*files, *([archive] if archive else [])])
    assert all(found[name].read_bytes() == content for name, content in files.items())
    assert not unfinished(root)


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
@pytest.mark.parametrize("make", [flat, deep])
def test_two_unpack_into_one_folder(at_once, tmp_path, make, locks):
    files = make(800)
    packed(tmp_path / "set.zip", files)
    said = at_once(2, "unpack", tmp_path / "root", name="set.zip", locks=locks)
    whole(tmp_path / "root", files)
    assert sum("waiting until it is done" in out for out in said) == locks, (
        "the second says it waits"
    )


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
@pytest.mark.parametrize("count", [2, 4])
def test_several_fetch_and_unpack(at_once, tmp_path, server, locks, count):
    files = deep(200)
    server.content = packed(tmp_path / "set.tar.gz", files).read_bytes()
    server.step = len(server.content) // 20 + 1
    sha, root = hashlib.sha256(server.content).hexdigest(), tmp_path / "root"
    at_once(count, "get", root, url=server.url, sha=sha, name="set.tar.gz", locks=locks)
    whole(root, files, "set.tar.gz")
    assert hashlib.sha256((root / "set.tar.gz").read_bytes()).hexdigest() == sha
    assert server.starts[0] == 0 and (len(server.starts) == 1) >= locks, "with locks one gets it"


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_one_of_three_is_killed_while_it_unpacks(at_once, tmp_path, locks):
    files = flat(600)
    packed(tmp_path / "set.zip", files)
    for kill in (0.02, 0.1, 0.25):
        root = tmp_path / f"root{kill}"
        at_once(3, "unpack", root, name="set.zip", locks=locks, kill=kill)
        unpack(tmp_path / "set.zip", root)  # the killed one may have been the last
        whole(root, files)


def test_one_is_killed_between_two_files(at_once, tmp_path):
    files, root = flat(1500), tmp_path / "root"
    packed(tmp_path / "set.zip", files)

    def when_it_moves():
        while not any(root.glob("0*.png")):
            time.sleep(0.001)

    at_once(1, "unpack", root, name="set.zip", kill=when_it_moves)
    assert not unfinished(root, "other.zip")
    assert (
        unfinished(root, "set.zip") == unfinished(root) == (len(list(root.glob("*.png"))) < 1500)
    ), "it can be seen that files are missing"
    unpack(tmp_path / "set.zip", root)
    whole(root, files)


def test_what_a_killed_one_has_got_is_continued(at_once, tmp_path, server):
    server.content, server.wait = random.Random(0).randbytes(6 << 20), 0.02
    wanted = Download(server.url, hashlib.sha256(server.content).hexdigest(), "set.zip")
    root = tmp_path / "root"

    def when_some_has_come():
        while not any(path.stat().st_size >= 1 << 20 for path in root.glob("set.zip.part.*")):
            time.sleep(0.01)

    at_once(
        1, "get", root, url=wanted.url, sha=wanted.sha256, name="set.zip", kill=when_some_has_come
    )
    [left] = root.glob("set.zip.part.*")
    got, server.wait = left.stat().st_size, 0
    assert fetch(wanted, root).read_bytes() == server.content
    assert server.starts == [0, got] and [path.name for path in root.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("lot", range(3))
def test_killed_again_and_again(at_once, tmp_path, server, lot):
    "Two at a time, one of them killed at any moment: the last ones find it whole, or make it so."
    files, moments, root = deep(150), random.Random(lot), tmp_path / "root"
    server.content = packed(tmp_path / "set.zip", files).read_bytes()
    server.step, server.wait = len(server.content) // 20 + 1, 0.01
    sha = hashlib.sha256(server.content).hexdigest()
    place = {"url": server.url, "sha": sha, "name": "set.zip"}
    for _ in range(5):
        at_once(1, "get", root, **place, kill=moments.uniform(0, 0.4))
    at_once(2, "get", root, **place, kill=moments.uniform(0, 0.4))
    at_once(2, "get", root, **place)
    whole(root, files, "set.zip")
    assert hashlib.sha256((root / "set.zip").read_bytes()).hexdigest() == sha


# ---- what may be cleared away -------------------------------------------------------------------
def ended() -> int:
    "The number of a process that has ended."
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_only_what_nobody_writes_is_left_behind(tmp_path):
    here = f"{HERE}-{ended()}-01234567"
    alive = f"{HERE}-{os.getppid()}-01234567"
    far, old = "elsewhere-1-01234567", "elsewhere-1-76543210"
    for owner in (here, alive, far, old, "mine"):
        (tmp_path / f"a.part.{owner}").write_bytes(b"half")
    os.utime(tmp_path / f"a.part.{old}", (0, 0))

    def left(certain):
        return sorted(path.name[7:] for path in left_behind(tmp_path / "a.part", certain))

    assert left(certain=True) == sorted([here, old])
    assert left(certain=False) == [old]


@pytest.mark.parametrize("error", [OSError(37, "No locks available"), NotImplementedError()])
def test_a_network_drive_without_locks(tmp_path, monkeypatch, error):
    def refused(*_, **__):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with alone(tmp_path) as certain:
        assert not certain
    files = deep(10)
    unpack(packed(tmp_path / "set.zip", files), tmp_path / "root")
    whole(tmp_path / "root", files)


def test_a_lock_that_a_killed_process_left(tmp_path):
    (tmp_path / ".lock").write_bytes(b"")
    with alone(tmp_path) as certain:
        assert certain
    assert list(tmp_path.iterdir()) == []


def test_this_machine_has_a_name():
    assert HERE and len(HERE) <= 40 and socket.gethostname()[:1] == HERE[:1]


# ---- demo data ----------------------------------------------------------------------------------
def test_two_write_the_demo_folder(at_once, tmp_path):
    at_once(2, "draw", tmp_path / "demo")
    alike = write_demo_folder(tmp_path / "alone", "tile", train=6, test=6, size=48)
    files = [path for path in alike.rglob("*") if path.is_file()]
    whole(
        tmp_path / "demo", {path.relative_to(alike).as_posix(): path.read_bytes() for path in files}
    )
