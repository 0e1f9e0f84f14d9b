"""The arms of ALIGN's reproduction on made features: who trains on what, and who is tested on what."""

import pytest
import torch

from nearfar.reproductions.image_text import align_reproduction as align

CLIP_ART = [arm for arm in align.ARMS if arm.startswith("clip art")]


@pytest.fixture
def world(monkeypatch):
    """40 clean drawings of 100; 30 concepts in five styles. The feature of a row is its own number."""

    def of(kind):
        n = 100 if kind == "clipart" else 150
        number = torch.arange(n)
        feature = number.float()[:, None]
        styles = ["noto", "twemoji", "openmoji", "line", "fluent-3d"]
        columns = {"clean": [row % 5 < 2 for row in range(n)]} if kind == "clipart" else {"style": styles * 30}
        return align.PairFeatures(feature, feature.clone(), number if kind == "clipart" else number // 5, columns)

    monkeypatch.setattr(align.PairFeatures, "of", staticmethod(of))
    monkeypatch.setitem(align.CONFIG, "clipart", {"test": 12, "validation": 10})
    monkeypatch.setitem(align.CONFIG, "emoji", {**align.CONFIG["emoji"], "validation": 8})


def rows(pairs):
    return set(pairs.image[:, 0].int().tolist())


def test_the_baseline_has_all_clean_pairs_and_the_noisy_arms_none_or_all_of_them(world):
    clean, noisy, every = (align.pairs(arm, 3, validating=False) for arm in CLIP_ART)
    assert [len(data) for data, _ in (clean, noisy, every)] == [40 - 12, 60, 100 - 12]
    assert rows(clean[0]) | rows(noisy[0]) == rows(every[0])
    assert all(row % 5 < 2 for row in rows(clean[0]) | rows(clean[1]))
    assert rows(clean[1]) == rows(noisy[1]) == rows(every[1])
    assert rows(every[0]).isdisjoint(rows(every[1]))


@pytest.mark.parametrize("arm", align.ARMS)
def test_what_settings_are_chosen_on_is_never_tested(world, arm):
    validation = align.pairs(arm, 1000, validating=True)
    for seed in range(5):
        assert rows(align.pairs(arm, seed, validating=False)[1]).isdisjoint(rows(validation[1]))
    assert rows(validation[0]).isdisjoint(rows(validation[1]))


def test_seeds_draw_other_drawings_and_the_same_emoji(world):
    tests = {arm: [rows(align.pairs(arm, seed, validating=False)[1]) for seed in (0, 1)] for arm in align.ARMS}
    for arm, (first, second) in tests.items():
        assert (first == second) == arm.startswith("emoji")


def test_half_of_the_names_are_wrong(world):
    data, _ = align.pairs("emoji: 4 styles, half wrong", 0, validating=False)
    assert len(data) == 120
    assert 40 < int((data.image != data.text).sum()) < 80
    assert int((align.pairs("emoji: 1 style, clean", 0, validating=False)[0].image % 5 != 0).sum()) == 0


def test_every_claim_is_about_an_arm_and_hits_are_of_both_directions():
    for claim in align.reproduction.claims:
        assert {claim.method, claim.baseline} <= set(align.ARMS)

    class Perfect:
        def encode_image(self, pixels):
            return pixels

        encode_text = encode_image

    pairs = align.PairFeatures(torch.eye(12), torch.eye(12).roll(1, 0), torch.arange(12), {})
    assert float(align.retrieved(Perfect(), pairs)["R@1"]) == 0
    recall = align.retrieved(Perfect(), align.PairFeatures(torch.eye(12), torch.eye(12), torch.arange(12), {}))["R@1"]
    assert (float(recall), len(recall.values)) == (1, 24)
    assert sorted(recall.group.tolist()) == sorted([*range(12), *range(12)])
