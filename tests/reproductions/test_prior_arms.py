"""PRIOR's reproduction at a tiny size: its captions, its arms, and what is measured."""

import math

import pytest
import torch

from nearfar.reproductions.vision_language_models import captioned_sprites as setup
from nearfar.reproductions.vision_language_models import prior_reproduction as prior


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(setup.DATA, "scenes", {"train": 40, "val": 8, "test": 8})
    monkeypatch.setitem(prior.CONFIG["training"], "steps", 2)
    monkeypatch.setitem(prior.CONFIG["reference"], "steps", 2)
    setup.captioned_scenes.cache_clear()
    setup.tokenizer.cache_clear()
    yield
    setup.captioned_scenes.cache_clear()
    setup.tokenizer.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = prior.run(0, {arm: {"lr": 1e-3} for arm in prior.TUNED})
    for claim in prior.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert set(prior.NOISY) < set(arms)
    assert 0 <= prior.validated("PRIOR", {"lr": 1e-3}, 1000) <= 1


def test_captions_are_one_token_a_word_and_two_of_them_visual(small):
    for noise in (False, True):
        scenes = setup.captioned_scenes("train", noise)
        for words, is_visual in zip(scenes.words, scenes.is_visual, strict=True):
            ids = setup.tokenizer()(" ".join(words))["input_ids"]
            assert len(ids) == len(words) + 2 == len(is_visual) + 2
        assert {sum(is_visual) for is_visual in scenes.is_visual} == {2}
    row = setup.captioned_scenes("test")
    assert prior.things_in(row.captions[0]) == list(row.things[0])
    assert prior.things_in("a red thing by a circle and a green star") == ["", "circle", "green", "star"]


def test_wrong_colours_are_in_training_alone(small):
    for split, most in (("train", 0.35), ("test", 0.0)):
        scenes = setup.captioned_scenes(split)
        wrong = [
            prior.things_in(text) != list(truth) for text, truth in zip(scenes.captions, scenes.things, strict=True)
        ]
        assert sum(wrong) / len(wrong) <= most
        assert any(wrong) == (split == "train")


def test_visual_tokens_are_targets_of_visual_words(small):
    scenes = setup.captioned_scenes("test")
    text = setup.tokens(scenes.captions[:4])
    targets = text["input_ids"][:, 1:]
    chosen = setup.visual_tokens(scenes, [0, 1, 2, 3], targets.shape[1])
    for row in range(4):
        words = [word for word, own in zip(scenes.words[row], scenes.is_visual[row], strict=True) if own]
        assert setup.tokenizer().decode(targets[row][chosen[row]]).split() == words


def test_arms_have_the_same_weights_at_other_tokens(small):
    scorers, scenes = prior.references(0), setup.captioned_scenes("train")
    batch = next(iter(setup.CaptionBatches(scenes, list(range(40)), 1, 8, 0)))
    model = setup.writer(0)
    mask = model.likelihoods(batch["image"], batch["text"]).mask
    own, shuffled = (
        kind(model, reference=scorers).token_weights(batch, mask) for kind in (prior.PRIOR, prior.Shuffled)
    )
    by_hand = prior.ByHand(model).token_weights(batch, mask)
    assert not torch.equal(own, shuffled)
    torch.testing.assert_close(own.sort(1).values, shuffled.sort(1).values)
    for weights in (own, shuffled, by_hand):
        torch.testing.assert_close(weights.sum(1), mask.sum(1).float())
    ratio = by_hand[batch["visual"]].min() / by_hand[mask & ~batch["visual"]].max()
    assert ratio > 5
    again = prior.Shuffled(model, reference=scorers).token_weights(batch, mask)
    assert torch.equal(again, shuffled)


def test_each_scene_is_drawn_once_in_a_pass(small):
    scenes = setup.captioned_scenes("train")
    batches = list(setup.CaptionBatches(scenes, list(range(40)), 5, 8, 3))
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(40))
    assert not torch.equal(
        batches[0]["index"], next(iter(setup.CaptionBatches(scenes, list(range(40)), 1, 8, 4)))["index"]
    )
