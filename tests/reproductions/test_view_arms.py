"""The arms of the reproductions on drawings of emojis, on made features: who trains on what, and what is measured."""

import pytest
import torch

from nearfar.reproductions import find
from nearfar.reproductions.image import isogclr_reproduction, multiview_reproduction
from nearfar.reproductions.setups import emoji_views

SIZES = {"train": 40, "val": 12, "test": 15}


@pytest.fixture
def world(monkeypatch):
    """Drawings near their emoji, in five styles that are shifted against one another."""

    def read(split):
        g = torch.Generator().manual_seed(sorted(SIZES).index(split))
        things, shifts = torch.randn(SIZES[split], 16, generator=g), torch.randn(5, 1, 16, generator=g)
        return things + 0.1 * shifts, torch.arange(SIZES[split])

    monkeypatch.setattr(emoji_views, "_read", read)
    monkeypatch.setitem(emoji_views.DATA, "components", 8)
    monkeypatch.setitem(emoji_views.HEAD, "hidden", 16)
    monkeypatch.setitem(multiview_reproduction.CONFIG, "training", {"steps": 2, "batch_size": 8, "lr": 1e-3})
    monkeypatch.setitem(multiview_reproduction.CONFIG, "trained_on", 30)
    monkeypatch.setitem(isogclr_reproduction.CONFIG, "training", {"epochs": 1})
    monkeypatch.setitem(isogclr_reproduction.CONFIG, "emojis", 20)
    emoji_views.drawings.cache_clear()
    emoji_views._reduction.cache_clear()
    yield
    emoji_views.drawings.cache_clear()
    emoji_views._reduction.cache_clear()


def test_components_are_those_of_the_training_drawings_without_the_unseen_style(world):
    features, number = emoji_views.drawings("train")
    assert features.shape == (5, 40, 8)
    assert number.tolist() == list(range(40))
    shown = features[:-1].flatten(0, 1)
    torch.testing.assert_close(shown.std(0, correction=1), torch.ones(8), rtol=1e-4, atol=0)


def test_a_batch_shows_styles_of_training_alone_and_each_emoji_in_the_same_row(world):
    features = torch.arange(4.0)[:, None, None] + torch.arange(9.0)[:, None] / 10
    batches = emoji_views.ViewBatches(features, torch.tensor([3, 3, 7, 8, 1]), batch_size=2, n_views=3)
    assert len(batches) == 2
    for batch in batches:
        rows = torch.tensor([3, 3, 7, 8, 1])[batch["index"]]
        thing = batch["views"].squeeze(-1) % 1 * 10
        torch.testing.assert_close(thing, rows.float().expand(3, -1))
        assert len(batch["views"].int()[:, 0, 0].unique()) == 3


def test_what_is_hits_in_the_unseen_style():
    z = torch.eye(5).expand(5, 5, 5).clone()
    z[-1, [0, 1]] = z[-1, [1, 0]]
    assert float(emoji_views.hits_in_the_unseen_style(z, torch.arange(5))) == pytest.approx(0.6)


@pytest.mark.parametrize("slug", ["multiview", "isogclr"])
def test_a_seed_measures_all_that_is_claimed(world, slug):
    reproduction = find(slug)
    grid = reproduction.grid
    arms = reproduction.run(0, dict.fromkeys(grid.arms, grid.settings()[0]))
    for claim in reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert torch.tensor(float(arms[arm][claim.metric])).isfinite(), (arm, claim.metric)
    assert 0 <= grid.validate(grid.arms[-1], grid.settings()[0], 1000) <= 1
    assert not set(grid.seeds) & set(reproduction.seeds)


def test_arms_differ_in_loss_and_views_alone():
    settings = multiview_reproduction.ARMS
    assert settings["MV-DHEL, spread by 1/4"]["options"] == {"uniformity_weight": 1 / 4}
    assert {each["n_views"] for name, each in settings.items() if "2 views" not in name} == {4}


def test_the_long_tail_counts_each_emoji_as_often_as_it_stands_in_the_data(world):
    rows, counts = isogclr_reproduction.long_tail(3)
    assert counts.max() == 10
    assert counts.min() == 1
    assert rows.unique(return_counts=True)[1].tolist() == counts.tolist()
    assert len(rows.unique()) == 20


def test_rank_correlation_takes_ties_at_their_mean():
    x, y = torch.tensor([1.0, 1.0, 2.0, 3.0]), torch.tensor([5.0, 6.0, 7.0, 7.0])
    assert isogclr_reproduction.rank_correlation(x, x) == 1.0
    assert isogclr_reproduction.rank_correlation(x, -x) == -1.0
    assert isogclr_reproduction.rank_correlation(x, y) == pytest.approx(8 / 9, abs=1e-6)
