"""Made-up runs that are the same everywhere: for the values of the reference, and for streams."""

import numpy as np

SHAPES = {"smooth": (16, 48, 48), "ties": (10, 40, 56), "wide": (24, 64, 64)}


def made_run(name):
    "Maps (N, H, W) float32 in (0, 1) and masks; every second image has one or two defects."
    count, height, width = SHAPES[name]
    random = np.random.Generator(np.random.PCG64(sum(map(ord, name))))
    masks = np.zeros((count, height, width), bool)
    for i in range(1, count, 2):
        for _ in range(1 + i % 4 // 2):
            h, w = (int(each) for each in random.integers(3, 12, 2))
            y, x = int(random.integers(0, height - h)), int(random.integers(0, width - w))
            masks[i, y : y + h, x : x + w] = True
    values = random.random(masks.shape) * 0.6 + 0.02
    values += masks * random.uniform(0, 0.35, (count, 1, 1))
    values = values.round(2) if name == "ties" else values
    return values.astype(np.float32), masks
