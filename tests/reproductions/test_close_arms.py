"""CLOSE's reproduction at a tiny size: its concepts, its words, its arms, and what is measured."""

import math
from dataclasses import replace

import pytest
import torch

from nearfar.reproductions.image_text import close_reproduction as close
from nearfar.reproductions.image_text import described_emojis as setup
from nearfar.reproductions.image_text.described_emojis import WrittenBatches


@pytest.fixture(scope="module")
def concepts():
    """Vectors drawn at random in the place of the starter model's; a picture's lies near its caption's."""
    draw = torch.Generator().manual_seed(0)

    def unit(rows):
        return torch.nn.functional.normalize(rows, dim=1)

    captions = [f"number thing {i % 7} rare{i}" if i % 2 else f"tag rare{i}" for i in range(60)]
    name, caption = (unit(torch.randn(60, 384, generator=draw)) for _ in range(2))
    image = unit(caption + 0.05 * torch.randn(60, 384, generator=draw))
    subject = [f"subject {i % 2}" for i in range(60)]
    return setup.Vectors(image, name, caption, captions, subject, [i // 2 for i in range(60)])


@pytest.fixture
def small(monkeypatch, concepts):
    def clear():
        for each in (setup.parts, setup.vocabulary, setup.tokenizer, close.words):
            each.cache_clear()

    clear()
    monkeypatch.setattr(setup, "vectors", lambda: concepts)
    monkeypatch.setitem(setup.LANGUAGE, "hidden_size", 16)
    monkeypatch.setitem(close.CONFIG["words"], "steps", 1)
    monkeypatch.setitem(close.CONFIG["training"], "steps", 1)
    monkeypatch.setitem(close.CONFIG, "sweep", [0.25, 10.0])
    monkeypatch.setitem(close.CONFIG, "penalties", [1e-3])
    monkeypatch.setitem(close.CONFIG, "classifier", {"steps": 2})
    yield
    clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = close.run(0)
    for claim in close.reproduction.claims:
        for arm in (claim.method, claim.baseline, claim.floor or claim.method):
            assert math.isfinite(float(arms[arm][claim.metric])), (claim.text, arm)
    assert set(arms["space"]) >= {"paired cosine", "text cosine", "centroid distance"}
    half = (arms[close.PLAIN][close.WRITTEN].values + arms[close.PICTURES][close.WRITTEN].values) / 2
    assert (arms[close.HALF][close.WRITTEN].values == half).all()


def test_variants_of_a_thing_are_on_one_side(small):
    sides = setup.parts(0)
    things = [set(side.thing) for side in sides.values()]
    assert sum(map(len, things)) == len(set.union(*things)) == 30
    assert [len(side.captions) for side in sides.values()] == [36, 8, 16]
    assert setup.parts(1)["test"].thing != sides["test"].thing
    few = setup.of_large_subjects(sides["test"], sides["train"].take(range(9)))
    assert len(few.captions) == 0
    assert len(setup.of_large_subjects(sides["test"], sides["train"]).captions) == 16


def test_a_thing_of_very_many_variants_is_on_no_side(small, monkeypatch, concepts):
    many = setup.DATA["most_of_a_thing"] + 1
    thing = [0] * many + list(range(1, 61 - many))
    monkeypatch.setattr(setup, "vectors", lambda: replace(concepts, thing=thing))
    setup.parts.cache_clear()
    assert sorted(thing for side in setup.parts(0).values() for thing in side.thing) == list(range(1, 61 - many))


def test_words_that_enough_captions_have_are_written(small):
    train, words = setup.parts(0)["train"], setup.vocabulary(0)
    having = [sum(word in caption.split() for caption in train.captions) for word in words]
    assert {"number", "thing", "tag"} <= set(words)
    assert not any(word.startswith("rare") for word in words)
    assert min(having) >= 3
    assert having == sorted(having, reverse=True)
    ids = setup.tokens(0, ["rare3 tag number", "rare3"])["input_ids"]
    assert setup.tokenizer(0).batch_decode(ids, skip_special_tokens=True) == ["tag number", ""]


def test_words_begin_where_the_image_text_model_has_them(small):
    from nearfar.embedding import embed_texts

    words = setup.vocabulary(0)
    own = setup.words_alone(0).lm.get_input_embeddings().weight[len(setup.SPECIAL) :].detach()
    theirs = embed_texts(setup.pair(), words, progress=False)
    theirs = torch.nn.functional.normalize(theirs - theirs.mean(0), dim=1)
    cosine = torch.nn.functional.normalize(own, dim=1)
    assert len(words) < 16  # all directions are kept
    torch.testing.assert_close(cosine @ cosine.T, theirs @ theirs.T, atol=1e-5, rtol=0)


def test_what_is_written_belongs_to_the_vector(small):
    train = setup.parts(0)["train"]
    [batch] = WrittenBatches(train, 1, 36, 0)
    texts = setup.tokenizer(0).batch_decode(batch["targets"]["input_ids"], skip_special_tokens=True)
    rows, known = batch["index"].tolist(), set(setup.vocabulary(0))
    assert sorted(rows) == list(range(36)) != rows
    assert texts == [" ".join(word for word in train.captions[row].split() if word in known) for row in rows]
    assert torch.equal(batch["stand_in"], train.caption[rows])
    [pictured] = WrittenBatches(train, 1, 36, 0, pictures=True)
    assert torch.equal(pictured["index"], batch["index"])
    assert torch.equal(pictured["targets"]["input_ids"], batch["targets"]["input_ids"])
    assert torch.equal(pictured["stand_in"], train.image[rows])


def test_words_are_compared_with_the_caption(small):
    class Says:
        def caption(self, rows, max_tokens):
            return ["number tag"] * len(rows)

    side = setup.parts(0)["test"].take(range(4))
    scores = close.written(Says(), side.image, side)
    assert scores.values.tolist() == pytest.approx(
        [2 / (2 + len(text.split())) if {"number", "tag"} & set(text.split()) else 0 for text in side.captions]
    )
    assert scores.group.tolist() == side.thing


def test_amounts_of_noise_are_the_paper_s_at_another_width(small):
    arms = close.writers(setup.parts(0)["train"])
    sizes = {arm: adapter.noise * 384**0.5 for arm, adapter in arms.items()}
    paper = pytest.approx(0.12 * 768**0.5)
    assert [sizes[arm] for arm in (close.PLAIN, close.NOISE, close.LINEAR)] == [0, paper, paper]
    assert [sizes[arm] for arm in (close.SHIFT, close.PICTURES)] == [0, 0]


def test_adapters_are_fitted_by_pairs_from_everywhere(small, monkeypatch):
    monkeypatch.setitem(close.CONFIG, "fitted on", 10)
    rows = torch.arange(100.0)
    texts, images = close.pairs(rows, -rows)
    assert torch.equal(texts, -images)
    assert len(set(texts.tolist())) == 10
    assert texts.max() >= 50
