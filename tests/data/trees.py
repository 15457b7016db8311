"""Small data sets of the true layout: one builder per class, which the contract test runs over.

A builder writes its tree below `root` and returns the arguments that open it (None: root=root):

    @tree("Kolektor")
    def kolektor(root):
        paint(root / "kos01/Part0.jpg")
        paint_mask(root / "kos01/Part0_label.bmp", empty=True)

A tree holds enough for a split: 4 or more normal training images, 2 or more normal and 2 or more
defective test images (where the data set has such), and no two images alike.
"""

import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import scipy.io
import tifffile
from PIL import Image

from anomalib_nb.core.io import write_atomic, write_json
from anomalib_nb.data.demo_data import write_demo_folder

Builder = Callable[[Path], dict | None]
TREES: dict[str, Builder] = {}  # class name -> builder


def tree(name: str) -> Callable[[Builder], Builder]:
    "Register the builder of a data set's tree under the name of its class."

    def keep(build: Builder) -> Builder:
        assert name not in TREES, f"{name} has a tree already"
        return TREES.setdefault(name, build)

    return keep


def paint(path: Path, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    "Write an image (height, width) of noise that no other path has; the suffix says the format."
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    Image.fromarray(rng.integers(40, 200, (*size, 3), dtype=np.uint8)).convert(mode).save(path)
    return path


def paint_mask(
    path: Path, size: tuple[int, int] = (32, 32), value: int = 255, empty: bool = False
) -> Path:
    "Write a mask (height, width) with one square of a value, or none."
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 0 if empty else value
    Image.fromarray(mask).save(path)
    return path


def mvtec_like(
    root: Path, defects: tuple[str, ...] = ("dent",), masks: str = "ground_truth", count: int = 4
) -> Path:
    "Write train/good, test/good, test/<defect> and <masks>/<defect>/<name>_mask.png."
    for i in range(count):
        paint(root / f"train/good/{i:03}.png")
        paint(root / f"test/good/{i:03}.png")
        for defect in defects:
            paint(root / f"test/{defect}/{i:03}.png")
            if masks:
                paint_mask(root / f"{masks}/{defect}/{i:03}_mask.png")
    return root


@tree("DemoData")
def demo_data(root: Path) -> dict:
    return {"train": 4, "test": 12, "size": 48}


@tree("Folder")
def folder(root: Path) -> dict:
    return {"root": write_demo_folder(root / "tiles", "tile", train=4, test=12, size=48)}


@tree("MVTecAD")
def mvtec_ad(root: Path) -> None:
    mvtec_like(root / "bottle", ("broken_large", "contamination"))


@tree("MVTecAD2")
def mvtec_ad2(root: Path) -> None:
    can = root / "can"
    for i in range(4):
        for light in ("regular", "shift_1"):
            name = f"{i:03}_{light}"
            for folder in ("train/good", "validation/good", "test_public/good", "test_public/bad"):
                paint(can / f"{folder}/{name}.png")
            paint_mask(can / f"test_public/ground_truth/bad/{name}_mask.png")
        paint(can / f"test_private/{i:03}_regular.png")
        paint(can / f"test_private_mixed/{i:03}_mixed.png")


@tree("MVTecLOCO")
def mvtec_loco(root: Path) -> None:
    box = mvtec_like(root / "breakfast_box", (), masks="")
    kinds = {"logical_anomalies": (255, 254), "structural_anomalies": (253,)}
    for i in range(4):
        paint(box / f"validation/good/{i:03}.png")
        for label, values in kinds.items():
            paint(box / f"test/{label}/{i:03}.png")
            for k, value in enumerate(values):
                paint_mask(box / f"ground_truth/{label}/{i:03}/{k:03}.png", value=value)
    write_json(
        box / "defects_config.json",
        [
            {
                "defect_name": f"defect {value}",
                "pixel_value": value,
                "saturation_threshold": 0.5 if value == 255 else 20,
                "relative_saturation": value == 255,
            }
            for value in (255, 254, 253)
        ],
    )


@tree("VisA")
def visa(root: Path) -> None:
    rows = ["object,split,label,image,mask"]
    for i in range(10):
        image = f"candle/Data/Images/Normal/{i:04}.JPG"
        paint(root / image)
        rows.append(f"candle,{'train' if i < 6 else 'test'},normal,{image},")
    for i in range(4):
        image = f"candle/Data/Images/Anomaly/{i:03}.JPG"
        mask = f"candle/Data/Masks/Anomaly/{i:03}.png"
        paint(root / image)
        paint_mask(root / mask, value=i + 1)
        rows.append(f"candle,test,anomaly,{image},{mask}")
    write_atomic(root / "split_csv/1cls.csv", "\n".join(rows) + "\n")


@tree("BTech")
def btech(root: Path) -> None:
    for i, suffix in enumerate(("bmp", "png", "bmp", "png")):
        for folder in ("train/ok", "test/ok", "test/ko"):
            paint(root / f"01/{folder}/{i:04}.{suffix}")
        paint_mask(root / f"01/ground_truth/ko/{i:04}.{'png' if i < 2 else 'bmp'}")


@tree("MPDD")
def mpdd(root: Path) -> None:
    mvtec_like(root / "bracket_black", ("hole", "scratches"))


@tree("VAD")
def vad(root: Path) -> None:
    mvtec_like(root / "vad", ("bad",), masks="")
    for i in range(3):
        paint(root / f"vad/train/bad/{i:03}.png")


@tree("Tabular")
def tabular(root: Path) -> dict:
    rows = []
    for i in range(16):
        good, name = i < 12, f"{i:02}.png"
        paint(root / "pictures" / name)
        if not good:
            paint_mask(root / "masks" / name)
        rows.append(
            {
                "image_path": f"pictures/{name}",
                "label": "good" if good else "007",
                "mask_path": "" if good else f"masks/{name}",
                "group": f"part {i // 2}",
            }
        )
    pd.DataFrame(rows).to_csv(root / "parts.csv", index=False)
    return {"samples": root / "parts.csv", "root": root}


@tree("Datumaro")
def datumaro(root: Path) -> None:
    items = []
    for i in range(16):
        paint(root / f"images/default/{i:02}.png")
        mark = {"type": "label", "label_id": int(i < 12)}
        items.append({"id": str(i), "image": {"path": f"{i:02}.png"}, "annotations": [mark]})
    labels = {"label": {"labels": [{"name": "Anomalous"}, {"name": "Normal"}]}}
    write_json(root / "annotations/default.json", {"categories": labels, "items": items})


@tree("Kolektor")
def kolektor(root: Path) -> None:
    for part in range(24):
        place = root / f"kos{part // 4 + 1:02}/Part{part % 4}.jpg"
        paint(place, (64, 26), "L")
        paint_mask(place.with_name(f"{place.stem}_label.bmp"), (64, 26), empty=part % 6 > 0)


@tree("RealIAD")
def real_iad(root: Path, category: str = "audiojack", file: str = "realiad_jsons") -> None:
    lists = {"train": [], "test": []}
    for part in range(12):
        good = part < 8
        for view in range(1, 6):
            name = f"{'OK' if good else 'NG/BX'}/S{part:04}/{category}_{part:04}_C{view}.jpg"
            paint(root / f"realiad_256/{category}" / name)
            mask = None
            if not good and view < 3:
                mask = name.replace(".jpg", ".png")
                paint_mask(root / f"realiad_256/{category}" / mask)
            lists["train" if part < 4 else "test"].append(
                {
                    "image_path": name,
                    "mask_path": mask,
                    "anomaly_class": "BX" if mask else "OK",
                }
            )
    write_json(root / f"realiad_jsons/{file}/{category}.json", lists)


@tree("AutoVI")
def auto_vi(root: Path) -> None:
    place = mvtec_like(root / "engine_wiring", ("blue_hoop", "multiple"), masks="")
    for image in [*place.glob("test/blue_hoop/*.png"), *place.glob("test/multiple/*.png")]:
        folder = place / "ground_truth" / image.parent.name / image.stem
        paint_mask(folder / "0000.png")
        if image.parent.name == "multiple":
            Image.fromarray(np.uint8(255 * np.eye(32))).save(folder / "0001.png")


@tree("BMAD")
def bmad(root: Path, category: str = "Brain", masks: bool = True) -> None:
    for i in range(4):
        paint(root / category / f"train/good/{i:05}.png", mode="L")
        for split in ("valid", "test"):
            for label in ("good", "Ungood"):
                place = root / category / split / label
                paint(place / f"img/{i:05}.png", mode="L")
                if masks:
                    paint_mask(place / f"label/{i:05}.png", empty=label == "good")


@tree("Kaputt")
def kaputt(root: Path) -> None:
    for part in ("train", "validation", "test"):
        queries, references = [], []
        for i in range(16):
            material, good = ("book_other", "paper")[i % 2], i < 8
            item = f"{part}-{material}-{i}"
            query = {"capture_id": item, "item_identifier": item, "item_material": material}
            query |= {"defect": not good, "defect_types": "" if good else "hole, deformation"}
            for kind, size in {"image": (32, 40), "crop": (20, 24), "mask": (32, 40)}.items():
                query[f"query_{kind}"] = f"data/{part}/query-data/{kind}/{item}.png"
                place = root / f"query-{kind}" / query[f"query_{kind}"]
                (paint_mask if kind == "mask" else paint)(place, size)
            queries.append(query)
            reference = {"capture_id": f"r{item}", "item_identifier": item, "item_material": None}
            for kind, size in {"image": (32, 40), "crop": (20, 24)}.items():
                reference[f"reference_{kind}"] = f"data/{part}/reference-data/{kind}/{item}.png"
                paint(root / f"reference-{kind}" / reference[f"reference_{kind}"], size)
            references.append(reference)
        (root / "datasets").mkdir(exist_ok=True)
        pd.DataFrame(queries).to_parquet(root / f"datasets/query-{part}.parquet")
        pd.DataFrame(references).to_parquet(root / f"datasets/reference-{part}.parquet")


def paint_depth(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    "Write points (height, width, 3) in metres, none of them measured in the first rows."
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.random.default_rng(zlib.crc32(path.as_posix().encode())).uniform(
        0.3, 0.5, (*size, 3)
    )
    points[:4] = 0
    tifffile.imwrite(path, points.astype(np.float32))
    return path


def scans(place: Path, defect: str, truth: str, name: str = "{:03}", count: int = 4) -> None:
    "Write scans in the layout of MVTec 3D-AD; masks of good scans are black."
    for folder in ("train/good", "validation/good", "test/good", f"test/{defect}"):
        for i in range(count):
            paint(place / folder / "rgb" / f"{name.format(i)}.png")
            paint_depth(place / folder / "xyz" / f"{name.format(i)}.tiff")
            if "test" in folder:
                paint_mask(place / folder / truth / f"{name.format(i)}.png", empty="good" in folder)


@tree("MVTec3D")
def mvtec_3d(root: Path) -> None:
    scans(root / "bagel", "hole", "gt")


@tree("ADAM3D")
def adam_3d(root: Path) -> None:
    scans(root / "1m1", "warp", "ground_truth", "{:03}_C")


@tree("Folder3D")
def folder_3d(root: Path) -> dict:
    for i in range(4):
        for folder in ("ok", "ok_test", "bad"):
            paint(root / folder / f"{i}.png", mode="RGBA")
            paint_depth(root / f"{folder}_z" / f"{i}_depth.tif")
        paint_mask(root / "marks" / f"{i}.png")
    places = {"normal": "ok", "normal_test": "ok_test", "abnormal": "bad"}
    named = {f"{name}_dir": folder for name, folder in places.items()}
    depth = {f"{name}_depth_dir": f"{folder}_z" for name, folder in places.items()}
    return {"root": root, "mask_dir": "marks", **named, **depth}


def film(path: Path, count: int = 8, codec: str = "mpeg4") -> Path:
    "Write a video file of frames (32, 32) of noise that no other path has."
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix().encode()))
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25, bit_rate=4_000_000)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(count):
            noise = rng.integers(40, 200, (32, 32, 3), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def events(count: int = 8) -> np.ndarray:
    "Masks (count, 32, 32) of a film in which something happens from the third to the fifth frame."
    masks = np.zeros((count, 32, 32), np.uint8)
    masks[2:5, 8:16, 8:16] = 1
    return masks


@tree("VideoFolder")
def video_folder(root: Path) -> dict:
    film(root / "train/01.mp4"), film(root / "train/02.avi")
    for i in range(8):
        paint(root / f"train/03/{i}.png")
        paint(root / f"test/fall/12/{i}.png")
        paint_mask(root / f"masks/fall/12/{i}.png", empty=i not in range(2, 5))
    (
        film(root / "test/fall/13.mp4"),
        film(root / "test/good/14.mp4"),
        film(root / "test/good/15.mp4"),
    )
    np.save(root / "masks/fall/13.npy", events())
    return {"root": root, "clip_length_in_frames": 3}


@tree("UCSDped")
def ucsd_ped(root: Path, category: str = "UCSDped2", masked: int = 4) -> None:
    for number in range(1, 5):
        for i in range(1, 13):
            for split in ("Train", "Test"):
                paint(root / f"{category}/{split}/{split}{number:03}/{i:03}.tif", mode="L")
            if number <= masked:
                mask = root / f"{category}/Test/Test{number:03}_gt/{i:03}.bmp"
                paint_mask(mask, empty=i not in (2, 12))
    (root / f"{category}/Test/Test001/._001.tif").write_bytes(b"Mac OS X")
    lines = [f"TestVideoFile{{end+1}}.gt_frame = [2:2, {11 + n}:12];" for n in range(2)] * 2
    write_atomic(root / f"{category}/Test/{category}.m", "\n".join(lines))


@tree("Avenue")
def avenue(root: Path) -> None:
    truth = root / "ground_truth_demo/testing_label_mask"
    truth.mkdir(parents=True)
    for number in range(1, 4):
        (
            film(root / f"training_videos/{number:02}.avi"),
            film(root / f"testing_videos/{number:02}.avi"),
        )
        cell = np.empty((1, 8), object)
        cell[0, :] = list(events())
        scipy.io.savemat(truth / f"{number}_label.mat", {"volLabel": cell})


@tree("ShanghaiTech")
def shanghai_tech(root: Path, scene: str = "01") -> None:
    for number in range(1, 4):
        film(root / f"training/videos/{scene}_{number:03}.avi")
        name = f"{scene}_{13 + number:04}"
        for i in range(8):
            paint(root / f"testing/frames/{name}/{i:03}.jpg")
        for kind, truth in {"pixel": events(), "frame": events().any((1, 2)).astype(int)}.items():
            (root / f"testing/test_{kind}_mask").mkdir(exist_ok=True)
            np.save(root / f"testing/test_{kind}_mask/{name}.npy", truth)
