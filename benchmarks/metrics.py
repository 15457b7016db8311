"""What do pixel metrics cost? All five of one evaluation, beside the reference's five one by one.

    python benchmarks/metrics.py --reference-python /path/to/python       # 100 and 400 maps of 256², 50 of 1024²
    python benchmarks/metrics.py --sizes 20x64 --stream 50x64             # a small run

A size is MAPSxPIXELS. Half of the maps are anomalous, scores are smooth noise within (0, 1), so that no metric of the
reference squashes them. Both sides take batches of 25 maps, with the same number of threads; each measurement runs in
a process of its own, alternating between the sides. Memory is the peak of the process over what it had when its
inputs were loaded. Read the ratios, not the seconds.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NAMES = ("AUROC", "AUPR", "F1Max", "AUPRO", "AUPIMO")
BATCH = 25
AGAIN = 3

REFERENCE = """
import sys, time, json, warnings, logging
warnings.filterwarnings("ignore"); logging.disable(logging.WARNING)
import numpy as np, torch
import anomalib.metrics as metrics
from anomalib.data import ImageBatch
torch.set_num_threads(int(sys.argv[3]))
maps = torch.from_numpy(np.load(sys.argv[1] + "/maps.npy")); masks = torch.from_numpy(np.load(sys.argv[1] + "/masks.npy"))
blank = torch.zeros(1, 3, 1, 1)
def run(name, maps, masks):
    metric = getattr(metrics, name)(fields=["anomaly_map", "gt_mask"])
    begun = time.perf_counter()
    for i in range(0, len(maps), %d):
        part = maps[i : i + %d]
        metric.update(ImageBatch(image=blank.expand(len(part), 3, 1, 1), anomaly_map=part, gt_mask=masks[i : i + %d]))
    value = float(metric.compute())
    return time.perf_counter() - begun, value
for name in sys.argv[2].split(","):
    if name != "AUPIMO": run(name, maps[:4, :32, :32], masks[:4, :32, :32])
found = {name: run(name, maps, masks) for name in sys.argv[2].split(",")}
print(json.dumps(found))
""" % (BATCH, BATCH, BATCH)


def write_maps(folder: Path, count: int, size: int, seed: int = 0) -> None:
    "Maps and masks as files: smooth noise, on every second map a defect or two."
    maps, masks = made(np.random.default_rng(seed), count, size)
    np.save(folder / "maps.npy", maps)
    np.save(folder / "masks.npy", masks)


def made(random: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    "Maps (N, H, W) in (0, 1) and masks of the same shape."
    coarse = random.standard_normal((count, size // 8 + 2, size // 8 + 2), dtype=np.float32)
    smooth = coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size]
    maps = smooth + 0.5 * random.standard_normal((count, size, size), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    for mask in masks[1::2]:
        for _ in range(int(random.integers(1, 3))):
            h, w = random.integers(size // 16, size // 4, 2)
            y, x = random.integers(0, size - h), random.integers(0, size - w)
            mask[y : y + h, x : x + w] = True
    maps += random.uniform(0, 5, (count, 1, 1)).astype(np.float32) * masks
    return 1 / (1 + np.exp(-maps / 2)), masks


def resident() -> float:
    "Resident memory of this process, in bytes."
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak() -> float:
    "Peak resident memory of this process, in bytes."
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(folder: str, names: str, threads: int, mode: str) -> dict:
    "Time, values and memory of our metrics in one evaluation."
    import torch

    from anomalib_nb.core import Batch
    from anomalib_nb.metrics import Evaluator

    torch.set_num_threads(threads)
    grid = {"num_thresholds": 300_000} if mode == "grid" else {}
    evaluator = Evaluator(
        [metric(name, grid) for name in names.split(",")],
        levels=["pixel"],
        mode="streaming" if mode == "streaming" else "exact",
    )
    small = Batch(anomaly_map=np.random.default_rng(0).random((2, 8, 8)), gt_mask=np.eye(8) > 0)
    small.gt_mask = np.stack([small.gt_mask, small.gt_mask & False])
    evaluator.update(small)
    evaluator.compute()
    maps, masks = (np.load(f"{folder}/{name}.npy") for name in ("maps", "masks"))
    base, (seconds, results) = resident(), evaluated(evaluator, maps, masks)
    values = {name.split("_")[1]: float(value) for name, value in results.items()}
    bounds = [getattr(value, "bound", 0.0) for value in results.values()]
    held = max(peak() - base, 0)
    again = [evaluated(evaluator, maps, masks)[0] for _ in range(AGAIN if mode == "again" else 0)]
    return {
        "seconds": seconds,
        "again": min(again, default=seconds),
        "values": values,
        "bytes": held,
        "pixels": maps.size,
        "bound": max(bounds),
    }


def evaluated(evaluator, maps: np.ndarray, masks: np.ndarray) -> tuple[float, dict]:
    "Seconds and results of one evaluation, which starts from nothing."
    from anomalib_nb.core import Batch

    evaluator.reset()
    begun = time.perf_counter()
    for i in range(0, len(maps), BATCH):
        evaluator.update(Batch(anomaly_map=maps[i : i + BATCH], gt_mask=masks[i : i + BATCH]))
    results = evaluator.compute()
    return time.perf_counter() - begun, results


def metric(name: str, grid: dict):
    "A metric, on the reference's grid if asked."
    from anomalib_nb.metrics import get_metric

    return get_metric(name, **(grid if name == "AUPIMO" else {}))


def stream(count: int, size: int) -> dict:
    "Memory of a stream of maps that are made batch by batch."
    from anomalib_nb.core import Batch
    from anomalib_nb.metrics import Evaluator

    evaluator = Evaluator(NAMES, levels=["pixel"], mode="streaming")
    random = np.random.default_rng(0)
    made(random, BATCH, size)
    base, seconds = resident(), 0.0
    for _ in range(0, count, BATCH):
        maps, masks = made(random, BATCH, size)
        begun = time.perf_counter()
        evaluator.update(Batch(anomaly_map=maps, gt_mask=masks))
        seconds += time.perf_counter() - begun
    begun = time.perf_counter()
    results = evaluator.compute()
    seconds += time.perf_counter() - begun
    bounds = {name: value.bound for name, value in results.items()}
    return {"bytes": peak() - base, "seconds": seconds, "bounds": bounds}


def child(*arguments: str) -> dict:
    "One measurement of ours in a process of its own."
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--child", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(shown.stdout.splitlines()[-1])


def reference(python: str, folder: str, names: str, threads: int) -> dict:
    "Time and values of the reference's metrics, one by one."
    shown = subprocess.run(
        [python, "-c", REFERENCE, folder, names, str(threads)], capture_output=True, text=True
    )
    if shown.returncode:
        raise RuntimeError(shown.stderr[-2000:])
    return json.loads(shown.stdout.splitlines()[-1])


def beside(size: str, a: argparse.Namespace) -> None:
    "One size, both sides."
    count, pixels = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        write_maps(Path(folder), count, pixels)
        joined, threads = ",".join(NAMES), str(a.threads)
        together = child("ours", folder, joined, threads, "exact")
        print(f"\n### {count} maps of {pixels}²\n")
        print(
            f"Ours, all five: {together['seconds']:.2f} s, "
            f"{together['bytes'] / together['pixels']:.1f} bytes a pixel over the inputs\n"
        )
        bounded = child("ours", folder, joined, threads, "streaming")
        print(
            f"As a stream: {bounded['seconds']:.2f} s, largest bound {bounded['bound']:.0e}, "
            f"largest error {worst(bounded['values'], together['values']):.0e}\n"
        )
        if not a.reference_python:
            return
        print("| metric | ours alone, s | reference, s | ratio | difference of values |")
        print("|---|---:|---:|---:|---:|")
        total = 0.0
        for name in NAMES:
            theirs, value = reference(a.reference_python, folder, name, a.threads)[name]
            mine = child("ours", folder, name, threads, "grid" if name == "AUPIMO" else "exact")
            total += theirs
            gap = abs(mine["values"][name] - value)
            ratio = theirs / mine["seconds"]
            print(f"| {name} | {mine['seconds']:.2f} | {theirs:.2f} | {ratio:.1f} | {gap:.0e} |")
        again = child("ours", folder, joined, threads, "exact")
        mean = (together["seconds"] + again["seconds"]) / 2
        print(f"| **all five** | {mean:.2f} | {total:.2f} | **{total / mean:.1f}** | |")
        alone = child("ours", folder, "AUPIMO", threads, "exact")
        print(
            f"\nAUPIMO at every threshold, as it is by default: {alone['seconds']:.2f} s, "
            f"{alone['values']['AUPIMO']:.6f} (on the grid {mine['values']['AUPIMO']:.6f})"
        )


def worst(found: dict, true: dict) -> float:
    "The largest difference of two sets of values."
    return max(abs(found[name] - true[name]) for name in true)


def growth(a: argparse.Namespace) -> None:
    "How time grows with the number of maps, at the first evaluation of a process and at later ones."
    counts, times = [50, 100, 200, 400, 800], {"seconds": [], "again": []}
    print(
        "\n### Growth\n\n| maps of 256² | first in its process, s | later ones, s |\n|---:|---:|---:|"
    )
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_maps(Path(folder), count, 256)
            names, threads = ",".join(NAMES), str(a.threads)
            runs = [child("ours", folder, names, threads, "again") for _ in range(3)]
        for name, each in times.items():
            each.append(min(run[name] for run in runs))
        print(f"| {count} | {times['seconds'][-1]:.2f} | {times['again'][-1]:.2f} |")
    first, later = (np.polyfit(np.log(counts), np.log(each), 1)[0] for each in times.values())
    pixels = np.array(counts) * 256**2
    sorting = np.polyfit(np.log(pixels), np.log(pixels * np.log(pixels)), 1)[0]
    print(
        f"\nExponents, best of three processes: {first:.2f} and {later:.2f}; n log n has {sorting:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=["100x256", "400x256", "50x1024"])
    parser.add_argument(
        "--stream", default="2000x256", help="maps and size of the long stream; '' for none"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference-python", help="a Python that has anomalib 2.7")
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        kind, *rest = a.child
        found = (
            ours(rest[0], rest[1], int(rest[2]), rest[3])
            if kind == "ours"
            else stream(*map(int, rest))
        )
        print(json.dumps(found))
        return
    for size in a.sizes:
        beside(size, a)
    count, pixels = map(int, a.stream.split("x")) if a.stream else (0, 0)
    for some in (count // 4, count) if count else ():
        found = child("stream", str(some), str(pixels))
        bound = max(value for value in found["bounds"].values() if not math.isnan(value))
        print(
            f"\nStream of {some} maps of {pixels}², made batch by batch: {found['bytes'] / 1e6:.0f} MB over the start "
            f"(batches included), {found['seconds']:.1f} s, largest bound {bound:.0e}"
        )
    if not a.no_growth:
        growth(a)


if __name__ == "__main__":
    main()
