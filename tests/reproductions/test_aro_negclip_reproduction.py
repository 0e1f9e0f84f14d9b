"""The reproduction of ARO and NegCLIP: its parts on a few scenes, and, slowly, a whole seed in small."""

import pytest

from nearfar.reproductions import aro_negclip_reproduction as aro_negclip
from nearfar.reproductions import find


@pytest.fixture
def small(monkeypatch):
    scenes = {**aro_negclip.CONFIG["scenes"], "train": 128, "test": 24, "retrieval": 12}
    monkeypatch.setitem(aro_negclip.CONFIG, "scenes", scenes)
    for phase in ("pretraining", "fine_tuning"):
        monkeypatch.setitem(aro_negclip.CONFIG, phase, {**aro_negclip.CONFIG[phase], "steps": 2})


def test_training_and_test_share_no_pair_of_shapes(small):
    pairs = {
        split: {frozenset(thing["name"] for thing in record["objects"]) for record in aro_negclip.raw(split, 0)}
        for split in ("train", "test")
    }
    assert not pairs["train"] & pairs["test"]
    assert "negative_text" not in aro_negclip.scenes("train", 0).columns


def test_a_text_only_model_sees_word_order_and_nothing_else(small):
    train, test = (aro_negclip.scenes(split, 0) for split in ("train", "test"))
    blind = aro_negclip.SceneTests(train, test).text_only()
    assert blind["order"] > 2 * 0.2
    assert abs(blind["relation"] - 0.5) < 0.25


@pytest.mark.slow
def test_a_seed_gives_every_figure_that_a_claim_asks_for(small):
    arms = aro_negclip.run(0)
    for claim in find("aro-negclip").claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= arms[arm][claim.metric] <= 1
