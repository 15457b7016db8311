"""Two processes that saw half of the images each agree with one that saw all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("two_processes.py")


def values_of(rank, folder, mode):
    return json.loads((folder / f"{mode}_{rank}.json").read_text())


@pytest.mark.parametrize("mode", ["exact", "streaming", "mixed"])
def test_two_gloo_processes_agree_with_one(mode, tmp_path):
    workers = [
        subprocess.Popen([sys.executable, "-W", "ignore", WORKER, str(rank), str(tmp_path), mode])
        for rank in (0, 1)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    first, second = (values_of(rank, tmp_path, mode) for rank in (0, 1))
    assert first["joined"] == second["joined"]
    assert first["images"] == [12, 12] and second["images"] == [12, 12]
    names = first["whole"].keys()
    assert {"AUROC", "AUPR", "F1Max", "AUPRO", "AUPIMO", "F1Score", "PRO", "IoU"} <= set(names)
    for name in names:
        value, bound = first["joined"][name]
        slack = 1e-12 if mode == "exact" else bound + 1e-9
        np.testing.assert_allclose(value, first["whole"][name], rtol=0, atol=slack, err_msg=name)
