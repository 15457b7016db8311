"""The lazy selection takes what the plain rule takes, pick for pick."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_nb.layers import coreset, greedy, projection_matrix


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(x, count, start=0):
    "Farthest first with distances in float64, compared as float32."
    picks, m = [start], torch.full((len(x),), torch.inf)
    while len(picks) < count:
        m = torch.minimum(m, (x.double() - x[picks[-1]].double()).square().sum(1).sqrt().float())
        picks.append(int(m.argmax()))
    return torch.tensor(picks)


CLOUDS = {
    "plane": noise(1500, 2),
    "wide": noise(1200, 200),
    "uneven": torch.cat([noise(200, 12), 0.1 * noise(2500, 12, seed=1)]),
    "far from the origin": noise(1000, 16) + 50,
    "grid": torch.cartesian_prod(torch.arange(35.0), torch.arange(35.0)),
    "clusters": noise(1, 8, seed=2).repeat(1500, 1)
    + torch.randint(5, (1500, 1), generator=torch.Generator().manual_seed(0)) * 3
    + 1e-3 * noise(1500, 8),
}


@pytest.mark.parametrize("width", [1, 20, 2048])
@pytest.mark.parametrize("name", CLOUDS)
def test_the_sequence_is_the_plain_rules(name, width):
    x = CLOUDS[name]
    assert torch.equal(greedy(x, 200, start=7, width=width).picked, plain(x, 200, start=7))


def test_blocks_change_nothing(monkeypatch):
    module = sys.modules[greedy.__module__]
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(module, "ROWS", 11)
    for x in CLOUDS.values():
        assert torch.equal(greedy(x, 150, width=11).picked, plain(x, 150))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    c=st.integers(1, 3),
    levels=st.integers(1, 6),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_ties_and_copies(n, c, levels, seed, data):
    x = torch.randint(levels, (n, c), generator=torch.Generator().manual_seed(seed)).float()
    different = len(x.unique(dim=0))
    count = data.draw(st.integers(1, n))
    picked = greedy(x, count, width=4).picked
    assert len(set(picked.tolist())) == count
    assert torch.equal(picked[:different], plain(x, min(count, different)))


def test_everything_can_be_taken():
    x = torch.zeros(50, 3)
    assert torch.equal(greedy(x, 50, start=4).picked.sort().values, torch.arange(50))


def test_within_twice_the_best_radius():
    x = noise(400, 3)
    picks = greedy(x, 40).picked
    r = torch.cdist(x, x[picks]).min(1).values.max()
    # 41 points at mutual distance r exist, so no 40 balls of a radius below r / 2 cover them
    more = greedy(x, 41).picked
    assert torch.pdist(x[more]).min() >= r - 1e-5


def test_the_reference_sequence(shared):
    from safetensors.torch import load_file

    golden = load_file(shared / "golden" / "patchcore.safetensors")
    e = {
        k.removeprefix("expected/"): v
        for k, v in golden.items()
        if k.startswith("expected/coreset") or "fit_embedding" in k
    }
    theirs, start = e["coreset_indices"], int(e["coreset_first_index"])
    picked = coreset(e["fit_embedding"] @ e["coreset_projection"].T, count=128, projection=False, start=start)
    exact = e["fit_embedding"].double() @ e["coreset_projection"].double().T
    nearest = torch.cdist(exact, exact[[start]])[:, 0]
    for ours in picked[1:].tolist():  # the reference parts where two are as far to the last digit
        assert nearest[ours] >= nearest.max() * (1 - 1e-6)
        nearest = torch.minimum(nearest, torch.cdist(exact, exact[[ours]])[:, 0])
    assert set(picked.tolist()) == set(theirs.tolist()) and (picked == theirs).float().mean() > 0.95


def test_seed_decides_and_global_generators_do_not():
    x = noise(800, 700)
    torch.manual_seed(1)
    first, state = coreset(x, 0.05, seed=3), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, coreset(x, 0.05, seed=3))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, coreset(x, 0.05, seed=4))


def test_projection_can_be_made_apart():
    x = noise(900, 600)
    matrix = projection_matrix(600, len(x), seed=5)
    apart = coreset(
        torch.cat([part @ matrix.T for part in x.split(100)]), 0.1, seed=5, projection=False
    )
    assert len(set(apart.tolist()) & set(coreset(x, 0.1, seed=5).tolist())) >= 88


def test_a_memory_map_will_do(tmp_path):
    import numpy as np

    x = noise(3000, 10)
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    assert torch.equal(coreset(mapped, 0.02), coreset(x, 0.02))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"ratio": 0.01}, "at least one"),
        ({"count": 21}, "Expected 1 to 20"),
        ({"count": 5, "start": 20}, "Expected 0 to 19"),
    ],
)
def test_what_cannot_be_asked(arguments, message):
    with pytest.raises(ValueError, match=message):
        coreset(noise(20, 3), **arguments)


def test_nan_is_refused():
    x = noise(30, 3)
    x[4, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        coreset(x, 0.5)
