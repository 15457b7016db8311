"""Whatever happens to a file of ours, reading it gives what was written, or one sentence that names it."""

import copy
import json
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

import anomalib_nb.core.predictions as runs
from anomalib_nb.core.io import load_tree, load_weights, read_json, save_tree, write_json
from anomalib_nb.core.predictions import Predictions, PredictionsWriter
from anomalib_nb.core.settings import get_settings
from anomalib_nb.data.images import DiskCache, Remembered
from anomalib_nb.metrics import evaluate
from anomalib_nb.visualization import EvaluationVisualizer, ImageVisualizer
from anomalib_nb.visualization.evaluation import histogram_chart, roc_chart
from anomalib_nb.widgets import Gallery, HeatMap, ScoreHistogram

PARTS = ("pred_score", "gt_label", "image_size", "texts", "anomaly_map", "gt_mask", "picture")
LARGE = PARTS[4:]


def rows(start: int = 0, count: int = 4) -> dict:
    "A batch in which every value that means 'not known' occurs: empty masks, black pictures, sizes of zero."
    numbers, size = np.arange(start, start + count), (count, 6, 5)
    masks = np.zeros(size, bool)
    masks[1::2, 2:4, 1:3] = True
    return {
        "pred_score": numbers.astype(np.float32),
        "gt_label": numbers % 2 == 1,
        "image_path": [f"part/{'crack' if i % 2 else 'good'}/{i}.png" for i in numbers],
        "anomaly_map": np.random.default_rng(start).random(size, np.float32),
        "gt_mask": masks,
        "image": np.zeros((count, 3, 6, 5), np.float32),
        "info": [{"frame": "black" if i == 2 else "", "no_mask": bool(i == 3)} for i in numbers],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "test.zarr"
    writer = PredictionsWriter(path, images=True, model="Toy", image_threshold=1.5, pixel_threshold=0.5)
    writer.append(rows(0)), writer.append(rows(4))
    return path


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "test.zarr")


def everything(path: Path) -> list:
    "All that a run says, as plain data; the list is filled as far as reading gets."
    found = Predictions.load(path)
    small = [found.scores, found.labels, found.pred_label, found.no_mask, found.dataset["image_size"].values]
    large = [large[:] for large in (found.maps, found.masks, found.images) if large is not None]
    known = {name: value for name, value in found.attrs.items() if value == value}
    return [*(each.tobytes() for each in small + large), found.paths, found.frames, found.words("label"), known]


def sentence(error: BaseException, path: Path) -> str:
    "The message of an error that is one readable line and names the file."
    assert isinstance(error, (ValueError, FileNotFoundError)), repr(error)
    assert type(error) in (ValueError, FileNotFoundError), repr(error)
    assert str(path) in str(error) and "\n" not in str(error) and str(error).endswith("."), str(error)
    return str(error)


def outcome(read, path: Path, expected, checked: bool = True) -> str:
    "What reading a damaged file comes to; different content in silence is a failure where a checksum can tell."
    try:
        found = read(path)
    except Exception as error:  # noqa: BLE001 (the kind is what is tested)
        return sentence(error, path)
    assert not checked or found == expected, "other content, and not a word"
    return ""


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("what", ["all chunks", "one chunk", "the folder", "a cut chunk", "a flipped bit"])
def test_a_part_that_is_gone_is_named_and_scores_stay(run, part, what):
    chunks = sorted(p for p in (run / part / "c").rglob("*") if p.is_file())
    one = chunks[len(chunks) // 2]
    if what == "all chunks":
        shutil.rmtree(run / part / "c")
    elif what == "one chunk":
        one.unlink()
    elif what == "the folder":
        shutil.rmtree(run / part)
    elif what == "a cut chunk":
        one.write_bytes(one.read_bytes()[:-3])
    else:
        one.write_bytes(bytes([one.read_bytes()[0] ^ 4]) + one.read_bytes()[1:])
    with pytest.raises(ValueError) as error:
        everything(run)
    assert f"stored {part} " in sentence(error.value, run) and "Predict again" in str(error.value)
    if part in LARGE:
        found = Predictions.load(run)
        assert found.scores.tolist() == list(range(8)) and found.to_pandas().shape[0] == 8
        assert found.at(3.5).worst(2).scores.tolist() == [1, 4] or len(found.at(3.5).worst(2)) == 2
        assert evaluate(found, levels=["image"])["image_AUROC"] == 0.625 and ScoreHistogram(found)
        with pytest.raises(ValueError, match=f"stored {part} "):
            for item in found[::2]:
                assert item.pred_score in range(8)
            next(iter(found[len(chunks) // 2 :]))


@pytest.mark.parametrize("reader", ["maps", "masks", "images"])
def test_damage_surfaces_however_a_run_is_passed_on(run, reader):
    for part in LARGE:
        shutil.rmtree(run / part / "c")
    found = Predictions.load(run)
    for each in (found, found[2:5], found.at(2.0), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        large = getattr(each, reader)
        for read in (lambda large=large: large[0], lambda large=large: np.asarray(large), lambda large=large: list(large)):
            with pytest.raises(ValueError, match="is damaged .* is missing") as error:
                read()
            sentence(error.value, run)
    with pytest.raises(ValueError, match="is damaged"):
        found.save(run.with_name("copy.zarr"))
    assert not run.with_name("copy.zarr").exists()


VIEWS = {
    "metrics": evaluate,
    "pictures": lambda run: ImageVisualizer().grid(run),
    "charts": EvaluationVisualizer,
    "heat map": HeatMap,
    "pixels of an item": lambda run: run[3],
    "decided pixels": lambda run: run.pred_mask(0),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_lost_maps_say_the_sentence(run, name):
    shutil.rmtree(run / "anomaly_map" / "c")
    found = Predictions.load(run)
    with pytest.raises(ValueError, match="stored anomaly_map .* Predict again; the scores are not affected") as error:
        VIEWS[name](found)
    sentence(error.value, run)
    assert Gallery(found) and histogram_chart(found) and roc_chart(found) and len(found.worst(3)) == 3


def test_what_is_empty_is_there(run):
    found = Predictions.load(run)
    assert not found.masks[0].any() and found.masks[1].any() and not found.images[:].any()
    assert found.frames == ["", "", "black", "", "", "", "", ""] and found.no_mask.tolist() == [i == 3 for i in range(8)]
    again = Predictions.load(found[1:].save(run.with_name("copy.zarr")))
    assert again.frames[1] == "black" and again.no_mask.tolist() == [i == 2 for i in range(7)]
    assert again[1].info["frame"] == "black" and again[2].info["no_mask"] and "no_mask" not in again[0].info
    assert "1 black" in repr(again) and "without a mask: 1" in repr(again)


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    "Other bytes: cut, flipped, put in, taken out, doubled, blanked, or digits that changed."
    where, how = int(random.integers(0, max(1, len(content)))), random.integers(0, 8)
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    if how == 0 or not content:
        return content[:where]
    if how == 1 and digits:
        where = int(random.choice(digits))
        return content[:where] + str(random.integers(0, 10**9)).encode() + content[where + 1 :]
    if how == 2:
        return content[:where] + content[where + int(random.integers(1, 9)) :]
    if how == 3:
        return content[:where] + random.bytes(4) + content[where:]
    if how == 4:
        return content + content
    if how == 5:
        return content[:where] + bytes(8) + content[where + 8 :]
    if how == 6:
        return random.bytes(len(content))
    return content[:where] + bytes([content[where] ^ (1 << int(random.integers(0, 8)))]) + content[where + 1 :]


@pytest.mark.parametrize("version", [1, 2])
def test_mutated_runs(whole, tmp_path, version):
    random, said = np.random.default_rng(version), []
    good = shutil.copytree(whole, tmp_path / "good.zarr")
    if version == 1:
        header = read_json(good / "zarr.json")
        header["attributes"] |= {"format": "anomalib_nb predictions 1"}
        del header["attributes"]["checksum"]
        write_json(good / "zarr.json", header)
    expected, files = everything(good), sorted(p for p in good.rglob("*") if p.is_file())
    for number in range(250):
        file = files[int(random.integers(0, len(files)))] if number % 3 else good / "zarr.json"
        before = file.read_bytes()
        if number % 10 == 9:
            file.unlink()
        else:
            file.write_bytes(mutated(before, random))
        said.append(outcome(everything, good, expected, checked=version > 1))
        file.write_bytes(before)
    assert sum(map(bool, said)) > 100 and everything(good) == expected


ODD = (None, True, -1, 1e308, 10**30, "", "~", [], {}, [1], {"a": 1}, float("nan"))


def with_odd_leaf(tree, random: np.random.Generator, odd=ODD):
    "A copy of a JSON value in which one thing, somewhere, is something else or gone."
    tree = copy.deepcopy(tree)
    places, seen = [], [tree]
    while seen:
        each = seen.pop()
        keys = list(each) if isinstance(each, dict) else list(range(len(each))) if isinstance(each, list) else []
        places += [(each, key) for key in keys]
        seen += [each[key] for key in keys]
    parent, key = places[int(random.integers(0, len(places)))]
    if random.random() < 0.3:
        del parent[key]
    else:
        parent[key] = odd[int(random.integers(0, len(odd)))]
    return tree


@pytest.mark.parametrize("version", [1, 2])
def test_headers_that_are_json_and_wrong(run, version):
    random, header = np.random.default_rng(3), read_json(run / "zarr.json")
    header["attributes"]["format"] = f"anomalib_nb predictions {version}"
    if version == 1:
        del header["attributes"]["checksum"]
    for _ in range(300):
        write_json(run / "zarr.json", with_odd_leaf(header, random))
        outcome(everything, run, None, checked=False)


def test_a_later_version_and_another_type(run):
    header = read_json(run / "zarr.json")
    for name in ("anomaly_map", "gt_mask", "pred_score"):  # an array's own file is not what is read
        file = run / name / "zarr.json"
        file.write_text(file.read_text().replace("float32", "float64").replace('"bool"', '"int8"'))
    assert Predictions.load(run).maps[0].dtype == np.float32
    later = copy.deepcopy(header)
    later["attributes"]["format"] = "anomalib_nb predictions 3"
    write_json(run / "zarr.json", later)
    for attempt in (Predictions.load, lambda path: PredictionsWriter(path, "append"), lambda path: PredictionsWriter(path, "overwrite")):
        with pytest.raises(ValueError, match="written by a later version of the library. Update anomalib_nb"):
            attempt(run)
    header["attributes"] |= {"format": "anomalib_nb predictions 1"}
    header["consolidated_metadata"]["metadata"]["gt_mask"]["shape"][1] = 7
    write_json(run / "zarr.json", header)
    with pytest.raises(ValueError, match=r"gt_mask has shape \[8, 7, 5\]"):
        Predictions.load(run)


def test_the_first_version_is_still_read_and_continued(run):
    header = read_json(run / "zarr.json")
    header["attributes"] |= {"format": "anomalib_nb predictions 1"}
    del header["attributes"]["checksum"]
    write_json(run / "zarr.json", header)
    shutil.rmtree(run / "gt_mask" / "c" / "0")  # it left out what is empty
    shutil.rmtree(run / "picture" / "c" / "0")
    found = Predictions.load(run)
    assert not found.masks[0].any() and found.masks[1].any() and not found.images[0].any()
    assert PredictionsWriter(run, "append", images=True).append(rows(8)) == 12
    assert len(Predictions.load(run)) == 12 and "predictions 1" in (run / "zarr.json").read_text()
    shutil.rmtree(run / "anomaly_map" / "c" / "0")
    with pytest.raises(ValueError, match="anomaly_map/c/0/0/0 is missing"):
        Predictions.load(run).maps[0]


def test_nothing_is_added_to_damage_and_an_arrays_file_is_restored(run):
    (run / "anomaly_map" / "zarr.json").write_text("{")
    (run / "gt_mask" / "zarr.json").unlink()
    assert PredictionsWriter(run, "append", images=True).append(rows(8)) == 12
    assert Predictions.load(run).maps.shape == (12, 6, 5) and Predictions.load(run).masks[:].any((1, 2)).sum() == 6
    shutil.rmtree(run / "pred_score" / "c")
    with pytest.raises(ValueError, match="stored pred_score") as error:
        PredictionsWriter(run, "append", images=True)
    sentence(error.value, run)
    assert len(PredictionsWriter(run, "overwrite")) == 0  # and it can be replaced


TREE = {
    "format": 1,
    "arguments": {"layers": ["layer2", "layer3"], "ratio": 0.1, 0: "a key that is no text"},
    "state": {"bank": torch.arange(24.0).reshape(6, 4), "half": torch.ones(3, dtype=torch.bfloat16), "mask": torch.tensor([True, False])},
    "post": [torch.tensor(3), None, {"~": "a user's own"}],
}


def same_tree(one, other) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return type(one) is type(other) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same_tree(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_tree, one, other))
    return one == other


class Known:
    "A tree that can be compared."

    def __init__(self, tree):
        self.tree = tree

    def __eq__(self, other):
        return same_tree(self.tree, other.tree)


def test_mutated_trees(tmp_path):
    saved, random, said = save_tree(tmp_path / "model.safetensors", TREE), np.random.default_rng(0), []
    content, expected = saved.read_bytes(), Known(load_tree(saved))
    assert same_tree(expected.tree, TREE)
    for number in range(400):
        saved.write_bytes(mutated(content, random))
        said.append(outcome(lambda path: Known(load_tree(path)), saved, expected))
        outcome(load_weights, saved, None, checked=False)
    assert sum(map(bool, said)) > 350
    saved.unlink()
    with pytest.raises(FileNotFoundError, match="no file"):
        load_tree(saved)


def split(content: bytes) -> tuple[dict, bytes]:
    "The header of a safetensors file, and its numbers."
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict, numbers: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_trees_whose_header_is_json_and_wrong(tmp_path):
    saved, random = save_tree(tmp_path / "model.safetensors", TREE), np.random.default_rng(1)
    header, numbers = split(saved.read_bytes())
    odd = (*ODD, {"~": "nowhere"}, {"~": 5}, {"~": ["state/bank"]}, {"~items": 3}, {"~items": [[1]]}, {"~items": [[[], 1]]}, "F4", "F8_E8M0")
    for number in range(400):
        wrong = with_odd_leaf(header, random, odd)
        notes = wrong.get("__metadata__")
        if isinstance(notes, dict) and isinstance(notes.get("tree"), str) and number % 2:
            wrong["__metadata__"]["tree"] = json.dumps(with_odd_leaf(json.loads(header["__metadata__"]["tree"]), random, odd))
        if isinstance(notes, dict) and number % 4 > 1:
            notes.pop("crc32", None)
        saved.write_bytes(joined(wrong, numbers))
        outcome(load_tree, saved, None, checked=False)
    for tree in ("[" * 100_000, '{"a":' * 50_000, "1" * 10_000, "\ud800", "nul", '{"a": {"~": "state/bank/"}}'):
        saved.write_bytes(joined({**header, "__metadata__": {"tree": tree}}, numbers))
        assert outcome(load_tree, saved, None)


def test_a_single_bit_anywhere_in_the_numbers_is_noticed(tmp_path):
    saved = save_tree(tmp_path / "model.safetensors", TREE)
    header, numbers = split(saved.read_bytes())
    for place in range(len(numbers) * 8):
        flipped = bytearray(numbers)
        flipped[place // 8] ^= 1 << place % 8
        saved.write_bytes(joined(header, bytes(flipped)))
        assert "checksum" in outcome(load_tree, saved, None)


def test_files_without_a_checksum_are_read(tmp_path):
    saved = save_tree(tmp_path / "model.safetensors", TREE)
    header, numbers = split(saved.read_bytes())
    del header["__metadata__"]["crc32"]
    saved.write_bytes(joined(header, numbers))
    assert same_tree(load_tree(saved), TREE)
    assert set(load_weights(saved)) == {"state/bank", "state/half", "state/mask", "post/0"}


def test_trees_keep_what_looks_like_their_own_marks(tmp_path):
    tree = {"~": "x", "a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, "deep": {"~items": [1]}}
    assert same_tree(load_tree(save_tree(tmp_path / "t.safetensors", tree)), tree)


GARBAGE = (b"", b"\xff\xfe\x00", b"{", b"[" * 200_000, b'{"a":' * 100_000, b"9" * 10_000, b"\x00" * 64, b"nul", "{\ud800}".encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", ["metadata.json", "run.json", "metrics.json"])
def test_json_that_is_none(tmp_path, name):
    file = tmp_path / name
    for content in GARBAGE:
        file.write_bytes(content)
        with pytest.raises(ValueError) as error:
            read_json(file)
        sentence(error.value, file)
    for content in (b"[1]", b"3", b"null", b'"text"'):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="Expected a dict") as error:
            read_json(file, dict)
        sentence(error.value, file)
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')  # as an editor saves it
    assert read_json(file, dict) == {"a": 1}


def test_settings_that_cannot_be_read_name_their_file(tmp_path):
    file = tmp_path / "settings.ini"
    broken = (b"\xff\xfe\x00", b"no section", b"[data\nroot = x", b"[data]\nroot\n", b"[data]\nroot = a\nroot = b\n", b"[data]\n[data]\n",
              b"[run]\nseed = x\n", b"[run]\nsead = 1\n", b"[rum]\nseed = 1\n", b"[data]\ncache_on_disk = perhaps\n")  # fmt: skip
    for content in broken:
        file.write_bytes(content)
        with pytest.raises(ValueError) as error:
            get_settings(tmp_path)
        assert str(file) in str(error.value) and type(error.value) is ValueError, str(error.value)
    file.write_bytes(b"\xef\xbb\xbf[run]\nseed = 3\n")
    assert get_settings(tmp_path).run.seed == 3


def test_a_disk_cache_that_holds_garbage_is_read_past(tmp_path):
    picture, random = np.arange(75, dtype=np.uint8).reshape(5, 5, 3), np.random.default_rng(0)
    source = tmp_path / "a.npy"
    np.save(source, picture)
    Remembered(np.load, DiskCache(tmp_path / "cache", 1)).at(str(source))
    (file,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    good = file.read_bytes()
    for number in range(300):
        file.write_bytes(GARBAGE[number] if number < len(GARBAGE) else mutated(good, random))
        again = Remembered(np.load, DiskCache(tmp_path / "cache", 1))
        again.name = Remembered(np.load).name
        found = again.at(str(source))
        assert np.array_equal(found.values.transpose(1, 2, 0), picture) and found.shape == (5, 5)


def test_the_commit_is_what_counts(run, monkeypatch):
    "A writer that is killed at any file of an append leaves the committed rows, and can go on."
    before, calls = everything(run), []
    writer = PredictionsWriter(run, "append", images=True)
    true = runs.grow

    def killed(group, name, values, start):
        calls.append(name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        true(group, name, values, start)

    monkeypatch.setattr(runs, "grow", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.append(rows(8))
    assert everything(run) == before
    monkeypatch.undo()
    assert PredictionsWriter(run, "append", images=True).append(rows(8)) == 12
    assert Predictions.load(run).scores.tolist() == list(range(12)) and len(everything(run)) == len(before)
