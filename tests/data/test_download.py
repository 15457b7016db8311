"""Archives from the network: continued, verified, unpacked whole or not at all. A server on 127.0.0.1 answers."""

import errno
import gzip
import hashlib
import io
import os
import stat
import tarfile
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


def tarred(path: Path, files: dict[str, bytes], kind: bytes = tarfile.REGTYPE, link="") -> Path:
    with tarfile.open(path, "w" + {".xz": ":xz", ".gz": ":gz", ".tgz": ":gz"}.get(path.suffix, "")) as archive:  # fmt: skip
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            info.mode = 0o6777
            archive.addfile(info, io.BytesIO(content))
    return path


FILES = {"bottle/train/1.png": b"one", "bottle/test/2.png": b"two", "read me.txt": b""}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "A.ZIP"])
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


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("part", [0, 0.5, 0.9])
def test_truncated(tmp_path, name, part):
    noise = {f"{i}.png": os.urandom(20_000) for i in range(3)}
    archive = (zipped if name.endswith("zip") else tarred)(tmp_path / name, noise)
    archive.write_bytes(archive.read_bytes()[: int(part * archive.stat().st_size)])
    if name == "a.tar" and part == 0.9:
        return  # only padding is lost
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
