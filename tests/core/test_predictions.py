"""A run on disk survives what can happen to it: a killed writer, a full disk, damage, a second reader."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from anomalib_nb.core.predictions import Predictions, PredictionsWriter

WRITER = """
import sys
import numpy as np
from anomalib_nb.core.predictions import PredictionsWriter

writer = PredictionsWriter(sys.argv[1], mode="append", images=True)
print("ready", flush=True)
while True:
    rows = np.arange(len(writer), len(writer) + 4)
    writer.append({
        "pred_score": rows.astype(np.float32),
        "gt_label": rows % 2 == 1,
        "image_path": [f"part/{'crack' if i % 2 else 'good'}/{i}.png" for i in rows],
        "anomaly_map": np.broadcast_to(rows[:, None, None], (4, 32, 32)).astype(np.float32) + 1,
        "gt_mask": np.ones((4, 32, 32), bool),
        "image": np.ones((4, 3, 16, 16), np.float32),
    })
"""


def rows_of(start: int, count: int = 4, size: int = 8) -> dict:
    rows = np.arange(start, start + count)
    return {
        "pred_score": rows.astype(np.float32),
        "gt_label": rows % 2 == 1,
        "image_path": [f"part/{'crack' if i % 2 else 'good'}/{i}.png" for i in rows],
        "anomaly_map": np.broadcast_to(rows[:, None, None], (count, size, size)).astype(np.float32)
        + 1,
    }


def assert_prefix(run: Predictions) -> None:
    count = len(run)
    assert np.array_equal(run.scores, np.arange(count, dtype=np.float32))
    assert run.labels.tolist() == [i % 2 for i in range(count)]
    assert [Path(p).stem for p in run.paths] == [str(i) for i in range(count)]
    for i in {0, count // 2, count - 1} & set(range(count)):
        assert (run.maps[i] == i + 1).all()


def test_a_killed_writer_leaves_a_readable_prefix(tmp_path):
    path, seen, rng = tmp_path / "run.zarr", [0], np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.05, 0.4))
        assert_prefix(Predictions.load(path))  # while it is written
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        run = Predictions.load(path)
        assert_prefix(run)
        assert len(run) % 4 == 0 and len(run) >= seen[-1]
        seen.append(len(run))
    assert seen[-1] > 0


@pytest.mark.parametrize("fail_at", range(12))
def test_a_write_that_fails_anywhere_keeps_the_committed_rows(tmp_path, monkeypatch, fail_at):
    import zarr.storage._local as local

    writer = PredictionsWriter(tmp_path / "run", model="m")
    writer.append(rows_of(0))
    true_put, calls = local._put, []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) > fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return true_put(*args, **kwargs)

    monkeypatch.setattr(local, "_put", full)
    with pytest.raises(
        OSError, match="The disk is full: .* keeps its first 4 images. Free space"
    ) as error:
        writer.append(rows_of(4))
    assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    assert_prefix(Predictions.load(tmp_path / "run"))
    monkeypatch.undo()
    assert writer.append(rows_of(4)) == 8
    assert_prefix(Predictions.load(tmp_path / "run"))
    assert PredictionsWriter(tmp_path / "run", mode="append").append(rows_of(8)) == 12


def test_a_full_disk_at_the_commit_itself(tmp_path, monkeypatch):
    import anomalib_nb.core.predictions as module

    writer = PredictionsWriter(tmp_path / "run")
    writer.append(rows_of(0))

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(OSError, match="keeps its first 4 images"):
        writer.append(rows_of(4, count=2))
    monkeypatch.undo()
    assert len(Predictions.load(tmp_path / "run")) == 4
    again = PredictionsWriter(tmp_path / "run", mode="append")
    assert again.append(rows_of(4)) == 8
    assert_prefix(Predictions.load(tmp_path / "run"))


def test_an_uncommitted_variable_of_a_crash_is_removed(tmp_path):
    writer = PredictionsWriter(tmp_path / "run")
    writer.group.create_array("anomaly_map", shape=(9, 3, 3), chunks=(1, 3, 3), dtype="float32")
    (tmp_path / "run" / "pred_score" / "c").mkdir(exist_ok=True)
    (tmp_path / "run" / "pred_score" / "c" / "0.1234.partial").write_bytes(b"half")
    assert len(Predictions.load(tmp_path / "run")) == 0
    assert PredictionsWriter(tmp_path / "run", mode="append").append(rows_of(0)) == 4
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert_prefix(Predictions.load(tmp_path / "run"))


def test_damage_is_named_not_returned(tmp_path):
    path = Predictions.from_batches([rows_of(0)]).save(tmp_path / "run")
    chunk = path / "anomaly_map" / "c" / "2" / "0" / "0"
    os.truncate(chunk, 5)
    run = Predictions.load(path)
    assert (run.maps[1] == 2).all()
    with pytest.raises(ValueError, match="stored anomaly_map of the run .* is damaged"):
        run.maps[2]
    chunk.unlink()
    with pytest.raises(ValueError, match="anomaly_map/c/2/0/0 is missing"):
        run.maps[2]
    os.truncate(path / "zarr.json", 100)
    with pytest.raises(ValueError, match="is not JSON"):
        Predictions.load(path)


def test_opening_reads_no_map(tmp_path):
    writer = PredictionsWriter(tmp_path / "run")
    for start in range(0, 1000, 250):
        writer.append(rows_of(start, 250, 16))
    Predictions.load(tmp_path / "run")
    for file in (tmp_path / "run" / "anomaly_map").rglob("0"):
        if file.is_file():
            file.chmod(0)
    for file in (tmp_path / "run" / "anomaly_map" / "c").iterdir():
        file.rename(file.with_name(f"away{file.name}"))
    tracemalloc.start()
    start = time.perf_counter()
    run = Predictions.load(tmp_path / "run").at(500.0)
    took, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (
        len(run) == 1000
        and run.worst(3).maps.shape == (3, 16, 16)
        and run.to_pandas().shape[0] == 1000
    )
    assert took < 1 and peak < 4e6
    with pytest.raises(ValueError, match="anomaly_map/c/0/0/0 is missing"):
        run.maps[0]


def test_readers_do_not_write(tmp_path):
    path = Predictions.from_batches([rows_of(0)]).save(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    run = Predictions.load(path).at(2.0, 3.0)
    run.to_pandas(), run.worst(2)[0], np.asarray(run.maps), run.against(run)
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_an_open_run_does_not_change_while_it_is_written(tmp_path):
    writer = PredictionsWriter(tmp_path / "run")
    assert len(Predictions.load(tmp_path / "run")) == 0
    writer.append(rows_of(0))
    early = Predictions.load(tmp_path / "run")
    writer.append(rows_of(4))
    writer.update(image_threshold=3.5)
    assert len(early) == 4 and early.maps.shape[0] == 4
    assert_prefix(early)
    late = Predictions.load(tmp_path / "run")
    assert len(late) == 8 and late.pred_label.sum() == 4


def test_nothing_but_a_run_is_replaced(tmp_path):
    run = Predictions.from_batches([rows_of(0)])
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "a.txt").write_text("keep")
    for attempt in (
        lambda: run.save(precious, overwrite=True),
        lambda: PredictionsWriter(precious, mode="overwrite"),
        lambda: PredictionsWriter(precious, mode="append"),
    ):
        with pytest.raises(ValueError, match="is not a run"):
            attempt()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        run.save(precious)
    with pytest.raises(FileExistsError, match="mode 'overwrite' or 'append'"):
        PredictionsWriter(precious)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"] and (
        precious / "a.txt"
    ).read_text() == "keep"


def test_a_save_that_fails_leaves_the_old_run(tmp_path, monkeypatch):
    import anomalib_nb.core.predictions as module

    path = Predictions.from_batches([rows_of(0)], model="old").save(tmp_path / "run")

    def broken(*args):
        raise OSError(errno.EIO, "broken")

    for name in ("copy_rows", "put_in_place"):
        monkeypatch.setattr(module, name, broken)
        with pytest.raises(OSError, match="broken"):
            Predictions.from_batches([rows_of(0)], model="new").save(path, overwrite=True)
        assert Predictions.load(path).attrs["model"] == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["run"]
        monkeypatch.undo()


def test_a_run_can_be_saved_over_itself(tmp_path):
    path = Predictions.from_batches([rows_of(0)]).save(tmp_path / "run")
    Predictions.load(path).at(2.0)[1:].save(path, overwrite=True)
    run = Predictions.load(path)
    assert run.scores.tolist() == [1, 2, 3] and run.pred_label.tolist() == [False, True, True]


def test_torch_batches_and_odd_text(tmp_path):
    import torch

    from anomalib_nb.core.types import Batch

    path = "öl/\u2028Riß\n\udcff/é.png"
    batch = Batch(
        image=torch.rand(1, 3, 6, 4),
        image_path=[path],
        gt_label=torch.tensor([True]),
        gt_mask=torch.ones(1, 3, 2, dtype=torch.bool),
        anomaly_map=torch.rand(1, 3, 2),
        pred_score=torch.tensor([0.5]),
        info=[{"label": "Riß", "image_size": (600, 400)}],
    )
    writer = PredictionsWriter(tmp_path / "run", images=True, image_threshold=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer.append(batch)
        run = Predictions.load(tmp_path / "run")
    item = run[0]
    assert (
        item.image_path == path
        and item.info["label"] == "Riß"
        and item.info["image_size"] == (600, 400)
    )
    assert item.pred_label is True and item.gt_mask.all() and item.image.shape == (3, 6, 4)
    assert abs(item.image - batch.image[0].numpy()).max() < 1 / 255
    assert np.array_equal(item.anomaly_map, batch.anomaly_map[0].numpy())
    assert run.to_pandas()["image_path"][0] == path.replace("\udcff", "\\udcff")
    assert Predictions.load(run.save(tmp_path / "copy")).paths == [path]


def test_batches_must_agree(tmp_path):
    writer = PredictionsWriter(tmp_path / "run")
    writer.append(rows_of(0))
    with pytest.raises(ValueError, match=r"anomaly_map has shape \(9, 9\). Expected \(8, 8\)"):
        writer.append(rows_of(4, size=9))
    with pytest.raises(ValueError, match="'anomaly_map'.* set in some batches only"):
        writer.append({k: v for k, v in rows_of(4).items() if k != "anomaly_map"})
    with pytest.raises(
        ValueError, match=r"gt_mask has shape \(4, 9, 9\). Expected image 4 × y 8 × x 8"
    ):
        writer.append({**rows_of(4), "gt_mask": np.zeros((4, 9, 9), bool)})
    with pytest.raises(ValueError, match=r"gt_label has shape \(3,\). Expected image 4"):
        writer.append({**rows_of(4), "gt_label": np.zeros(3, bool)})
    with pytest.raises(ValueError, match="no pred_score"):
        writer.append({"image_path": ["a.png"]})
    assert writer.append(rows_of(4)) == 8
    assert_prefix(Predictions.load(tmp_path / "run"))


def test_worst_without_truth_or_threshold_takes_the_highest_scores():
    batch = rows_of(0)
    assert Predictions.from_batches([batch]).worst(2).scores.tolist() == [3, 2]
    del batch["gt_label"]
    assert Predictions.from_batches([batch], image_threshold=1.0).worst(2).scores.tolist() == [3, 2]
    batch["pred_score"] = np.array([0, np.nan, 2, 3], np.float32)
    assert Predictions.from_batches([batch]).worst(9).scores[:3].tolist() == [3, 2, 0]


def test_decisions_are_made_in_float32():
    score = np.float32(0.1)
    run = Predictions.from_batches([{"pred_score": np.array([score])}])
    assert run.at(0.1).pred_label.tolist() == [True] and run.at(
        float(np.nextafter(score, 1))
    ).pred_label.tolist() == [False]


def test_runs_that_cannot_be_compared_say_why():
    run = Predictions.from_batches([rows_of(0)]).at(1.0)
    with pytest.raises(ValueError, match="without threshold"):
        run.against(Predictions.from_batches([rows_of(0)]))
    with pytest.raises(ValueError, match="share no image"):
        run.against(Predictions.from_batches([rows_of(9)]).at(1.0))
    with pytest.raises(ValueError, match="twice"):
        run.against(Predictions.from_batches([rows_of(0)] * 2).at(1.0))


def test_a_path_that_is_no_run_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no run at"):
        Predictions.load(tmp_path / "nothing")
    (tmp_path / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
    )
    with pytest.raises(ValueError, match="is not a run"):
        Predictions.load(tmp_path)


def test_importing_costs_neither_torch_nor_xarray():
    code = "import sys, anomalib_nb.core.predictions; print({'torch', 'xarray', 'zarr', 'pandas'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
