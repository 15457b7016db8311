"""The command line: the notebook's numbers, quick help, and errors that people can read."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from anomalib_nb.cli.cli import COMMANDS, arguments_of, choose, main, normalised
from anomalib_nb.core.predictions import Predictions
from anomalib_nb.data import DemoData, Folder, list_datasets
from anomalib_nb.data.demo_data import write_demo_folder
from anomalib_nb.deploy import Inferencer, read_metadata
from anomalib_nb.engine import Engine
from anomalib_nb.models import PatchCore, list_models

PROGRAM = [
    sys.executable,
    "-c",
    "import sys; from anomalib_nb.cli.cli import main; sys.exit(main())",
]


def terminal(*command, cwd=None, **environment):
    "A command in a process of its own."
    return subprocess.run(
        [*PROGRAM, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with images, and a model fitted on them from the terminal."
    home = tmp_path_factory.mktemp("factory")
    write_demo_folder(home / "tiles", "tile", train=6, test=12, size=64)
    done = terminal(
        "fit",
        "--model",
        "patch-core",
        "--model.coreset-sampling-ratio",
        "0.05",
        "--data",
        "tiles",
        "--data.name",
        "tile",
        "--engine.default_root_dir",
        "results",
        "--engine.accelerator=cpu",
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    assert "results/PatchCore/tile/v0" in done.stdout
    return home


@pytest.fixture
def run(home, monkeypatch):
    monkeypatch.chdir(home)
    return Path("results/PatchCore/tile/v0")


def test_the_numbers_are_those_of_a_notebook(run, tmp_path):
    assert (
        main(["test", "--run", str(run), f"--engine.default_root_dir={tmp_path / 'terminal'}"]) == 0
    )
    engine = Engine(tmp_path / "notebook", accelerator="cpu", enable_progress_bar=False)
    model, data = PatchCore(coreset_sampling_ratio=0.05), Folder("tiles", name="tile")
    engine.fit(model, data)
    expected = engine.test(model, data)
    found = json.loads(next((tmp_path / "terminal").rglob("metrics.json")).read_text())
    assert expected and {name: found[name] for name in expected} == expected
    metadata = [
        json.loads((folder / "model/metadata.json").read_text())
        for folder in (run, tmp_path / "notebook/PatchCore/tile/v0")
    ]
    assert metadata[0] == metadata[1]


def test_a_run_keeps_its_configuration_and_it_can_be_used_again(run, tmp_path, capsys):
    config = (run / "config.yaml").read_text()
    assert (
        "id: PatchCore" in config
        and f"root: {Path('tiles').resolve()}" in config
        and config.startswith("# anomalib-nb fit --model patch-core")
        and "--data tiles" in config.splitlines()[0]
        and "coreset_sampling_ratio: 0.05" in config
    )
    assert (
        main(
            [
                "fit",
                "--config",
                str(run / "config.yaml"),
                "--engine.default_root_dir",
                str(tmp_path),
                "--model.num_neighbors",
                "1",
            ]
        )
        == 0
    )
    again = tmp_path / "PatchCore/tile/v0"
    assert (
        json.loads((again / "model/metadata.json").read_text())["arguments"]["num_neighbors"] == 1
    )
    assert "num_neighbors: 1" in (again / "config.yaml").read_text()


def test_predictions_are_a_table_maps_and_pictures(run, tmp_path, capsys):
    command = [
        "predict",
        "--run",
        str(run),
        "--source",
        "tiles/test",
        "--output",
        str(tmp_path / "seen"),
    ]
    assert main(command) == 0
    predictions = Predictions.load(tmp_path / "seen/predictions.zarr")
    images = list(Path("tiles/test").rglob("*.png"))
    assert len(predictions) == len(images) == len(list((tmp_path / "seen/pictures").glob("*.png")))
    assert (tmp_path / "seen/predictions.csv").read_text().count("\n") == len(images) + 1
    before = predictions.scores.copy()
    assert main(command) == 2 and "exists" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert (Predictions.load(tmp_path / "seen/predictions.zarr").scores == before).all()


def test_an_export_is_written_compared_and_predicts(run, tmp_path, capsys):
    assert (
        main(
            [
                "export",
                "--run",
                str(run),
                "--format",
                "onnx",
                "--data",
                "tiles",
                "--output",
                str(tmp_path / "onnx"),
            ]
        )
        == 0
    )
    assert "label flips" in capsys.readouterr().out
    assert read_metadata(tmp_path / "onnx")["parity"]["label_flips"] == 0
    for name, source in (("model", run), ("graph", tmp_path / "onnx")):
        assert (
            main(
                [
                    "predict",
                    "--run",
                    str(source),
                    "--source",
                    "tiles/test/good",
                    "--output",
                    str(tmp_path / name),
                ]
            )
            == 0
        )
    ours, theirs = (
        Predictions.load(tmp_path / name / "predictions.zarr") for name in ("model", "graph")
    )
    assert not ours.against(theirs)["flip"].any()


def test_thresholds_are_shown_set_and_fitted_by_a_rule(run, tmp_path, capsys):
    exported = tmp_path / "torch"
    assert main(["export", "--run", str(run), "--format", "torch", "--output", str(exported)]) == 0
    before = read_metadata(exported)["post"]
    capsys.readouterr()
    assert main(["threshold", "--run", str(exported)]) == 0
    assert f"{before['image_threshold']:.4f}" in capsys.readouterr().out
    assert read_metadata(exported)["post"] == before
    assert main(["threshold", "--run", str(exported), "--image", "0.62"]) == 0
    changed = read_metadata(exported)["post"]
    assert (
        changed["image_threshold"] == 0.62
        and changed["pixel_threshold"] == before["pixel_threshold"]
    )
    assert Inferencer(exported).post.image_threshold == 0.62
    assert (
        main(
            [
                "threshold",
                "--run",
                str(exported),
                "--rule",
                "target_fpr(fpr=0.5)",
                "--data",
                "tiles",
            ]
        )
        == 0
    )
    fitted = read_metadata(exported)["post"]
    assert (
        fitted["threshold_rule"] == "target_fpr(fpr=0.5)"
        and fitted["fitted_on"].startswith("target_fpr(fpr=0.5) on ")
        and fitted["image_threshold"] != 0.62
    )
    again = ["threshold", "--run", str(exported), "--rule", "f1_adaptive", "--data", "tiles"]
    assert main(again) == 0
    assert read_metadata(exported)["post"]["image_threshold"] == pytest.approx(
        before["image_threshold"], rel=1e-6
    )


def test_a_run_finds_its_data_from_anywhere(run, tmp_path, monkeypatch, capsys):
    run = run.resolve()
    monkeypatch.chdir(tmp_path)
    assert main(["test", "--run", str(run), "--engine.default_root_dir", "here"]) == 0
    assert main(["validate", "--run", str(run / "model"), "--engine.default_root_dir", "here"]) == 0
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace("tiles", "no_tiles"))
    capsys.readouterr()
    assert main(["test", "--run", str(moved)]) == 2
    assert "are not where they were" in capsys.readouterr().err
    (moved / "config.yaml").unlink()
    assert main(["test", "--run", str(moved)]) == 2
    assert "Give --data" in capsys.readouterr().err


@pytest.mark.parametrize("through", ["run", "graph"])
def test_many_sources_are_taken_however_they_are_written(through, run, graph, tmp_path, monkeypatch):
    model = run if through == "run" else graph
    some = sorted(Path("tiles/test/good").glob("*.png"))[:3]
    (tmp_path / "my [1] parts").mkdir()
    for path in some[:2]:
        shutil.copy(path, tmp_path / "my [1] parts")
    monkeypatch.setenv("HOME", str(tmp_path))

    def seen(*sources) -> list[str]:
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        assert main(["predict", "--run", str(model), *sources, "--output", str(output)]) == 0
        return list(Predictions.load(output / "predictions.zarr").paths)

    names = list(map(str, some))
    assert seen("--source", *names) == names
    assert seen(f"--source={names[0]}", *names[1:]) == names
    assert seen("--source", names[0], "~/my [1] parts") == [names[0], *(str(tmp_path / "my [1] parts" / p.name) for p in some[:2])]
    assert len(seen("--source=~/my [1] parts")) == 2
    assert len(seen("--source", "tiles/test/good/*.png")) == len(list(Path("tiles/test/good").glob("*.png")))


@pytest.fixture(scope="module")
def graph(home):
    "The model as a graph."
    folder = home / "graph"
    assert main(["export", "--run", str(home / "results/PatchCore/tile/v0"), "--format", "onnx", "--output", str(folder)]) == 0
    return folder


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("through", ["run", "graph"])
def test_an_odd_frame_is_told_or_refused(through, run, graph, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    model = run if through == "run" else graph
    command = ["predict", "--run", str(model), "--source", str(tmp_path / "dark.png"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "black" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--on_odd_frame", "raise"]) == 2
    out, err = capsys.readouterr()
    assert "dark.png" in err and "black" in err and err.count("\n") == 1


def test_what_cannot_be_written_is_said_before_anything_is_computed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("anomalib_nb.cli.cli.answers", lambda *a: pytest.fail("it was computed"))
    (tmp_path / "out" / "predictions.zarr").mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for output, said in (("out", "predictions.zarr exists"), ("file", "cannot be made"), ("file/out", "cannot be made")):
        command = ["predict", "--run", str(run), "--source", "tiles/test", "--output", str(tmp_path / output)]
        assert main(command) == 2
        assert said in capsys.readouterr().err


def test_a_camera_is_an_option_of_data(run, tmp_path):
    command = ["fit", "--model", "PatchCore", "--model.coreset_sampling_ratio", "0.05", "--data", "tiles"]
    camera = ["--data.white", "4095", "--data.bgr", "true"]
    assert main([*command, *camera, "--engine.default_root_dir", str(tmp_path)]) == 0
    note = json.loads(next(tmp_path.rglob("metadata.json")).read_text())
    assert note["camera"] == {"white": 4095.0, "bgr": True}


def test_a_checkpoint_is_a_model_too(run, tmp_path, capsys):
    checkpoint = next((run / "checkpoints").glob("*.safetensors"))
    assert main(["test", "--run", str(checkpoint), "--data", "tiles", "--engine.default_root_dir", str(tmp_path)]) == 0
    assert main(["predict", "--run", str(checkpoint), "--source", "tiles/test/good", "--output", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["threshold", "--run", str(checkpoint), "--image", "1"]) == 2
    assert "is a checkpoint" in capsys.readouterr().err


FIRST_HOUR = {  # what is typed, where RUN is a fitted one -> what is said
    "test": "The newest is results/PatchCore/tile/v0",
    "test --run results": "Pass results/PatchCore/tile/v",
    "test --run tiles": "There is no model in tiles",
    "test --model PatchCore --data tiles": "takes no --model",
    "fit --model patchcore --data tiles/train/good/000.png": "is a file. Expected a folder of images",
    "fit --model patchcore --data empty": "empty",
    "fit --model patchcore --data tiles --engine.accelerator mps": "MPSAccelerator",
    "fit --model patchcore --data tiles --engine.accelerator toaster": "toaster",
    "fit --model patchcore --data tiles --engine.devices 2": "devices is 2",
    "fit --model patchcore --data tiles --engine.precision half": "engine.precision is 'half'. Expected",
    "fit --model patchcore --data tiles --engine.max_epochs many": "engine.max_epochs is 'many'. Expected int",
    "predict --run RUN": "predict needs --source",
    "predict --run RUN --source nowhere": "nowhere",
    "predict --run RUN --source empty": "There are no images in empty",
    "predict --run RUN --source tiles/*.gif": "tiles/*.gif",
    "predict --run RUN tiles/test": "'tiles/test' stands there without an option",
    "predict --run RUN --source tiles/test --on_odd_frame stop": "on_odd_frame is 'stop'",
    "export --run GRAPH --format openvino": "is an export for ONNX Runtime",
    "export --run RUN --format onnx --output tiles": "no export",
    "threshold --run RUN --image high": "--image is 'high'",
    "threshold --run RUN --rule f1_adaptiv": "Did you mean 'f1_adaptive'?",
    "threshold --run GRAPH --rule f1_adaptive": "is an export for ONNX Runtime",
    "threshold --run RUN --rule f1_adaptive --data tiles --data.val_split_mode none": "no val images",
    "models --all": "no option --all",
    "notebook --port many": "--port is 'many'",
    "fit --config tiles": "no configuration tiles",
}


@pytest.mark.parametrize("typed", FIRST_HOUR)
def test_mistakes_of_the_first_hour_are_one_sentence(typed, run, graph, capsys, monkeypatch):
    Path("empty").mkdir(exist_ok=True)
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("JupyterLab was started"))
    words = [{"RUN": str(run), "GRAPH": str(graph)}.get(word, word) for word in typed.split()]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert FIRST_HOUR[typed] in err and err.count("\n") == 1 and "Traceback" not in err


def test_a_fault_of_the_program_is_no_traceback_either(capsys, monkeypatch):
    monkeypatch.setitem(COMMANDS, "models", lambda: {}["no such key"])
    assert main(["models"]) == 1
    err = capsys.readouterr().err
    assert "KeyError: 'no such key'" in err and "--debug" in err and err.count("\n") == 1
    with pytest.raises(KeyError):
        main(["models", "--debug"])


@pytest.mark.skipif(os.name != "posix", reason="pipes as shells make them")
def test_a_closed_pipe_is_no_error():
    program = f"{sys.executable} -c {shlex.quote(PROGRAM[2])}"
    done = subprocess.run(["bash", "-c", f"{program} models | true"], capture_output=True, text=True)
    assert done.stderr == ""


def test_version_and_help_in_every_spelling(capsys):
    assert main(["--version"]) == 0 and "anomalib-nb" in capsys.readouterr().out
    assert main(["help", "fit"]) == 0 and "--model" in capsys.readouterr().out
    assert main(["help"]) == 0 and "COMMAND" in capsys.readouterr().out


def test_models_lists_the_zoo(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in list_models()) and "memory" in out


def test_help_does_not_load_torch():
    code = """
import contextlib, io, sys
from anomalib_nb.cli.cli import COMMANDS, main
with contextlib.redirect_stdout(io.StringIO()) as out:
    codes = [main(["--help"]), *(main([name, "--help"]) for name in COMMANDS)]
    codes.append(main(["fit", "--model", "patchcore", "--data", "demodata", "--help"]))
heavy = [m for m in ("torch", "lightning", "timm", "numpy", "pandas", "PIL") if m in sys.modules]
print(codes, heavy, "--model.coreset_sampling_ratio float" in out.getvalue(), "--data.surface" in out.getvalue())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == f"{[0] * (len(COMMANDS) + 2)} [] True True", (
        done.stdout + done.stderr
    )


def test_help_fits_on_a_terminal(capsys):
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert COMMANDS[name].__doc__ in out and max(map(len, out.splitlines())) <= 130


def test_every_model_and_data_set_can_be_described():
    for package, names in (
        ("anomalib_nb.models", list_models()),
        ("anomalib_nb.data", list_datasets()),
    ):
        for name in names:
            assert choose("model" if "models" in package else "data", name.lower())[0].endswith(
                f"={name}"
            )
            arguments = arguments_of(package, name)
            assert all(a.said for a in arguments), name


def test_arguments_of_a_class_are_what_it_takes():
    import inspect

    signature = inspect.signature(DemoData)
    own = [n for n, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    taken = [a.name for a in arguments_of("anomalib_nb.data", "DemoData")]
    assert (
        taken[: len(own)] == own
        and {"train_batch_size", "val_split_mode"} < set(taken)
        and "root" not in taken
    )
    DemoData(
        **{
            "name": "x",
            "train_batch_size": 2,
            "eval_batch_size": 2,
            "num_workers": 0,
            "val_split_mode": "auto",
            "val_split_ratio": 0.5,
        }
    )


WRONG = {
    ("fitt",): "There is no command 'fitt'. Expected fit,",
    ("fit", "--model", "PatchCord", "--data", "DemoData"): "Did you mean 'PatchCore'?",
    ("fit", "--model", "PatchCore", "--data", "nowhere"): "no data set and no folder 'nowhere'",
    ("fit", "--model", "PatchCore"): "fit needs --data",
    ("fit", "--data", "DemoData"): "fit needs --model",
    (
        "fit",
        "--model",
        "PatchCore",
        "--data",
        "DemoData",
        "--model.layer",
        "x",
    ): "Did you mean '--model.layers'?",
    (
        "fit",
        "--model",
        "PatchCore",
        "--data",
        "DemoData",
        "--engine.max_epoch",
        "3",
    ): "Did you mean '--engine.max_epochs'?",
    (
        "fit",
        "--model",
        "PatchCore",
        "--data",
        "DemoData",
        "--model.num_neighbors",
        "many",
    ): "num_neighbors is 'many'. Expected int.",
    (
        "fit",
        "--model",
        "PatchCore",
        "--data",
        "DemoData",
        "--model.upsampling",
        "cubic",
    ): "Expected Literal['bilinear', 'nearest']",
    ("fit", "--model.layers", "[a]", "--data", "DemoData"): "--model.layers needs a model",
    (
        "fit",
        "--model",
        "PatchCore",
        "--data",
        "DemoData",
        "--model.coreset_sampling_ratio",
        "2",
    ): "coreset_sampling_ratio is 2",
    ("fit", "--config", "nowhere.yaml"): "There is no configuration nowhere.yaml",
    ("test", "--run", "nowhere"): "nowhere",
    ("test",): "test needs --run",
    ("predict", "--run", "nowhere", "--source", "x"): "There is no nowhere",
    ("threshold", "--run", "nowhere"): "There is no nowhere",
    (
        "export",
        "--run",
        "nowhere",
        "--format",
        "onxx",
    ): "format is 'onxx'. Expected Literal['torch', 'onnx', 'openvino']",
    ("fit", "PatchCore"): "PatchCore",
}


@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_errors_are_one_line_and_code_two(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(list(command)) == 2
    out, err = capsys.readouterr()
    assert WRONG[command] in err and err.count("\n") == 1 and "Traceback" not in err


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no command"):
        main(["fitt", "--debug"])


def test_a_configuration_cannot_name_a_class_to_import(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(
        "model:\n  class_path: os.system\n  init_args:\n    command: touch pwned\n"
    )
    assert main(["fit", "--config", str(tmp_path / "bad.yaml"), "--data", "DemoData"]) == 2
    (tmp_path / "worse.yaml").write_text("model: !!python/object/apply:os.system ['touch pwned']\n")
    assert main(["fit", "--config", str(tmp_path / "worse.yaml"), "--data", "DemoData"]) == 2
    for text in ("- 1\n- 2\n", "model: PatchCore\n", "model: [1\n"):
        (tmp_path / "odd.yaml").write_text(text)
        assert main(["fit", "--config", str(tmp_path / "odd.yaml")]) == 2
    assert not Path("pwned").exists() and capsys.readouterr().err.count("\n") == 5


def test_spellings_are_normalised():
    assert normalised(["--model=patch_core", "--target-fpr", "0.1", "--source", "a-b/*.png"]) == [
        "--model.id=PatchCore",
        "--target_fpr",
        "0.1",
        "--source",
        "a-b/*.png",
    ]


@pytest.mark.skipif(os.name != "posix", reason="signals as terminals send them")
def test_ctrl_c_says_where_things_are(home):
    command = [
        "fit",
        "--model",
        "PatchCore",
        "--data",
        "DemoData",
        "--data.train",
        "2000",
        "--engine.default_root_dir",
        "stopped",
        "--data.train_batch_size",
        "2",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": home}
    # A job in the background starts with Ctrl-C ignored, and hands that on.
    process = subprocess.Popen(
        [*PROGRAM, *command],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **pipes,
    )
    note = home / "stopped/PatchCore/metal/v0/config.yaml"
    for _ in range(600):
        if note.exists():
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted. What was written is in" in err and "Traceback" not in err


def test_the_notebook_is_written_once_and_served_here_only(tmp_path, monkeypatch):
    called = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "os.execve", lambda program, command, env: called.update(command=command, env=env)
    )
    assert main(["notebook", "--port", "9999", "--no-browser"]) == 0
    assert (
        "--ip=127.0.0.1" in called["command"]
        and "--no-browser" in called["command"]
        and "--port=9999" in called["command"]
    )
    assert called["env"]["PANEL_INLINE"] == "true"
    path = tmp_path / "anomalib_nb_tutorial/00_quickstart.ipynb"
    cells = json.loads(path.read_text())["cells"]
    for cell in cells[1:]:
        compile(cell["source"], "cell", "exec")
    path.write_text("mine")
    assert main(["notebook"]) == 0 and path.read_text() == "mine"


def test_defaults_are_those_of_the_workspace(run, tmp_path):
    done = terminal(
        "test",
        "--run",
        Path(run).resolve(),
        "--data",
        Path("tiles").resolve(),
        cwd=tmp_path,
        ANOMALIB_NB__RESULTS__ROOT=str(tmp_path / "elsewhere"),
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "elsewhere").rglob("metrics.json"))
