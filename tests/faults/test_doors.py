"""Whatever lies at a path, whatever comes as a picture, whatever stands in metadata.json: it works, or it is one sentence."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from anomalib_nb.core.io import save_tree, write_json
from anomalib_nb.data import DemoData
from anomalib_nb.deploy import Inferencer, LightningInferencer, export, read_parity
from anomalib_nb.deploy.export import prefix_of, put_in_place, replacing_folder, sweep
from anomalib_nb.deploy.inferencers import ROOM, Shot, blocks, shots
from anomalib_nb.deploy.parity import Parity, questions
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore, learns_by, list_models, load_model
from anomalib_nb.models.contract import describe
from anomalib_nb.models.zoo import MODELS
from anomalib_nb.processing.camera import Camera
from anomalib_nb.processing.pre import PreProcessor

SIZE = 32
RUNTIMES = {kind.runtime: kind for kind in Inferencer.__subclasses__()}
GRAPHS = ("onnx", "openvino")


@pytest.fixture(scope="module")
def data():
    return DemoData("tile", train=4, test=6, size=48)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    model = PatchCore(coreset_sampling_ratio=0.1)
    model.pre = PreProcessor(size=SIZE)
    root = tmp_path_factory.mktemp("results")
    return Engine(root, accelerator="cpu", enable_progress_bar=False).fit(model, data)


@pytest.fixture(scope="module")
def paths(run, tmp_path_factory):
    "Where each runtime finds the model."
    home = tmp_path_factory.mktemp("exports")
    found = {name: export(run, name, home / name) for name in GRAPHS}
    found |= {"torch": export(run, "torch", home / "torch")}
    found["lightning"] = next((run / "checkpoints").glob("*.safetensors"))
    assert set(found) == set(RUNTIMES)
    return found


@pytest.fixture(scope="module")
def doors(paths):
    found = {name: Inferencer(path) for name, path in paths.items()}
    assert {name: type(door) for name, door in found.items()} == RUNTIMES
    return found


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return request.param


@pytest.fixture
def door(runtime, doors):
    return doors[runtime]


@pytest.fixture(scope="module")
def parts(data, tmp_path_factory):
    "A folder whose names are not those of a textbook."
    folder = tmp_path_factory.mktemp("line") / "line [7] ü"
    folder.mkdir()
    test = data.dataset("test")
    for name, path in zip(("[1] a.png", "b c.png", "ß.png"), test.table["image_path"]):
        Image.fromarray(test.read_image(path)).save(folder / name)
    return folder


def copied(path: Path, to: Path) -> Path:
    return Path(shutil.copytree(path, to) if path.is_dir() else shutil.copy(path, to))


def with_camera(paths, runtime, camera: Camera, to: Path) -> Path:
    "The same model, whose camera was another one."
    if runtime == "lightning":
        model = load_model(paths["lightning"])
        model.camera = camera
        tree = {"anomalib_nb": describe(model), "state_dict": model.state_dict()}
        return save_tree(to.with_suffix(".safetensors"), tree)
    folder = copied(paths[runtime], to)
    note = json.loads((folder / "metadata.json").read_text())
    write_json(folder / "metadata.json", {**note, "camera": camera.state_dict()})
    return folder


# ---- pictures in --------------------------------------------------------------------------------
def test_all_ways_to_name_files_are_the_same(door, parts, monkeypatch):
    files = sorted(str(path) for path in parts.iterdir())
    alone = [float(door(file).pred_score[0]) for file in files]
    ways = {
        "folder": parts,
        "text": str(parts),
        "list": files,
        "paths": [Path(file) for file in files],
        "generator": (file for file in files),
        "column": pd.Series(files, index=[7, 3, 9]),
        "table": pd.DataFrame({"image_path": files}),
        "array": np.array(files),
        "mixed": [parts / "[1] a.png", *files[1:]],
    }
    for way, source in ways.items():
        said = door(source)
        assert said.image_path == files, way
        assert np.allclose(said.pred_score, alone, rtol=1e-5), way
    assert sorted(door(set(files)).image_path) == files
    monkeypatch.setenv("HOME", str(parts.parent))
    assert door(f"~/{parts.name}").image_path == files
    assert door(str(parts / "*.png")).image_path == files


def test_all_forms_of_a_picture_are_the_same(door, parts):
    picture = np.asarray(Image.open(parts / "ß.png"))
    first = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    truth = door(parts / "ß.png").pred_score[0]
    forms = [
        picture,
        picture / 255,
        picture.transpose(2, 0, 1),
        first,
        first / 255,
        first.double().requires_grad_() / 255,
        picture[None],
        first[None],
        [first],
        Image.fromarray(picture),
        iter([picture]),
        np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]),
    ]
    for form in forms:
        said = door(form)
        assert said.image_path == ["image_0000"] and len(said) == 1
        assert np.allclose(said.pred_score[0], truth, rtol=1e-4)
    assert np.allclose(door((first / 255).bfloat16()).pred_score[0], truth, rtol=0.1)
    assert len(door(torch.stack([first] * 3))) == len(door(np.stack([picture] * 3))) == 3


def test_a_film_is_its_frames(door, parts, tmp_path):
    av = pytest.importorskip("av")
    pictures = [np.asarray(Image.open(path).resize((48, 48))) for path in sorted(parts.iterdir())]
    with av.open(str(tmp_path / "belt.avi"), "w") as file:
        stream = file.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 48, "yuvj420p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    said = door(tmp_path / "belt.avi")
    assert said.image_path == [f"{tmp_path / 'belt.avi'}#{i:06}" for i in range(3)]
    assert np.allclose(door(said.image_path).pred_score, said.pred_score, rtol=1e-5)


def test_the_test_images_of_a_datamodule(door, data):
    said = door(data)
    assert said.image_path == list(data.dataset("test").table["image_path"])
    assert sum(1 for _ in questions(data)) == len(said)


def test_a_stream_answers_each_frame_at_once_and_holds_few(door, parts):
    picture = np.asarray(Image.open(parts / "ß.png"))
    taken, alive = [], []

    def camera():
        for i in range(40):
            frame = np.roll(picture, i, axis=1)
            taken.append(weakref.ref(frame))
            yield frame
            del frame
            alive.append(sum(ref() is not None for ref in taken))

    answers = door.stream(camera(), most=1)
    assert len(next(answers)) == 1 and len(taken) == 1
    assert next(answers).image_path == ["image_0001"] and len(taken) == 2
    rest = list(answers)
    assert len(rest) == 38 and max(alive) <= 4
    assert [len(said) for said in door.stream([picture] * 19)] == [8, 8, 3]
    assert next(door.stream([picture, parts])).pred_mask.shape == (4, SIZE, SIZE)


def test_a_block_has_a_bounded_number_of_pixels():
    large = Shot("x", np.broadcast_to(np.float32(0), (3, 3000, 4000)), "")
    assert max(len(block) * 12_000_000 for block in blocks([large] * 5)) <= ROOM
    huge = Shot("x", np.broadcast_to(np.float32(0), (3, 6000, 8000)), "")
    assert [len(block) for block in blocks([huge] * 2)] == [1, 1]


WRONG = {
    "bytes": (b"\x89PNG", "A bytes is no image.*BytesIO"),
    "nothing": (None, "A NoneType is no image"),
    "number": (7, "A int is no image"),
    "shape": ([np.zeros((9, 9, 3)), np.zeros((9, 9, 7))], "image_0001: An image has shape"),
    "empty list": ([], "There are no images"),
    "empty generator": (iter(()), "There are no images"),
    "missing": ("no/where.png", "no/where.png"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore:.*no pictures")
def test_what_is_no_picture_is_named(door, name):
    source, said = WRONG[name]
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        door(source)


def test_one_bad_file_among_good_ones_is_named(door, parts, tmp_path):
    folder = Path(shutil.copytree(parts, tmp_path / "parts"))
    (folder / "bad.png").write_bytes((folder / "ß.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="bad.png"):
        door(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in"):
        door(tmp_path / "empty")


# ---- the camera ---------------------------------------------------------------------------------
def test_white_reaches_every_runtime_and_every_form(runtime, paths, parts, tmp_path):
    deep = np.asarray(Image.open(parts / "ß.png").convert("L")).astype(np.uint16) * 16
    grey = (deep / 4095).astype(np.float32)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    plain = Inferencer(paths[runtime])
    truth = plain(grey).pred_score[0]
    camera = Camera(white=4095)
    told = Inferencer(paths[runtime], camera=camera)
    saved = Inferencer(with_camera(paths, runtime, camera, tmp_path / "model"))
    assert saved.camera == camera and plain.camera == Camera()
    for door in (told, saved):
        for form in (tmp_path / "deep.png", deep, torch.from_numpy(deep.astype(np.int32)), Image.fromarray(deep)):
            assert np.allclose(door(form).pred_score[0], truth, rtol=0.02), type(form)
    with pytest.warns(UserWarning, match="dark|black"):
        dark = plain(deep).pred_score[0]
    assert not np.allclose(dark, truth, rtol=0.05)
    assert Inferencer(with_camera(paths, runtime, camera, tmp_path / "again"), camera=Camera()).camera == Camera()


def test_blue_first_reaches_every_runtime_and_every_form(runtime, paths, tmp_path):
    colours = np.zeros((40, 40, 3), np.uint8)
    colours[:20] = (220, 60, 10)
    colours[20:, :20] = (40, 200, 90)
    swapped = colours[..., ::-1]
    Image.fromarray(swapped.copy()).save(tmp_path / "swapped.png")
    truth = Inferencer(paths[runtime])(colours).pred_score[0]
    door = Inferencer(with_camera(paths, runtime, Camera(bgr=True), tmp_path / "model"))
    forms = (tmp_path / "swapped.png", swapped, torch.from_numpy(swapped.copy()).permute(2, 0, 1), Image.fromarray(swapped.copy()))
    assert all(np.allclose(door(form).pred_score[0], truth, rtol=1e-4) for form in forms)
    assert not np.allclose(Inferencer(paths[runtime])(swapped).pred_score[0], truth, rtol=1e-3)
    asked = list(questions([swapped], door.camera))[0][0]
    assert np.allclose(asked, colours.transpose(2, 0, 1) / np.float32(255))


def test_an_export_keeps_the_camera_of_its_model(run, tmp_path):
    model = load_model(run)
    model.camera = Camera(white=4095, bgr=True)
    for name in ("torch", "onnx"):
        assert Inferencer(export(model, name, tmp_path / name)).camera == model.camera
    assert load_model(tmp_path / "torch").camera == model.camera


ODD = {"black": 0, "saturated": 255, "constant": 128}


def test_an_odd_frame_is_told_or_refused(runtime, paths, door, parts, tmp_path):
    picture = np.asarray(Image.open(parts / "ß.png"))
    for name, value in ODD.items():
        Image.fromarray(np.full_like(picture, value)).save(tmp_path / f"{name}.png")
    sources = [parts / "ß.png", *sorted(tmp_path.glob("*.png")), np.zeros((20, 20, 3))]
    with pytest.warns(UserWarning, match=r"4 frames are no pictures .*black\.png") as told:
        said = door(sources)
    assert len(told) == 1
    assert [info["frame"] for info in said.info] == ["", *sorted(ODD), "black"]
    strict = Inferencer(paths[runtime], on_odd_frame="raise")
    strict.raw = lambda image: pytest.fail("the model was asked")
    with pytest.raises(ValueError, match="black.png"):
        strict(tmp_path / "black.png")
    with pytest.warns(UserWarning, match="constant"):
        list(door.stream(tmp_path / "constant.png"))
    with pytest.raises(ValueError, match="on_odd_frame is 'warm'"):
        Inferencer(paths[runtime], on_odd_frame="warm")
    with pytest.raises(ValueError, match=r"camera is 4095.*Camera\(white=4095\)"):
        Inferencer(paths[runtime], camera=4095)


# ---- devices ------------------------------------------------------------------------------------
@pytest.mark.parametrize("device", ["toaster", ["cpu", "cpu"], "cpu,cpu", "cuda:99", 2, None])
def test_a_device_that_is_not_there_is_answered_with_those_that_are(runtime, paths, device):
    with pytest.raises(ValueError, match="device is .* here.*several devices are several inferencers"):
        Inferencer(paths[runtime], device=device)


@pytest.mark.parametrize("device", ["cpu", "CPU", "auto"])
def test_devices_have_the_names_that_people_know(runtime, paths, device, parts):
    assert len(Inferencer(paths[runtime], device=device)(parts)) == 3


# ---- metadata.json, edited ----------------------------------------------------------------------
EDITS = [  # section, setting, what stands there, what is said
    ("post", "image_threshold", "high", "image_threshold is 'high' in"),
    ("post", "image_threshold", None, "image_threshold is None in"),
    ("post", "image_threshold", "NaN", "image_threshold is 'NaN' in"),
    ("post", "image_threshold", True, "image_threshold is True in"),
    ("post", "pixel_threshold", [1.0], r"pixel_threshold is \[1.0\] in"),
    ("post", "image_sensitivity", 3, "image_sensitivity is 3 in"),
    ("post", "pixel_sensitivity", "0,5", "pixel_sensitivity is '0,5' in"),
    ("post", "threshold_rule", "f1_adaptiv", "f1_adaptiv"),
    ("post", "fitted_on", 7, "fitted_on is 7 in"),
    ("post", "image_treshold", 1.0, "no threshold setting 'image_treshold' in"),
    ("post", "pixel_max", ..., "pixel_max is missing in"),
    ("post", "image_threshold", ..., "image_threshold is missing in"),
    ("camera", "white", "4095", "white is '4095' in"),
    ("camera", "white", -1, "white is -1 in"),
    ("camera", "bgr", "yes", "bgr is 'yes' in"),
    ("camera", "lens", 50, "lens.* in"),
    ("", "batch", "two", "batch is 'two' in"),
    ("", "batch", True, "batch is True in"),
    ("", "format", "onxx", "format is 'onxx' in"),
    ("", "precision", 32, "precision is 32 in"),
    ("", "outputs", ["pred_score"], r"outputs is \['pred_score'\] in"),
    ("", "camera", None, "camera is None in"),
    ("", "post", "none", "post is 'none' in"),
    ("", "post", ..., "has no post"),
    ("", "model", ..., "has no model"),
    ("", "model", 3, "model is 3 in"),
]


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_an_edited_note_is_checked_by_setting_file_and_line(runtime, paths, run, tmp_path, edit):
    folder = copied(paths[runtime] if runtime != "lightning" else run / "model", tmp_path / "shipped")
    section, name, value, said = edit
    note = json.loads((folder / "metadata.json").read_text())
    if (section, name) in (("", "batch"), ("", "format"), ("", "precision"), ("", "outputs")):
        note.setdefault(name, "")
    place = note[section] if section else note
    place.pop(name, None)
    if value is not ...:
        place[name] = value
    (folder / "metadata.json").write_text(json.dumps(note, indent=2))
    with pytest.raises(ValueError, match=said) as told:
        RUNTIMES[runtime](folder)
    assert str(folder / "metadata.json") in str(told.value)
    lines = (folder / "metadata.json").read_text().splitlines()
    if "line " in str(told.value):
        number = int(str(told.value).partition("line ")[2].partition(".")[0])
        assert f'"{name}"' in lines[number - 1] or f'"{section}"' in lines[number - 1]
    else:
        assert value is ...


def test_what_older_files_lack_is_no_fault(runtime, paths, run, tmp_path, parts):
    folder = copied(paths[runtime] if runtime != "lightning" else run / "model", tmp_path / "older")
    note = json.loads((folder / "metadata.json").read_text())
    for name in ("camera", "learned_from", "batch"):
        note.pop(name, None)
    note["post"].pop("pixel_threshold_rule")
    write_json(folder / "metadata.json", note)
    assert len(RUNTIMES[runtime](folder)(parts)) == 3


def test_a_graph_without_its_note_says_so(paths, tmp_path):
    for name in GRAPHS:
        folder = copied(paths[name], tmp_path / name)
        (folder / "metadata.json").unlink()
        with pytest.raises(FileNotFoundError, match="metadata.json, which holds the thresholds.*whole folder"):
            Inferencer(folder)


def test_a_damaged_report_says_so(paths, tmp_path):
    folder = copied(paths["onnx"], tmp_path / "onnx")
    note = json.loads((folder / "metadata.json").read_text())
    for damage in ({"images": "many"}, {"runtime": None}, {"model_ms": []}):
        write_json(folder / "metadata.json", {**note, "parity": {**note["parity"], **damage}})
        with pytest.raises(ValueError, match=f"damaged at '{[*damage][0]}'"):
            read_parity(folder)
    write_json(folder / "metadata.json", {**note, "parity": [1]})
    with pytest.raises(ValueError, match="parity report of .* is damaged"):
        read_parity(folder)


# ---- models, from wherever they lie -------------------------------------------------------------
def test_a_model_is_loaded_from_all_that_holds_one(run, paths, parts, monkeypatch):
    image = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        truth = load_model(run)(image).anomaly_map
        monkeypatch.setenv("HOME", str(run.parent))
        places = (str(run), run / "model", run / "model/model.safetensors", paths["torch"], paths["lightning"], f"~/{run.name}")
        assert all(torch.equal(load_model(place)(image).anomaly_map, truth) for place in places)
    assert len(Inferencer(f"~/{run.name}")(parts)) == len(Inferencer(run / "model/model.safetensors")(parts)) == 3
    assert type(Inferencer(paths["onnx"] / "model.onnx")) is RUNTIMES["onnx"]


@pytest.mark.parametrize("open", [load_model, Inferencer])
def test_what_holds_no_model_says_what_it_is(open, run, paths, tmp_path, data, parts):
    def told(path) -> str:
        with pytest.raises(FileNotFoundError) as error:
            open(path)
        return str(error.value)

    home = tmp_path / "results" / "PatchCore" / "tile"
    shutil.copytree(run, home / "v0")
    for name, status in (("v1", "interrupted"), ("v2", "failed"), ("v3", "running")):
        write_json(home / name / "run.json", {"verb": "fit", "status": status})
    shutil.copytree(run / "checkpoints", home / "v3" / "checkpoints")
    write_json(home / "v4" / "run.json", {"verb": "predict", "status": "finished"})
    assert "its fit was interrupted" in told(home / "v1") and "Fit it again" in told(home / "v1")
    assert "its fit failed" in told(home / "v2")
    assert "was killed" in told(home / "v3") and "checkpoints/epoch" in told(home / "v3")
    assert "is a run of predict" in told(home / "v4") and f"such as {home / 'v0'}" in told(home / "v4")
    for above in (home, home.parent, tmp_path / "results"):
        assert f"Pass {home / 'v0'}" in told(above)
    assert "Did you mean 'tile'?" in told(home.with_name("tille"))
    assert "There is no model in" in told(parts) and "There is no" in told(tmp_path / "nowhere")
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    assert "from_reference" in told(tmp_path / "model.ckpt")
    if open is load_model:
        assert all(f"is an export for {of}" in told(paths[name]) for name, of in zip(GRAPHS, ("ONNX Runtime", "OpenVINO")))
        inside = copied(paths["onnx"], home / "v0" / "exported" / "onnx")
        assert f"pass {home / 'v0'}" in told(inside)
        assert "There is no model in" in told(inside.parent)


def test_a_damaged_model_is_one_readable_error(run, tmp_path):
    whole = describe(load_model(run)) | {"state": load_model(run).state_dict()}
    damage = [{name: None} for name in ("arguments", "pre", "post", "state")]
    damage += [{"model": "PatchCoore"}, {"arguments": {"no_such": 1}}, {"pre": {"size": "x"}}, {"post": {"image_threshold": "x"}}, {"state": {}}]
    for i, change in enumerate(damage):
        file = save_tree(tmp_path / f"{i}.safetensors", {**whole, **change})
        with pytest.raises(ValueError, match=file.name):
            load_model(file)


# ---- export -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [n for n in list_models() if learns_by(MODELS.get(n)) == "memory" and n != "Tiled"])
@pytest.mark.parametrize("format", ["torch", *GRAPHS])
def test_a_model_that_has_learnt_nothing_is_not_exported(name, format, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: pytest.fail("it was traced"))
    model = MODELS.get(name)()
    with pytest.raises(RuntimeError, match=f"{name} cannot be exported: .*fit"):
        export(model, format, tmp_path / "shipped")
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_not_exported(tmp_path):
    for wrong, said in ((PatchCore, "Make one of the class first"), ({"model": 1}, "Expected a fitted model")):
        with pytest.raises(TypeError, match=said):
            export(wrong, "onnx", tmp_path / "x")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["torch", *GRAPHS])
def test_a_model_in_half_precision_is_exported_in_single(run, format, kind, tmp_path, parts):
    model = load_model(run).to(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert kind in {tensor.dtype for tensor in before.values()}
    exact = Inferencer(run)(parts).pred_score
    folder = export(model, format, tmp_path / "shipped")
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert np.allclose(Inferencer(folder)(parts).pred_score, exact, rtol=0.05)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_run_in_half_precision_is_loaded_in_single(run, kind, tmp_path, parts):
    exact = Inferencer(run)(parts).pred_score
    folder = load_model(run).to(kind).save(tmp_path / "model")
    model = load_model(folder)
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    for door in (Inferencer(folder), LightningInferencer(folder)):
        assert np.allclose(door(parts).pred_score, exact, rtol=0.05)


KILLED = """
import os, signal, sys, time
from pathlib import Path
from anomalib_nb.deploy.export import replacing_folder
module = sys.modules["anomalib_nb.deploy.export"]
folder = Path(sys.argv[1])
if sys.argv[2] == "between":
    replace = os.replace
    def broken(old, new):
        if Path(old).name == "new":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(old, new)
    module.os.replace = broken
with replacing_folder(folder) as new:
    (new / "metadata.json").write_text('{"format": "torch"}')
    print("written", flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()
    if sys.argv[2] == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def older_export(home: Path) -> Path:
    (folder := home / "openvino").mkdir()
    (folder / "metadata.json").write_text('{"format": "openvino", "older": true}')
    return folder


def start(folder: Path, when: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", KILLED, str(folder), when], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="processes as they are killed there")
def test_a_killed_export_is_swept_and_a_living_one_is_not(tmp_path):
    folder = older_export(tmp_path)
    assert start(folder, "inside").wait(60) < 0
    assert len(list(tmp_path.iterdir())) == 2
    living = start(folder, "wait")
    assert living.stdout.readline() == "written\n"
    try:
        assert len(list(tmp_path.iterdir())) == 2  # it has swept
        with replacing_folder(folder) as new:
            shutil.copy(folder / "metadata.json", new)
        left = [path.name for path in tmp_path.iterdir()]
        assert sorted(left) == [next(name for name in left if f"-{living.pid}." in name), "openvino"]
    finally:
        living.communicate("")
    assert living.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["openvino"]
    assert "older" not in (folder / "metadata.json").read_text()  # the later one stays


@pytest.mark.skipif(os.name != "posix", reason="processes as they are killed there")
def test_an_export_killed_between_two_steps_gives_the_older_one_back(tmp_path):
    folder = older_export(tmp_path)
    assert start(folder, "between").wait(60) < 0
    assert not folder.exists()
    with pytest.raises(OSError, match="disk full"), replacing_folder(folder):
        raise OSError("disk full")
    assert "older" in (folder / "metadata.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["openvino"]


def test_only_what_an_export_left_is_swept(tmp_path):
    folder = tmp_path / "onnx"
    old = time.time() - 3 * 24 * 3600
    names = {
        ".onnx.abcd1234": True,  # of an earlier version, days ago
        ".onnx.elsewhere-12.abcd1234": True,  # of another machine, days ago
        ".onnx.abcd1235": False,  # just now
        ".onnx.elsewhere-13.abcd1234": False,
        ".onnx.mine": False,
        ".onnx.v2.elsewhere-12.abcd1234": False,  # of an export called onnx.v2
    }
    for name, swept in names.items():
        (tmp_path / name / "new").mkdir(parents=True)
        if swept or name.endswith(("mine", "v2.elsewhere-12.abcd1234")):
            os.utime(tmp_path / name, (old, old))
    precious = tmp_path / ".onnx.photos12"
    (precious / "holiday").mkdir(parents=True)
    os.utime(precious, (old, old))
    sweep(folder)
    assert {name for name in names if not (tmp_path / name).exists()} == {name for name, swept in names.items() if swept}
    assert precious.exists() and prefix_of(folder).startswith(".onnx.")


def test_exports_at_once_into_one_folder_are_all_whole(tmp_path):
    folder, errors = tmp_path / "onnx", []

    def once(i):
        try:
            for _ in range(15):
                with replacing_folder(folder) as new:
                    (new / "metadata.json").write_text(json.dumps({"format": "onnx", "by": i}))
                    (new / "model.onnx").write_text(str(i))
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=once, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    assert json.loads((folder / "metadata.json").read_text())["by"] == int((folder / "model.onnx").read_text())


def test_a_place_that_cannot_be_taken_gives_the_older_one_back(tmp_path):
    for name in ("shipped", "aside"):
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "no_such", tmp_path / "shipped", tmp_path / "aside")
    assert (tmp_path / "shipped").is_dir() and not list((tmp_path / "aside").iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="cannot be written to .*file.*Pass another folder"):
        export(run, "torch", tmp_path / "file" / "shipped")


def test_names_are_text_in_a_report():
    hostile = "<img src=x onerror=alert(1)>"
    page = Parity(1, 0.0, 0.0, 0.0, 0.0, 0, 0, 1, 1.0, 1.0, hostile)._repr_html_()
    assert hostile not in page and "&lt;img" in page


def test_shots_tell_what_they_are(parts):
    found = list(shots([parts, np.zeros((8, 8, 3), np.uint8)]))
    assert [shot.frame for shot in found] == ["", "", "", "black"] and found[3].name == "image_0003"
