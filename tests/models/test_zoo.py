"""Every model of the zoo keeps its promises."""

import pytest

from anomalib_nb.models import check_model, get_model, list_models, zoo_table
from anomalib_nb.models.zoo import MODELS


@pytest.mark.parametrize("name", list_models())
def test_model_keeps_its_promises(name):
    assert set(check_model(MODELS.get(name))) >= {"signature", "output", "pure", "saving", "export"}


@pytest.mark.parametrize(
    "spelling", ["PatchCore", "patchcore", "Patch_Core", "patch-core", "PATCHCORE"]
)
def test_names_resolve_however_they_are_written(spelling):
    assert type(get_model(spelling, weights="random")).__name__ == "PatchCore"


def test_zoo_table_has_a_row_for_each_model():
    assert [row["model"] for row in zoo_table()] == list_models()
    assert all(row["idea"] for row in zoo_table())
