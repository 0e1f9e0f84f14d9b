"""SepCLR's reproduction at a tiny size: its arms, what is read, and what the probes give."""

import pytest
import torch

from nearfar.methods.image.sepclr import SepCLR
from nearfar.reproductions.image import sepclr_reproduction as sepclr
from nearfar.reproductions.setups import marked_features


@pytest.fixture
def small(monkeypatch):
    """A few dozen pictures of 32 pixels: the same code, in seconds."""
    few = {"size": 32, "pictures": {"train": 48, "val": 40, "test": 40}, "kept": 16, "views": 3}
    for name, value in few.items():
        monkeypatch.setitem(marked_features.CONFIG, name, value)
    monkeypatch.setitem(sepclr.CONFIG["training"], "batch_size", 16)
    caches = (marked_features.features, marked_features._axes, marked_features._read)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = sepclr.run(0, {arm: {"lr": 1e-3, "steps": 2} for arm in sepclr.ARMS})
    for claim in sepclr.reproduction.claims:
        for arm in filter(None, (claim.method, claim.baseline, claim.floor)):
            assert 0 <= float(arms[arm][claim.metric]) <= 1
    space = arms["SepCLR: common"]
    assert len(space["mark"].values) == 20, "target pictures of test alone"
    assert float(space["mark"]) + float(space["mark kept out"]) == pytest.approx(1)
    assert 0 <= sepclr.validated("two plain encoders", {"lr": 1e-3, "steps": 1}, 1000) <= 1
    assert list(sepclr.reproduction.grid.arms) == list(sepclr.ARMS)

    train, test, val = map(marked_features.features, ("train", "test", "val"))
    assert train.views.shape == (3, 48, 16)
    assert (train.clean.std(correction=0) - 1).abs() < 0.1
    assert not set(test.thing.tolist()) & set(train.thing.tolist() + val.thing.tolist())
    batch = next(iter(marked_features.ViewPairs(train, 16)))
    assert batch["views"].shape == (2, 16, 16)
    assert torch.equal(batch["label"], train.mark[batch["index"]])


def test_arms_differ_from_sepclr_in_one_weight(small, monkeypatch):
    made = {}
    monkeypatch.setattr("nearfar.train", lambda method, *_, **__: made.setdefault(len(made), method))
    for arm in sepclr.ARMS:
        sepclr.fitted(arm, 0, {"lr": 1e-3, "steps": 1})
    plain, no_jem, no_infoless, whole = made.values()
    assert isinstance(plain, sepclr.TwoPlainEncoders)
    assert all(isinstance(method, SepCLR) for method in (no_jem, no_infoless, whole))
    assert whole.loss.weights == {"common": 1.0, "salient": 1000.0, "infoless": 1000.0, "jem": 10.0}
    assert no_jem.loss.weights == whole.loss.weights | {"jem": 0.0}
    assert no_infoless.loss.weights == whole.loss.weights | {"infoless": 0.0}
    one, other = (next(method.model.parameters()) for method in (plain, whole))
    assert torch.equal(one, other), "all start alike"
