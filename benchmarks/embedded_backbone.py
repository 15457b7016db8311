"""Train the embedded backbone, or measure it against others with a plain PatchCore.

    python benchmarks/embedded_backbone.py train --teacher mobilenetv2_100.safetensors --steps 1500 --fall 0 --out new.safetensors
    python benchmarks/embedded_backbone.py evaluate --data magnetic_tile dobot_cubes --weights weights/

`evaluate` follows PatchCore (Roth et al. 2022): stages of stride 8 and 16, 3x3 average pooling, a
k-centre coreset of a tenth, the image's score is that of its worst patch. Data sets have the layout
of MVTec AD; 40 evenly spaced training images, resized to 256x256.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import rankdata
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from anomalib_nb.layers.embedded_backbone import (
    MEAN,
    STD,
    EmbeddedBackbone,
    train_embedded_backbone,
)

LAYERS = ("layer2", "layer3")


def read_image(path: Path, size: int) -> Tensor:
    "(3, size, size), ImageNet-normalised."
    array = np.array(Image.open(path).convert("RGB"), np.float32) / 255
    image = resize(torch.from_numpy(array).permute(2, 0, 1), [size, size], antialias=True)
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def read_set(root: Path, size: int, count: int) -> tuple[Tensor, Tensor, np.ndarray]:
    "Training images, test images, and whether each test image is defective."
    train = sorted((root / "train" / "good").iterdir())
    train = [
        train[i] for i in np.linspace(0, len(train) - 1, min(count, len(train))).round().astype(int)
    ]
    test = sorted((root / "test").glob("*/*"))
    images = (torch.stack([read_image(p, size) for p in paths]) for paths in (train, test))
    return *images, np.array([p.parent.name != "good" for p in test])


@torch.no_grad()
def patches(backbone: nn.Module, images: Tensor) -> Tensor:
    "(B, h * w, C): both stages, averaged over 3x3 and brought to the finer grid."
    found = []
    for batch in images.split(16):
        fine, deep = (F.avg_pool2d(f, 3, 1, 1) for f in backbone(batch))
        deep = F.interpolate(deep, fine.shape[-2:], mode="bilinear")
        found.append(torch.cat([fine, deep], 1).flatten(2).transpose(1, 2))
    return torch.cat(found)


def k_centre(points: Tensor, share: float, seed: int, dimensions: int = 64) -> Tensor:
    "Greedy k-centre: always the point that is farthest from all chosen ones, on a random projection."
    dice = torch.Generator().manual_seed(seed)
    project = torch.randn(points.shape[1], dimensions, generator=dice) / dimensions**0.5
    flat = points @ project
    squares = flat.pow(2).sum(1)
    chosen = [int(torch.randint(len(flat), (1,), generator=dice))]
    distance = torch.full((len(flat),), torch.inf)
    while len(chosen) < int(share * len(points)):
        new = chosen[-1]
        distance = torch.minimum(distance, squares + squares[new] - 2 * flat @ flat[new])
        chosen.append(int(distance.argmax()))
    return points[chosen]


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    "The chance that a defective image scores higher than a good one."
    ranks, positives = rankdata(scores), labels.sum()
    return (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * (~labels).sum())


def patchcore(backbone: nn.Module, train: Tensor, test: Tensor, seed: int) -> np.ndarray:
    "The score of each test image."
    memory = k_centre(patches(backbone, train).flatten(0, 1), 0.1, seed)
    scores = (torch.cdist(image, memory).min(1).values.max() for image in patches(backbone, test))
    return np.array([float(score) for score in scores])


def mobilenet(name: str, weights: Path) -> nn.Module:
    "The blocks of stride 8 and 16 of a MobileNetV2 out of timm."
    model = timm.create_model(name, features_only=True, out_indices=(2, 3))
    found = load_file(weights / f"{name}.safetensors")
    model.load_state_dict({k: found[k].float() for k in model.state_dict()})
    return model


def contestants(weights: Path | None) -> dict[str, nn.Module]:
    "Ours, ours with random weights, and what `weights` holds."
    found = {
        "embedded": EmbeddedBackbone(LAYERS),
        "embedded, random weights": EmbeddedBackbone(LAYERS, pretrained=False),
    }
    for name in ("mobilenetv2_035", "mobilenetv2_100"):
        if weights and (weights / f"{name}.safetensors").is_file():
            found[name] = mobilenet(name, weights)
    return {name: model.eval() for name, model in found.items()}


@torch.inference_mode()
def milliseconds(backbone: nn.Module, size: int, repeats: int = 30) -> float:
    "Median time of one image."
    image, times = torch.zeros(1, 3, size, size), []
    for _ in range(repeats):
        start = time.perf_counter()
        backbone(image)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def evaluate(data: Sequence[Path], weights: Path | None, size: int, images: int, seed: int) -> None:
    "Print a table: image AUROC of every backbone on every set."
    sets = {root.name: read_set(root, size, images) for root in data}
    print(f"| backbone | parameters | ms/image | {' | '.join(sets)} |")
    print("|---|---|---|" + "---|" * len(sets))
    for name, backbone in contestants(weights).items():
        found = [
            auroc(patchcore(backbone, tr, te, seed), labels) for tr, te, labels in sets.values()
        ]
        size_text = f"{sum(p.numel() for p in backbone.parameters()) / 1e6:.2f} M"
        numbers = " | ".join(f"{value:.3f}" for value in found)
        print(
            f"| {name} | {size_text} | {milliseconds(backbone, size):.1f} | {numbers} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train from a seed and write the weights file")
    train.add_argument("--teacher", type=Path, required=True, help="safetensors of mobilenetv2_100")
    train.add_argument("--out", type=Path, required=True, help="the file to write")
    train.add_argument("--steps", type=int, required=True, help="lessons")
    train.add_argument("--views", type=int, default=32, help="views in a lesson")
    train.add_argument("--fall", type=float, default=0.3, help="share over which the rate falls")
    train.add_argument("--start", type=Path, help="the file of an earlier run to go on from")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=run_train)
    measure = commands.add_parser("evaluate", help="image AUROC of PatchCore on real sets")
    measure.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders in MVTec AD layout"
    )
    measure.add_argument("--weights", type=Path, help="folder with mobilenetv2_*.safetensors")
    measure.add_argument("--size", type=int, default=256)
    measure.add_argument("--images", type=int, default=40, help="training images")
    measure.add_argument("--seed", type=int, default=0)
    measure.set_defaults(run=run_evaluate)
    args = parser.parse_args()
    args.run(args)


def run_train(args: argparse.Namespace) -> None:
    # One thread teaches while another learns; more of them inside each operation would get in the way.
    torch.set_num_threads(1)
    start = time.perf_counter()

    def report(row: list[float]) -> None:
        print(f"{time.perf_counter() - start:7.0f} s  step {row[0]:6d}  ", *row[1:], flush=True)

    chosen = {name: getattr(args, name) for name in ("steps", "views", "fall", "seed", "start")}
    print(train_embedded_backbone(args.teacher, args.out, report=report, **chosen))


def run_evaluate(args: argparse.Namespace) -> None:
    evaluate(args.data, args.weights, args.size, args.images, args.seed)


if __name__ == "__main__":
    main()
