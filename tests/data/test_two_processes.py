"""Several processes at once want one data set in one folder, and some are killed: all of it, or not yet."""

import hashlib
import io
import json
import os
import random
import signal
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

from anomalib_nb.data.download import HERE, Download, alone, fetch, left_behind, unfinished, unpack

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")

START = """
import json, sys
from pathlib import Path
from anomalib_nb.data import download
from anomalib_nb.data.download import Download, fetch, unpack
url, sha, name, root, locks = json.loads(sys.argv[1])
root = Path(root)
if not locks:
    import filelock
    def none(self, *a, **k):
        raise OSError(37, "No locks available")
    filelock.FileLock.acquire = none
print("ready", flush=True)
sys.stdin.readline()
"""
GET = START + "unpack(fetch(Download(url, sha, name), root), root)"
UNPACK = START + "unpack(root.parent / name, root)"


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
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Team:
    "Processes that start at the same moment."

    def __init__(self, count, program, *, url=None, sha="0" * 64, name, root, locks=True):
        argument = json.dumps([url, sha, name, str(root), locks])
        command = [sys.executable, "-c", program, argument]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.all = [subprocess.Popen(command, text=True, **pipes) for _ in range(count)]
        for one in self.all:
            assert one.stdout.readline() == "ready\n", one.stderr.read()

    def go(self) -> "Team":
        for one in self.all:
            one.stdin.write("\n")
            one.stdin.flush()
        return self

    def ends(self, kill: float | None = None) -> list[str]:
        "What they said; one is killed after so many seconds."
        if kill is not None:
            time.sleep(kill)
            self.all[0].send_signal(signal.SIGKILL)
        said = [one.communicate(timeout=120) for one in self.all]
        for one, (_, error) in list(zip(self.all, said, strict=True))[kill is not None :]:
            assert one.returncode == 0, error[-2000:]
        return [out for out, _ in said]


def whole(root: Path, files: dict[str, bytes], archive: str | None = None) -> None:
    "Every file is there and right, and nothing else is."
    found = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    assert sorted(found) == sorted([*files, *([archive] if archive else [])])
    assert all(found[name].read_bytes() == content for name, content in files.items())
    assert not unfinished(root)


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
@pytest.mark.parametrize("make", [flat, deep])
def test_two_unpack_into_one_folder(tmp_path, make, locks):
    files = make(3000)
    packed(tmp_path / "set.zip", files)
    said = Team(2, UNPACK, name="set.zip", root=tmp_path / "root", locks=locks).go().ends()
    whole(tmp_path / "root", files)
    assert sum("waiting until it is done" in out for out in said) == locks, "the second says it waits"


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_four_fetch_and_unpack(tmp_path, server, locks):
    files = deep(400)
    server.content = packed(tmp_path / "set.tar.gz", files).read_bytes() + b""
    server.step = len(server.content) // 50 + 1
    sha, root = hashlib.sha256(server.content).hexdigest(), tmp_path / "root"
    url = f"http://127.0.0.1:{server.server_port}/x"
    Team(4, GET, url=url, sha=sha, name="set.tar.gz", root=root, locks=locks).go().ends()
    whole(root, files, "set.tar.gz")
    assert hashlib.sha256((root / "set.tar.gz").read_bytes()).hexdigest() == sha
    assert (server.starts == [0]) == locks, "with locks one gets it, and the others find it there"


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_one_of_three_is_killed_while_it_unpacks(tmp_path, locks):
    files = flat(2000)
    packed(tmp_path / "set.zip", files)
    for kill in (0.02, 0.1, 0.2):
        root = tmp_path / f"root{kill}"
        Team(3, UNPACK, name="set.zip", root=root, locks=locks).go().ends(kill)
        if locks:
            unpack(tmp_path / "set.zip", root)  # the killed one may have been the last
            whole(root, files)
        else:  # what the killed one left under its own name stays, and harms nobody
            found = [path.name for path in root.iterdir() if not path.name.startswith(".")]
            assert sorted(found) == sorted(files)
            assert all((root / name).read_bytes() == content for name, content in files.items())


def test_what_a_killed_one_has_got_is_continued(tmp_path, server):
    content = random.Random(0).randbytes(6 << 20)
    server.content, server.wait = content, 0.02
    wanted = Download(f"http://127.0.0.1:{server.server_port}/x", hashlib.sha256(content).hexdigest(), "set.zip")
    root = tmp_path / "root"
    team = Team(1, GET, url=wanted.url, sha=wanted.sha256, name="set.zip", root=root).go()
    while not any(path.stat().st_size >= 1 << 20 for path in root.glob("set.zip.part.*")):
        time.sleep(0.02)
    team.ends(kill=0)
    [left] = root.glob("set.zip.part.*")
    got, server.wait = left.stat().st_size, 0
    assert fetch(wanted, root).read_bytes() == content
    assert server.starts == [0, got] and [path.name for path in root.iterdir()] == ["set.zip"]


def test_killed_again_and_again(tmp_path, server):
    "Two at a time, one of them killed, at ten different moments: the last ones find it whole."
    files, lot, root = deep(300), random.Random(1), tmp_path / "root"
    server.content = packed(tmp_path / "set.zip", files).read_bytes()
    server.step, server.wait = len(server.content) // 20 + 1, 0.01
    sha = hashlib.sha256(server.content).hexdigest()
    place = {"url": f"http://127.0.0.1:{server.server_port}/x", "sha": sha, "name": "set.zip", "root": root}
    for _ in range(4):
        Team(1, GET, **place).go().ends(kill=lot.uniform(0, 0.3))
    Team(2, GET, **place).go().ends()
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
WRITE = """
import sys
from anomalib_nb.data import write_demo_folder
print("ready", flush=True)
sys.stdin.readline()
write_demo_folder(__import__("json").loads(sys.argv[1])[3], "tile", train=6, test=6, size=48)
"""


def test_two_write_the_demo_folder(tmp_path):
    from anomalib_nb.data import write_demo_folder

    Team(2, WRITE, name="", root=tmp_path / "demo").go().ends()
    alike = write_demo_folder(tmp_path / "alone", "tile", train=6, test=6, size=48)
    files = {p.relative_to(alike).as_posix(): p.read_bytes() for p in alike.rglob("*") if p.is_file()}
    whole(tmp_path / "demo", files)
