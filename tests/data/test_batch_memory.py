"""Memory that is written again is nobody's: whoever holds a batch, or a part of it, keeps it as it was."""

import gc
import random
import subprocess
import sys
import threading

import numpy as np
import torch
from PIL import Image

from anomalib_nb.data.batch_memory import Spare, stack_images, stack_planes
from anomalib_nb.data.datamodule import AnomalibDataset, complete, loader


def holders(tensor: torch.Tensor) -> list:
    "Ways to hold a part of a tensor."
    last = tensor[-1]
    return [
        tensor,
        last,
        tensor.numpy()[-1],
        memoryview(last.numpy()),
        tensor.untyped_storage(),
        tensor.permute(1, 0),
    ]


def test_whoever_holds_a_part_keeps_it():
    for which in range(6):
        spare = Spare(10_000)
        array = spare.array((4, 5))
        array[:] = which
        held = holders(torch.from_numpy(array))[which]
        del array
        others = [spare.array((4, 5)) for _ in range(3)]
        for other in others:
            other[:] = -1
        values = np.asarray(held) if which != 4 else torch.tensor([]).set_(held)
        assert (np.asarray(values) == which).all(), which


def test_memory_in_a_cycle_comes_back():
    spare, cycle = Spare(10_000), {}
    cycle["self"], cycle["array"] = cycle, spare.array((7, 2))
    del cycle
    gc.collect()
    assert [each.nbytes for each in spare.idle] == [56]


def test_nothing_stays_over_the_limit():
    spare = Spare(1000)
    held = [spare.array((100,)) for _ in range(50)]  # 400 bytes each
    del held
    assert sum(each.nbytes for each in spare.idle) == 800
    spare.array((1000,))
    assert not spare.idle  # an array over the limit takes the others with it


def test_no_array_is_empty_or_misshapen():
    spare = Spare(1000)
    for shape, kind in [
        ((0, 3), np.float32),
        ((2, 0), bool),
        ((5,), bool),
        ((3, 2), np.float64),
        ((2, 3), np.float32),
    ]:
        array = spare.array(shape, kind)
        array[...] = 1
        assert (
            array.shape == shape
            and array.dtype == kind
            and array.flags["C_CONTIGUOUS"]
            and (array == 1).all()
        )


def test_threads_never_get_the_same_memory():
    spare, wrong = Spare(50_000), []

    def work(seed: int) -> None:
        dice, held = random.Random(seed), []
        for step in range(400):
            array = spare.array((dice.randint(1, 40), 3))
            array[:] = mark = seed * 1000 + step
            held.append((mark, torch.from_numpy(array)))
            if len(held) > dice.randint(0, 6):
                held.pop(dice.randrange(len(held)))
            wrong.extend(mark for mark, tensor in held if not (tensor == mark).all())

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_batches_that_are_kept_stay_what_they_were(tmp_path):
    import pandas as pd

    for i in range(24):
        shade = np.full((160, 160, 3), 10 * i, np.uint8)
        Image.fromarray(shade).save(tmp_path / f"{i:02}.png")
        Image.fromarray((shade[..., 0] > 50)).save(tmp_path / f"{i:02}_mask.png")
    names = [str(tmp_path / f"{i:02}") for i in range(24)]
    table = pd.DataFrame(
        {"image_path": [f"{name}.png" for name in names], "split": "test", "label": "spot"}
    )
    table["mask_path"] = [f"{name}_mask.png" for name in names]
    batches = loader(AnomalibDataset(complete(table)), batch_size=8)
    for _ in range(3):
        for batch in batches:  # some are dropped
            pass
        kept = list(batches)  # all are kept
        assert kept[0].image.nbytes > 2_000_000
        for batch in kept:
            shades = [int(path[-6:-4]) * 10 for path in batch.image_path]
            assert torch.equal(batch.image[:, 0, 0, 0], torch.tensor(shades) / 255)
            assert (batch.image == batch.image[:, :1, :1, :1]).all()
            assert batch.gt_mask.tolist()[0][0][0] == (shades[0] > 50)
            assert (batch.gt_mask == (batch.image[:, 0] > 50.5 / 255)).all()


def test_floats_and_bytes_mix_and_one_image_is_a_batch():
    mixed = stack_images([torch.full((3, 2, 2), 51, dtype=torch.uint8), torch.full((3, 2, 2), 0.2)])
    assert torch.equal(mixed[0], mixed[1]) and stack_images([mixed[0]]).shape == (1, 3, 2, 2)
    assert stack_planes([torch.tensor([[True, False]])]).dtype == torch.bool


def test_a_program_ends_in_silence():
    code = "import torch; from anomalib_nb.data.batch_memory import stack_images; kept = stack_images([torch.zeros(3, 300, 300)] * 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
