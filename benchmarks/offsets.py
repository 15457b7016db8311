"""Where do a model's maps lie? Offsets of PatchCore's hottest pixels from the defects, in pixels at 256.

    python benchmarks/offsets.py --holes dobot_cubes --weights weights/ [--backbones embedded resnet18]

For each backbone and each stage alone, and the pair of stride 8 and 16: median and mean, down and
right, enlarged plainly ("before") and laid where the network looks ("after").

Squares: one is painted at a random place of each of 96 pieces of cloth; eight clean pieces are remembered.
Holes: `--holes` is a set in MVTec AD layout; 20 training images are remembered. The hottest pixels of a
map are as many as its defect has. The holes are seen as they are and turned by 180 degrees: what a hole's shading
adds turns with it, what the network adds does not, so the mean of both ways up is the network's own. A map whose hottest pixels lie farther than 48 px from the defect has not
found it, which is no matter of offset: it is left out of the means, and the column "found" says how many are left.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from anomalib_nb.core.types import Batch
from anomalib_nb.data import Folder
from anomalib_nb.models import PatchCore

SIZE, NEAR = 256, 48
STAGES = ("layer1", "layer2", "layer3")
BLOCKS = ("blocks.1", "blocks.2", "blocks.4")
BACKBONES = {
    "embedded": STAGES,
    "resnet18": STAGES,
    "mobilenetv2_100": BLOCKS,
    "mobilenetv2_035": BLOCKS,
}


def cloths(count: int, chance: torch.Generator) -> Tensor:
    "(count, 3, SIZE, SIZE): patches of colour, with grain."
    coarse = 0.35 + 0.3 * torch.rand(count, 3, 24, 24, generator=chance)
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    return smooth + 0.02 * torch.randn(smooth.shape, generator=chance)


def squares(count: int = 96, seed: int = 77) -> tuple[Tensor, Tensor, Tensor]:
    "Clean images, images with a square each, and its mask."
    chance = torch.Generator().manual_seed(seed)
    clean = cloths(8, chance)
    marked = clean.repeat(count // 8, 1, 1, 1)
    masks = torch.zeros(count, SIZE, SIZE)
    for image, mask in zip(marked, masks):
        side = int(torch.randint(8, 21, (), generator=chance))
        y, x = torch.randint(24, SIZE - 24 - side, (2,), generator=chance).tolist()
        sign = -1 if torch.rand((), generator=chance) < 0.5 else 1
        image[:, y : y + side, x : x + side] += sign * (
            0.2 + 0.3 * torch.rand((), generator=chance)
        )
        mask[y : y + side, x : x + side] = 1
    return clean.clamp(0, 1), marked.clamp(0, 1), masks


def holes(root: Path, remembered: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    "Training images, images with a defect, and its mask."
    data = Folder(root, name="holes", val_split_mode="none")
    train, test = data.dataset("train"), data.dataset("test")
    chosen = torch.linspace(0, len(train) - 1, remembered).round().int().tolist()
    items = [item for item in (test[i] for i in range(len(test))) if item.gt_mask.any()]
    masks = torch.stack([item.gt_mask.float() for item in items])
    masks = F.interpolate(masks[:, None], size=(SIZE, SIZE), mode="area")[:, 0] >= 0.5
    clean = torch.stack([train[i].image for i in chosen])
    return clean, torch.stack([item.image for item in items]), masks.float()


def fitted(model: PatchCore, clean: Tensor) -> PatchCore:
    "A model that remembers the clean images."
    with torch.no_grad():
        for i, part in enumerate(clean.split(4)):
            model.training_step(Batch(image=model.pre(part)), i)
    model.finalize()
    return model.eval()


def hottest(maps: Tensor, masks: Tensor) -> Tensor:
    "(N, H, W): as many of each map's pixels as its mask has."
    found = torch.zeros_like(masks)
    for one, mask, chosen in zip(maps, masks, found):
        chosen.view(-1)[one.flatten().topk(int(mask.sum())).indices] = 1
    return found


def centres(masks: Tensor) -> Tensor:
    "(N, 2): the centre of each mask, down and right."
    places = torch.arange(SIZE) + 0.5
    down, right = (masks.sum(2) * places).sum(1), (masks.sum(1) * places).sum(1)
    return torch.stack([down, right], 1) / masks.sum((1, 2))[:, None]


@torch.no_grad()
def measure(model: PatchCore, clean: Tensor, shown: Tensor, masks: Tensor) -> tuple[Tensor, float]:
    "Misses (N, 2) in pixels, and the mean overlap."
    fitted(model, clean)
    maps = torch.cat([model(model.pre(part)).anomaly_map for part in shown.split(4)])
    hot = hottest(maps, masks)
    overlap = ((hot * masks).sum((1, 2)) / (hot + masks > 0).sum((1, 2))).mean()
    return centres(hot) - centres(masks), float(overlap)


def cells(defects: str, miss: Tensor, overlap: float) -> str:
    "Cells of the table: defects, median, mean, overlap, found."
    near = miss[miss.norm(dim=1) < NEAR]

    def pair(values: Tensor) -> str:
        return f"{values[0]:+.1f} {values[1]:+.1f}"

    return f"{defects} | {pair(near.median(0).values)} | {pair(near.mean(0))} | {overlap:.2f} | {len(near)}/{len(miss)}"


def rows(make: Callable[[], PatchCore], sets: dict[str, tuple[Tensor, ...]]) -> Iterator[str]:
    "Rows of one backbone and stage; holes turned are counted together with holes."
    found = {name: measure(make(), *images) for name, images in sets.items()}
    for name in ("squares", "holes"):
        if name in found:
            yield cells(name, *found[name])
    if "turned" in found:
        (one, a), (other, b) = found["holes"], found["turned"]
        yield cells("holes, both ways up", torch.cat([one, other]), (a + b) / 2)


def built(
    backbone: str, layers: tuple[str, ...], weights: str | None, ratio: float, plain: bool
) -> PatchCore:
    "An unfitted model that enlarges its maps plainly, or lays them where the network looks."
    model = PatchCore(backbone, layers, weights, ratio)
    if plain:
        model.backbone.look(torch.empty(0, 2))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--holes", type=Path, help="a data set in MVTec AD layout")
    parser.add_argument("--weights", type=Path, help="folder with <backbone>.safetensors")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--ratio", type=float, default=0.02, help="share of patches kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets = {"squares": squares()}
    if args.holes:
        sets["holes"] = holes(args.holes)
        sets["turned"] = tuple(images.flip(-1, -2) for images in sets["holes"])
    print("| backbone | stage | maps | defects | median | mean | IoU | found |")
    print("|---|---|---|---|---|---|---|---|")
    for backbone in args.backbones:
        fine, middle, deep = BACKBONES[backbone]
        file = None if backbone == "embedded" else str(args.weights / f"{backbone}.safetensors")
        for layers in ((fine,), (middle,), (deep,), (middle, deep)):
            for maps in ("before", "after"):
                make = partial(built, backbone, layers, file, args.ratio, plain=maps == "before")
                for row in rows(make, sets):
                    print(f"| {backbone} | {' + '.join(layers)} | {maps} | {row} |", flush=True)


if __name__ == "__main__":
    main()
