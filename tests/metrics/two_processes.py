"""One of two processes: metrics of its own images, joined over gloo, and of all images alone."""

import json
import sys
from pathlib import Path

import torch.distributed as distributed
from test_streams import made_hard, noise

from anomalib_nb.metrics import get_metric, list_metrics


def fed(metric, kind, parts):
    "A metric that has seen some images."
    judged, _ = metric.fields["pixel"]
    maps, masks = kind
    maps = maps > 1 if judged == "pred_mask" else maps
    if metric.name.startswith(("ECE", "MCE", "Brier")):
        maps = (maps - maps.min()) / (maps.max() - maps.min())
    for part in parts:
        metric.update(maps[part], masks[part])
    return metric


def main(rank, folder, mode):
    run = made_hard(noise, count=12, size=64)
    mine = [slice(0, 3), slice(3, 4)] if rank == 0 else [slice(4, 12)]
    modes = {"exact": ("exact",) * 2, "streaming": ("streaming",) * 2}
    options = {"mode": modes.get(mode, ("exact", "streaming"))[rank]}
    names = [name for name in list_metrics() if get_metric(name).scalar]
    names = [name for name in names if "pixel" in get_metric(name).fields]
    whole = {name: fed(get_metric(name), run, [slice(None)]).compute() for name in names}
    store = f"file://{folder}/{mode}"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    joined, images = {}, []
    for name in names:
        metric = fed(get_metric(name, **options), run, mine)
        value = metric.compute()
        joined[name] = (float(value), getattr(value, "bound", 0.0))
    shared = fed(get_metric("auroc", **options), run, mine).store
    for _ in range(2):
        images.append(len(shared.compute().images))
        shared._computed = None
    found = {"joined": joined, "whole": {n: float(v) for n, v in whole.items()}, "images": images}
    Path(folder, f"{mode}_{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
