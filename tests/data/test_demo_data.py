"Drawn parts: what cannot be drawn is refused where it is asked for."

import numpy as np
import pytest

from anomalib_nb.data import DemoData, write_demo_folder

WRONG = [
    *({"train": value} for value in (0, -1, 1.5, "ten", None, True, [4], float("nan"), 10**9)),
    *({"test": value} for value in (-1, 2.0, "", None, False, 10**9)),
    *({"size": value} for value in (0, 31, -256, 64.0, "large", (64, 64), None, True, 10**9)),
    *({"seed": value} for value in (-1, 0.5, "now", None, [1], 2**40)),
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_numbers_that_nobody_can_draw(wrong, tmp_path):
    [name] = wrong
    with pytest.raises(ValueError, match=rf"^{name} is .* Expected a whole number from "):
        DemoData(**wrong)
    with pytest.raises(ValueError, match=f"^{name} is "):
        write_demo_folder(tmp_path / "demo", **wrong)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("surface", ["", 1, None, ["metal"], "METALL"])
def test_surfaces_that_nobody_can_draw(surface):
    with pytest.raises(ValueError, match="There is no surface .*Expected metal, fabric"):
        DemoData(surface)


def test_the_smallest_of_all():
    data = DemoData(train=np.int64(1), test=0, size=32, seed=2**32 - 1, val_split_mode="none")
    assert len(data.table) == 1 and data.read_image(data.table.image_path[0]).shape == (32, 32, 3)
