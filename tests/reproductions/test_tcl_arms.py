"""TCL's reproduction at a tiny size: what its arms train on, what they are tested on, and one seed of two steps."""

import pytest

from nearfar.reproductions.image_text import tcl_reproduction as tcl
from nearfar.reproductions.setups import views_read

CACHES = (views_read._emoji, views_read._read_emoji, views_read._scenes, views_read._read_scenes)


@pytest.fixture
def small(monkeypatch):
    """Ten concepts, and some scenes: the same code, in seconds."""
    monkeypatch.setitem(
        views_read.DATA, "emoji", {**views_read.DATA["emoji"], "concepts": 10, "validation": 3, "trained": 5}
    )
    few = {**views_read.DATA["scenes"], "size": 64, "train": 24, "val": 6, "test": 12}
    monkeypatch.setitem(views_read.DATA, "scenes", few)
    monkeypatch.setitem(tcl.CONFIG, "training", {**tcl.CONFIG["training"], "batch_size": 8})
    monkeypatch.setitem(tcl.CONFIG, "method", {**tcl.CONFIG["method"], "queue_size": 16})
    yield
    for each in CACHES:
        each.cache_clear()


def test_a_seed_measures_what_the_claims_compare_and_settings_are_chosen_beside_it(small):
    arms = tcl.run(0, {arm: {"lr": 1e-3, "steps": 2} for arm in tcl.ARMS})
    for claim in tcl.reproduction.claims:
        for arm in (claim.method, claim.baseline, claim.floor):
            assert arm is None or 0 <= float(arms[arm][claim.metric]) <= 1
    assert arms["emoji: chance"]["R@1"] == arms["emoji: chance"]["image to image R@1"] == pytest.approx(0.1)
    assert arms["scenes: chance"]["R@10"] == pytest.approx(10 / 12)
    assert len(arms["emoji: CMA"]["R@10"].values) == 2 * 5  # what the seed trained on, both ways
    assert 0 <= tcl.validated("emoji: CMA + IMC", {"lr": 1e-3, "steps": 1}, 1000) <= 1

    test, other, val = (tcl.data_of("emoji", *drawn) for drawn in (("test", 0), ("test", 1), ("val", 1000)))
    assert len(test.queries) == len(other.queries) == 5
    assert test.queries != other.queries
    assert len(val.queries) == 3
    assert set(val.queries).isdisjoint(test.queries + other.queries)
    assert len(test.gallery.texts) == len(test.known_style.texts) == 10
    taught = test.gallery.numbers["group"][test.queries].tolist()
    assert sorted(test.train.numbers["group"].tolist()) == sorted(4 * taught)
    assert test.train.image.shape == (2, 20, 17, 128)
    spread = views_read._read_emoji()[0].image[0][:, 1:].flatten(0, 1).std(0)
    assert spread.tolist() == pytest.approx([1.0] * 128, rel=1e-2)
    assert bool((test.train.image[0] != test.train.image[1]).any())  # two views, not one twice
    assert set(test.gallery.numbers["domain"].tolist()).isdisjoint(test.train.numbers["domain"].tolist())
    shown, validated = (tcl.data_of("scenes", split, 0) for split in ("test", "val"))
    assert set(shown.gallery.numbers["group"].tolist()).isdisjoint(validated.gallery.numbers["group"].tolist())
    assert all(len(own) == 1 and len(own[0].split()) > 6 for own in shown.train.texts)  # both things, and where


def test_arms_differ_by_their_terms_alone(monkeypatch):
    weights = {}
    monkeypatch.setattr(tcl, "trained", lambda *_, weights, **settings: (weights, settings))
    for arm in tcl.ARMS:
        weights[arm], settings = tcl.fitted(arm, None, 0, {"lr": 1e-3, "steps": 2})
        assert settings["training"]["lr"] == 1e-3
    assert weights["emoji: CMA"] == weights["scenes: CMA"] == (0.5, 0.5, 0, 0, 0, 0)
    assert weights["emoji: CMA + IMC"] == (0.5, 0.5, 0.5, 0.5, 0, 0)
    assert weights["scenes: CMA + IMC + LMI"] == (0.5,) * 6
