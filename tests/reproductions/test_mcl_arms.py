"""MCL's reproduction at a tiny size: its arms, its data, and what tells the arms apart."""

import pytest
import torch

from nearfar.reproductions.image import mcl_reproduction as mcl
from nearfar.reproductions.setups.emoji_grounds import DATA, EmojiGrounds
from nearfar.reproductions.setups.two_factors import Factors, ViewPairs

KINDS = ("fifty values", "ten values", "pictures")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few samples, values and steps: the same code, in seconds."""
    for kind in KINDS:
        few = {"loud_values": 4, "clusters": 4, "samples": 200, "steps": 2}
        monkeypatch.setitem(mcl.CONFIG, kind, mcl.CONFIG[kind] | few)
    monkeypatch.setitem(mcl.CONFIG, "batch_size", 32)
    monkeypatch.setitem(mcl.CONFIG, "test", 100)


def test_a_seed_measures_what_the_claims_compare():
    arms = mcl.run(0, {arm: {"tau": 0.05 if arm == "MCL" else 0.2} for arm in mcl.CHOSEN})
    for claim in mcl.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= arms[arm][claim.metric] <= 1
    assert arms["pictures: MCL"] == arms["pictures: MCL, tau 0.2"], "the same arm at the same temperature"
    assert arms["MCL"] != arms["MCL, tau 0.2"]
    assert arms["MCL"] == mcl.Data(0, "fifty values").probed(mcl.arm_of("MCL", mcl.Data(0, "fifty values"), 0.05))
    assert list(mcl.reproduction.grid.arms) == list(mcl.CHOSEN)


def test_settings_are_chosen_on_the_own_kind_of_data(monkeypatch):
    kinds = []
    plain = mcl.Data.__init__
    monkeypatch.setattr(mcl.Data, "__init__", lambda self, seed, kind: (kinds.append(kind), plain(self, seed, kind))[1])
    assert 0 <= mcl.validated("two plain", {"tau": 0.2}, 1000) <= 1
    assert 0 <= mcl.validated("pictures: wide plain", {"tau": 0.2}, 1000) <= 1
    assert kinds == ["fifty values", "pictures"]


@pytest.mark.parametrize("kind", ["fifty values", "pictures"])
def test_arms_are_of_equal_width_and_differ_in_their_groups_alone(kind, monkeypatch):
    data, groups = mcl.Data(0, kind), []
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
    world = Factors(1, 5, 0.6, noise=0.0)
    points = world.samples(400, 0)
    assert points.x.shape == (400, 40)
    lengths = points.x.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, (9 + 0.36) ** 0.5))
    again, other = Factors(1, 5, 0.6).samples(400, 0), Factors(1, 5, 0.6).samples(400, 2)
    assert torch.equal(points.x, again.x)
    assert not torch.equal(points.loud, other.loud)
    one, two = next(iter(ViewPairs(world, points.x, 32, points.loud)))
    assert torch.equal(one, two)
    places = [(points.x == row).all(1).nonzero()[0, 0] for row in one]
    assert len({int(points.loud[place]) for place in places}) == 1


def test_pictures_are_an_emoji_whole_on_one_colour():
    world = EmojiGrounds(3, 6)
    drawn = world.samples(60, 0)
    canvas, side, emoji = DATA["canvas"], DATA["view"], DATA["emoji"]
    assert drawn.x.shape == (60, 3, canvas, canvas)
    ground = drawn.x[:, :, 0, 0]
    assert len(ground.unique(dim=0)) == 6
    assert all(len(ground[drawn.loud == colour].unique(dim=0)) == 1 for colour in range(6))
    other = (drawn.x != ground[:, :, None, None]).any(1)
    for picture in other:
        rows, columns = picture.any(1).nonzero().flatten(), picture.any(0).nonzero().flatten()
        for place in (rows, columns):
            assert place.max() - place.min() < emoji
            assert place.min() >= canvas - side, "no crop cuts it off"
            assert place.max() < side
    # Less the ground, pictures of one emoji are one drawing, wherever it is and whatever the colour.
    pictures, same = world.samples(2000, 0), EmojiGrounds(3, 6, quiet_values=1).samples(2, 0)
    assert len(pictures.quiet.unique()) == 10
    assert not torch.equal(same.x[0], same.x[1])
    assert torch.equal(world.samples(60, 0).x, drawn.x)
    assert not torch.equal(world.samples(60, 2).quiet, drawn.quiet)
    assert not torch.equal(EmojiGrounds(4, 6).samples(60, 0).x, drawn.x)


def test_views_of_pictures_are_crops_of_them():
    world = EmojiGrounds(3, 6)
    x, g = world.samples(10, 0).x, torch.Generator().manual_seed(1)
    clean = world.clean(x)
    assert clean.shape == (10, 3, 20, 20)
    views = torch.stack([world.view(x, g) for _ in range(40)])
    assert views.shape == (40, 10, 3, 20, 20)
    windows = x.unfold(2, 20, 1).unfold(3, 20, 1).flatten(2, 3).movedim(2, 1)  # [10, 49, 3, 20, 20]
    distance = (views[:, :, None] - windows).square().mean((3, 4, 5))
    assert distance.min(2).values.max() < 4 * (DATA["noise"] ** 2 + DATA["tint"] ** 2)
    assert len(distance.argmin(2).unique()) == 49, "every crop comes"
    assert torch.equal(clean, windows[:, 24])
    encoded = world.encoder(4, 8).encode_image(clean, normalize=True)
    torch.testing.assert_close(encoded.norm(dim=1), torch.ones(10))
