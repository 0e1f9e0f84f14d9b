"""VladVA's reproduction at a tiny size: its pictures and texts, its arms, and what is measured."""

import math
from random import Random

import pytest
import torch

from nearfar.reproductions.vision_language_models import described_sprites as setup
from nearfar.reproductions.vision_language_models import vladva_reproduction as vladva


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(setup.DATA, "pairs", {"train": 40, "val": 6, "test": 8})
    for part in ("captioning", "training", "dual encoder"):
        monkeypatch.setitem(vladva.CONFIG[part], "steps", 2)
    for part in ("captioning", "training"):
        monkeypatch.setitem(vladva.CONFIG[part], "batch_size", 8)
    for cached in (setup.pairs, vladva.base):
        cached.cache_clear()
    yield
    for cached in (setup.pairs, vladva.base):
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = vladva.run(0, {arm: {"lr": 1e-3} for arm in vladva.TUNED})
    for claim in vladva.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert 0 <= vladva.validated(vladva.BOTH, {"lr": 1e-3}, 1000) <= 1


def test_arms_start_from_one_model_and_leave_it_as_it_is(small):
    before = {name: value.clone() for name, value in vladva.base().state_dict().items()}
    method = vladva.trained(vladva.BOTH, 0, lr=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in vladva.base().state_dict().items())
    own = method.model.base_model().state_dict()
    assert all(torch.equal(value, own[name]) for name, value in before.items())


def test_no_pair_of_a_test_picture_is_in_training_and_each_thing_is():
    train, val, test = (setup.pairs(split) for split in ("train", "val", "test"))
    sets = [{frozenset(pair) for pair in pairs} for pairs in (train, val, test)]
    assert [len(own) for own in sets] == [180, 40, 80]
    assert len(set.union(*sets)) == 300
    assert {thing for pair in test for thing in pair} <= {thing for pair in train for thing in pair}
    assert set(train) == {(two, one) for one, two in train}


def test_each_word_is_a_token_and_captions_say_what_is_there():
    pair = setup.pairs("test")[0]
    for text in (setup.title(pair), setup.description(pair), *setup.PROMPTS.values()):
        assert len(setup.tokenizer()(text)["input_ids"]) == len(text.split()) + 2
    titles = [setup.title(pair, Random(n)).split() for n in range(200)]
    full = sum(len(words) == 7 for words in titles) / 200
    assert {len(words) for words in titles} == {6, 7}
    assert abs(1 - full - setup.TITLE_LEAVES_OUT) < 0.1
    assert {words[-1] for words in titles} == {thing.shape for thing in pair}
    for other in (setup.swapped(pair), setup.replaced(pair, Random(0))):
        assert set(other) != set(pair)
    assert sorted(setup.title(setup.swapped(pair)).split()) == sorted(setup.title(pair).split())
    words = zip(setup.title(pair).split(), setup.title(setup.replaced(pair, Random(0))).split(), strict=True)
    assert sum(one != other for one, other in words) == 1


def test_pictures_show_their_things_on_their_sides():
    pair = (setup.Thing("red", "square"), setup.Thing("blue", "cross"))
    for n in range(20):
        canvas = setup.picture(pair, Random(n))
        red, blue = ((canvas == setup.COLOURS[each]).all(2) for each in ("red", "blue"))
        assert red[:, :16].sum() == 144 == red.sum()
        assert 0 < blue[:, 16:].sum() == blue.sum() < 144


def test_a_model_that_knows_the_pictures_is_right_and_one_that_ties_is_wrong(small):
    class Knows:
        """Titles and pictures as sets of things, or as nothing."""

        def __init__(self, blank=False):
            self.blank, self.things = blank, [setup.Thing(c, s) for c in setup.COLOURS for s in setup.SHAPES]

        def vector(self, pair):
            return torch.tensor([1.0 if self.blank else float(thing in pair) for thing in self.things])

        def encode_image(self, pixels, normalize):
            return torch.stack([self.vector(pair) for pair in setup.pairs("test")])

        def encode_text(self, tokens, normalize):
            texts = setup.tokenizer().batch_decode(tokens["input_ids"], skip_special_tokens=True)
            words = [text.split() for text in texts]
            return torch.stack([self.vector({tuple(each[1:3]), tuple(each[5:7])}) for each in words])

    for blank in (False, True):
        figures = vladva.measured(Knows(blank), "test")
        assert {float(value) for value in figures.values()} == {0.0 if blank else 1.0}


def test_what_is_written_is_compared_word_by_word(small):
    class Writes:
        prompt = ""

        def caption(self, pixels, prompt, max_tokens):
            assert prompt == "on the left"
            pairs = setup.pairs("test")
            first = [f"there is {setup.title(pair)} and more red" for pair in pairs[:-1]]
            return [*first, "there is nothing"]

    assert float(vladva.written_right(Writes(), "test")) == 7 / 8
