"""S-VCO's reproduction at a tiny size: its world, its pairs, its arms, and what is measured."""

import math

import pytest
import torch

from nearfar.methods import DPO, SVCO, Captioning, ImageDPO
from nearfar.reproductions.vision_language_models import s_vco_reproduction as svco
from nearfar.reproductions.vision_language_models import usual_shapes as setup


def forget():
    for cached in (setup.captioned, setup.paired, setup.tokenizer, svco.start):
        cached.cache_clear()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(setup.DATA, "captions", {"train": 60, "test": 6})
    monkeypatch.setitem(setup.DATA, "pairs", {"train": 16, "val": 6, "test": 8})
    monkeypatch.setitem(svco.CONFIG["captions"], "steps", 2)
    monkeypatch.setitem(svco.CONFIG["contrast"], "steps", 2)
    forget()
    yield
    forget()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = svco.run(0, {arm: {"lr": 1e-3} for arm in svco.ARMS})
    for claim in svco.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert 0 <= svco.validated("S-VCO", {"lr": 1e-3}, 1000) <= 1


def test_nine_in_ten_captions_have_the_usual_shape_and_all_are_true(monkeypatch):
    monkeypatch.setitem(setup.DATA, "captions", {"train": 400, "test": 6})
    forget()
    drawings = setup.captioned("train")
    forget()
    assert 0.85 < sum(drawings.is_usual) / 400 < 0.95
    for caption, (shape, colour), is_usual in zip(drawings.captions, drawings.things, drawings.is_usual, strict=True):
        assert caption.endswith(f" {colour} thing and it is a {shape}")
        assert is_usual == (shape == setup.usual_shape(colour))


def test_pairs_differ_in_one_thing_and_habit_is_right_in_one_of_both(small):
    pairs = setup.paired("train")
    kinds = []
    for row in range(16):
        (one, colour), (other, second) = pairs.first.things[row], pairs.second.things[row]
        assert (one == other) != (colour == second)
        assert pairs.first.is_usual[row] != pairs.second.is_usual[row]
        kinds.append(one == other)
        ours, theirs = (side.captions[row].split() for side in (pairs.first, pairs.second))
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) == 1
    assert kinds.count(True) == 8
    assert len({tuple(each) for each in zip(pairs.first.is_usual, kinds, strict=True)}) > 2
    for words, drawings in ((setup.tokenizer(), pairs.first), (setup.tokenizer(), pairs.second)):
        assert all(len(words(text)["input_ids"]) == len(text.split()) + 2 for text in drawings.captions)


def test_arms_read_the_same_pairs_in_the_same_order(small):
    pairs = list(setup.Batches(setup.paired("train"), 2, 4, 3))
    flat = list(setup.Batches(setup.paired("train"), 2, 4, 3, flat=True))
    for batch, both in zip(pairs, flat, strict=True):
        assert torch.equal(torch.cat([batch["image"], batch["image2"]]), both["image"])
        ids = torch.cat([batch[name]["input_ids"] for name in ("text", "text2")])
        assert torch.equal(ids, both["text"]["input_ids"])
    assert not torch.equal(pairs[0]["index"], pairs[1]["index"])


def test_methods_of_arms(small):
    made = {arm: svco.method_of(arm, setup.fresh_writer(0)) for arm in svco.ARMS}
    assert [type(each) for each in made.values()] == [Captioning, DPO, ImageDPO, ImageDPO, SVCO, SVCO]
    assert (made["image DPO, crops"].rejected, made["image DPO"].rejected) == ("crop", "pair")
    assert (made["one-sided"].betas, made["S-VCO"].betas) == ((0.1, 0.1, 0.0, 0.0), (0.1,) * 4)


def test_figures_of_pairs_by_hand(small):
    """Own texts at -1 and -2, with the other picture -3 and -1.5, alone -2 and -1.8."""
    of = svco.Sums(*(torch.tensor([row]) for row in ([-1.0, -2.0], [-3.0, -1.5], [-2.0, -1.8], [2.0, 2.0])))
    assert svco.pairs_right(of).tolist() == [True]  # -1 over -1.5, -2 over -3
    assert svco.pairs_right(of._replace(other=torch.tensor([[-1.9, -1.5]]))).tolist() == [False]
    model = setup.fresh_writer(0).eval()
    pairs = setup.paired("test")
    sums = svco.sums(model, pairs)
    text = setup.tokens([pairs.second.captions[5]])
    with torch.no_grad():
        own, other, alone = (
            model.likelihoods(picture, text).log_likelihood.sum()
            for picture in (setup.pixels(pairs.second.pictures[5:6]), setup.pixels(pairs.first.pictures[5:6]), None)
        )
    for name, value in (("own", own), ("other", other), ("alone", alone)):
        assert getattr(sums, name)[5, 1].item() == pytest.approx(value.item(), abs=1e-4)
    assert sums.length[5, 1] == len(pairs.second.captions[5].split()) + 1
