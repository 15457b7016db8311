#!/usr/bin/env python3
"""PatchCore side by side with the reference: same images, same weights, same machine, one run.

    python benchmarks/patchcore.py --data DIR --weights resnet18.safetensors [--reference-python PYTHON]

DIR is in MVTec layout. `--reference-python` is a Python that has anomalib 2.7; each side runs in a
process of its own, so that peak memory is its own. `--images 0` takes all training images.
Prints a table; ratios are reference / ours.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OURS = "ours"
REFERENCE = "reference"
LAYERS = {"mobilenetv2_100": ("blocks.2", "blocks.4"), "mobilenetv2_035": ("blocks.2", "blocks.4")}


def chosen(folder: Path, count: int) -> list[Path]:
    "Evenly spaced images of the sorted names; all of them for 0."
    files = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp")
    )
    return (
        [files[round(i * (len(files) - 1) / (count - 1))] for i in range(count)] if count else files
    )


def subset(data: Path, count: int, folder: Path) -> Path:
    "The data set with fewer training images, as links."
    (folder / "train").mkdir(parents=True)
    (folder / "train/good").mkdir()
    for file in chosen(data / "train/good", count):
        (folder / "train/good" / file.name).symlink_to(file.resolve())
    for part in ("test", "ground_truth"):
        (folder / part).symlink_to((data / part).resolve())
    return folder


def peak_mb() -> float:
    "Peak resident memory of this process, in MB."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limits(a: argparse.Namespace) -> dict:
    "What keeps a trainer from calibrating: no validation batch."
    return {"limit_val_batches": 0} if a.validation == "none" else {}


def run_ours(a: argparse.Namespace) -> dict:
    "Fit, predict and measure with this library."
    import torch

    torch.set_num_threads(a.threads)
    from anomalib_nb.data import Folder
    from anomalib_nb.engine import Engine
    from anomalib_nb.metrics import AUPRO, AUROC, Evaluator, F1Max
    from anomalib_nb.models import PatchCore

    data = Folder(a.data, name="bench", val_split_mode="same_as_test")
    weights = None if a.backbone == "embedded" else a.weights
    model = PatchCore(a.backbone, LAYERS.get(a.backbone, ("layer2", "layer3")), weights)
    with tempfile.TemporaryDirectory() as root:
        engine = Engine(
            root,
            Evaluator([AUROC, F1Max, AUPRO]),
            accelerator="cpu",
            enable_progress_bar=False,
            **limits(a),
        )
        start = time.perf_counter()
        engine.fit(model, data)
        fit, fit_peak = time.perf_counter() - start, peak_mb()
        start = time.perf_counter()
        metrics = engine.test(model, data)
        test = time.perf_counter() - start
    images = torch.stack([data.dataset("test")[i].image for i in range(32)])
    return {
        "fit": fit,
        "test": test,
        "forward": forward_ms(lambda x: model(model.pre(x)), images),
        "fit_peak": fit_peak,
        "peak": peak_mb(),
        "bank": len(model.bank),
        **metrics,
    }


def run_reference(a: argparse.Namespace) -> dict:
    "Fit, predict and measure with anomalib 2.7, through its public API."
    import torch

    torch.set_num_threads(a.threads)
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Patchcore
    from safetensors.torch import load_file
    from sklearn.metrics import roc_auc_score

    root = Path(a.data)
    defects = [f"test/{p.name}" for p in sorted((root / "test").iterdir()) if p.name != "good"]
    data = Folder(
        name="bench",
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=defects,
        mask_dir=[f"ground_truth/{Path(d).name}" for d in defects],
        train_batch_size=32,
        eval_batch_size=32,
        num_workers=0,
        val_split_mode="same_as_test",
    )
    model = Patchcore(
        backbone=a.backbone,
        layers=LAYERS.get(a.backbone, ("layer2", "layer3")),
        pre_trained=False,
        visualizer=False,
    )
    network = model.model.feature_extractor.feature_extractor
    own, file = network.state_dict(), load_file(a.weights)
    network.load_state_dict({**own, **{k: v for k, v in file.items() if k in own}})
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            default_root_dir=folder,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            **limits(a),
        )
        start = time.perf_counter()
        engine.fit(model, datamodule=data)
        fit, fit_peak = time.perf_counter() - start, peak_mb()
        start = time.perf_counter()
        engine.test(model, datamodule=data, verbose=False)
        test = time.perf_counter() - start
    model.eval()
    scores, labels, images = [], [], []
    for batch in data.test_dataloader():
        x = model.pre_processor.transform(batch.image)
        with torch.no_grad():
            scores += model.model(x).pred_score.flatten().tolist()
        labels += batch.gt_label.int().tolist()
        images.append(batch.image)
    images = torch.cat(images)[:32]
    ms = forward_ms(lambda x: model.model(model.pre_processor.transform(x)), images)
    return {
        "fit": fit,
        "test": test,
        "forward": ms,
        "fit_peak": fit_peak,
        "peak": peak_mb(),
        "bank": len(model.model.memory_bank),
        "image_AUROC": roc_auc_score(labels, scores),
    }


def forward_ms(predict, images, repeats: int = 8) -> float:
    "Milliseconds an image, one image at a time; the best of some rounds over eight images."
    import torch

    times = []
    with torch.no_grad():
        predict(images[:1])
        for _ in range(repeats):
            start = time.perf_counter()
            for i in range(8):
                predict(images[i : i + 1])
            times.append((time.perf_counter() - start) / 8 * 1000)
    return min(times)


def side(name: str, python: str, a: argparse.Namespace, data: Path) -> dict:
    "Run one side in a process of its own."
    command = [
        python,
        __file__,
        "--side",
        name,
        "--data",
        str(data),
        "--weights",
        a.weights,
        "--backbone",
        a.backbone,
        "--threads",
        str(a.threads),
        "--validation",
        a.validation,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    "Parse, run both sides, print the table."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", default="")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--validation",
        choices=["none", "test"],
        default="none",
        help="images that fit also calibrates on",
    )
    parser.add_argument("--reference-python", default="")
    parser.add_argument("--side", choices=[OURS, REFERENCE], help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.side:
        print(json.dumps((run_ours if a.side == OURS else run_reference)(a)))
        return
    with tempfile.TemporaryDirectory() as folder:
        data = subset(Path(a.data), a.images, Path(folder) / "set")
        ours = side(OURS, sys.executable, a, data)
        theirs = side(REFERENCE, a.reference_python, a, data) if a.reference_python else {}
    print(
        f"PatchCore, {a.backbone}, {a.images or 'all'} training images of {Path(a.data).name}, {a.threads} threads"
    )
    print(f"| {'':<22} | {'ours':>9} | {'anomalib':>9} | {'ratio':>6} |")
    print(f"|{'-' * 24}|{'-' * 10}:|{'-' * 10}:|{'-' * 7}:|")
    rows = {
        "fit": "fit, s",
        "test": "test, s",
        "forward": "one image, ms",
        "fit_peak": "peak memory of fit, MB",
        "peak": "peak memory, MB",
        "bank": "patches kept",
        "image_AUROC": "image AUROC",
        "image_F1Max": "image F1Max",
        "pixel_AUROC": "pixel AUROC",
        "pixel_AUPRO": "pixel AUPRO",
    }
    for key, label in rows.items():
        if key not in ours:
            continue
        other = theirs.get(key)
        digits = 3 if "_" in key and "peak" not in key else 1
        ratio = f"{other / ours[key]:6.1f}" if other and digits == 1 else ""
        print(
            f"| {label:<22} | {ours[key]:9.{digits}f} | {'' if other is None else f'{other:.{digits}f}':>9} | {ratio:>6} |"
        )


if __name__ == "__main__":
    main()
