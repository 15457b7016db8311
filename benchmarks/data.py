#!/usr/bin/env python3
"""Reading, remembering and finding images, beside the reference.

    python benchmarks/data.py --data dobot_cubes [--images 400] [--files 100000] [--rounds 3]
                              [--threads 2] [--reference-python PYTHON] [--only epochs|index]

`--data` is a folder in the layout of MVTec AD: tiles of 256 x 256 pixels are cut from its images
and written to a temporary folder, as PNG and as JPEG, half of them for training, half for test, a
quarter with masks. An epoch is every batch of 32 of both, images as floats, with labels and masks.
`--reference-python` is a Python that has anomalib 2.7. Every run is a fresh process, all of them
take turns, and the best of the rounds counts. Files lie in the system's cache for all of them.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE = 256


# What runs in a process of its own. Only the standard library is there on both sides.


def measured_epochs(loaders: list, epochs: int) -> dict:
    "Seconds of each epoch, and what came out of it."
    seconds, seen = [], {}
    for _ in range(epochs):
        start, images, masks, total = time.perf_counter(), 0, 0, 0.0
        for loader in loaders:
            for batch in loader:
                images += len(batch.image)
                masks += len(batch.gt_mask) if batch.gt_mask is not None else 0
        seconds.append(time.perf_counter() - start)
        total = float(batch.image.double().mean())
        shape, kind = list(batch.image.shape[1:]), str(batch.image.dtype)
        seen = {"images": images, "masks": masks, "shape": shape, "type": kind, "mean": total}
    return {"seconds": seconds, **seen}


def our_epochs(a: argparse.Namespace) -> dict:
    "Epochs of this library."
    from anomalib_nb.data import Folder

    workers = max(a.workers, 0)
    data = Folder(a.root, val_split_mode="none", num_workers=workers)
    data.size = (SIDE, SIDE)
    data.setup()
    return measured_epochs([data.train_dataloader(), data.test_dataloader()], a.epochs)


def their_epochs(a: argparse.Namespace) -> dict:
    "Epochs of the reference, by its public names."
    from anomalib.data import Folder
    from torchvision.transforms.v2 import Resize

    defect = next(path.name for path in Path(a.root, "ground_truth").iterdir())
    data = Folder(
        name="tiles",
        root=a.root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=f"test/{defect}",
        mask_dir=f"ground_truth/{defect}",
        val_split_mode="none",
        test_split_mode="from_dir",
        augmentations=Resize((SIDE, SIDE), antialias=True) if a.resize else None,
        **({"num_workers": a.workers} if a.workers >= 0 else {}),
    )
    data.setup()
    return measured_epochs([data.train_dataloader(), data.test_dataloader()], a.epochs)


def memory_mb(field: str) -> float:
    "VmRSS or VmHWM of this process."
    line = next(t for t in Path("/proc/self/status").read_text().splitlines() if field in t)
    return int(line.split()[1]) / 1024


def indexed(make, show: bool) -> dict:
    "Seconds and megabytes of making a table, and of showing the data set."
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, start = memory_mb("VmRSS"), time.perf_counter()
    data = make()
    found = {"table": time.perf_counter() - start, "megabytes": memory_mb("VmHWM") - before}
    for name in ("__repr__", "_repr_html_") if show else ():
        start = time.perf_counter()
        getattr(data, name)()
        found[name] = time.perf_counter() - start
    return found


def our_index(a: argparse.Namespace) -> dict:
    "The table of a large tree, by layout, by name, and as MVTec AD."
    from anomalib_nb.data import Folder, MVTecAD, write_demo_folder

    with tempfile.TemporaryDirectory() as small:  # whatever is imported late is imported now
        write_demo_folder(Path(small) / "wood", "wood", train=4, test=4, size=32)
        Folder(Path(small) / "wood")._repr_html_()

    def table_of(data):
        data.table
        return data

    named = {"normal_dir": "train/good", "normal_test_dir": "test/good", "mask_dir": "ground_truth"}
    named["abnormal_dir"] = [f"test/{path.name}" for path in Path(a.root, "ground_truth").iterdir()]
    make = {
        "layout": lambda: Folder(a.root),
        "places": lambda: Folder(a.root, **named),
        "mvtec": lambda: MVTecAD(Path(a.root).parent, Path(a.root).name),
    }[a.way]
    return indexed(lambda: table_of(make()), True)


def their_index(a: argparse.Namespace) -> dict:
    "The table of a large tree, by the reference."
    from anomalib.data import Folder, MVTecAD

    def folder():
        truth = sorted(path.name for path in Path(a.root, "ground_truth").iterdir())
        data = Folder(
            name="big",
            root=a.root,
            normal_dir="train/good",
            normal_test_dir="test/good",
            abnormal_dir=[f"test/{name}" for name in truth],
            mask_dir=[f"ground_truth/{name}" for name in truth],
            val_split_mode="none",
        )
        data.setup()
        return data

    def mvtec():
        data = MVTecAD(root=Path(a.root).parent, category=Path(a.root).name, val_split_mode="none")
        data.setup()
        return data

    return indexed(mvtec if a.way == "mvtec" else folder, False)


# What starts them


def run(python: str, job: str, threads: int, **options) -> dict:
    "One job in a fresh process."
    words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
    on_disk = options.pop("disk", "")
    cache = {
        "ANOMALIB_NB__DATA__CACHE_ON_DISK": "yes" if on_disk else "no",
        "ANOMALIB_NB__DATA__CACHE_DIR": on_disk,
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(
        [python, __file__, "--job", job, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **cache},
    )
    if done.returncode:
        raise SystemExit(f"{job} {options}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def tiles(folder: Path):
    "Squares of the images of a folder, without end."
    from PIL import Image

    files = sorted(path for part in ("train", "test") for path in (folder / part).rglob("*.jpg"))
    for path in itertools.cycle(files):
        with Image.open(path) as image:
            image = image.convert("RGB")
        across, down = (range(0, max(length - SIDE, 1), SIDE // 2) for length in image.size)
        yield from (image.crop((x, y, x + SIDE, y + SIDE)) for x in across for y in down)


def write_tiles(source: Path, root: Path, number: int, suffix: str, **options) -> Path:
    "A data set of tiles; every fourth one is called defective and has a mask."
    from PIL import Image

    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (80, 90, 120, 130))
    for i, tile in zip(range(number), tiles(source)):
        kind = ("train/good", "test/good", "train/good", "test/spot")[i % 4]
        (root / kind).mkdir(parents=True, exist_ok=True)
        tile.save(root / kind / f"{i:04}{suffix}", **options)
        if kind == "test/spot":
            (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
            mask.save(root / "ground_truth/spot" / f"{i:04}_mask.png")
    return root


def write_tree(root: Path, number: int) -> Path:
    "A large tree in the layout of MVTec AD: tiny pictures, a fifth of them defects and masks."
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "png")
    parts = {"train/good": 0.6, "test/good": 0.2, **{f"test/{k}": 0.05 for k in ("hole", "dent")}}
    parts |= {f"ground_truth/{k}": 0.05 for k in ("hole", "dent")}
    for part, share in parts.items():
        (root / part).mkdir(parents=True)
        end = "_mask.png" if part.startswith("ground") else ".png"
        for i in range(int(number * share)):
            (root / part / f"{i:06}{end}").write_bytes(file.getvalue())
    return root


def epochs_table(a: argparse.Namespace, work: Path) -> None:
    "Images per second, side by side."
    sets = {
        "PNG": (write_tiles(a.data, work / "png", a.images, ".png"), 0),
        "JPEG": (write_tiles(a.data, work / "jpg", a.images, ".jpg", quality=90), 0),
        "as they are, resized": (a.data, 1),
    }
    ours, theirs = sys.executable, a.reference_python
    print("| images | whose | workers | first epoch, images/s | later epochs, images/s | ratios |")
    print("|---|---|---:|---:|---:|---:|")
    for name, (root, resize) in sets.items():
        best: dict[tuple, list[float]] = {}
        plans = [
            ("anomalib 2.7", theirs, "their_epochs", 0, ""),
            ("ours", ours, "our_epochs", 0, ""),
        ]
        if name == "PNG":
            plans += [("anomalib 2.7", theirs, "their_epochs", -1, "")]
            plans += [("ours", ours, "our_epochs", 2, "")]
        plans += [("ours, cache on disk", ours, "our_epochs", 0, "cold")]
        seen = {}
        for turn in range(a.rounds):
            for who, python, job, workers, disk in plans:
                if not python:
                    continue
                told = {"disk": str(work / f"cache-{name}-{turn}")} if disk else {}
                options = {"root": root, "workers": workers, "epochs": 4, "resize": resize, **told}
                got = run(python, job, a.threads, **options)
                seen[who] = {key: got[key] for key in ("images", "masks", "shape", "type")}
                rates = [got["images"] / s for s in (got["seconds"][0], min(got["seconds"][1:]))]
                kept = best.get((who, workers), [0.0, 0.0])
                best[who, workers] = list(map(max, kept, rates))
        base = best.get(("anomalib 2.7", 0))
        for (who, workers), rates in best.items():
            by = [f"{rate / other:.1f}" for rate, other in zip(rates, base)] if base else []
            count = "its default" if workers < 0 else workers
            print(
                f"| {name} | {who} | {count} | {rates[0]:.0f} | {rates[1]:.0f} | {', '.join(by)} |"
            )
        print(f"<!-- {seen} -->", file=sys.stderr)


def index_table(a: argparse.Namespace, work: Path) -> None:
    "Seconds and megabytes of a large tree."
    root = write_tree(work / "big/bottle", a.files)
    print(
        "| tree | whose | table, s | memory, MB | repr, s | notebook, s |\n|---|---|---:|---:|---:|---:|"
    )
    plans = [("Folder, its layout", "ours", sys.executable, "our_index", "layout")]
    plans += [("Folder, named places", "ours", sys.executable, "our_index", "places")]
    plans += [("MVTecAD", "ours", sys.executable, "our_index", "mvtec")]
    for way, what in (("layout", "Folder, named places"), ("mvtec", "MVTecAD")):
        plans += [(what, "anomalib 2.7", a.reference_python, "their_index", way)]
    for what, who, python, job, way in plans:
        if not python:
            continue
        got = [
            run(python, job, a.threads, root=root, way=way)
            for _ in range(1 if "their" in job else a.rounds)
        ]
        best = {key: min(one[key] for one in got) for key in got[0]}
        shown = [f"{best[key]:.2f}" if key in best else "" for key in ("__repr__", "_repr_html_")]
        print(
            f"| {what} | {who} | {best['table']:.2f} | {best['megabytes']:.0f} | {' | '.join(shown)} |"
        )


def main() -> None:
    "Parse, measure, print the tables."
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference-python", default="")
    parser.add_argument("--only", choices=["epochs", "index"])
    for name in ("job", "root", "way", "disk"):  # of a process of its own
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ("workers", "epochs", "resize"):
        parser.add_argument(f"--{name}", type=int, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.job:
        print(json.dumps(globals()[a.job](a)))
        return
    with tempfile.TemporaryDirectory() as work:
        if a.only != "index":
            epochs_table(a, Path(work))
        if a.only != "epochs":
            print()
            index_table(a, Path(work))


if __name__ == "__main__":
    main()
