"""Archives from the network: continued, verified, unpacked whole or not at all. A server on 127.0.0.1 answers."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import re
import shutil
import stat
import tarfile
import tracemalloc
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import URLError

import pytest
from trees import mvtec_like

from anomalib_nb.data import (
    AutoVI,
    Avenue,
    BTech,
    Download,
    Kolektor,
    MVTecAD,
    MVTecAD2,
    MVTecLOCO,
    NamedDataModule,
    UCSDped,
    VisA,
    archives_of,
    list_datasets,
)
from anomalib_nb.data.download import Limits, ask, extract, fetch, safe_place, unpack

CONTENT = bytes(range(256)) * 2000  # 512 000 bytes


class Server(ThreadingHTTPServer):
    "Serves `content` under every address; its attributes say how it misbehaves."

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.starts = CONTENT, []
        self.ranges, self.status, self.cut, self.length, self.to = True, 200, None, True, None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] and server.ranges else 0
        server.starts.append(start)
        if server.to or server.status >= 400 or start >= len(server.content):
            self.send_response(302 if server.to else server.status if server.status >= 400 else 416)
            if server.to:
                self.send_header("Location", server.to)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if server.length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : server.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def wanted(server):
    return Download(server.url, sha(CONTENT))


# ---- getting ------------------------------------------------------------------------------------
def test_a_whole_file(server, wanted, tmp_path):
    assert fetch(wanted, tmp_path / "new").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.zip"]
    fetch(wanted, tmp_path / "new")
    assert server.starts == [0], "what is there is not fetched again"


def test_a_bar_shows_how_far_it_is(wanted, tmp_path, capsys):
    fetch(wanted, tmp_path)
    assert "512k" in capsys.readouterr().err


def test_an_interrupted_file_is_continued(server, wanted, tmp_path):
    server.cut = 200_000
    with pytest.raises(ConnectionError, match=r"200,000 of 512,000 bytes.*next call continues"):
        fetch(wanted, tmp_path)
    assert not (tmp_path / "set.zip").exists() and (tmp_path / "set.zip.part").exists()
    server.cut = None
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT and server.starts == [0, 200_000]
    assert not (tmp_path / "set.zip.part").exists()


def test_a_server_without_ranges_begins_anew(server, wanted, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(b"something old")
    server.ranges = False
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_the_whole(server, wanted, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT and server.starts == [len(CONTENT)]


def test_a_length_that_nobody_tells(server, wanted, tmp_path):
    server.length = False
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("start", [b"", b"a wrong beginning"])
def test_a_wrong_file_is_thrown_away(server, wanted, tmp_path, start):
    (tmp_path / "set.zip.part").write_bytes(start)
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match="thrown away") as error:
        fetch(wanted, tmp_path)
    got = start + server.content[len(start) :]
    assert sha(got) in str(error.value) and sha(CONTENT) in str(error.value)
    assert list(tmp_path.iterdir()) == [], "nothing stays that could be taken for the file"


@pytest.mark.parametrize("content", [CONTENT[:1000], b"", CONTENT + b"!"])
def test_a_wrong_file_put_there_by_hand(server, wanted, tmp_path, content):
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(ValueError, match=sha(content)):
        fetch(wanted, tmp_path)
    assert server.starts == [] and (tmp_path / "set.zip").read_bytes() == content


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_server_that_says_no(server, wanted, tmp_path, status):
    server.status = status
    with pytest.raises(ConnectionError, match=f"answers {status}") as error:
        fetch(wanted, tmp_path, "https://page.example")
    for part in ("set.zip", "https://page.example", str(tmp_path), "verified and used"):
        assert part in str(error.value)


def test_nobody_there(server, wanted, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"cannot be had \(.*refused.*put it into"):
        fetch(wanted, tmp_path)


def test_silence(wanted, tmp_path, monkeypatch):
    def wait(url, start):
        raise TimeoutError("timed out")

    monkeypatch.setattr("anomalib_nb.data.download.ask", wait)
    with pytest.raises(ConnectionError, match=r"cannot be had \(timed out\)"):
        fetch(wanted, tmp_path)


def test_a_disk_that_is_known_to_be_too_small(wanted, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("anomalib_nb.data.download.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="is full: .* free and .* needed.*Make room") as error:
        fetch(wanted, tmp_path)
    assert error.value.errno == errno.ENOSPC


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_disk_that_fills_up(server, wanted, tmp_path):
    server.length = False
    (tmp_path / "set.zip.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="is full.*Make room"):
        fetch(wanted, tmp_path)


# ---- addresses ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "url",
    ["http://data.example/a.zip", "ftp://data.example/a.zip", "file:///etc/passwd", "a.zip",
     "http://127.0.0.1.data.example/a.zip", "http://localhost/a.zip"],
)  # fmt: skip
def test_only_https(url):
    with pytest.raises(ValueError, match="no https address"):
        Download(url, "0" * 64)


@pytest.mark.parametrize(
    "to, match",
    [("http://data.example/a.zip", "no https address"), ("file:///etc/passwd", "not allowed")],
)
def test_no_way_round(server, wanted, tmp_path, to, match):
    server.to = to
    with pytest.raises((ValueError, ConnectionError), match=match):
        fetch(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_sha256():
    for wrong in ("d8bb2800fbf3ac88e798da6ae10dc819", "", "Z" * 64, "A" * 64):
        with pytest.raises(ValueError, match="no SHA-256"):
            Download("https://data.example/a.zip", wrong)
    with pytest.raises(ValueError, match="neither address nor name"):
        Download(None, "0" * 64)


# ---- odd answers --------------------------------------------------------------------------------
class Odd(BaseHTTPRequestHandler):
    "Answers with the bytes that it is told to, and hangs up."

    def handle(self):
        request = b""
        while b"\r\n\r\n" not in request and (more := self.connection.recv(1 << 16)):
            request += more
        self.server.requests.append(request.decode())
        answers = self.server.answers
        self.wfile.write(answers.pop(0) if len(answers) > 1 else answers[0])


@pytest.fixture
def odd():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    server.daemon_threads, server.requests, server.answers = True, [], [b""]
    server.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


SHORT = CONTENT[:3000]
FULL = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + SHORT
LIES = ["text", "-5", "", "1e3", "9" * 400, "9" * 5000, "\u00b2", "3000, 3000", "0x10", "12 34"]


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


def had_or_told(odd, tmp_path, *answers: bytes) -> bool:
    "Is the file there in the end? If not an error of ours says why and what to do."
    odd.answers = list(answers)
    wanted = Download(odd.url, sha(SHORT))
    try:
        assert fetch(wanted, tmp_path).read_bytes() == SHORT
    except (ConnectionError, ValueError, OSError) as error:
        assert type(error) in (ConnectionError, ValueError, OSError), repr(error)
        assert re.search("Get set.zip from|thrown away; try again|Make room", str(error)), str(
            error
        )
        assert not (tmp_path / "set.zip").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"set.zip", "set.zip.part"}
    return (tmp_path / "set.zip").exists()


@pytest.mark.parametrize("length", LIES)
def test_a_length_that_makes_no_sense(odd, tmp_path, length):
    assert had_or_told(odd, tmp_path, answer("200 OK", f"Content-Length: {length}", body=SHORT))


@pytest.mark.parametrize("length", ["10", "2999", "3001", "999999999999999", "999999999999"])
def test_a_length_that_lies(odd, tmp_path, length):
    assert not had_or_told(odd, tmp_path, answer("200 OK", f"Content-Length: {length}", body=SHORT))
    assert had_or_told(odd, tmp_path, answer("416 Satisfied"), FULL) or had_or_told(
        odd, tmp_path, FULL
    )


@pytest.mark.parametrize(
    "said, fine",
    [("bytes 1000-2999/3000", True), ("bytes 1000-2999/*", True), ("bytes 500-2999/3000", True),
     ("bytes 0-2999/3000", True), ("bytes 2000-2999/3000", False), ("bytes -5-2/7", True),
     ("text", True), ("bytes 99999999999999999999-1/1", True), ("", True)],
)  # fmt: skip
def test_where_the_rest_of_a_file_begins(odd, tmp_path, said, fine):
    (tmp_path / "set.zip.part").write_bytes(SHORT[:1000])
    begin = int(said[6:].split("-")[0]) if re.match(r"bytes \d{1,5}-", said) else 1000
    rest = answer("206 Partial", f"Content-Range: {said}", body=SHORT[begin:])
    assert had_or_told(odd, tmp_path, rest) == fine
    assert "Range: bytes=1000-" in odd.requests[0]


@pytest.mark.parametrize("header", ["Content-Range: bytes */3000", "Content-Range: text", "X: 1", "Content-Range: bytes */-1"])  # fmt: skip
@pytest.mark.parametrize("part", [None, b"", SHORT[:100], SHORT])
def test_nothing_after_what_we_have(odd, tmp_path, header, part):
    if part is not None:
        (tmp_path / "set.zip.part").write_bytes(part)
    assert had_or_told(odd, tmp_path, answer("416 No", header)) == (part == SHORT)
    assert had_or_told(odd, tmp_path, FULL), "what was wrong has been thrown away"


@pytest.mark.parametrize(
    "to",
    ["", "http://[1", "https://[::1", "//", "file:///etc/passwd", "ftp://127.0.0.1/", "http://127.0.0.1:99999/x",
     "http://127.0.0.1:text/x", "https://" + "a" * 300 + ".example/", "https://\u00e9\u00e9..x/", "javascript:1",
     "/set.zip", "http://127.0.0.1\x7f/", "https://user:word@127.0.0.1:1/", "http://0x7f000001/", "mailto:a"],
)  # fmt: skip
def test_where_an_answer_sends_us(odd, tmp_path, to):
    assert not had_or_told(odd, tmp_path, answer("302 Found", f"Location: {to}"))
    assert not had_or_told(odd, tmp_path, answer("301 Moved", f"URI: {to}"))


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "body, fine",
    [(b"bb8\r\n" + SHORT + b"\r\n0\r\n\r\n", True), (b"bb8\r\n" + SHORT[:200], False), (b"-5\r\nabc", False),
     (b"text\r\n", False), (b"", False), (b"0\r\n\r\n", False), (b"f" * 70000 + b"\r\n", False), (b"ffffffffffffffff\r\nabc", False)],
)  # fmt: skip
def test_an_answer_in_chunks(odd, tmp_path, body, fine):
    assert had_or_told(odd, tmp_path, answer("200 OK", CHUNKED, body=body)) == fine
    assert (
        had_or_told(odd, tmp_path, answer("200 OK", CHUNKED, "Content-Length: 7", body=body))
        == fine
    )
    assert fine or had_or_told(odd, tmp_path, FULL)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0\1\2", b"HTTP/1.1", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"HTTP/1.1 99999 X\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
     b"HTTP/1.1 204 Nothing\r\n\r\n", b"HTTP/1.1 206 Partial\r\n\r\n" + SHORT[:9], b"HTTP/1.1 304 Same\r\n\r\n",
     b"HTTP/1.1 401 Who\r\nWWW-Authenticate: \xff\r\n\r\n", b"HTTP/1.1 407 P\r\nProxy-Authenticate: x\r\n\r\n",
     b"HTTP/1.1 500 \xff\xfe\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length", b"HTTP/1.1 100 Go\r\n\r\n", b"SSH-2.0-x\r\n"],
)  # fmt: skip
def test_no_answer_at_all(odd, tmp_path, raw):
    assert not had_or_told(odd, tmp_path, raw)
    assert had_or_told(odd, tmp_path, FULL)


def test_a_name_that_is_no_file():
    for url in ("https://data.example/", "https://data.example/..", "https://[1", "https://"):
        with pytest.raises(ValueError, match="is no name of a file|no https address"):
            Download(url, "0" * 64)
    for name in ("..", "a/b.zip", "..\\a.zip", "/etc/passwd"):
        with pytest.raises(ValueError, match="is no name of a file. Give the download a name"):
            Download("https://data.example/a.zip", "0" * 64, name)


def test_the_rest_of_a_file(server):
    with ask(server.url, 511_990) as answer:
        assert answer.status == 206 and answer.read() == CONTENT[-10:]


# ---- unpacking ----------------------------------------------------------------------------------
def zipped(path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


COMPRESSED = {
    ".xz": ":xz", ".txz": ":xz", ".gz": ":gz", ".tgz": ":gz", ".bz2": ":bz2", ".tbz2": ":bz2",
}  # fmt: skip


def tarred(path: Path, files: dict[str, bytes], kind: bytes = tarfile.REGTYPE, link="") -> Path:
    with tarfile.open(path, "w" + COMPRESSED.get(path.suffix, "")) as archive:  # fmt: skip
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            info.mode = 0o6777
            archive.addfile(info, io.BytesIO(content))
    return path


FILES = {"bottle/train/1.png": b"one", "bottle/test/2.png": b"two", "read me.txt": b""}


@pytest.mark.parametrize(
    "name",
    ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.txz", "a.tar.bz2", "a.tbz2", "A.ZIP"],
)
def test_every_kind_of_archive(tmp_path, name):
    (zipped if name.lower().endswith("zip") else tarred)(tmp_path / name, FILES)
    new = unpack(tmp_path / name, tmp_path / "set")
    assert [path.name for path in new] == ["bottle", "read me.txt"]
    for path, content in FILES.items():
        assert (tmp_path / "set" / path).read_bytes() == content
        assert not (tmp_path / "set" / path).stat().st_mode & (stat.S_ISUID | stat.S_ISGID | 0o111)
    assert sorted(os.listdir(tmp_path / "set")) == ["bottle", "read me.txt"]


def refused(archive: Path, match: str, **limits) -> None:
    "An archive is refused, and leaves nothing behind."
    home = archive.parent / "home" / "set"
    with pytest.raises(ValueError, match=match):
        unpack(archive, home, limits=Limits(**limits))
    found = [path for path in archive.parent.rglob("*") if path not in (archive, home, home.parent)]
    assert found == []


EVIL = ["../evil.png", "../../evil.png", "/tmp/evil.png", "good/../../evil.png", "..\\evil.png",
        "C:\\evil.png", "C:/evil.png", "\\\\host\\evil.png"]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_paths_that_lead_out(tmp_path, name):
    for make, suffix in ((zipped, "zip"), (tarred, "tar.gz")):
        folder = tmp_path / suffix
        folder.mkdir()
        refused(make(folder / f"a.{suffix}", {"good.png": b"1", name: b"2"}), "leads out")
    with pytest.raises(ValueError, match="leads out"):
        safe_place("a\0b")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
    ids=["symlink", "hardlink", "character device", "block device", "pipe"],
)
def test_members_that_are_no_files(tmp_path, kind):
    refused(tarred(tmp_path / "a.tar", {"bottle/x": b""}, kind, "../../.."), "a link or a device")


def test_a_link_in_a_zip(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"x": b"/etc"}, stat.S_IFLNK | 0o777)
    refused(archive, "'x', a link")


def test_a_link_and_a_file_through_it(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("out")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(info)
        info = tarfile.TarInfo("out/evil.png")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"evil"))
    refused(tmp_path / "a.tar", "a link")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz", "bomb.tar.xz"])
def test_bombs(tmp_path, name):
    make = zipped if name.endswith("zip") else tarred
    archive = make(tmp_path / name, {f"{i}.png": bytes(1 << 20) for i in range(4)})
    assert archive.stat().st_size < 20_000
    refused(archive, "unfolds into far more", harmless=1 << 20)
    refused(archive, "unfolds into far more", size=1 << 20)
    refused(archive, "more than 3 members", members=3)
    unpack(archive, tmp_path / "set")  # four megabytes harm nobody


def test_a_size_that_lies(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.png": bytes(100_000)})
    raw = archive.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    archive.write_bytes(raw)
    refused(archive, "cannot be unpacked")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("part", [0, 0.5, 0.8])
def test_truncated(tmp_path, name, part):
    noise = {f"{i}.png": os.urandom(20_000) for i in range(3)}
    archive = (zipped if name.endswith("zip") else tarred)(tmp_path / name, noise)
    archive.write_bytes(archive.read_bytes()[: int(part * archive.stat().st_size)])
    refused(archive, "cannot be unpacked")


def test_damaged(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"no tar" * 1000))
    refused(tmp_path / "a.tar.gz", "cannot be unpacked")
    (tmp_path / "a.tar.gz").unlink()
    archive = zipped(tmp_path / "a.zip", {"a.png": os.urandom(1000)})
    raw = bytearray(archive.read_bytes())
    raw[500] ^= 1
    archive.write_bytes(raw)
    refused(archive, "cannot be unpacked")


def test_two_members_in_one_place(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.png", "1")
            archive.writestr("a.png", "2")
    refused(tmp_path / "a.zip", "cannot be unpacked")
    (tmp_path / "a.zip").unlink()
    refused(zipped(tmp_path / "b.zip", {"a": b"1", "a/b.png": b"2"}), "cannot be unpacked")


def test_no_archive(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    refused(tmp_path / "a.rar", r"Expected \.zip, \.tar")


def test_what_a_mac_adds_is_left_out(tmp_path):
    archive = zipped(
        tmp_path / "a.zip", {"a/1.png": b"1", "a/._1.png": b"", "__MACOSX/a/1.png": b""}
    )
    unpack(archive, tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").rglob("*.png")] == ["1.png"]


def test_what_is_there_stays(tmp_path):
    mine = tmp_path / "set" / "bottle" / "train" / "1.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    new = unpack(zipped(tmp_path / "a.zip", FILES), tmp_path / "set")
    assert [path.name for path in new] == ["read me.txt"] and mine.read_bytes() == b"mine"


def test_a_killed_unpacking_is_begun_anew(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES)
    left = tmp_path / "set" / ".unpacking-a.zip" / "bottle" / "train" / "1.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    unpack(archive, tmp_path / "set")
    assert (tmp_path / "set/bottle/train/1.png").read_bytes() == b"one"
    assert sorted(os.listdir(tmp_path / "set")) == ["bottle", "read me.txt"]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("anomalib_nb.data.download.copy_member", stop)
    with pytest.raises(KeyboardInterrupt):
        unpack(zipped(tmp_path / "a.zip", FILES), tmp_path / "set")
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize("inner, first", [("v1*", "bottle"), ("v2", "v1p2"), ("", "v1p2")])
def test_a_folder_around_everything(tmp_path, inner, first):
    archive = zipped(tmp_path / "a.zip", {"v1p2/bottle/1.png": b"1", "v1p2/cable/1.png": b"1"})
    assert unpack(archive, tmp_path / "set", inner)[0].name == first


def test_extract_into_a_folder(tmp_path):
    extract(tarred(tmp_path / "a.tar", FILES), tmp_path / "out")
    assert (tmp_path / "out/bottle/test/2.png").read_bytes() == b"two"


# ---- damaged archives ---------------------------------------------------------------------------
CORPUS = ["a.zip", "stored.zip", "a.tar", "pax.tar", "gnu.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"]
LONG = "bottle/" + "n" * 150 + ".png"  # needs a name of its own in a tar


def sound(path: Path) -> dict[str, bytes]:
    "An archive of every kind, with folders, an empty file, a long name and a large member."
    lot = random.Random(0)
    files = {"bottle/1.png": lot.randbytes(3000), "bottle/empty.txt": b"", LONG: lot.randbytes(100),
             "cable/2.png": lot.randbytes(600)}  # fmt: skip
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir("bottle")
            for name, content in files.items():
                kind = zipfile.ZIP_STORED if path.name == "stored.zip" else zipfile.ZIP_DEFLATED
                archive.writestr(name, content, kind)
        return files
    form = tarfile.GNU_FORMAT if path.name == "gnu.tar" else tarfile.PAX_FORMAT
    with tarfile.open(path, "w" + COMPRESSED.get(path.suffix, ""), format=form) as archive:
        info = tarfile.TarInfo("bottle")
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return files


def damaged(content: bytes, lot: random.Random, gap: int) -> bytes:
    "What a broken disk, line or program makes of a file."
    place, length = lot.randrange(len(content)), len(content)
    match lot.randrange(8):
        case 0:
            return content[:place]
        case 1:
            return (
                content[:place]
                + bytes([content[place] ^ 1 << lot.randrange(8)])
                + content[place + 1 :]
            )
        case 2:
            return content[:place] + lot.randbytes(4) + content[place + 4 :]
        case 3:
            end = lot.choice([place, place // 512 * 512])
            return content[:end] + bytes(512) + content[end + 512 :]
        case 4:
            return content[:place] + content[place + lot.choice([1, gap]) :]
        case 5:
            return content[:place] + lot.randbytes(lot.choice([1, 512])) + content[place:]
        case 6:
            return content + lot.choice([b"garbage", lot.randbytes(600), content[:place]])
        case _:  # in what stands at the beginnings and the ends
            place = lot.choice(
                [lot.randrange(min(600, length)), length - 1 - lot.randrange(min(300, length))]
            )
            return (
                content[:place] + bytes([lot.choice([0, 1, 127, 128, 255])]) + content[place + 1 :]
            )


def unpacked_or_refused(archive: Path, files: dict[str, bytes], contents: bool) -> bool:
    "Is a damaged archive unpacked whole? If not it is refused in words and leaves nothing behind."
    home = archive.parent / "home"
    try:
        unpack(archive, home)
    except ValueError as error:
        assert type(error) is ValueError and re.search("[.] |[.]$", str(error)), repr(error)
        assert not home.exists() or not list(home.iterdir())
        return False
    found = {p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()}
    folders = sorted(path.name for path in home.rglob("*") if path.is_dir())
    assert len(found) == len(files) and (
        not contents or found == files and folders == ["bottle", "cable"]
    )
    shutil.rmtree(home)
    return True


@pytest.mark.parametrize("name", CORPUS)
def test_a_damaged_archive_is_unpacked_whole_or_refused(tmp_path, name):
    archive = tmp_path / name
    files, lot = sound(archive), random.Random(name)
    content, whole = archive.read_bytes(), 0
    assert unpacked_or_refused(archive, files, contents=True)
    bare = (
        archive.suffix == ".tar"
    )  # it has no checksum of a content, and may have lost a bit of one …
    for _ in range(150):
        archive.write_bytes(damaged(content, lot, gap=300 if bare else 512))  # … or an empty file
        whole += unpacked_or_refused(archive, files, contents=not bare)
    assert whole < 100, "most damage is noticed"


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.tar"])
def test_every_place_at_which_it_can_be_cut(tmp_path, name):
    archive = tmp_path / name
    files = sound(archive)
    content = archive.read_bytes()
    ends = len(content.rstrip(b"\0")) if name == "a.tar" else len(content)
    for end in {*range(0, ends, max(1, ends // 60)), ends - 1, ends - 20}:
        archive.write_bytes(content[:end])
        assert not unpacked_or_refused(archive, files, contents=True), end


def test_a_tar_that_is_damaged_after_its_first_member(tmp_path):
    archive = tmp_path / "a.tar"
    sound(archive)
    content = archive.read_bytes()
    second = content.index(b"bottle/1.png")
    for damage in (b"\1", b"x" * 512, bytes(512)):
        archive.write_bytes(content[:second] + damage + content[second + len(damage) :])
        refused(archive, "header is damaged|is no number|goes on after its end")
    archive.write_bytes(content[:second])  # cut between two members: no end
    refused(archive, "ends too early")
    archive.write_bytes(content + content)
    refused(archive, "goes on after its end")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_names_of_every_form(tmp_path, form):
    names = ["a.png", "b" * 90 + "/" + "c" * 60, "grün/ü.png", "d" * 99, "e" * 100, "f/" * 60 + "g"]
    if form != tarfile.USTAR_FORMAT:
        names += ["h" * 250, "/".join(["i" * 200] * 4)]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
        for i, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = i * 300
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    unpack(tmp_path / "a.tar", tmp_path / "set")
    assert [(tmp_path / "set" / name).stat().st_size for name in names] == [
        i * 300 for i in range(len(names))
    ]


def giant(kind: bytes, size: int) -> bytes:
    "A tar whose only member has a name of so many bytes."
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    head = info.tobuf(tarfile.GNU_FORMAT)
    text = b"%d path=" % size if kind == tarfile.XHDTYPE else b""
    return (
        head + text + b"n" * (size - len(text)) + bytes(-size % 512) + tarfile.TarInfo("x").tobuf()
    )


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])  # fmt: skip
def test_a_name_of_many_megabytes(tmp_path, kind):
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(giant(kind, 60_000_000), 1))
    tracemalloc.start()
    refused(tmp_path / "a.tar.gz", "a name has 60,000,000 bytes")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5e6


def test_words_without_end(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1000
    one = info.tobuf(tarfile.GNU_FORMAT) + b"n" * 1000 + bytes(24)
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as file:
        for _ in range(20_000):
            file.write(one)
    refused(tmp_path / "a.tar.gz", "unfolds into far more", harmless=10_000_000)
    (tmp_path / "a.tar.gz").unlink()
    (tmp_path / "a.tar").write_bytes(one * 3000 + bytes(1024))
    refused(tmp_path / "a.tar", "ends before the member that it names")


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["n" * 300, "a/" * 600 + "b", "x/" + "ü" * 200])
def test_names_that_no_disk_holds(tmp_path, make, name):
    archive = make(tmp_path / ("a.zip" if make is zipped else "a.tar"), {"a.png": b"1", name: b"2"})
    refused(archive, r"characters\. Expected names that a disk can hold")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_memory_while_unpacking(tmp_path, name):
    make = zipped if name.endswith("zip") else tarred
    archive = make(tmp_path / name, {f"{i}.png": bytes(40 << 20) for i in range(2)})
    tracemalloc.start()
    unpack(archive, tmp_path / "set")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < (16e6 if name.endswith("xz") else 6e6)  # xz looks back 8 MB
    assert (tmp_path / "set/0.png").stat().st_size == 40 << 20


def test_a_file_behind_the_archive(tmp_path):
    archive = tmp_path / "a.tar.gz"
    files = sound(archive)
    content = archive.read_bytes()
    for behind, fine in ((bytes(600), True), (b"garbage", False), (gzip.compress(b"more"), False)):
        archive.write_bytes(content + behind)  # zeros fill up what a tape needs
        assert unpacked_or_refused(archive, files, contents=True) == fine


def test_an_archive_in_two_streams(tmp_path):
    sound(tmp_path / "a.tar")
    content = (tmp_path / "a.tar").read_bytes()
    for end, pack in ((".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)):
        archive = tmp_path / f"b.tar{end}"
        archive.write_bytes(pack(content[:3000]) + pack(content[3000:]))
        assert len(unpack(archive, tmp_path / f"set{end}")) == 2
        archive.write_bytes(pack(content[:3000]) + b"\1" + pack(content[3000:]))
        with pytest.raises(ValueError, match="cannot be unpacked"):
            unpack(archive, tmp_path / "other")
        archive.unlink()


def test_members_that_lie_on_top_of_each_other(tmp_path):
    archive = zipped(
        tmp_path / "a.zip", {"0.png": os.urandom(20_000), "1.png": b"1", "2.png": b"2"}
    )
    with zipfile.ZipFile(archive, "a") as file:
        first = file.getinfo("0.png")
        for name in ("1.png", "2.png"):
            info = file.getinfo(name)
            for part in ("header_offset", "compress_size", "file_size", "CRC"):
                setattr(info, part, getattr(first, part))
        file._didModify = True
    refused(archive, "on top of each other")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_that_need_any_amount_of_memory(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", bytes(10_000_000))
    refused(tmp_path / "a.zip", f"packed by method {method}.*unpack it yourself")


def test_a_password(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.png": b"1"})
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(raw)
    refused(archive, "packed with a password.*unpack it yourself")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_of_nothing(tmp_path, name):
    make = zipped if name.endswith("zip") else tarred
    refused(make(tmp_path / name, {}), "it holds nothing")


def test_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no archive"):
        unpack(tmp_path / "a.zip", tmp_path / "set")


def test_a_folder_that_nobody_may_write_to(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    archive = zipped(tmp_path / "a.zip", FILES)
    monkeypatch.setattr(Path, "mkdir", denied)  # a mode of 0o500 would not keep root out
    with pytest.raises(OSError, match="cannot be written to .*Take another folder"):
        unpack(archive, tmp_path / "set")


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "set").write_text("mine")
    with pytest.raises(OSError, match="cannot be written to .*Take another folder"):
        unpack(zipped(tmp_path / "a.zip", FILES), tmp_path / "set")


# ---- data sets ----------------------------------------------------------------------------------
@contextmanager
def no_network(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("anomalib_nb.data.download.ask", lambda *_: pytest.fail("asked the network"))
        yield


def packed(tmp_path: Path) -> Path:
    for category in ("bottle", "cable"):
        mvtec_like(tmp_path / "published" / category)
    archive = tmp_path / "served.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted((tmp_path / "published").iterdir()):
            tar.add(path, path.name)
    return archive


@pytest.fixture
def bottles(server, tmp_path):
    server.content = packed(tmp_path).read_bytes()

    class Bottles(NamedDataModule):
        title, licence, homepage = "Bottles", "CC BY 4.0", "https://bottles.example"
        categories = ("bottle", "cable")
        source = Download(server.url, sha(server.content), "bottles.tar.xz")

    return Bottles


def test_from_nothing_to_a_table(server, bottles, tmp_path, capsys):
    root = tmp_path / "data"
    assert bottles.download(root, "cable") == root / "cable"
    assert "Bottles: CC BY 4.0" in capsys.readouterr().out.splitlines()[0]
    assert len(bottles(root, "bottle").table) == 12 and server.starts == [0]
    bottles.download(root)
    assert server.starts == [0], "what can be read is not fetched again"


def test_the_licence_comes_before_the_network(server, bottles, tmp_path, capsys):
    server.status = 404
    with pytest.raises(ConnectionError, match=r"Get bottles.tar.xz from https://bottles.example"):
        bottles.download(tmp_path / "data")
    assert "CC BY 4.0" in capsys.readouterr().out


def test_no_constructor_touches_the_network(bottles, tmp_path, monkeypatch):
    with no_network(monkeypatch):
        data = bottles(tmp_path / "data")
        with pytest.raises(FileNotFoundError, match=r"Call Bottles.download\('.*data', 'bottle'\)"):
            data.table
    assert not (tmp_path / "data").exists()


def test_a_file_put_there_by_hand(server, bottles, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/bottles.tar.xz").write_bytes(server.content)
    with no_network(monkeypatch):
        bottles.download(tmp_path / "data")
    assert len(bottles(tmp_path / "data").table) == 12


def test_half_a_category_by_hand(server, bottles, tmp_path):
    (tmp_path / "data/bottle/train/good").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="still incomplete.*move it away"):
        bottles.download(tmp_path / "data")
    assert len(bottles(tmp_path / "data", "cable").table) == 12


def test_sets_that_a_person_has_to_get(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="UCSD_Anomaly_Dataset.tar.gz from http://www.svcl"):
        UCSDped.download(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Get UCSD_Anomaly.*and call UCSDped.download\("):
        UCSDped(tmp_path).table
    assert "UCSD Pedestrian: free for research" in capsys.readouterr().out


def test_sets_that_can_be_fetched(tmp_path, monkeypatch, capsys):
    def refused(url, start):
        raise URLError("no network")

    monkeypatch.setattr("anomalib_nb.data.download.ask", refused)
    for kind in (MVTecAD, MVTecAD2, MVTecLOCO, VisA, BTech, Kolektor, AutoVI, Avenue):
        place = tmp_path / kind.__name__
        with pytest.raises(FileNotFoundError, match=rf"Call {kind.__name__}.download\("):
            kind(place).table
        with pytest.raises(ConnectionError, match=f"Get .* from {kind.homepage}"):
            kind.download(place)
        assert kind.licence in capsys.readouterr().out


def test_a_category_with_an_archive_of_its_own():
    [archive] = archives_of(AutoVI.source, "pipe_clip")
    assert archive.file == "pipe_clip.zip" and archive.sha256.startswith("955bb17b")
    assert [one.file for one in archives_of(Avenue.source, "")] == [
        "Avenue_Dataset.zip",
        "ground_truth_demo.zip",
    ]


def test_every_named_data_set_has_its_facts():
    import anomalib_nb.data as data

    named = [getattr(data, name) for name in list_datasets()]
    for kind in (kind for kind in named if issubclass(kind, NamedDataModule)):
        assert kind.title and kind.licence, kind
        assert kind.homepage.startswith(("https://", "http://")), kind
        assert len(set(kind.categories)) == len(kind.categories), kind


def test_bases_are_not_listed():
    assert "NamedDataModule" not in list_datasets()
