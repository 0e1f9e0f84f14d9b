"""MCL's reproduction at a tiny size: its arms, its data, and what tells the arms apart."""

import pytest
import torch

from nearfar.reproductions import mcl_reproduction as mcl
from nearfar.reproductions.setups.two_factors import Factors, NoisyViews


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few points, values and steps: the same code, in seconds."""
    for kind in ("fifty values", "ten values"):
        monkeypatch.setitem(mcl.CONFIG, kind, mcl.CONFIG[kind] | {"loud_values": 4, "clusters": 4, "points": 200})
    monkeypatch.setitem(mcl.CONFIG, "training", mcl.CONFIG["training"] | {"steps": 2, "batch_size": 32})
    monkeypatch.setitem(mcl.CONFIG, "test", 100)


def test_a_seed_measures_what_the_claims_compare():
    arms = mcl.run(0, {arm: {"tau": 0.2} for arm in mcl.CHOSEN})
    for claim in mcl.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= arms[arm][claim.metric] <= 1
    assert arms["MCL"] == arms["MCL, tau 0.2"], "the same arm at the same temperature"
    assert 0 <= mcl.validated("two plain", {"tau": 0.2}, 1000) <= 1
    assert list(mcl.reproduction.grid.arms) == list(mcl.CHOSEN)


def test_arms_are_of_equal_width_and_differ_in_their_groups_alone(monkeypatch):
    data, groups = mcl.Data(0, "fifty values"), []
    plain = mcl.Data.encoder

    def noted(self, number, tau, group=None, *, times=1):
        groups.append((number, group, times))
        return plain(self, number, tau, group, times=times)

    monkeypatch.setattr(mcl.Data, "encoder", noted)
    arms = {name: mcl.arm_of(name, data, 0.2) for name in ("two plain", "wide plain", "random clusters", "MCL")}
    assert {sum(encoder.embed_dim for encoder in encoders) for encoders in arms.values()} == {16}
    (_, two), (wide,), (_, shuffled), (_, clusters) = groups[0:2], groups[2:3], groups[3:5], groups[5:7]
    assert wide[2] == 2
    assert two[0] == shuffled[0] == clusters[0] == 1, "the second encoders start alike"
    assert two[1] is None
    assert torch.equal(shuffled[1].sort().values, clusters[1].sort().values), "random clusters are of the same sizes"
    assert not torch.equal(shuffled[1], clusters[1])


def test_points_and_views():
    points = Factors(1, 5, 0.6).points(400, 0)
    assert points.x.shape == (400, 40)
    lengths = points.x.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, (9 + 0.36) ** 0.5))
    again, other = Factors(1, 5, 0.6).points(400, 0), Factors(1, 5, 0.6).points(400, 2)
    assert torch.equal(points.x, again.x)
    assert not torch.equal(points.loud, other.loud)
    one, two = next(iter(NoisyViews(points.x, 32, 0.0, points.loud)))
    assert torch.equal(one, two)
    places = [(points.x == row).all(1).nonzero()[0, 0] for row in one]
    assert len({int(points.loud[place]) for place in places}) == 1
